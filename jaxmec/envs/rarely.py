"""What few of many environments do in a step, computed for those alone.

Under ``vmap`` a choice between two values computes both for everybody. Where one of them is seldom
wanted and costs much, as drawing an episode is, this computes it for those that want it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmec.core.types import PyTree
from jaxmec.struct import Tree

PART = 32  # of the environments, those that are served at once; more take another turn


def rarely(fresh: Callable[..., Tree], wanted: PyTree, old: Tree, *given: PyTree) -> Tree:
    """``fresh(*given)`` where ``wanted`` [] bool, else ``old``; to be vmapped.

    No gradient goes through it.
    """

    @jax.custom_jvp
    def chosen(wanted: PyTree, old: Tree, given: PyTree) -> Tree:
        return one(wanted, old, given)

    @chosen.defjvp
    def _no_gradient(primals: PyTree, tangents: PyTree) -> PyTree:
        del tangents
        value = chosen(*primals)
        return value, jax.tree.map(_zero, value)

    @jax.custom_batching.custom_vmap
    def one(wanted: PyTree, old: Tree, given: PyTree) -> Tree:
        return jax.tree.map(lambda a, b: jnp.where(wanted, a, b), fresh(*given), old)

    @one.def_vmap
    def _many(size: int, batched: PyTree, wanted: PyTree, old: Tree, given: PyTree) -> PyTree:
        def all_of(tree: PyTree, has: PyTree) -> PyTree:
            return jax.tree.map(
                lambda x, b: x if b else jnp.broadcast_to(x, (size, *jnp.shape(x))), tree, has
            )

        wanted, old = all_of(wanted, batched[0]), all_of(old, batched[1])
        axes = jax.tree.map(lambda has: 0 if has else None, batched[2])
        few = max(1, size // PART)

        def serve(carry: tuple[PyTree, Tree]) -> tuple[PyTree, Tree]:
            left, values = carry
            (index,) = jnp.nonzero(left, size=few, fill_value=size)
            some = jax.tree.map(
                lambda x, has: x.at[index].get(mode="clip") if has else x, given, batched[2]
            )
            new = jax.vmap(lambda given: fresh(*given), in_axes=(axes,))(some)
            values = jax.tree.map(lambda x, y: x.at[index].set(y, mode="drop"), values, new)
            return left.at[index].set(False, mode="drop"), values

        _, values = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), serve, (wanted, old))
        return values, jax.tree.map(lambda _: True, values)

    return chosen(wanted, old, given)


def _zero(value: PyTree) -> PyTree:
    """The tangent of a value that does not change."""
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.zeros_like(value)
    return jnp.zeros(jnp.shape(value), jax.dtypes.float0)
