"""Demonstrations are the planner's plans, as a station would have seen them carried out."""

import jax
import numpy as np
import oracle
import pytest

import jaxmec
from jaxmec.experiment.demonstrations import Demonstrator
from jaxmec.mec import trace_workload
from jaxmec.solvers import PlannerConfig, play, window_of

MULTI, SINGLE = "MultiServerOffloading-v0", "SingleServerOffloading-v0"
SMALL = {"capacity": (10, 20, 30), "rate": (400, 450, 500), "positions": 6, "probability": 0.5}
QUICK = PlannerConfig(restarts=2, rounds=1, sweeps=1, gradient_steps=5)


def shown(env_id, length=30, **options):
    preset = "amcoedge" if env_id == MULTI else "fdedge"
    env, params = jaxmec.make(env_id, preset=preset, action="score", information="local", **options)
    demonstrator = Demonstrator(env, QUICK)
    keys = jax.random.split(jax.random.key(0), 6)
    run = jax.jit(jax.vmap(lambda key: demonstrator.demonstrate(key, params, length)))
    return demonstrator, params, keys, jax.device_get(run(keys))


def test_what_is_shown_is_a_plan_carried_out():
    """Played by the solvers in double precision the slot has the same make-spans, and they are
    shorter than those of the greedy rule."""
    env, params, keys, rows = shown(MULTI, **SMALL, allocation_information="seen")
    for key, row in zip(
        keys, [jax.tree.map(lambda x, i=i: x[i], rows) for i in range(6)], strict=True
    ):
        count = int(row.counts.sum())
        assert 0 < count < 30 and np.all(row.counts[:count])
        names = env.feature_names(params)
        size, work = (
            row.observation[:count, names.index(name)] * float(getattr(params.scales, name))
            for name in ("size", "work")
        )
        origins = row.observation[:count, [names.index(f"origin[{i}]") for i in range(3)]]
        trace = trace_workload(np.zeros(count, int), origins.argmax(axis=1), size, work)
        window = window_of(trace, backlog=np.zeros(3))
        # The fractions that the environment took, by playing the actions again.
        step = jax.jit(env.step)
        key_reset, key_env, _ = jax.random.split(key, 3)
        state = env.reset(key_reset, params)[1]
        fractions = []
        for index in range(count):
            _, state, _, _, _, info = step(
                jax.random.fold_in(key_env, index), state, row.action[index], params
            )
            fractions.append(np.asarray(info["fraction"], np.float64))
        played = play(params.network, window, np.stack(fractions))
        np.testing.assert_allclose(row.makespan[:count], played, rtol=1e-3, atol=1e-4)
        network = oracle.Network([10, 20, 30], [400, 450, 500], 1.0, True, 1.0, oracle.INF, 1, 10)
        tasks = [
            oracle.Task(int(o), float(d), float(c), 0.0)
            for o, d, c in zip(origins.argmax(axis=1), size, work, strict=True)
        ]
        greedy = oracle.play(network, [0] * count, tasks, np.ones((count, 3), bool),
                             rule="water_filling")  # fmt: skip
        assert row.makespan[:count].mean() <= 1.001 * np.mean([r.outcome.makespan for r in greedy])


def test_one_server_a_task_is_shown_by_the_largest_score():
    env, _, _, rows = shown(SINGLE, capacity=(10, 20, 30), rate=(400, 450, 500), positions=8)
    actions = rows.action[rows.counts]
    assert set(np.unique(actions)) == {-1.0, 1.0}
    np.testing.assert_array_equal((actions == 1).sum(axis=-1), 1)
    assert len(set(actions.argmax(axis=-1))) > 1
    assert env.num_servers == 3 and env.name == SINGLE


def test_only_scores_can_be_shown():
    env, _ = jaxmec.make(MULTI, preset="amcoedge", action="score", neighbours=3)
    with pytest.raises(ValueError, match=r"neighbours must be None .*, got 3"):
        Demonstrator(env)
    env, _ = jaxmec.make(MULTI, preset="amcoedge")
    with pytest.raises(ValueError, match="action='score', got MultiServerOffloading with "):
        Demonstrator(env)
