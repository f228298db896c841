"""Frozen dataclasses as pytrees: checked when a person builds one, never when JAX does."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxmec.struct import is_concrete, pytree, static


@pytree
class Thing:
    number: Any
    size: int = static(default=3)

    def __post_init__(self) -> None:
        if is_concrete(self.number) and not jnp.all(jnp.asarray(self.number) > 0):
            raise ValueError(f"number must be positive, got {self.number}")


def test_a_person_is_checked_and_jax_is_not():
    with pytest.raises(ValueError, match="positive"):
        Thing(-1.0)
    thing = Thing(2.0)
    with pytest.raises(ValueError, match="positive"):
        thing.replace(number=-1.0)
    assert jax.tree.map(lambda x: -x, thing).number == -2.0
    assert jax.tree.map(lambda x: None, thing).number is None


def test_numbers_are_leaves_and_sizes_are_structure():
    assert jax.tree.leaves(Thing(2.0)) == [2.0]
    assert jax.tree.structure(Thing(1.0)) == jax.tree.structure(Thing(2.0))
    assert jax.tree.structure(Thing(1.0)) != jax.tree.structure(Thing(1.0, size=4))
    traced = []

    @jax.jit
    def double(thing):
        traced.append(thing.size)
        return thing.number * 2

    for thing in (Thing(1.0), Thing(2.0), Thing(1.0, size=4)):
        double(thing)
    assert traced == [3, 4]


def test_it_is_frozen_maps_and_vmaps():
    thing = Thing(jnp.arange(1.0, 4.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        thing.size = 5
    assert jax.vmap(lambda t: t.number * t.size)(thing).tolist() == [3.0, 6.0, 9.0]
    path, _ = jax.tree_util.tree_leaves_with_path(thing)[0]
    assert jax.tree_util.keystr(path) == ".number"


def test_an_unknown_field_is_named():
    with pytest.raises(TypeError, match="no field colour; its fields are number, size"):
        Thing(1.0).replace(colour=2)
