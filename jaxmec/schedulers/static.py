"""The best fixed set of servers for each station, found by search on arrivals of its own.

It looks at no queue and learns nothing while it runs: what it knows of the others is that
they keep to their sets too. On `amcoedge` with the true waits it comes within 2 or 3 per cent
of "Optimal", which few published methods do (docs/model.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core import compilation
from jaxmec.core.types import EnvState, Memory
from jaxmec.envs.multi import MultiServerOffloading
from jaxmec.envs.offloading import OffloadingParams, View
from jaxmec.mec.offload import fallback
from jaxmec.mec.selection import subset
from jaxmec.mec.workload import TraceWorkload
from jaxmec.schedulers.base import Scheduler
from jaxmec.schedulers.rules import Selected
from jaxmec.struct import replace
from jaxmec.training.evaluate import evaluate

ENUMERATED = 6  # servers up to which every set of a station is tried, instead of neighbours
SWEEPS = 4  # times that every station may change its set
SLOTS = 8  # slots of an episode of the search
EPISODES = 16  # episodes that a choice is judged on
PROPOSALS = 32  # changes judged at a time, where sets are too many
ROUNDS = 40  # times that this is done
SEARCH_KEY = 0x5EA2C4  # apart from the keys of every evaluation and training


def best_sets(env: MultiServerOffloading, params: OffloadingParams) -> jax.Array:
    """[B + 1, B] bool, a set for each station and, in the last row, for a master node.

    Coordinate search on the mean make-span under the environment's own information and
    allocation: station after station takes the set that is best while the others keep
    theirs. Above ``ENUMERATED`` servers, where sets are too many, the start is the best
    choice of the same number of neighbours for everybody, and then single servers are added
    to a set or taken out of it while that helps.

    Runs for seconds, and on its own arrivals; not to be traced.
    """
    servers = env.num_servers
    if not isinstance(params.workload, TraceWorkload):  # a trace is short enough as it is
        slots = jnp.minimum(params.workload.slots, SLOTS)
        params = replace(params, workload=replace(params.workload, slots=slots))
    episodes = EPISODES if servers <= ENUMERATED else 4

    @functools.partial(jax.jit, compiler_options=compilation.options())
    @jax.vmap
    def makespan(table: jax.Array) -> jax.Array:
        """[] s, of one table [B + 1, B]."""

        def policy(
            key: jax.Array, observation: jax.Array, state: EnvState, memory: Memory
        ) -> tuple[jax.Array, Memory]:
            return table[_row(state.task.origin, servers)], memory

        key = jax.random.key(SEARCH_KEY)
        return jnp.mean(evaluate(policy, (), env, params, episodes, key)["makespan"])

    if servers <= ENUMERATED:
        return jnp.asarray(_enumerate(makespan, servers))
    return jnp.asarray(_improve(makespan, servers))


def _row(origin: jax.Array, servers: int) -> jax.Array:
    return jnp.where(origin < 0, servers, origin)


def _enumerate(makespan: Callable[[np.ndarray], np.ndarray], servers: int) -> np.ndarray:
    """Every set of one station at a time, until no station changes its own."""
    sets = np.asarray(jax.vmap(lambda i: subset(i, servers))(jnp.arange(2**servers - 1)))
    table = np.ones((servers + 1, servers), bool)
    for _ in range(SWEEPS):
        before = table.copy()
        for station in range(servers + 1):
            tables = np.repeat(table[None], len(sets), axis=0)
            tables[:, station] = sets
            table = tables[int(np.argmin(makespan(tables)))]
        if np.array_equal(before, table):
            break
    return table


def _improve(makespan: Callable[[np.ndarray], np.ndarray], servers: int) -> np.ndarray:
    """The best number of neighbours, then single changes drawn at random."""
    rng = np.random.default_rng(SEARCH_KEY)
    sizes = np.unique(np.geomspace(1, servers, 12).astype(int))
    ahead = (np.arange(servers)[None, :] - np.arange(servers)[:, None]) % servers
    starts = np.stack([np.vstack([ahead < m, np.ones(servers, bool)]) for m in sizes])
    values = np.asarray(makespan(starts))
    table, best = starts[int(np.argmin(values))], float(values.min())
    for _ in range(ROUNDS):
        tables = np.repeat(table[None], PROPOSALS, axis=0)
        rows, columns = rng.integers(0, servers, (2, PROPOSALS))
        tables[np.arange(PROPOSALS), rows, columns] ^= True
        tables[~tables.any(axis=2)] = True  # a set must not be empty
        values = np.asarray(makespan(tables))
        if values.min() < best:
            # All changes that help on their own, together where that helps more.
            together = table.copy()
            for index in np.flatnonzero(values < best):
                together[rows[index]] = tables[index, rows[index]]
            joint = float(makespan(together[None])[0])
            table, best = (
                (together, joint)
                if joint < values.min()
                else (tables[int(np.argmin(values))], float(values.min()))
            )
    return table


def _own_set(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    own = memory[_row(view.task.origin, params.network.num_servers)]
    return jnp.where(jnp.any(own), own, fallback(params.network, view.task)), memory


def _everything(params: OffloadingParams) -> jax.Array:
    servers = params.network.num_servers
    return jnp.ones((servers + 1, servers), bool)


STATIC = (
    Scheduler(
        "static-sets",
        "the best fixed set of servers for each station, found by search beforehand",
        "multi",
        "slot_start",
        _own_set,
        allocate="water_filling",
        init_memory=_everything,
        plan=best_sets,
    ),
)
