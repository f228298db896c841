"""Train a method, keep what it learned, and compare it with others on the same arrivals.

The three verbs of the public API, `train`, `evaluate` and `load_policy`, put together what
the rest of the package provides. `train` and `evaluate` compile what they run.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec import agents, envs, traces
from jaxmec.agents.base import Agent, Learner, Spec
from jaxmec.agents.pathwise import OF_NETWORK
from jaxmec.core import bundle, compilation, files, manifest
from jaxmec.core.naming import ambiguous, by_layer, look_up
from jaxmec.core.statistics import t_interval
from jaxmec.core.terminal import quoted
from jaxmec.envs.presets import Preset, override
from jaxmec.envs.table import FOR_AGENTS, FOR_SCHEDULERS
from jaxmec.experiment.demonstrations import Demonstrator
from jaxmec.mec.workload import TraceWorkload
from jaxmec.methods import METHODS, find_method
from jaxmec.schedulers import SCHEDULERS, Scheduler, find_scheduler
from jaxmec.traces import TraceError, TraceFile
from jaxmec.training import checkpoint, parts, runner, trackers
from jaxmec.training import devices as on_devices
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.evaluate import Policy as Decides
from jaxmec.training.evaluate import evaluate as play
from jaxmec.training.evaluate import greedy
from jaxmec.training.loop import History, TrainConfig
from jaxmec.training.pathwise import PathwiseConfig
from jaxmec.training.progress import Display
from jaxmec.training.rollout import make_spec

PathLike = str | os.PathLike[str]
Config = TrainConfig | PathwiseConfig | CloningConfig
POLICY_FORMAT = 1
# What observations mean, in what is saved. 2: where the features or the allocation reckon with all
# stations doing as one has, a master node is one; before, it counted as one for each server.
OBSERVATIONS = 2
# Fields of agents that saved policies have and that agents have no longer; none of them says how
# a policy decides.
RETIRED = {"Pathwise": ("decay_updates",)}
TRACE = "trace.csv"  # in a run's directory, where its tasks were given in memory
_SIZE = manifest.whole(1, 2**20)
_PAIRS = manifest.listing(manifest.pair(manifest.text(), manifest.anything))
SETTING_SCHEMA = manifest.record(
    {"env": manifest.text(), "options": _PAIRS},
    {
        "preset": manifest.optional(manifest.text()),
        "seed": manifest.whole(0, 2**63),
        "trace": manifest.optional(
            manifest.record(
                {"file": manifest.text(), "sha256": manifest.text()},
                {"slots": manifest.optional(manifest.whole(1, 2**40))},
            )
        ),
    },
)
POLICY_SCHEMA = manifest.record(
    {
        "name": manifest.text(),
        "agent": manifest.record(
            {"class": manifest.text(), "fields": manifest.mapping(manifest.anything)}
        ),
        "spec": manifest.record(
            {"observation_size": _SIZE, "num_actions": _SIZE},
            {"layout": manifest.listing(manifest.pair(manifest.text(), _SIZE))},
        ),
        "setting": SETTING_SCHEMA,
    }
)
UNITS = {"makespan": "s", "delay": "s", "failed": "share of tasks", "length": "decisions"}


# Fields of a preset by what they decide; the others are of the reward and of what is seen.
TASK_FIELDS = (
    "arrivals", "positions", "probability", "laid_out", "slots", "size", "density", "step_work",
    "quality", "result", "master",
)  # fmt: skip
NETWORK_FIELDS = (
    "capacity", "rate", "slot_length", "uplink_contention", "uplink_cap", "max_wait",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """Which environment, as data: what `jaxmec.make` is called with."""

    env: str
    preset: str | None = None
    seed: int = 0  # of what a preset draws once
    options: tuple[tuple[str, Any], ...] = ()
    trace: TraceFile | None = None  # arrivals instead of the preset's

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Setting:
        """What `dataclasses.asdict` made of one, and JSON of that."""
        return cls(**cls.fields_of(document))

    @staticmethod
    def fields_of(document: Mapping[str, Any]) -> dict[str, Any]:
        """The fields in such a document."""
        fields = dict(document)
        fields["options"] = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in fields["options"]
        )
        if fields.get("trace") is not None:
            fields["trace"] = TraceFile(**fields["trace"])
        return fields

    def make(self) -> tuple[Any, Any]:
        """The environment and its parameters.

        Raises:
            jaxmec.traces.TraceError: the trace is gone, or is not what it was.
        """
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.options
        }
        if self.trace is not None:
            options["workload"] = self.trace.workload()
        return envs.make(self.env, preset=self.preset, seed=self.seed, **options)

    @property
    def fields(self) -> dict[str, Any]:
        """The options that are fields of the preset, or arrivals in its place."""
        names = {"workload", *(field.name for field in dataclasses.fields(Preset))}
        return {name: value for name, value in self.options if name in names}

    @property
    def tasks(self) -> dict[str, Any]:
        """By name, all that decides which tasks arrive, beside the seed of the episodes."""
        if not envs.find_environment(self.env).schedules:
            return {"env": self.env}
        if self.trace is not None:
            return {"arrivals": _arrivals(self.trace)}
        if "workload" in self.fields:
            return {"arrivals": _listed(self.fields["workload"])}
        preset = self._preset
        drawn = {name: getattr(preset, name) for name in TASK_FIELDS}
        return {"preset_seed": self.seed, "stations": len(preset.capacity), **drawn}

    @property
    def network(self) -> dict[str, Any]:
        """By name, all that decides how long tasks take, beside what is decided about them."""
        if not envs.find_environment(self.env).schedules:
            return {}
        preset = self._preset
        values = {name: getattr(preset, name) for name in NETWORK_FIELDS}
        # Some are tied to another field, by its name.
        return {k: getattr(preset, v) if isinstance(v, str) else v for k, v in values.items()}

    @property
    def _preset(self) -> Preset:
        changes = {name: value for name, value in self.fields.items() if name != "workload"}
        return override(envs.find_environment(self.env).preset(self.preset), **changes)


def _listed(workload: Any) -> str:
    """What tasks are listed, wherever: in memory, or in a file."""
    if not isinstance(workload, TraceWorkload):
        return runner.digest(workload)
    columns = {name: getattr(workload, name) for name in traces.Rows._fields}
    return runner.digest({"slots": workload.slots, **columns})


@functools.lru_cache(maxsize=16)
def _arrivals(trace: TraceFile) -> str:
    try:
        return _listed(trace.workload())
    except TraceError:  # it is gone, or another: what was known of it
        return f"{trace.sha256}, {trace.slots} slots"


def check_same_tasks(
    name: str, setting: Setting, other_name: str, other: Setting, network: bool = False
) -> None:
    """Whoever is set side by side meets the same tasks, and where asked on the same network.

    Raises:
        ValueError: they do not; names what differs.
    """
    parts = [(setting.tasks, other.tasks)]
    if network:
        parts.append((setting.network, other.network))
    differences = [
        f"{field} is {one.get(field, 'absent')} and {two.get(field, 'absent')}"
        for one, two in parts
        for field in {**one, **two}
        if one.get(field, "absent") != two.get(field, "absent")
    ]
    if differences:
        raise ValueError(
            f"{name} and {other_name} cannot be set side by side, their tasks"
            f"{' or networks' if network else ''} are not the same: {'; '.join(differences)}"
        )


class Policy:
    """A trained policy: observation in, action out, the same answer every time.

    It decides greedily; a diffusion actor denoises from x_K = 0 without further noise.
    """

    def __init__(
        self, agent: Agent, learner: Learner, spec: Spec, setting: Setting, name: str
    ) -> None:
        self.agent = agent
        self.learner = agent.acting(learner)
        self.spec = spec
        self.setting = setting
        self.name = name

    @functools.cached_property
    def _decide(self) -> Any:
        def decide(learner: Learner, observation: jax.Array) -> jax.Array:
            memory = self.agent.init_memory(self.spec)
            return self.agent.act(learner, memory, observation, jax.random.key(0), False)[0]

        return jax.jit(decide), jax.jit(jax.vmap(decide, in_axes=(None, 0)))

    def __call__(self, observation: Any) -> Any:
        """The action for one observation [observation_size], or [n] for [n, observation_size].

        Raises:
            ValueError: observations of another size, or with numbers that are not finite.
        """
        observation = np.asarray(observation)
        size = self.spec.observation_size
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise ValueError(
                f"observation must have shape ({size},) or (n, {size}), got {observation.shape}"
            )
        if not np.all(np.isfinite(observation)):
            raise ValueError("observation must be finite, got a NaN or an infinity")
        one, many = self._decide
        if observation.ndim == 1:
            action = np.asarray(one(self.learner, observation))
            return action if action.ndim else int(action)
        return np.asarray(many(self.learner, observation))

    @property
    def denoises(self) -> bool:
        """Whether its decisions are made from noise, by a diffusion actor."""
        agent: Any = getattr(self.agent, "inner", self.agent)
        return hasattr(agent, "chains") and agent.denoising_steps > 0

    @functools.cached_property
    def _draw(self) -> Any:
        agent: Any = self.agent
        return jax.jit(agent.chains, static_argnums=3)

    @functools.cached_property
    def _prefer(self) -> Any:
        return jax.jit(self.agent.preferences)

    def chains(self, observation: Any, number: int = 8, seed: int = 0) -> np.ndarray:
        """[number, K + 1, A] how noise becomes a choice: chains x_K, ..., x_0 at one observation.

        ``seed`` is of the noise. x_0 are the logits of the actions, or the scores of the servers.

        Raises:
            ValueError: a policy without a diffusion actor, no chain, or an observation that is
                not [observation_size].
        """
        if not self.denoises:
            kind = type(getattr(self.agent, "inner", self.agent)).__name__
            raise ValueError(
                f"{self.name} has no denoising to show: its agent, {kind}, has no "
                "diffusion actor (DSAC and ScoreTD3 have one, Pathwise with denoising_steps > 0)"
            )
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"number must be a positive whole number of chains, got {number!r}")
        observation = jnp.asarray(observation)
        if observation.shape != (self.spec.observation_size,):
            raise ValueError(
                f"observation must have shape ({self.spec.observation_size},), "
                f"got {observation.shape}"
            )
        return np.asarray(self._draw(self.learner, observation, jax.random.key(seed), number))

    def preferences(self, observation: Any) -> np.ndarray:
        """[A] what the greedy decision at one observation is made of: logits, values or scores."""
        return np.asarray(self._prefer(self.learner, jnp.asarray(observation)))

    def save(self, path: PathLike) -> Path:
        """Save the policy alone, for inference on any machine; returns the path.

        Where it was trained on tasks in memory, they are written beside it, to ``PATH.csv``.

        Raises:
            TypeError: it was trained on arrivals that no file can hold.
        """
        path = Path(path)
        setting = _in_a_file(self.setting, path.with_name(f"{path.name}.csv"))
        manifest = {
            "policy_format": POLICY_FORMAT,
            "observations": OBSERVATIONS,
            "name": self.name,
            "agent": _described(self.agent),
            "spec": self.spec._asdict(),
            "setting": dataclasses.asdict(setting),
        }
        return checkpoint.save_policy(path, self.learner, manifest)


def load_policy(path: PathLike) -> Policy:
    """A policy saved by :meth:`Policy.save`, of a run, or exported, on this machine's device.

    Args:
        path: what :meth:`Policy.save` wrote, the directory of a run, or a bundle.

    Raises:
        jaxmec.training.checkpoint.CheckpointError: nothing there, damaged, of a newer version, or
            trained to see what is no longer seen; the message names the file.
        jaxmec.core.bundle.BundleError: likewise of a bundle, any file of which may be damaged.
    """
    return files.read_settled(path, _load_policy)


def _load_policy(path: Path) -> Policy:
    if bundle.is_bundle(path):
        path = bundle.open_bundle(path).path / bundle.POLICY
    elif not (path / bundle.ONNX).exists() and files.standing(path / "policy").is_dir():
        path = path / "policy"  # a run's, not what is left of a bundle
    policy, about = read_policy(path)
    _refuse_old_observations(path, about, policy.setting)
    return policy


def read_policy(path: Path) -> tuple[Policy, dict[str, Any]]:
    """The policy in a directory, for whoever gives it its observations himself, and its manifest.

    Raises:
        jaxmec.training.checkpoint.CheckpointError: as :func:`load_policy`.
    """
    about = checkpoint.read_manifest(path).metadata
    if about.get("policy_format") != POLICY_FORMAT:
        raise checkpoint.CheckpointIncompatible(
            f"{path} is not a policy of format {POLICY_FORMAT}; it says "
            f"{about.get('policy_format')!r}"
        )
    checkpoint.check_metadata(path, about, POLICY_SCHEMA)
    agent = _agent_of(about["agent"], path)
    layout = tuple((part, length) for part, length in about["spec"].get("layout", ()))
    spec = _rebuilt(Spec, about["spec"] | {"layout": layout}, "spec", path)
    setting = _setting_of(about["setting"], path)
    template = jax.eval_shape(lambda key: agent.acting(agent.init(key, spec)), jax.random.key(0))
    learner, _ = checkpoint.restore(path, template)
    return Policy(agent, learner, spec, setting, about["name"]), about


def _refuse_old_observations(path: Path, about: Mapping[str, Any], setting: Setting) -> None:
    """Refuse what was trained to see a master node otherwise than it is seen now: its own work
    once for each server, or in a trace its tasks at another place."""
    options = dict(setting.options)
    reckons = {options.get("features"), options.get("allocation_information")}
    alone = options.get("information") in ("local", "slot")
    many = alone and reckons & {"expected", "priced"}
    place = options.get("show_place") and setting.trace is not None
    if about.get("observations", 1) >= 2 or not (many or place):
        return
    try:
        _, params = setting.make()
    except TraceError:
        return  # nor can it be played: who tries is told of the trace
    if params.stations < params.network.num_servers:
        raise checkpoint.CheckpointIncompatible(
            f"{path} was trained to see "
            + (
                f"the work of a master node {params.network.num_servers} times, once for each "
                "server; it is seen once now: "
                if many
                else "the tasks of a master node at places that are others now: "
            )
            + "train it again, or go on with the version of jaxmec that saved it"
        )


def _rebuilt(kind: Any, fields: Mapping[str, Any], what: str, path: Path) -> Any:
    """What was saved as fields; one that this version lacks, needs or refuses is named."""
    fault = None
    known = inspect.signature(kind).parameters
    lacking = [name for name in fields if name not in known]
    needed = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty and name not in fields
    ]
    if lacking:
        fault = f"the field {lacking[0]!r}, which this version of jaxmec lacks"
    elif needed:
        fault = f"no field {needed[0]!r}, which this version of jaxmec needs"
    else:
        try:
            return kind(**fields)
        except (TypeError, ValueError) as error:
            fault = f"what this version of jaxmec refuses: {error}"
    raise checkpoint.CheckpointIncompatible(f"{path / checkpoint.MANIFEST}: {what} has {fault}")


def _setting_of(about: Mapping[str, Any], path: Path) -> Setting:
    """The setting that a policy's manifest at ``path`` describes."""
    trace = about.get("trace")
    if trace is not None:
        _rebuilt(TraceFile, trace, "setting.trace", path)
    setting: Setting = _rebuilt(
        Setting, dict(Setting.fields_of({"options": (), **about})), "setting", path
    )
    if setting.env not in envs.ENVIRONMENTS:
        raise checkpoint.CheckpointIncompatible(
            f"{path / checkpoint.MANIFEST}: setting.env is {setting.env!r}, which this version of "
            f"jaxmec lacks; it has {', '.join(envs.ENVIRONMENTS)}"
        )
    known = envs.find_environment(setting.env).option_names
    for name, _ in setting.options:
        if name not in known:
            raise checkpoint.CheckpointIncompatible(
                f"{path / checkpoint.MANIFEST}: setting.options has {name!r}, which this version "
                f"of jaxmec lacks for {setting.env}"
            )
    return setting


