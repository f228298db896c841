"""Fair schedulers: each decides on what a station can see (docs/model.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.core.types import Memory
from jaxmec.envs.offloading import OffloadingParams, View
from jaxmec.mec.allocation import water_filling
from jaxmec.mec.offload import fallback, service_time, waiting_time
from jaxmec.mec.pricing import expected_flow, price
from jaxmec.mec.selection import one_server, subset
from jaxmec.schedulers.base import Decide, Scheduler
from jaxmec.struct import replace

Selected = tuple[jax.Array, Memory]


def _random(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    servers = params.network.num_servers
    return one_server(jax.random.randint(key, (), 0, servers), servers), memory


def _random_subset(
    params: OffloadingParams, view: View, memory: Memory, key: jax.Array
) -> Selected:
    servers = params.network.num_servers
    if servers < 31:  # every non-empty subset with the same probability
        return subset(jax.random.randint(key, (), 0, 2**servers - 1), servers), memory
    key_set, key_one = jax.random.split(key)  # empty with probability 2^-B: then any one
    chosen = jax.random.bernoulli(key_set, shape=(servers,))
    one = one_server(jax.random.randint(key_one, (), 0, servers), servers)
    return jnp.where(jnp.any(chosen), chosen, one), memory


def _local(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    return fallback(params.network, view.task), memory


def _weighted_coin(
    params: OffloadingParams, view: View, memory: Memory, key: jax.Array
) -> Selected:
    server = jax.random.categorical(key, jnp.log(params.network.capacity))
    return one_server(server, params.network.num_servers), memory


def everybody(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    return jnp.ones(params.network.num_servers, bool), memory


def _local_plus_random(
    params: OffloadingParams, view: View, memory: Memory, key: jax.Array
) -> Selected:
    own = fallback(params.network, view.task)
    other = jax.random.categorical(key, jnp.where(own, -jnp.inf, 0))
    return own | one_server(other, own.size), memory


def _turns(params: OffloadingParams) -> jax.Array:
    """[B + 1] the next server of each station and of a master node, all starting apart."""
    servers = params.network.num_servers
    return jnp.arange(servers + 1, dtype=jnp.int32) % servers


def _round_robin(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    servers = params.network.num_servers
    station = jnp.where(view.task.origin < 0, servers, view.task.origin)
    server = memory[station]
    return one_server(server, servers), memory.at[station].set((server + 1) % servers)


def _join_shortest_queue(
    params: OffloadingParams, view: View, memory: Memory, key: jax.Array
) -> Selected:
    backlog = view.queues.backlog
    tie = jax.random.uniform(key, backlog.shape)
    shortest = backlog <= jnp.min(backlog)
    return one_server(jnp.argmax(jnp.where(shortest, tie, -1)), backlog.size), memory


def _expected_delay(params: OffloadingParams, view: View, share: float | None) -> jax.Array:
    """[B] s: the delay at each server, with this station's own work of the slot counted so
    many times (once for each station where ``share`` is None: as if all did alike)."""
    times = params.stations if share is None else share
    queues = replace(view.queues, inflight=times * view.queues.inflight)
    wait = waiting_time(params.network, queues, view.task)
    return wait + service_time(params.network, view.task)


def _shortest_delay(share: float | None) -> Decide:
    def decide(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
        delay = _expected_delay(params, view, share)
        return one_server(jnp.argmin(delay), delay.size), memory

    return decide


def _power_of_two(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    """Two different servers drawn by capacity: the Gumbel top 2 of the log-capacities."""
    weight = jnp.log(params.network.capacity)
    _, drawn = jax.lax.top_k(weight + jax.random.gumbel(key, weight.shape), min(2, weight.size))
    delay = _expected_delay(params, view, 0.0)
    return one_server(drawn[jnp.argmin(delay[drawn])], weight.size), memory


def _stochastic_coordination(
    params: OffloadingParams, view: View, memory: Memory, key: jax.Array
) -> Selected:
    """Send at random so that all stations together even out the queues.

    With a tasks of mean work m and mean square m₂ expected in a slot from all stations, the
    level L solves Σ (f_i L − Q_i)⁺ = a m, and the probabilities minimise
    Σ E(Q_i + A_i − f_i L)²/f_i, where A_i is the work that server i gets: a convex problem
    whose solution is once more a water-filling. (Goren, Vargaftik, Moses, PODC 2021, here
    for tasks of unequal work.)
    """
    speed, backlog = params.network.capacity, view.queues.backlog
    servers = jnp.ones(speed.shape, bool)
    tasks, work, squared_work = params.workload.moments()
    tasks = jnp.maximum(tasks, 1.0)
    total = tasks * work
    share = water_filling(backlog / speed, total / speed, servers)
    level = jnp.max(jnp.where(share > 0, (backlog + share * total) / speed, 0))  # L
    variance = tasks * work**2  # the part of Var A_i that is quadratic in p_i, negated
    curvature = jnp.maximum(total**2 - variance, 1e-6 * total**2)
    threshold = (tasks * squared_work - 2 * total * (speed * level - backlog)) / speed
    probability = water_filling(threshold, 2 * curvature / speed, servers)
    server = jax.random.categorical(key, jnp.log(probability))
    return one_server(server, speed.size), memory


def _nothing_sent(params: OffloadingParams) -> tuple[jax.Array, jax.Array]:
    """[B, B] tasks and [B, B] Gcycles, a row a station: what each has sent to each server."""
    nothing = jnp.zeros((params.network.num_servers,) * 2)
    return nothing, nothing


def _marginal_delay(
    params: OffloadingParams, view: View, memory: Memory, key: jax.Array
) -> Selected:
    """The server where the task's own delay and what it causes to later tasks are least.

    Queues as for ``shortest-delay-all``; prices by what the station itself has sent in the
    episode, times the number of stations (:func:`jaxmec.mec.pricing.price`).
    """
    network, workload, task = params.network, params.workload, view.task
    row = jnp.maximum(task.origin, 0)
    assert view.slot is not None and view.progress is not None  # as "local" has them
    elapsed = view.slot + view.progress
    tasks, work = memory
    own = (params.stations * tasks[row], params.stations * work[row])
    flow = expected_flow(network, workload.moments(), *own, elapsed)
    queued = view.queues.backlog + params.stations * view.queues.inflight
    caused = task.work * price(network, queued, *flow, workload.slots - elapsed)
    server = jnp.argmin(_expected_delay(params, view, None) + caused)
    chosen = one_server(server, network.num_servers)
    memory = (tasks.at[row].add(chosen), work.at[row].add(chosen * task.work))
    return chosen, memory


RULES = (
    Scheduler("random", "one server, all equally likely", "single", "slot_start", _random),
    Scheduler(
        "random-subset",
        "a set of servers, all non-empty sets equally likely",
        "multi",
        "slot_start",
        _random_subset,
    ),
    Scheduler(
        "local",
        "the server where the task arrives (at a master node, the fastest)",
        "single",
        "slot_start",
        _local,
    ),
    Scheduler(
        "weighted-coin",
        "one server, with probability proportional to its capacity",
        "single",
        "slot_start",
        _weighted_coin,
    ),
    Scheduler(
        "water-filling",
        "the split that finishes first by the waits that are seen",
        "multi",
        "slot_start",
        everybody,
        allocate="water_filling",
    ),
    Scheduler(
        "local-plus-random",
        "RandCoEdge: the server where the task arrives and a random other",
        "multi",
        "slot_start",
        _local_plus_random,
    ),
    Scheduler(
        "round-robin",
        "the servers in turn, each station in its own turn",
        "single",
        "slot_start",
        _round_robin,
        init_memory=_turns,
    ),
    Scheduler(
        "join-shortest-queue",
        "the server with the least backlog; ties at random",
        "single",
        "slot_start",
        _join_shortest_queue,
    ),
    Scheduler(
        "power-of-two",
        "the better, by expected delay, of two servers drawn by capacity",
        "single",
        "slot_start",
        _power_of_two,
    ),
    Scheduler(
        "shortest-delay",
        "the server of the shortest expected delay on the slot's starting backlog",
        "single",
        "slot_start",
        _shortest_delay(0.0),
    ),
    Scheduler(
        "shortest-delay-own",
        "the same, on the backlog and the station's own work of this slot",
        "single",
        "local",
        _shortest_delay(1.0),
    ),
    Scheduler(
        "shortest-delay-all",
        "the same, on the backlog and the station's own work times the number of stations",
        "single",
        "local",
        _shortest_delay(None),
    ),
    Scheduler(
        "marginal-delay",
        "the least of a task's own delay and of what it causes to later ones",
        "single",
        "local",
        _marginal_delay,
        init_memory=_nothing_sent,
    ),
    Scheduler(
        "stochastic-coordination",
        "SCD: at random, so that all stations together even out the queues",
        "single",
        "slot_start",
        _stochastic_coordination,
    ),
)
