"""The offloading environments: whole episodes against the oracle, information, episode ends."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from jaxmec.deploy import jaxpr
from jaxmec.envs import make
from jaxmec.mec import trace_workload
from jaxmec.mec.offload import service_time, waiting_time

SINGLE, MULTI = "SingleServerOffloading-v0", "MultiServerOffloading-v0"
RECORDED = ("makespan", "delay", "failed", "fraction", "origin", "slot", "final_observation")


class Episode(NamedTuple):
    """[M] decisions of one episode, as the environment told them."""

    task: Any
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict
    following: np.ndarray  # the observation returned


def episode(env, params, actions, key=None) -> Episode:
    """Play one episode; `actions` are as many as it may take, and cut to as many as it took."""
    key_reset, key_steps = jax.random.split(jax.random.key(0) if key is None else key)

    def run(params, actions):
        def step(carry, inputs):
            observation, state = carry
            index, action = inputs
            key = jax.random.fold_in(key_steps, index)
            out = env.step(key, state, action, params)
            following, next_state, reward, terminated, truncated, info = out
            assert set(RECORDED) <= set(info)
            row = (state.task, observation, reward, terminated, truncated, info, following)
            return (following, next_state), Episode(*row)

        first = env.reset(key_reset, params)
        return jax.lax.scan(step, first, (jnp.arange(len(actions)), actions))[1]

    rows = jax.device_get(jax.jit(run)(params, actions))
    ends = np.flatnonzero(rows.truncated)
    assert ends.size, "give more actions: the episode has not ended"
    return jax.tree.map(lambda x: x[: ends[0] + 1], rows)


def as_trace(rows: Episode, slots: int):
    """The episode's tasks as a workload."""
    t = rows.task
    return trace_workload(rows.info["slot"], t.origin, t.size, t.work, t.result, slots=slots)


def oracle_tasks(rows: Episode):
    t = rows.task
    return [
        oracle.Task(int(o), float(d), float(c), float(e))
        for o, d, c, e in zip(t.origin, t.size, t.work, t.result, strict=True)
    ]


def mask_of(index: int, servers: int) -> list[bool]:
    """The documented order of the subsets: bit i of index + 1."""
    return [bool((index + 1) >> i & 1) for i in range(servers)]


# The four settings, from the model's table and not from the package.
F20 = (50, 25, 18, 32, 28, 21, 50, 17, 44, 41, 21, 31, 41, 36, 30, 47, 49, 13, 48, 14)
R20 = (499, 478, 461, 416, 473, 408, 500, 462, 427, 430)
R20 += (480, 407, 476, 415, 453, 480, 427, 444, 477, 475)
SETTINGS = {
    "amcoedge": oracle.Network(
        (10, 20, 30, 40, 50), (400, 425, 450, 475, 500), 1.0, True, 1.0, oracle.INF, 1.0, 10.0
    ),
    "smcoedge": oracle.Network(
        (10, 20, 30, 40, 50), (500, 425, 450, 400, 475), 0.1, True, oracle.INF, 1.0, 1.0, 2.0
    ),
    "lad-ts": oracle.Network(F20, R20, 1.0, False),
    "fdedge": oracle.Network(F20[:10], R20[:10], 1.0, False),
}
SLOTS = {"amcoedge": 60, "smcoedge": 100, "lad-ts": 59, "fdedge": 99}
MOST = {"amcoedge": 5200, "smcoedge": 8500, "lad-ts": 33_500, "fdedge": 6300}  # + 5 sigma


def random_actions(preset: str, count: int):
    """Actions for the environment, and the same as masks for the oracle."""
    rng = np.random.default_rng(5)
    servers = len(SETTINGS[preset].capacity)
    if preset in ("lad-ts", "fdedge"):
        actions = rng.integers(0, servers, count)
        return actions, np.eye(servers, dtype=bool)[actions]
    actions = rng.integers(0, 2**servers - 1, count)
    return actions, np.array([mask_of(a, servers) for a in range(2**servers - 1)])[actions]


# --- Whole episodes ----------------------------------------------------------------------


@pytest.mark.parametrize("preset", SETTINGS)
def test_a_whole_episode_from_a_trace_reproduces_the_oracle(preset):
    """Float64: tasks recorded once, played from a trace, task by task to 1e-9."""
    env_id = SINGLE if preset in ("lad-ts", "fdedge") else MULTI
    actions, masks = random_actions(preset, MOST[preset])
    with jax.enable_x64(True):
        env, params = make(env_id, preset=preset, seed=3)
        recorded = episode(env, params, actions)
        workload = as_trace(recorded, SLOTS[preset])
        env, params = make(env_id, preset=preset, seed=3, workload=workload)
        played = episode(env, params, actions, jax.random.key(99))
    count = len(recorded.reward)
    assert len(played.reward) == count
    for name in ("makespan", "delay", "failed", "fraction", "origin", "slot"):
        np.testing.assert_array_equal(played.info[name], recorded.info[name])
    np.testing.assert_array_equal(played.reward, recorded.reward)

    records = oracle.play(
        SETTINGS[preset], recorded.info["slot"], oracle_tasks(recorded), masks[:count]
    )
    expected = [r.outcome for r in records]
    for name in ("makespan", "delay", "fraction"):
        values = np.array([getattr(o, name) for o in expected])
        # Shares of a split are known to the waits' rounding over the service time.
        atol = 1e-9 if name == "fraction" else 0
        np.testing.assert_allclose(played.info[name], values, rtol=1e-9, atol=atol)
    np.testing.assert_array_equal(played.info["failed"], [o.failed for o in expected])
    np.testing.assert_allclose(played.reward, [o.reward for o in expected], rtol=1e-9)
    if preset == "smcoedge":  # the cap on the waits and the price of failing were exercised
        assert 0 < played.info["failed"].sum() < count
        assert np.any([np.any(o.wait == 1.0) for o in expected])
    if preset in ("lad-ts", "fdedge"):
        assert not np.any(played.info["failed"])


