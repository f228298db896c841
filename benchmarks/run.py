"""All benchmarks of the library at one size, and one table of them; see README.md.

python benchmarks/run.py --size small
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Literal

import decisions
import env_steps
import hot_path
import peers
import scaling
import training
import tyro
import updates
from measuring import RESULTS
from rich.console import Console
from rich.table import Table

Row = tuple[str, str, str]  # what, how much, beside what


def of_env_steps(report: dict[str, Any]) -> list[Row]:
    """Environment steps a second."""
    return [
        (
            f"steps: {row['case']}",
            f"{row['steps_per_second'] / 1e6:.2f} M/s",
            "" if row["ratio"] is None else f"{row['ratio']:.2f} x {row['reference']}",
        )
        for row in report["summary"]
    ]


def of_updates(report: dict[str, Any]) -> list[Row]:
    """Gradient updates a second."""
    return [
        (
            f"updates: {row['case']}",
            f"{row['per_second']:.0f} /s",
            f"{row['ratio']:.2f} x PyTorch" if "ratio" in row else "",
        )
        for row in report["results"] + report["compared"]
    ]


def of_decisions(report: dict[str, Any]) -> list[Row]:
    """Decisions a second, and the exponents of their cost in B."""
    rows = [
        (
            f"decisions: {row['case']}",
            f"{row['per_second']:,.0f} /s",
            f"{row['ratio']:.0f} x the NumPy loop" if "ratio" in row else "",
        )
        for row in report["loops"]
    ]
    return rows + [
        (f"cost in B: {row['case']}", f"B^{row['exponent']:.2f}", "")
        for row in report["against_servers"]
    ]


def of_training(report: dict[str, Any]) -> list[Row]:
    """Training from end to end."""
    rows = [
        (
            row["case"],
            f"{row['per_second']:,.0f} decisions/s",
            f"{row['ratio']:.1f} x PyTorch" if "ratio" in row else "",
        )
        for row in report["rates"]
    ]
    for row in report["rates"]:
        if "seconds_to_compile" in row:
            rows.append((f"{row['case']}, compiling", f"{row['seconds_to_compile']:.1f} s", ""))
    for row in report["targets"]:
        reached = row["seconds"] is not None
        rows.append((row["case"], f"{row['seconds']:.1f} s" if reached else "not reached", ""))
    return [
        *rows,
        ("peak memory in training", f"{report['peak_memory_bytes'] / 2**20:.0f} MiB", ""),
    ]


def of_hot_path(report: dict[str, Any]) -> list[Row]:
    """The pieces of a DSAC update."""
    return [
        (
            f"{row['case']} ({row['activation']}, batch {row['batch']}, hidden {row['hidden']})",
            f"{1e6 * statistics.median(row['seconds']):.0f} µs",
            f"{row['share']:.0%} of the update",
        )
        for row in report["results"]
    ]


def of_peers(report: dict[str, Any]) -> list[Row]:
    """DQN and SAC on CartPole, ours and others."""
    return [
        (
            row["case"],
            f"{row['per_second']:,.0f} steps/s",
            f"ours is {row['ratio']:.1f} x" if "ratio" in row else "",
        )
        for row in report["results"]
    ]


def of_scaling(report: dict[str, Any]) -> list[Row]:
    """Training against the number of seeds and of devices."""
    return [
        (
            f"DSAC on CartPole, {what}: {row[what]}",
            f"{statistics.median(row['seconds']):.3f} s",
            f"{row['cost']:.2f} x the first",
        )
        for what in ("seeds", "devices")
        for row in report[what]
    ]


PARTS = {
    "env_steps": (env_steps, of_env_steps),
    "updates": (updates, of_updates),
    "decisions": (decisions, of_decisions),
    "training": (training, of_training),
    "hot_path": (hot_path, of_hot_path),
    "peers": (peers, of_peers),
    "scaling": (scaling, of_scaling),
}


def main(
    size: Literal["tiny", "small", "full"] = "small",
    only: tuple[str, ...] = tuple(PARTS),
    output: Path | None = RESULTS,
) -> None:
    """Measure everything, one after the other, and print one table at the end.

    Args:
        size: how much to measure.
        only: which parts.
        output: the directory of the JSON files; None writes nothing.

    Raises:
        ValueError: an unknown part.
    """
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        raise ValueError(f"only must name parts among {', '.join(PARTS)}, got {unknown[0]!r}")
    table = Table("what", "how much", "beside what", title=f"benchmarks, size {size}")
    for name in only:
        module, rows = PARTS[name]
        print(f"--- {name}", flush=True)
        file = None if output is None else output / f"{name}.json"
        for row in rows(module.main(size=size, output=file)):
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
