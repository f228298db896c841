"""The published settings, number by number, and what `make` accepts and refuses."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxmec.envs import PRESETS, Preset, make
from jaxmec.mec import BernoulliWorkload, UniformCountWorkload

SINGLE, MULTI = "SingleServerOffloading-v0", "MultiServerOffloading-v0"
INF = float("inf")
F20 = [50, 25, 18, 32, 28, 21, 50, 17, 44, 41, 21, 31, 41, 36, 30, 47, 49, 13, 48, 14]
R20 = [499, 478, 461, 416, 473, 408, 500, 462, 427, 430]
R20 += [480, 407, 476, 415, 453, 480, 427, 444, 477, 475]

NUMBERS = {  # f, r, Δ, T, N, stations, d, deadline, penalty, max_wait, uplink, its cap
    "amcoedge": (
        [10, 20, 30, 40, 50], [400, 425, 450, 475, 500], 1.0, 60, 50, 5, (2, 5),
        1.0, 10, INF, True, 1.0,
    ),
    "smcoedge": (
        [10, 20, 30, 40, 50], [500, 425, 450, 400, 475], 0.1, 100, 50, 5, (10, 40),
        1.0, 2, 1.0, True, INF,
    ),
    "lad-ts": (F20, R20, 1.0, 59, 50, 20, (2, 5), INF, None, INF, False, None),
    "fdedge": (F20[:10], R20[:10], 1.0, 99, 100, 1, (10, 40), INF, None, INF, False, None),
}  # fmt: skip
DENSITY = {  # Gcycles/Mbit
    "amcoedge": (1.024e-3 * 100, 1.024e-3 * 300),
    "smcoedge": (3e-5 * 100, 3e-5 * 300),
    "fdedge": (0.1024, 0.3072),
}
ARRIVALS = {
    "amcoedge": BernoulliWorkload,
    "smcoedge": BernoulliWorkload,
    "lad-ts": UniformCountWorkload,
    "fdedge": UniformCountWorkload,
}
PRESET_NAMES = tuple(NUMBERS)


def of(preset: str, seed: int = 0, **options):
    """Environment and parameters of a preset's own problem."""
    env_id = SINGLE if preset in ("lad-ts", "fdedge") else MULTI
    if env_id == MULTI:
        options = {"action": "mask", **options}
    return make(env_id, preset=preset, seed=seed, **options)


def test_the_published_network_of_lad_ts():
    assert len(F20) == len(R20) == 20 and sum(F20) == 656


def test_the_presets_are_the_published_four():
    assert set(PRESETS) == set(PRESET_NAMES)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_the_numbers_are_the_published_ones(preset):
    f, r, slot, slots, positions, stations, size, deadline, penalty, wait, uplink, cap = NUMBERS[
        preset
    ]
    _, params = of(preset)
    network, workload = params.network, params.workload
    np.testing.assert_array_equal(network.capacity, np.float32(f))
    np.testing.assert_array_equal(network.rate, np.float32(r))
    assert float(network.slot_length) == np.float32(slot)
    assert float(network.max_wait) == wait
    assert network.uplink_contention is uplink
    if uplink:
        assert float(network.uplink_cap) == cap
    assert isinstance(workload, ARRIVALS[preset])
    assert int(workload.slots) == slots
    assert workload.positions == positions
    assert workload.stations == stations
    assert workload.master is (preset == "fdedge")
    assert (float(workload.sizes.size_low), float(workload.sizes.size_high)) == size
    assert float(params.deadline) == deadline
    if penalty is not None:
        assert float(params.penalty) == penalty
    if ARRIVALS[preset] is BernoulliWorkload:
        assert float(workload.probability) == np.float32(0.3)
    assert PRESETS[preset].discount == (0.9 if preset.endswith("coedge") else 0.95)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_works_and_results_lie_in_their_ranges_and_fill_them(preset):
    """10,000 positions, drawn as the preset draws its N."""
    _, params = of(preset, positions=10_000)
    sizes = params.workload.sizes
    density, fixed, result = (
        np.asarray(v) for v in (sizes.density, sizes.fixed_work, sizes.result)
    )

    def fills(values, low, high):
        assert np.all((values >= low * (1 - 1e-6)) & (values <= high * (1 + 1e-6)))
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12e4)
        quartiles = np.quantile(values, [0.25, 0.75])
        expected = low + (high - low) * np.array([0.25, 0.75])
        np.testing.assert_allclose(quartiles, expected, atol=0.03 * (high - low))

    if preset == "lad-ts":
        assert not np.any(density)
        fills(result, 0.6, 1.0)
        # c = κ z: every quality 1..14 occurs, and κ = c/z is uniform whatever z.
        assert fixed.min() >= 0.1024 * (1 - 1e-6) and fixed.max() <= 14 * 0.3072 * (1 + 1e-6)
        assert abs(fixed.mean() - 7.5 * 0.2048) < 5 * fixed.std() / 100
        variance = (0.2048**2 + 0.2048**2 / 12) * (7.5**2 + 195 / 12) - (7.5 * 0.2048) ** 2
        assert fixed.var() == pytest.approx(variance, rel=0.08)
        # The published code seeds three draws alike, so that these correlate perfectly.
        assert abs(np.corrcoef(fixed, result)[0, 1]) < 0.05
    else:
        assert not np.any(fixed) and not np.any(result)
        fills(density, *DENSITY[preset])


