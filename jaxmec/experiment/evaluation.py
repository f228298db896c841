"""Play policies and schedulers in the same episodes."""

from __future__ import annotations

import dataclasses
import os
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec import envs
from jaxmec.agents.base import Agent, Learner
from jaxmec.core import checks, compilation
from jaxmec.core.types import EnvParams, EnvState, Keywords, Memory
from jaxmec.envs.table import FOR_RULES, FOR_SCHEDULERS
from jaxmec.experiment.policy import Policy, load_policy
from jaxmec.experiment.report import Report
from jaxmec.experiment.result import TrainResult
from jaxmec.experiment.setting import PathLike, Setting, as_trace_file
from jaxmec.schedulers import SCHEDULERS, Scheduler, find_scheduler
from jaxmec.serving.rules import RULES, ServingRule
from jaxmec.traces import TraceFile
from jaxmec.training.evaluate import Policy as Decides
from jaxmec.training.evaluate import evaluate as play
from jaxmec.training.evaluate import greedy
from jaxmec.training.evaluate import sampled as drawn
from jaxmec.training.rollout import make_spec


def evaluate(
    policy: str | Policy | TrainResult | Scheduler | ServingRule | PathLike,
    *,
    env: str | None = None,
    preset: str | None = None,
    episodes: int = 20,
    seed: int = 1,
    preset_seed: int | None = None,
    trace: PathLike | TraceFile | None = None,
    sampled: bool = False,
    **options: object,
) -> Report:
    """Play whole episodes with a policy, a scheduler, or the policies of all seeds of a result.

    With the same ``seed``, environment and preset everybody meets the same tasks at the
    same times, whatever they decide and see.

    Args:
        policy: a scheduler's name (`jaxmec.schedulers`), or of a rule of the environment
            (`jaxmec.serving.rules`), a trained policy, the path of a saved
            one, of a run or of a bundle, or a training result, whose seeds are all evaluated.
            A bare name is the scheduler; ``./local`` is the path.
        env, preset, preset_seed: where; by default where the policy was trained, and for a
            scheduler the multi-server environment with its default preset.
        episodes: how many.
        seed: of the episodes; no training uses them.
        trace: a file of tasks (`jaxmec.traces`), of requests where those are served, the same in
            every episode; by default the one that the policy was trained on, if there is one.
        sampled: draw from trained policies that are random, instead of the greedy action.
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
    policy = opened(policy, env)
    policies = policy.policies if isinstance(policy, TrainResult) else (policy,)
    player = player_of(
        policies[0],
        env=env,
        preset=preset,
        preset_seed=preset_seed,
        trace=trace,
        sampled=sampled,
        **options,
    )
    return _report(player, policies, episodes, seed, sampled)


def _report(
    player: Player,
    policies: Sequence[Policy | Scheduler | ServingRule],
    episodes: int,
    seed: int,
    sampled: bool,
) -> Report:
    """How a player did, with the learner of each of the policies."""

    def run(
        learner: Learner, memory: Memory, params: EnvParams, key: jax.Array
    ) -> dict[str, jax.Array]:
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
    judged = None
    if trained:
        judged = "sampled" if sampled else "greedy"
    return Report(player.name, player.setting, player.information, values, seed, judged)


def evaluation_key(seed: int) -> jax.Array:
    """The key of the episodes that `evaluate` plays with a seed, apart from all training keys."""
    return jax.random.fold_in(jax.random.key(seed), 0x6A6D6563)


@dataclasses.dataclass(frozen=True)
class Player:
    """Who decides, and where."""

    name: str
    setting: Setting
    environment: Any
    params: EnvParams
    decides: Callable[[Learner, EnvParams], Decides]  # from one seed's learner, and the parameters
    learner: Learner  # of a trained policy; () of a scheduler
    memory: Memory  # before the first decision of an episode

    @property
    def information(self) -> str | None:
        """What it sees; None for CartPole."""
        return getattr(self.environment, "information", None)


def opened(
    policy: str | Policy | TrainResult | Scheduler | ServingRule | PathLike,
    env: str | None = None,
) -> Policy | TrainResult | Scheduler | ServingRule:
    """What a name or a path stands for: a bare name that a scheduler has is the scheduler.

    Where the environment has rules of its own, a bare name is one of theirs.

    Everything else that is text, and every `pathlib.Path`, is the path of a saved policy, of a
    run or of a bundle; ``./local`` is the path where ``local`` is a scheduler too.

    Raises:
        ValueError: neither a scheduler nor a path that is there.
        jaxmec.training.checkpoint.CheckpointError, jaxmec.core.bundle.BundleError: no policy there,
            or a damaged one; see :func:`load_policy`.
    """
    if isinstance(policy, Policy | TrainResult | Scheduler | ServingRule):
        return policy
    if not isinstance(policy, str | os.PathLike):
        raise TypeError(
            "expected a scheduler's name, the path of a policy, or a policy, got "
            f"{type(policy).__name__}"
        )
    path = Path(policy)
    rules = None if env is None else envs.find_environment(env).rules
    if rules is not None and isinstance(policy, str) and not (os.sep in policy or path.exists()):
        return pkgutil.resolve_name(rules)(policy)
    if isinstance(policy, str) and policy in SCHEDULERS:
        return SCHEDULERS[policy]
    if isinstance(policy, os.PathLike) or path.exists():
        return load_policy(path)
    if os.sep in policy or path.suffix:
        raise ValueError(f"there is no policy at {path}")
    if env is None and policy in RULES:
        raise ValueError(f"{policy!r} is a rule of serving; name {FOR_RULES} as env (--env)")
    return find_scheduler(policy)  # which suggests the nearest name


def _of_environment(options: Keywords) -> Keywords:
    """Options by their names in the environment, whether or not written ``env.NAME``."""
    plain = {name.removeprefix("env."): value for name, value in options.items()}
    if len(plain) < len(options):
        twice = next(name for name in options if f"env.{name}" in options)
        raise TypeError(f"env.{twice} is given twice")
    return plain


def player_of(
    policy: str | Policy | TrainResult | Scheduler | ServingRule | PathLike,
    *,
    env: str | None = None,
    preset: str | None = None,
    preset_seed: int | None = None,
    trace: PathLike | TraceFile | None = None,
    sampled: bool = False,
    **options: object,
) -> Player:
    """A policy or a scheduler in the environment that `evaluate` would play it in.

    Arguments and errors are those of :func:`evaluate`, but of a result's policies the best plays.
    """
    checks.require("sampled", sampled, checks.flag)
    options = _of_environment(options)
    if trace is not None and "workload" in options:
        raise TypeError("trace and workload are both arrivals; give one")
    policy = opened(policy, env)
    if isinstance(policy, TrainResult):
        policy = policy.policy
    if isinstance(policy, Scheduler | ServingRule) and sampled:
        kind = "scheduler" if isinstance(policy, Scheduler) else "rule"
        raise ValueError(f"sampled must be False for {kind} {policy.name!r}, which does not learn")
    if isinstance(policy, ServingRule):
        return _serving(policy, env, preset, preset_seed or 0, as_trace_file(trace), options)
    if isinstance(policy, Scheduler):
        return _scheduling(policy, env, preset, preset_seed or 0, as_trace_file(trace), options)
    return _deciding(policy, drawn if sampled else greedy, env, preset, preset_seed, trace, options)


def _deciding(
    policy: Policy,
    acting: Callable[[Agent, Learner], Decides],
    env: str | None,
    preset: str | None,
    preset_seed: int | None,
    trace: PathLike | TraceFile | None,
    options: Keywords,
) -> Player:
    """A trained policy, where it was trained but for what is named."""
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
        fleet=setting.fleet if preset is None else None,
        seed=setting.seed if preset_seed is None else preset_seed,
        options=tuple(sorted((own | options).items())),
        trace=as_trace_file(trace),
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
        lambda learner, params: acting(agent, learner),
        policy.learner,
        agent.init_memory(spec),
    )


def _serving(
    rule: ServingRule,
    env: str | None,
    preset: str | None,
    preset_seed: int,
    trace: TraceFile | None,
    options: Keywords,
) -> Player:
    """A rule of serving; it may refuse."""
    row = envs.find_environment(FOR_RULES if env is None else env)
    if row.rules is None:
        raise ValueError(f"rule {rule.name!r} serves requests; {row.name} has none")
    information = rule.allowed_information(options.get("information"))
    options = {"refuse": True} | options | {"information": information}
    if options.get("action", "option") != "option":
        raise ValueError(f"rule {rule.name!r} names options; action must be 'option'")
    setting = Setting(
        row.name, preset or row.default_preset, preset_seed, tuple(sorted(options.items())), trace
    )
    environment, params = setting.make()

    def decides(learner: tuple[()], params: EnvParams) -> Decides:
        def decide(
            key: jax.Array, observation: jax.Array, state: EnvState, memory: Memory
        ) -> tuple[jax.Array, Memory]:
            del observation
            view = environment.view(state, params)
            choice, memory = rule.decide(params, view, memory, key)
            return environment.action_of(*choice), memory

        return decide

    memory = rule.init_memory(params)
    return Player(rule.name, setting, environment, params, decides, (), memory)


def _scheduling(
    scheduler: Scheduler,
    env: str | None,
    preset: str | None,
    preset_seed: int,
    trace: TraceFile | None,
    options: Keywords,
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

    def decides(learner: tuple[()], params: EnvParams) -> Decides:
        def rule(
            key: jax.Array, observation: jax.Array, state: EnvState, memory: Memory
        ) -> tuple[jax.Array, Memory]:
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
