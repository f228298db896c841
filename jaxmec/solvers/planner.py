"""A planner for windows too large for a proof: all tasks known, every set reconsidered.

A plan gives each task a set of servers and a shift of their waits; water-filling on the
shifted waits splits the task. A round is a coordinate search over the sets, in the order of
the decisions, then gradient steps on the shifts through the simulated physics: within fixed
sets the mean make-span is piecewise linear in the fractions. Rounds go on from the best
plans, shaken. Every plan is feasible, so the result is an upper bound on the optimum.

Pure functions on one window; callers vmap over windows and compile.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmec.core import checks
from jaxmec.core.types import PyTree
from jaxmec.mec import EdgeNetwork, QueueState, Task, advance_slot, service_time, water_filling
from jaxmec.mec.allocation import Array
from jaxmec.mec.offload import apply_split, waiting_time
from jaxmec.solvers.window import Window, check_problem

ENUMERATED_SERVERS = 5  # up to here a set is replaced by any of the 2^B − 1, above by neighbours
SHAKEN_TASKS = 4  # at least, on average: one alone would be put back where it was


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """How hard to search; the time of a round grows with each of these."""

    restarts: int = 4  # plans that are kept side by side
    rounds: int = 8  # of coordinate search and gradient steps, from the best plans so far
    sweeps: int = 2  # of the coordinate search over all tasks, a round
    gradient_steps: int = 40  # on the shifts, a round; 0 where a task takes one server
    step_size: float = 0.05  # of the first gradient step, in mean make-spans; it decays to 0
    shaken: float = 0.05  # share of the tasks whose set is drawn anew between rounds

    def __post_init__(self) -> None:
        checks.fields(
            self,
            restarts=checks.whole(1),
            rounds=checks.whole(1),
            sweeps=checks.whole(1),
            gradient_steps=checks.whole(0),
            step_size=checks.number(above=0),
            shaken=checks.number(0, most=1),
        )


class Plan(NamedTuple):
    """What to do with each task."""

    selected: jax.Array  # [K, B] bool, the set that may take part
    shift: jax.Array  # [K, B] s added to each wait before water-filling


_Valued = tuple[Plan, jax.Array]  # plans, and the total of each


class Planned(NamedTuple):
    """The best plan found, and how the search went."""

    fraction: jax.Array  # [K, B] of each task
    makespan: jax.Array  # [K] s; 0 in rows that do not count
    mean: jax.Array  # [] s, over the tasks that count
    queues: QueueState  # after the last decision, its slot not ended
    history: jax.Array  # [rounds + 1] s, the best mean so far: greedy, then after each round


class _Step(NamedTuple):
    """One task with what a plan says of it."""

    task: Task
    slots: jax.Array  # [] int32
    counts: jax.Array  # [] bool
    selected: jax.Array  # [B] bool
    shift: jax.Array  # [B] s


def plan(
    network: EdgeNetwork,
    window: Window,
    key: jax.Array,
    problem: str = "multi",
    config: PlannerConfig = PlannerConfig(),
) -> Planned:
    """The best plan found for one window, never worse than the greedy one.

    Args:
        network: B servers.
        window: K tasks, of which those that count are planned.
        key: of the restarts and of what is shaken.
        problem: "multi", any set; "single", one server a task.
        config: how hard to search.

    Raises:
        ValueError: an unknown problem.
    """
    check_problem(problem)
    rows = _rows(window, network)
    queues = _first_queues(window, network)
    tasks = jnp.maximum(jnp.sum(rows.counts), 1)
    shaken = jnp.clip(config.shaken, jnp.minimum(SHAKEN_TASKS / tasks, 1), 1)
    key_start, key_rounds = jax.random.split(key)
    first = _greedy(network, queues, rows, problem)
    plans = jax.tree.map(lambda leaf: jnp.stack([leaf] * config.restarts), first)
    plans = _varied(key_start, plans, 0.5, problem)
    totals = jax.vmap(lambda plan: _total(network, queues, rows, plan))(plans)
    unit = jnp.maximum(totals[0] / tasks, 1e-9)  # s, of a task of the greedy plan

    def improve(plan: Plan) -> _Valued:
        plan = jax.lax.fori_loop(
            0, config.sweeps, lambda _, plan: _polish(network, queues, rows, plan, problem), plan
        )
        if problem == "multi" and config.gradient_steps:
            plan = _descend(network, queues, rows, plan, unit, config)
        return plan, _total(network, queues, rows, plan)

    def round_(carry: _Valued, key: jax.Array) -> tuple[_Valued, jax.Array]:
        plans, totals = carry
        # Every plan goes on from one of the better half; the best also as it is.
        parent = jnp.argsort(totals)[jnp.arange(config.restarts) // 2]
        parents = jax.tree.map(lambda leaf: leaf[parent], plans)
        children, values = jax.vmap(improve)(_varied(key, parents, shaken, problem))
        plans, totals = _better((children, values), (parents, totals[parent]))
        return (plans, totals), jnp.min(totals)

    (plans, totals), best = jax.lax.scan(
        round_, (plans, totals), jax.random.split(key_rounds, config.rounds)
    )
    best_plan = jax.tree.map(lambda leaf: leaf[jnp.argmin(totals)], plans)
    after, (makespan, fraction) = _play_plan(network, queues, rows, best_plan)
    return Planned(
        fraction=jnp.where(rows.counts[:, None], fraction, 0),
        makespan=makespan,
        mean=jnp.sum(makespan) / tasks,
        queues=after,
        history=jnp.concatenate([unit[None], best / tasks]),
    )


class _Rows(NamedTuple):
    """The window's tasks, on the device."""

    task: Task  # [K] each field
    slots: jax.Array  # [K] int32
    counts: jax.Array  # [K] bool