def _described(agent: Any) -> dict[str, Any]:
    """An agent as JSON holds it; one that is made of another holds it the same way."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return _described(value)
        return value.tolist() if hasattr(value, "tolist") else value

    fields = {field.name: plain(getattr(agent, field.name)) for field in dataclasses.fields(agent)}
    return {"class": type(agent).__name__, "fields": fields}


def _agent_of(about: dict[str, Any], path: Path) -> Agent:
    """The agent that :func:`_described` wrote into the policy at ``path``."""
    kinds: dict[str, Any] = {kind.__name__: kind for kind in agents.AGENTS}
    if about["class"] not in kinds:
        raise checkpoint.CheckpointIncompatible(
            f"{path} was trained by an agent that is not known here, {about['class']!r}"
        )

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return _agent_of(value, path)
        return tuple(value) if isinstance(value, list) else value

    retired = RETIRED.get(about["class"], ())
    fields = {k: whole(value) for k, value in about["fields"].items() if k not in retired}
    agent: Agent = _rebuilt(kinds[about["class"]], fields, f"agent {about['class']}", path)
    return agent


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What `train` returns: S runs that differ in their seed."""

    name: str
    agent: Agent
    setting: Setting
    config: Config
    seeds: tuple[int, ...]
    history: History  # [S, P]
    state: Any  # the training states, [S]
    directory: Path | None

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The final policy of each seed."""
        env, params = self.setting.make()
        spec = make_spec(env, params)
        learners = self.agent.acting(self.state.learner)
        return tuple(
            Policy(
                self.agent,
                jax.tree.map(lambda leaf, run=run: leaf[run], learners),
                spec,
                self.setting,
                self.name,
            )
            for run in range(len(self.seeds))
        )

    @property
    def policy(self) -> Policy:
        """The final policy of the seed whose last evaluation during training was best.

        For a comparison use `evaluate(result)`, which takes every seed.
        """
        last = np.asarray(self.history.evaluation["return"])[:, -1]
        return self.policies[int(np.nanargmax(last))]

    def save(self, path: PathLike) -> Path:
        """Save :attr:`policy`, for :func:`load_policy`."""
        return self.policy.save(path)


def train(
    method: str | Agent = "dsac",
    *,
    published: bool = False,
    scale: str = "cpu",
    env: str | None = None,
    preset: str | None = None,
    seeds: int | Sequence[int] = 1,
    preset_seed: int = 0,
    config: Config | None = None,
    own: Config | None = None,
    directory: PathLike | None = None,
    resume: bool = False,
    progress: bool | Display = True,
    deterministic: bool = False,
    name: str | None = None,
    start: Policy | TrainResult | PathLike | None = None,
    trace: PathLike | TraceFile | None = None,
    tensorboard: bool = False,
    wandb: str | None = None,
    devices: int | str = 1,
    seeds_at_once: int | str | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a method, S seeds side by side in one compiled program.

    Where it starts from another method, that one is trained first, in ``directory/start``, and
    what is returned is of the second.

    Args:
        method: a name in `jaxmec.methods`, or an agent of your own.
        published: the hyperparameters, information and sizes as the method's authors had
            them, instead of ours.
        scale: our settings for few environments ("cpu"), or for thousands ("gpu"), which need
            fewer updates one after the other, each of more transitions (docs/scale.md).
        env, preset: where; by default what the method is for.
        seeds: how many (0..S−1), or which.
        preset_seed: of what a preset draws once.
        config: all sizes of the training; by default the method's.
        own: the sizes of which ``config`` is as much or as little as what it starts from is to be
            of its own; by default the method's, of an agent those of its kind of training.
        directory: where metrics and checkpoints go; nowhere by default.
        resume: go on from the newest checkpoint in ``directory``, to the bit.
        progress: show a progress display, or the caller's own.
        deterministic: ask a GPU for operations that give the same bits every time; slower.
        name: what to call the result; by default the method's name.
        start: a policy, or the path of a saved one, of a run or of a bundle, whose actor training
            begins with, instead of fresh parameters: the same for all seeds, or that of each seed
            of a result, or of a method by its name, which is trained first (cloning is shortened
            as this training is). A bare name that a method has is the method; ``./NAME`` is the
            path. By default what the method says. The networks must be the same.
        trace: a file of tasks (`jaxmec.traces`) that arrive instead of the preset's, the same in
            every episode.
        tensorboard: write TensorBoard's event file beside the metrics in ``directory`` (extra
            ``tensorboard``).
        wandb: a project of Weights & Biases to log to (extra ``wandb``).
        devices: how many to use, or "all": the seeds are shared out among them, or the
            environments (`jaxmec.training.devices`); in several processes "all".
        seeds_at_once: seeds side by side, and the others after them; "auto" for as many as
            the memory holds; all by default.
        env_options: options of `jaxmec.make`, all together; a ``workload`` made by
            `jaxmec.mec.trace_workload` is written to ``directory/trace.csv`` and is a trace.
        options: single fields to change: of the config (``steps``, ``num_envs``, ...), of
            the agent (``discount``, ``hidden``, ...), of the environment or its preset
            (``information``, ``probability``, ...). A name that means several things is
            refused; it is written in full, with ``config.``, ``agent.`` or ``env.`` before it:
            ``train("lad-ts", **{"agent.start": "noise"})``.

    Raises:
        ValueError, TypeError: a wrong name or value; the message says what is right.
        jaxmec.traces.TraceError: a trace that cannot be read, by row and column.
        ImportError: an extra is missing; the message names it.
    """
    recipe = prepared(
        method,
        published=published,
        scale=scale,
        env=env,
        preset=preset,
        preset_seed=preset_seed,
        config=config,
        own=own,
        name=name,
        start=start,
        trace=trace,
        env_options=env_options,
        **options,
    )
    if directory is not None:
        home = Path(directory)
        if "workload" in dict(recipe.setting.options):  # it is to lie in the run's directory
            if not resume:
                runner.check_home(home, resume)
            recipe = recipe.moved(_in_a_file(recipe.setting, home / TRACE))
        if resume:
            _refuse_other_course(home, recipe.setting.trace)
    return _train(
        recipe,
        seeds,
        directory=directory,
        resume=resume,
        progress=progress,
        deterministic=deterministic,
        tensorboard=tensorboard,
        wandb=wandb,
        devices=devices,
        seeds_at_once=seeds_at_once,
    )


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
        if not isinstance(self.config, CloningConfig):  # whose demonstrations take long to trace
            trainer = runner.TRAINERS[type(self.config)]
            begin = functools.partial(
                trainer.init, agent, self.environment, self.params, self.config
            )
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
    return (Demonstrator(environment) if isinstance(config, CloningConfig) else environment), params


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
    setting = Setting(env, preset, preset_seed, tuple(sorted(chosen.items())), _trace(trace))
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


