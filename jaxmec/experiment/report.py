"""How policies did, on the same episodes."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxmec.core.statistics import t_interval
from jaxmec.core.terminal import quoted
from jaxmec.experiment.setting import Setting, check_same_tasks

METRIC_UNITS = {
    "makespan": "s",
    "delay": "s",
    "failed": "share of tasks",
    "length": "decisions",
    "served": "share of requests, in time and good enough",
    "quality": "of the served",
    "lost": "share of requests never answered",
    "retried": "a request",
    "cold_starts": "a request",
    "cloud": "share of requests",
    **dict.fromkeys(("delay_p50", "delay_p95", "delay_p99"), "s"),
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """What policies are compared by."""

    name: str  # of the entry in a report's values
    title: str  # for tables and axes, with its unit
    decimals: int
    smaller_is_better: bool


METRICS = {
    metric.name: metric
    for metric in (
        Metric("makespan", "mean make-span (s)", 4, True),
        Metric("failed", "failed tasks (share)", 4, True),
        Metric("return", "mean return", 1, False),
        Metric("served", "served (share)", 4, False),
    )
}


@dataclasses.dataclass(frozen=True)
class Report:
    """How one policy, or the policies of S seeds, did on the same episodes."""

    name: str
    setting: Setting
    information: str | None  # what the policy saw; None for CartPole
    values: dict[str, np.ndarray]  # [S, episodes] by metric: "return", "length", "makespan", ...
    seed: int | None = None  # of the episodes, where it is known
    judged: str | None = None  # "greedy", or "sampled": drawn from; None: it does not learn

    @property
    def num_seeds(self) -> int:
        """S."""
        return next(iter(self.values.values())).shape[0]

    def samples(self, metric: str) -> np.ndarray:
        """[n] what the interval is over: seeds where there are several, else episodes."""
        if metric not in self.values:
            raise KeyError(f"the report has no metric {metric!r}; it has {', '.join(self.values)}")
        values = self.values[metric]
        return values.mean(axis=1, dtype=float) if self.num_seeds > 1 else values[0]

    def mean(self, metric: str) -> float:
        """The mean over seeds and episodes."""
        return float(np.mean(self.values[metric], dtype=float))

    def interval(self, metric: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of Student's t around the mean; over seeds, or episodes of one seed."""
        return t_interval(self.samples(metric), level)

    def ratio(self, reference: Report, metric: str = "makespan") -> np.ndarray:
        """[n] this report over another on the same episodes, paired (see :meth:`samples`)."""
        self.check_same_episodes(reference)
        mine, other = self.values[metric], reference.values[metric]
        if self.num_seeds > 1:
            return mine.mean(axis=1) / other.mean()
        return mine[0] / other.mean(axis=0)

    def difference(self, reference: Report, metric: str = "makespan") -> np.ndarray:
        """[n] this report less another on the same episodes: paired by episode and by seed.

        One a seed where either has several (a report of one seed is set against each of the
        other's), else one an episode.

        Raises:
            ValueError: not the same episodes, or both with several seeds, but not as many.
        """
        mine, other = self.values[metric], reference.values[metric]
        self.check_same_episodes(reference)
        if self.num_seeds > 1 < reference.num_seeds != self.num_seeds:
            raise ValueError(
                f"{self.name} has {self.num_seeds} seeds and {reference.name} has "
                f"{reference.num_seeds}: they cannot be paired"
            )
        difference = mine - other
        return difference.mean(axis=1) if difference.shape[0] > 1 else difference[0]

    def check_same_episodes(self, reference: Report) -> None:
        """Both met the same tasks: drawn alike, from the same seed, in as many episodes.

        Raises:
            ValueError: they did not; names what differs.
        """
        check_same_tasks(self.name, self.setting, reference.name, reference.setting)
        if None not in (self.seed, reference.seed) and self.seed != reference.seed:
            raise ValueError(
                f"{self.name} was played in the episodes of seed {self.seed} and {reference.name} "
                f"in those of seed {reference.seed}: not the same episodes"
            )
        mine, other = (report.values["return"].shape[1] for report in (self, reference))
        if mine != other:
            raise ValueError(f"the reports have {mine} and {other} episodes: not the same ones")
        if "makespan" in self.values and "length" in self.values and "length" in reference.values:
            tasks, others = self.values["length"], reference.values["length"]
            if not np.array_equal(tasks[0], others[0]):
                raise ValueError(
                    f"{self.name} met {tasks[0].astype(int).tolist()} tasks and {reference.name} "
                    f"{others[0].astype(int).tolist()}: not the same episodes"
                )

    def __str__(self) -> str:
        over = "seeds" if self.num_seeds > 1 else "episodes"
        over = f"{self.samples('return').size} {over}"
        lines = [f"{quoted(self.name)}: mean and 95 % interval over {over}"]
        for metric in self.values:
            low, high = self.interval(metric)
            line = f"  {metric:<11} {self.mean(metric):10.4f}  [{low:.4f}, {high:.4f}]  "
            lines.append((line + METRIC_UNITS.get(metric, "")).rstrip())
        return "\n".join(lines)
