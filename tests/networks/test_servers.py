"""The actor shared over servers: renumbering, size, cost, and its chain against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.deploy import jaxpr
from jaxmec.networks.chain import noise_schedule, reverse_chain, step_embedding
from jaxmec.networks.servers import EquivariantDiffusionActor

B = 4
LAYOUT = (("size", 1), ("origin", B), ("progress", 1), ("wait", B), ("serve", B))
S = sum(length for _, length in LAYOUT)


def make(num_servers=B, **fields):
    layout = tuple((name, num_servers if n == B else 1) for name, n in LAYOUT)
    return EquivariantDiffusionActor(num_servers, layout, **{"hidden": (8, 9), **fields})


def drawn(actor, batch=(6,), dtype=jnp.float32):
    """Parameters, observations and noise, all random and of order 1."""
    size = sum(length for _, length in actor.layout)

    random = np.random.default_rng(0)

    def draw(shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    shapes = jax.eval_shape(lambda key: actor.init(key, size), jax.random.key(0))
    params = jax.tree.map(lambda p: 0.5 * draw(p.shape), shapes)  # no bias is zero
    return params, draw((*batch, size)), draw((actor.steps, *batch, actor.num_actions))


def renumbered(actor, vector, order):
    """An observation or action in which server i is what server order[i] was."""
    b = actor.num_servers
    lengths = [length for _, length in actor.layout]
    if vector.shape[-1] != sum(lengths):
        lengths = [b] * actor.outputs
    parts = np.split(np.asarray(vector), np.cumsum(lengths)[:-1], axis=-1)
    return np.concatenate([p[..., order] if p.shape[-1] == b else p for p in parts], axis=-1)


@pytest.mark.parametrize("fields", [{}, {"steps": 0}, {"predict": "noise"}, {"outputs": 1}])
def test_renumbering_the_servers_renumbers_the_scores(fields):
    actor = make(**fields)
    params, state, noise = drawn(actor)
    order = np.array([2, 0, 3, 1])
    logits = jax.jit(actor.logits)
    scores = logits(params, state, noise)
    moved = logits(params, renumbered(actor, state, order), renumbered(actor, noise, order))
    assert scores.shape == (6, B * actor.outputs)
    np.testing.assert_allclose(moved, renumbered(actor, scores, order), rtol=1e-5, atol=1e-5)
    assert np.ptp(np.asarray(scores)[:, :B], axis=-1).min() > 1e-4  # servers do differ


def test_each_server_hears_of_all_the_others():
    actor = make(steps=2)
    params, state, noise = drawn(actor, batch=())
    slopes = jax.jit(jax.jacobian(actor.logits, argnums=1))(params, state, noise)
    serve = np.abs(np.asarray(slopes))[:, -B:]
    assert np.all(serve > 1e-6)


def test_number_of_parameters_does_not_depend_on_the_number_of_servers():
    def shapes(actor):
        return jax.tree.map(jnp.shape, drawn(actor)[0])

    assert shapes(make(4)) == shapes(make(33))


def test_parameters_of_one_network_serve_another():
    params, *_ = drawn(make(4))
    larger = make(9)
    _, state, noise = drawn(larger)
    assert jax.jit(larger.logits)(params, state, noise).shape == (6, 18)


def test_cost_is_linear_in_the_number_of_servers():
    def operations(num_servers):
        """Multiplications, and elements that other operations put out, in the whole program."""
        actor = make(num_servers)
        total = 0
        for e in jaxpr.every(jaxpr.trace(actor.logits, *drawn(actor, batch=()))):
            total += e.outvars[0].aval.size
            if e.primitive.name == "dot_general":
                ((contracted, _), _) = e.params["dimension_numbers"]
                total += e.outvars[0].aval.size * e.invars[0].aval.shape[contracted[0]]
        return total

    first, second, third = (operations(b) for b in (16, 32, 48))
    assert third - second == second - first
    assert first < second < 2 * first


@pytest.mark.parametrize("steps", [1, 3])
def test_chain_is_the_plain_network_at_every_step(steps):
    """The whole network called anew at each step, without the shared first layer."""
    with jax.enable_x64(True):
        actor = make(steps=steps, bound=2.0)
        params, state, noise = drawn(actor, dtype=jnp.float64)
        parts = np.split(np.asarray(state), np.cumsum([n for _, n in LAYOUT])[:-1], axis=-1)
        size, origin, progress, wait, serve = parts
        servers = np.stack([origin, wait, serve], axis=-1)

        def denoise(x, k):
            row = np.broadcast_to(step_embedding(steps, 16)[k - 1], (6, 16))
            shared = np.concatenate([size, progress, row], axis=-1)
            noisy = jnp.stack([x[:, :B], x[:, B:]], axis=-1)
            output = actor.network.apply(params, servers, shared, noisy)
            return jnp.concatenate([output[..., 0], output[..., 1]], axis=-1)

        expected = reverse_chain(denoise, noise, noise_schedule("vp", steps), bound=2.0)
        np.testing.assert_allclose(
            jax.jit(actor.logits)(params, state, noise), expected, rtol=1e-9, atol=1e-9
        )


def test_without_steps_there_is_no_noise_and_the_scores_are_bounded():
    actor = make(steps=0, bound=0.2)
    params, state, noise = drawn(actor)
    assert noise.shape == (0, 6, 2 * B)
    scores = jax.jit(actor.greedy_logits)(params, 100 * state)
    assert 0.19 < np.abs(scores).max() < 0.2 + 1e-6


def test_fresh_scores_are_of_order_one_and_the_noise_is_normal():
    actor = make(steps=5, hidden=(32, 32))
    state = drawn(actor, batch=(64,))[1]

    @jax.jit
    def draw(key):
        return actor.init(key, S), actor.sample_noise(key, 64)

    params, noise = draw(jax.random.key(0))
    scores = jax.jit(actor.logits)(params, state, noise)
    assert 0.02 < float(jnp.std(scores)) < 1
    assert noise.shape == (5, 64, 2 * B)
    assert float(jnp.std(noise)) == pytest.approx(1, abs=0.05)


def test_a_single_example_is_one_of_a_batch():
    actor = make()
    params, state, noise = drawn(actor)
    logits = jax.jit(actor.logits)
    together = logits(params, state, noise)
    np.testing.assert_allclose(
        together[2], logits(params, state[2], noise[:, 2]), rtol=1e-5, atol=1e-6
    )


def test_layouts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"layout must have a part of length 4.*got \(\)"):
        EquivariantDiffusionActor(4, ())
    with pytest.raises(ValueError, match="observation_size must be 14, got 13"):
        make().init(jax.random.key(0), S - 1)