@pytest.mark.parametrize("preset", ["amcoedge", "lad-ts"])
def test_a_whole_episode_in_float32_reproduces_the_oracle(preset):
    """To 1e-4: each of up to 5000 additions to a queue rounds by at most 6e-8 of it, and they
    do not all err to one side. The oracle gets the task as float32 has it."""
    env_id = SINGLE if preset in ("lad-ts", "fdedge") else MULTI
    actions, masks = random_actions(preset, MOST[preset])
    env, params = make(env_id, preset=preset, seed=3)
    rows = episode(env, params, actions)
    assert rows.reward.dtype == rows.observation.dtype == np.float32
    count = len(rows.reward)
    records = oracle.play(SETTINGS[preset], rows.info["slot"], oracle_tasks(rows), masks[:count])
    expected = np.array([r.outcome.delay for r in records])
    np.testing.assert_allclose(rows.info["delay"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("allocate", "information"),
    [
        ("cwa", "slot_start"),
        ("cwa", "local"),
        ("cwa", "full"),
        ("water_filling", "local"),
        ("hecwa", "slot_start"),  # looks at no wait
    ],
)
def test_allocation_on_seen_waits_reproduces_the_oracle(allocate, information):
    """Masks, an overloaded network with failures and a cap that binds, four slots."""
    overrides = {
        "slots": 4,
        "probability": 0.8,
        "deadline": 0.7,
        "uplink_cap": 0.1,
        "max_wait": 0.9,
    }
    network = oracle.Network(
        (10, 20, 30, 40, 50), (400, 425, 450, 475, 500), 1.0, True, 0.1, 0.9, 0.7, 10.0
    )
    rng = np.random.default_rng(1)
    masks = rng.random((1000, 5)) < 0.6
    masks[np.arange(1000), rng.integers(0, 5, 1000)] = True
    with jax.enable_x64(True):
        env, params = make(
            MULTI,
            preset="amcoedge",
            information=information,
            action="mask",
            allocate=allocate,
            allocation_information="seen",
            **overrides,
        )
        rows = episode(env, params, masks)
    count = len(rows.reward)
    records = oracle.play(
        network,
        rows.info["slot"],
        oracle_tasks(rows),
        masks[:count],
        rule=allocate,
        allocation_information="seen",
        information=information,
    )
    for name in ("fraction", "makespan", "delay"):
        values = np.array([getattr(r.outcome, name) for r in records])
        np.testing.assert_allclose(rows.info[name], values, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rows.reward, [r.outcome.reward for r in records], rtol=1e-9)
    assert 0.02 < rows.info["failed"].mean() < 0.98


def test_given_fractions_reproduce_the_oracle():
    fractions = np.random.default_rng(2).dirichlet(np.full(5, 0.3), 1500)
    fractions = np.where(fractions < 0.02, 0, fractions)
    fractions /= fractions.sum(axis=1, keepdims=True)
    with jax.enable_x64(True):
        env, params = make(MULTI, preset="amcoedge", action="fraction", slots=10)
        rows = episode(env, params, fractions)
    count = len(rows.reward)
    records = oracle.play(
        SETTINGS["amcoedge"],
        rows.info["slot"],
        oracle_tasks(rows),
        fractions[:count],
        fractions=True,
    )
    np.testing.assert_allclose(rows.info["fraction"], fractions[:count], rtol=1e-9)
    np.testing.assert_allclose(rows.info["delay"], [r.outcome.delay for r in records], rtol=1e-9)


@pytest.mark.parametrize("mode", ["subset", "mask"])
def test_the_action_modes_name_the_same_sets(mode):
    """All 31 subsets, in the documented order."""
    env, params = make(MULTI, preset="amcoedge", action=mode, allocate="hecwa")
    _, state = env.reset(jax.random.key(0), params)
    assert env.num_actions == (31 if mode == "subset" else 5)
    step = jax.jit(lambda a: env.step(jax.random.key(1), state, a, params)[5]["fraction"])
    for index in range(31):
        mask = mask_of(index, 5)
        fraction = step(index if mode == "subset" else jnp.array(mask))
        np.testing.assert_array_equal(fraction > 0, mask)
    if mode == "mask":  # as numbers too, which is what a Gymnasium space samples
        for kind in (np.int8, np.float32):
            np.testing.assert_array_equal(
                step(np.array([0, 1, 0, 1, 0], kind)) > 0, [False, True, False, True, False]
            )


# --- What is seen ------------------------------------------------------------------------

SEEN = {
    "slot_start": {"backlog"},
    "local": {"backlog", "sent", "own uplink", "position"},
    "slot": {"backlog", "sent", "own uplink", "position", "remaining"},
    "full": {"backlog", "inflight", "own uplink", "other uplinks", "position", "remaining"},
}


def small_trace():
    """Two stations of five with many tasks in each of three slots."""
    rng = np.random.default_rng(3)
    slot, origin = np.repeat(np.arange(3), 20), np.tile(np.repeat([1, 3], 10), 3)
    return trace_workload(slot, origin, rng.uniform(2, 5, 60), rng.uniform(0.3, 1.5, 60))


@functools.cache
def in_the_middle(information: str, allocation: str = "true"):
    """An environment, and the state at the fourth task of station 3 in slot 1."""
    env, params = make(
        MULTI,
        preset="amcoedge",
        information=information,
        action="mask",
        allocation_information=allocation,
        workload=small_trace(),
        capacity=[1.0, 2.0, 3.0, 4.0, 5.0],
        deadline=100.0,
    )
    _, state = env.reset(jax.random.key(0), params)
    step = jax.jit(lambda s, a: env.step(jax.random.key(1), s, a, params)[1])
    rng = np.random.default_rng(4)
    for _ in range(33):
        state = step(state, jnp.array(rng.random(5) < 0.8))
    assert int(state.task.origin) == 3 and int(state.cursor.slot) == 1
    # Every queue holds something, so that a change of any of them is one.
    queues = state.queues
    queues = queues.replace(backlog=queues.backlog + 1, inflight=queues.inflight + 0.3)
    state = state._replace(queues=queues, sent=state.sent + 0.1)
    assert state.queues.uplink[1] > 0 and state.queues.uplink[3] > 0

    @jax.jit
    def look(params, state):
        fraction = env.place(jnp.ones(5, bool), state, params)[0].fraction
        return env.observe_state(state, params), env.view(state, params), fraction

    return look, params, state


def changed(what: str, params, state):
    """The same with one thing changed, each a thing that a run could have differed in."""
    queues, cursor, w = state.queues, state.cursor, params.workload
    replaced = {
        "backlog": lambda: state._replace(queues=queues.replace(backlog=queues.backlog * 1.5)),
        "inflight": lambda: state._replace(queues=queues.replace(inflight=queues.inflight * 1.5)),
        "own uplink": lambda: state._replace(
            queues=queues.replace(uplink=queues.uplink.at[3].mul(1.5))
        ),
        "other uplinks": lambda: state._replace(
            queues=queues.replace(uplink=queues.uplink.at[jnp.array([0, 1, 2, 4])].add(0.2))
        ),
        "sent": lambda: state._replace(sent=state.sent * 1.5),
        "position": lambda: state._replace(cursor=cursor._replace(position=cursor.position + 1)),
        "slot": lambda: state._replace(cursor=cursor._replace(slot=cursor.slot + 1)),
        "time": lambda: state._replace(time=state.time + 7),
    }
    if what in replaced:
        return params, replaced[what]()
    row = int(cursor.last)
    changes = {
        "remaining": {"work_after": w.work_after * 1.5, "tasks_after": w.tasks_after + 1},
        "future tasks": {
            name: getattr(w, name).at[row + 1 :].mul(1.5) for name in ("size", "work")
        },
        "past tasks": {name: getattr(w, name).at[:row].mul(1.5) for name in ("size", "work")},
        "number of slots": {"slots": w.slots + 5},
    }[what]
    return params.replace(workload=w.replace(**changes)), state


EVERYTHING = (
    "backlog",
    "inflight",
    "own uplink",
    "other uplinks",
    "sent",
    "position",
    "slot",
    "time",
    "remaining",
    "future tasks",
    "past tasks",
    "number of slots",
)


def same(one, other) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("information", SEEN)
def test_an_observation_shows_what_it_should_and_nothing_else(information, what):
    look, params, state = in_the_middle(information)
    observation, view, _ = look(params, state)
    other_observation, other_view, _ = look(*changed(what, params, state))
    assert same(observation, other_observation) == (what not in SEEN[information])
    # What the schedulers and the allocation are built from, likewise; and it has a clock.
    clock = set() if information == "slot_start" else {"slot"}
    assert same(view, other_view) == (what not in SEEN[information] | clock)


def test_every_field_of_the_state_was_changed_above():
    """A new field must be given its place in `changed`."""
    _, _, state = in_the_middle("full")
    assert set(state._fields) == {"queues", "sent", "task", "cursor", "time", "history"}
    assert state.history == ()  # kept where a reward or a feature takes it: see below
    assert set(state.cursor._fields) == {"slot", "station", "position", "last"}
    assert len(jax.tree.leaves(state.queues)) == 3


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize(
    ("information", "allocation"), [*((name, "seen") for name in SEEN), ("local", "expected")]
)
def test_allocation_on_seen_waits_uses_what_is_seen_and_nothing_else(information, allocation, what):
    look, params, state = in_the_middle(information, allocation)
    one, other = look(params, state)[2], look(*changed(what, params, state))[2]
    steers = SEEN[information] & {"backlog", "inflight", "sent", "own uplink"}
    assert same(one, other) == (what not in steers)


def test_allocation_on_true_waits_uses_the_true_queues():
    look, params, state = in_the_middle("slot_start")
    for what in ("backlog", "inflight", "own uplink"):
        assert not same(look(params, state)[2], look(*changed(what, params, state))[2])


@pytest.mark.parametrize("preset", ["amcoedge", "lad-ts"])
@pytest.mark.parametrize("information", ["slot_start", "local", "full"])
def test_how_many_tasks_are_still_to_come_is_not_seen_where_they_are_drawn(preset, information):
    """A uniform count is drawn with a station's first task and lies in the cursor."""
    env_id = MULTI if preset == "amcoedge" else SINGLE
    env, params = make(env_id, preset=preset, information=information)
    _, state = env.reset(jax.random.key(0), params)
    other = state._replace(cursor=state.cursor._replace(last=state.cursor.last + 3))
    assert same(env.observe_state(state, params), env.observe_state(other, params))


@pytest.mark.parametrize("information", SEEN)
def test_every_observation_of_an_episode_is_what_the_oracle_says_is_seen(information):
    """By name, feature by feature, unscaled with the constants of the parameters."""
    masks = np.random.default_rng(6).random((60, 5)) < 0.5
    masks[:, 2] = True
    with jax.enable_x64(True):
        capacity = [1.0, 2.0, 3.0, 4.0, 5.0]
        env, params = make(
            MULTI,
            preset="amcoedge",
            information=information,
            action="mask",
            workload=small_trace(),
            capacity=capacity,
        )
        rows = episode(env, params, masks)
        names = env.feature_names(params)
    network = oracle.Network(
        capacity, SETTINGS["amcoedge"].rate, 1.0, True, 1.0, oracle.INF, 1.0, 10.0
    )
    tasks, scales = oracle_tasks(rows), params.scales
    records = oracle.play(network, rows.info["slot"], tasks, masks)
    assert rows.observation.shape == (60, len(names))
    assert len(set(names)) == len(names)
    for row, record in enumerate(records):
        seen = dict(zip(names, rows.observation[row], strict=True))
        origin = record.task.origin
        view = oracle.view(information, record.before, origin, record.sent)
        expected = {
            "size": record.task.size / float(scales.size),
            "work": record.task.work / float(scales.work),
            "result": record.task.result / float(scales.result),
        }
        for i, f in enumerate(capacity):
            expected[f"origin[{i}]"] = float(i == origin)
            expected[f"backlog[{i}]"] = view.backlog[i] / f / float(scales.backlog)
            if information != "slot_start":
                expected[f"inflight[{i}]"] = view.inflight[i] / f / float(scales.slot)
            if information == "full":
                expected[f"uplink[{i}]"] = view.uplink[i] / float(scales.slot)
        if information in ("local", "slot"):
            expected["uplink"] = view.uplink[origin] / float(scales.slot)
        if information != "slot_start":
            expected["progress"] = row % 10 / 10
        if information in ("slot", "full"):
            left = [t for t in range(row + 1, 60) if t // 10 == row // 10]
            expected["remaining_tasks"] = len(left) / 10
            work = sum(tasks[t].work for t in left)
            expected["remaining_work"] = work / (sum(capacity) * float(scales.slot))
        assert set(seen) == set(expected)
        for name, value in expected.items():
            assert seen[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (row, name)


@pytest.mark.parametrize("preset", SETTINGS)
def test_observations_are_of_order_one(preset):
    """While a sensible policy plays: shares by capacity, or a coin weighted by it."""
    rng = np.random.default_rng(0)
    capacity = np.array(SETTINGS[preset].capacity)
    if preset in ("lad-ts", "fdedge"):
        env, params = make(SINGLE, preset=preset, information="full", slots=20)
        actions = rng.choice(len(capacity), 12_000, p=capacity / capacity.sum())
    else:
        env, params = make(MULTI, preset=preset, information="full", action="fraction", slots=20)
        actions = np.tile(capacity / capacity.sum(), (1800, 1))
    rows = episode(env, params, actions)
    assert np.all(rows.observation >= 0)
    assert np.all(rows.observation.max(axis=0) < 20)
    space = env.observation_space(params)
    assert space.shape == rows.observation.shape[1:]
    assert space.dtype == rows.observation.dtype


# --- The end of an episode ---------------------------------------------------------------


def test_an_episode_is_truncated_and_starts_over():
    masks = np.ones((60, 5), bool)
    with jax.enable_x64(True):
        env, params = make(
            MULTI,
            preset="amcoedge",
            information="full",
            action="mask",
            workload=small_trace(),
            capacity=[1.0, 2.0, 3.0, 4.0, 5.0],
        )
        first, _ = env.reset(jax.random.key(0), params)
        rows = episode(env, params, masks)
        names = env.feature_names(params)
    assert len(rows.reward) == 60
    assert not np.any(rows.terminated)
    np.testing.assert_array_equal(np.flatnonzero(rows.truncated), [59])
    # Within the episode, what follows is the observation returned.
    np.testing.assert_array_equal(rows.info["final_observation"][:-1], rows.following[:-1])
    np.testing.assert_array_equal(rows.following[:-1], rows.observation[1:])
    # At its end a new one begins, empty, and the old one would have gone on with its queues.
    np.testing.assert_array_equal(rows.following[-1], first)
    network = oracle.Network([1, 2, 3, 4, 5], SETTINGS["amcoedge"].rate, 1.0, True, 1.0)
    record = oracle.play(network, rows.info["slot"], oracle_tasks(rows), masks)[-1]
    ended = record.before
    ended.inflight += record.outcome.fraction * record.task.work
    ended = oracle.advance_slot(network, ended)
    assert np.all(ended.backlog > 0)
    final = dict(zip(names, rows.info["final_observation"][-1], strict=True))
    for i in range(5):
        scaled = ended.backlog[i] / (i + 1) / float(params.scales.backlog)
        assert final[f"backlog[{i}]"] == pytest.approx(scaled)
        assert final[f"inflight[{i}]"] == final[f"uplink[{i}]"] == 0


@pytest.mark.parametrize(("env_id", "preset"), [(MULTI, "amcoedge"), (SINGLE, "lad-ts")])
def test_a_second_episode_starts_empty_and_differs(env_id, preset):
    env, params = make(env_id, preset=preset, information="full", slots=2)
    _, state = env.reset(jax.random.key(0), params)

    @jax.jit
    def run(state, key):
        def step(state, key):
            following = env.step(key, state, 0, params)
            return following[1], (state, following[4])

        return jax.lax.scan(step, state, jax.random.split(key, 4000))[1]

    states, truncated = jax.device_get(run(state, jax.random.key(1)))
    starts = np.flatnonzero(truncated[:-1]) + 1
    assert len(starts) >= 3
    for leaf in (*jax.tree.leaves(states.queues), states.sent):
        assert not np.any(leaf[starts])
    assert not np.any(states.time[starts])
    np.testing.assert_array_equal(states.time[starts - 1] + 1, np.diff(np.r_[0, starts]))
    assert len(np.unique(states.task.size[starts])) == len(starts)
    assert np.all(np.diff(np.r_[0, starts]) <= int(params.max_steps_in_episode))


def test_queues_of_the_slot_are_cleared_at_its_end_and_the_sent_at_the_station():
    env, params = make(MULTI, preset="amcoedge", action="mask", workload=small_trace())
    _, state = env.reset(jax.random.key(0), params)
    step = jax.jit(lambda s: env.step(jax.random.key(1), s, jnp.ones(5, bool), params)[1])
    for decided in range(1, 60):
        state = step(state)
        assert np.any(state.sent > 0) == (decided % 10 != 0)
        assert np.any(state.queues.inflight > 0) == (decided % 20 != 0)
        assert np.any(state.queues.uplink > 0) == (decided % 20 != 0)


def test_slots_without_a_task_pass():
    """One task in slot 0, the next in slot 3: three ends of a slot between, one decision."""
    workload = trace_workload(slot=[0, 3], origin=[0, 0], size=[2.0, 2.0], work=[30.0, 1.0])
    env, params = make(SINGLE, preset="lad-ts", workload=workload, capacity=[5.0], rate=[100.0])
    _, state = env.reset(jax.random.key(0), params)
    _, state, _, _, truncated, info = env.step(jax.random.key(1), state, 0, params)
    assert not truncated
    assert float(info["makespan"]) == pytest.approx(6.0)
    np.testing.assert_allclose(state.queues.backlog, [30 - 3 * 5], rtol=1e-6)
    _, _, _, _, truncated, info = env.step(jax.random.key(1), state, 0, params)
    assert truncated
    assert float(info["makespan"]) == pytest.approx(3.2)


def test_a_traces_own_deadlines_take_the_place_of_the_environments():
    """Each of three tasks takes 0.5 s; one of them may, one may not, and one has no deadline."""
    workload = trace_workload(
        slot=[0, 1, 2], origin=[0] * 3, size=[2.0] * 3, work=[5.0] * 3,
        deadline=[0.6, 0.4, float("inf")],
    )  # fmt: skip
    env, params = make(
        SINGLE, preset="lad-ts", workload=workload, capacity=[10.0], rate=[100.0], deadline=0.1,
        penalty=3.0,
    )  # fmt: skip
    rows = episode(env, params, np.zeros(3, int))
    assert rows.info["failed"].tolist() == [False, True, False]
    np.testing.assert_allclose(rows.info["delay"], [0.5, 0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(rows.reward, [-0.5, -3 * 0.4, -0.5], rtol=1e-6)


def test_arrivals_do_not_depend_on_the_actions():
    env, params = make(MULTI, preset="amcoedge", slots=3)
    rng = np.random.default_rng(0)
    one, other = (episode(env, params, rng.integers(0, 31, 500)) for _ in range(2))
    assert same(one.task, other.task)
    assert not np.array_equal(one.info["delay"], other.info["delay"])


# --- An empty selection in a compiled step -----------------------------------------------


@pytest.mark.parametrize(
    ("mode", "empty", "local"),
    [
        ("mask", np.zeros(5, bool), np.eye(5, dtype=bool)),
        ("mask", np.zeros(5, np.float32), np.eye(5, dtype=np.float32)),
        ("subset", -1, 2 ** np.arange(5) - 1),
        ("subset", 31, 2 ** np.arange(5) - 1),
        ("fraction", np.zeros(5, np.float32), np.eye(5, dtype=np.float32)),
        ("fraction", np.full(5, np.nan, np.float32), np.eye(5, dtype=np.float32)),
    ],
)
def test_an_empty_selection_is_served_where_the_task_arrived(mode, empty, local):
    env, params = make(MULTI, preset="amcoedge", action=mode)
    _, state = env.reset(jax.random.key(0), params)
    origin = int(state.task.origin)
    for wrap in (jax.jit, lambda f: f):
        step = wrap(lambda a: env.step(jax.random.key(1), state, a, params))
        out, expected = step(jnp.asarray(empty)), step(jnp.asarray(local[origin]))
        assert same(out, expected)
        assert float(out[5]["fraction"][origin]) == 1


@pytest.mark.parametrize(("preset", "action"), [("lad-ts", -1), ("lad-ts", 20), ("fdedge", 10)])
def test_an_index_of_no_server_falls_back(preset, action):
    """To the task's own station; for a master node to the fastest server."""
    env, params = make(SINGLE, preset=preset)
    _, state = env.reset(jax.random.key(0), params)
    server = int(state.task.origin) if preset == "lad-ts" else 0  # f = 50 comes first
    step = jax.jit(lambda a: env.step(jax.random.key(1), state, a, params))
    assert same(step(action), step(server))


def test_a_master_node_may_split_too():
    env, params = make(MULTI, preset="fdedge", action="mask", slots=2)
    rows = episode(env, params, np.ones((400, 10), bool))
    assert np.all(rows.task.origin == -1)
    assert np.all(np.isfinite(rows.info["delay"]))
    env, params = make(MULTI, preset="fdedge", action="mask", uplink_contention=True)
    _, state = env.reset(jax.random.key(0), params)
    after = env.step(jax.random.key(1), state, jnp.zeros(10, bool), params)
    np.testing.assert_array_equal(after[5]["fraction"], np.eye(10)[0])
    assert not np.any(after[1].queues.uplink)


# --- Compiled, vmapped, differentiated ---------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "preset", "options"),
    [
        (MULTI, "amcoedge", {"information": "local"}),
        (MULTI, "smcoedge", {"action": "mask", "allocation_information": "seen"}),
        (MULTI, "amcoedge", {"action": "fraction", "information": "full"}),
        (SINGLE, "lad-ts", {"information": "local"}),
        (SINGLE, "fdedge", {}),
    ],
)
def test_a_state_keeps_its_shapes_and_types(env_id, preset, options):
    """So that a scan accepts it and a second call of a compiled step traces nothing."""
    for double in (False, True):
        with jax.enable_x64(double):
            env, params = make(env_id, preset=preset, **options)
            key = jax.random.key(0)
            observation, state = jax.eval_shape(env.reset, key, params)
            action = jax.eval_shape(env.action_space(params).sample, key)
            out = jax.eval_shape(env.step, key, state, action, params)
            again = jax.eval_shape(env.step, key, out[1], action, params)
            assert jax.tree.structure(state) == jax.tree.structure(out[1])
            for before, after in ((state, out[1]), (out[1], again[1]), (observation, out[0])):
                for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
                    assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
            real = np.float64 if double else np.float32
            assert out[0].dtype == out[2].dtype == real
            assert out[2].shape == out[3].shape == out[4].shape == ()


def test_the_step_is_traced_once():
    env, params = make(MULTI, preset="amcoedge", slots=1)
    traced = []

    @jax.jit
    def step(key, state, action, params):
        traced.append(1)
        return env.step(key, state, action, params)

    key = jax.random.key(0)
    _, state = jax.jit(env.reset)(key, params)
    for index in range(100):
        _, state, *_ = step(jax.random.fold_in(key, index), state, jnp.int32(index % 31), params)
    step(key, state, jnp.int32(0), params.replace(deadline=0.5))
    assert len(traced) == 1


@pytest.mark.parametrize(("env_id", "preset"), [(MULTI, "amcoedge"), (SINGLE, "lad-ts")])
def test_the_step_costs_the_same_however_many_positions(env_id, preset):
    """No intermediate of its program grows with N."""

    def largest(positions):
        env, params = make(env_id, preset=preset, positions=positions)
        key = jax.random.key(0)
        state = env.reset(key, params)[1]
        every = list(jaxpr.every(jaxpr.trace(lambda *a: env.step(*a), key, state, 0, params)))
        return len(every), max(v.aval.size for e in every for v in e.outvars)

    assert largest(50) == largest(5000)
    assert largest(5000)[1] < 1000


def test_vmapped_environments_equal_single_ones():
    env, params = make(MULTI, preset="amcoedge", information="local")
    keys = jax.random.split(jax.random.key(0), 6)
    observations, states = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
    one_reset, one_step = jax.jit(env.reset), jax.jit(env.step)
    actions = jnp.arange(6) * 5
    together = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))(keys, states, actions, params)
    for e in range(6):
        observation, state = one_reset(keys[e], params)
        np.testing.assert_allclose(observation, observations[e], rtol=1e-6)
        single = one_step(keys[e], state, actions[e], params)
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[e], rtol=2e-6, atol=1e-7)


def test_parameters_are_vmapped_over():
    """Four networks and deadlines at once give what they give one by one."""
    env, params = make(MULTI, preset="amcoedge", action="mask")
    scale = jnp.array([0.5, 1.0, 2.0, 4.0])

    def play(scale):
        p = params.replace(
            network=params.network.replace(capacity=params.network.capacity * scale),
            deadline=params.deadline * scale,
        )
        key = jax.random.key(0)
        state = env.reset(key, p)[1]

        def step(state, index):
            out = env.step(jax.random.fold_in(key, index), state, jnp.ones(5, bool), p)
            return out[1], out[5]["delay"]

        return jax.lax.scan(step, state, jnp.arange(50))[1]

    together = jax.jit(jax.vmap(play))(scale)
    assert len(np.unique(together[:, 0])) == 4
    single = jax.jit(play)
    for s, row in zip(scale, together, strict=True):
        np.testing.assert_allclose(single(s), row, rtol=1e-4)


@pytest.mark.parametrize("deadline", [100.0, float("inf"), 0.35])
def test_rewards_are_differentiable_in_the_fractions(deadline):
    """Of 25 decisions over two slots, in float64 against central differences."""
    with jax.enable_x64(True):
        env, params = make(
            MULTI,
            preset="amcoedge",
            action="fraction",
            workload=small_trace(),
            deadline=deadline,
            uplink_cap=0.05,
        )
        key = jax.random.key(0)
        state = env.reset(key, params)[1]
        fractions = np.random.default_rng(8).dirichlet(np.full(5, 3.0), 25)

        def value(fractions):
            def step(state, fraction):
                out = env.step(key, state, fraction, params)
                return out[1], out[2]

            return jnp.sum(jax.lax.scan(step, state, fractions)[1])

        gradient = jax.jit(jax.grad(value))(fractions)
        directions = np.random.default_rng(9).normal(size=(12, 25, 5)) * 1e-7
        values = jax.jit(jax.vmap(value))
        slopes = (values(fractions + directions) - values(fractions - directions)) / 2
        expected = np.sum(gradient * directions, axis=(1, 2))
    assert np.all(np.isfinite(gradient))
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-13)