def _train(
    recipe: Recipe,
    seeds: int | Sequence[int],
    *,
    directory: PathLike | None,
    resume: bool,
    progress: bool | Display,
    deterministic: bool,
    tensorboard: bool,
    wandb: str | None,
    devices: int | str,
    seeds_at_once: int | str | None,
) -> TrainResult:
    """Train it; arguments and errors are those of :func:`train`."""
    name, agent, config, setting = recipe.name, recipe.agent, recipe.config, recipe.setting
    environment, params, start = recipe.environment, recipe.params, recipe.start
    if tensorboard and directory is None:
        raise ValueError("tensorboard needs directory (--out), where its event file goes")
    if (teacher := recipe.teacher) is not None:
        if directory is not None and not resume:
            runner.check_home(Path(directory), resume)  # before anything is trained
        start = train(
            start,
            seeds=seeds,
            directory=None if directory is None else Path(directory) / runner.START,
            resume=resume,
            progress=progress,
            deterministic=deterministic,
            devices=devices,
            seeds_at_once=seeds_at_once,
            tensorboard=tensorboard,
            **teacher,
        )
        # Stopped before its first part ended, it has nothing of its own to go on from.
        resume = resume and parts.has_begun(Path(directory))  # type: ignore[arg-type]
    about = {
        "method": name,
        "setting": dataclasses.asdict(setting),
        "observations": OBSERVATIONS,
    }
    watching: list[trackers.Tracker] = [trackers.TensorBoard()] if tensorboard else []
    if wandb is not None:
        told = {**about, "agent": _described(agent), "config": dataclasses.asdict(config)}
        watching.append(trackers.WandB(wandb, name, told))
    run = parts.run(
        agent,
        environment,
        params,
        config,
        seeds,
        directory=directory,
        resume=resume,
        progress=progress,
        deterministic=deterministic,
        start=None if start is None else _starting(start, agent, environment, params, seeds),
        metadata=about,
        trackers=watching,
        devices=devices,
        seeds_at_once=seeds_at_once,
    )
    numbers = _numbers(seeds)
    state: Any = run.state
    if devices != 1:  # the learners are small, and wanted where policies are played and saved
        learners = jax.device_put(on_devices.gather(state.learner), jax.local_devices()[0])
        state = state._replace(learner=learners)
    result = TrainResult(name, agent, setting, config, numbers, run.history, state, run.directory)
    if run.directory is not None and on_devices.is_first():
        result.save(run.directory / "policy")
    return result


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
    if isinstance(lesson, CloningConfig):
        lesson = lesson.shortened(config.steps / own.steps)
    teacher: Any = settings.agent()
    network = _network_of(agent, teacher)
    return dataclasses.replace(teacher, **network), lesson, network


