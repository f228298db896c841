"""Policies of every action mode with random parameters, and states to decide in."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.agents import DQN, DSAC, SAC, Pathwise, PerStation, TopKDQN
from jaxmec.deploy.runtime import Queues, Task
from jaxmec.experiment import Policy, Setting
from jaxmec.training.rollout import make_spec

MULTI, SINGLE = "MultiServerOffloading-v0", "SingleServerOffloading-v0"
SMALL = (32, 32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A method, small, on an environment."""

    agent: Any
    env: str
    preset: str | None
    options: tuple[tuple[str, Any], ...] = ()

    @functools.cache  # noqa: B019 - the cases are few and live as long as the tests
    def policy(self, seed: int = 0) -> Policy:
        """The policy with random parameters; scores are of the size of trained ones."""
        setting = Setting(self.env, self.preset, 0, tuple(sorted(self.options)))
        env, params = setting.make()
        spec = make_spec(env, params)
        learner = jax.jit(self.agent.init, static_argnums=1)(jax.random.key(seed), spec)
        return Policy(self.agent, learner, spec, setting, type(self.agent).__name__.lower())


# One of each action mode, of each information model, allocation rule and kind of network.
CASES = {
    "one_server": Case(DSAC(hidden=SMALL, judged_chains=3, denoising_steps=2), SINGLE, "lad-ts"),
    "one_server_places": Case(
        DSAC(hidden=SMALL, start="last", places=64, judged_chains=0, denoising_steps=2),
        SINGLE,
        "lad-ts",
        (("show_place", True), ("features", "published")),
    ),
    "master": Case(
        SAC(hidden=SMALL), SINGLE, "fdedge", (("information", "local"), ("features", "priced"))
    ),
    # DDRL-ATS as it is trained.
    "priced": Case(
        DSAC(hidden=(8,), network="servers", judged_chains=0, denoising_steps=2),
        SINGLE,
        "lad-ts",
        (("information", "local"), ("features", "priced"), ("reward", "charged")),
    ),
    # One server by the largest score, as it is trained through the simulator.
    "one_server_scores": Case(
        Pathwise(hidden=(8,), network="servers", denoising_steps=2),
        SINGLE,
        "lad-ts",
        (("information", "local"), ("features", "priced"), ("action", "score")),
    ),
    "subset": Case(
        DSAC(hidden=SMALL, judged_chains=0),
        MULTI,
        "amcoedge",
        (("information", "local"), ("allocate", "hecwa")),
    ),
    "per_station": Case(
        PerStation(inner=DQN(hidden=SMALL)), MULTI, "amcoedge", (("features", "published"),)
    ),
    "local_plus_one": Case(
        DQN(hidden=SMALL, layer_norm=True),
        MULTI,
        "smcoedge",
        (("action", "local_plus_one"), ("information", "full"), ("features", "priced")),
    ),
    "top_k": Case(
        TopKDQN(hidden=SMALL),
        MULTI,
        "smcoedge",
        (("action", "top_k"), ("k", 3), ("allocate", "water_filling")),
    ),
    # Decisions among a station's own server and the next two.
    "neighbours": Case(
        DQN(hidden=SMALL),
        MULTI,
        "amcoedge",
        (("information", "local"), ("features", "times"), ("neighbours", 3)),
    ),
    "neighbours_score": Case(
        Pathwise(network="servers", hidden=SMALL, denoising_steps=2, bound=2.0),
        MULTI,
        "amcoedge",
        (("action", "score"), ("features", "times"), ("information", "local"), ("neighbours", 3)),
    ),
    "neighbours_priced": Case(
        DQN(hidden=SMALL),
        SINGLE,
        "lad-ts",
        (("information", "full"), ("features", "priced"), ("neighbours", 20)),
    ),
    "score": Case(
        Pathwise(network="servers", hidden=SMALL, denoising_steps=2, bound=2.0),
        MULTI,
        "amcoedge",
        (
            ("action", "score"),
            ("features", "times"),
            ("information", "local"),
            ("allocation_information", "seen"),
        ),
    ),
    "score_priced": Case(
        Pathwise(network="servers", hidden=SMALL, denoising_steps=2, bound=2.0),
        MULTI,
        "amcoedge",
        (
            ("action", "score"),
            ("features", "priced"),
            ("information", "local"),
            ("allocation_information", "priced"),
        ),
    ),
    "expected": Case(
        DQN(hidden=SMALL),
        MULTI,
        "amcoedge",
        (("information", "local"), ("allocation_information", "expected")),
    ),
}