def test_no_valid_setting_gives_nan():
    """Random networks and arrivals, light to hopelessly overloaded, every rule."""
    rng = np.random.default_rng(12)
    for servers, allocate in ((4, "cwa"), (1, "hecwa"), (8, "water_filling")):
        env, params = make(
            MULTI,
            preset="amcoedge",
            action="mask",
            allocate=allocate,
            information="full",
            capacity=np.exp(rng.uniform(np.log(0.01), np.log(1e3), servers)),
            rate=np.exp(rng.uniform(np.log(1), np.log(1e4), servers)),
            slot_length=float(np.exp(rng.uniform(-3, 1))),
            probability=float(rng.uniform(0.1, 1)),
            slots=3,
        )
        rows = episode(env, params, rng.random((1300, servers)) < 0.5)
        for leaf in jax.tree.leaves(rows):
            assert np.all(np.isfinite(leaf))
        fraction = rows.info["fraction"]
        assert np.all(fraction >= 0)
        np.testing.assert_allclose(fraction.sum(axis=1), 1, atol=1e-5)


# --- gymnax ------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [SINGLE, MULTI])
def test_registered_with_gymnax(env_id):
    assert env_id in gymnax.registered_envs
    env, params = gymnax.make(env_id)
    assert env.name == env_id
    key = jax.random.key(0)
    observation, state = env.reset(key, params)
    space = env.observation_space(params)
    assert observation.shape == space.shape
    assert bool(space.contains(observation))
    action = env.action_space(params).sample(key)
    assert bool(env.action_space(params).contains(action))
    observation, _, reward, *_, info = env.step(key, state, action, params)
    assert bool(space.contains(observation))
    assert np.isfinite(reward)
    assert info["final_observation"].shape == space.shape
    assert env.metric_names == ("makespan", "delay", "failed")
    assert set(env.metric_names) <= set(info)


