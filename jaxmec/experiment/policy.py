"""A trained policy, saved and loaded."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmec import agents, envs
from jaxmec.agents.base import Agent, DenoisingAgent, Learner, Spec
from jaxmec.agents.per_station import of_station
from jaxmec.core import bundle, checks, files
from jaxmec.core.types import Document
from jaxmec.experiment.setting import SETTING_SCHEMA, PathLike, Setting, in_a_file, plain
from jaxmec.traces import TraceError, TraceFile
from jaxmec.training import checkpoint

POLICY_FORMAT = 1
# What observations mean, in what is saved. 2: where the features or the allocation reckon with all
# stations doing as one has, a master node is one; before, it counted as one for each server.
OBSERVATIONS = 2
# Fields of agents that saved policies have and that agents have no longer; none of them says how
# a policy decides.
RETIRED = {"Pathwise": ("decay_updates",)}
# Options that environments have no longer: what is saved may name them as long as they are off.
RETIRED_OPTIONS = {"privileged": False}
# Agents of earlier versions, and what to do instead of loading them.
GONE_AGENTS = {
    "ScoreTD3": "train 'ddrl-amsa-pathwise', or go on with the version of jaxmec that saved it",
}
_SIZE = checks.whole(1, 2**20)
POLICY_SCHEMA = checks.record(
    {
        "name": checks.text(),
        "agent": checks.record({"class": checks.text(), "fields": checks.mapping(checks.anything)}),
        "spec": checks.record(
            {"observation_size": _SIZE, "num_actions": _SIZE},
            {"layout": checks.listing(checks.pair(checks.text(), _SIZE))},
        ),
        "setting": SETTING_SCHEMA,
    }
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
    def _decide(self) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
        def decide(learner: Learner, observation: jax.Array) -> jax.Array:
            memory = self.agent.init_memory(self.spec)
            return self.agent.act(learner, memory, observation, jax.random.key(0), False)[0]

        return jax.jit(decide), jax.jit(jax.vmap(decide, in_axes=(None, 0)))

    def __call__(self, observation: ArrayLike) -> Any:
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
        agent = of_station(self.agent)
        return isinstance(agent, DenoisingAgent) and agent.denoising_steps > 0

    @functools.cached_property
    def _draw(self) -> Callable[..., jax.Array]:
        agent: Any = self.agent
        return jax.jit(agent.chains, static_argnums=3)

    @functools.cached_property
    def _prefer(self) -> Callable[..., jax.Array]:
        return jax.jit(self.agent.preferences)

    def chains(self, observation: ArrayLike, number: int = 8, seed: int = 0) -> np.ndarray:
        """[number, K + 1, A] how noise becomes a choice: chains x_K, ..., x_0 at one observation.

        ``seed`` is of the noise. x_0 are the logits of the actions, or the scores of the servers.

        Raises:
            ValueError: a policy without a diffusion actor, no chain, or an observation that is
                not [observation_size].
        """
        if not self.denoises:
            kind = type(of_station(self.agent)).__name__
            raise ValueError(
                f"{self.name} has no denoising to show: its agent, {kind}, has no "
                "diffusion actor (DSAC has one, Pathwise with denoising_steps > 0)"
            )
        number = checks.integer("number", number)
        observation = jnp.asarray(observation)
        if observation.shape != (self.spec.observation_size,):
            raise ValueError(
                f"observation must have shape ({self.spec.observation_size},), "
                f"got {observation.shape}"
            )
        return np.asarray(self._draw(self.learner, observation, jax.random.key(seed), number))

    def preferences(self, observation: ArrayLike) -> np.ndarray:
        """[A] what the greedy decision at one observation is made of: logits, values or scores."""
        return np.asarray(self._prefer(self.learner, jnp.asarray(observation)))

    def save(self, path: PathLike) -> Path:
        """Save the policy alone, for inference on any machine; returns the path.

        Where it was trained on tasks in memory, they are written beside it, to ``PATH.csv``.

        Raises:
            TypeError: it was trained on arrivals that no file can hold.
        """
        path = Path(path)
        setting = in_a_file(self.setting, path.with_name(f"{path.name}.csv"))
        manifest = {
            "policy_format": POLICY_FORMAT,
            "observations": OBSERVATIONS,
            "name": self.name,
            "agent": plain(self.agent),
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
    refuse_old_observations(path, about, policy.setting)
    return policy


def read_policy(path: Path) -> tuple[Policy, Document]:
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
    setting = setting_of(about["setting"], path)
    template = jax.eval_shape(lambda key: agent.acting(agent.init(key, spec)), jax.random.key(0))
    learner, _ = checkpoint.restore(path, template)
    return Policy(agent, learner, spec, setting, about["name"]), about


def refuse_old_observations(path: Path, about: Document, setting: Setting) -> None:
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


def _rebuilt(kind: Any, fields: Mapping[str, object], what: str, path: Path) -> Any:
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


def setting_of(about: Document, path: Path) -> Setting:
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
    options = tuple(pair for pair in setting.options if pair not in RETIRED_OPTIONS.items())
    setting = dataclasses.replace(setting, options=options)
    known = envs.find_environment(setting.env).option_names
    for name, _ in options:
        if name not in known:
            raise checkpoint.CheckpointIncompatible(
                f"{path / checkpoint.MANIFEST}: setting.options has {name!r}, which this version "
                f"of jaxmec lacks for {setting.env}"
            )
    return setting


def _agent_of(about: Document, path: Path) -> Agent:
    """The agent that :func:`plain` wrote into the policy at ``path``."""
    name = about["class"]
    if name in GONE_AGENTS:
        raise checkpoint.CheckpointIncompatible(
            f"{path} was trained by {name}, an agent that is gone: {GONE_AGENTS[name]}"
        )
    if name not in agents.AGENTS:
        raise checkpoint.CheckpointIncompatible(
            f"{path} was trained by an agent that is not known here, {name!r}; if it is your own, "
            f"import its class and add it first: jaxmec.agents.AGENTS[{name!r}] = {name}"
        )

    def whole(value: object) -> object:
        if isinstance(value, dict):
            return _agent_of(value, path)
        return tuple(value) if isinstance(value, list) else value

    retired = RETIRED.get(name, ())
    fields = {k: whole(value) for k, value in about["fields"].items() if k not in retired}
    agent: Agent = _rebuilt(agents.AGENTS[name], fields, f"agent {name}", path)
    return agent