def _rows(window: Window, network: EdgeNetwork) -> _Rows:
    dtype = network.capacity.dtype
    task = Task(
        jnp.asarray(window.task.origin, jnp.int32),
        *(jnp.asarray(field, dtype) for field in window.task[1:]),
    )
    return _Rows(task, jnp.asarray(window.slots, jnp.int32), jnp.asarray(window.counts, bool))


def _first_queues(window: Window, network: EdgeNetwork) -> QueueState:
    backlog = jnp.asarray(window.backlog, network.capacity.dtype)
    return QueueState(backlog, jnp.zeros_like(backlog), jnp.zeros_like(backlog))


def _decide(network: EdgeNetwork, queues: QueueState, step: _Step) -> tuple[QueueState, Any]:
    """Carry out one decision of a plan; a row that does not count changes nothing."""
    arrived = advance_slot(network, queues, step.slots)
    wait = waiting_time(network, arrived, step.task)
    fraction = water_filling(wait + step.shift, service_time(network, step.task), step.selected)
    outcome, after = apply_split(network, arrived, step.task, fraction, fraction > 0)
    after = jax.tree.map(lambda new, old: jnp.where(step.counts, new, old), after, queues)
    return after, (jnp.where(step.counts, outcome.makespan, 0), fraction)


def _play_plan(network: EdgeNetwork, queues: QueueState, rows: _Rows, plan: Plan) -> Any:
    """(queues, (make-spans [K] s, fractions [K, B])) of a plan."""
    return jax.lax.scan(
        lambda queues, step: _decide(network, queues, step), queues, _Step(*rows, *plan)
    )


def _total(network: EdgeNetwork, queues: QueueState, rows: _Rows, plan: Plan) -> jax.Array:
    """[] s, Σ make-spans of a plan."""
    return jnp.sum(_play_plan(network, queues, rows, plan)[1][0])


def _greedy(network: EdgeNetwork, queues: QueueState, rows: _Rows, problem: str) -> Plan:
    """All servers, or the one that finishes each task first."""
    shape = (rows.slots.shape[0], network.num_servers)
    shift = jnp.zeros(shape, network.capacity.dtype)
    everything = jnp.ones(shape, bool)
    if problem == "multi":
        return Plan(everything, shift)

    def body(queues: QueueState, step: _Step) -> tuple[QueueState, jax.Array]:
        arrived = advance_slot(network, queues, step.slots)
        finish = waiting_time(network, arrived, step.task) + service_time(network, step.task)
        chosen = jnp.arange(network.num_servers) == jnp.argmin(finish)
        return _decide(network, queues, step._replace(selected=chosen))[0], chosen

    return Plan(jax.lax.scan(body, queues, _Step(*rows, everything, shift))[1], shift)


def _candidates(plan: Plan, problem: str) -> Plan:
    """[C, B] what one task's set and shift [B] may be replaced by; the first is as it is.

    One server: any other. Sets of few servers: any set. Of many: one server more or less,
    one alone, and all. Shifts were made for the set they stand with: with another one, both
    with and without them.
    """
    servers = plan.selected.shape[0]
    one = jnp.eye(servers, dtype=bool)
    if problem == "single":
        sets = one
    elif servers <= ENUMERATED_SERVERS:
        sets = (jnp.arange(1, 2**servers)[:, None] >> jnp.arange(servers)) & 1 == 1
    else:
        sets = jnp.concatenate([one ^ plan.selected, one, jnp.ones((1, servers), bool)])
        # Without its only server a set would be empty; as it is, it is a candidate anyway.
        sets = jnp.where(jnp.any(sets, axis=1, keepdims=True), sets, plan.selected)
    sets = jnp.concatenate([plan.selected[None], sets])
    kept = jnp.broadcast_to(plan.shift, sets.shape)
    if problem == "single":
        return Plan(sets, kept)
    return Plan(jnp.concatenate([sets, sets]), jnp.concatenate([kept, jnp.zeros_like(kept)]))