@pytest.mark.parametrize("mode", ["subset", "mask", "fraction"])
def test_action_spaces_sample_what_they_contain(mode):
    env, params = make(MULTI, preset="amcoedge", action=mode)
    space = env.action_space(params)
    samples = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 200))
    if mode == "subset":
        assert set(np.asarray(samples).tolist()) <= set(range(31)) and space.n == 31
    if mode == "mask":
        assert samples.shape == (200, 5) and set(np.unique(samples)) == {0, 1}
    if mode == "fraction":
        np.testing.assert_allclose(samples.sum(axis=1), 1, rtol=1e-5)
        assert np.all(samples >= 0)


# --- Errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"information": "all"}, r"information.*slot_start.*got 'all'"),
        ({"action": "set"}, r"action.*subset.*got 'set'"),
        ({"allocate": "se"}, r"allocate.*cwa.*got 'se'"),
        (
            {
                "allocation_information": "priced",
                "action": "mask",
                "features": "priced",
                "information": "local",
            },
            r"'priced' goes with action='score' .*got action='mask' and features='priced'",
        ),
        ({"allocation_information": "none"}, r"allocation_information.*true.*got 'none'"),
        ({"information": "slot"}, r"slot.*TraceWorkload.*got BernoulliWorkload"),
        ({"preset": "lad-ts"}, r"subset.*at most 10.*got 20"),
    ],
)
def test_an_unknown_choice_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        make(MULTI, **options)


