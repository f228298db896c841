"""What is computed, at the tiniest size: every_mode.py PART ..., in whatever mode JAX is.

JAX_DEBUG_NANS, JAX_ENABLE_X64 and JAX_DISABLE_JIT must change nothing that a person sees but the
time.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmec
from jaxmec.agents import DQN, DSAC, SAC, Pathwise, PerStation, TopKDQN
from jaxmec.mec import cwa, hecwa, water_filling
from jaxmec.solvers import PlannerConfig
from jaxmec.studies import gap, plans
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.pathwise import PathwiseConfig
from jaxmec.training.trainer import EPISODE_MEANS

MULTI, SINGLE = "MultiServerOffloading-v0", "SingleServerOffloading-v0"
# A chunk ends no episode of offloading, and each one of CartPole.
CONFIG = TrainConfig(
    steps=24,
    num_envs=4,
    prefill=8,
    buffer_size=64,
    batch_size=4,
    updates_per_step=1,
    eval_every=8,
    eval_episodes=1,
)
CARTPOLE: dict[str, Any] = {"env": "CartPole-v1", "config": CONFIG, "max_steps_in_episode": 4}
SHORT: dict[str, Any] = {"slots": 2, "positions": 2, "probability": 0.5}
AMCOEDGE: dict[str, Any] = {"env": MULTI, "preset": "amcoedge", **SHORT}
LAD_TS: dict[str, Any] = {"env": SINGLE, "preset": "lad-ts", "slots": 2, "positions": 2}
LOCAL: dict[str, Any] = {"information": "local", "features": "priced"}
SMALL: dict[str, Any] = {"hidden": (4,)}
CHAIN: dict[str, Any] = {"denoising_steps": 2, **SMALL}
PATHWISE = PathwiseConfig(
    steps=16, num_envs=2, window=4, validation_envs=2, eval_every=8, eval_episodes=1
)


def trained(agent: Any, config: Any = CONFIG, **options: Any) -> None:
    """Train, and judge what was learned; everything must be a number."""
    env, preset = options.pop("env"), options.pop("preset", None)
    result = jaxmec.train(
        agent, config=config, env=env, preset=preset, progress=False, env_options=options
    )
    history = result.history
    assert all(np.isfinite(values).all() for values in history.evaluation.values())
    for name, values in history.training.items():
        told = np.arange(values.shape[1]) > 0
        if name in EPISODE_MEANS:
            told = told & (history.training["episodes"][0] > 0)
        assert np.isfinite(values[:, told]).all(), (name, values)
    report = jaxmec.evaluate(result, episodes=2)
    assert all(np.isfinite(values).all() for values in report.values.values()), report


def played(**where: Any) -> None:
    """Every scheduler that selects what the environment asks for."""
    problem = "multi" if where["env"] == MULTI else "single"
    for name, scheduler in jaxmec.SCHEDULERS.items():
        if scheduler.problem == problem:
            report = jaxmec.evaluate(name, episodes=1, **where)
            assert all(np.isfinite(values).all() for values in report.values.values()), report


def planned() -> None:
    effort = plans.Effort(PlannerConfig(restarts=1, rounds=1, sweeps=1, gradient_steps=2), rounds=1)
    for where in ({**AMCOEDGE, "slots": 1}, {**LAD_TS, "slots": 1, "preset": "lad-ts-2"}):
        problem = "multi" if where["env"] == MULTI else "single"
        names = [name for name, s in jaxmec.SCHEDULERS.items() if s.problem == problem]
        measured = gap.measure(names[:1], episodes=1, effort=effort, **where)
        assert np.isfinite(measured.plan).all() and np.isfinite(measured.bound).all()


def allocated() -> None:
    """A rule with one server, with every set of three, with equal waits, and with none known."""
    wait, serve = jnp.array([0.0, 1.0, 7.0]), jnp.array([1.0, 0.5, 2.0])
    for rule in (cwa, hecwa, water_filling):
        assert float(rule(wait[:1], serve[:1], jnp.ones(1, bool))[0]) == 1
        largest = jax.value_and_grad(lambda w, s, rule=rule: rule(w, serve, s).max())
        both = jax.jit(jax.vmap(largest, (None, 0)))
        sets = jnp.array([[i >> b & 1 for b in range(3)] for i in range(8)], bool)
        for waits in (wait, jnp.zeros(3), jnp.full(3, 1e6)):
            fractions, gradient = both(waits, sets)
            assert np.isfinite(fractions).all() and np.isfinite(gradient).all()


PARTS = {
    "dqn": lambda: trained(DQN(**SMALL), **CARTPOLE),
    "dqn-multi": lambda: trained(DQN(**SMALL), **AMCOEDGE),
    "per-station": lambda: trained(PerStation(DQN(**SMALL)), **AMCOEDGE),
    "top-k": lambda: trained(TopKDQN(**SMALL), **AMCOEDGE, action="top_k"),
    "sac": lambda: trained(SAC(**SMALL), **CARTPOLE),
    "dsac": lambda: trained(DSAC(**CHAIN, judged_chains=2), **LAD_TS, **LOCAL),
    "pathwise": lambda: trained(
        Pathwise(**CHAIN), PATHWISE, **AMCOEDGE, action="score", entry_gradient=2.0
    ),
    "pathwise-carried": lambda: trained(
        Pathwise(**CHAIN, network="servers"),
        dataclasses.replace(PATHWISE, carried=True),
        **LAD_TS, **LOCAL, action="score",
    ),
    "cloning": lambda: trained(
        Pathwise(**CHAIN),
        CloningConfig(
            steps=16, windows=4, validation_windows=2, window=4, batch_size=4, eval_every=8
        ),
        **AMCOEDGE, action="score",
    ),
    "rules": lambda: played(**AMCOEDGE),
    "rules-single": lambda: played(**LAD_TS),
    "rules-master": lambda: played(**{**LAD_TS, "preset": "fdedge"}),
    "rules-one-server": lambda: played(**AMCOEDGE | {"preset": "amcoedge-1"}),
    "plan": planned,
    "allocation": allocated,
}  # fmt: skip


if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
