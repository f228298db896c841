"""What rules of serving are worth: every figure of each, a tuned one, and plans in hindsight.

python benchmarks/serving_rules.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measuring import RESULTS, begin, write

import jaxmec
from jaxmec.core import compilation
from jaxmec.core.statistics import t_interval
from jaxmec.experiment.evaluation import evaluation_key
from jaxmec.experiment.tuning import tune_rule
from jaxmec.serving.rules import RULES, tuned
from jaxmec.solvers.hindsight import HindsightConfig, asked, plan_in_hindsight
from jaxmec.training.evaluate import evaluate as play

ENV = "GenerativeServing-v0"
RESULT = RESULTS / "serving_rules.json"
SETTINGS = {  # what docs/serving.md has
    "load 0.4, heartbeat 10 s": {"load": 0.4, "heartbeat": 10.0},
    "load 0.7, heartbeat 2 s": {"load": 0.7, "heartbeat": 2.0},
}
FIGURES = ("served", "quality", "delay", "delay_p50", "delay_p95", "delay_p99", "lost", "retried",
           "cold_starts", "cloud", "return")  # fmt: skip
# Episodes; candidates a round, rounds and episodes a candidate of the tuned rule; episodes planned.
SIZES = {"tiny": (2, 8, 1, 2, 1), "full": (256, 64, 8, 64, 32)}
STARTS = ("tuned", "triage-full", "fixed-price-full", "triage-clairvoyant")  # of the plans


def player(env: Any, episodes: int) -> Callable[..., dict[str, jax.Array]]:
    """Plays the rule ``which`` of all and one with ``numbers``: one program for every rule."""

    def run(params: Any, numbers: jax.Array, which: jax.Array) -> dict[str, jax.Array]:
        rules = (*RULES.values(), tuned(numbers, "tuned here"))
        memories = tuple(rule.init_memory(params) for rule in rules)

        def policy(key: jax.Array, observation: Any, state: Any, memories: Any) -> Any:
            del observation
            return asked(env, params, rules, which, state, memories, key)

        return play(policy, memories, env, params, episodes, evaluation_key(1))

    return jax.jit(run, compiler_options=compilation.options())


def planner(env: Any, episodes: int) -> Callable[[Any], dict[str, jax.Array]]:
    """Plans the first episodes of `player` in hindsight, and plays what was planned."""

    def run(params: Any) -> dict[str, jax.Array]:
        keys = jax.random.split(evaluation_key(1), 3)[0]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(keys, jnp.arange(episodes))
        _, states = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
        starts = [RULES[name] for name in STARTS]
        plans = jax.vmap(
            lambda state, key: plan_in_hindsight(env, params, state, key, starts, HindsightConfig())
        )(states, keys)
        mine = jax.random.key_data(states.key)  # which episode a decision is of

        def policy(key: jax.Array, observation: Any, state: Any, memory: Any) -> Any:
            del key, observation
            same = jnp.all(mine == jax.random.key_data(state.key), axis=1)
            plan = jax.tree.map(lambda leaf: leaf[jnp.argmax(same)], plans)
            return plan.of(state), memory

        return play(policy, (), env, params, episodes, evaluation_key(1))

    return jax.jit(run, compiler_options=compilation.options())


def row_of(values: dict[str, jax.Array]) -> dict[str, Any]:
    """Every figure and its interval over the episodes."""
    samples = {name: np.asarray(values[name], float) for name in FIGURES}
    return {name: [float(x.mean()), *t_interval(x)] for name, x in samples.items()}


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [f"{row[each][0]:.3f}" if row[each][0] < 1.5 else f"{row[each][0]:.1f}"
             for each in FIGURES]  # fmt: skip
    low, high = row["served"][1:]
    cells[0] += f" ± {(high - low) / 2:.3f}"
    return f"| {name} | " + " | ".join(cells) + " |"


def main(
    preset: str = "genai-5",
    size: Literal["tiny", "full"] = "full",
    planned: bool = True,
    out: Path = RESULT,
) -> dict[str, Any]:
    """Play all rules in the same episodes, one tuned for the setting, and plans in hindsight."""
    episodes, candidates, rounds, played, plans = SIZES[size]
    report = begin(size, {"episodes": episodes, "candidates": candidates * rounds,
                          "episodes_planned": plans})  # fmt: skip
    report |= {"preset": preset, "settings": {}}
    env, _ = jaxmec.make(ENV, preset=preset)
    run, plan = player(env, episodes), planner(env, plans)
    for setting, options in SETTINGS.items():
        _, params = jaxmec.make(ENV, preset=preset, **options)
        start, used = time.perf_counter(), time.process_time()
        found = tune_rule(params, candidates=candidates, rounds=rounds, episodes=played)
        rows: dict[str, Any] = {}
        report["settings"][setting] = {
            "rules": rows,
            "numbers": found.numbers,
            "tuning_seconds": time.perf_counter() - start,
            "tuning_cpu_seconds": time.process_time() - used,
        }
        print(f"| {preset}, {setting} | " + " | ".join(FIGURES) + " |")
        print("| --- |" + " ---: |" * len(FIGURES))
        names = (*RULES, "tuned here", *(["hindsight"] if planned else []))
        for which, name in enumerate(names):
            used = time.process_time()
            values = plan(params) if name == "hindsight" else run(params, found.numbers, which)
            rows[name] = row_of(values) | {"cpu_seconds": time.process_time() - used}
            print(line(name, rows[name]), flush=True)
            write(report, out)
    return report


if __name__ == "__main__":
    tyro.cli(main)
