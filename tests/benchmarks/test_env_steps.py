"""The benchmark runs, at a size that measures nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "env_steps.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("env_steps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_it_prints_a_table_and_keeps_every_repetition(benchmark, tmp_path, capsys):
    output = tmp_path / "new" / "env_steps.json"
    benchmark.main(size="tiny", output=output)
    printed = capsys.readouterr().out
    report = json.loads(output.read_text())
    names = [case.name for case in benchmark.cases()]
    assert [row["case"] for row in report["summary"]] == names
    assert all(name in printed for name in names)
    for row in report["results"]:
        assert len(row["seconds"]) == 2 and min(row["seconds"]) > 0
        assert row["num_envs"] * row["steps"] == 32
    assert {"cpu", "cores", "load_average"} <= set(report["machine"])
    assert report["versions"]["jax"]


def test_the_summary_takes_the_best_number_of_environments_and_its_median(benchmark):
    peer = benchmark.Case("peer", None, None)
    ours = benchmark.Case("ours", None, None, reference="peer")

    def row(case, num_envs, seconds, median):
        rate = num_envs * 10 / median
        return {
            "case": case,
            "num_envs": num_envs,
            "steps": 10,
            "seconds": seconds,
            "steps_per_second": rate,
            "bytes_a_step": 40,
        }

    results = [
        row("peer", 1, [1.0, 2.0, 4.0], 2.0),
        row("peer", 8, [10.0, 20.0, 40.0], 20.0),
        row("ours", 1, [5.0, 5.0, 5.0], 5.0),
        row("ours", 8, [4.0, 5.0, 8.0], 5.0),
    ]
    peers, mine = benchmark.summarise([peer, ours], results)
    assert (peers["num_envs"], peers["steps_per_second"], peers["ratio"]) == (1, 5.0, None)
    assert (mine["num_envs"], mine["steps_per_second"], mine["ratio"]) == (8, 16.0, 3.2)
    assert (mine["lowest"], mine["highest"]) == (10.0, 20.0)


def test_the_bytes_of_a_step_are_the_state_read_and_written(benchmark):
    found = {case.name: benchmark.bytes_a_step(case) for case in benchmark.cases()}
    assert found["CartPole, jaxmec"] == 2 * 5 * 4  # four numbers and the time
    # What a station queues does not grow with the tasks of a slot.
    multi = [found[f"multi-server, amcoedge, N={n}"] for n in (50, 5000)]
    assert multi[0] == multi[1]


def test_numbers_that_are_not_finite_stop_it(benchmark):
    case = benchmark.cases()[1]
    broken = benchmark.dataclasses.replace(case, params=case.params.replace(gravity=1e38))
    with pytest.raises(FloatingPointError, match="CartPole, jaxmec"):
        benchmark.measure([broken], 4, benchmark.SIZES["tiny"])
