"""The whole decision as one function, from which all forms of a bundle are made.

From the quantities that a station is told (a row of numbers, in their units) to the set, the
fractions and the make-span (another row). What is in between (what the policy sees, its
preferences, the set that they mean and how the task is split) is the environment's and the
agent's own code, so the edge runs the physics that the policy was trained in.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxmec.deploy import schema
from jaxmec.deploy.schema import Column
from jaxmec.envs.offloading import OffloadingEnvironment
from jaxmec.envs.state import OffloadingParams, Sent, View
from jaxmec.experiment import Policy
from jaxmec.mec.allocation import unlooped_water_filling
from jaxmec.mec.network import QueueState
from jaxmec.mec.offload import apply_split, is_origin
from jaxmec.mec.workload import Remaining, Task

FEATURE_INPUTS = {  # what a feature takes beside the network, the task and the backlogs
    "progress": ("progress",),
    "remaining_tasks": ("remaining_tasks",),
    "remaining_work": ("remaining_work",),
    "place": ("place",),
    "charge": ("slot_length", "progress", "slot", "sent_tasks", "sent_work"),
}


def columns_of(env: OffloadingEnvironment, params: OffloadingParams) -> tuple[Column, ...]:
    """What the decision takes, in the order of a row; what need not be told is optional."""
    seen = env.information
    needed = {"capacity", "rate", "max_wait", "origin", "size", "work", "result", "backlog"}
    for name, _ in env.feature_layout(params):
        needed.update(FEATURE_INPUTS.get(name, ()))
    if seen != "slot_start":
        needed |= {"inflight" if seen == "full" else "sent", "uplink"}
    optional: set[str] = set()
    if not params.network.uplink_contention:
        optional = {"uplink"} & needed
    if _allocates_on_truth(env) and seen != "full":
        optional |= {"believed"} | ({"uplink"} - needed)
    lengths = {name: quantity.length(env.num_servers) for name, quantity in schema.TABLE.items()}
    if seen == "full":
        lengths["uplink"] = env.num_servers
    return tuple(
        Column(name, lengths[name], name in optional)
        for name in schema.TABLE
        if name in needed | optional
    )


def _allocates_on_truth(env: OffloadingEnvironment) -> bool:
    return env.splits and env.allocation_information == "true"


def mode_of(env: OffloadingEnvironment) -> str:
    """What the preferences mean, one of `schema.ACTION_MODES` if it can be exported."""
    return env.action if env.splits else schema.ONE_SERVER


def decision_of(policy: Policy) -> Callable[[jax.Array], jax.Array]:
    """The function from a row [W] of :func:`columns_of` to a row [2 B + 1 + A].

    The result is, in this order, 1 for each server of the set and 0 for the others [B], the
    fractions [B], the make-span in s [1] and the preferences that led to them [A]. Pure, float32.
    """
    env, params = policy.setting.make()
    env = _unlooped(env)
    columns = columns_of(env, params)
    # Wherever it lies, the decision is made on one device.
    learner = jax.tree.map(jnp.asarray, jax.device_get(policy.learner))

    def decide(row: jax.Array) -> jax.Array:
        told = schema.split(columns, row, jnp.split)
        now, view = as_told(env, params, told)
        preferences = policy.agent.preferences(learner, env.observe(view, now))
        believed = view.queues
        if env.splits:
            believed = env.believed(view, _told_queues(told), now)
        selected, fraction = env.divide(env.preferred(preferences), view, believed, now)
        outcome, _ = apply_split(now.network, believed, view.task, fraction, selected)
        parts = (selected, fraction, outcome.makespan[None], preferences)
        return jnp.concatenate([part.astype(jnp.float32) for part in parts])

    return decide


def _unlooped(env: OffloadingEnvironment) -> OffloadingEnvironment:
    """The environment with water-filling that has no loop, which no graph has."""
    env = copy.copy(env)
    if env.splits:
        env._fill = unlooped_water_filling
        if env.allocate.name == unlooped_water_filling.name:
            env.allocate = unlooped_water_filling
    return env


def as_told(
    env: OffloadingEnvironment, params: OffloadingParams, told: Mapping[str, jax.Array]
) -> tuple[OffloadingParams, View]:
    """The parameters and the view that are as a station is told (a part of a row by name)."""
    network = dataclasses.replace(
        params.network,
        capacity=told["capacity"],
        rate=told["rate"],
        max_wait=told["max_wait"][0],
        uplink_contention=True,  # where tasks do not wait for uplinks, no uplink is told
    )
    if "slot_length" in told:
        network = dataclasses.replace(network, slot_length=told["slot_length"][0])
    task = Task(
        told["origin"][0].astype(jnp.int32), *(told[n][0] for n in ("size", "work", "result"))
    )
    queues, nothing = _told_queues(told), jnp.zeros_like(told["backlog"])
    if env.information == "slot_start":
        queues = QueueState(queues.backlog, nothing, nothing)
    elif env.information != "full":
        own = is_origin(task, env.num_servers)
        queues = QueueState(queues.backlog, told["sent"], jnp.where(own, queues.uplink, nothing))
    number = {name: part[0] for name, part in told.items() if part.shape == (1,)}
    left = sent = None
    if "remaining_tasks" in told:
        left = Remaining(number["remaining_tasks"], number["remaining_work"])
    if "sent_tasks" in told:
        sent = Sent(told["sent_tasks"], told["sent_work"])
    view = View(
        task, queues, number.get("progress"), left, number.get("slot"), sent, number.get("place")
    )
    return dataclasses.replace(params, network=network), view


def _told_queues(told: Mapping[str, jax.Array]) -> QueueState:
    """All that the station is told of the queues, by which a task may be split."""
    nothing = jnp.zeros_like(told["backlog"])
    added = told.get("inflight", told.get("believed", nothing))
    uplink = jnp.broadcast_to(told.get("uplink", nothing), nothing.shape)
    return QueueState(told["backlog"], added, uplink)
