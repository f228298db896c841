"""Train what a recipe says, and what comes of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Agent, StartingAgent
from jaxmec.core.naming import look_up
from jaxmec.experiment.policy import (
    OBSERVATIONS,
    Policy,
    described,
    load_policy,
    refuse_old_observations,
    setting_of,
)
from jaxmec.experiment.recipe import Recipe, prepared
from jaxmec.experiment.result import TrainResult
from jaxmec.experiment.setting import SETTING_SCHEMA, TRACE, PathLike, in_a_file
from jaxmec.methods import METHODS, Config
from jaxmec.traces import TraceFile
from jaxmec.training import checkpoint, parts, runner, trackers
from jaxmec.training import devices as on_devices
from jaxmec.training.progress import Display
from jaxmec.training.rollout import make_spec


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
            recipe = recipe.moved(in_a_file(recipe.setting, home / TRACE))
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
        told = {**about, "agent": described(agent), "config": dataclasses.asdict(config)}
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
        setting = setting_of(about["setting"], newest)
    was = None if setting is None else setting.trace

    def content(trace: TraceFile | None) -> Any:
        return trace and (trace.sha256, trace.slots)

    if content(was) != content(trace):
        raise ValueError(
            f"cannot resume {directory}: its trace was {was or 'none'} and is {trace or 'none'} now"
        )
    if setting is not None:
        refuse_old_observations(directory, about, setting)


def _numbers(seeds: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)


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
        if not isinstance(owner, StartingAgent):
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
