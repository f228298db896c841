"""One decision: where a task goes, what it waits, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.mec.allocation import AllocationRule, Array, cwa
from jaxmec.mec.network import EdgeNetwork, QueueState, check_queues
from jaxmec.mec.workload import Task
from jaxmec.struct import Scalar, is_concrete, replace


class Outcome(NamedTuple):
    """What one decision came to."""

    fraction: jax.Array  # [B] of the task given to each server
    makespan: jax.Array  # [] s, when the last participant finishes
    wait: jax.Array  # [B] s
    serve: jax.Array  # [B] s, for the whole task
    finish: jax.Array  # [B] s, wait + fraction · serve; meaningful for participants


def is_origin(task: Task, num_servers: int) -> jax.Array:
    """[B] bool: the server that stands where the task arrived; none for a master node."""
    return jnp.arange(num_servers) == task.origin


def waiting_time(network: EdgeNetwork, queues: QueueState, task: Task) -> jax.Array:
    """[B] s before each server could start on the task: its queue, and the way there.

    wait_i = min((Q_i + q_i)/f_i + remote_i u_b, max_wait). A master node hosts no server
    and has no uplink of its own to wait for.
    """
    wait = (queues.backlog + queues.inflight) / network.capacity
    if network.uplink_contention:
        local = is_origin(task, network.num_servers)
        committed = jnp.sum(jnp.where(local, queues.uplink, 0))  # u_b
        wait = wait + jnp.where(local, 0, committed)
    return jnp.minimum(wait, network.max_wait)


def service_time(network: EdgeNetwork, task: Task) -> jax.Array:
    """[B] s that the whole task takes at each server: input there, work, result back.

    serve_i = remote_i d/r_i + c/f_i + e/r_i
    """
    local = is_origin(task, network.num_servers)
    megabits = jnp.where(local, 0, task.size) + task.result
    return megabits / network.rate + task.work / network.capacity


def fallback(network: EdgeNetwork, task: Task) -> jax.Array:
    """[B] bool: who serves a task for which no server was chosen.

    The server where the task arrived; for a task of a master node, which has none, the
    server with the largest capacity.
    """
    index = jnp.where(task.origin >= 0, task.origin, jnp.argmax(network.capacity))
    return jnp.arange(network.num_servers) == index


def offload(
    network: EdgeNetwork,
    queues: QueueState,
    task: Task,
    selected: Array,
    allocate: AllocationRule | Callable[[Array, Array, Array], Array] = cwa,
    seen: QueueState | None = None,
) -> tuple[Outcome, QueueState]:
    """Split one task among the selected servers (docs/model.md: "One decision").

    Args:
        network: the servers and links.
        queues: what is queued now.
        task: the task to place.
        selected: [B] bool, the set S. A set that turns out empty when the compiled program
            runs is replaced by :func:`fallback`.
        allocate: the rule that splits the task, from (wait, serve, selected) to fractions.
        seen: the queues that the rule believes in; by default the true ones.

    Returns:
        The outcome, and the queues with this task's work and transmission added.

    Raises:
        ValueError: ``selected`` or queues of another shape than [B], or a set known to be
            empty.
    """
    if np.shape(selected) != (network.num_servers,):
        raise ValueError(
            f"selected must have shape ({network.num_servers},), got {np.shape(selected)}"
        )
    if is_concrete(selected) and not np.any(np.asarray(selected)):
        raise ValueError("selected must name at least one server, got an empty set")
    if seen is not None:
        check_queues("seen", seen, network)
    check_queues("queues", queues, network)
    selected = jnp.asarray(selected, bool)
    selected = jnp.where(jnp.any(selected), selected, fallback(network, task))
    believed = queues if seen is None else seen
    participates, fraction = divide_among(network, believed, task, selected, allocate)
    return apply_split(network, queues, task, fraction, participates)


def divide_among(
    network: EdgeNetwork,
    believed: QueueState,
    task: Task,
    selected: jax.Array,
    allocate: AllocationRule | Callable[[Array, Array, Array], Array],
) -> tuple[jax.Array, jax.Array]:
    """What each of a set is given by an allocation rule that believes in those queues.

    Args:
        network, task: as for :func:`offload`.
        believed: the queues that the rule goes by.
        selected: [B] bool, a set that is not empty.
        allocate: as for :func:`offload`.

    Returns:
        The servers [B] bool that take part, and the fractions [B].
    """
    wait = waiting_time(network, believed, task)
    fraction = allocate(wait, service_time(network, task), selected)
    participates = selected if getattr(allocate, "counts_idle", True) else fraction > 0
    return participates, fraction


def offload_fractions(
    network: EdgeNetwork, queues: QueueState, task: Task, fraction: Array
) -> tuple[Outcome, QueueState]:
    """Place a task whose fractions [B] the scheduler chose itself.

    Negative entries and NaN count as 0 and the rest is divided by its sum; where nothing
    is left, :func:`fallback` serves the task. Servers with a positive fraction take part.
    Differentiable in the fractions wherever they are positive.

    Raises:
        ValueError: fractions or queues of another shape than [B].
    """
    if np.shape(fraction) != (network.num_servers,):
        raise ValueError(
            f"fraction must have shape ({network.num_servers},), got {np.shape(fraction)}"
        )
    check_queues("queues", queues, network)
    fraction = normalised(network, task, fraction)
    return apply_split(network, queues, task, fraction, fraction > 0)


def normalised(network: EdgeNetwork, task: Task, fraction: Array) -> jax.Array:
    """[B] fractions that sum to 1, from numbers as :func:`offload_fractions` takes them."""
    fraction = jnp.where(fraction > 0, fraction, 0)
    total = jnp.sum(fraction)
    usable = (total > 0) & jnp.isfinite(total)
    return jnp.where(
        usable, fraction / jnp.where(usable, total, 1), fallback(network, task).astype(total.dtype)
    )


def apply_split(
    network: EdgeNetwork, queues: QueueState, task: Task, fraction: Array, participates: Array
) -> tuple[Outcome, QueueState]:
    """The make-span of a split, and the queues after it.

    makespan = max over participants of wait_i + x_i serve_i;  q_i += x_i c;
    u_b += Σ_{i ≠ b} x_i d/r_i, capped where more than one server takes part.
    """
    wait = waiting_time(network, queues, task)
    serve = service_time(network, task)
    finish = wait + fraction * serve
    makespan = jnp.max(jnp.where(participates, finish, -jnp.inf), axis=-1)
    inflight = queues.inflight + fraction * task.work
    uplink = queues.uplink
    if network.uplink_contention:
        local = is_origin(task, network.num_servers)
        sending = jnp.sum(jnp.where(local, 0, fraction * task.size / network.rate))
        committed = uplink + sending
        split = jnp.sum(participates) > 1
        committed = jnp.where(split, jnp.minimum(committed, network.uplink_cap), committed)
        uplink = jnp.where(local, committed, uplink)
    outcome = Outcome(fraction, makespan, wait, serve, finish)
    return outcome, replace(queues, inflight=inflight, uplink=uplink)


def entry_gradient(outcome: Outcome, margin: Array, width: Scalar) -> jax.Array:
    """[] zero, with the gradient that a make-span has beside its derivative.

    A server that comes to take part with next to nothing of the task brings its whole wait
    with it: the make-span jumps by max(wait_i − the others' finish, 0). The derivative, taken
    almost everywhere, does not see it. Averaged over tasks and queues, the cost of a policy
    has it: where the server's margin (positive inside the set, negative outside) moves past
    0, the jump times the density of margins there. Here the density is the slope of a
    sigmoid of that width; for small widths the mean of the gradients is then the gradient of
    the mean (the boundary term of infinitesimal perturbation analysis, Gong and Ho 1987).

    Args:
        outcome: of the decision.
        margin: [B] s by which each server is inside the set, differentiable.
        width: s.
    """
    inside = jnp.where(outcome.fraction > 0, outcome.finish, -jnp.inf)
    last = jnp.arange(inside.shape[0]) == jnp.argmax(inside)
    second = jnp.max(jnp.where(last, -jnp.inf, inside))
    others = jnp.where(last, second, jnp.max(inside))  # when all but this server have finished
    jump = jnp.where(jnp.isfinite(others), jnp.maximum(outcome.wait - others, 0), 0)
    step = jax.nn.sigmoid(margin / width)
    return jnp.sum(jax.lax.stop_gradient(jump) * (step - jax.lax.stop_gradient(step)))
