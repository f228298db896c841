"""What is trained, wholly (`Recipe`), and how a run of it is watched and stored (`RunOptions`)."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from pathlib import Path
from typing import Any

import jax

from jaxmec import envs
from jaxmec.agents.base import Agent
from jaxmec.agents.chain import OF_NETWORK
from jaxmec.agents.per_station import of_station, with_fields
from jaxmec.core.naming import ambiguous, by_layer, look_up
from jaxmec.core.types import Document, EnvParams, Keywords
from jaxmec.envs.table import FOR_AGENTS
from jaxmec.experiment.demonstrations import DEMONSTRATING, Demonstrator
from jaxmec.experiment.policy import Policy, load_policy
from jaxmec.experiment.result import TrainResult
from jaxmec.experiment.setting import PathLike, Setting, as_trace_file, plain, strict
from jaxmec.methods import METHODS, Config, find_method, trainer_of
from jaxmec.training.identity import digest
from jaxmec.training.progress import Display
from jaxmec.training.rollout import make_spec

SHARED = {
    "k": ("agent", "env"),  # how many servers top-k names
    "discount": ("agent",),  # a preset's is what its authors used, and changes nothing
}
"""Names that two layers share on purpose, and which of them take the value."""
ARGUMENTS = ("env", "preset", "preset_seed", "trace", "env_options", "config", "name", "start")
"""What `Recipe.changed` takes beside the names of single fields; None leaves it as it is."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is watched and stored, and on what it runs: no part of what is trained."""

    directory: PathLike | None = None  # where metrics and checkpoints go; nowhere by default
    resume: bool = False  # go on from the newest checkpoint in ``directory``, to the bit
    progress: bool | Display = True  # show a progress display, or the caller's own
    deterministic: bool = False  # ask a GPU for the same bits every time; slower
    tensorboard: bool = False  # write TensorBoard's event file into ``directory``
    wandb: str | None = None  # a project of Weights & Biases to log to
    devices: int | str = 1  # how many to use, or "all"
    seeds_at_once: int | str | None = None  # seeds side by side; "auto": what memory holds

    def __post_init__(self) -> None:
        if self.tensorboard and self.directory is None:
            raise ValueError("tensorboard needs directory (--out), where its event file goes")


