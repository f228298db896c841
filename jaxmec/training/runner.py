"""The host's side of a training run: what happens between compiled chunks.

``run`` computes what ``trainer.train`` computes, vmapped over seeds, and stops at every
evaluation point to look for NaN, show progress, append to the metrics file, save, and obey
Ctrl-C and the other signals of ``stopping``. A run's directory::

    metrics.jsonl         one line for each evaluation point
    run.json              what is trained, how far and with which seeds
    checkpoints/          the newest few and the best; what ``resume`` takes
    diverged/             a state with a metric that is not finite; ``resume`` never takes it
    lock                  held while a process works on the run

A checkpoint holds the whole training state and the history so far. A resumed run ends with
the bits of one never stopped, on the same machine with the same library versions. On a GPU
that takes ``deterministic=True`` too: without it XLA may add in any order, and may choose
other kernels in every process. (It sets the compiler option ``xla_gpu_deterministic_ops``;
``XLA_FLAGS=--xla_gpu_deterministic_ops=true`` in the environment is the same for all of a
process.)

With several devices (``devices``) the runs, or their environments, are shared out; several
processes run the same program, and the first one shows progress and writes. The directory is
then one that all of them see. A checkpoint does not know how many there were.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.agents.base import Agent, Metrics
from jaxmec.core import checks, compilation, files
from jaxmec.training import checkpoint, identity, memory
from jaxmec.training import devices as on_devices
from jaxmec.training.devices import Placement
from jaxmec.training.progress import Display, ProgressDisplay
from jaxmec.training.rollout import Environment
from jaxmec.training.stopping import Signals
from jaxmec.training.trackers import Tracker
from jaxmec.training.trainer import History, Trainer, failures, known

METRICS_FILE = "metrics.jsonl"
ABOUT_FILE = "run.json"
LOCK = "lock"
CHECKPOINTS = "checkpoints"
START = "start"  # the run of the method that another one starts from
DIVERGED = "diverged"
_SAVED = checks.record(
    {
        "run": checks.mapping(checks.anything, 2**16),
        "seconds": checks.number(0),
        "caller": checks.mapping(checks.anything),
    }
)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Where a run stands: at its end, or where it was interrupted."""

    state: Any  # [S], on the devices
    history: History  # [S, P], NumPy arrays
    seeds: tuple[int, ...]  # S
    directory: Path | None


class Interrupted(Exception):
    """A signal of ``stopping`` came; the chunk was finished, and saved if there is a directory."""

    def __init__(self, message: str, result: RunResult, signum: int) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = 128 + signum


class Diverged(Exception):
    """A metric of the agent is not finite."""

    def __init__(
        self, message: str, metric: str, seeds: tuple[int, ...], step: int, saved: Path | None
    ) -> None:
        super().__init__(message)
        self.metric = metric
        self.seeds = seeds  # those that diverged
        self.step = step  # environment steps at the end of the chunk
        self.saved = saved  # the state, for looking into


