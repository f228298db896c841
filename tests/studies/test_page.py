"""The page of claims, from made-up measurements."""

import dataclasses

import measured

from jaxmec.studies import page
from jaxmec.studies.catalogue import find_study

METHODS = dataclasses.replace(find_study("amcoedge-methods", "short"), seeds=3)
POLES = find_study("cartpole", "short")


def test_the_page_says_what_was_measured_where_and_what_was_not(tmp_path, monkeypatch):
    levels = {entry.label: 0.3 for entry in METHODS.entries} | {"ddrl-amsa": 0.2, "optimal": 0.2}
    outcomes = {
        METHODS.name: measured.outcome(METHODS, levels, spread=0.001),
        "cartpole": measured.outcome(POLES, {"dsac": 600, "sac": 500, "dqn": 490}),
    }

    def collect(study, out):
        nothing = [entry.label for entry in study.entries]
        return outcomes.get(study.name) or measured.outcome(study, {}, missing=nothing)

    monkeypatch.setattr(page, "collect", collect)
    file = page.write("short", "nowhere", tmp_path / "docs" / "page.md", "the command")
    text = file.read_text()
    assert "Written by `the command`" in text and "a machine, 2 cores" in text
    (line,) = (
        row for row in text.splitlines() if "18.22 % less delay than DRLCoEdge (equal" in row
    )
    assert "| **yes** | 0.2" in line and "-33." in line
    (line,) = (row for row in text.splitlines() if "less delay than LAD-TS (equal terms)" in row)
    assert "| **not measured** | - | - | - | - | - | ddrl-ats is not finished |" in line
    figures = [word.split(")")[0] for word in text.split("](")[1:]]
    assert figures and all((file.parent / figure).is_file() for figure in figures)
