"""The environments: CartPole and edge offloading, in gymnax's interface.

What there is stands in :mod:`jaxmec.envs.table`, which needs no JAX; the names here are loaded at
their first use.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from typing import TYPE_CHECKING, Any

from jaxmec.envs.presets import PRESETS, Preset
from jaxmec.envs.table import ENVIRONMENTS, Environment, find_environment, make

if TYPE_CHECKING:
    from jaxmec.envs.cartpole import CartPole, CartPoleParams
    from jaxmec.envs.gymnasium import Registered, to_gymnasium
    from jaxmec.envs.multi import MultiServerOffloading
    from jaxmec.envs.single import SingleServerOffloading
    from jaxmec.envs.state import OffloadingParams, View

__all__ = [
    "ENVIRONMENTS",
    "PRESETS",
    "CartPole",
    "CartPoleParams",
    "Environment",
    "MultiServerOffloading",
    "OffloadingParams",
    "Preset",
    "Registered",
    "SingleServerOffloading",
    "View",
    "find_environment",
    "make",
    "to_gymnasium",
]

_LAZY = {
    "CartPole": "cartpole",
    "CartPoleParams": "cartpole",
    "MultiServerOffloading": "multi",
    "OffloadingParams": "state",
    "Registered": "gymnasium",
    "SingleServerOffloading": "single",
    "View": "state",
    "to_gymnasium": "gymnasium",
}
_FILES = {*_LAZY.values(), "observation", "offloading", "spaces"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(f"jaxmec.envs.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    if name in _FILES:
        return importlib.import_module(f"jaxmec.envs.{name}")
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_FILES})
