"""What rules of serving are worth: every figure of every rule, with intervals, and tuned ones.

python benchmarks/serving_rules.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tyro
from measuring import RESULTS, begin, write

import jaxmec
from jaxmec.experiment.tuning import tune_rule
from jaxmec.serving.rules import RULES

ENV = "GenerativeServing-v0"
RESULT = RESULTS / "serving_rules.json"
SETTINGS = {  # what docs/serving.md has
    "load 0.4, heartbeat 10 s": {"load": 0.4, "heartbeat": 10.0},
    "load 0.7, heartbeat 2 s": {"load": 0.7, "heartbeat": 2.0},
}
FIGURES = ("served", "quality", "delay", "delay_p50", "delay_p95", "delay_p99", "lost", "retried",
           "cold_starts", "cloud")  # fmt: skip
SIZES = {"tiny": (2, 8, 1, 2), "full": (256, 64, 8, 64)}  # episodes; candidates, rounds, episodes


def row_of(report: Any) -> dict[str, Any]:
    """Every figure and its interval."""
    return {name: [report.mean(name), *report.interval(name)] for name in FIGURES}


def main(
    preset: str = "genai-5", size: Literal["tiny", "full"] = "full", out: Path = RESULT
) -> dict[str, Any]:
    """Play all rules in the same episodes, and one that is tuned for the setting."""
    episodes, candidates, rounds, played = SIZES[size]
    report = begin(size, {"episodes": episodes, "preset": preset})
    report["settings"] = {}
    for setting, options in SETTINGS.items():
        _, params = jaxmec.make(ENV, preset=preset, **options)
        found = tune_rule(
            params, candidates=candidates, rounds=rounds, episodes=played, name="tuned here"
        )
        rows, where = {}, {"env": ENV, "preset": preset, "episodes": episodes, **options}
        print(f"| {setting} | " + " | ".join(FIGURES) + " |")
        print("| --- |" + " ---: |" * len(FIGURES))
        for rule in (*RULES.values(), found.rule):
            row = rows[rule.name] = row_of(jaxmec.evaluate(rule, **where))
            low, high = row["served"][1:]
            cells = [
                f"{row[name][0]:.3f}" if row[name][0] < 1.5 else f"{row[name][0]:.1f}"
                for name in FIGURES
            ]
            cells[0] += f" ± {(high - low) / 2:.3f}"
            print(f"| {rule.name} | " + " | ".join(cells) + " |", flush=True)
        report["settings"][setting] = {"rules": rows, "numbers": found.numbers}
        print(f"numbers found: {found.numbers}", flush=True)
    write(report, out)
    return report


if __name__ == "__main__":
    tyro.cli(main)