def test_a_single_server_environment_has_no_allocation():
    with pytest.raises(TypeError, match="allocate"):
        make(SINGLE, allocate="cwa")


def test_a_trace_must_fit_the_network():
    workload = trace_workload(slot=[0, 0], origin=[0, 5], size=[1.0, 1.0], work=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"origin\[1\].*below.*5.*got 5"):
        make(MULTI, preset="amcoedge", workload=workload)


# --- Actions that name sets in other ways, and scores -------------------------------------


def fractions_of(env, params, state):
    return jax.jit(lambda a: env.step(jax.random.key(1), state, a, params)[5]["fraction"])


def test_local_plus_one_and_top_k_name_the_sets_that_a_mask_names():
    def made(**options):
        env, params = make(MULTI, preset="amcoedge", allocate="hecwa", **options)
        return env, params, env.reset(jax.random.key(0), params)[1]

    env, params, state = made(action="mask")
    of_mask = fractions_of(env, params, state)
    own = int(state.task.origin)
    env, params, state = made(action="local_plus_one")
    assert env.num_actions == env.action_space(params).n == 5
    for other in range(5):
        mask = np.zeros(5, bool)
        mask[[own, other]] = True
        np.testing.assert_array_equal(fractions_of(env, params, state)(other), of_mask(mask))
    env, params, state = made(action="top_k", k=2)
    for pair in ((3, 0), (0, 3), (1, 4)):
        mask = np.zeros(5, bool)
        mask[list(pair)] = True
        np.testing.assert_array_equal(
            fractions_of(env, params, state)(jnp.array(pair)), of_mask(mask)
        )


@pytest.mark.parametrize("allocation", ["true", "seen", "expected", "priced"])
def test_scores_of_zero_are_water_filling_and_others_shift_it(allocation):
    """Against the oracle's water-filling on waits and service times changed by hand."""
    options = {"information": "local", "allocation_information": allocation, "features": "priced"}
    env, params = make(MULTI, preset="amcoedge", action="score", **options)
    _, state = env.reset(jax.random.key(0), params)
    rng = np.random.default_rng(5)
    state = state._replace(
        queues=state.queues.replace(inflight=jnp.asarray(3 * rng.random(5), jnp.float32)),
        sent=jnp.asarray(rng.random(5), jnp.float32),
    )
    queues = state.queues if allocation == "true" else env.view(state, params).queues
    if allocation in ("expected", "priced"):
        queues = queues.replace(inflight=5 * queues.inflight)
    wait = np.asarray(waiting_time(params.network, queues, state.task), np.float64)
    if allocation == "priced":
        charge = env.features(state, params)["charge"] * params.scales.backlog
        assert len(set(np.round(np.asarray(charge, np.float64), 4))) > 1
        wait += charge
    serve = np.asarray(service_time(params.network, state.task), np.float64)
    offset, factor = rng.normal(size=(2, 5))
    for scores, w, s in (
        (np.zeros(10), wait, serve),
        (np.r_[offset, factor], wait + 0.2 * offset, serve * np.exp(factor)),
    ):
        expected = oracle.water_filling(w, s, np.ones(5, bool))
        got = fractions_of(env, params, state)(jnp.asarray(scores, jnp.float32))
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_scores_without_bound_or_meaning_still_give_a_split():
    env, params = make(MULTI, preset="amcoedge", action="score")
    _, state = env.reset(jax.random.key(0), params)
    split = fractions_of(env, params, state)
    for value in (np.nan, np.inf, -np.inf, 1e30):
        for index in range(10):
            fraction = np.asarray(split(np.where(np.arange(10) == index, value, 0)))
            assert (fraction >= 0).all() and fraction.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("allocation", ["true", "seen", "expected"])
