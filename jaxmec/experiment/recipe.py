"""What is trained, wholly."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from jaxmec import agents, envs
from jaxmec.agents.base import Agent
from jaxmec.agents.chain import OF_NETWORK
from jaxmec.core.naming import ambiguous, by_layer
from jaxmec.envs.table import FOR_AGENTS
from jaxmec.experiment.demonstrations import Demonstrator
from jaxmec.experiment.policy import Policy
from jaxmec.experiment.result import TrainResult
from jaxmec.experiment.setting import PathLike, Setting, trace_file
from jaxmec.methods import METHODS, Config, find_method
from jaxmec.traces import TraceFile
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.pathwise import PathwiseConfig
from jaxmec.training.rollout import make_spec

SHARED = {
    "k": ("agent", "env"),  # how many servers top-k names
    "discount": ("agent",),  # a preset's is what its authors used, and changes nothing
}
"""Names that two layers share on purpose, and which of them take the value."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, wholly, with its environment made."""

    name: str
    agent: Agent
    each: Any  # the agent, or what each station has of it
    config: Config
    own: Config  # the sizes that the method has by itself
    setting: Setting
    environment: Any
    params: Any
    start: Any  # as for `train`; the name of a method that is trained first, say

    def moved(self, setting: Setting) -> Recipe:
        """The same in another setting."""
        environment, params = _made(setting, self.config)
        return dataclasses.replace(self, setting=setting, environment=environment, params=params)

    def check(self) -> None:
        """See that training can begin, and so can the one that it starts from.

        Raises:
            ValueError, TypeError: an agent that does not fit the environment or the training.
        """
        agent: Any = self.agent
        spec = make_spec(self.environment, self.params)
        jax.eval_shape(lambda key: agent.init(key, spec), jax.random.key(0))
        if not self.config.needs_demonstrations:  # which take long to trace
            begin = functools.partial(self.config.init, agent, self.environment, self.params)
            jax.eval_shape(begin, jax.random.key(0))
        if (teacher := self.teacher) is not None:
            prepared(self.start, **teacher).check()

    @property
    def teacher(self) -> dict[str, Any] | None:
        """What of `train` is given for the method that is trained first, if there is one."""
        if not isinstance(self.start, str) or self.start not in METHODS:
            return None
        _, lesson, network = lesson_of(self.start, self.each, self.config, self.own)
        return {
            "env": self.setting.env,
            "preset": self.setting.preset,
            "preset_seed": self.setting.seed,
            "config": lesson,
            "trace": self.setting.trace,
            "env_options": dict(self.setting.options),
            **network,
        }


def _made(setting: Setting, config: Config) -> tuple[Any, Any]:
    """The environment that a training of these sizes learns in, and its parameters."""
    environment, params = setting.make()
    return (Demonstrator(environment) if config.needs_demonstrations else environment), params


