"""The diffusion actor against the model's figures and a float64 loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.deploy import jaxpr
from jaxmec.networks.chain import (
    CLIPS,
    PREDICTIONS,
    SCHEDULES,
    DiffusionActor,
    clip_prediction,
    noise_schedule,
    reverse_chain,
    step_embedding,
)

A, S = 4, 3


def numpy_chain(denoise, noise, beta, *, predict, clip, bound):
    """The model's equations, k counting down from K, in float64."""
    steps = len(beta)
    alpha = 1 - beta
    alpha_bar = [1.0]
    for a in alpha:
        alpha_bar.append(alpha_bar[-1] * a)
    x = noise[0]
    for row, k in enumerate(range(steps, 0, -1)):
        now, before = alpha_bar[k], alpha_bar[k - 1]
        x0 = denoise(x, k)
        if predict == "noise":
            x0 = x / np.sqrt(now) - np.sqrt(1 / now - 1) * x0
        if clip == "soft":
            x0 = x0 / np.sqrt(1 + (x0 / bound) ** 2)
        if clip == "hard":
            x0 = np.clip(x0, -bound, bound)
        b, a = beta[k - 1], alpha[k - 1]
        mean = b * np.sqrt(before) / (1 - now) * x0 + (1 - before) * np.sqrt(a) / (1 - now) * x
        if k > 1:
            mean = mean + np.sqrt(b * (1 - before) / (1 - now)) * noise[row + 1]
        x = mean
    return x


def actor_and_inputs(dtype=jnp.float64, batch=(6,), **fields):
    """An actor, parameters, states [6, S] and noise [K, 6, A], all random and of order 1."""
    actor = DiffusionActor(num_actions=A, hidden=(8, 9), activation="tanh", **fields)

    def draw():
        params = actor.init(jax.random.key(0), S)
        params = jax.tree.map(lambda p: (p + 0.1).astype(dtype), params)  # no bias is zero
        state = jax.random.normal(jax.random.key(1), (*batch, S), dtype)
        return params, state, actor.sample_noise(jax.random.key(2), *batch).astype(dtype)

    return actor, *jax.jit(draw)()


