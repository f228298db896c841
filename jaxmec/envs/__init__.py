"""The environments: CartPole and edge offloading, in gymnax's interface."""

from __future__ import annotations

from typing import Any

import gymnax

from jaxmec.core.naming import look_up
from jaxmec.envs.cartpole import CartPole, CartPoleParams
from jaxmec.envs.gymnasium import GymnasiumAdapter, refuse_after_fork, to_gymnasium
from jaxmec.envs.offloading import (
    MultiServerOffloading,
    OffloadingParams,
    SingleServerOffloading,
    View,
)
from jaxmec.envs.presets import PRESETS, Preset, find_preset, override
from jaxmec.mec.workload import Workload

DEFAULT_PRESET = {"MultiServerOffloading-v0": "amcoedge", "SingleServerOffloading-v0": "lad-ts"}
ABOUT = {
    "CartPole-v1": "balance a pole on a cart; Gymnasium's equations and limits",
    "SingleServerOffloading-v0": "give each task to one edge server",
    "MultiServerOffloading-v0": "split each task among a set of edge servers",
}
ENVIRONMENTS = tuple(ABOUT)
# What `make` takes for each environment beside the fields of a preset.
CHOICES = {
    "CartPole-v1": (),
    "SingleServerOffloading-v0": (
        "information",
        "features",
        "show_place",
        "privileged",
        "reward",
        "neighbours",
        "action",
    ),
    "MultiServerOffloading-v0": (
        "information",
        "features",
        "show_place",
        "action",
        "k",
        "allocate",
        "allocation_information",
        "privileged",
        "reward",
        "entry_gradient",
        "neighbours",
    ),
}


def make(
    env_id: str,
    preset: str | Preset | None = None,
    seed: int = 0,
    workload: Workload | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """An environment and its parameters.

    Args:
        env_id: one of ``ENVIRONMENTS``.
        preset: the published setting of an offloading environment, by name or as data.
        seed: of what a preset draws once: densities, qualities, result sizes.
        workload: arrivals instead of the preset's, such as a trace.
        options: the environment's own choices (``CHOICES``), and any field of the preset or,
            for CartPole, of :class:`CartPoleParams` to override.

    Raises:
        ValueError: an unknown name, with the nearest right one, or an invalid value.
        TypeError: an option that neither the environment nor the preset has.
        RuntimeError: in a process that was forked after JAX had started.
    """
    refuse_after_fork()
    look_up("environment", env_id, ABOUT)
    if env_id == "CartPole-v1":
        if preset is not None or workload is not None:
            raise TypeError("CartPole-v1 has no presets and no workload")
        return CartPole(), CartPoleParams(**options)
    kind = MultiServerOffloading if env_id.startswith("Multi") else SingleServerOffloading
    wrong = (set(CHOICES["MultiServerOffloading-v0"]) - set(CHOICES[env_id])) & set(options)
    if wrong:
        raise TypeError(
            f"{env_id} gives a task to one server and has no option {', '.join(sorted(wrong))}"
        )
    choices = {name: options.pop(name) for name in CHOICES[env_id] if name in options}
    preset = DEFAULT_PRESET[env_id] if preset is None else preset
    setting = preset if isinstance(preset, Preset) else find_preset(preset)
    params = override(setting, **options).params(seed, workload)
    return kind(params, **choices), params


class Registered(GymnasiumAdapter):
    """What ``gymnasium.make("jaxmec/" + env_id, ...)`` returns.

    Its keywords are those of :func:`make`, and ``render_mode``.
    """

    def __init__(self, env_id: str, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(*make(env_id, **options), render_mode=render_mode)


def register() -> None:
    """Make the environments known to ``gymnax.make``; CartPole under ``jaxmec/CartPole-v1``,
    since gymnax has its own under the plain name."""
    for env_id in ENVIRONMENTS:
        name = f"jaxmec/{env_id}" if env_id == "CartPole-v1" else env_id
        if name not in gymnax.registered_envs:
            gymnax.register(name, lambda env_id=env_id, **options: make(env_id, **options)[0])


register()

__all__ = [
    "CHOICES",
    "ENVIRONMENTS",
    "PRESETS",
    "CartPole",
    "CartPoleParams",
    "MultiServerOffloading",
    "OffloadingParams",
    "Preset",
    "SingleServerOffloading",
    "View",
    "make",
    "to_gymnasium",
]
