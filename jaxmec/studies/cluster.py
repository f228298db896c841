"""Sweeps over an agent's numbers on a cluster, by Ray Tune (extra ``cluster``).

An agent's numbers (learning rate, discount, ...) may differ from run to run of one compiled
program. A trial is therefore a batch: several settings, each with its seeds, trained side by
side as ``training.runner`` trains seeds. Ray starts the trials where there is room, and again
where a worker was lost; they go on from their newest checkpoint in the sweep's directory,
which all nodes see::

    batch_0000/     the run of a batch; results.json when it is finished
    ray/            Ray's own
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core import checks, files
from jaxmec.core.naming import suggestion
from jaxmec.core.types import Document
from jaxmec.experiment import Setting
from jaxmec.methods import find_method
from jaxmec.training import checkpoint, runner
from jaxmec.training.off_policy import TrainConfig

RESULTS_FILE = "results.json"


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """A sweep: every combination of the values, each with S seeds, in batches."""

    method: str
    values: tuple[tuple[str, tuple[float, ...]], ...]  # by field of the agent
    out: Path
    seeds: int = 3  # S of each setting
    at_once: int = 8  # settings in a batch
    options: tuple[tuple[str, object], ...] = ()  # of the config and of the agent, for all
    checkpoint_every: int | None = None  # chunks; else by time

    def __post_init__(self) -> None:
        checks.fields(self, seeds=checks.whole(1), at_once=checks.whole(1))
        agent, config, _ = self._pieces()
        if not isinstance(config, TrainConfig):
            raise ValueError(f"method is {self.method}; expected one that learns from transitions")
        leaves = {str(path[0].name) for path, _ in jax.tree_util.tree_leaves_with_path(agent)}
        for name, values in self.values:
            if name not in leaves:
                raise ValueError(
                    f"values has {name!r}; expected numbers of the agent"
                    f"{suggestion(name, sorted(leaves))}"
                )
            if not values:
                raise ValueError(f"values[{name!r}] is empty; expected at least one number")
        for setting in self.settings:
            dataclasses.replace(agent, **setting)  # checks them

    @property
    def settings(self) -> list[dict[str, float]]:
        """Every combination, the last name's values fastest."""
        names = [name for name, _ in self.values]
        return [
            dict(zip(names, chosen, strict=True))
            for chosen in itertools.product(*(values for _, values in self.values))
        ]

    @property
    def num_batches(self) -> int:
        """Trials."""
        return math.ceil(len(self.settings) / self.at_once)

    def home(self, batch: int) -> Path:
        """The directory of a batch."""
        return Path(self.out).absolute() / f"batch_{batch:04d}"

    def unfinished(self) -> list[int]:
        """The batches without results."""
        return [b for b in range(self.num_batches) if not (self.home(b) / RESULTS_FILE).exists()]

    def results(self) -> list[Document]:
        """Of every finished setting its numbers, and its last evaluations, [S] by metric."""
        files = (self.home(batch) / RESULTS_FILE for batch in range(self.num_batches))
        return [row for file in files if file.exists() for row in json.loads(file.read_text())]

    def _pieces(self) -> tuple[Any, Any, Setting]:
        row = find_method(self.method)
        settings = row.settings(False)
        agent: Any = settings.agent()
        config: Any = settings.config
        options = dict(self.options)
        of_config = {field.name for field in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{k: options.pop(k) for k in of_config & {*options}})
        agent = dataclasses.replace(agent, **options)
        return agent, config, Setting(row.env, row.preset, 0, tuple(sorted(settings.options)))


