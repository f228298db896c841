"""Oracles: they see the true queues, which no station could. Greedy for the task at hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.core.types import Memory
from jaxmec.envs.offloading import OffloadingParams, View
from jaxmec.mec.allocation import cwa
from jaxmec.mec.offload import offload, service_time, waiting_time
from jaxmec.mec.selection import MAX_SUBSET_SERVERS, one_server, subset
from jaxmec.schedulers.base import Scheduler
from jaxmec.schedulers.rules import Selected, everybody


def _best_server(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    finish = waiting_time(params.network, view.queues, view.task) + service_time(
        params.network, view.task
    )
    return one_server(jnp.argmin(finish), params.network.num_servers), memory


def _best_subset(params: OffloadingParams, view: View, memory: Memory, key: jax.Array) -> Selected:
    servers = params.network.num_servers
    if servers > MAX_SUBSET_SERVERS:
        raise ValueError(
            f"scheduler 'optimal' enumerates 2^B - 1 sets and takes at most "
            f"{MAX_SUBSET_SERVERS} servers, got {servers}; 'water-filling-full' finds the "
            "same make-span for any number"
        )
    subsets = jax.vmap(lambda index: subset(index, servers))(jnp.arange(2**servers - 1))

    def makespan(selected: jax.Array) -> jax.Array:
        return offload(params.network, view.queues, view.task, selected, cwa)[0].makespan

    return subsets[jnp.argmin(jax.vmap(makespan)(subsets))], memory


ORACLES = (
    Scheduler(
        "opt-ts",
        "Opt-TS: the server that finishes the task first",
        "single",
        "full",
        _best_server,
        oracle=True,
    ),
    Scheduler(
        "optimal",
        "Optimal, as published: the best set for the task at hand, by enumeration with CWA",
        "multi",
        "full",
        _best_subset,
        oracle=True,
    ),
    Scheduler(
        "water-filling-full",
        "the split that finishes first by the true waits",
        "multi",
        "full",
        everybody,
        allocate="water_filling",
        oracle=True,
    ),
)
