"""What a decision costs others: the delay that work sent to a server causes to later tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmec.mec.network import EdgeNetwork
from jaxmec.mec.workload import Moments

LEAST_SPARE = 1e-3  # of a server's capacity: a queue that hardly shrinks lasts to the end


def price(
    network: EdgeNetwork,
    queued: jax.Array,
    tasks: jax.Array,
    work: jax.Array,
    slots_left: jax.Array,
) -> jax.Array:
    """[B] s a Gcycle, the delay of all later tasks that a Gcycle more at each server causes.

    A Gcycle at server i delays by 1/f_i every task that comes there before its queue has
    drained or the episode is over. With n_i tasks and w_i Gcycles a slot to come, the queue
    drains in queued_i / (f_i Δ − w_i) slots, or not at all, and so the price is
    n_i min(that, slots_left) / f_i. (Marginal-cost pricing; the equation is ours.)

    Where the servers are overloaded the price is what tells them apart: a server of few
    large tasks is cheap for another large one, though its queue is long, and one of many
    small tasks is dear. Everybody's delay falls when large tasks keep to themselves.

    Args:
        network: the servers.
        queued: [B] Gcycles at each server now.
        tasks: [B] tasks expected to come to each server in a slot, n.
        work: [B] Gcycles expected to come to each server in a slot, w.
        slots_left: [] slots to the episode's end.
    """
    capacity = network.capacity
    spare = capacity * network.slot_length - jnp.asarray(work)
    drained = jnp.asarray(queued) / jnp.maximum(spare, LEAST_SPARE * capacity)
    return tasks * jnp.minimum(drained, jnp.maximum(slots_left, 0)) / capacity


def outlook(
    network: EdgeNetwork,
    queued: jax.Array,
    tasks: jax.Array,
    work: jax.Array,
    slots_left: jax.Array,
) -> jax.Array:
    """[] s, the delay of all later tasks that what is queued now will cause.

    The integral of :func:`price` over each queue as it was filled. With s_i = f_i Δ − w_i to
    spare in a slot and l slots left, server i costs n_i queued_i² / (2 s_i f_i) where its queue
    drains in time, queued_i ≤ l s_i, and n_i (l queued_i − l² s_i / 2) / f_i where it lasts to the
    episode's end. It is what a window of decisions leaves behind, as :func:`price` is what one
    more Gcycle would.

    Args:
        network, queued, tasks, work, slots_left: as for :func:`price`.
    """
    capacity = network.capacity
    queued, left = jnp.asarray(queued), jnp.maximum(slots_left, 0)
    spare = capacity * network.slot_length - jnp.asarray(work)
    spare = jnp.maximum(spare, LEAST_SPARE * capacity)
    drains = queued <= left * spare
    area = jnp.where(drains, queued**2 / (2 * spare), left * queued - left**2 * spare / 2)
    return jnp.sum(tasks * area / capacity)


def expected_flow(
    network: EdgeNetwork, moments: Moments, tasks: jax.Array, work: jax.Array, slots: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """[B] tasks and [B] Gcycles a slot that come to each server, by what has come so far.

    The average over the ``slots`` gone by and one more, in which a slot's expected tasks
    (:class:`jaxmec.mec.workload.Moments`) are spread by capacity.

    Args:
        network: the servers.
        moments: of the workload, at all stations together.
        tasks, work: [B] tasks and Gcycles that came to each server in that time.
        slots: [] how long it was, may be 0.
    """
    spread = moments.tasks * network.capacity / jnp.sum(network.capacity)
    return (tasks + spread) / (slots + 1), (work + spread * moments.work) / (slots + 1)