def prepared(
    method: str | Agent,
    *,
    published: bool = False,
    scale: str = "cpu",
    env: str | None = None,
    preset: str | None = None,
    preset_seed: int = 0,
    config: Config | None = None,
    own: Config | None = None,
    name: str | None = None,
    start: Policy | TrainResult | PathLike | None = None,
    trace: PathLike | TraceFile | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Recipe:
    """What :func:`train` would train with these arguments; raises as it does."""
    if isinstance(method, str):
        row = find_method(method)
        settings = row.settings(published, scale)
        agent = settings.agent()
        name = name or row.label(published, scale)
        same_env = env is None or env == row.env
        env = row.env if env is None else env
        own = settings.config if own is None else own
        config = settings.config if config is None else config
        chosen = dict(settings.options) if same_env else {}
        if preset is None and same_env:
            preset = row.preset
        start = row.start if start is None else start
    elif published or scale != "cpu":
        raise ValueError("published and scale go with a method's name, got an agent")
    else:
        agent, name, chosen = method, name or type(method).__name__.lower(), {}
        env = FOR_AGENTS if env is None else env
        if config is None:
            config = PathwiseConfig() if isinstance(agent, agents.Pathwise) else TrainConfig()
        own = type(config)() if own is None else own
    if preset is None:
        preset = envs.find_environment(env).default_preset

    # Of an agent for each station, the fields are those of what each station has.
    each: Any = agent.inner if isinstance(agent, agents.PerStation) else agent
    layers = option_layers(each, config, env)
    if isinstance(start, str) and (owners := [x for x in layers if "start" in layers[x]]):
        raise TypeError(
            f"{ambiguous('start', owners, argument=True)}, and a pathlib.Path for a policy"
        )
    given = by_layer(options, layers, shared=SHARED, owner=f"the config, the agent and {env}")
    config = dataclasses.replace(config, **given["config"])
    if twice := given["env"].keys() & (env_options or {}).keys():
        raise TypeError(f"{min(twice)} is given twice, by itself and in env_options; give it once")
    of_env = given["env"] | dict(env_options or {})
    if "k" in layers["agent"] & layers["env"]:  # servers that top-k names: both know how many
        named = {of["k"] for of in (given["agent"], of_env) if "k" in of}
        if len(named) > 1:
            raise TypeError(f"k must be one number for the agent and {env}, got {sorted(named)}")
        if named:
            given["agent"]["k"] = of_env["k"] = named.pop()
    each = dataclasses.replace(each, **given["agent"])
    agent = agents.PerStation(each) if isinstance(agent, agents.PerStation) else each
    chosen |= of_env
    if trace is not None and "workload" in chosen:
        raise TypeError("trace and the workload in env_options are both arrivals; give one")
    setting = Setting(env, preset, preset_seed, tuple(sorted(chosen.items())), trace_file(trace))
    environment, params = _made(setting, config)
    if (
        isinstance(config, PathwiseConfig)
        and not config.carried
        and envs.find_environment(env).schedules
    ):
        tasks = config.counted_slots * float(params.workload.moments().tasks)
        if config.window < tasks:
            warnings.warn(
                f"window is {config.window}, and {config.counted_slots} of the slots that a "
                f"window should hold have {tasks:.0f} tasks: later ones are never trained on; "
                f"make window about {math.ceil(tasks + 2.4 * math.sqrt(tasks))}",
                stacklevel=3,
            )
    return Recipe(name, agent, each, config, own, setting, environment, params, start)


def lesson_of(
    start: str, agent: Any, config: Config, own: Config
) -> tuple[Agent, Config, dict[str, Any]]:
    """How a method is trained from which another one starts: which agent, and how long.

    Args:
        start: its name.
        agent: the other's, whose network it takes over.
        config: the other's training as it will be, of which cloning is as short a share ...
        own: ... as that is of the training that its method has by itself.

    Returns:
        The agent, the sizes, and the fields of the agent that are not the method's own.
    """
    settings = METHODS[start].tuned
    lesson = settings.config
    if lesson.needs_demonstrations:
        lesson = lesson.scaled(config.steps / own.steps)
    teacher: Any = settings.agent()
    network = _network_of(agent, teacher)
    return dataclasses.replace(teacher, **network), lesson, network


def _network_of(agent: Any, other: Any) -> dict[str, Any]:
    """What an agent's network is, as far as the other agent can be told."""
    return {
        field: getattr(agent, field)
        for field in OF_NETWORK
        if hasattr(agent, field) and hasattr(other, field)
    }


def option_layers(agent: Any, config: Config, env: str) -> dict[str, set[str]]:
    """The names of the single fields that a training can change, by what they belong to."""
    each = agent.inner if isinstance(agent, agents.PerStation) else agent
    return {
        "config": {field.name for field in dataclasses.fields(config)},
        "agent": {field.name for field in dataclasses.fields(each)},  # type: ignore[arg-type]
        "env": envs.find_environment(env).option_names,
    }