def _in_a_file(setting: Setting, file: Path) -> Setting:
    """The setting, whose tasks lie in a file where they were in memory: what can be saved.

    A file that is there already, of a run that goes on say, must hold the same tasks.

    Raises:
        ValueError: it holds others, or there is a deadline that no file holds.
        TypeError: arrivals that are no list of tasks.
    """
    options = dict(setting.options)
    workload = options.pop("workload", None)
    if workload is None:
        return setting
    if not isinstance(workload, TraceWorkload):
        raise TypeError(
            f"workload is a {type(workload).__name__}, which cannot be saved; expected what "
            "jaxmec.mec.trace_workload makes, a trace file (trace=), or fields of the preset"
        )
    columns: dict[str, Any] = {name: getattr(workload, name) for name in traces.Rows._fields}
    columns = {name: np.asarray(column) for name, column in columns.items() if column is not None}
    slots = int(workload.slots)
    if not np.all(np.isfinite(columns.get("deadline", 0.0))):
        raise ValueError("deadline must be finite for tasks that are to be saved, got an infinity")
    if not file.exists():
        traces.write(file, traces.Rows(**columns))
    elif not _same_columns(columns, traces.read_rows(file).first(slots)._asdict()):
        raise ValueError(
            f"{file} holds other tasks than those in memory; save elsewhere, or move it away"
        )
    kept = tuple(sorted(options.items()))
    return dataclasses.replace(setting, options=kept, trace=TraceFile.of(file, slots))