def train_batch(plan: SweepPlan, batch: int, trackers: Sequence[Any] = ()) -> list[Document]:
    """Train one batch to its end, from its newest checkpoint if it has one; its results.

    Setting i of the sweep has the seeds iS, ..., iS + S − 1.
    """
    agent, config, setting = plan._pieces()
    env, params = setting.make()
    first = batch * plan.at_once
    chosen = plan.settings[first : first + plan.at_once]
    agents = [dataclasses.replace(agent, **s) for s in chosen for _ in range(plan.seeds)]
    home = plan.home(batch)
    result = runner.run(
        jax.tree.map(lambda *numbers: jnp.asarray(numbers, jnp.result_type(float)), *agents),
        env,
        params,
        config,
        range(first * plan.seeds, (first + len(chosen)) * plan.seeds),
        directory=home,
        resume=bool(checkpoint.checkpoints(home / runner.CHECKPOINTS)),
        progress=False,
        trackers=trackers,
        checkpoint_every=plan.checkpoint_every,
    )
    last = {
        name: np.asarray(values)[:, -1].reshape(len(chosen), plan.seeds).tolist()
        for name, values in result.history.evaluation.items()
    }
    rows = [
        {"setting": setting, "evaluation": {name: values[i] for name, values in last.items()}}
        for i, setting in enumerate(chosen)
    ]
    files.write_whole(home / RESULTS_FILE, json.dumps(rows))
    return rows


class _Reporting:
    """Tells Ray how far a trial is."""

    def begin(self, home: Path | None, seeds: tuple[int, ...], step: int) -> None:
        return None

    def log(
        self, step: int, evaluation: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
    ) -> None:
        from ray import tune

        tune.report({"env_steps": step, "best_return": float(np.nanmax(evaluation["return"]))})

    def end(self, failed: bool) -> None:
        return None


def _trial(config: Document) -> None:
    train_batch(config["plan"], config["batch"], [_Reporting()])


def sweep(
    method: str,
    values: Mapping[str, Sequence[float]],
    *,
    out: checkpoint.PathLike,
    seeds: int = 3,
    at_once: int = 8,
    resources: Mapping[str, float] | None = None,
    max_failures: int = 3,
    checkpoint_every: int | None = None,
    **options: object,
) -> list[Document]:
    """Train a method with every combination of some of its agent's numbers.

    Called again with the same arguments after a stop, it does what is left.

    Args:
        method: a name in `jaxmec.methods`; one that learns from transitions.
        values: numbers to try, by field of the agent (``learning_rate``, ``discount``, ...).
        out: the sweep's directory, which all nodes see.
        seeds: of each setting.
        at_once: settings in a batch, which one trial trains side by side.
        resources: of a trial, as Ray counts them: {"cpu": 4, "gpu": 1}; one CPU by default.
        max_failures: how often a trial is started again after its worker was lost.
        checkpoint_every: save after so many chunks; every minute by default.
        options: fields of the config or the agent to change in all runs.

    Returns:
        One a setting: {"setting": its numbers, "evaluation": [S] last evaluations by metric}.

    Raises:
        ImportError: the extra ``cluster`` is missing.
        ValueError, TypeError: a wrong name or value.
        RuntimeError: a trial failed more often; the others' results are kept.
    """
    plan = SweepPlan(
        method,
        tuple((name, tuple(numbers)) for name, numbers in values.items()),
        Path(out).absolute(),
        seeds,
        at_once,
        tuple(sorted(options.items())),
        checkpoint_every,
    )
    _finish(plan, dict(resources or {"cpu": 1}), max_failures)
    return plan.results()


def _finish(plan: SweepPlan, resources: dict[str, float], max_failures: int) -> None:
    """Have Ray train what is left, a batch a trial."""
    try:
        from ray import tune
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'jaxmec[cluster]'") from error
    todo = plan.unfinished()
    if not todo:
        return
    tuner = tune.Tuner(
        tune.with_resources(_trial, resources),
        param_space={"plan": plan, "batch": tune.grid_search(todo)},
        run_config=tune.RunConfig(
            storage_path=str(plan.out / "ray"),
            failure_config=tune.FailureConfig(max_failures=max_failures),
        ),
    )
    if failed := tuner.fit().errors:
        raise RuntimeError(
            f"{len(failed)} of {len(todo)} batches failed, the first with: {failed[0]}"
        )
