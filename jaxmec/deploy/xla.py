"""A bundle opened with JAX, on whatever device this machine has.

The form "jax" rebuilds the agent and restores its parameters; the form "stablehlo" runs the
exported program and needs neither the agent's class nor flax. Both decide alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxmec import files
from jaxmec.bundle import POLICY, STABLEHLO, Bundle, BundleDamaged, PathLike, open_bundle
from jaxmec.deploy.runtime import Scheduler
from jaxmec.experiment import Policy, read_policy
from jaxmec.naming import look_up

FORMS = ("jax", "stablehlo")


def load(path: PathLike, *, form: str = "jax", digest: str | None = None) -> Scheduler:
    """The scheduler of the bundle at ``path``, by its checkpoint or its StableHLO program.

    Args:
        path: the bundle.
        form: "jax" or "stablehlo".
        digest: what the bundle's digest has to be, as the export printed it.

    Raises:
        jaxmec.bundle.BundleError: nothing there, damaged, or of a newer version.
        ValueError: an unknown form.
    """
    look_up("form", form, dict.fromkeys(FORMS))

    def read(place: Path) -> tuple[Bundle, Any]:
        bundle = open_bundle(place, digest=digest)
        return bundle, (
            read_policy(bundle.path / POLICY)[0] if form == "jax" else bundle.read(STABLEHLO)
        )

    bundle, content = files.read_settled(path, read)
    if form == "jax":
        function = preferences_of(content)
    else:
        try:
            exported = jax_export.deserialize(bytearray(content))
        except Exception as error:  # whatever a reader of bytes makes of foreign ones
            raise BundleDamaged(
                f"damaged bundle: {bundle.path / STABLEHLO}: not an exported program: {error!r}"
            ) from error
        function = jax.jit(exported.call)

    def preferences(observation: np.ndarray) -> np.ndarray:
        return np.asarray(function(observation))

    return Scheduler(bundle, preferences, form).checked()


def preferences_of(policy: Policy) -> Any:
    """The policy's preferences as a compiled function, [n, S] float32 -> [n, A] float32."""
    agent, learner = policy.agent, policy.learner

    def preferences(observation: jax.Array) -> jax.Array:
        return agent.preferences(learner, observation)

    return jax.jit(jax.vmap(preferences))