def _same_columns(columns: Mapping[str, np.ndarray], kept: Mapping[str, Any]) -> bool:
    """Whether tasks are those of a file, as near as it is written."""
    kept = {name: column for name, column in kept.items() if column is not None}
    return columns.keys() == kept.keys() and all(
        column.shape == kept[name].shape and np.allclose(column, kept[name], rtol=1e-8, atol=0)
        for name, column in columns.items()
    )


def _trace(trace: PathLike | TraceFile | None) -> TraceFile | None:
    return trace if trace is None or isinstance(trace, TraceFile) else TraceFile.of(trace)


def _refuse_other_course(directory: Path, trace: TraceFile | None) -> None:
    """A run goes on with the tasks that it began with, wherever their file lies now, and with
    observations that mean what they did."""
    homes = [directory, *(parts.begun(directory) if directory.is_dir() else ())]
    folders = [home / runner.CHECKPOINTS for home in homes]
    begun = [folder for folder in folders if checkpoint.checkpoints(folder)]
    if not begun:
        return  # the runner says so
    newest = checkpoint.find(begun[0])
    about = runner.read_saved(newest)["caller"]
    setting = None
    if about.get("setting") is not None:
        checkpoint.check_metadata(newest, about["setting"], SETTING_SCHEMA)
        setting = _setting_of(about["setting"], newest)
    was = None if setting is None else setting.trace

    def content(trace: TraceFile | None) -> Any:
        return trace and (trace.sha256, trace.slots)

    if content(was) != content(trace):
        raise ValueError(
            f"cannot resume {directory}: its trace was {was or 'none'} and is {trace or 'none'} now"
        )
    if setting is not None:
        _refuse_old_observations(directory, about, setting)