def numpy_network(actor, params, state):
    """The plain MLP on [x, embedding, s] in NumPy, from the actor's parameters."""
    layers = [params["params"][f"layers_{i}"] for i in range(len(actor.hidden) + 1)]
    layers = [(np.asarray(layer["kernel"]), np.asarray(layer["bias"])) for layer in layers]
    frequency = 10000.0 ** -(np.arange(actor.embedding_size // 2) / (actor.embedding_size // 2 - 1))

    def denoise(x, k):
        embedding = np.concatenate([np.sin(k * frequency), np.cos(k * frequency)])
        y = np.concatenate([x, np.tile(embedding, (*x.shape[:-1], 1)), np.asarray(state)], -1)
        for kernel, bias in layers[:-1]:
            y = np.tanh(y @ kernel + bias)
        return y @ layers[-1][0] + layers[-1][1]

    return denoise


def test_vp_schedule_has_the_figures_of_the_model():
    schedule = noise_schedule("vp", 5)
    np.testing.assert_allclose(schedule.beta, [0.1959, 0.4588, 0.6358, 0.7549, 0.8350], atol=5e-5)
    np.testing.assert_allclose(
        schedule.alpha_bar, [0.80413, 0.43518, 0.15850, 0.03885, 0.00641], atol=5e-6
    )
    np.testing.assert_allclose(
        schedule.posterior_variance, [0, 0.1591, 0.4267, 0.6609, 0.8078], atol=5e-5
    )


def test_vp_amplifies_the_last_step_alike_whatever_the_number_of_steps():
    for steps in (1, 3, 5, 20):
        amplified = 1 / np.sqrt(noise_schedule("vp", steps).alpha_bar[-1])
        assert amplified == pytest.approx(12.5, abs=0.02)


def test_linear_and_cosine_have_their_published_figures():
    linear = noise_schedule("linear", 1000)
    assert linear.beta[0] == pytest.approx(1e-4)
    assert linear.beta[-1] == pytest.approx(0.02)
    np.testing.assert_allclose(np.diff(linear.beta), linear.beta[1] - linear.beta[0], rtol=1e-9)
    # Ho et al. 2020: next to nothing is left of the picture after 1000 steps.
    assert np.sqrt(linear.alpha_bar[-1]) == pytest.approx(0.00635, rel=0.01)

    cosine = noise_schedule("cosine", 1000)
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    halfway = np.cos(0.508 / 1.008 * np.pi / 2) ** 2
    assert cosine.alpha_bar[499] == pytest.approx(halfway / start, rel=1e-9)
    assert cosine.beta.max() == pytest.approx(0.999)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_every_schedule_is_one_of_noise(name, steps):
    schedule = noise_schedule(name, steps)
    for field in schedule:
        assert field.shape == (steps,)
        assert field.dtype == np.float64
    assert np.all((schedule.beta > 0) & (schedule.beta < 1))
    np.testing.assert_allclose(schedule.alpha_bar, np.cumprod(1 - schedule.beta), rtol=1e-12)
    assert schedule.posterior_variance[0] == 0
    assert np.all(schedule.posterior_variance[1:] > 0)
    assert np.all(schedule.posterior_variance < schedule.beta)


def test_wrong_schedule_is_refused():
    with pytest.raises(ValueError, match=r"schedule must be one of vp, linear, cosine, got 'vpp'"):
        noise_schedule("vpp", 5)
    with pytest.raises(ValueError, match=r"steps must be a whole number of at least 1, got 0"):
        noise_schedule("vp", 0)


def test_step_embedding_tells_steps_apart():
    embedding = step_embedding(20, 16)
    assert embedding.shape == (20, 16)
    np.testing.assert_allclose(embedding[2, 0], np.sin(3.0))
    np.testing.assert_allclose(embedding[2, 8 + 7], np.cos(3e-4))
    distance = np.linalg.norm(embedding[:, None] - embedding, axis=-1)
    assert np.min(distance + 10 * np.eye(20)) > 0.1


@pytest.mark.parametrize(
    ("name", "steps", "predict", "clip"),
    [
        *[("vp", k, predict, clip) for k in (1, 2, 5) for predict in PREDICTIONS for clip in CLIPS],
        ("linear", 4, "noise", "soft"),
        ("cosine", 4, "noise", "soft"),
        ("cosine", 8, "x0", "soft"),
    ],
)
def test_actor_equals_the_plain_network_in_a_numpy_loop(name, steps, predict, clip):
    with jax.enable_x64(True):
        actor, params, state, noise = actor_and_inputs(
            steps=steps, schedule=name, predict=predict, clip=clip, bound=2.0
        )
        logits = jax.jit(actor.logits)(params, state, noise)
        expected = numpy_chain(
            numpy_network(actor, params, state),
            np.asarray(noise),
            noise_schedule(name, steps).beta,
            predict=predict,
            clip=clip,
            bound=2.0,
        )
        assert logits.dtype == jnp.float64
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def test_float32_is_near_float64():
    actor, params, state, noise = actor_and_inputs(jnp.float32)
    logits = jax.jit(actor.logits)(params, state, noise)
    assert logits.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, jax.tree.map(np.asarray, (params, state, noise)))
        expected = jax.jit(actor.logits)(*wide)
    assert expected.dtype == jnp.float64
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_part_of_the_first_layer_that_does_not_change_is_computed_once():
    actor, params, state, noise = actor_and_inputs(jnp.float32, steps=5)
    program = jaxpr.trace(actor.logits, params, state, noise)
    products = [e for e in jaxpr.every(program) if e.primitive.name == "dot_general"]
    contracted = [e.invars[0].aval.shape[e.params["dimension_numbers"][0][0][0]] for e in products]
    assert contracted.count(S) == 1
    assert contracted.count(A) == 5


def test_one_example_equals_a_batch():
    actor, params, state, noise = actor_and_inputs(jnp.float32)
    logits = jax.jit(actor.logits)
    together = logits(params, state, noise)
    alone = jax.jit(jax.vmap(actor.logits, in_axes=(None, 0, 1)))(params, state, noise)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    single = logits(params, state[2], noise[:, 2])
    np.testing.assert_allclose(together[2], single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_last_step_returns_the_bounded_prediction_exactly(steps):
    said = jnp.array([0.3, -0.7, 2.0, 30.0])
    noise = jax.random.normal(jax.random.key(0), (steps, 4))
    x0 = reverse_chain(lambda x, k: said, noise, noise_schedule("vp", steps), bound=3.0)
    np.testing.assert_allclose(x0, said / jnp.sqrt(1 + (said / 3.0) ** 2), rtol=1e-6)


def test_soft_bound_has_a_gradient_where_the_hard_one_has_none():
    def slope(clip):
        return float(jax.grad(lambda x: clip_prediction(x, clip, 5.0))(8.0))

    assert slope("hard") == 0
    assert slope("soft") == pytest.approx((1 + (8 / 5) ** 2) ** -1.5, rel=1e-5)
    assert slope("none") == 1
    far = jnp.array([-1e6, 1e6])
    np.testing.assert_allclose(clip_prediction(far, "soft", 5.0), [-5, 5])
    np.testing.assert_allclose(clip_prediction(far, "hard", 5.0), [-5, 5])
    np.testing.assert_allclose(clip_prediction(far, "none", 5.0), far)
    assert clip_prediction(jnp.array(0.01), "soft", 5.0) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_gradient_passes_through_every_step(predict):
    """Each step's own shift of the output moves x_0: no step is cut off from the loss."""
    steps = 5
    schedule = noise_schedule("vp", steps)
    kernel = 0.5 * jax.random.normal(jax.random.key(0), (A, A))
    noise = jax.random.normal(jax.random.key(1), (steps, A))

    def loss(shift):
        def denoise(x, k):
            return jnp.tanh(x @ kernel) + shift[k - 1]

        return reverse_chain(denoise, noise, schedule, predict=predict)[0]

    # The chain rule, checked against differences of the loss itself.
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))(np.zeros(steps))
        shifts = 1e-6 * np.eye(steps)
        losses = jax.jit(jax.vmap(loss))(np.concatenate([shifts, -shifts]))
    difference = (losses[:steps] - losses[steps:]) / 2e-6
    np.testing.assert_allclose(gradient, difference, rtol=1e-4)
    assert np.all(np.abs(gradient) > 1e-5), gradient


