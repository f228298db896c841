"""What an observation is made of: one table of features, each a function of a view.

The environment's observation, its layout and what a bundle says of it are made from
:data:`FEATURES`. A new feature is one entry there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmec.envs.state import (
    OffloadingOptions,
    OffloadingParams,
    View,
    expected_queues,
    marginal_delay,
    near,
)
from jaxmec.mec.offload import is_origin, service_time, waiting_time
from jaxmec.mec.workload import Remaining


class Seen:
    """A view, and what several features need of it, worked out once."""

    def __init__(self, view: View, params: OffloadingParams, options: OffloadingOptions) -> None:
        self.view, self.params, self.options = view, params, options
        self.task, self.network = view.task, params.network

    @functools.cached_property
    def expected(self) -> jax.Array:
        """[B] Gcycles at each server, were all stations to do as this one has in its slot."""
        queues = expected_queues(self.view, self.params, self.options)
        return queues.backlog + queues.inflight

    @property
    def remaining(self) -> Remaining:
        """What the station still has to decide in its slot."""
        assert self.view.remaining is not None  # the information model shows it
        return self.view.remaining

    @property
    def charge(self) -> jax.Array:
        """[B] s that the task would delay later ones at each server."""
        return self.task.work * marginal_delay(self.view, self.params, self.expected)


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature: a quantity of a view, in a unit, over a scale."""

    name: str
    unit: str
    about: str
    value: Callable[[Seen], Any]  # in its unit: [B] where it is one number a server, else []
    scale: Callable[[OffloadingParams], Any] | None = None  # [] in the same unit; None: 1
    per_server: bool = False  # one number a server; else one of the task or the station
    shown: Callable[[OffloadingOptions, OffloadingParams], bool] = lambda options, params: True


def _beyond_published(options: OffloadingOptions, params: OffloadingParams) -> bool:
    return options.features not in ("raw", "published")


def _in_slot(options: OffloadingOptions, params: OffloadingParams) -> bool:
    return options.information != "slot_start"


def _remaining(options: OffloadingOptions, params: OffloadingParams) -> bool:
    return options.information in ("slot", "full") and params.workload.laid_out


def _times(options: OffloadingOptions, params: OffloadingParams) -> bool:
    return options.features in ("times", "expected", "priced")