def _numbers(seeds: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)


def _network_of(agent: Any, other: Any) -> dict[str, Any]:
    """What an agent's network is, as far as the other agent can be told."""
    return {
        field: getattr(agent, field)
        for field in OF_NETWORK
        if hasattr(agent, field) and hasattr(other, field)
    }


def _starting(
    start: Policy | TrainResult | PathLike,
    agent: Any,
    environment: Any,
    params: Any,
    seeds: int | Sequence[int],
) -> Any:
    """[S] the parameters of the actor that each seed begins with.

    Raises:
        TypeError: an agent without an actor that it could begin with, or a policy without one.
        ValueError: a result of other seeds, an actor of another shape (names the leaf), or
            neither a method nor a path that is there.
    """
    if isinstance(start, str) and os.sep not in start and not Path(start).exists():
        look_up("start", start, METHODS)
    if not isinstance(start, Policy | TrainResult):
        start = load_policy(start)
    for owner in (agent, start.agent):
        if not hasattr(owner, "judged_actor"):
            raise TypeError(f"start goes with agents over scores, got {type(owner).__name__}")
    if isinstance(start, TrainResult):
        policies = start.policies
        if start.seeds != _numbers(seeds):
            raise ValueError(f"start has the seeds {start.seeds}; expected {_numbers(seeds)}")
    else:
        policies = (start,) * len(_numbers(seeds))
    spec = make_spec(environment, params)
    wanted = jax.eval_shape(
        lambda key: agent.judged_actor(agent.init(key, spec)), jax.random.key(0)
    )
    of_policy: Any = start.agent
    actors = [of_policy.judged_actor(policy.learner) for policy in policies]
    expected, given = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (wanted, actors[0]))
    )
    for leaf in sorted(expected.keys() | given.keys()):
        if expected.get(leaf) != given.get(leaf):
            raise ValueError(
                f"start: {policies[0].name}'s actor has {leaf} of shape {given.get(leaf)}; "
                f"expected {expected.get(leaf)}, as of {type(agent).__name__}"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *actors)


SHARED = {
    "k": ("agent", "env"),  # how many servers top-k names
    "discount": ("agent",),  # a preset's is what its authors used, and changes nothing
}
"""Names that two layers share on purpose, and which of them take the value."""


def option_layers(agent: Any, config: Config, env: str) -> dict[str, set[str]]:
    """The names of the single fields that a training can change, by what they belong to."""
    each = agent.inner if isinstance(agent, agents.PerStation) else agent
    return {
        "config": {field.name for field in dataclasses.fields(config)},
        "agent": {field.name for field in dataclasses.fields(each)},  # type: ignore[arg-type]
        "env": envs.find_environment(env).option_names,
    }


