"""Tables of reports: paired ratios, intervals, order, and what is written to disk."""

import json

import numpy as np
import pytest
from rich.console import Console

from jaxmec.comparison import Comparison
from jaxmec.experiment import Report, Setting

SETTING = Setting("MultiServerOffloading-v0", "amcoedge")


def report(name, makespans, information="slot_start"):
    values = np.array(makespans, float)
    zeros = np.zeros_like(values)
    return Report(
        name, SETTING, information, {"makespan": values, "return": -values, "failed": zeros}
    )


@pytest.fixture
def comparison():
    reference = report("optimal", [[1.0, 2.0]], "full")
    rule = report("rule", [[1.5, 3.0]])
    learned = report("learned", [[0.9, 1.8], [1.2, 2.4]])
    return Comparison([rule, reference, learned], reference)


def test_rows_are_in_order_with_paired_ratios(comparison):
    rows = comparison.rows
    assert [row.name for row in rows] == ["optimal", "learned", "rule"]
    optimal, learned, rule = rows
    assert optimal.ratio == 1 and optimal.ratio_interval == (1, 1)
    # Both episodes are 1.5 times the reference's: paired, there is no spread.
    assert rule.ratio == 1.5 and rule.ratio_interval == (1.5, 1.5)
    # Seeds at 0.9 and 1.2: t(0.975, 1) = 12.706 times the standard error 0.15.
    assert learned.ratio == pytest.approx(1.05)
    assert learned.ratio_interval[1] == pytest.approx(1.05 + 12.7062 * 0.15, rel=1e-4)
    assert learned.seeds == 2 and rule.seeds == 1


def test_it_is_shown_and_saved_with_every_value(comparison, tmp_path):
    console = Console(record=True, width=140)
    console.print(comparison.table("title"))
    assert "learned" in console.export_text()
    assert comparison.markdown().count("\n") == 4
    comparison.save(tmp_path / "c.json", device="cpu")
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["device"] == "cpu"
    assert saved["values"]["learned (slot_start)"]["makespan"] == [[0.9, 1.8], [1.2, 2.4]]


def test_reports_of_different_episodes_are_not_compared():
    with pytest.raises(ValueError, match="3 and 2 episodes"):
        report("a", [[1, 2, 3]]).ratio(report("b", [[1, 2]]))
