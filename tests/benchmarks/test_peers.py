"""What the benchmarks compare with computes the same: else a ratio would say nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from measuring import exponent, ratio, turns
from numpy_loop import Loop, cwa, subset_of
from training import first_reached

from jaxmec.agents import DSAC, Spec, Transition
from jaxmec.envs.presets import PRESETS


def test_the_call_that_compiles_is_not_timed_and_all_take_turns():
    order, ticks = [], iter(range(100))
    seconds = turns([lambda: order.append("a"), lambda: order.append("b")], 2, lambda: next(ticks))
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert seconds == [[1, 1], [1, 1]]


def test_a_ratio_is_taken_within_repetitions():
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0
    assert exponent([2, 8, 32], [3 * b**1.5 for b in (2, 8, 32)]) == pytest.approx(1.5)


def test_the_first_point_that_reaches_a_target():
    points = [
        {"seconds": s, "env_steps": s, "evaluation": {"return": [value]}}
        for s, value in ((1, None), (2, 10.0), (3, 30.0), (4, 40.0))
    ]
    assert first_reached(points, "return", 30.0, at_most=False)["seconds"] == 3
    assert first_reached(points, "return", 10.0, at_most=True)["seconds"] == 2
    assert first_reached(points, "return", 50.0, at_most=False)["seconds"] is None


@pytest.mark.parametrize("preset", ["amcoedge", "smcoedge", "lad-ts"])
def test_the_numpy_loop_plays_the_system_model(preset):
    setting = dataclasses.replace(PRESETS[preset], slots=3, positions=6)
    loop = Loop(setting, seed=1)
    size, arrives = loop.draw()
    actions, tasks, slots, choices = [], [], [], np.random.default_rng(2)

    def policy(observation, origin):
        many = 2**loop.servers - 1 if loop.multi else loop.servers
        actions.append(int(choices.integers(many)))
        return actions[-1]

    found = loop.episode(policy, (size, arrives))
    for slot, origin, n in np.argwhere(arrives):
        d = size[slot, origin, n]
        work = loop.density[n] * d + loop.fixed[n]
        slots.append(int(slot))
        tasks.append(oracle.Task(int(origin), d, work, loop.result[n]))
    masks = []
    for action in actions:
        mask = np.zeros(loop.servers, bool)
        mask[subset_of(action, loop.servers) if loop.multi else action] = True
        masks.append(mask)
    network = oracle.Network(
        loop.capacity,
        loop.rate,
        slot_length=setting.slot_length,
        uplink_contention=setting.uplink_contention,
        uplink_cap=loop.cap,
        max_wait=loop.max_wait,
    )
    expected = [r.outcome.makespan for r in oracle.play(network, slots, tasks, masks)]
    assert len(found) > 20
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_its_fractions_are_those_of_cwa():
    rng = np.random.default_rng(0)
    for n in range(1, 6):
        wait, serve = rng.uniform(0, 2, n), rng.uniform(0.5, 2, n)
        expected = oracle.cwa(wait, serve, np.ones(n, bool))
        np.testing.assert_allclose(cwa(wait, serve), expected, atol=1e-12)


def test_the_pytorch_d2sac_makes_the_update_that_ours_makes():
    torch = pytest.importorskip("torch")
    from torch_d2sac import D2SAC

    states, actions, batch, hidden = 7, 4, 16, (9, 8)
    agent = DSAC.published(hidden=hidden, activation="mish", denoising_steps=3)
    learner = agent.init(jax.random.key(0), Spec(states, actions))
    peer = D2SAC(states, actions, hidden, 3, "mish", discount=agent.discount)

    def give(layers, module):
        linear = [layer for layer in module if isinstance(layer, torch.nn.Linear)]
        for i, layer in enumerate(linear):
            kernel, bias = (np.array(layers[f"layers_{i}"][name]) for name in ("kernel", "bias"))
            layer.weight.data, layer.bias.data = torch.tensor(kernel.T), torch.tensor(bias)

    def critic(learner, number):
        # The copies are stacked in the module that flax made of them.
        (stacked,) = learner.critics["params"].values()
        return jax.tree.map(lambda leaf: leaf[number], stacked)

    give(learner.actor["params"], peer.actor.network)
    for number in range(2):
        give(critic(learner, number), peer.critics[number])
        give(critic(learner, number), peer.targets[number])

    rng = np.random.default_rng(0)
    data = Transition(
        rng.random((batch, states), np.float32),
        rng.integers(0, actions, batch, np.int32),
        rng.random(batch, np.float32),
        rng.random((batch, states), np.float32),
        rng.random(batch) < 0.3,
    )
    key = jax.random.key(3)
    both = np.stack([data.next_observation, data.observation])
    drawn = agent.draw(learner.latent, both, actions, key)
    noise = [np.array(drawn[:, i]) for i in range(2)]
    updated, metrics = jax.jit(agent.update)(learner, jax.tree.map(jnp.asarray, data), key)
    inputs = [torch.from_numpy(value) for value in data[:5]]
    inputs[1] = inputs[1].long()
    theirs = peer.update(*inputs, noise=tuple(torch.from_numpy(n) for n in noise))
    for name, value in theirs.items():
        assert value == pytest.approx(float(metrics[name]), rel=1e-4), name
    expected = updated.actor["params"]["layers_0"]["kernel"]
    np.testing.assert_allclose(peer.actor.network[0].weight.detach().T, expected, atol=2e-5)
    expected = critic(updated, 1)["layers_1"]["kernel"]
    np.testing.assert_allclose(peer.critics[1][2].weight.detach().T, expected, atol=2e-5)
    assert float(peer.log_temperature.detach()) == pytest.approx(
        float(updated.log_temperature), rel=1e-5
    )