def run(
    agent: Agent,
    env: Environment,
    params: Any,
    config: Trainer[Any, Any],
    seeds: int | Sequence[int],
    *,
    directory: checkpoint.PathLike | None = None,
    resume: bool = False,
    progress: bool | Display = True,
    metadata: Mapping[str, Any] | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    keep: int = 3,
    deterministic: bool = False,
    start: Any = None,
    trackers: Sequence[Tracker] = (),
    devices: int | str = 1,
) -> RunResult:
    """Train S seeds side by side in one compiled program.

    Args:
        agent: what learns; or S agents as one, with a leading axis [S] in all their numbers, of
            which each run has its own.
        env, params, config: as for ``trainer.train``.
        seeds: S, for the seeds 0..S−1, or the seeds.
        directory: where metrics and checkpoints go; nothing is written if None.
        resume: go on from the newest checkpoint in ``directory``. Everything must be as it
            was, but ``config.steps`` may have grown; what follows the progress of training, a
            learning rate that comes down say, then goes on as in the longer one.
        progress: show a progress display, or the caller's own.
        metadata: JSON data of the caller's, kept in every checkpoint.
        checkpoint_every: save after so many chunks. A run is also saved before its first
            chunk and after its last.
        checkpoint_seconds: save when so much time has passed, whatever the chunks.
        keep: checkpoints kept, beside the one of the best mean evaluation return.
        deterministic: ask a GPU for the same bits every time; slower.
        start: [S] parameters of the actor to begin with (``agent.started``); fresh ones if None.
        trackers: are told every point's metrics, as metrics.jsonl is.
        devices: N, how many to use, or "all" (of all processes): see ``training.devices``.

    Raises:
        Interrupted: see there; its ``result`` is as far as it came.
        Diverged: see there. The checkpoint before it is sound.
        FileExistsError: ``directory`` holds a run and ``resume`` is False.
        ValueError: on resuming, something differs from the run that was saved.
        checkpoint.CheckpointError: nothing to resume, damaged, or could not be saved.
        RuntimeError: another process is working on ``directory``, or one of several that
            train together failed.
    """
    numbers = check_seeds(seeds)
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every is {checkpoint_every!r}; expected at least 1 or None")
    home = None if directory is None else Path(directory).absolute()
    placement = on_devices.place(devices, len(numbers), config)
    writing = home if on_devices.is_first() else None
    about = identity.describe(agent, env, params, config, numbers)
    if start is not None:
        about["start"] = identity.digest(start)
    program = _Program(agent, env, config, deterministic, placement)
    params, start = placement.shared(params), placement.put(start)
    agents = placement.put(agents_of(agent, len(numbers)))
    keys = jnp.stack([jax.random.key(number) for number in numbers])
    keys = placement.put(keys)
    last_step = config.total_steps

    with contextlib.ExitStack() as stack:
        with on_devices.together():  # all look before the first one writes
            check_home(home, resume)
            stack.enter_context(locked(writing))
        signals = stack.enter_context(Signals())
        progress = progress if on_devices.is_first() else False
        display = stack.enter_context(_display(progress, last_step, len(numbers)))
        tracked = stack.enter_context(_tracking(trackers if on_devices.is_first() else ()))
        template = jax.eval_shape(program.begin, params, agents, keys, start)
        # By its name, since a run may train what it starts from first.
        named = f"{metadata['method']}, " if metadata and metadata.get("method") else ""
        display.message(named + memory.described(template, len(numbers), placement))
        if resume:
            assert home is not None
            with on_devices.together():
                restored = _restore(home, template, about, program.places, program.metrics)
            state, history, seconds = restored
            log = _Log(writing, seconds, keep_until=_step(history))
            tracked.begin(home, numbers, _step(history))
            display.message(f"resuming {home} at {_step(history):,} steps")
        else:
            log = _Log(writing)
            tracked.begin(home, numbers, -1)
            state = program.begin(params, agents, keys, start)
            history = _with_point(
                None, state.env_steps, program.evaluate(params, agents, state), {}
            )
            log.append(history)
            tracked.log(_step(history), _last(history.evaluation), {})
        if writing is not None:
            write_about(writing, last_step, numbers, metadata or {})

        def save(folder: str, step: int) -> Path | None:
            if home is None:
                return None
            whole = on_devices.gather(state)
            with on_devices.together():
                if writing is None:
                    return None
                return checkpoint.save(
                    writing / folder,
                    {"state": whole, "history": history._asdict()},
                    step=step,
                    metric=float(np.mean(history.evaluation["return"][:, -1])),
                    metadata={
                        "run": about,
                        "seconds": log.seconds,
                        "deterministic": deterministic,
                        "caller": dict(metadata or {}),
                    },
                    keep=keep,
                )

        def interrupted(signum: int) -> Interrupted:
            message = f"stopped at {_step(history):,} of {last_step:,} steps; "
            if home is None:
                message += "nothing was saved, for want of a directory"
            else:
                message += f"saved in {home}: to go on, the same again with resume (--resume)"
            return Interrupted(message, RunResult(state, history, numbers, home), signum)

        display.update(_step(history), _last(history.evaluation))
        if not resume:
            save(CHECKPOINTS, _step(history))  # a full disk is better known now
        (signum,) = on_devices.agree(signals.received or 0)
        if signum and history.env_steps.shape[1] < config.num_points:
            raise interrupted(signum)
        saved_at, unsaved = time.monotonic(), 0
        for point in range(history.env_steps.shape[1], config.num_points):
            state, training = program.chunk(params, agents, state)
            _check_finite(training, numbers, _first(state.env_steps), save)
            evaluation = program.evaluate(params, agents, state)
            history = _with_point(history, state.env_steps, evaluation, training)
            log.append(history)
            tracked.log(_step(history), _last(history.evaluation), _last(history.training))
            display.update(_step(history), _last(history.evaluation))
            unsaved += 1
            last = point + 1 == config.num_points
            late = time.monotonic() - saved_at >= checkpoint_seconds
            signum, due = on_devices.agree(signals.received or 0, late)
            if last or signum or due or unsaved == checkpoint_every:
                save(CHECKPOINTS, _step(history))
                saved_at, unsaved = time.monotonic(), 0
            if signum and not last:
                raise interrupted(signum)
    return RunResult(state, history, numbers, home)