RUN_OPTIONS = tuple(field.name for field in dataclasses.fields(RunOptions))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, wholly.

    A recipe that it starts from is trained first: in the same setting, and with the same network
    as far as its agent has one. It follows every change of either.
    """

    name: str
    agent: Agent
    setting: Setting
    config: Config
    start: Recipe | Policy | TrainResult | None = None

    def __post_init__(self) -> None:
        if isinstance(self.start, Recipe):
            object.__setattr__(self, "start", self.start._before(self))

    def _before(self, other: Recipe) -> Recipe:
        """This one as ``other`` starts from it."""
        own = {} if self.setting.env != other.setting.env else dict(self.setting.options)
        own.pop("workload", None)
        options = tuple(sorted((own | dict(other.setting.options)).items()))
        theirs, mine = vars(other.each), vars(self.each)
        network = {name: theirs[name] for name in OF_NETWORK if name in theirs and name in mine}
        return dataclasses.replace(
            self,
            agent=with_fields(self.agent, **network),
            setting=dataclasses.replace(other.setting, options=options),
        )

    @property
    def each(self) -> Any:
        """The agent, or what each station has of it."""
        return of_station(self.agent)

    def changed(self, **options: Any) -> Recipe:
        """The same but for what is named: the one look-up of a training's options.

        Args:
            options: single fields of the config (``steps``, ...), of the agent (``hidden``, ...),
                of the environment or its preset (``information``, ``probability``, ...), by their
                names, or in full where a name means several things: ``config.NAME``,
                ``agent.NAME``, ``env.NAME``. Beside them what ``ARGUMENTS`` lists, as for
                `jaxmec.train`: another ``env`` has its own default preset and no options.

        Raises:
            ValueError, TypeError: a wrong name or value; the message says what is right.
        """
        own = {name: options.pop(name, None) for name in ARGUMENTS}
        own = {name: value for name, value in own.items() if value is not None}
        setting, env = self.setting, own.get("env", self.setting.env)
        if env != setting.env:
            preset = envs.find_environment(env).default_preset
            setting = dataclasses.replace(setting, env=env, preset=preset, options=())
        before = own.get("config", self.config)
        layers = option_layers(self.each, before, env)
        given = by_layer(
            options,
            layers,
            shared=SHARED,
            arguments=(*ARGUMENTS, *RUN_OPTIONS),
            owner=f"the config, the agent and {env}",
        )
        given["env"] = _together(given["env"], own.get("env_options", {}))
        if "k" in layers["agent"] & layers["env"]:
            _agree("k", given["agent"], given["env"], env)
        kept, trace = _with_arrivals(setting, given["env"], own.get("trace"))
        config = dataclasses.replace(before, **given["config"])
        whole = self.config if isinstance(config, type(self.config)) else type(config)()
        start = self.start if "start" not in own else _start(own["start"], layers)
        if isinstance(start, Recipe) and start is not own.get("start"):  # as long as it says
            start = start.scaled(config.steps / whole.steps)
        return Recipe(
            name=own.get("name", self.name),
            agent=with_fields(self.agent, **given["agent"]),
            setting=Setting(
                env,
                own.get("preset", setting.preset),
                own.get("preset_seed", setting.seed),
                kept,
                trace,
            ),
            config=config,
            start=start,
        )

    def scaled(self, share: float) -> Recipe:
        """Training so many times as long, its prefill and schedules and what it starts from too."""
        return dataclasses.replace(
            self,
            config=self.config.scaled(share),
            start=self.start.scaled(share) if isinstance(self.start, Recipe) else self.start,
        )

    def make(self) -> tuple[Any, EnvParams]:
        """The environment that it is trained in, and its parameters.

        Raises:
            jaxmec.traces.TraceError: the trace is gone, or is not what it was.
        """
        environment, params = self.setting.make()
        if advice := self.config.advice(environment, params):
            warnings.warn(advice, stacklevel=3)
        demonstrates = self.config.needs_demonstrations
        return Demonstrator(environment) if demonstrates else environment, params

    def check(self) -> None:
        """See that training can begin, and so can the one that it starts from.

        Raises:
            ValueError, TypeError: an agent that does not fit the environment or the training.
        """
        agent = self.agent
        environment, params = self.make()
        spec = make_spec(environment, params)
        jax.eval_shape(lambda key: agent.init(key, spec), jax.random.key(0))
        if not self.config.needs_demonstrations:  # which take long to trace
            begin = functools.partial(self.config.init, agent, environment, params)
            jax.eval_shape(begin, jax.random.key(0))
        if isinstance(self.start, Recipe):
            self.start.check()

    def identity(self) -> Document:
        """All that the result depends on beside the seeds and the code, as JSON holds it."""
        start: Any = None
        if isinstance(self.start, Recipe):
            start = self.start.identity()
        elif self.start is not None:
            policies = (self.start,) if isinstance(self.start, Policy) else self.start.policies
            start = [digest(policy.learner) for policy in policies]
        demonstrates = self.config.needs_demonstrations
        identity: Document = strict(
            {
                "name": self.name,
                "agent": plain(self.agent),
                "setting": self.setting.identity(),
                "config": plain(self.config),
                "planner": plain(DEMONSTRATING) if demonstrates else None,
                "start": start,
            }
        )
        return identity

    @property
    def work(self) -> float:
        """What one seed costs, about in gradient updates of one step of denoising."""
        before = self.start.work if isinstance(self.start, Recipe) else 0.0
        return before + self.config.work(self.each)


def recipe(
    method: str | Agent | Recipe = "dsac",
    *,
    published: bool = False,
    scale: str = "cpu",
    **options: Any,
) -> Recipe:
    """The recipe of a method in `jaxmec.methods`, or for an agent of one's own.

    Args:
        method: its name, an agent, or a recipe that is to be changed.
        published, scale: which of the method's settings, as for `jaxmec.train`.
        options: what to change; see :meth:`Recipe.changed`.

    Raises:
        ValueError, TypeError: a wrong name or value; the message says what is right.
    """
    if isinstance(method, str):
        row = find_method(method)
        settings = row.settings(published, scale)
        found = Recipe(
            name=row.label(published, scale),
            agent=settings.agent(),
            setting=Setting(
                row.env,
                row.preset or envs.find_environment(row.env).default_preset,
                options=tuple(sorted(settings.options)),
            ),
            config=settings.config,
            start=None if row.start is None else recipe(row.start),
        )
    elif published or scale != "cpu":
        raise ValueError("published and scale go with a method's name, got an agent")
    elif isinstance(method, Recipe):
        found = method
    else:
        setting = Setting(FOR_AGENTS, envs.find_environment(FOR_AGENTS).default_preset)
        found = Recipe(type(method).__name__.lower(), method, setting, trainer_of(method))
    return found.changed(**options)


def option_layers(agent: Any, config: Config, env: str) -> dict[str, set[str]]:
    """The names of the single fields that a training can change, by what they belong to."""
    return {
        "config": {field.name for field in dataclasses.fields(config)},
        "agent": {field.name for field in dataclasses.fields(agent)},
        "env": envs.find_environment(env).option_names,
    }


def _together(single: Keywords, together: Keywords) -> Keywords:
    """The environment's options, those by themselves and those in ``env_options``."""
    if twice := single.keys() & together.keys():
        raise TypeError(f"{min(twice)} is given twice, by itself and in env_options; give it once")
    return single | dict(together)


def _with_arrivals(setting: Setting, given: Keywords, trace: Any) -> tuple[Any, Any]:
    """The options and the trace of a setting with other options, and with other arrivals if any."""
    options = dict(setting.options)
    if trace is None:
        kept = None if "workload" in given else setting.trace
        return tuple(sorted((options | given).items())), kept
    if "workload" in given:
        raise TypeError("trace and the workload in env_options are both arrivals; give one")
    options.pop("workload", None)
    return tuple(sorted((options | given).items())), as_trace_file(trace)


def _agree(name: str, of_agent: Keywords, of_env: Keywords, env: str) -> None:
    """Let agent and environment both have an option that both know."""
    named = {of[name] for of in (of_agent, of_env) if name in of}
    if len(named) > 1:
        raise TypeError(f"{name} must be one number for the agent and {env}, got {sorted(named)}")
    if named:
        of_agent[name] = of_env[name] = named.pop()


def _start(
    start: Policy | TrainResult | Recipe | PathLike, layers: dict[str, set[str]]
) -> Recipe | Policy | TrainResult:
    """What training starts from: a bare name that a method has is the method, else it is a path.

    Raises:
        TypeError: text, where it could also be an agent's option.
        ValueError: neither a method nor a path that is there.
        jaxmec.training.checkpoint.CheckpointError, jaxmec.core.bundle.BundleError: no policy at
            a path, or a damaged one.
    """
    if isinstance(start, Recipe | Policy | TrainResult):
        return start
    if isinstance(start, str):
        if owners := [layer for layer, names in layers.items() if "start" in names]:
            raise TypeError(
                f"{ambiguous('start', owners, argument=True)}, and a pathlib.Path for a policy"
            )
        if start in METHODS:
            return recipe(start)
        if os.sep not in start and not Path(start).exists():
            look_up("start", start, METHODS)
    return load_policy(start)