def test_the_qualities_of_lad_ts_are_whole_numbers_of_steps():
    """With one work a step, κ = 0.2, the works are multiples of it: 1 to 14, all equally often."""
    _, params = of("lad-ts", positions=7000, step_work=(0.2, 0.2))
    steps = np.asarray(params.workload.sizes.fixed_work) / 0.2
    np.testing.assert_allclose(steps, np.round(steps), rtol=1e-5)
    counts = np.bincount(np.round(steps).astype(int), minlength=15)
    assert counts[0] == 0 and len(counts) == 15
    assert np.sum((counts[1:] - 500) ** 2 / 500) < 13 + 5 * np.sqrt(26)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_the_seed_draws_the_positions_and_nothing_else(preset):
    (_, one), (_, again), (_, other) = (of(preset, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)

    def drawn(params):
        sizes = params.workload.sizes
        return np.concatenate([sizes.density, sizes.fixed_work, sizes.result])

    assert not np.array_equal(drawn(one), drawn(other))
    for a, b in zip(jax.tree.leaves(one.network), jax.tree.leaves(other.network), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_tasks_follow_their_positions_at_every_station_and_slot(preset):
    """Arrivals, sizes and works as an environment hands them out, five sigma wide."""
    env, params = of(preset)
    sizes, workload = params.workload.sizes, params.workload
    servers = params.network.num_servers
    action = np.ones(servers, bool) if env.name == MULTI else 0

    @jax.jit
    def run(key):
        state = env.reset(key, params)[1]

        def step(state, index):
            out = env.step(jax.random.fold_in(key, index), state, action, params)
            return out[1], (state.task, state.cursor)

        return jax.lax.scan(step, state, np.arange(10_000))[1]

    task, cursor = jax.device_get(run(jax.random.key(0)))
    n = cursor.position
    work = np.asarray(sizes.density)[n] * task.size + np.asarray(sizes.fixed_work)[n]
    np.testing.assert_allclose(task.work, work, rtol=1e-6)
    np.testing.assert_array_equal(task.result, np.asarray(sizes.result)[n])
    low, high = NUMBERS[preset][6]
    assert np.all((task.size >= low) & (task.size <= high))
    assert abs(task.size.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12e4)
    stations = 1 if preset == "fdedge" else servers
    expected_origins = {-1} if preset == "fdedge" else set(range(servers))
    assert set(task.origin.tolist()) == expected_origins
    slots = np.sum(np.diff(cursor.slot) != 0) + 1
    per_slot = stations * (0.3 * 50 if preset.endswith("coedge") else (1 + workload.positions) / 2)
    spread = 0.25 if preset.endswith("coedge") else 0.6  # relative, of one station's count
    assert len(n) / slots == pytest.approx(
        per_slot, rel=5 * spread / np.sqrt(slots * stations) + 1 / slots
    )


# --- Overrides ---------------------------------------------------------------------------

OVERRIDES = {  # field: changes of amcoedge, where to read it, what must be read
    "capacity": ((10, 15, 20, 25, 30), lambda p: p.network.capacity),
    "rate": ((100, 200, 300, 400, 450), lambda p: p.network.rate),
    "slot_length": (0.5, lambda p: p.network.slot_length),
    "slots": (7, lambda p: p.workload.slots),
    "positions": (11, lambda p: p.workload.positions),
    "size": ((1, 2), lambda p: (p.workload.sizes.size_low, p.workload.sizes.size_high)),
    "probability": (0.75, lambda p: p.workload.probability),
    "master": (True, lambda p: p.workload.master),
    "laid_out": (True, lambda p: p.workload.laid_out),
    "density": ((0.5, 0.5), lambda p: np.unique(p.workload.sizes.density).repeat(2)),
    "result": ((0.25, 0.25), lambda p: np.unique(p.workload.sizes.result).repeat(2)),
    "deadline": (0.25, lambda p: p.deadline),
    "penalty": (3.0, lambda p: p.penalty),
    "max_wait": (2.0, lambda p: p.network.max_wait),
    "uplink_contention": (False, lambda p: p.network.uplink_contention),
    "uplink_cap": (0.5, lambda p: p.network.uplink_cap),
    "backlog_scale": (4.0, lambda p: p.scales.backlog),
    "slot_scale": (4.0, lambda p: p.scales.slot),
}
ELSEWHERE = {"problem", "discount", "arrivals", "step_work", "quality"}


def test_every_field_is_overridden_here():
    assert set(OVERRIDES) | ELSEWHERE == {field.name for field in dataclasses.fields(Preset)}


@pytest.mark.parametrize("field", OVERRIDES)
def test_a_field_can_be_overridden(field):
    value, read = OVERRIDES[field]
    assert not np.array_equal(np.float32(read(of("amcoedge")[1])), np.float32(value))
    _, params = of("amcoedge", **{field: value})
    np.testing.assert_array_equal(np.float32(read(params)), np.float32(value))


def test_the_other_fields_can_be_overridden_too():
    _, params = of("amcoedge", arrivals="uniform")
    assert isinstance(params.workload, UniformCountWorkload)
    _, params = of("lad-ts", step_work=(0.5, 0.5), quality=(3, 3))
    np.testing.assert_array_equal(params.workload.sizes.fixed_work, np.full(50, 1.5))
    of("amcoedge", problem="single", discount=0.5)  # for learners and lists, not the physics


def test_lists_and_arrays_are_as_good_as_tuples():
    for kind in (list, np.array):
        _, params = of("amcoedge", capacity=kind([10, 30, 50, 70, 90]), size=kind([1.0, 2.0]))
        np.testing.assert_array_equal(params.network.capacity, [10, 30, 50, 70, 90])


def test_another_number_of_servers():
    env, params = of("amcoedge", capacity=(10, 20), rate=(400, 500))
    assert env.num_servers == params.workload.stations == 2


def test_limits_tied_to_another_field_follow_it():
    """smcoedge's waits are capped by the deadline, amcoedge's uplink by Δ, whatever they are:
    the deadlines of 0.1 to 1.0 s are swept in the publications."""
    _, params = of("smcoedge", deadline=0.5)
    assert float(params.network.max_wait) == 0.5
    _, params = of("amcoedge", slot_length=0.5)
    assert float(params.network.uplink_cap) == 0.5
    # Named, they are what they are named.
    _, params = of("smcoedge", deadline=0.5, max_wait=0.75)
    assert float(params.network.max_wait) == 0.75
    _, params = of("amcoedge", slot_length=0.5, uplink_cap=0.25)
    assert float(params.network.uplink_cap) == 0.25
    # amcoedge caps no wait, smcoedge no uplink.
    assert float(of("amcoedge", deadline=0.5)[1].network.max_wait) == INF
    assert float(of("smcoedge", slot_length=0.5)[1].network.uplink_cap) == INF


@pytest.mark.parametrize("deadline", [0.1, 1.0])
@pytest.mark.parametrize("capacity", [(10, 15, 20, 25, 30), (10, 25, 40, 55, 70)])
@pytest.mark.parametrize("arrivals", [{"probability": 1.0}, {"positions": 10}, {"positions": 100}])
def test_the_published_sweeps_can_be_set(deadline, capacity, arrivals):
    _, params = of("amcoedge", deadline=deadline, capacity=capacity, **arrivals)
    assert float(params.deadline) == np.float32(deadline)


# --- What is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": (10, 20, -30, 40, 50)}, r"capacity\[2\].*above 0.*got -30"),
        ({"capacity": (10, 20, 0, 40, 50)}, r"capacity\[2\].*above 0.*got 0"),
        ({"capacity": (10, 20, float("nan"), 40, 50)}, r"capacity\[2\].*number.*got nan"),
        ({"capacity": (10, 20)}, r"rate.*\(2,\).*\(5,\)"),
        ({"capacity": (), "rate": ()}, r"capacity.*at least one server"),
        ({"capacity": ((10, 20), (30, 40))}, r"capacity.*vector.*\(2, 2\)"),
        ({"capacity": 10.0}, r"capacity.*vector"),
        ({"rate": (400, 0, 450, 475, 500)}, r"rate\[1\].*above 0.*got 0"),
        ({"slot_length": -1.0}, r"slot_length.*above 0.*got -1"),
        ({"slots": 0}, r"slots.*whole number.*got 0"),
        ({"slots": 2.5}, r"slots.*whole number.*got 2\.5"),
        ({"positions": 0}, r"positions.*whole number.*got 0"),
        ({"probability": 1.1}, r"probability.*at most 1.*got 1\.1"),
        ({"probability": -0.1}, r"probability.*at least 0.*got -0\.1"),
        ({"probability": float("nan")}, r"probability.*number.*got nan"),
        ({"probability": "often"}, r"probability.*number.*'often'"),
        ({"size": (5, 2)}, r"size.*range.*\(5, 2\)"),
        ({"size": (-1, 2)}, r"size.*range.*\(-1, 2\)"),
        ({"size": (float("nan"), 2)}, r"size.*range.*nan"),
        ({"size": 3.0}, r"size.*range.*3\.0"),
        ({"density": (0.0, 0.0)}, r"density.*work.*0"),
        ({"density": None}, r"density.*step_work.*None"),
        ({"quality": (1, 3)}, r"quality.*\(1, 3\)"),
        ({"result": (1.0, 0.5)}, r"result.*range.*\(1\.0, 0\.5\)"),
        ({"deadline": 0.0}, r"deadline.*above 0.*got 0"),
        ({"deadline": -1.0}, r"deadline.*above 0.*got -1"),
        ({"penalty": -1.0}, r"penalty.*at least 0.*got -1"),
        ({"max_wait": -1.0}, r"max_wait.*at least 0.*got -1"),
        ({"uplink_cap": float("nan")}, r"uplink_cap.*number.*got nan"),
        ({"uplink_contention": "yes"}, r"uplink_contention.*True or False.*'yes'"),
        ({"master": "yes"}, r"master.*True or False.*'yes'"),
        ({"backlog_scale": 0.0}, r"backlog.*above 0.*got 0"),
        ({"arrivals": "poisson"}, r"arrivals.*bernoulli.*'poisson'"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_field_value_and_expectation(changes, message):
    with pytest.raises(ValueError, match=message):
        make(MULTI, preset="amcoedge", **changes)


def test_uniform_arrivals_refuse_a_wrong_probability_too():
    """Unused there, and still not a probability."""
    with pytest.raises(ValueError, match=r"probability.*1\.5"):
        make(SINGLE, preset="lad-ts", probability=1.5)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("amcoedg", "amcoedge"), ("lad_ts", "lad-ts"), ("AMCoEdge", "amcoedge"), ("fdege", "fdedge")],
)
def test_an_unknown_preset_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"{name}.*did you mean '{nearest}'"):
        make(MULTI, preset=name)