def _display(progress: bool | Display, total: int, runs: int) -> Display:
    if isinstance(progress, bool):
        return ProgressDisplay(total, runs, enabled=progress)
    return progress


def agents_of(agent: Any, seeds: int) -> Any:
    """The agents of S runs, [S] in every number; () where they all have this one.

    Raises:
        ValueError: as many agents as there are not runs.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(agent)]
    if not shapes or () in shapes:
        return ()
    if any(shape[0] != seeds for shape in shapes):
        raise ValueError(f"agent has the numbers of {shapes[0][0]} runs; expected {seeds}, or one")
    return jax.tree.map(np.asarray, agent)


class _Program:
    """The compiled pieces, for S runs at once; each is traced once.

    ``begin`` takes params, agents ([S], or () for the one given), keys [S] and start; ``chunk``
    and ``evaluate`` params, agents and the state [S]. What they tell of training is on every
    device; the state is where ``places`` says.
    """

    def __init__(
        self,
        agent: Agent,
        env: Environment,
        config: Trainer[Any, Any],
        deterministic: bool,
        placement: Placement = Placement(),  # noqa: B008 (it is frozen)
    ) -> None:
        options = compilation.deterministic() if deterministic else compilation.options()
        compiled = functools.partial(placement.compile, options=options)

        def mine(agents: Any) -> Any:
            return agent if isinstance(agents, tuple) and not agents else agents

        def begin(params: Any, agents: Any, key: jax.Array, start: Any = None) -> Any:
            state = config.init(mine(agents), env, params, key)
            if start is not None:
                state = state._replace(learner=mine(agents).started(state.learner, start))
            return config.prepare(mine(agents), env, params, state)

        def chunk(params: Any, agents: Any, state: Any) -> tuple[Any, Metrics]:
            return config.chunk(mine(agents), env, params, state)

        def evaluate(params: Any, agents: Any, state: Any) -> Metrics:
            return config.point(mine(agents), env, params, state)

        self.places = placement.of_state(config.state_type)
        self.metrics = placement.everywhere()
        self.begin = compiled(begin, self.places)
        self.chunk = compiled(chunk, (self.places, self.metrics), donate=2)
        self.evaluate = compiled(evaluate, self.metrics)


def bytes_of_one(
    agent: Agent,
    env: Environment,
    params: Any,
    config: Trainer[Any, Any],
    deterministic: bool = False,
) -> int:
    """What a chunk of one run takes of a device's memory, as the compiler plans it."""
    program = _Program(agent, env, config, deterministic)
    keys = jnp.stack([jax.random.key(0)])
    state = jax.eval_shape(program.begin, params, (), keys)
    plan = program.chunk.lower(params, (), state).compile().memory_analysis()
    taken = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return taken - plan.alias_size_in_bytes


# The history, and the metrics file that shows it while it grows


def _with_point(
    history: History | None, env_steps: jax.Array, evaluation: Metrics, training: Metrics
) -> History:
    """The history [S, P] and one point [S] more, all NumPy."""
    env_steps, evaluation, training = jax.device_get(
        on_devices.gather((env_steps, evaluation, training))
    )
    if history is None:
        nothing: Any = np.zeros((len(env_steps), 0), env_steps.dtype)
        history = History(nothing, {}, {})
    before = np.full(history.env_steps.shape, np.nan, np.float32)  # what has no value there

    def joined(old: Any, new: Any) -> Any:
        return np.concatenate([old, new[:, None]], axis=1)

    return History(
        env_steps=joined(history.env_steps, env_steps),
        evaluation={
            name: joined(history.evaluation.get(name, before), value)
            for name, value in evaluation.items()
        },
        training={
            name: joined(history.training.get(name, before), value)
            for name, value in known(training).items()
        },
    )


def _step(history: History) -> int:
    """Environment steps at the newest point, the same in all runs."""
    return int(history.env_steps[0, -1])


def _first(env_steps: jax.Array) -> int:
    """Of [S], as the first run has it."""
    return int(np.asarray(on_devices.gather(env_steps))[0])


