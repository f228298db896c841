"""Frozen dataclasses that are JAX pytrees.

The difference from ``flax.struct`` is when the checks of ``__post_init__`` run: when a
person builds the object, and never when JAX rebuilds it. JAX rebuilds a pytree with
whatever leaves it likes (tracers, axis numbers, ``None``, sentinels), and a check of
values has no business there.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

import jax
from numpy.typing import ArrayLike

Tree = TypeVar("Tree")

_STATIC = "jaxmec_static"

if TYPE_CHECKING:

    class Leaf:
        """A field that takes numbers of any kind and is read as an array."""

        def __get__(self, owner: object, kind: type | None = None) -> jax.Array: ...

        def __set__(self, owner: object, value: ArrayLike) -> None: ...

else:
    Leaf = jax.Array


Scalar = jax.Array | float  # [] a number of JAX's, or of Python's


def leaf(*, default: ArrayLike) -> Any:
    """Declare a :class:`Leaf` with a default."""
    return dataclasses.field(default=default)


def static(**kwargs: Any) -> Any:
    """Declare a field that is part of the tree's structure: hashable, never traced."""
    return dataclasses.field(metadata={_STATIC: True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, leaf, dataclasses.field))
def pytree(cls: type[Tree]) -> type[Tree]:
    """Make ``cls`` a frozen dataclass whose fields are pytree children.

    Fields declared with :func:`static` are auxiliary data: they belong to the tree's
    structure and a change of one retraces a jitted function. The class also gets
    ``replace(**changes)``, which is :func:`replace`.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cast("Any", cls))
    children = tuple(f.name for f in fields if not f.metadata.get(_STATIC))
    auxiliary = tuple(f.name for f in fields if f.metadata.get(_STATIC))

    def flatten(obj: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return (
            tuple(getattr(obj, name) for name in children),
            tuple(getattr(obj, name) for name in auxiliary),
        )

    def flatten_with_keys(obj: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        values, aux = flatten(obj)
        keys = tuple(jax.tree_util.GetAttrKey(name) for name in children)
        return tuple(zip(keys, values, strict=True)), aux

    def unflatten(aux: tuple[Any, ...], values: Any) -> Any:
        obj = object.__new__(cls)
        for name, value in zip(children, values, strict=True):
            object.__setattr__(obj, name, value)
        for name, value in zip(auxiliary, aux, strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    type.__setattr__(cls, "replace", replace)
    return cls


def replace(tree: Tree, /, **changes: Any) -> Tree:
    """A copy with some fields changed, checked like a new object.

    Raises:
        TypeError: a field that it does not have.
    """
    names = [field.name for field in dataclasses.fields(cast("Any", tree))]
    if unknown := sorted(set(changes) - set(names)):
        raise TypeError(
            f"{type(tree).__name__} has no field {', '.join(unknown)}; "
            f"its fields are {', '.join(names)}"
        )
    return dataclasses.replace(cast("Any", tree), **changes)


def is_concrete(*values: Any) -> bool:
    """Whether all values are known now, so that a check of them can raise."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))
