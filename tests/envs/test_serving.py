"""Whole episodes of serving against an independent loop, and what must hold of every one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import serving_oracle as oracle
from serving_worlds import grid_world, in_jax, listed, random_world

import jaxmec
from jaxmec.envs.serving import GenerativeServing, ServingOptions
from jaxmec.serving import ServingParams, rules
from jaxmec.struct import replace


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, None, 0))
def play(env, params, key, actions):
    """Every step of an episode with these actions [n, ...]: the state before, and what came."""
    _, state = env.reset(key, params)

    def step(state, action):
        view = env.view(state, params)
        _, following, reward, _, over, info = env.step(key, state, action, params)
        return following, (
            state._replace(queues=(), availability=(), key=()),
            view,
            reward,
            over,
            info,
        )

    return jax.lax.scan(step, state, actions)[1]


@dataclasses.dataclass(frozen=True)
class Played:
    """An episode, played twice."""

    mine: tuple
    theirs: list[oracle.Decision]


def rows_of(world: oracle.World, seed: int, number: int, grid: bool) -> list[dict]:
    """Requests, several of which arrive together."""
    rng = np.random.default_rng([seed, 3])
    gaps = rng.choice([0.0, 1.0, 2.0], number) * rng.exponential(1.0, number)
    if grid:
        gaps = rng.integers(0, 3, number).astype(float)
    return [
        {
            "arrival": float(now),
            "origin": int(rng.integers(len(world.links))),
            "size": float(rng.uniform(0.3, 20)),
            "result": float(rng.uniform(0, 2)),
            "images": int(rng.choice([1, 2, 4, 8])),
            "quality": float(rng.choice([0.4, 0.7])),
            "limit": float(rng.choice([5.0, 15.0, 40.0])),
            "factor": float(rng.choice([1.0, 0.9])),
        }
        for now in np.cumsum(gaps)
    ]


def world_of(servers: int, seed: int, grid: bool, number: int) -> tuple[Any, list, ServingParams]:
    """The same world twice, and its requests."""
    world = grid_world(servers, seed) if grid else random_world(servers, seed)
    rows = rows_of(world, seed, number, grid)
    fleet, availability = in_jax(world, pieces=8)
    options = [(m, z, q) for m in range(len(world.sizes)) for z, q in ((1, 0.5), (6, 0.75))]
    variant, steps, quality = zip(*options, strict=True)
    params = ServingParams(
        failure_cost=0.7,
        fleet=fleet,
        outages=availability,
        arrivals=listed(rows, len(world.links)),
        variant=variant,
        steps=steps,
        quality=quality,
        horizon=1e6,
    )
    return world, rows, params


def actions_of(env: GenerativeServing, params: ServingParams, seed: int, decisions: int):
    rng = np.random.default_rng([seed, 4])
    if not env.splits:
        return rng.choice(np.flatnonzero(env.action_mask(params)), decisions)
    actions = rng.normal(0, 2, (decisions, env.num_actions))
    actions[rng.random(decisions) < 0.3] *= 100  # all to one server
    return actions


def decider(env: GenerativeServing, params: ServingParams, actions: np.ndarray):
    """What the actions mean, worked out once more."""
    servers, width = env.num_servers, env.num_options

    def decide(number, row, images):
        if not env.splits:
            server, option = divmod(int(actions[number]), width)
            return {server: images}, option
        option = int(np.argmax(actions[number][servers:]))
        offers = np.asarray(params.allowed)[:, option]
        score = np.where(offers, actions[number][:servers], -np.inf)
        weight = np.exp(score - score.max())
        counts = oracle.whole_images(list(weight / weight.sum()), images)
        return {i: count for i, count in enumerate(counts) if count}, option

    return decide


def played(servers: int, seeds: range, action: str, grid: bool = False, number: int = 40):
    """Episodes in different worlds, each played twice; the package plays them side by side."""
    worlds = [world_of(servers, seed, grid, number) for seed in seeds]
    env = GenerativeServing(worlds[0][2], action=action, waiting=64)
    every = [
        actions_of(env, params, seed, 3 * number)
        for (*_, params), seed in zip(worlds, seeds, strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for *_, params in worlds))
    mine = play(env, stacked, jax.random.key(0), jnp.stack([jnp.asarray(a) for a in every]))
    for index, (world, rows, params) in enumerate(worlds):
        options = list(
            zip(*(np.asarray(leaf).tolist() for leaf in
                  (params.variant, params.steps, params.quality)), strict=True)
        )  # fmt: skip
        decide = decider(env, params, every[index])
        theirs = oracle.episode(world, rows, options, decide, params.attempts, 0.2, 0.7)
        shown = np.s_[index, : len(theirs)]
        yield Played(jax.tree.map(lambda leaf, cut=shown: np.asarray(leaf[cut]), mine), theirs)


def check(episode: Played, atol: float) -> None:
    state, view, reward, over, info = episode.mine
    column = lambda name: np.asarray([getattr(d, name) for d in episode.theirs])  # noqa: E731
    close = functools.partial(np.testing.assert_allclose, rtol=atol / 100, atol=atol)
    close(state.now, column("now"))
    np.testing.assert_array_equal(state.attempt, column("attempt"))
    np.testing.assert_array_equal(state.request.images, column("images"))
    for name in ("told", "age", "sent"):
        close(getattr(view, name), column(name), err_msg=name)
    np.testing.assert_array_equal(info["requests"], column("resolved"))
    np.testing.assert_array_equal(info["served"], column("served"))
    answered = [d.delay is not None for d in episode.theirs]
    np.testing.assert_array_equal(info["answered"], answered)
    close(info["delay"], [d.delay or 0.0 for d in episode.theirs])
    close(reward, column("reward"))
    np.testing.assert_array_equal(over, np.arange(len(over)) == len(over) - 1)


@pytest.mark.parametrize("action", ["option", "shares"])
@pytest.mark.parametrize("servers", [1, 5, 20])
def test_float64_agrees_with_an_independent_loop(servers, action):
    retried = 0
    with jax.enable_x64(True):
        for episode in played(servers, range(5), action):
            check(episode, 1e-9)
            retried += sum(d.attempt > 0 for d in episode.theirs)
    assert retried >= 4  # or the hard part was not tried


@pytest.mark.slow
def test_a_large_fleet_agrees():
    with jax.enable_x64(True):
        for episode in played(64, range(2), "option"):
            check(episode, 1e-9)


@pytest.mark.parametrize("action", ["option", "shares"])
def test_what_falls_together_is_decided_in_the_same_order(action):
    ties = 0
    with jax.enable_x64(True):
        for episode in played(3, range(6), action, grid=True):
            check(episode, 1e-9)
            ties += sum(d.tie for d in episode.theirs)
    assert ties >= 2


@pytest.mark.parametrize("action", ["option", "shares"])
def test_float32_agrees_up_to_rounding(action):
    for episode in played(5, range(10, 14), action):
        check(episode, 1e-3)


@pytest.mark.parametrize("refuse", [False, True])
def test_features_of_options_are_those_expected_laid_out_by_action(refuse):
    """One number an action of each, the mask last; the same numbers as by server and option."""
    make = functools.partial(jaxmec.make, "GenerativeServing-v0", preset="genai-5")
    env, params = make(features="options", refuse=refuse)
    plain, _ = make(features="expected")
    _, state = env.reset(jax.random.key(3), params)
    state = state._replace(queues=replace(
        state.queues, told=jnp.arange(6.0), told_at=jnp.zeros(6)
    ))  # fmt: skip
    ours, theirs = env.features(state, params), plain.features(state, params)
    servers, options = params.fleet.num_servers, params.num_options
    variant = np.asarray(params.variant)
    for name, value in theirs.items():
        by_action = np.asarray(value)
        if by_action.ndim:
            if name in ("resident", "asked"):
                by_action = by_action[:, variant]
            by_action = np.broadcast_to(by_action.reshape(servers, -1), (servers, options)).ravel()
            by_action = np.append(by_action, [0.0] * refuse)
        np.testing.assert_array_equal(ours[name], by_action, name)
    np.testing.assert_array_equal(ours["allowed"], env.action_mask(params))
    good = np.asarray(params.quality * state.request.factor >= state.request.quality)
    np.testing.assert_array_equal(ours["good"][: servers * options], np.tile(good, servers))
    assert env.observe_state(state, params).shape == env.observation_space(params).shape
    assert len(env.feature_names(params)) == sum(n for _, n in env.feature_layout(params))
    best = rules.RULES["tuned"].decide(params, env.view(state, params), (), jax.random.key(0))[0]
    among = np.where(np.tile(good, servers) & np.asarray(params.allowed).ravel(),
                     ours["worth"][: servers * options], -1)  # fmt: skip
    assert np.argmax(among) == env.action_of(*best)


def test_features_of_options_go_with_options():
    with pytest.raises(ValueError, match="features 'options' goes with action 'option'"):
        ServingOptions(features="options", action="shares")
