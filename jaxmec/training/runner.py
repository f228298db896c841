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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.agents.base import Agent, Metrics
from jaxmec.core import checks, compilation, files
from jaxmec.core.types import Document, EnvParams, PyTree
from jaxmec.training import checkpoint, identity, memory
from jaxmec.training import devices as on_devices
from jaxmec.training.devices import Placement
from jaxmec.training.progress import Display, ProgressDisplay
from jaxmec.training.rollout import Environment
from jaxmec.training.stopping import Signals
from jaxmec.training.trackers import Tracker
from jaxmec.training.trainer import AnyTrainer, History, failures, known

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

    state: PyTree  # [S], on the devices
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is watched and stored, and on what it runs: no part of what is trained.

    Raises:
        ValueError: ``checkpoint_every`` below 1.
    """

    directory: checkpoint.PathLike | None = None  # where metrics and checkpoints go; None: nowhere
    resume: bool = False
    """Go on from the newest checkpoint in ``directory``. Everything must be as it was, but
    ``config.steps`` may have grown; what follows the progress of training, a learning rate that
    comes down say, then goes on as in the longer one."""
    progress: bool | Display = True  # show a progress display, or the caller's own
    metadata: Mapping[str, object] | None = (
        None  # JSON data of the caller's, kept in every checkpoint
    )
    checkpoint_every: int | None = None
    """Save after so many chunks. A run is also saved before its first chunk and after its last."""
    checkpoint_seconds: float = 60.0  # save when so much time has passed, whatever the chunks
    keep: int = 3  # checkpoints kept, beside the one of the best mean evaluation return
    deterministic: bool = False  # ask a GPU for the same bits every time; slower
    start: PyTree = None  # [S] parameters of the actor to begin with; None: fresh ones
    trackers: Sequence[Tracker] = ()  # are told every point's metrics, as metrics.jsonl is
    devices: int | str = 1  # how many to use, or "all" (of all processes): `training.devices`

    def __post_init__(self) -> None:
        checks.fields(
            self,
            checkpoint_every=checks.either(checks.whole(1), None),
            checkpoint_seconds=checks.number(0, finite=False),
            keep=checks.whole(1),
        )

    @property
    def home(self) -> Path | None:
        """The directory, wherever the process goes."""
        return None if self.directory is None else Path(self.directory).absolute()


def run(
    agent: Agent,
    env: Environment,
    params: EnvParams,
    config: AnyTrainer,
    seeds: int | Sequence[int],
    settings: RunSettings = RunSettings(),
    **changes: Any,
) -> RunResult:
    """Train S seeds side by side in one compiled program.

    Args:
        agent: what learns; or S agents as one, with a leading axis [S] in all their numbers, of
            which each run has its own.
        env, params, config: as for ``trainer.train``.
        seeds: S, for the seeds 0..S−1, or the seeds.
        settings: how the run is watched and stored.
        changes: single fields of the settings.

    Raises:
        Interrupted: see there; its ``result`` is as far as it came.
        Diverged: see there. The checkpoint before it is sound.
        FileExistsError: ``directory`` holds a run and ``resume`` is False.
        ValueError: on resuming, something differs from the run that was saved.
        checkpoint.CheckpointError: nothing to resume, damaged, or could not be saved.
        RuntimeError: another process is working on ``directory``, or one of several that
            train together failed.
    """
    settings = dataclasses.replace(settings, **changes)
    numbers = check_seeds(seeds)
    with contextlib.ExitStack() as stack:
        under_way = _Run(Job(agent, env, params, config), numbers, settings, stack)
        under_way.begin()
        while under_way.points < config.num_points:
            under_way.go_on()
    return under_way.result


class Job(NamedTuple):
    """What is trained, and how."""

    agent: Agent  # or S of them as one
    env: Environment
    params: EnvParams  # of the environment
    config: AnyTrainer


class _Run:
    """A run under way: its state [S] and history, and where they are shown and saved."""

    def __init__(
        self,
        job: Job,
        numbers: tuple[int, ...],
        settings: RunSettings,
        stack: contextlib.ExitStack,
    ) -> None:
        agent, env, params, config = job
        self.config, self.numbers, self.settings = config, numbers, settings
        first = on_devices.is_first()
        self.home = settings.home
        self.writing = self.home if first else None
        self.placement = on_devices.place(settings.devices, len(numbers), config)
        self.about = identity.described_run(agent, env, params, config, numbers)
        if settings.start is not None:
            self.about["start"] = identity.digest(settings.start)
        self.program = _Programs(agent, env, config, settings.deterministic, self.placement)
        # What the program is given beside a state: parameters and agents.
        self.given = (
            self.placement.shared(params),
            self.placement.put(agents_of(agent, len(numbers))),
        )
        with on_devices.together():  # all look before the first one writes
            check_home(self.home, settings.resume)
            stack.enter_context(locked(self.writing))
        self.signals = stack.enter_context(Signals())
        progress = settings.progress if first else False
        self.display = stack.enter_context(_display(progress, config.total_steps, len(numbers)))
        self.tracked = stack.enter_context(_tracking(settings.trackers if first else ()))

    @property
    def points(self) -> int:
        """How many evaluation points it has come by."""
        return self.history.env_steps.shape[1]

    @property
    def result(self) -> RunResult:
        """Where it stands."""
        return RunResult(self.state, self.history, self.numbers, self.home)

    def begin(self) -> None:
        """Make the first state, or take the newest one saved.

        Raises:
            Interrupted: a signal came meanwhile, and there is more to do.
        """
        caller = dict(self.settings.metadata or {})
        keys = jnp.stack([jax.random.key(number) for number in self.numbers])
        fresh = (*self.given, self.placement.put(keys), self.placement.put(self.settings.start))
        template = jax.eval_shape(self.program.begin, *fresh)
        # By its name, since a run may train what it starts from first.
        named = f"{caller['method']}, " if caller.get("method") else ""
        described = memory.described(template, len(self.numbers), self.placement)
        self.display.message(named + described)
        if self.settings.resume:
            self._resume(template)
        else:
            self.log = _MetricsFile(self.writing)
            self.tracked.begin(self.home, self.numbers, -1)
            self.state = self.program.begin(*fresh)
            evaluation = self.program.evaluate(*self.given, self.state)
            self.history = _with_point(None, self.state.env_steps, evaluation, {})
            self.log.append(self.history)
            self.tracked.log(_step(self.history), _last(self.history.evaluation), {})
        if self.writing is not None:
            write_about(self.writing, self.config.total_steps, self.numbers, caller)
        self.display.update(_step(self.history), _last(self.history.evaluation))
        if not self.settings.resume:
            self._save(CHECKPOINTS)  # a full disk is better known now
        (signum,) = on_devices.agree(self.signals.received or 0)
        if signum and self.points < self.config.num_points:
            raise self._interrupted(signum)
        self.saved_at, self.unsaved = time.monotonic(), 0

    def _resume(self, template: PyTree) -> None:
        """Go on where the newest checkpoint stands."""
        assert self.home is not None
        places = (self.program.places, self.program.metrics)
        with on_devices.together():
            restored = _restore(self.home, template, self.about, *places)
        self.state, self.history, seconds = restored
        step = _step(self.history)
        self.log = _MetricsFile(self.writing, seconds, keep_until=step)
        self.tracked.begin(self.home, self.numbers, step)
        self.display.message(f"resuming {self.home} at {step:,} steps")

    def go_on(self) -> None:
        """One chunk, its evaluation point, and what is due then.

        Raises:
            Interrupted, Diverged: see there.
        """
        self.state, training = self.program.chunk(*self.given, self.state)
        _check_finite(training, self.numbers, _first(self.state.env_steps), self._save)
        evaluation = self.program.evaluate(*self.given, self.state)
        self.history = _with_point(self.history, self.state.env_steps, evaluation, training)
        step, seen = _step(self.history), _last(self.history.evaluation)
        self.log.append(self.history)
        self.tracked.log(step, seen, _last(self.history.training))
        self.display.update(step, seen)
        self.unsaved += 1
        ended = self.points == self.config.num_points
        late = time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
        signum, due = on_devices.agree(self.signals.received or 0, late)
        if ended or signum or due or self.unsaved == self.settings.checkpoint_every:
            self._save(CHECKPOINTS)
            self.saved_at, self.unsaved = time.monotonic(), 0
        if signum and not ended:
            raise self._interrupted(signum)

    def _save(self, folder: str, step: int | None = None) -> Path | None:
        """Write the state, at the newest point's step by default; where, if anywhere."""
        if self.home is None:
            return None
        whole = on_devices.gather(self.state)
        with on_devices.together():
            if self.writing is None:
                return None
            return checkpoint.save(
                self.writing / folder,
                {"state": whole, "history": self.history._asdict()},
                step=_step(self.history) if step is None else step,
                metric=float(np.mean(self.history.evaluation["return"][:, -1])),
                metadata={
                    "run": self.about,
                    "seconds": self.log.seconds,
                    "deterministic": self.settings.deterministic,
                    "caller": dict(self.settings.metadata or {}),
                },
                keep=self.settings.keep,
            )

    def _interrupted(self, signum: int) -> Interrupted:
        step, total = _step(self.history), self.config.total_steps
        message = f"stopped at {step:,} of {total:,} steps; "
        if self.home is None:
            message += "nothing was saved, for want of a directory"
        else:
            message += f"saved in {self.home}: to go on, the same again with resume (--resume)"
        return Interrupted(message, self.result, signum)


