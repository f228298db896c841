"""The environments: a row each, and all that the rest of the package asks about one.

A new environment is one file and one row here. Nothing else compares with an environment's
name. The rows are plain data, without JAX: an environment's module is imported when it is made.
"""

from __future__ import annotations

import dataclasses
import os
import pkgutil
from typing import TYPE_CHECKING, Any

from jaxmec.core.naming import look_up, suggestion
from jaxmec.envs.processes import refuse_after_fork

if TYPE_CHECKING:
    from jaxmec.envs.presets import Preset
    from jaxmec.mec.workload import Workload


@dataclasses.dataclass(frozen=True)
class Environment:
    """One environment: how it is made, and what can be done with it.

    ``kind`` names its class. The class says by ``Options``, a dataclass, what may be chosen: where
    there are presets the environment's own options, called ``kind(params, options)``; elsewhere
    its parameters, beside ``kind()``.
    """

    name: str  # the registered id
    about: str  # one line for `jaxmec list`
    kind: str  # "module:class"
    metric: str = "return"  # what methods are compared by
    beside: tuple[str, ...] = ()  # the figures that say nothing without one another
    default_preset: str | None = None  # None: an environment without presets
    presets: str = "jaxmec.envs.presets:find_preset"  # "module:function" that finds one by name
    preset_fields: str = "jaxmec.envs.presets:Preset"  # "module:dataclass" of what can be changed
    problem: str | None = None  # "multi" or "single", what schedulers and the planner solve there
    rules: str | None = None  # "module:function" that finds who plays there without learning
    oracle: str | None = None  # the scheduler that policies are set against
    set_options: tuple[tuple[str, object], ...] = ()  # with which an action is a set of servers
    pictures: tuple[str, ...] = ("denoising",)  # that `jaxmec show` can draw of an episode

    @property
    def schedules(self) -> bool:
        """Whether there are tasks, for schedulers and the planner."""
        return self.problem is not None

    @property
    def options(self) -> Any:
        """The dataclass of what may be chosen, beside the fields of a preset."""
        return pkgutil.resolve_name(self.kind).Options

    @property
    def option_names(self) -> set[str]:
        """Everything that :meth:`make` takes by name, beside preset, seed and workload."""
        return {field.name for kind in self.kinds for field in dataclasses.fields(kind)}

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The dataclasses of what can be chosen: the options, and the fields of a preset."""
        if self.default_preset is None:
            return (self.options,)
        return self.options, pkgutil.resolve_name(self.preset_fields)

    def preset(self, named: Any = None) -> Any:
        """The preset of that name, or the environment's default; a preset itself is one.

        Raises:
            ValueError: an unknown name, with the nearest right one.
            TypeError: an environment without presets.
        """
        if self.default_preset is None:
            raise TypeError(f"{self.name} has no presets and no workload")
        if named is not None and not isinstance(named, str | os.PathLike):
            return named
        find = pkgutil.resolve_name(self.presets)
        return find(self.default_preset if named is None else named)

    def make(
        self,
        preset: Any = None,
        seed: int = 0,
        workload: Workload | None = None,
        **options: object,
    ) -> tuple[Any, Any]:
        """The environment and its parameters; see :func:`make`."""
        refuse_after_fork()
        kind, names = pkgutil.resolve_name(self.kind), self.option_names
        for name in options:
            if name not in names:
                known = ", ".join(sorted(names))
                raise TypeError(
                    f"{self.name} has no option {name!r}{suggestion(name, names)}; it has {known}"
                )
        if self.default_preset is None and preset is None and workload is None:
            return kind(), kind.Options(**options)
        own = {f.name: options.pop(f.name) for f in dataclasses.fields(kind.Options)
               if f.name in options}  # fmt: skip
        if workload is not None:
            options["workload"] = workload
        params = self.preset(preset).params(seed, **options)
        return kind(params, kind.Options(**own)), params


ENVIRONMENTS = {
    row.name: row
    for row in (
        Environment(
            "CartPole-v1",
            "balance a pole on a cart; Gymnasium's equations and limits",
            "jaxmec.envs.cartpole:CartPole",
            pictures=("denoising", "animation"),
        ),
        Environment(
            "SingleServerOffloading-v0",
            "give each task to one edge server",
            "jaxmec.envs.single:SingleServerOffloading",
            metric="makespan",
            default_preset="lad-ts",
            problem="single",
            oracle="opt-ts",
            pictures=("timeline", "map", "denoising", "policy", "animation"),
        ),
        Environment(
            "MultiServerOffloading-v0",
            "split each task among a set of edge servers",
            "jaxmec.envs.multi:MultiServerOffloading",
            metric="makespan",
            default_preset="amcoedge",
            problem="multi",
            oracle="optimal",
            set_options=(("action", "mask"),),
            pictures=("timeline", "map", "denoising", "policy", "animation"),
        ),
        Environment(
            "GenerativeServing-v0",
            "serve pictures on servers that are unequal, fail and tell late",
            "jaxmec.envs.serving:GenerativeServing",
            metric="served",
            beside=(
                *("quality", "delay_p95", "lost", "cloud"),  # a terminal shows four
                *("delay_p50", "delay_p99", "retried", "cold_starts"),
            ),
            default_preset="genai-5",
            presets="jaxmec.serving.presets:find_serving_preset",
            preset_fields="jaxmec.serving.presets:ServingSetting",
            rules="jaxmec.serving.rules:find_rule",
        ),
    )
}
FOR_AGENTS = "CartPole-v1"  # where an agent of one's own is trained by default
FOR_RULES = "GenerativeServing-v0"  # where rules of serving play
FOR_SCHEDULERS = "MultiServerOffloading-v0"  # where schedulers play by default


def find_environment(name: str) -> Environment:
    """The row of that name.

    Raises:
        ValueError: an unknown name, with the nearest right one.
    """
    return look_up("environment", name, ENVIRONMENTS)


def of_problem(problem: str) -> Environment:
    """The first environment of a problem, "multi" or "single".

    Raises:
        ValueError: there is none.
    """
    rows = {row.problem: row for row in reversed(ENVIRONMENTS.values()) if row.problem is not None}
    return look_up("problem", problem, rows)


def make(
    env_id: str,
    preset: str | Preset | None = None,
    seed: int = 0,
    workload: Workload | None = None,
    **options: object,
) -> tuple[Any, Any]:
    """An environment and its parameters.

    Args:
        env_id: one of ``ENVIRONMENTS``.
        preset: a published setting of offloading, or a fleet for serving: by name, by the path of
            its file, or as data.
        seed: of what a preset draws once: densities, qualities, result sizes, cold starts.
        workload: arrivals instead of the preset's, such as a trace.
        options: the environment's own (``ENVIRONMENTS[env_id].options``), and any field of the
            preset to override; for CartPole, the fields of
            :class:`jaxmec.envs.cartpole.CartPoleParams`.

    Raises:
        ValueError: an unknown name, with the nearest right one, or an invalid value.
        TypeError: an option that neither the environment nor the preset has.
        RuntimeError: in a process that was forked after JAX had started.
    """
    return find_environment(env_id).make(preset, seed, workload, **options)
