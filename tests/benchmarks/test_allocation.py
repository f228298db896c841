"""The benchmark of the allocation rules runs, and its exponent is one."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmec.mec import cwa

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "allocation.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("allocation_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_prints_and_keeps_every_rule(benchmark, tmp_path, capsys):
    benchmark.main(size="tiny", output=tmp_path / "new" / "allocation.json")
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "new" / "allocation.json").read_text())["rows"]
    assert [row["rule"] for row in rows] == list(benchmark.RULES)
    assert all(name in printed for name in benchmark.RULES)
    assert all(len(times) == 2 and min(times) > 0 for row in rows for times in row["seconds"])


def test_the_exponent_is_the_power(benchmark):
    servers = [2, 8, 32]
    assert benchmark.exponent(servers, [3 * b**1.5 for b in servers]) == pytest.approx(1.5)


def test_enumeration_is_the_best_of_all_sets(benchmark):
    rng = np.random.default_rng(0)
    wait, serve = rng.uniform(0, 1, 3), rng.uniform(0.5, 2, 3)

    def finish(chosen, fraction):
        return max((wait + fraction * serve)[chosen])

    costs = []
    for index in range(1, 8):
        chosen = np.array([index >> i & 1 == 1 for i in range(3)])
        costs.append(finish(chosen, np.asarray(cwa(wait, serve, chosen))))
    found = np.asarray(benchmark.enumeration(wait, serve, np.ones(3, bool)))
    assert finish(found > 0, found) == pytest.approx(min(costs), rel=1e-5)
