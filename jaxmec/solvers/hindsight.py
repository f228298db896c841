"""A plan in hindsight for serving in event time: arrivals and outages of an episode all known.

A plan says what is done with each request at each attempt. It begins as what the best of some
rules did, and is then searched: at each decision in turn every action is tried, the decisions
that follow played as they are planned, and the best is taken. Rounds go on from the best plan,
shaken. What is found was played, so it is a bound from below on what could have been gathered.

Pure functions on one episode of `GenerativeServing-v0`; callers vmap over episodes and compile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxmec.core import checks
from jaxmec.core.types import EnvState, Info
from jaxmec.serving.rules import ServingRule
from jaxmec.serving.scenario import ServingParams
from jaxmec.serving.view import view_of


class Served(Protocol):
    """What is asked of the environment; see `jaxmec.envs.serving.GenerativeServing`."""

    num_actions: int

    def action_mask(self, params: ServingParams | None = None) -> jax.Array: ...

    def action_of(self, server: Any, option: Any) -> jax.Array: ...

    def decide(
        self, action: Any, state: Any, params: ServingParams
    ) -> tuple[Any, jax.Array, jax.Array, Info]: ...


@dataclasses.dataclass(frozen=True)
class HindsightConfig:
    """How hard to search; the time grows with each of these."""

    rounds: int = 2  # of a search over all decisions, from the best plan so far
    ahead: int = 64  # decisions that are played after one that is changed
    shaken: float = 0.02  # share of what is planned that is drawn anew between rounds

    def __post_init__(self) -> None:
        checks.fields(
            self,
            rounds=checks.whole(1),
            ahead=checks.whole(1),
            shaken=checks.number(0, most=1),
        )


class Hindsight(NamedTuple):
    """The best plan found for an episode, and how the search went."""

    action: jax.Array  # [N, attempts] int32, of each request at each attempt
    arrival: jax.Array  # [N] s, of each request; infinite beyond the last
    total: jax.Array  # [] the sum of rewards
    history: jax.Array  # [1 + rounds] likewise: of the best rule, then after each round

    def of(self, state: Any) -> jax.Array:
        """[] int32, what is planned for the decision that is due."""
        return self.action[number_of(self.arrival, state), state.attempt]


def number_of(arrival: jax.Array, state: Any) -> jax.Array:
    """[] int32, which of the requests that arrive at ``arrival`` [N] is to be decided."""
    number = jnp.searchsorted(arrival, state.request.arrival)
    return jnp.minimum(number, arrival.shape[0] - 1).astype(jnp.int32)


class _Run(NamedTuple):
    """An episode on its way."""

    state: EnvState
    total: jax.Array  # [] the rewards so far
    over: jax.Array  # [] bool
    made: jax.Array  # [] int32 decisions


def plan_in_hindsight(
    env: Served,
    params: ServingParams,
    state: EnvState,
    key: jax.Array,
    rules: Sequence[ServingRule],
    config: HindsightConfig = HindsightConfig(),
) -> Hindsight:
    """The best plan found for the episode that begins in ``state``.

    Args:
        env: decides by an index (action "option").
        params: its parameters.
        state: the first of the episode, as ``env.reset`` returns it.
        key: of what rules draw and of what is shaken.
        rules: of which the best is where the search begins; the plan is never worse.
        config: how hard to search.

    Raises:
        ValueError: no rule, or an environment that splits requests.
    """
    if not rules:
        raise ValueError("rules must be one rule at least, got none")
    if getattr(env, "splits", False):
        raise ValueError("env must decide by an index (action 'option'), got action 'shares'")
    key_rules, key_rounds = jax.random.split(key)
    plans = jax.vmap(lambda which: _played(env, params, state, rules, which, key_rules))(
        jnp.arange(len(rules))
    )
    best = jax.tree.map(lambda leaf: leaf[jnp.argmax(plans.total)], plans)

    def round_(best: Hindsight, key_of: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        key, number = key_of
        key_where, key_what = jax.random.split(key)
        shape = best.action.shape
        shaken = (number > 0) & jax.random.bernoulli(key_where, config.shaken, shape)
        allowed = jnp.where(env.action_mask(params), 0.0, -jnp.inf)
        drawn = jax.random.categorical(key_what, allowed, shape=shape).astype(jnp.int32)
        start = best._replace(action=jnp.where(shaken, drawn, best.action))
        found = _searched(env, params, state, start, config.ahead)
        better = found.total > best.total
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        return best, best.total

    keys = jax.random.split(key_rounds, config.rounds)
    first = best.total[None]
    best, history = jax.lax.scan(round_, best, (keys, jnp.arange(config.rounds)))
    return best._replace(history=jnp.concatenate([first, history]))


def _begin(state: EnvState) -> _Run:
    dtype = state.now.dtype
    return _Run(state, jnp.zeros((), dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32))


def _after(env: Served, params: ServingParams, run: _Run, action: jax.Array) -> _Run:
    """A decision later; once it is over, as it was."""
    state, reward, over, _ = env.decide(action, run.state, params)
    total = run.total + jnp.where(run.over, 0, reward).astype(run.total.dtype)
    return _Run(state, total, run.over | over, run.made + 1)


def _played(
    env: Served,
    params: ServingParams,
    state: EnvState,
    rules: Sequence[ServingRule],
    which: jax.Array,
    key: jax.Array,
) -> Hindsight:
    """What one of the rules, the ``which``-th, does in the episode."""
    shape = (params.max_requests, params.attempts)
    plan = Hindsight(
        jnp.zeros(shape, jnp.int32),
        jnp.full(shape[:1], jnp.inf, state.now.dtype),
        *(jnp.zeros((), state.now.dtype), jnp.zeros(0, state.now.dtype)),
    )

    def step(carry: tuple[_Run, Hindsight, Any]) -> tuple[_Run, Hindsight, Any]:
        run, plan, memories = carry
        now = run.state
        action, memories = asked(
            env, params, rules, which, now, memories, jax.random.fold_in(key, run.made)
        )
        # A request that is new is the one before the next to arrive.
        new = jnp.where(now.attempt == 0, now.number - 2, shape[0])
        arrival = plan.arrival.at[new].set(now.request.arrival, mode="drop")
        number = number_of(arrival, now)
        # Where nothing else is planned, a lost request is decided as when it was new.
        row = jnp.where(jnp.arange(shape[1]) >= now.attempt, action, plan.action[number])
        plan = plan._replace(arrival=arrival, action=plan.action.at[number].set(row))
        return _after(env, params, run, action), plan, memories

    start = (_begin(state), plan, tuple(rule.init_memory(params) for rule in rules))
    run, plan, _ = jax.lax.while_loop(lambda carry: ~carry[0].over, step, start)
    return plan._replace(total=run.total)


def asked(
    env: Served,
    params: ServingParams,
    rules: Sequence[ServingRule],
    which: jax.Array,
    state: EnvState,
    memories: tuple[Any, ...],
    key: jax.Array,
) -> tuple[jax.Array, tuple[Any, ...]]:
    """The action [] int32 of the ``which``-th of some rules, and the memories of all.

    All are asked: they cost little beside a decision, and one program plays any of them.
    """
    place = (state.availability, state.queues, state.request, state.attempt, state.now)
    views = {name: view_of(params, *place, name) for name in {rule.information for rule in rules}}
    answers = [
        rule.decide(params, views[rule.information], memory, key)
        for rule, memory in zip(rules, memories, strict=True)
    ]
    actions = jnp.stack([jnp.asarray(env.action_of(*choice)) for choice, _ in answers])
    return actions[which].astype(jnp.int32), tuple(memory for _, memory in answers)


def _follow(
    env: Served, params: ServingParams, run: _Run, plan: Hindsight, most: jax.Array | int
) -> _Run:
    """The plan played on, for so many decisions or until the episode is over."""
    until = run.made + most
    return jax.lax.while_loop(
        lambda run: ~run.over & (run.made < until),
        lambda run: _after(env, params, run, plan.of(run.state)),
        run,
    )


def _searched(
    env: Served, params: ServingParams, state: EnvState, plan: Hindsight, ahead: int
) -> Hindsight:
    """Each decision in turn takes the action that is best for it and those that follow."""
    allowed = env.action_mask(params)
    actions = jnp.arange(env.num_actions, dtype=jnp.int32)

    def step(carry: tuple[_Run, Hindsight]) -> tuple[_Run, Hindsight]:
        run, plan = carry
        planned = plan.of(run.state)

        def gathered(action: jax.Array) -> jax.Array:
            return _follow(env, params, _after(env, params, run, action), plan, ahead).total

        totals = jnp.where(allowed, jax.vmap(gathered)(actions), -jnp.inf)
        # What is planned stays, unless another action is better.
        totals = jnp.where(actions == planned, totals + 1e-5, totals)
        best = jnp.argmax(totals).astype(jnp.int32)
        number = number_of(plan.arrival, run.state)
        row = jnp.where(jnp.arange(params.attempts) == run.state.attempt, best, plan.action[number])
        plan = plan._replace(action=plan.action.at[number].set(row))
        return _after(env, params, run, best), plan

    run, plan = jax.lax.while_loop(lambda carry: ~carry[0].over, step, (_begin(state), plan))
    return plan._replace(total=run.total)
