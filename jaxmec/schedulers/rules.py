"""Fair schedulers: each decides on what a station can see (MODEL: "What the scheduler sees")."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxmec.envs.offloading import OffloadingParams, View
from jaxmec.mec.offload import fallback
from jaxmec.schedulers.base import Scheduler
from jaxmec.selection import one_server, subset

Selected = tuple[jax.Array, Any]


def _random(params: OffloadingParams, view: View, memory: Any, key: jax.Array) -> Selected:
    servers = params.network.num_servers
    return one_server(jax.random.randint(key, (), 0, servers), servers), memory


def _random_subset(params: OffloadingParams, view: View, memory: Any, key: jax.Array) -> Selected:
    servers = params.network.num_servers
    if servers < 31:  # every non-empty subset with the same probability
        return subset(jax.random.randint(key, (), 0, 2**servers - 1), servers), memory
    key_set, key_one = jax.random.split(key)  # empty with probability 2^-B: then any one
    chosen = jax.random.bernoulli(key_set, shape=(servers,))
    one = one_server(jax.random.randint(key_one, (), 0, servers), servers)
    return jnp.where(jnp.any(chosen), chosen, one), memory


def _local(params: OffloadingParams, view: View, memory: Any, key: jax.Array) -> Selected:
    return fallback(params.network, view.task), memory


def _weighted_coin(params: OffloadingParams, view: View, memory: Any, key: jax.Array) -> Selected:
    server = jax.random.categorical(key, jnp.log(params.network.capacity))
    return one_server(server, params.network.num_servers), memory


def everybody(params: OffloadingParams, view: View, memory: Any, key: jax.Array) -> Selected:
    return jnp.ones(params.network.num_servers, bool), memory


RULES = (
    Scheduler(
        "random", "one server, all equally likely", "single", "slot_start", _random
    ),
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
)  # fmt: skip
