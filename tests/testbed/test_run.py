"""The whole of a run: nodes as processes, one of them killed."""

import json

import pytest

from jaxmec.cli.errors import guarded
from jaxmec_testbed.command import run

FLEET = """
like = "edge-inpainting"
[setting]
heartbeat = 0.5
[[server]]
name = "quick"
step_time = 0.02
memory = 5.0
rate = 100.0
[[server]]
name = "slow"
step_time = 0.05
memory = 5.0
rate = 100.0
"""


@pytest.mark.slow
def test_a_run_with_a_kill_is_measured_and_foretold(tmp_path, capsys):
    (tmp_path / "two.toml").write_text(FLEET)
    (tmp_path / "faults.toml").write_text(
        '[[fault]]\nserver = 0\nat = 2.0\nseconds = 6.0\nkind = "kill"\n'
    )
    words = ["run", "triage", "--fleet", str(tmp_path / "two.toml"), "--horizon", "12"]
    words += ["--faults", str(tmp_path / "faults.toml"), "--to", str(tmp_path / "out")]
    assert run(words) == 0
    assert "triage" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "testbed.json").read_text())
    (one,) = figures["policies"]
    statuses = {"answered", "refused", "lost", "unreachable", "invalid"}
    counts = {name: one["measured"][name] for name in statuses & set(one["measured"])}
    assert sum(counts.values()) == one["requests"] > 5  # nothing is dropped in silence
    rows = json.loads((tmp_path / "out" / "requests.json").read_text())["triage"]
    assert len(rows) == one["requests"]
    assert (tmp_path / "out" / "testbed.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["node", "--index", "9"], "index must be a whole number of 0 to 4, got 9"),
        (["node", "--index", "0", "--pace", "quick"], "pace must be one of pace, real"),
        (["run", "triage-full"], "rule must need information stale or local"),
        (["rn"], "did you mean 'run'"),
    ],
)
def test_a_wrong_command_is_one_line(words, said, capsys):
    assert guarded(lambda: run(words)) == 2
    assert said in " ".join(capsys.readouterr().err.split())