@pytest.mark.parametrize("neighbours", [None, 3])
def test_fractions_are_decoded_from_the_scores_that_encode_them(allocation, neighbours):
    """Sparse ones too, whatever is queued; within float32."""
    options = {"information": "local", "allocation_information": allocation}
    env, params = make(MULTI, preset="amcoedge", action="score", neighbours=neighbours, **options)
    _, state = env.reset(jax.random.key(3), params)
    near = (int(state.task.origin) + np.arange(env.num_choices)) % 5
    round_trip = jax.jit(lambda x, state: env.decode(env.encode(x, state, params), state, params))
    rng = np.random.default_rng(8)
    for _ in range(50):
        queued = jnp.asarray(rng.random((3, 5)) * [[5], [9], [1]], jnp.float32)
        state = state._replace(
            queues=state.queues.replace(inflight=queued[0], backlog=queued[1], uplink=queued[2]),
            sent=queued[0] / 2,
        )
        fraction = np.zeros(5)
        chosen = rng.choice(near, size=rng.integers(1, len(near) + 1), replace=False)
        fraction[chosen] = rng.dirichlet(np.ones(len(chosen)))
        np.testing.assert_allclose(round_trip(fraction, state), fraction, atol=2e-5)


def single(**options):
    """An environment of one server a task with queues of some length, and a state of it."""
    env, params = make(SINGLE, preset="lad-ts", information="local", **options)
    _, state = env.reset(jax.random.key(2), params)
    backlog = jnp.asarray(np.random.default_rng(1).uniform(0, 90, 20), jnp.float32)
    return env, params, state._replace(queues=state.queues.replace(backlog=backlog))


def test_the_largest_score_names_the_server():
    env, params, state = single(action="score")
    by_index, _, _ = single()
    scores = np.random.default_rng(2).normal(size=20).astype(np.float32)
    step = jax.jit(env.step)
    for largest in (0, 7, 19):
        scores[largest] = scores.max() + 1
        one = step(jax.random.key(1), state, scores, params)
        other = jax.jit(by_index.step)(jax.random.key(1), state, largest, params)
        assert same(one, other)
    assert env.num_actions == 20 and env.action_space(params).contains(scores)
    for value in (np.nan, np.inf, -np.inf):
        fraction = step(jax.random.key(1), state, np.full(20, value), params)[5]["fraction"]
        assert sorted(np.unique(fraction)) == [0, 1] and np.sum(fraction) == 1


def test_the_gradient_of_one_servers_scores_is_that_of_their_softmax():
    """∂/∂s_j Σ p_i c_i = p_j (c_j − Σ p_i c_i), in the make-span and in the queues."""
    env, params, state = single(action="score")
    scores = jnp.asarray(np.random.default_rng(4).normal(size=20), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(5).normal(size=20), jnp.float32)

    @jax.jit
    def gradients(scores):
        outcome, queues = env.place(scores, state, params)
        return outcome.makespan, queues.inflight @ weight

    wait = np.asarray(waiting_time(params.network, state.queues, state.task), np.float64)
    cost = wait + np.asarray(service_time(params.network, state.task), np.float64)
    p = np.exp(np.asarray(scores, np.float64))
    p /= p.sum()
    for got, of_server in zip(
        jax.jacrev(gradients)(scores),
        (cost, float(state.task.work) * np.asarray(weight)),
        strict=True,
    ):
        np.testing.assert_allclose(got, p * (of_server - p @ of_server), rtol=1e-3, atol=1e-5)


def test_an_outlook_takes_a_history():
    env, params, state = single(features="priced")
    assert float(env.outlook(state, params)) > 0
    env, params, state = single()
    with pytest.raises(ValueError, match=r"features='priced'.*got features='queues'"):
        env.outlook(state, params)


def test_what_a_station_still_has_to_decide_is_seen_where_slots_are_laid_out():
    env, params = make(MULTI, preset="amcoedge", information="slot", laid_out=True)
    state = env.reset(jax.random.key(0), params)[1]
    features = env.features(state, params)
    left = params.workload.remaining(state.cursor)
    assert float(features["remaining_tasks"]) == pytest.approx(float(left.tasks) / 50)
    with pytest.raises(ValueError, match="laid_out=True, got BernoulliWorkload"):
        make(MULTI, preset="amcoedge", information="slot")
    with pytest.raises(ValueError, match="laid_out goes with arrivals 'bernoulli', got 'uniform'"):
        make(SINGLE, preset="lad-ts", laid_out=True)


def test_k_must_be_a_number_of_servers():
    for k in (0, 6, 2.0, "three"):
        with pytest.raises(ValueError, match=rf"k must be a whole number of .*got {k!r}"):
            make(MULTI, preset="amcoedge", action="top_k", k=k)
    assert make(MULTI, preset="amcoedge", action="top_k", k=5)[0].action_space().shape == (5,)


def test_a_fair_step_gives_a_task_to_one_server_drawn_by_capacity():
    """Whatever the action mode, it is the step of that server; no server gets above its share."""
    env, params = make(MULTI, preset="amcoedge", action="mask")
    state = env.reset(jax.random.key(0), params)[1]
    keys = jax.random.split(jax.random.key(1), 3_000)
    steps = jax.vmap(env.fair_step, in_axes=(0, None, None))(keys, state, params)
    fraction = np.asarray(steps[-1]["fraction"])
    assert set(np.unique(fraction)) == {0.0, 1.0}
    np.testing.assert_array_equal(fraction.sum(axis=1), 1)
    share = np.array([10, 20, 30, 40, 50]) / 150
    error = 4 * np.sqrt(share * (1 - share) / 3_000)
    assert (np.abs(fraction.mean(axis=0) - share) < error).all()
    key = jax.random.split(keys[0])[1]  # what the step draws from, after the server
    played = env.step(key, state, fraction[0] > 0, params)
    for got, expected in zip(jax.tree.leaves(steps), jax.tree.leaves(played), strict=True):
        np.testing.assert_array_equal(got[0], expected)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        (MULTI, {"preset": "amcoedge", "action": "mask"}),
        (SINGLE, {"preset": "lad-ts", "slots": 6}),
        (SINGLE, {"preset": "fdedge", "slots": 20}),
    ],
)
def test_episodes_are_as_long_as_expected(env_id, options):
    env, params = make(env_id, **options)

    def length(key):
        def one(carry):
            key, state, steps, _ = carry
            key, own = jax.random.split(key)
            state, over = (env.fair_step(own, state, params)[i] for i in (1, 4))
            return key, state, steps + 1, over

        first = (key, env.reset(key, params)[1], 0, jnp.zeros((), bool))
        return jax.lax.while_loop(lambda carry: ~carry[3], one, first)[2]

    lengths = np.asarray(jax.jit(jax.vmap(length))(jax.random.split(jax.random.key(2), 200)))
    error = 4 * lengths.std() / np.sqrt(200)
    assert lengths.mean() == pytest.approx(float(env.expected_steps(params)), abs=error)


def test_what_an_observation_is_made_of():
    def made_of(features, information="slot_start"):
        env, _ = make(MULTI, features=features, information=information)
        return [name for name, _ in env.feature_layout()]

    queues = ["size", "work", "result", "origin", "backlog"]
    times, expected = ["wait", "serve", "compute"], ["wait", "serve", "compute", "alike"]
    own = ["inflight", "uplink", "progress"]
    assert made_of("published") == ["size", "origin", "backlog"]
    assert made_of("queues") == queues
    assert made_of("times") == queues + times
    assert made_of("expected") == queues + expected
    assert made_of("priced", "local") == [*queues, *own, *expected, "charge"]
    with pytest.raises(ValueError, match="'priced' take what a station has done itself"):
        made_of("priced")
    env, params = make(SINGLE, preset="fdedge", features="published", show_place=True)
    layout = env.feature_layout(params)
    assert layout == (("size", 1), ("work", 1), ("origin", 10), ("backlog", 10), ("place", 1))
    with pytest.raises(ValueError, match="features must be one of raw, published, queues"):
        make(MULTI, features="everything")