@functools.cache
def visited(name: str, steps: int = 400) -> tuple[Any, np.ndarray, list[Queues], list[Task]]:
    """A case's states and observations [steps, ...], and what the runtime is told in each."""
    policy = CASES[name].policy()
    seen, observed = states(policy, steps)
    return (seen, observed, *situations(policy, seen))


def states(policy: Policy, steps: int, seed: int = 0) -> tuple[Any, np.ndarray]:
    """[steps, ...] states of an environment in which random decisions are taken, and what a
    policy observes in them, [steps, S]."""
    env, params = policy.setting.make()
    space = env.action_space(params)

    def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        key_action, key_env = jax.random.split(key)
        _, state = carry
        observation, following, *_ = env.step(key_env, state, space.sample(key_action), params)
        return (observation, following), carry

    def run(key: jax.Array) -> Any:
        key_reset, key_steps = jax.random.split(key)
        start = jax.tree.map(jnp.asarray, env.reset(key_reset, params))
        return jax.lax.scan(step, start, jax.random.split(key_steps, steps))[1]

    observations, seen = jax.jit(run)(jax.random.key(seed))
    if env.keeps_history:
        # Some hundred decisions fill no episode: as if each stood anywhere in one.
        seen = scattered(seen, int(params.workload.slots), np.random.default_rng(seed))
        observations = jax.jit(jax.vmap(lambda state: env.observe_state(state, params)))(seen)
    return seen, np.asarray(observations)


def scattered(seen: Any, slots: int, rng: np.random.Generator) -> Any:
    """The states [n, ...] in random slots, after random histories and with random backlogs."""
    slot = rng.integers(0, slots, len(seen.time))
    history = jax.tree.map(
        lambda rows: jnp.asarray(
            rng.exponential(1.0 + slot[:, None, None], rows.shape), rows.dtype
        ),
        seen.history,
    )
    backlog = seen.queues.backlog * rng.exponential(2.0, seen.queues.backlog.shape)
    backlog += rng.exponential(20.0, backlog.shape)
    seen = seen._replace(
        history=history, cursor=seen.cursor._replace(slot=jnp.asarray(slot, jnp.int32))
    )
    return jax.vmap(lambda state, row: state._replace(queues=state.queues.replace(backlog=row)))(
        seen, jnp.asarray(backlog, jnp.float32)
    )


def situations(policy: Policy, visited: Any) -> tuple[list[Queues], list[Task]]:
    """What a person at the station would tell the runtime in each of [n, ...] states."""
    env, params = policy.setting.make()
    views = jax.jit(jax.vmap(lambda state: env.view(state, params)))(visited)
    cursor = visited.cursor
    positions = params.workload.positions
    station = cursor.slot * env.num_servers + cursor.station
    columns: dict[str, Any] = {
        "backlog": visited.queues.backlog,
        "inflight": visited.queues.inflight,
        "sent": visited.sent,
        "uplink": visited.queues.uplink,
        "progress": cursor.position / positions,
        "place": station * positions + cursor.position,
    }
    if visited.history:
        row = jnp.maximum(visited.task.origin, 0)[:, None, None]
        for name, sent in visited.history._asdict().items():
            columns[f"sent_{name}"] = jnp.take_along_axis(sent, row, axis=1)[:, 0]
        columns["slot"] = cursor.slot
    if views.remaining is not None:
        columns["remaining_tasks"] = views.remaining.tasks
        columns["remaining_work"] = views.remaining.work
    host = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    tasks = {name: np.asarray(column) for name, column in visited.task._asdict().items()}
    count = len(tasks["size"])
    queues = [Queues(**{name: column[i] for name, column in host.items()}) for i in range(count)]
    return queues, [
        Task(
            origin=int(tasks["origin"][i]) if tasks["origin"].ndim else int(tasks["origin"]),
            size=float(tasks["size"][i]),
            work=float(tasks["work"][i]),
            result=float(np.broadcast_to(tasks["result"], (count,))[i]),
        )
        for i in range(count)
    ]
