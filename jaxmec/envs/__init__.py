"""The environments: CartPole and edge offloading, in gymnax's interface."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnax

from jaxmec.envs.cartpole import CartPole, CartPoleParams
from jaxmec.envs.gymnasium import GymnasiumAdapter, to_gymnasium
from jaxmec.envs.multi import MultiServerOffloading
from jaxmec.envs.presets import PRESETS, Preset
from jaxmec.envs.single import SingleServerOffloading
from jaxmec.envs.state import OffloadingParams, View
from jaxmec.envs.table import ENVIRONMENTS, Environment, find_environment, make


class Registered(GymnasiumAdapter):
    """What ``gymnasium.make("jaxmec/" + env_id, ...)`` returns.

    Its keywords are those of :func:`make`, and ``render_mode``.
    """

    def __init__(self, env_id: str, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(*make(env_id, **options), render_mode=render_mode)


# gymnax has a CartPole of its own; ours is its "jaxmec/CartPole-v1".
for _name, _row in ENVIRONMENTS.items():
    gymnax.register(
        f"jaxmec/{_name}" if _name in gymnax.registered_envs else _name,
        lambda row=_row, **options: row.make(**options)[0],
    )


def __getattr__(name: str) -> Any:
    if name == "CHOICES":
        warnings.warn(
            "jaxmec.envs.CHOICES is the fields of jaxmec.envs.ENVIRONMENTS[name].options now; the "
            "old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        offloading = (row for row in ENVIRONMENTS.values() if row.schedules)
        return dict.fromkeys(ENVIRONMENTS, ()) | {
            row.name: tuple(f.name for f in dataclasses.fields(row.options)) for row in offloading
        }
    raise AttributeError(f"module 'jaxmec.envs' has no attribute {name!r}")


__all__ = [
    "ENVIRONMENTS",
    "PRESETS",
    "CartPole",
    "CartPoleParams",
    "Environment",
    "MultiServerOffloading",
    "OffloadingParams",
    "Preset",
    "SingleServerOffloading",
    "View",
    "find_environment",
    "make",
    "to_gymnasium",
]