def test_times_follow_from_what_is_seen_alone():
    """The waits of the observation are those of the view, in the preset's unit."""
    env, params = make(MULTI, preset="amcoedge", information="local", features="expected")
    _, state = env.reset(jax.random.key(0), params)
    hidden = state._replace(
        queues=state.queues.replace(inflight=jnp.arange(5.0)), sent=jnp.full(5, 2.0)
    )
    features = env.features(hidden, params)
    own = np.arange(5) == int(state.task.origin)
    capacity = np.asarray(params.network.capacity)
    np.testing.assert_allclose(features["wait"], 2.0 / capacity / 0.2, rtol=1e-6)
    work, size = float(state.task.work), float(state.task.size)
    serve = np.where(own, 0, size / np.asarray(params.network.rate)) + work / capacity
    np.testing.assert_allclose(features["serve"], serve / 0.2, rtol=1e-5)
    np.testing.assert_allclose(features["alike"], 5 * 2.0 / capacity / 0.2, rtol=1e-6)


MASTER_NODE = {
    "preset": "fdedge",
    "information": "local",
    "slots": 4,
    "positions": 6,
    "capacity": (2.0, 3.0, 5.0),
    "rate": (400.0, 450.0, 500.0),
}


def test_a_master_node_counts_its_own_work_once():
    """By hand: nothing is queued but what it has sent itself, 5 Gcycles at f = 10: 0.5 s."""
    options = {**MASTER_NODE, "capacity": [10.0] * 10, "rate": [500.0] * 10}
    env, params = make(SINGLE, features="expected", **options)
    assert params.stations == 1 and make(SINGLE, preset="lad-ts")[1].stations == 20
    _, state = env.reset(jax.random.key(0), params)
    sent = jnp.full(10, 5.0)
    state = state._replace(queues=state.queues.replace(inflight=sent), sent=sent)
    np.testing.assert_allclose(env.features(state, params)["alike"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("allocation", ["expected", "priced"])
@pytest.mark.parametrize("stations", [1, 3])
def test_what_all_stations_would_do_is_what_the_oracle_says(allocation, stations):
    """Over a whole episode: features, fractions and charges, at a master node and at B stations."""
    with jax.enable_x64(True):
        env, params = make(
            MULTI,
            features="priced",
            action="score",
            allocation_information=allocation,
            master=stations == 1,
            **MASTER_NODE,
        )
        assert params.stations == stations
        scores = np.random.default_rng(3).normal(0, 0.2, (200, 6)) * [1, 1, 1, 0, 0, 0]
        rows = episode(env, params, scores)
        tasks, work, _ = (float(moment) for moment in params.workload.moments())
        names = env.feature_names(params)
    network = oracle.Network(MASTER_NODE["capacity"], MASTER_NODE["rate"], 1.0, False)
    records = oracle.play(
        network, rows.info["slot"], oracle_tasks(rows), rows.info["fraction"], fractions=True
    )
    unit = float(params.scales.backlog)
    for row, record in enumerate(records):
        seen = dict(zip(names, rows.observation[row], strict=True))
        queued = oracle.alike(record.before, record.sent, stations)
        price = oracle.prices(
            network,
            queued,
            record.history,
            stations=stations,
            tasks=tasks,
            work=work,
            elapsed=record.slot + seen["progress"],
            slots=4,
        )
        charge = record.task.work * price
        for i, f in enumerate(network.capacity):
            assert seen[f"alike[{i}]"] == pytest.approx(queued[i] / f / unit, rel=1e-9)
            assert seen[f"charge[{i}]"] == pytest.approx(charge[i] / unit, rel=1e-6)
        wait = queued / np.array(network.capacity) + (charge if allocation == "priced" else 0)
        offset = scores[row, :3] * float(params.scales.slot)
        fraction = oracle.water_filling(
            wait + offset, oracle.serves(network, record.task), np.ones(3, bool)
        )
        np.testing.assert_allclose(rows.info["fraction"][row], fraction, atol=1e-6)
    assert max(record.history[0].max() for record in records) > 5
    assert any(record.before.backlog.any() for record in records)


def test_a_trace_of_a_master_node_has_one_station():
    """Recorded and played again: places and turns count from 0, its own history counts once."""
    with jax.enable_x64(True):
        env, params = make(SINGLE, **MASTER_NODE)
        recorded = episode(env, params, np.arange(200) % 3)
        trace = as_trace(recorded, slots=4)
        options = {**MASTER_NODE, "features": "priced", "show_place": True}
        env, params = make(SINGLE, workload=trace, **options)
        assert params.stations == 1
        rows = episode(env, params, np.arange(200) % 3)
        names = env.feature_names(params)
    network = oracle.Network(MASTER_NODE["capacity"], MASTER_NODE["rate"], 1.0, False)
    np.testing.assert_array_equal(rows.task.work, recorded.task.work)
    tasks = oracle_tasks(rows)
    count = len(tasks)
    slots = rows.info["slot"]
    most = np.bincount(slots).max()
    records = oracle.play(network, slots, tasks, np.eye(3, dtype=bool)[np.arange(count) % 3])
    for row, record in enumerate(records):
        seen = dict(zip(names, rows.observation[row], strict=True))
        position = row - np.searchsorted(slots, record.slot)
        assert seen["place"] == record.slot * 3 * most + position
        queued = oracle.alike(record.before, record.sent, stations=1)
        price = oracle.prices(
            network,
            queued,
            record.history,
            stations=1,
            tasks=count / 4,
            work=np.mean([task.work for task in tasks]),
            elapsed=record.slot + position / most,
            slots=4,
        )
        for i in range(3):
            charge = record.task.work * price[i] / float(params.scales.backlog)
            assert seen[f"charge[{i}]"] == pytest.approx(charge, rel=1e-6)
    with pytest.raises(ValueError, match="neighbours must be None where a master node"):
        make(SINGLE, workload=trace, **MASTER_NODE, neighbours=2)


def test_the_place_numbers_the_positions_of_an_episode():
    env, params = make(SINGLE, preset="lad-ts", show_place=True, slots=3)
    observation, state = env.reset(jax.random.key(2), params)
    step = jax.jit(lambda key, state: env.step(key, state, 0, params))
    seen = []
    for key in jax.random.split(jax.random.key(3), 400):
        cursor = state.cursor
        place = (int(cursor.slot) * 20 + int(cursor.station)) * 50 + int(cursor.position)
        assert observation[-1] == place
        seen.append(place)
        observation, state, *_ = step(key, state)
    assert seen == sorted(set(seen))
    with pytest.raises(ValueError, match="show_place counts at most"):
        make(SINGLE, preset="lad-ts", show_place=True, slots=100_000)


def test_the_price_is_by_the_own_history_and_nobody_elses():
    env, params = make(SINGLE, preset="lad-ts", information="local", features="priced")
    _, state = env.reset(jax.random.key(0), params)
    # With queues everywhere, for a price of nothing is nothing whatever the history.
    queues = state.queues.replace(backlog=jnp.full(20, 50.0))
    state = state._replace(queues=queues)
    own = np.arange(20) == int(state.task.origin)
    observe = jax.jit(lambda state: env.observe_state(state, params))

    def after(rows):
        more = jax.tree.map(lambda sent: sent + 3.0 * rows[:, None], state.history)
        return np.asarray(observe(state._replace(history=more)))

    np.testing.assert_array_equal(after(~own), observe(state))
    assert np.any(after(own) != observe(state))


def test_a_decision_is_charged_for_the_delay_that_it_will_cause():
    """By hand: B = 2, f = (1, 3), two tasks of work 2 expected a slot, T = 4."""
    env, params = make(
        SINGLE,
        preset="fdedge",
        reward="charged",
        capacity=(1.0, 3.0),
        rate=(100.0, 100.0),
        master=False,
        slots=4,
        positions=1,
        size=(2.0, 2.0),
        density=(1.0, 1.0),
        backlog_scale=2.0,
    )
    assert tuple(map(float, params.workload.moments())) == (2.0, 2.0, 4.0)
    _, state = env.reset(jax.random.key(0), params)
    cursor = state.cursor._replace(slot=jnp.asarray(1), station=jnp.asarray(1))
    backlog = jnp.array([3.0, 0.0])
    state = state._replace(
        cursor=cursor,
        queues=state.queues.replace(backlog=backlog),
        history=state.history._replace(
            tasks=jnp.array([[1.0, 0.0], [0.0, 2.0]]), work=jnp.array([[2.0, 0.0], [0.0, 4.0]])
        ),
    )
    # Elapsed: 1 slot and one of two stations. A slot sends 1 + 2/4 and 2 + 6/4 tasks over
    # 2.5 slots: 0.6 and 1.4 tasks, 1.2 and 2.8 Gcycles. Server 0 gains 0.2 a slot and never
    # drains, so 2.5 slots are left; server 1 drains 2 Gcycles at 0.2 a slot: 2.5 are left too.
    for server, caused in ((0, 2 / 1 * 0.6 * 2.5), (1, 2 / 3 * 1.4 * 2.5)):
        step = jax.jit(lambda state, a: env.step(jax.random.key(1), state, a, params))
        _, after, reward, _, _, info = step(state, server)
        own = float(info["makespan"])
        assert float(reward) == pytest.approx(-(own + caused) / 2.0, rel=1e-5)
        tasks = np.array([[1.0, 0.0], [0.0, 2.0]])
        tasks[int(state.task.origin), server] += 1
        np.testing.assert_allclose(after.history.tasks, tasks)
        np.testing.assert_allclose(after.history.work, 2 * tasks)


def test_charging_changes_the_reward_and_nothing_else():
    actions = np.arange(2000) % 20
    runs = []
    for reward in ("own", "charged"):
        env, params = make(SINGLE, preset="lad-ts", slots=2, reward=reward)
        runs.append(episode(env, params, actions))
    own, charged = runs
    np.testing.assert_array_equal(own.info["makespan"], charged.info["makespan"])
    np.testing.assert_array_equal(own.observation, charged.observation)
    assert (5.0 * charged.reward <= own.reward + 1e-5).all()
    assert (5.0 * charged.reward < own.reward - 0.1).any()
    with pytest.raises(ValueError, match="reward must be one of own, charged, got 'shared'"):
        make(SINGLE, reward="shared")


def near_and_far(origin, m=3, **options):
    """An environment of 6 servers with m neighbours, the same with all, and a state of both."""
    kind = options.pop("env", MULTI)
    setting = {
        "preset": "amcoedge-6",
        "information": "local",
        "features": "times",
        **({"allocation_information": "seen"} if kind == MULTI else {}),
        **options,
    }
    near, params = make(kind, neighbours=m, **setting)
    if setting.get("action") == "top_k":
        setting["k"] = near.k
    far, _ = make(kind, **setting)
    rng = np.random.default_rng(origin)
    _, state = far.reset(jax.random.key(1), params)
    draw = jnp.asarray(rng.random((4, 6)), jnp.float32)
    return (
        near,
        far,
        params,
        state._replace(
            queues=state.queues.replace(
                backlog=draw[0], inflight=draw[1] + draw[3], uplink=draw[2]
            ),
            sent=draw[3],
            task=state.task._replace(origin=jnp.asarray(origin)),
        ),
    )


@pytest.mark.parametrize("origin", [0, 3, 5])
def test_neighbours_are_seen_in_their_order_and_nobody_else(origin):
    near, far, params, state = near_and_far(origin)
    order = [(origin + i) % 6 for i in range(3)]
    all_of_them = far.features(state, params)
    ours = near.features(state, params)
    assert list(ours) == [name for name in all_of_them if name != "origin"]
    for name, value in ours.items():
        expected = all_of_them[name]
        np.testing.assert_array_equal(
            value, expected[jnp.array(order)] if expected.ndim else expected
        )
    assert dict(near.feature_layout(params))["wait"] == 3


@pytest.mark.parametrize("origin", [0, 3, 5])
def test_actions_name_neighbours_counted_from_the_own_server(origin):
    order = [(origin + i) % 6 for i in range(3)]
    near, far, params, state = near_and_far(origin, action="mask")

    def split(env, action):
        return env.place(action, state, params)[0].fraction

    chosen = np.zeros(6, bool)
    chosen[[order[0], order[2]]] = True
    expected = split(far, chosen)
    np.testing.assert_array_equal(split(near, np.array([True, False, True])), expected)
    for mode, action in (("subset", 0b101 - 1), ("top_k", [2, 0]), ("local_plus_one", 2)):
        env = near_and_far(origin, action=mode, k=2)[0]
        np.testing.assert_array_equal(split(env, jnp.asarray(action)), expected)
    env = near_and_far(origin, action="fraction")[0]
    shares = np.array([0.5, 0.2, 0.3])
    np.testing.assert_allclose(split(env, shares)[np.array(order)], shares, rtol=1e-6)
    # Scores: water-filling among the neighbours, by what is seen.
    env = near_and_far(origin, action="score")[0]
    everyone = np.zeros(6, bool)
    everyone[order] = True
    water = near_and_far(origin, action="mask", allocate="water_filling")[1]
    np.testing.assert_allclose(split(env, np.zeros(6)), split(water, everyone), rtol=1e-6)
    tilted = split(env, np.array([0, 9, 9, 0, 0, 0.0]))
    np.testing.assert_allclose(tilted, np.eye(6)[order[0]])
    one, _, params, state = near_and_far(origin, env=SINGLE, preset="amcoedge-6")
    np.testing.assert_array_equal(split(one, 2), np.eye(6)[order[2]])


def test_the_gradient_of_scores_is_that_of_the_neighbours_alone():
    """The jumps of servers that cannot enter the set do not count."""
    near, _, params, state = near_and_far(4, action="score", entry_gradient=2.0)
    alone, small = make(
        MULTI, preset="amcoedge-6", capacity=tuple(np.asarray(params.network.capacity)[[4, 5, 0]]),
        rate=tuple(np.asarray(params.network.rate)[[4, 5, 0]]),
        action="score", information="local", features="times", allocation_information="seen",
        entry_gradient=2.0,
    )  # fmt: skip
    order = jnp.array([4, 5, 0])
    inflight = state.queues.inflight + jnp.array([9.0, 9.0, 9.0, 9.0, 0.0, 9.0])  # others', unseen
    queues = state.queues.replace(inflight=inflight, uplink=0.05 * state.queues.uplink)
    state = state._replace(queues=queues)
    lone = state._replace(
        queues=jax.tree.map(lambda q: q[order], state.queues),
        sent=state.sent[order],
        task=state.task._replace(origin=jnp.asarray(0)),
    )
    scores = jnp.asarray([0.1, 0.3, 0.3, 0.2, 0.0, -0.1])

    def slope(env, params, state):
        return jax.grad(lambda s: env.place(s, state, params)[0].makespan)(scores)

    expected = slope(alone, small, lone)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(slope(near, params, state), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0, 7, 2.0, True, "all"])
def test_neighbours_must_be_a_number_of_servers(value):
    with pytest.raises(ValueError, match=rf"neighbours must be .*, got {value!r}"):
        make(MULTI, preset="amcoedge-6", neighbours=value)


def test_a_master_node_has_no_neighbours():
    with pytest.raises(ValueError, match="neighbours must be None where a master node"):
        make(MULTI, preset="fdedge", neighbours=2)


def test_neighbours_let_any_network_have_subsets():
    env, params = make(MULTI, preset="amcoedge-64", neighbours=5, information="local")
    assert env.num_actions == 31
    _, state = env.reset(jax.random.key(0), params)
    observation, *_ = jax.jit(env.step)(jax.random.key(1), state, jnp.asarray(30), params)
    assert observation.shape == env.observation_space(params).shape
