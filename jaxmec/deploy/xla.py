"""A bundle opened with JAX, on whatever device this machine has.

The form "jax" rebuilds the agent and its environment and restores the parameters; the form
"stablehlo" runs the exported program and needs neither the agent's class nor flax. Both decide
alike. A program is looked through before it runs: it is compiled to native code, so only
arithmetic is let in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jax.interpreters import mlir

from jaxmec.core import files
from jaxmec.core.bundle import (
    POLICY,
    STABLEHLO,
    Bundle,
    BundleDamaged,
    BundleIncompatible,
    PathLike,
    open_bundle,
)
from jaxmec.core.naming import look_up
from jaxmec.deploy.decision import decision_of
from jaxmec.deploy.runtime import Scheduler, refuse_old
from jaxmec.experiment import Policy, read_policy
from jaxmec.traces import TraceError

XLA_FORMS = ("jax", "stablehlo")

# What a program may consist of: arithmetic on arrays, loops and branches of it. All else, such as
# a call of native code (a host callback, LAPACK) or a file or network, is refused.
OPERATIONS = frozenset(
    ["builtin.module", "func.call", "func.func", "func.return"]
    + [
        f"stablehlo.{name}"
        for name in (
            "abs add and atan2 bitcast_convert broadcast broadcast_in_dim case cbrt ceil clamp "
            "compare composite concatenate constant convert convolution cosine "
            "count_leading_zeros divide dot_general dynamic_broadcast_in_dim dynamic_conv "
            "dynamic_gather dynamic_iota dynamic_pad dynamic_reshape dynamic_slice "
            "dynamic_update_slice exponential exponential_minus_one floor gather "
            "get_dimension_size if iota is_finite log log_plus_one logistic map maximum minimum "
            "multiply negate not optimization_barrier or pad popcnt power real_dynamic_slice "
            "reduce reduce_precision reduce_window remainder reshape return reverse "
            "round_nearest_afz round_nearest_even rsqrt scatter select shift_left "
            "shift_right_arithmetic shift_right_logical sign sine slice sort sqrt subtract tan "
            "tanh transpose while xor"
        ).split()
    ]
)
# JAX's own check of the batch's size, which is evaluated as the program is compiled.
CUSTOM_CALLS = ("shape_assertion",)
COMPOSITES = "chlo."  # functions that JAX has names for, such as erf, with their definition


def load(path: PathLike, *, form: str = "jax", digest: str | None = None) -> Scheduler:
    """The scheduler of the bundle at ``path``, by its checkpoint or its StableHLO program.

    Args:
        path: the bundle.
        form: "jax" or "stablehlo".
        digest: what the bundle's digest has to be, as the export printed it.

    Raises:
        jaxmec.core.bundle.BundleError: nothing there, damaged, or of a newer version.
        ValueError: an unknown form.
    """
    look_up("form", form, dict.fromkeys(XLA_FORMS))

    def read(place: Path) -> tuple[Bundle, Any]:
        bundle = open_bundle(place, digest=digest)
        return bundle, (
            read_policy(bundle.path / POLICY)[0] if form == "jax" else bundle.read(STABLEHLO)
        )

    bundle, content = files.read_settled(path, read)
    refuse_old(bundle)
    try:
        function = decisions_of(content) if form == "jax" else jax.jit(program(content))
    except TraceError as error:
        raise BundleIncompatible(
            f'the form "jax" makes the environment that the policy was trained in: {error}; '
            'form="stablehlo" needs none of it'
        ) from error
    except ValueError as error:
        raise BundleDamaged(f"damaged bundle: {bundle.path / STABLEHLO}: {error}") from error

    def decide(rows: np.ndarray) -> np.ndarray:
        return np.asarray(function(rows))

    return Scheduler(bundle, decide, form).checked()


def program(content: bytes) -> Callable[[Any], Any]:
    """The function that an exported program computes.

    Raises:
        ValueError: it is no exported program, or does more than arithmetic.
    """
    try:
        exported = jax_export.deserialize(bytearray(content))
        strange = _strange_call(exported)
    except Exception as error:  # whatever a reader of bytes makes of foreign ones
        raise ValueError(f"not an exported program: {error!r}") from error
    if strange:
        raise ValueError(f"not arithmetic alone: the program has {', '.join(strange)}")
    return exported.call


def _strange_call(exported: jax_export.Exported) -> list[str]:
    """What a program has that is not arithmetic."""
    found = {str(effect) for effect in (*exported.ordered_effects, *exported.unordered_effects)}

    def visit(operation: Any) -> Any:
        name = operation.name
        if name == "stablehlo.custom_call":
            target = mlir.ir.StringAttr(operation.attributes["call_target_name"]).value
            if target not in CUSTOM_CALLS:
                found.add(f"a call of {target[:80]}")
        elif name == "stablehlo.composite":
            composite = mlir.ir.StringAttr(operation.attributes["name"]).value
            if not composite.startswith(COMPOSITES):
                found.add(f"a composite {composite[:80]}")
        elif name not in OPERATIONS:
            found.add(name[:80])
        return mlir.ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        mlir.ir.Module.parse(exported.mlir_module()).operation.walk(visit)
    return sorted(found)[:10]


def decisions_of(policy: Policy) -> Any:
    """The policy's decisions as a compiled function, [n, W] float32 -> [n, 2 B + 1 + A]."""
    return jax.jit(jax.vmap(decision_of(policy)))
