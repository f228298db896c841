"""Train what a recipe says, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmec.agents.base import Agent, StartingAgent
from jaxmec.core.types import EnvParams, PyTree
from jaxmec.experiment.policy import (
    OBSERVATIONS,
    Policy,
    refuse_old_observations,
    setting_of,
)
from jaxmec.experiment.recipes import RUN_OPTIONS, Recipe, RunOptions, recipe
from jaxmec.experiment.result import TrainResult
from jaxmec.experiment.setting import SETTING_SCHEMA, TRACE, in_a_file
from jaxmec.traces import TraceFile
from jaxmec.training import checkpoint, parts, runner, trackers
from jaxmec.training import devices as on_devices
from jaxmec.training.rollout import make_spec


def train(
    method: str | Agent | Recipe = "dsac",
    *,
    seeds: int | Sequence[int] = 1,
    run: RunOptions = RunOptions(),  # noqa: B008 (it is frozen)
    **options: Any,
) -> TrainResult:
    """Train a method, S seeds side by side in one program.

    Where it starts from another method, that one is trained first, in ``directory/start``, and
    what is returned is of the second.

    Args:
        method: a name in `jaxmec.methods`, an agent of your own, or a `jaxmec.recipe`.
        seeds: how many (0..S−1), or which.
        run: how it is watched and stored; each of its fields may be given by its name.
        options: what is trained, and single fields of ``run``; see below.

    What is trained:
        published: hyperparameters, information and sizes as the method's authors had them.
        scale: our settings for few environments ("cpu"), or for thousands ("gpu"), which need
            fewer updates one after the other, each of more transitions (docs/scale.md).
        env, preset, preset_seed: where; by default what the method is for, and seed 0 of what a
            preset draws once.
        trace: a file of tasks (`jaxmec.traces`) that arrive instead of the preset's, the same in
            every episode.
        env_options: options of `jaxmec.make`, all together; a ``workload`` made by
            `jaxmec.mec.trace_workload` is written to ``directory/trace.csv`` and is a trace.
        config: all sizes of the training; by default the method's.
        name: what to call the result; by default the method's name.
        start: whose actor training begins with, instead of fresh parameters: a policy, the path of
            a saved one, of a run or of a bundle (the same for all seeds), a result (seed by seed),
            or a method by its name (``./NAME`` is a path) or a recipe, trained first. By default
            what the method says. The networks must be the same.
        Any other name is a single field to change: of the config (``steps``, ``num_envs``, ...),
            of the agent (``discount``, ``hidden``, ...), of the environment or its preset
            (``information``, ``probability``, ...). A name that means several things is
            refused; it is written in full, with ``config.``, ``agent.`` or ``env.`` before it:
            ``train("lad-ts", **{"agent.start": "noise"})``.

    How it is watched and stored:
        directory: where metrics and checkpoints go; nowhere by default.
        resume: go on from the newest checkpoint in ``directory``, to the bit.
        progress: show a progress display (the default), or the caller's own.
        deterministic: ask a GPU for operations that give the same bits every time; slower.
        tensorboard: write TensorBoard's event file there too (extra ``tensorboard``).
        wandb: a project of Weights & Biases to log to (extra ``wandb``).
        devices: how many to use, or "all": the seeds are shared out among them, or the
            environments (`jaxmec.training.devices`); in several processes "all".
        seeds_at_once: seeds side by side, and the others after them; "auto" for as many as
            the memory holds; all by default.

    Raises:
        ValueError, TypeError, ImportError: a wrong name or value, or an extra that is missing.
        jaxmec.traces.TraceError: a trace that cannot be read, by row and column.
    """
    watched = {name: options.pop(name) for name in RUN_OPTIONS if name in options}
    run = dataclasses.replace(run, **watched)
    return _train(_on_disk(recipe(method, **options), run), seeds, run)


def _on_disk(chosen: Recipe, run: RunOptions) -> Recipe:
    """The recipe as a run's directory can hold it, tasks in memory in a file there.

    Raises:
        ValueError: a run there that is to go on had other tasks.
    """
    if run.directory is None:
        return chosen
    home = Path(run.directory)
    if "workload" in dict(chosen.setting.options):
        if not run.resume:
            runner.check_home(home, run.resume)
        chosen = dataclasses.replace(chosen, setting=in_a_file(chosen.setting, home / TRACE))
    if run.resume:
        _refuse_other_course(home, chosen.setting.trace)
    return chosen


def _train(chosen: Recipe, seeds: int | Sequence[int], run: RunOptions) -> TrainResult:
    """Train it, what it starts from first; errors are those of :func:`train`."""
    agent, setting = chosen.agent, chosen.setting
    environment, params = chosen.make()
    start, resume = chosen.start, run.resume
    if isinstance(start, Recipe):
        start, resume = _train_start(start, seeds, run)
    about = {
        "method": chosen.name,
        "setting": dataclasses.asdict(setting),
        "observations": OBSERVATIONS,
        "recipe": chosen.identity(),
    }
    watching: list[trackers.Tracker] = [trackers.TensorBoard()] if run.tensorboard else []
    if run.wandb is not None:
        watching.append(trackers.WandB(run.wandb, chosen.name, about))
    settings = runner.RunSettings(
        directory=run.directory,
        resume=resume,
        progress=run.progress,
        metadata=about,
        deterministic=run.deterministic,
        start=None if start is None else _starting(start, agent, environment, params, seeds),
        trackers=watching,
        devices=run.devices,
    )
    job = (agent, environment, params, chosen.config)
    done = parts.run(*job, seeds, settings, seeds_at_once=run.seeds_at_once)
    state: PyTree = done.state
    if run.devices != 1:  # the learners are small, and wanted where policies are played and saved
        learners = jax.device_put(on_devices.gather(state.learner), jax.local_devices()[0])
        state = state._replace(learner=learners)
    result = TrainResult(
        chosen.name, agent, setting, chosen.config, done.seeds, done.history, state, done.directory
    )
    if done.directory is not None and on_devices.is_first():
        result.save(done.directory / "policy")
    return result


def _train_start(
    start: Recipe, seeds: int | Sequence[int], run: RunOptions
) -> tuple[TrainResult, bool]:
    """Train what another training starts from, below its directory.

    Returns:
        The result, and whether the other goes on from a checkpoint: not where the run was stopped
        before its own first part had begun.
    """
    if run.directory is None:
        return _train(start, seeds, dataclasses.replace(run, wandb=None)), False
    home = Path(run.directory)
    if not run.resume:
        runner.check_home(home, run.resume)  # before anything is trained
    below = dataclasses.replace(run, directory=home / runner.START, wandb=None)
    return _train(_on_disk(start, below), seeds, below), run.resume and parts.has_begun(home)


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


def _starting(
    start: Policy | TrainResult,
    agent: Any,
    environment: Any,
    params: EnvParams,
    seeds: int | Sequence[int],
) -> Any:
    """[S] the parameters of the actor that each seed begins with.

    Raises:
        TypeError: an agent without an actor that it could begin with, or a policy without one.
        ValueError: a result of other seeds, or an actor of another shape (names the leaf).
    """
    numbers = runner.check_seeds(seeds)
    for owner in (agent, start.agent):
        if not isinstance(owner, StartingAgent):
            raise TypeError(
                f"start goes with agents that have an actor, got {type(owner).__name__}"
            )
    if isinstance(start, TrainResult):
        policies = start.policies
        if start.seeds != numbers:
            raise ValueError(f"start has the seeds {start.seeds}; expected {numbers}")
    else:
        policies = (start,) * len(numbers)
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
