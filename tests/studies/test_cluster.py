"""A sweep's batches compute what single trainings do, and a lost worker's goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxmec
from jaxmec.studies import cluster
from jaxmec.training import runner

TINY: dict[str, Any] = {
    "steps": 96,
    "num_envs": 2,
    "prefill": 32,
    "buffer_size": 64,
    "batch_size": 8,
    "updates_per_step": 1,
    "eval_every": 32,
    "eval_episodes": 1,
    "hidden": (8,),
}


def plan(out: Path, **changes: Any) -> cluster.SweepPlan:
    values = (("learning_rate", (1e-3, 1e-1)), ("discount", (0.9,)))
    given = {"values": values, "seeds": 2, "at_once": 2, "options": tuple(TINY.items())}
    return cluster.SweepPlan("dqn", **(given | {"out": out} | changes))


@pytest.mark.slow
def test_a_setting_of_a_batch_is_trained_as_alone(tmp_path: Path) -> None:
    swept = plan(tmp_path)
    assert swept.settings == [
        {"learning_rate": 1e-3, "discount": 0.9},
        {"learning_rate": 1e-1, "discount": 0.9},
    ]
    rows = cluster.train_batch(swept, 0)
    assert swept.unfinished() == [] and swept.results() == rows
    assert [len(row["evaluation"]["return"]) for row in rows] == [2, 2]
    line = json.loads((swept.home(0) / "metrics.jsonl").read_text().splitlines()[-1])
    alone = jaxmec.train(
        "dqn", seeds=[2, 3], progress=False, learning_rate=1e-1, discount=0.9, **TINY
    )
    for name in ("critic_loss", "q", "critic_gradient_norm"):
        values = line["training"][name]
        assert not np.allclose(values[:2], values[2:], rtol=1e-2)
        np.testing.assert_allclose(values[2:], alone.history.training[name][:, -1], rtol=1e-3)


def test_a_plan_is_checked(tmp_path: Path) -> None:
    for changes, reason in (
        ({"values": (("learning_rat", (1.0,)),)}, "'learning_rat'.*learning_rate"),
        ({"values": (("learning_rate", ()),)}, "is empty"),
        ({"values": (("discount", (1.5,)),)}, "discount"),
        ({"seeds": 0}, "seeds must be .*, got 0"),
        ({"method": "mlp-pathwise", "options": ()}, "learns from transitions"),
    ):
        method = changes.pop("method", "dqn")
        given = {"values": (), "seeds": 1, "options": tuple(TINY.items())} | changes
        with pytest.raises(ValueError, match=reason):
            cluster.SweepPlan(method, out=tmp_path, **given)


@pytest.mark.slow
def test_a_lost_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False)
    killed: list[tuple[int, int]] = []

    def kill_the_first_worker() -> None:
        until = time.monotonic() + 300
        while not killed and time.monotonic() < until:
            for file in (tmp_path / "a" / "ray").rglob("result.json"):
                lines = file.read_text().splitlines()
                if len(lines) > 5:
                    last = json.loads(lines[-1])
                    killed.append((last["pid"], last["env_steps"]))
                    os.kill(last["pid"], signal.SIGKILL)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_the_first_worker)
    killer.start()
    options = TINY | {"steps": 4000, "eval_every": 64}
    values = {"learning_rate": [1e-3, 1e-2]}
    try:
        how: dict[str, Any] = {"seeds": 2, "at_once": 2, "checkpoint_every": 1, **options}
        rows = cluster.sweep("dqn", values, out=tmp_path / "a", **how)
        assert cluster.sweep("dqn", values, out=tmp_path / "a", **how) == rows  # all is done
    finally:
        killer.join()
        ray.shutdown()
    ((pid, steps),) = killed
    reports = [
        json.loads(line)
        for file in (tmp_path / "a" / "ray").rglob("result.json")
        for line in file.read_text().splitlines()
    ]
    later = [report["env_steps"] for report in reports if report["pid"] != pid]
    assert later and min(later) > 32 and max(later) > steps  # not from the start
    points = (tmp_path / "a" / "batch_0000" / runner.METRICS_FILE).read_text().splitlines()
    counted = [json.loads(point)["env_steps"] for point in points]
    assert counted == sorted(set(counted)) and counted[-1] >= 4000
