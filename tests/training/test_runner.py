"""The host's side of a run: stopped in whatever way, it goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pty
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxmec.training import checkpoint, identity, runner, stopping, trainer
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.progress import ProgressDisplay

SMALL_RUN = Path(__file__).with_name("small_run.py")

CONFIG = TrainConfig(
    steps=40,
    num_envs=2,
    prefill=8,
    buffer_size=32,
    batch_size=4,
    updates_per_step=1,
    eval_every=8,
    eval_episodes=2,
)  # 4 chunks of 4 vectorised steps


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Every leaf as its dtype, shape and bytes."""
    found = []
    for leaf in jax.tree.leaves(tree):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found.append((str(leaf.dtype), data.shape, data.tobytes()))
    return found


def same(one: runner.RunResult, other: runner.RunResult) -> bool:
    return bits((one.state, one.history)) == bits((other.state, other.history))


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every ``run`` compiles its own functions; here they are always the same ones."""
    directory = tmp_path_factory.mktemp("compiled")
    settings = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield directory
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def run(counting: Any, walk: Any, walk_params: Any) -> Any:
    """``run`` on the small environment, with anything changed."""

    def call(seeds: Any = 2, **changes: Any) -> runner.RunResult:
        given = {"agent": counting, "env": walk, "params": walk_params, "config": CONFIG}
        named = {name: changes.pop(name, value) for name, value in given.items()}
        return runner.run(**named, seeds=seeds, **{"progress": False, **changes})

    return call


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup or cron."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.Signals() as signals:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == signals._note
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# The same as the pure function


def test_computes_what_train_computes(run: Any, counting: Any, walk: Any, walk_params: Any) -> None:
    result = run(seeds=[3, 5])
    keys = jnp.stack([jax.random.key(3), jax.random.key(5)])
    train = jax.vmap(lambda key: trainer.train(counting, walk, walk_params, CONFIG, key))
    state, history = jax.jit(train)(keys)
    assert jax.tree.structure(result.history) == jax.tree.structure(history)
    training = trainer.known(
        jax.device_get(history.training)
    )  # on the host what is not known is NaN
    training = {name: np.hstack([[[np.nan]] * 2, value[:, 1:]]) for name, value in training.items()}
    history = history._replace(training=training)
    as_data = lambda x: jax.random.key_data(x) if x.dtype == keys.dtype else x  # noqa: E731
    for mine, pure in zip(
        jax.tree.leaves((result.state, result.history)),
        jax.tree.leaves((state, history)),
        strict=True,
    ):
        np.testing.assert_allclose(as_data(mine), as_data(pure), rtol=1e-6)
    assert result.history.env_steps.shape == (2, CONFIG.num_points) == (2, 5)
    assert result.seeds == (3, 5)
    assert result.directory is None


def test_each_piece_is_traced_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []
    for name in ("init", "prepare", "chunk", "point"):
        original = getattr(TrainConfig, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            traced.append(name)
            return original(*args)

        monkeypatch.setattr(TrainConfig, name, counted)
    run()
    assert sorted(traced) == ["chunk", "init", "point", "prepare"]


def test_the_state_is_donated(counting: Any, walk: Any, walk_params: Any) -> None:
    program = runner._Programs(counting, walk, CONFIG, deterministic=False)
    state = program.begin(walk_params, (), jax.random.split(jax.random.key(0), 2), None)
    items = jax.tree.leaves(state.replay.items)
    program.chunk(walk_params, (), state)
    assert all(item.is_deleted() for item in items)


def test_each_run_may_have_an_agent_of_its_own(run: Any, counting: Any) -> None:
    """Each learns what it learns alone."""
    discounts = [0.5, 0.9]
    agents = jax.tree.map(
        lambda *numbers: np.asarray(numbers, np.float32),
        *(counting.replace(discount=discount) for discount in discounts),
    )
    both = run(seeds=[3, 5], agent=agents)
    for row, (seed, discount) in enumerate(zip([3, 5], discounts, strict=True)):
        alone = run(seeds=[seed], agent=counting.replace(discount=discount))
        for mine, other in zip(
            jax.tree.leaves((both.state.learner, both.history)),
            jax.tree.leaves((alone.state.learner, alone.history)),
            strict=True,
        ):
            np.testing.assert_allclose(mine[row], other[0], rtol=1e-6)
    assert both.state.learner.weight[0] != both.state.learner.weight[1]
    with pytest.raises(ValueError, match="agent has the numbers of 2 runs; expected 3, or one"):
        run(seeds=3, agent=agents)


@pytest.mark.parametrize("seeds", [0, -1, [], [1, 1]])
def test_seeds_are_checked(run: Any, seeds: Any) -> None:
    with pytest.raises(ValueError, match="seeds is"):
        run(seeds=seeds)


# The directory


class Recording:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, home: Path | None, seeds: tuple[int, ...], step: int) -> None:
        self.told.append(("begin", home, seeds, step))

    def log(self, step: int, evaluation: Any, training: Any) -> None:
        self.told.append(("log", step, evaluation["return"].tolist()))

    def end(self, failed: bool) -> None:
        self.told.append(("end", failed))


def test_directory_holds_metrics_and_checkpoints(
    run: Any, tmp_path: Path, walk_params: Any
) -> None:
    longer_episodes = walk_params.replace(max_steps_in_episode=15)
    tracker = Recording()
    result = run(
        directory=tmp_path / "run", params=longer_episodes, metadata={"note": "mine"}, keep=2,
        trackers=[tracker],
    )  # fmt: skip
    written = lines(tmp_path / "run")
    assert tracker.told == [
        ("begin", tmp_path / "run", (0, 1), -1),
        *(("log", line["env_steps"], line["evaluation"]["return"]) for line in written),
        ("end", False),
    ]
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about == {"steps": 40, "seeds": [0, 1], "method": None}
    assert [line["env_steps"] for line in written] == [8, 16, 24, 32, 40]
    np.testing.assert_array_equal(
        [line["evaluation"]["return"] for line in written], result.history.evaluation["return"].T
    )
    np.testing.assert_array_equal(
        [line["training"]["loss"] for line in written[1:]], result.history.training["loss"].T[1:]
    )
    assert written[1]["training"]["episode_return"] == [None, None]  # no episode ended: NaN
    found = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in found] == ["step_000000008", "step_000000040"]
    metadata = checkpoint.verify(found[-1]).metadata
    assert metadata["caller"] == {"note": "mine"}
    assert metadata["run"]["config.batch_size"] == 4


def test_saves_every_so_many_chunks_or_seconds(run: Any, tmp_path: Path) -> None:
    run(directory=tmp_path / "chunks", checkpoint_every=3, keep=9)
    run(directory=tmp_path / "seconds", checkpoint_seconds=0.0, keep=9)
    saved = {
        name: [int(p.name[5:]) for p in checkpoint.checkpoints(tmp_path / name / "checkpoints")]
        for name in ("chunks", "seconds")
    }
    assert saved == {"chunks": [8, 32, 40], "seconds": [8, 16, 24, 32, 40]}


def test_a_run_is_not_overwritten(run: Any, tmp_path: Path) -> None:
    run(directory=tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds a run.*step_000000040.*resume"):
        run(directory=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["lr[1]", "a\\b"])
def test_a_run_goes_on_in_a_folder_of_any_name(run: Any, tmp_path: Path, name: str) -> None:
    half = dataclasses.replace(CONFIG, steps=24)
    run(directory=tmp_path / "plain", config=half)
    (tmp_path / "plain").rename(tmp_path / name)
    assert same(run(directory=tmp_path / name, resume=True), run())
    checkpoint.verify(checkpoint.find(tmp_path / name / "checkpoints"))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "metadata.run is missing; metadata.seconds is missing"),
        ({"run": [], "seconds": "1", "caller": {}}, "run must be an object.*seconds must be a"),
    ],
)
def test_what_is_no_run_is_not_resumed(run: Any, tmp_path: Path, metadata: Any, said: str) -> None:
    checkpoint.save(tmp_path / "checkpoints", {"x": jnp.zeros(1)}, step=8, metadata=metadata)
    with pytest.raises(checkpoint.CheckpointCorrupt, match=said):
        run(directory=tmp_path, resume=True)


def test_nothing_to_resume(run: Any, tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointMissing, match="nothing to resume"):
        run(directory=tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="needs directory"):
        run(resume=True)


def test_one_process_at_a_time(run: Any, tmp_path: Path) -> None:
    with (
        runner.locked(tmp_path),
        pytest.raises(RuntimeError, match="another process is working"),
    ):
        run(directory=tmp_path)


# Resuming


def test_more_steps_are_as_if_asked_for_at_once(run: Any, tmp_path: Path) -> None:
    longer = dataclasses.replace(CONFIG, steps=64)
    run(directory=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # of chunks after the checkpoint
        file.write('{"env_steps": 48, "evaluation": {}}\n{"env_st')
    resumed = run(directory=tmp_path, config=longer, resume=True)
    assert same(resumed, run(config=longer))
    assert [line["env_steps"] for line in lines(tmp_path)] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert same(run(directory=tmp_path, config=longer, resume=True), resumed)  # nothing to do
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds == sorted(seconds)


def test_another_run_is_not_resumed(
    run: Any, tmp_path: Path, counting: Any, walk: Any, walk_params: Any
) -> None:
    run(directory=tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    other_walk = type(walk)()
    other_walk.information = "full"
    more_envs, fewer_steps = ({"num_envs": 4, "eval_every": 16}, {"steps": 32})
    changes: list[tuple[dict[str, Any], str]] = [
        ({"config": dataclasses.replace(CONFIG, **more_envs)}, "config.eval_every was 8 and is 16"),
        ({"config": dataclasses.replace(CONFIG, **fewer_steps)}, "config.steps was 40 and is 32"),
        ({"seeds": 3}, r"seeds was \[0, 1\] and is \[0, 1, 2\]"),
        ({"agent": counting.replace(discount=0.5)}, "agent.discount was 0.9 and is 0.5"),
        (
            {"params": walk_params.replace(max_steps_in_episode=6)},
            "params.max_steps_in_episode was 5 and is 6",
        ),
        ({"env": other_walk}, "env.information was absent and is full"),
    ]
    for changed, said in changes:
        with pytest.raises(ValueError, match=f"cannot resume .*{said} now"):
            run(directory=tmp_path, resume=True, **changed)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    # Of a switch that the version which saved it did not know, it was off.
    with pytest.raises(ValueError, match=r"cannot resume .*env\.switch was absent and is True"):
        run(directory=tmp_path, resume=True, env=switched(walk, on=True))
    run(directory=tmp_path, resume=True, env=switched(walk, on=False))


def test_a_run_goes_on_without_a_switch_that_was_off(run: Any, tmp_path: Path, walk: Any) -> None:
    """As those of earlier versions do, whose environments had options that have gone since."""
    run(directory=tmp_path / "off", env=switched(walk, on=False))
    run(directory=tmp_path / "off", resume=True)
    run(directory=tmp_path / "on", env=switched(walk, on=True))
    with pytest.raises(ValueError, match=r"env\.switch was True and is absent now"):
        run(directory=tmp_path / "on", resume=True)


def switched(walk: Any, *, on: bool) -> Any:
    env = type(walk)()
    env.switch = on
    return env


def test_large_parameters_are_compared(run: Any, tmp_path: Path, walk_params: Any) -> None:
    table = np.arange(100.0)
    described = [
        identity.described_run(None, object.__new__(ProgressDisplay), params, CONFIG, (0,))
        for params in ({"table": table}, {"table": table.copy()}, {"table": table + 1e-9})
    ]
    assert described[0] == described[1] != described[2]


# Stopped


STOPPING = [
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
]


@pytest.fixture
def handled() -> Iterator[None]:
    """The signals as Python starts with them, however this suite was started."""
    before = {signum: signal.getsignal(signum) for signum in STOPPING}
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_saves_and_the_run_goes_on(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    handlers = [signal.getsignal(s) for s in STOPPING]
    update = ProgressDisplay.update

    def interrupting(display: ProgressDisplay, steps: int, evaluation: Any) -> None:
        update(display, steps, evaluation)
        if steps == 24:
            os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressDisplay, "update", interrupting)
        with pytest.raises(
            runner.Interrupted, match=r"stopped at 24 of 40 steps.*resume"
        ) as caught:
            run(directory=tmp_path)
        with pytest.raises(runner.Interrupted, match="nothing was saved"):
            run()
    assert checkpoint.find(tmp_path / "checkpoints").name == "step_000000024"
    assert caught.value.exit_code == 128 + signum
    assert str(tmp_path) in str(caught.value)
    assert caught.value.result.history.env_steps.shape == (2, 3)
    assert [signal.getsignal(s) for s in STOPPING] == handlers
    assert same(run(directory=tmp_path, resume=True), run())
    assert [signal.getsignal(s) for s in STOPPING] == handlers


@pytest.mark.usefixtures("handled")
def test_a_second_signal_stops_at_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def insistent(display: ProgressDisplay, steps: int, evaluation: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProgressDisplay, "update", insistent)
    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGHUP, signal.SIGHUP),  # a closed terminal: from the shell, then from the kernel
        (signal.SIGUSR1, signal.SIGTERM),  # Slurm: --signal=USR1@..., then the time limit
        (signal.SIGTERM, signal.SIGUSR2),
    ],
)
def test_what_schedulers_send_in_a_row_is_one_wish(
    run: Any, monkeypatch: pytest.MonkeyPatch, signals: tuple[int, ...]
) -> None:
    def hit(display: ProgressDisplay, steps: int, evaluation: Any) -> None:
        for signum in signals:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(ProgressDisplay, "update", hit)
    with pytest.raises(runner.Interrupted) as caught:
        run()
    assert caught.value.exit_code == 128 + signals[0]


@pytest.mark.usefixtures("handled")
def test_an_ignored_signal_stays_ignored_and_an_own_handler_stays(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    for signum in STOPPING[:-1]:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGXCPU, lambda signum, frame: seen.append(signum))

    def hit(display: ProgressDisplay, steps: int, evaluation: Any) -> None:
        if steps == 24:
            for signum in STOPPING:
                os.kill(os.getpid(), signum)

    monkeypatch.setattr(ProgressDisplay, "update", hit)
    assert run().history.env_steps[0, -1] == 40
    assert seen == [signal.SIGXCPU]


def test_runs_outside_the_main_thread(run: Any) -> None:
    results: list[runner.RunResult] = []
    thread = threading.Thread(target=lambda: results.append(run()))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_nan_stops_the_run_and_keeps_the_state(run: Any, counting: Any, tmp_path: Path) -> None:
    at = jnp.asarray(9)  # the third chunk has the updates 8 to 11
    with pytest.raises(runner.Diverged, match=r"loss is not finite after 32 steps, for seed 4, 7"):
        run(seeds=[4, 7], agent=counting.replace(nan_at=at))
    with pytest.raises(runner.Diverged) as caught:
        run(
            seeds=[4, 7],
            agent=counting.replace(nan_at=at),
            directory=tmp_path,
            checkpoint_every=1,
        )
    error = caught.value
    assert (error.metric, error.seeds, error.step) == ("loss", (4, 7), 32)
    assert error.saved == tmp_path / "diverged" / "step_000000032"
    assert str(error.saved) in str(error)
    checkpoint.verify(error.saved)
    # What resume takes is the state before.
    assert checkpoint.find(tmp_path / "checkpoints").name == "step_000000024"
    assert [line["env_steps"] for line in lines(tmp_path)] == [8, 16, 24]


def test_only_the_seeds_that_diverged_are_named() -> None:
    saved: list[tuple[str, int]] = []
    training = {
        "loss": np.array([1.0, np.inf, 2.0, np.nan]),
        "episode_return": np.array([np.nan, 1.0, 1.0, 1.0]),  # no episode ended
    }
    with pytest.raises(runner.Diverged, match="for seed 6, 8"):
        runner._check_finite(training, (5, 6, 7, 8), 100, lambda *at: saved.append(at))
    assert saved == [("diverged", 100)]
    training["loss"] = np.ones(4)
    runner._check_finite(training, (5, 6, 7, 8), 100, lambda *at: saved.append(at))


# Stopped from outside

Started = subprocess.Popen[bytes]


def start(directory: Path, compiled: Path, *flags: str) -> Started:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(SMALL_RUN), str(directory), *flags]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def wait_for_points(process: Started, directory: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    file = directory / "metrics.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def small_run() -> Any:
    return runpy.run_path(str(SMALL_RUN))["start"]


@pytest.fixture(scope="module")
def never_stopped(small_run: Any) -> runner.RunResult:
    return small_run(None)


def test_killed_at_random_and_resumed_is_never_stopped(
    small_run: Any, never_stopped: runner.RunResult, compiled_once: Path, tmp_path: Path
) -> None:
    flags: list[str] = []
    for _ in range(2):
        before = (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") if flags else 0
        process = start(tmp_path, compiled_once, *flags)
        wait_for_points(process, tmp_path, before + 3)
        # One or several chunks more; here a chunk is mostly spent on its checkpoint.
        time.sleep(0.3 * random.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        flags = ["--resume"]
    done = checkpoint.checkpoints(tmp_path / "checkpoints")
    resumed = small_run(tmp_path, resume=True)
    assert same(resumed, never_stopped), f"killed after {done[-1].name}"
    steps = [line["env_steps"] for line in lines(tmp_path)]
    assert steps == never_stopped.history.env_steps[0].tolist()


def test_interrupted_from_the_terminal_and_resumed(
    small_run: Any, never_stopped: runner.RunResult, compiled_once: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, compiled_once)
    wait_for_points(process, tmp_path, 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"stopping after this chunk" in said
    assert f"saved in {tmp_path}".encode() in said
    assert same(small_run(tmp_path, resume=True), never_stopped)


@pytest.mark.slow
def test_a_lost_terminal_stops_the_run_saved(
    small_run: Any, never_stopped: runner.RunResult, compiled_once: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    terminal = os.ttyname(theirs)  # of the session whose first process opens it
    command = [sys.executable, str(SMALL_RUN), str(tmp_path), "--progress"]
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', terminal, *command],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(compiled_once)},
        start_new_session=True,
    )
    os.set_blocking(ours, False)
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 240
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
        assert process.poll() is None and time.monotonic() < deadline
        with contextlib.suppress(BlockingIOError):  # a terminal that nobody reads stops the run
            os.read(ours, 65536)
        time.sleep(0.01)
    os.close(ours)  # the kernel sends SIGHUP, and every write fails from here on
    process.wait(120)
    os.close(theirs)
    assert process.returncode == 128 + signal.SIGHUP
    assert same(small_run(tmp_path, resume=True), never_stopped)


def test_a_module_may_have_moved_since_a_run_was_begun():
    """What is compared is a class by its own name."""
    saved = {"agent": "jaxmec.old.place.DQN", "agent.loss": "jaxmec.old.huber", "config.steps": 5}
    now = {"agent": "jaxmec.agents.dqn.DQN", "agent.loss": "jaxmec.new.huber", "config.steps": 5}
    identity.refuse_differences(Path("run"), saved, now)
    with pytest.raises(ValueError, match="agent was DQN and is SAC now"):
        identity.refuse_differences(Path("run"), saved, {**now, "agent": "jaxmec.agents.sac.SAC"})
