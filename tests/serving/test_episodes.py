"""What must hold of whole episodes, whatever the fleet, the requests and the decisions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import serving_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_worlds import grid_world, in_jax, listed, random_world

from jaxmec.envs.serving import GenerativeServing
from jaxmec.serving import ServingParams
from jaxmec.serving.availability import Availability
from jaxmec.serving.view import view_of
from jaxmec.struct import replace

SERVERS, REQUESTS, DECISIONS = 8, 20, 50
KNOWN = ("stale", "local", "full")
OPTIONS = ((0, 1, 0.5), (0, 6, 0.75), (1, 1, 0.6), (1, 6, 0.9))  # variant, steps, quality
worlds = st.builds(dict, seed=st.integers(0, 10**6), servers=st.integers(1, SERVERS),
                   grid=st.booleans())  # fmt: skip


def world_of(seed: int, servers: int, grid: bool) -> tuple[oracle.World, ServingParams, Any]:
    """A fleet of which only so many servers are asked, so that one program plays them all."""
    world = (grid_world if grid else functools.partial(random_world, variants=2))(SERVERS, seed)
    for server in world.servers:
        server.memory = max(server.memory, max(world.sizes))
    rng = np.random.default_rng([seed, 11])
    gaps = rng.choice([0.0, 1.0, 2.0], REQUESTS) * rng.exponential(1.0, REQUESTS)
    if grid:
        gaps = rng.integers(0, 3, REQUESTS).astype(float)
    stations = len(world.links)
    rows = [
        {"arrival": float(now), "origin": int(rng.integers(min(servers, stations))),
         "size": float(rng.uniform(0.3, 20)), "result": float(rng.uniform(0, 2)),
         "images": int(rng.choice([1, 2, 4])), "quality": 0.4, "limit": 15.0, "factor": 1.0}
        for now in np.cumsum(gaps)
    ]  # fmt: skip
    fleet, availability = in_jax(world, pieces=9)
    variant, steps, quality = zip(*OPTIONS, strict=True)
    offered = np.arange(SERVERS)[:, None] < np.full(len(OPTIONS), servers)
    params = ServingParams(
        fleet=fleet, outages=availability, arrivals=listed(rows, stations), variant=variant,
        steps=steps, quality=quality, offered=offered, horizon=1e6, max_requests=64,
    )  # fmt: skip
    allowed = np.flatnonzero(np.asarray(params.allowed).ravel())
    return world, params, rng.choice(allowed, DECISIONS)


@functools.cache
def player() -> Any:
    """Plays one episode: at each decision the state, every view, the observation and the fate."""
    env = GenerativeServing(world_of(0, SERVERS, False)[1], waiting=64)

    @jax.jit
    def play(params, actions):
        def step(carry, action):
            state, done = carry
            place = (state.availability, state.queues, state.request, state.attempt, state.now)
            views = {name: view_of(params, *place, name) for name in KNOWN}
            fate = env.place(action, state, params).fate
            observation, following, reward, _, over, info = env.step(
                jax.random.key(1), state, action, params
            )
            seen = (state._replace(key=(), availability=()), views, fate, observation, reward, info)
            return (following, done | over), (seen, ~done)

        _, state = env.reset(jax.random.key(0), params)
        return jax.lax.scan(step, (state, jnp.zeros((), bool)), actions)[1]

    return play


def played(params: ServingParams, actions: np.ndarray) -> Any:
    """Its decisions, each leaf cut to as many as the episode has."""
    seen, there = jax.tree.map(np.asarray, player()(params, jnp.asarray(actions)))
    return jax.tree.map(lambda leaf: leaf[: int(there.sum())], seen)


@given(worlds)
@settings(max_examples=60, deadline=None)
def test_work_is_conserved_and_memory_holds(sample):
    with jax.enable_x64(True):
        world, params, actions = world_of(**sample)
        state, _, fate, observation, reward, info = played(params, actions)
    free = [0.0] * SERVERS
    for n, action in enumerate(actions[: len(state.now)]):
        index = int(action) // len(OPTIONS)
        server, request = world.servers[index], state.request
        ready, ask = fate.ready[n, 0], fate.ask[n, 0]
        assert ready >= state.now[n]
        home = request.result[n] / server.rate if index != request.origin[n] else 0.0
        if fate.lost[n, 0]:
            assert np.isinf(fate.answered[n, 0]) and fate.known[n, 0] > state.now[n]
            crash = fate.known[n, 0] - world.detect
            free[index] = next(e for b, e in server.outages() if abs(b - crash) < 1e-9)
            continue
        done = fate.answered[n, 0] - server.latency - home
        assert fate.answered[n, 0] >= request.arrival[n] + ask - 1e-9
        np.testing.assert_allclose(server.work(done) - server.work(ready), ask, atol=1e-9)
        if not server.elastic:
            assert ready >= free[index] - 1e-9  # one after the other, in the order of dispatch
            free[index] = done
    for i, server in enumerate(world.servers):
        if not server.elastic:
            held = (state.queues.recency[:, i] > 0) @ np.asarray(world.sizes)
            assert held.max() <= server.memory + 1e-9
    for leaf in jax.tree.leaves((state, observation, reward, info)):
        assert not np.isnan(np.asarray(leaf, float)).any()
    assert np.isfinite(observation).all()


def _reaches(world: oracle.World, fate: Any, moment: float) -> np.ndarray:
    """[T] whose turn comes, or whose server crashes, only after a moment."""
    crash = np.where(fate.lost[:, 0], fate.known[:, 0] - world.detect, 0.0)
    return (fate.ready[:, 0] > moment) | (crash > moment)


@given(worlds, st.floats(0.0, 1.0), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_nothing_that_is_seen_depends_on_outages_to_come(sample, share, seed):
    with jax.enable_x64(True):
        world, params, actions = world_of(**sample)
        state, views, fate, *_ = played(params, actions)
        moment = float(share * state.now[-1])
        rng = np.random.default_rng(seed)
        breaks, speed = (np.array(x) for x in (params.outages.breaks, params.outages.speed))
        # Beyond the moment every server's speed is another, beginning with how it is then.
        for i in range(SERVERS):
            past = breaks[i] <= moment
            last = int(past.sum())
            later = np.cumsum(rng.exponential(5.0, 9 - last)) + moment
            breaks[i, last:] = later
            speed[i, last:] = rng.choice([0.0, 0.5, 1.0], 9 - last)
            if last < 9:
                speed[i, -1] = 1.0
        changed = replace(params, outages=Availability(breaks, speed))
        again, others, fated, *_ = played(changed, actions)
    # A request that waits for what is to come, or will be lost, leaves other variants resident
    # than if it were not, which a server then tells (docs/serving.md: "What is known").
    upto = min(
        int(np.sum(~np.logical_or.accumulate(_reaches(world, run, moment)))) + 1
        for run in (fate, fated)
    )
    upto = min(upto, int(np.sum(state.now <= moment)))
    assert np.all(again.now[:upto] == state.now[:upto])
    for name in KNOWN:
        for field in views[name]._fields:
            mine, theirs = getattr(views[name], field), getattr(others[name], field)
            jax.tree.map(
                lambda a, b, what=f"{name} {field}": np.testing.assert_allclose(
                    np.asarray(a[:upto], float), b[:upto], rtol=0, atol=1e-8, err_msg=what
                ),
                mine,
                theirs,
            )


@given(worlds, st.integers(0, REQUESTS), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_local_view_knows_of_others_only_what_was_told(sample, number, seed):
    with jax.enable_x64(True):
        _, params, actions = world_of(**sample)
        state, views, *_ = played(params, actions)
        number %= len(state.now)
        other = actions.copy()
        allowed = np.flatnonzero(np.asarray(params.allowed).ravel())
        other[number] = np.random.default_rng(seed).choice(allowed)
        again, others, *_ = played(params, other)
    # Until another heartbeat is heard, a loss is known, or the same station decides again.
    for n in range(number + 1, min(len(state.now), len(again.now))):
        same = state.now[n] == again.now[n] and state.attempt[n] == again.attempt[n] == 0
        heard = np.any(state.queues.beat[n] != state.queues.beat[number])
        if not same or heard or state.request.origin[n] == state.request.origin[number]:
            break
        for field in ("told", "age", "missed", "resident", "sent", "sent_variants", "link", "up"):
            mine, theirs = (getattr(run["local"], field)[n] for run in (views, others))
            what = {"rtol": 0, "atol": 1e-9, "err_msg": field}  # work is asked less cold starts
            np.testing.assert_allclose(np.asarray(mine, float), theirs, **what)
