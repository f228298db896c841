"""The papers' claims against what the studies measured, as a page.

The page is written from the result files alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxmec import plots
from jaxmec.core import files
from jaxmec.experiment import PathLike
from jaxmec.studies import results
from jaxmec.studies.catalogue import STUDIES, find_study
from jaxmec.studies.claims import CLAIMS, NEAR
from jaxmec.studies.columns import Column, interval, markdown_table, number
from jaxmec.studies.study import Result, collect
from jaxmec.studies.verdicts import ABSENT, NO, OPEN, YES, Verdict, judge


def page(size: str, out: PathLike, directory: PathLike, command: str) -> str:
    """The page as Markdown, from the result files under ``out``.

    Args:
        size: of the studies, in `jaxmec.studies.catalogue.SIZES`.
        out: what `jaxmec.studies.study.run` was given.
        directory: of the page; its figures go to ``results/reproduction`` in it.
        command: that runs the studies and writes the page, for its first lines.
    """
    outcomes = {name: collect(find_study(name, size), out) for name in STUDIES}
    verdicts = [judge(claim, outcomes[claim.study]) for claim in CLAIMS]
    found = [result for outcome in outcomes.values() for result in outcome.results]
    parts = [
        "# The claims, measured",
        f"Written by `{command}` from its result files, not by hand. {_measured_on(found)}",
        _counts(verdicts),
        markdown_table(VERDICT_COLUMNS, verdicts),
        HOW_TO_READ,
    ]
    for name, outcome in outcomes.items():
        parts.append(results.markdown(outcome, "##").rstrip())
        for stem, figure in results.figures(outcome).items():
            file = Path("results") / "reproduction" / f"{name}_{stem}.png"
            plots.save(figure, Path(directory) / file, ("png",))
            parts.append(f"![{name}: {stem.replace('_', ' ')}]({file.as_posix()})")
    return "\n\n".join(parts) + "\n"


def write(size: str, out: PathLike, file: PathLike, command: str) -> Path:
    """Write the page and its figures; returns the page's path."""
    file = Path(file)
    files.write_whole(file, page(size, out, file.parent, command))
    return file


HOW_TO_READ = (
    'A claim holds ("yes") or fails ("no") where both 95 % intervals of the change, the paired '
    "bootstrap's and Student's t, lie wholly on one side of what is claimed; otherwise it is "
    '"not decided". The change is ours over theirs less 1, over training seeds and the same '
    'episodes; for failure rates it is ours less theirs, in percentage points. "near" means '
    f"within {100 * NEAR:g} % of the figure. The intervals speak of training seeds, on these "
    "episodes. As published, whoever allocates knows the true waits, and the published "
    "baselines were each measured in an environment of their own, which moves make-spans by 5 "
    "to 17 %; here there is one environment for all."
)


def _measured_on(found: Sequence[Result]) -> str:
    if not found:
        return "Nothing has been measured yet."
    machines = sorted({result.machine for result in found})
    versions = sorted(
        {", ".join(f"{k} {v}" for k, v in sorted(result.versions.items())) for result in found}
    )
    return f"Measured on {'; '.join(machines)} ({'; '.join(versions)})."


def _counts(verdicts: Sequence[Verdict]) -> str:
    said = [verdict.holds for verdict in verdicts]
    return f"Of {len(said)} claims: " + ", ".join(
        f"{said.count(word)} {word}" for word in (YES, NO, OPEN, ABSENT)
    ) + "."  # fmt: skip


def _in_its_unit(verdict: Verdict, value: float) -> str:
    decimals = {"makespan": 4, "failed": 4, "steps": 0}.get(verdict.claim.quantity, 1)
    return number(value, decimals)


def _change(verdict: Verdict) -> str:
    unit = " points" if verdict.claim.quantity == "failed" else " %"
    return number(verdict.change, 1, percent=True, sign="+", unit=unit)


VERDICT_COLUMNS: tuple[Column[Verdict], ...] = (
    Column("claim", lambda verdict: verdict.claim.text, left=True),
    Column("source", lambda verdict: verdict.claim.source, left=True),
    Column("holds", lambda verdict: f"**{verdict.holds}**", left=True),
    Column("ours", lambda verdict: _in_its_unit(verdict, verdict.ours)),
    Column("theirs", lambda verdict: _in_its_unit(verdict, verdict.theirs)),
    Column("change", _change),
    Column(
        "95 % (bootstrap)", lambda verdict: interval(verdict.bootstrap, 1, percent=True, sign="+")
    ),
    Column("95 % (t)", lambda verdict: interval(verdict.student, 1, percent=True, sign="+")),
    Column("note", lambda verdict: verdict.note),
)
