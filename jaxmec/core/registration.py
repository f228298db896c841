"""Makes environments known to ``gymnasium.make`` and ``gymnax.make``, importing neither of them.

Both know an environment once its package has registered it. To import jaxmec is to import neither
nor JAX, so where one of them is not there yet, the environments are registered when it comes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from typing import Any

Names = Callable[[], Iterable[str]]


def register(names: Names) -> None:
    """Register ``jaxmec/NAME`` for each environment, with Gymnasium and gymnax.

    With gymnax by its plain name too, unless gymnax has its own by that name.

    Args:
        names: says the environments, once one of the libraries is there.
    """
    _when_imported("gymnasium.envs", "gymnasium.envs.registration", names, _with_gymnasium)
    _when_imported("gymnax", "gymnax.registration", names, _with_gymnax)


def _when_imported(
    name: str, home: str, names: Names, act: Callable[[Any, Iterable[str]], None]
) -> None:
    """Call ``act`` with the module ``home`` once the module ``name`` has been imported."""

    def now() -> None:
        act(importlib.import_module(home), names())

    if name in sys.modules and home in sys.modules:
        now()
    else:
        sys.meta_path.insert(0, _WhenImported(name, now))


def _with_gymnasium(registration: Any, names: Iterable[str]) -> None:
    for name in names:
        if f"jaxmec/{name}" not in registration.registry:
            registration.register(
                f"jaxmec/{name}",
                entry_point="jaxmec.envs:Registered",
                disable_env_checker=True,  # it would only repeat what `step` checks
                order_enforce=False,
                kwargs={"env_id": name},
            )


def _with_gymnax(registration: Any, names: Iterable[str]) -> None:
    for name in names:

        def made(name: str = name, **options: object) -> Any:
            return importlib.import_module("jaxmec.envs").make(name, **options)[0]

        for known in (f"jaxmec/{name}", name):
            if known not in registration.registered_envs:
                registration.register(known, made)


class _WhenImported:
    """Finds no module; acts after the one of that name, which others find, has been executed."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.name, self.act = name, act

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_act(module: Any) -> None:
                execute(module)
                self.act()

            loader.exec_module = execute_and_act
        return spec
