"""The jumps of a make-span where a server enters the set, as its gradient has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec.mec import EdgeNetwork, QueueState, Task
from jaxmec.mec.allocation import water_filling
from jaxmec.mec.offload import apply_split, entry_gradient

NETWORK = EdgeNetwork(capacity=[10.0, 20.0, 30.0], rate=[400.0, 450.0, 500.0])


def decide(offset, inflight, size, width):
    """The make-span of a task of station 0, whose waits are believed to be ``offset`` alone."""
    queues = QueueState(jnp.zeros(3), inflight, jnp.zeros(3))
    task = Task(jnp.asarray(0), size, 0.2 * size)
    serve = task.work / NETWORK.capacity + jnp.array([0.0, 1.0, 1.0]) * size / NETWORK.rate
    fraction = water_filling(offset, serve, jnp.ones(3, bool))
    outcome, _ = apply_split(NETWORK, queues, task, fraction, fraction > 0)
    fullest = jnp.argmax(fraction)
    margin = offset[fullest] + fraction[fullest] * serve[fullest] - offset
    return outcome, margin, entry_gradient(outcome, margin, width)


def test_the_value_is_zero_and_the_gradient_that_of_a_jump_by_hand():
    """Servers 0 and 1 take the task; server 2 stands outside, 0.6 s of true wait behind."""
    offset = jnp.array([0.0, 0.0, 0.1])
    inflight = jnp.array([0.0, 0.0, 18.0])
    outcome, margin, value = decide(offset, inflight, 4.0, 0.05)
    assert value == 0
    assert outcome.fraction[2] == 0 and margin[2] < 0
    slope = jax.grad(lambda m: entry_gradient(outcome, m, 0.05))(margin)
    sigmoid = 1 / (1 + np.exp(-float(margin[2]) / 0.05))
    jump = 0.6 - float(outcome.makespan)
    assert slope[2] == pytest.approx(jump * sigmoid * (1 - sigmoid) / 0.05, rel=1e-4)
    np.testing.assert_allclose(slope[:2], 0, atol=1e-7)  # nothing waits where they are


def test_a_server_that_is_alone_has_nobody_to_jump_over():
    offset = jnp.array([0.0, 9.0, 9.0])
    outcome, margin, _ = decide(offset, jnp.array([5.0, 0.0, 0.0]), 4.0, 0.05)
    assert outcome.fraction[0] == 1
    slope = jax.grad(lambda m: entry_gradient(outcome, m, 0.05))(margin)
    assert slope[0] == 0 and np.all(np.isfinite(slope))


def test_the_mean_gradient_is_the_gradient_of_the_mean():
    """Over random tasks and queues: with the jumps it agrees, without them it does not."""
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        size = jnp.asarray(random.uniform(2, 5, 100_000))
        inflight = jnp.asarray(random.uniform(0, 12, (100_000, 3)))

        def mean(shift, weight):
            def one(size, inflight):
                offset = jnp.array([0.0, 0.02, 0.0]) + jnp.array([0.0, 0.0, 1.0]) * shift
                outcome, _, jumps = decide(offset, inflight, size, 0.001)
                return outcome.makespan + weight * jumps

            return jnp.mean(jax.vmap(one)(size, inflight))

        mean_and_slope = jax.jit(jax.value_and_grad(mean), static_argnums=1)
        at = 0.04  # where server 2 is in the set for some sizes only
        value, with_jumps = mean_and_slope(at, 1.0)
        without = mean_and_slope(at, 0.0)[1]
        step = 1e-3
        difference = (mean_and_slope(at + step, 1.0)[0] - mean_and_slope(at - step, 1.0)[0]) / (
            2 * step
        )
    assert value == pytest.approx(float(mean(at, 0.0)), rel=1e-5)
    missed = float(difference) - float(without)
    assert missed < -0.1
    assert abs(float(difference) - float(with_jumps)) < 0.15 * abs(missed)


def test_an_environment_refuses_a_negative_weight():
    with pytest.raises(
        ValueError, match=r"entry_gradient must be a finite number of at least 0.*-1"
    ):
        jaxmec.make("MultiServerOffloading-v0", action="score", entry_gradient=-1.0)