def _last(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """[S] by name, at the newest point."""
    return {name: values[:, -1] for name, values in metrics.items()}


class _Log:
    """metrics.jsonl: a line for each point, with lists over the seeds; null is not finite."""

    def __init__(
        self, home: Path | None, seconds: float = 0.0, keep_until: int | None = None
    ) -> None:
        """Start the file anew, or keep its lines up to the step ``keep_until``."""
        self._file = None if home is None else home / METRICS_FILE
        self._zero = time.monotonic() - seconds
        if self._file is None:
            return
        kept = []
        if keep_until is not None and self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                # A line may be torn by the kill; later ones will be computed again.
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    if json.loads(line)["env_steps"] <= keep_until:
                        kept.append(line + "\n")
        files.write_whole(self._file, "".join(kept))

    @property
    def seconds(self) -> float:
        """Wall clock of the run so far, without the time that it lay interrupted."""
        return time.monotonic() - self._zero

    def append(self, history: History) -> None:
        """Write the newest point."""
        if self._file is None:
            return
        line = {
            "env_steps": _step(history),
            "seconds": round(self.seconds, 3),
            "evaluation": {name: _json(v) for name, v in _last(history.evaluation).items()},
            "training": {name: _json(v) for name, v in _last(history.training).items()},
        }
        files.append(self._file, json.dumps(line, allow_nan=False) + "\n")


def write_about(
    home: Path, last_step: int, seeds: tuple[int, ...], metadata: Mapping[str, Any]
) -> None:
    about = {"steps": last_step, "seeds": list(seeds), "method": metadata.get("method")}
    files.write_whole(home / ABOUT_FILE, json.dumps(about) + "\n")


@contextlib.contextmanager
def _tracking(trackers: Sequence[Tracker]) -> Iterator[_Trackers]:
    """All trackers as one, which are ended however the run ends."""
    failed = True
    try:
        yield _Trackers(trackers)
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed)


class _Trackers:
    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def begin(self, home: Path | None, seeds: tuple[int, ...], step: int) -> None:
        for tracker in self._trackers:
            tracker.begin(home, seeds, step)

    def log(self, step: int, evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(step, evaluation, training)


def _json(values: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


# Trouble


def _check_finite(
    training: Metrics,
    seeds: tuple[int, ...],
    step: int,
    save: Callable[[str, int], Path | None],
) -> None:
    bad = failures(training)
    if not bad:
        return
    diverged = tuple(
        seed
        for seed, value in zip(seeds, np.asarray(training[bad[0]]), strict=True)
        if not np.isfinite(value)
    )
    saved = save(DIVERGED, step)
    raise Diverged(
        f"{bad[0]} is not finite after {step:,} steps, for seed {', '.join(map(str, diverged))}"
        f" (not finite: {', '.join(bad)})"
        + (f"; the state is in {saved}, and checkpoints before it are sound" if saved else ""),
        metric=bad[0],
        seeds=diverged,
        step=step,
        saved=saved,
    )


@contextlib.contextmanager
def locked(home: Path | None) -> Iterator[None]:
    """Two processes on one directory would spoil each other's files."""
    if home is None:
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("w") as lock:
        for attempt in range(5):  # who only looks whether a run goes on holds it for a moment
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 4:
                    raise RuntimeError(f"another process is working on {home}") from None
                time.sleep(0.05)
        yield


def is_running(home: Path) -> bool:
    """Whether a process is working on the run in ``home``."""
    try:
        with (home / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


# Resuming


def check_home(home: Path | None, resume: bool) -> None:
    if resume and home is None:
        raise ValueError("resume=True needs directory, the one of the run to go on with")
    there = [] if home is None else checkpoint.checkpoints(home / CHECKPOINTS)
    if resume and not there:
        raise checkpoint.CheckpointMissing(
            f"nothing to resume: there is no checkpoint in {home}; start without resume"
        )
    if there and not resume:
        raise FileExistsError(
            f"{home} holds a run, last saved as {there[-1].name}: resume it, or choose "
            "another directory"
        )


def _restore(
    home: Path, template: Any, now: dict[str, Any], places: Any, others: Any
) -> tuple[Any, History, float]:
    """The state on its devices, the history, and the seconds that it took."""
    path = checkpoint.find(home / CHECKPOINTS)
    about = read_saved(path)  # first: it says more than unequal shapes
    identity.refuse_differences(home, about["run"], now)
    wanted = {"state": template, "history": checkpoint.AS_STORED}
    sharding = None if places is None else {"state": places, "history": others}
    tree, _ = checkpoint.restore(path, wanted, sharding=sharding)
    return tree["state"], History(**{"training": {}, **tree["history"]}), about["seconds"]


def read_saved(path: Path) -> dict[str, Any]:
    """What a run's checkpoint says of the run: ``run``, ``seconds`` and ``caller``.

    Raises:
        checkpoint.CheckpointError: it is damaged, or of no run.
    """
    about = checkpoint.read_manifest(path).metadata
    checkpoint.check_metadata(path, about, _SAVED)
    return about


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds; ``ValueError`` where there are none or two are the same."""
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds is {seeds!r}; expected how many (1 or more), or different numbers")
    return numbers