def test_noise_moves_the_sample_and_not_the_greedy_logits():
    actor, params, state, noise = actor_and_inputs(jnp.float32)
    other = actor.sample_noise(jax.random.key(9), 6)
    assert noise.shape == (5, 6, A)
    logits = jax.jit(actor.logits)
    assert not np.allclose(logits(params, state, noise), logits(params, state, other))
    np.testing.assert_allclose(
        jax.jit(actor.greedy_logits)(params, state),
        logits(params, state, jnp.zeros_like(noise)),
        rtol=1e-6,
        atol=1e-6,
    )


def entropy_and_spread(actor):
    """Mean entropy of softmax(logits), nats, and the logits' deviation, at fresh parameters."""

    def draw(key):
        key_init, key_state, key_noise = jax.random.split(key, 3)
        params = actor.init(key_init, 6)
        state = jax.random.normal(key_state, (64, 6))
        return actor.logits(params, state, actor.sample_noise(key_noise, 64))

    logits = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 16))
    log_probability = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)
    return float(entropy.mean()), float(logits.std())


def test_published_actor_is_one_hot_at_first_and_ours_is_not():
    """docs/model.md: logits near 13 and an entropy of 0.15 of 1.61 nats, when not clipped."""
    published = DiffusionActor(num_actions=5, predict="noise", clip="none", activation="mish")
    entropy, spread = entropy_and_spread(published)
    assert spread == pytest.approx(13, abs=1.5)
    assert entropy == pytest.approx(0.15, abs=0.06)

    entropy, spread = entropy_and_spread(DiffusionActor(num_actions=5))
    assert spread < 0.5
    assert entropy > 0.98 * np.log(5)


def test_without_steps_the_logits_are_the_networks_own_bounded():
    actor, params, state, noise = actor_and_inputs(jnp.float32, steps=0, bound=0.2)
    assert noise.shape == (0, 6, A)
    said = numpy_network(actor, params, state)(np.zeros((6, A)), 1)
    logits = jax.jit(actor.greedy_logits)(params, state)
    np.testing.assert_allclose(logits, said / np.sqrt(1 + (said / 0.2) ** 2), rtol=1e-4, atol=1e-5)