@dataclasses.dataclass(frozen=True)
class Report:
    """How one policy, or the policies of S seeds, did on the same episodes."""

    name: str
    setting: Setting
    information: str | None  # what the policy saw; None for CartPole
    values: dict[str, np.ndarray]  # [S, episodes] by metric: "return", "length", "makespan", ...
    seed: int | None = None  # of the episodes, where it is known

    @property
    def num_seeds(self) -> int:
        """S."""
        return next(iter(self.values.values())).shape[0]

    def samples(self, metric: str) -> np.ndarray:
        """[n] what the interval is over: seeds where there are several, else episodes."""
        if metric not in self.values:
            raise KeyError(f"the report has no metric {metric!r}; it has {', '.join(self.values)}")
        values = self.values[metric]
        return values.mean(axis=1, dtype=float) if self.num_seeds > 1 else values[0]

    def mean(self, metric: str) -> float:
        """The mean over seeds and episodes."""
        return float(np.mean(self.values[metric], dtype=float))

    def interval(self, metric: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of Student's t around the mean; over seeds, or episodes of one seed."""
        return t_interval(self.samples(metric), level)

    def ratio(self, reference: Report, metric: str = "makespan") -> np.ndarray:
        """[n] this report over another on the same episodes, paired (see :meth:`samples`)."""
        self.check_same_episodes(reference)
        mine, other = self.values[metric], reference.values[metric]
        if self.num_seeds > 1:
            return mine.mean(axis=1) / other.mean()
        return mine[0] / other.mean(axis=0)

    def difference(self, reference: Report, metric: str = "makespan") -> np.ndarray:
        """[n] this report less another on the same episodes: paired by episode and by seed.

        One a seed where either has several (a report of one seed is set against each of the
        other's), else one an episode.

        Raises:
            ValueError: not the same episodes, or both with several seeds, but not as many.
        """
        mine, other = self.values[metric], reference.values[metric]
        self.check_same_episodes(reference)
        if self.num_seeds > 1 < reference.num_seeds != self.num_seeds:
            raise ValueError(
                f"{self.name} has {self.num_seeds} seeds and {reference.name} has "
                f"{reference.num_seeds}: they cannot be paired"
            )
        difference = mine - other
        return difference.mean(axis=1) if difference.shape[0] > 1 else difference[0]

    def check_same_episodes(self, reference: Report) -> None:
        """Both met the same tasks: drawn alike, from the same seed, in as many episodes.

        Raises:
            ValueError: they did not; names what differs.
        """
        check_same_tasks(self.name, self.setting, reference.name, reference.setting)
        if None not in (self.seed, reference.seed) and self.seed != reference.seed:
            raise ValueError(
                f"{self.name} was played in the episodes of seed {self.seed} and {reference.name} "
                f"in those of seed {reference.seed}: not the same episodes"
            )
        mine, other = (report.values["return"].shape[1] for report in (self, reference))
        if mine != other:
            raise ValueError(f"the reports have {mine} and {other} episodes: not the same ones")
        if "makespan" in self.values and "length" in self.values and "length" in reference.values:
            tasks, others = self.values["length"], reference.values["length"]
            if not np.array_equal(tasks[0], others[0]):
                raise ValueError(
                    f"{self.name} met {tasks[0].astype(int).tolist()} tasks and {reference.name} "
                    f"{others[0].astype(int).tolist()}: not the same episodes"
                )

    def __str__(self) -> str:
        over = "seeds" if self.num_seeds > 1 else "episodes"
        over = f"{self.samples('return').size} {over}"
        lines = [f"{quoted(self.name)}: mean and 95 % interval over {over}"]
        for metric in self.values:
            low, high = self.interval(metric)
            line = f"  {metric:<10} {self.mean(metric):10.4f}  [{low:.4f}, {high:.4f}]  "
            lines.append((line + UNITS.get(metric, "")).rstrip())
        return "\n".join(lines)


def evaluate(
    policy: str | Policy | TrainResult | Scheduler | PathLike,
    *,
    env: str | None = None,
    preset: str | None = None,
    episodes: int = 20,
    seed: int = 1,
    preset_seed: int | None = None,
    trace: PathLike | TraceFile | None = None,
    **options: Any,
) -> Report:
    """Play whole episodes with a policy, a scheduler, or the policies of all seeds of a result.

    With the same ``seed``, environment and preset everybody meets the same tasks at the
    same times, whatever they decide and see.

    Args:
        policy: a scheduler's name (`jaxmec.schedulers`), a trained policy, the path of a saved
            one, of a run or of a bundle, or a training result, whose seeds are all evaluated.
            A bare name is the scheduler; ``./local`` is the path.
        env, preset, preset_seed: where; by default where the policy was trained, and for a
            scheduler the multi-server environment with its default preset.
        episodes: how many.
        seed: of the episodes; no training uses them.
        trace: a file of tasks (`jaxmec.traces`), the same in every episode; by default the one
            that the policy was trained on, if there is one.
        options: of `jaxmec.make`: ``information`` for a scheduler, ``allocation_information``
            ("true" is what the published methods were given), and fields of the preset.

    Raises:
        ValueError, TypeError: a wrong name or value; a policy that does not fit the
            environment; a scheduler that is allowed less than it needs to know.
        jaxmec.traces.TraceError: a trace that cannot be read, or the policy's own, which is gone
            or is not what it was.
        jaxmec.training.checkpoint.CheckpointError, jaxmec.core.bundle.BundleError: no policy at a
            path, or a damaged one.
    """
    policy = opened(policy)
    policies = policy.policies if isinstance(policy, TrainResult) else (policy,)
    player = player_of(
        policies[0], env=env, preset=preset, preset_seed=preset_seed, trace=trace, **options
    )

    def run(learner: Learner, memory: Any, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        rule = player.decides(learner, params)
        return play(rule, memory, player.environment, params, episodes, key)

    learners = player.learner
    if trained := [each.learner for each in policies if isinstance(each, Policy)]:
        learners = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained)
        run = jax.vmap(run, in_axes=(0, None, None, None))
    compiled = jax.jit(run, compiler_options=compilation.options())
    results = compiled(learners, player.memory, player.params, evaluation_key(seed))
    values = {name: np.asarray(value) for name, value in results.items()}
    if not trained:
        values = {name: value[None] for name, value in values.items()}
    return Report(player.name, player.setting, player.information, values, seed)


def evaluation_key(seed: int) -> jax.Array:
    """The key of the episodes that `evaluate` plays with a seed, apart from all training keys."""
    return jax.random.fold_in(jax.random.key(seed), 0x6A6D6563)


@dataclasses.dataclass(frozen=True)
class Player:
    """Who decides, and where."""

    name: str
    setting: Setting
    environment: Any
    params: Any
    decides: Callable[[Learner, Any], Decides]  # from the learner of one seed, and the parameters
    learner: Learner  # of a trained policy; () of a scheduler
    memory: Any  # before the first decision of an episode

    @property
    def information(self) -> str | None:
        """What it sees; None for CartPole."""
        return getattr(self.environment, "information", None)


def opened(
    policy: str | Policy | TrainResult | Scheduler | PathLike,
) -> Policy | TrainResult | Scheduler:
    """What a name or a path stands for: a bare name that a scheduler has is the scheduler.

    Everything else that is text, and every `pathlib.Path`, is the path of a saved policy, of a
    run or of a bundle; ``./local`` is the path where ``local`` is a scheduler too.

    Raises:
        ValueError: neither a scheduler nor a path that is there.
        jaxmec.training.checkpoint.CheckpointError, jaxmec.core.bundle.BundleError: no policy there,
            or a damaged one; see :func:`load_policy`.
    """
    if isinstance(policy, Policy | TrainResult | Scheduler):
        return policy
    if not isinstance(policy, str | os.PathLike):
        raise TypeError(
            "expected a scheduler's name, the path of a policy, or a policy, got "
            f"{type(policy).__name__}"
        )
    if isinstance(policy, str) and policy in SCHEDULERS:
        return SCHEDULERS[policy]
    path = Path(policy)
    if isinstance(policy, os.PathLike) or path.exists():
        return load_policy(path)
    if os.sep in policy or path.suffix:
        raise ValueError(f"there is no policy at {path}")
    return find_scheduler(policy)  # which suggests the nearest name


def _of_environment(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names in the environment, whether or not written ``env.NAME``."""
    plain = {name.removeprefix("env."): value for name, value in options.items()}
    if len(plain) < len(options):
        twice = next(name for name in options if f"env.{name}" in options)
        raise TypeError(f"env.{twice} is given twice")
    return plain


def player_of(
    policy: str | Policy | TrainResult | Scheduler | PathLike,
    *,
    env: str | None = None,
    preset: str | None = None,
    preset_seed: int | None = None,
    trace: PathLike | TraceFile | None = None,
    **options: Any,
) -> Player:
    """A policy or a scheduler in the environment that `evaluate` would play it in.

    Arguments and errors are those of :func:`evaluate`, but of a result's policies the best plays.
    """
    options = _of_environment(options)
    if trace is not None and "workload" in options:
        raise TypeError("trace and workload are both arrivals; give one")
    policy = opened(policy)
    if isinstance(policy, TrainResult):
        policy = policy.policy
    if isinstance(policy, Scheduler):
        return _scheduling(policy, env, preset, preset_seed or 0, _trace(trace), options)
    setting = policy.setting
    if env is not None and env != setting.env:
        raise ValueError(f"{policy.name} was trained on {setting.env}, not on {env}")
    own = dict(setting.options)
    if trace is not None:
        own.pop("workload", None)
    elif "workload" not in options:
        trace = setting.trace
    setting = dataclasses.replace(
        setting,
        preset=setting.preset if preset is None else preset,
        seed=setting.seed if preset_seed is None else preset_seed,
        options=tuple(sorted((own | options).items())),
        trace=_trace(trace),
    )
    environment, params = setting.make()
    spec = make_spec(environment, params)
    if spec != policy.spec:
        raise ValueError(
            f"{policy.name} was trained with {policy.spec.observation_size} observations and "
            f"{policy.spec.num_actions} actions; here there are {spec.observation_size} and "
            f"{spec.num_actions}"
        )
    agent = policy.agent
    return Player(
        policy.name,
        setting,
        environment,
        params,
        lambda learner, params: greedy(agent, learner),
        policy.learner,
        agent.init_memory(spec),
    )


def _scheduling(
    scheduler: Scheduler,
    env: str | None,
    preset: str | None,
    preset_seed: int,
    trace: TraceFile | None,
    options: dict[str, Any],
) -> Player:
    row = envs.find_environment(FOR_SCHEDULERS if env is None else env)
    env = row.name
    if not row.schedules:
        raise ValueError(f"scheduler {scheduler.name!r} schedules tasks; {env} has none")
    options = dict(options)
    if options.pop("neighbours", None) is not None:
        raise ValueError(
            f"neighbours must be None for scheduler {scheduler.name!r}, which sees all servers"
        )
    options["information"] = scheduler.allowed_information(options.get("information"))
    options |= dict(row.set_options)
    if row.problem == "multi":
        options = {
            "allocate": scheduler.allocate,
            "allocation_information": scheduler.allocation_information,
            **options,
        }
    elif scheduler.problem != "single":
        raise ValueError(f"scheduler {scheduler.name!r} selects sets of servers; {env} takes one")
    setting = Setting(
        env, preset or row.default_preset, preset_seed, tuple(sorted(options.items())), trace
    )
    environment, params = setting.make()

    def decides(learner: tuple[()], params: Any) -> Decides:
        def rule(key: jax.Array, observation: Any, state: Any, memory: Any) -> tuple[Any, Any]:
            del observation
            view = environment.view(state, params)
            selected, memory = scheduler.decide(params, view, memory, key)
            return environment.set_action(selected), memory

        return rule

    return Player(
        scheduler.name,
        setting,
        environment,
        params,
        decides,
        (),
        scheduler.first_memory(environment, params),
    )