def _display(progress: bool | Display, total: int, runs: int) -> Display:
    if isinstance(progress, bool):
        return ProgressDisplay(total, runs, enabled=progress)
    return progress


def agents_of(agent: Agent, seeds: int) -> PyTree:
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


class _Programs:
    """The compiled pieces, for S runs at once; each is traced once.

    ``begin`` takes params, agents ([S], or () for the one given), keys [S] and start; ``chunk``
    and ``evaluate`` params, agents and the state [S]. What they tell of training is on every
    device; the state is where ``places`` says.
    """

    def __init__(
        self,
        agent: Agent,
        env: Environment,
        config: AnyTrainer,
        deterministic: bool,
        placement: Placement = Placement(),  # noqa: B008 (it is frozen)
    ) -> None:
        options = compilation.deterministic() if deterministic else compilation.options()
        compiled = functools.partial(placement.compile, options=options)

        def mine(agents: PyTree) -> Any:
            return agent if isinstance(agents, tuple) and not agents else agents

        def begin(params: EnvParams, agents: PyTree, key: jax.Array, start: PyTree = None) -> Any:
            state = config.init(mine(agents), env, params, key)
            if start is not None:
                state = state._replace(learner=mine(agents).started(state.learner, start))
            return config.prepare(mine(agents), env, params, state)

        def chunk(params: EnvParams, agents: PyTree, state: PyTree) -> tuple[PyTree, Metrics]:
            return config.chunk(mine(agents), env, params, state)

        def evaluate(params: EnvParams, agents: PyTree, state: PyTree) -> Metrics:
            return config.point(mine(agents), env, params, state)

        self.places = placement.of_state(config.state_type)
        self.metrics = placement.everywhere()
        self.begin = compiled(begin, self.places)
        self.chunk = compiled(chunk, (self.places, self.metrics), donate=2)
        self.evaluate = compiled(evaluate, self.metrics)


