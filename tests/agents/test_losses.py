"""The agents' equations against float64 NumPy, one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents import losses

M, A = 7, 5


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def test_chosen_takes_each_rows_action(numbers):
    values = numbers.normal(size=(M, A))
    action = numbers.integers(0, A, M)
    expected = np.array([values[m, action[m]] for m in range(M)])
    np.testing.assert_allclose(losses.chosen(jnp.asarray(values), action), expected, rtol=1e-6)
    twins = np.stack([values, 2 * values])
    both = losses.chosen(jnp.asarray(twins), action)
    np.testing.assert_allclose(both, np.stack([expected, 2 * expected]), rtol=1e-6)


def test_td_target_masks_terminations_alone(numbers):
    reward, value = numbers.normal(size=M), numbers.normal(size=M)
    terminated = np.arange(M) % 2 == 0
    target = losses.td_target(reward, terminated, value, 0.9)
    expected = [reward[m] + (0 if terminated[m] else 0.9 * value[m]) for m in range(M)]
    np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_td_target_of_a_termination_ignores_what_follows():
    target = losses.td_target(jnp.ones(1), jnp.array([True]), jnp.array([jnp.inf]), 0.9)
    np.testing.assert_array_equal(target, [1.0])


def test_double_q_chooses_by_one_and_judges_by_the_other(numbers):
    target, online = numbers.normal(size=(2, M, A))
    value = losses.double_q_value(jnp.asarray(target), jnp.asarray(online))
    expected = [target[m, np.argmax(online[m])] for m in range(M)]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    single = losses.double_q_value(jnp.asarray(target), jnp.asarray(target))
    np.testing.assert_allclose(single, target.max(axis=1), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_soft_value_equals_numpy(numbers, temperature):
    q = numbers.normal(size=(2, M, A))
    log_probability = log_softmax(3 * numbers.normal(size=(M, A)))
    value = losses.soft_value(jnp.asarray(log_probability), jnp.asarray(q), temperature)
    expected = np.zeros(M)
    for m in range(M):
        for a in range(A):
            worst = min(q[0, m, a], q[1, m, a])
            surprise = temperature * log_probability[m, a]
            expected[m] += np.exp(log_probability[m, a]) * (worst - surprise)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_soft_value_is_highest_for_the_boltzmann_policy(numbers):
    """Its maximum over policies is α log Σ exp(Q/α), at π ∝ exp(Q/α) (Haarnoja et al. 2018)."""
    q, temperature = numbers.normal(size=(1, M, A)), 0.4
    best = losses.soft_value(log_softmax(q[0] / temperature), jnp.asarray(q), temperature)
    expected = temperature * np.log(np.sum(np.exp(q[0] / temperature), axis=-1))
    np.testing.assert_allclose(best, expected, rtol=1e-5)
    other = log_softmax(q[0] / temperature + 0.1 * numbers.normal(size=(M, A)))
    assert np.all(losses.soft_value(other, jnp.asarray(q), temperature) < best)


def test_entropy_in_nats():
    uniform = jnp.full((1, A), -np.log(A))
    sure = jnp.array([[0.0, -1e9, -1e9]])
    np.testing.assert_allclose(losses.entropy(uniform), [np.log(A)], rtol=1e-6)
    np.testing.assert_allclose(losses.entropy(sure), [0.0], atol=1e-6)


def test_errors_equal_numpy():
    prediction, target = np.array([0.0, 0.5, -3.0, 3.0]), np.array([0.0, 0.0, 0.0, 1.0])
    squared = losses.squared_error(jnp.asarray(prediction), target)
    np.testing.assert_allclose(squared, [0, 0.125, 4.5, 2.0], rtol=1e-6)
    huber = losses.huber_error(jnp.asarray(prediction), target)
    np.testing.assert_allclose(huber, [0, 0.125, 2.5, 1.5], rtol=1e-6)
    slope = jax.vmap(jax.grad(losses.huber_error))(jnp.asarray(prediction), jnp.asarray(target))
    np.testing.assert_allclose(slope, [0, 0.5, -1, 1], rtol=1e-6)


def test_temperature_rises_where_the_entropy_is_too_low():
    slope = jax.grad(losses.temperature_loss)
    assert slope(-1.0, 0.2, 0.5) < 0  # descent raises log α
    assert slope(-1.0, 0.8, 0.5) > 0
    assert slope(-9.0, 0.2, 0.5) == slope(3.0, 0.2, 0.5)  # however small α has become
