"""Makes the environments known to ``gymnasium.make``, without importing Gymnasium.

Gymnasium knows an environment once its package has been imported and has registered it. To
import jaxmec is to import neither Gymnasium nor JAX, so where Gymnasium is not there yet, the
environments are registered when it comes.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

ENVIRONMENTS = ("CartPole-v1", "SingleServerOffloading-v0", "MultiServerOffloading-v0")
GYMNASIUM = "gymnasium.envs"


def register() -> None:
    """Register ``jaxmec/NAME`` for each environment, now or as soon as Gymnasium is imported."""
    registration: Any = sys.modules.get(f"{GYMNASIUM}.registration")
    if GYMNASIUM not in sys.modules or not hasattr(registration, "register"):
        sys.meta_path.insert(0, _WhenImported())
        return
    for name in ENVIRONMENTS:
        if f"jaxmec/{name}" not in registration.registry:
            registration.register(
                f"jaxmec/{name}",
                entry_point="jaxmec.envs:Registered",
                disable_env_checker=True,  # it would only repeat what `step` checks
                order_enforce=False,
                kwargs={"env_id": name},
            )


class _WhenImported:
    """Finds no module; registers after the one that others find for ``GYMNASIUM``."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != GYMNASIUM:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                register()

            loader.exec_module = execute_and_register
        return spec