FEATURES: tuple[Feature, ...] = (
    Feature(
        "size",
        "Mbit",
        "size of the task's input",
        lambda seen: seen.task.size,
        lambda params: params.scales.size,
    ),
    Feature(
        "work",
        "Gcycles",
        "work of the task",
        lambda seen: seen.task.work,
        lambda params: params.scales.work,
        shown=lambda options, params: _beyond_published(options, params) or not options.splits,
    ),
    Feature(
        "result",
        "Mbit",
        "size of the task's result",
        lambda seen: seen.task.result,
        lambda params: params.scales.result,
        shown=_beyond_published,
    ),
    Feature(
        "origin",
        "1",
        "1 for the server that stands where the task arrived, else 0",
        lambda seen: is_origin(seen.task, seen.network.num_servers),
        per_server=True,
        shown=lambda options, params: options.neighbours is None,  # always the first of them
    ),
    Feature(
        "backlog",
        "Gcycles",
        "work queued at each server when the slot began",
        lambda seen: seen.view.queues.backlog,
        per_server=True,
        shown=lambda options, params: options.features == "raw",
    ),
    Feature(
        "backlog",
        "s",
        "work queued at each server when the slot began, over its capacity",
        lambda seen: seen.view.queues.backlog / seen.network.capacity,
        lambda params: params.scales.backlog,
        per_server=True,
        shown=lambda options, params: options.features != "raw",
    ),
    Feature(
        "inflight",
        "s",
        "work added to each server in this slot, as far as it is seen, likewise",
        lambda seen: seen.view.queues.inflight / seen.network.capacity,
        lambda params: params.scales.slot,
        per_server=True,
        shown=_in_slot,
    ),
    Feature(
        "uplink",
        "s",
        "time for which each station's uplink is committed in this slot",
        lambda seen: seen.view.queues.uplink,
        lambda params: params.scales.slot,
        per_server=True,
        shown=lambda options, params: options.information == "full",
    ),
    Feature(
        "uplink",
        "s",
        "time for which the station's own uplink is committed in this slot",
        lambda seen: jnp.sum(seen.view.queues.uplink),  # the others' are not seen
        lambda params: params.scales.slot,
        shown=lambda options, params: options.shares_slot,
    ),
    Feature(
        "progress",
        "1",
        "how far the station is through its slot, n/N",
        lambda seen: seen.view.progress,
        shown=_in_slot,
    ),
    Feature(
        "remaining_tasks",
        "tasks",
        "tasks that the station has still to decide in its slot",
        lambda seen: seen.remaining.tasks,
        lambda params: params.workload.positions,
        shown=_remaining,
    ),
    Feature(
        "remaining_work",
        "Gcycles",
        "their work, over what all servers do in a unit of time",
        lambda seen: seen.remaining.work,
        lambda params: jnp.sum(params.network.capacity) * params.scales.slot,
        shown=_remaining,
    ),
    Feature(
        "wait",
        "s",
        "time until each server could start on the task",
        lambda seen: waiting_time(seen.network, seen.view.queues, seen.task),
        lambda params: params.scales.slot,
        per_server=True,
        shown=_times,
    ),
    Feature(
        "serve",
        "s",
        "time of the whole task at each server, transmission included",
        lambda seen: service_time(seen.network, seen.task),
        lambda params: params.scales.slot,
        per_server=True,
        shown=_times,
    ),
    Feature(
        "compute",
        "s",
        "time of the whole task's work at each server",
        lambda seen: seen.task.work / seen.network.capacity,
        lambda params: params.scales.slot,
        per_server=True,
        shown=_times,
    ),
    Feature(
        "alike",
        "s",
        "work at each server were all stations to do as this one has in its slot",
        lambda seen: seen.expected / seen.network.capacity,
        lambda params: params.scales.backlog,
        per_server=True,
        shown=lambda options, params: options.features in ("expected", "priced"),
    ),
    Feature(
        "charge",
        "s",
        "delay that the task would cause to later ones, by what the station sent",
        lambda seen: seen.charge,
        lambda params: params.scales.backlog,
        per_server=True,
        shown=lambda options, params: options.features == "priced",
    ),
    Feature(
        "place",
        "1",
        "where in the episode the task is: (slot · B + station) · N + position",
        lambda seen: seen.view.place,
        shown=lambda options, params: options.show_place,
    ),
)


def shown_features(options: OffloadingOptions, params: OffloadingParams) -> tuple[Feature, ...]:
    """The features of an observation, in their order."""
    return tuple(feature for feature in FEATURES if feature.shown(options, params))


def features(
    view: View, params: OffloadingParams, options: OffloadingOptions
) -> dict[str, jax.Array]:
    """The observation by name, each feature [] or [B]; [m] of neighbours.

    Each is over its scale, and so of order 1, but for the features "raw". A pure function of the
    view and the parameters, on one example; it is what is exported.
    """
    seen = Seen(view, params, options)
    dtype = jnp.result_type(view.queues.backlog)
    found = {}
    for feature in shown_features(options, params):
        value = feature.value(seen)
        if feature.scale is not None and options.features != "raw":
            value = value / feature.scale(params)
        if feature.per_server:
            value = near(value, view.task, options.neighbours)
        found[feature.name] = jnp.asarray(value, dtype)
    return found


def observe(view: View, params: OffloadingParams, options: OffloadingOptions) -> jax.Array:
    """[observation_size] the features, one after the other.

    A pure function of the view and the parameters, on one example; it is what is exported.
    """
    return jnp.concatenate([jnp.ravel(v) for v in features(view, params, options).values()])


def layout(options: OffloadingOptions, params: OffloadingParams) -> tuple[tuple[str, int], ...]:
    """The features in their order, (name, length): 1, or B, or m of neighbours."""
    servers = options.neighbours or params.network.num_servers
    return tuple(
        (feature.name, servers if feature.per_server else 1)
        for feature in shown_features(options, params)
    )


def entry_names(options: OffloadingOptions, params: OffloadingParams) -> tuple[str, ...]:
    """[observation_size] what each entry of an observation is."""
    names: list[str] = []
    servers = options.neighbours or params.network.num_servers
    for feature in shown_features(options, params):
        name = feature.name
        names += [f"{name}[{i}]" for i in range(servers)] if feature.per_server else [name]
    return tuple(names)