def _polish(
    network: EdgeNetwork, queues: QueueState, rows: _Rows, plan: Plan, problem: str
) -> Plan:
    """Each task in turn takes the candidate that is best for it and all that follow."""
    count = rows.slots.shape[0]

    def at(plan: Plan, k: jax.Array) -> _Step:
        return jax.tree.map(lambda leaf: leaf[k], _Step(*rows, *plan))

    def body(k: jax.Array, carry: tuple[Plan, QueueState]) -> tuple[Plan, QueueState]:
        plan, queues = carry
        step = at(plan, k)
        candidates = _candidates(Plan(step.selected, step.shift), problem)

        def cost(candidate: Plan) -> jax.Array:
            def follow(j: jax.Array, carry: PyTree) -> PyTree:
                after, total = carry
                planned = at(plan, j)
                own = jax.tree.map(
                    lambda new, old: jnp.where(j == k, new, old),
                    candidate,
                    Plan(planned.selected, planned.shift),
                )
                after, (makespan, _) = _decide(network, after, _Step(*planned[:3], *own))
                return after, total + makespan

            start = (queues, jnp.zeros((), network.capacity.dtype))
            return jax.lax.fori_loop(k, count, follow, start)[1]

        best = jnp.argmin(jax.vmap(cost)(candidates))
        chosen = jax.tree.map(lambda leaf: leaf[best], candidates)
        plan = jax.tree.map(lambda whole, row: whole.at[k].set(row), plan, chosen)
        return plan, _decide(network, queues, _Step(*step[:3], *chosen))[0]

    return jax.lax.fori_loop(0, count, body, (plan, queues))[0]


def _descend(
    network: EdgeNetwork,
    queues: QueueState,
    rows: _Rows,
    plan: Plan,
    unit: jax.Array,
    config: PlannerConfig,
) -> Plan:
    """Adam on the shifts, through the physics; returns the best plan on the way.

    The mean make-span has kinks where servers finish together, so the steps decay to 0.
    """
    schedule = optax.cosine_decay_schedule(config.step_size, config.gradient_steps)
    optimiser = optax.adam(schedule, b2=0.99)

    def cost(shift: jax.Array) -> jax.Array:  # [K, B] in units
        return _total(network, queues, rows, plan._replace(shift=shift * unit)) / unit

    def body(carry: PyTree, _: None) -> tuple[PyTree, None]:
        shift, state, best, best_cost = carry
        value, gradient = jax.value_and_grad(cost)(shift)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        better = value < best_cost
        best = jnp.where(better, shift, best)
        updates, state = optimiser.update(gradient, state)
        return (shift + updates, state, best, jnp.minimum(value, best_cost)), None

    shift = plan.shift / unit
    carry = (shift, optimiser.init(shift), shift, jnp.full((), jnp.inf, shift.dtype))
    (_, _, best, _), _ = jax.lax.scan(body, carry, length=config.gradient_steps)
    return plan._replace(shift=best * unit)


def _shake(key: jax.Array, plan: Plan, share: Array, problem: str) -> Plan:
    """Draw the sets of a share of the tasks anew."""
    key_task, key_set, key_one = jax.random.split(key, 3)
    tasks, servers = plan.selected.shape
    one = jax.random.randint(key_one, (tasks,), 0, servers)[:, None] == jnp.arange(servers)
    drawn = one
    if problem == "multi":
        drawn = one | jax.random.bernoulli(key_set, shape=(tasks, servers))
    anew = jax.random.bernoulli(key_task, share, (tasks, 1))
    return Plan(jnp.where(anew, drawn, plan.selected), jnp.where(anew, 0, plan.shift))


def _better(
    children: tuple[Plan, jax.Array], parents: tuple[Plan, jax.Array]
) -> tuple[Plan, jax.Array]:
    """[R] plans and their totals: a child where it is better than its parent, else the parent."""
    better = children[1] < parents[1]
    plans = jax.tree.map(
        lambda child, parent: jnp.where(better[:, None, None], child, parent),
        children[0],
        parents[0],
    )
    return plans, jnp.where(better, children[1], parents[1])


def _varied(key: jax.Array, plans: Plan, share: Array, problem: str) -> Plan:
    """[R] plans with a share of their tasks' sets drawn anew; the first as it is."""
    keys = jax.random.split(key, len(plans.selected))
    shaken = jax.vmap(_shake, in_axes=(0, 0, None, None))(keys, plans, share, problem)
    return jax.tree.map(lambda new, old: new.at[0].set(old[0]), shaken, plans)