def test_an_unknown_preset_like_no_other_lists_them():
    with pytest.raises(ValueError, match="amcoedge, smcoedge, lad-ts, fdedge"):
        make(MULTI, preset="x")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MultiServerOfloading-v0", "MultiServerOffloading-v0"),
        ("SingleServerOffloading", "SingleServerOffloading-v0"),
        ("CartPole", "CartPole-v1"),
    ],
)
def test_an_unknown_environment_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"{name}.*did you mean '{nearest}'"):
        make(name)


def test_an_unknown_field_suggests_the_nearest():
    with pytest.raises(TypeError, match=r"capacities.*did you mean 'capacity'"):
        make(MULTI, preset="amcoedge", capacities=(1, 2))


def test_a_preset_is_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["amcoedge"].slots = 3
    before = dataclasses.replace(PRESETS["amcoedge"])
    make(MULTI, preset="amcoedge", slots=3)
    assert PRESETS["amcoedge"] == before


@pytest.mark.parametrize(("servers", "load"), [(5, 0.35840), (20, 0.35840), (64, 0.36217)])
def test_a_preset_on_more_servers_keeps_its_load(servers, load):
    _, params = make(MULTI, preset=f"amcoedge-{servers}", action="mask")
    capacity, rate = np.asarray(params.network.capacity), np.asarray(params.network.rate)
    np.testing.assert_array_equal(capacity, [10 * (i % 5 + 1) for i in range(servers)])
    np.testing.assert_array_equal(rate, [400 + 25 * (i % 5) for i in range(servers)])
    mean_work = 3.5 * 0.2048  # of the distribution that densities are drawn from
    assert float(params.workload.moments().tasks) == pytest.approx(15 * servers)
    assert 15 * servers * mean_work / capacity.sum() == pytest.approx(load, abs=1e-5)


def test_scaling_refuses_what_would_change_the_load():
    with pytest.raises(ValueError, match="master must be False"):
        make(SINGLE, preset="fdedge-20")
    with pytest.raises(ValueError, match="servers must be a whole number of at least 1, got 0"):
        make(MULTI, preset="amcoedge-0")
    with pytest.raises(ValueError, match="amcoedg-20"):
        make(MULTI, preset="amcoedg-20")
