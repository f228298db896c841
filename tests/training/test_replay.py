"""The ring buffer against a list, its errors, its memory, and its seeds side by side."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.training.replay import ReplayBuffer

ITEM = {"x": jax.ShapeDtypeStruct((2,), jnp.float32), "flag": jax.ShapeDtypeStruct((), jnp.bool_)}


def items(numbers):
    numbers = jnp.asarray(numbers)
    return {
        "x": jnp.stack([numbers, -numbers], axis=-1).astype(jnp.float32),
        "flag": numbers % 2 == 0,
    }


def filled(buffer, writes):
    """The state after so many writes of the numbers 0, 1, 2, ..."""
    state = buffer.init(ITEM)
    for write in range(writes):
        start = write * buffer.num_added
        state = buffer.add(state, items(jnp.arange(start, start + buffer.num_added)))
    return state


@pytest.mark.parametrize("writes", [1, 3, 4, 5, 11])
def test_it_holds_the_newest_items_as_a_list_would(writes):
    buffer = ReplayBuffer(min_capacity=10, num_added=3)
    model = collections.deque(range(writes * 3), maxlen=12)
    state = filled(buffer, writes)
    assert buffer.capacity == 12
    assert int(state.size) == len(model)
    assert int(state.position) == writes * 3 % 12
    stored = np.asarray(state.items["x"]).reshape(12, 2)[: int(state.size)]
    flags = np.asarray(state.items["flag"]).reshape(12)[: len(model)]
    assert sorted(stored[:, 0]) == sorted(model)
    np.testing.assert_array_equal(stored[:, 1], -stored[:, 0])
    np.testing.assert_array_equal(flags, stored[:, 0] % 2 == 0)


@pytest.mark.parametrize("writes", [2, 4, 9])
def test_samples_are_uniform_over_what_is_stored(writes):
    buffer = ReplayBuffer(12, 3)
    state = filled(buffer, writes)
    draws = 40_000
    batch = buffer.sample(state, jax.random.key(0), (draws // 100, 100))
    assert batch["x"].shape == (400, 100, 2)
    assert batch["flag"].dtype == jnp.bool_
    values, counts = np.unique(np.asarray(batch["x"][..., 0]), return_counts=True)
    expected = np.arange(max(0, writes * 3 - 12), writes * 3)
    np.testing.assert_array_equal(values, expected)
    # A count is binomial; 5 standard deviations are exceeded once in a million.
    p = 1 / len(expected)
    np.testing.assert_allclose(counts, draws * p, atol=5 * np.sqrt(draws * p * (1 - p)))


def test_items_stay_whole():
    state = filled(ReplayBuffer(12, 3), 3)
    batch = ReplayBuffer(12, 3).sample(state, jax.random.key(1), (64,))
    np.testing.assert_array_equal(batch["x"][:, 1], -batch["x"][:, 0])
    np.testing.assert_array_equal(batch["flag"], batch["x"][:, 0] % 2 == 0)


def test_memory_is_that_of_the_arrays():
    buffer = ReplayBuffer(100, 16)
    arrays = jax.tree.leaves(buffer.init(ITEM).items)
    assert buffer.memory(ITEM) == sum(array.nbytes for array in arrays) == 112 * 9


def test_any_tree_of_arrays_is_an_item():
    buffer = ReplayBuffer(4, 2)
    item = (jnp.zeros((2, 3), jnp.int8), {"empty": ()}, jnp.zeros(()))
    state = buffer.add(
        buffer.init(item), (jnp.ones((2, 2, 3), jnp.int8), {"empty": ()}, jnp.ones(2))
    )
    batch = buffer.sample(state, jax.random.key(0), (5,))
    assert batch[0].shape == (5, 2, 3)
    assert batch[0].dtype == jnp.int8
    assert jnp.all(batch[2] == 1)


def test_seeds_side_by_side_are_what_they_are_alone():
    buffer = ReplayBuffer(6, 2)

    def fill_and_sample(seed):
        state = buffer.init(ITEM)
        for write in range(5):
            state = buffer.add(state, items(100 * seed + jnp.arange(2) + 2 * write))
        return state, buffer.sample(state, jax.random.fold_in(jax.random.key(0), seed), (7,))

    together = jax.vmap(fill_and_sample)(jnp.arange(3))
    for seed in range(3):
        alone = fill_and_sample(jnp.asarray(seed))
        jax.tree.map(lambda a, b, s=seed: np.testing.assert_array_equal(a[s], b), together, alone)


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
@pytest.mark.parametrize("field", ["min_capacity", "num_added"])
def test_sizes_must_be_positive_integers(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be .*, got {value!r}"):
        ReplayBuffer(**({"min_capacity": 4, "num_added": 2} | {field: value}))


def test_items_of_another_kind_are_refused():
    buffer = ReplayBuffer(4, 2)
    state = buffer.init(ITEM)
    good = items(jnp.arange(2))
    with pytest.raises(ValueError, match="structure"):
        buffer.add(state, {"x": good["x"]})
    with pytest.raises(ValueError, match=r"items\['x'\] is float32\[3, 2\].*float32\[2, 2\]"):
        buffer.add(state, good | {"x": jnp.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"items\['flag'\] is int32\[2\].*bool\[2\]"):
        buffer.add(state, good | {"flag": jnp.arange(2)})
    with pytest.raises(ValueError, match=r"holds \[2, 2\], not \[4, 2\]"):
        ReplayBuffer(8, 2).add(state, good)
    with pytest.raises(ValueError, match=r"shape\[0\] must be"):
        buffer.sample(state, jax.random.key(0), (0,))