def bytes_of_one(
    agent: Agent,
    env: Environment,
    params: EnvParams,
    config: AnyTrainer,
    deterministic: bool = False,
) -> int:
    """What a chunk of one run takes of a device's memory, as the compiler plans it."""
    program = _Programs(agent, env, config, deterministic)
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
        nothing: PyTree = np.zeros((len(env_steps), 0), env_steps.dtype)
        history = History(nothing, {}, {})
    before = np.full(history.env_steps.shape, np.nan, np.float32)  # what has no value there

    def joined(old: PyTree, new: PyTree) -> PyTree:
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


def _last(metrics: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """[S] by name, at the newest point."""
    return {name: np.asarray(values[:, -1]) for name, values in metrics.items()}


class _MetricsFile:
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
    home: Path, last_step: int, seeds: tuple[int, ...], metadata: Mapping[str, object]
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

    def log(
        self, step: int, evaluation: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
    ) -> None:
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
    home: Path, template: PyTree, now: Document, places: PyTree, others: PyTree
) -> tuple[PyTree, History, float]:
    """The state on its devices, the history, and the seconds that it took."""
    path = checkpoint.find(home / CHECKPOINTS)
    about = read_saved(path)  # first: it says more than unequal shapes
    identity.refuse_differences(home, about["run"], now)
    wanted = {"state": template, "history": checkpoint.AS_STORED}
    sharding = None if places is None else {"state": places, "history": others}
    tree, _ = checkpoint.restore(path, wanted, sharding=sharding)
    return tree["state"], History(**{"training": {}, **tree["history"]}), about["seconds"]


def read_saved(path: Path) -> Document:
    """What a run's checkpoint says of the run: ``run``, ``seconds`` and ``caller``.

    Raises:
        checkpoint.CheckpointError: it is damaged, or of no run.
    """
    about = checkpoint.read_manifest(path).metadata
    checkpoint.check_metadata(path, about, _SAVED)
    return about


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds; ``ValueError`` where there are none or two are the same."""
    count = checks.as_int(seeds)
    given = list(
        range(count) if count is not None else seeds if isinstance(seeds, Iterable) else []
    )
    numbers = [number for seed in given if (number := checks.as_int(seed)) is not None]
    if not numbers or len(set(numbers)) < len(given):
        raise ValueError(f"seeds is {seeds!r}; expected how many (1 or more), or different numbers")
    return tuple(numbers)
