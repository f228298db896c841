"""The schedulers that do not learn: what they choose, and that they know no more than they may."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxmec
from jaxmec.envs.offloading import INFORMATION, View
from jaxmec.mec import QueueState, Task, offload, water_filling
from jaxmec.mec.offload import service_time, waiting_time
from jaxmec.schedulers import SCHEDULERS, find_scheduler
from jaxmec.schedulers.static import best_sets

MULTI = "MultiServerOffloading-v0"


def _view(key, env, origin=0, queues=None):
    servers = env.num_servers
    numbers = jax.random.uniform(key, (3, servers))
    queues = queues or QueueState(
        backlog=5 * numbers[0], inflight=5 * numbers[1], uplink=0.2 * numbers[2]
    )
    return View(Task(origin, 3.0, 0.6, 0.0), queues, jnp.zeros(()), None, jnp.zeros((), jnp.int32))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("env_id", "preset"), [(MULTI, "amcoedge"), ("SingleServerOffloading-v0", "fdedge")]
)
def test_every_scheduler_selects_a_valid_set_under_jit(name, env_id, preset):
    scheduler = SCHEDULERS[name]
    if scheduler.problem == "multi" and env_id != MULTI:
        pytest.skip("selects sets")
    env, params = jaxmec.make(env_id, preset=preset, information="full")

    @jax.jit
    @jax.vmap
    def decide(key):
        view = _view(key, env, origin=-1 if preset == "fdedge" else 2)
        return scheduler.decide(params, view, scheduler.init_memory(params), key)[0]

    selected = np.asarray(decide(jax.random.split(jax.random.key(0), 64)))
    assert selected.shape == (64, env.num_servers) and selected.dtype == bool
    count = selected.sum(axis=1)
    assert (count == 1).all() if scheduler.problem == "single" else (count >= 1).all()


@pytest.mark.parametrize(
    "name", [name for name, rule in SCHEDULERS.items() if rule.information == "slot_start"]
)
def test_a_scheduler_of_slot_start_information_cannot_tell_what_it_may_not_see(name):
    """States that differ only in what is hidden give the same decision."""
    scheduler = SCHEDULERS[name]
    env, params = jaxmec.make(
        MULTI, action="mask", allocate=scheduler.allocate, allocation_information="seen"
    )
    _, state = env.reset(jax.random.key(0), params)
    hidden = state._replace(
        queues=state.queues.replace(inflight=jnp.arange(5.0), uplink=jnp.arange(5.0) / 10),
        sent=jnp.arange(5.0) / 2,
        time=state.time + 7,
    )
    key = jax.random.key(3)
    splits = []
    for one in (state, hidden):
        view = env.view(one, params)
        selected, _ = scheduler.decide(params, view, scheduler.init_memory(params), key)
        splits.append(env.place(selected, one, params)[0].fraction)
    np.testing.assert_array_equal(*splits)


@pytest.mark.parametrize(
    "name", [name for name, rule in SCHEDULERS.items() if rule.information == "local"]
)
def test_a_scheduler_of_local_information_cannot_tell_what_the_others_did(name):
    scheduler = SCHEDULERS[name]
    env, params = jaxmec.make(
        *(MULTI,),
        information="local",
        action="mask",
        allocate=scheduler.allocate,
        allocation_information="seen",
    )
    _, state = env.reset(jax.random.key(0), params)
    own = jnp.arange(5) == state.task.origin
    hidden = state._replace(
        queues=state.queues.replace(
            inflight=jnp.arange(5.0) + 1,
            uplink=jnp.where(own, state.queues.uplink, 0.4),
        ),
        time=state.time + 7,
    )
    splits = []
    for one in (state, hidden):
        view = env.view(one, params)
        selected, _ = scheduler.decide(
            params, view, scheduler.init_memory(params), jax.random.key(3)
        )
        splits.append(env.place(selected, one, params)[0].fraction)
    np.testing.assert_array_equal(*splits)


def test_marginal_delay_keeps_a_large_task_off_the_server_of_many_small_ones():
    """Two equal servers, both never drained; the first has had nine tasks of ten."""
    _, params = jaxmec.make(
        *("SingleServerOffloading-v0",),
        preset="fdedge",
        information="local",
        capacity=(10.0, 10.0),
        rate=(1e9, 1e9),
        slots=20,
    )
    scheduler = find_scheduler("marginal-delay")
    queues = QueueState(
        backlog=jnp.array([100.0, 120.0]), inflight=jnp.zeros(2), uplink=jnp.zeros(2)
    )
    tasks, work = scheduler.init_memory(params)
    memory = (tasks.at[0].set(jnp.array([900.0, 100.0])), work.at[0].set(jnp.array([500.0, 500.0])))
    chosen = {}
    for size in (0.01, 10.0):
        view = View(Task(-1, size, size, 0.0), queues, jnp.zeros(()), None, jnp.asarray(10))
        selected, after = scheduler.decide(params, view, memory, jax.random.key(0))
        chosen[size] = int(jnp.argmax(selected))
        assert float(jnp.sum(after[0] - memory[0])) == 1
        assert float(jnp.sum(after[1] - memory[1])) == pytest.approx(size, rel=1e-3)
    assert chosen == {0.01: 0, 10.0: 1}


@pytest.mark.parametrize("master", [True, False])
@pytest.mark.parametrize("name", ["shortest-delay-all", "marginal-delay"])
def test_what_all_stations_would_do_is_reckoned_as_the_oracle_does(name, master):
    """On random views; a master node is one station, whatever number of servers it has."""
    capacity, rate = (10.0, 14.0, 20.0, 25.0), (500.0, 450.0, 420.0, 400.0)
    _, params = jaxmec.make(
        *("SingleServerOffloading-v0",),
        preset="fdedge",
        information="local",
        capacity=capacity,
        rate=rate,
        slots=20,
        positions=8,
        master=master,
    )
    stations = 1 if master else 4
    origin = -1 if master else 2
    network = oracle.Network(capacity, rate, 1.0, False)
    scheduler = find_scheduler(name)
    expected, mean_work, _ = map(float, params.workload.moments())
    decide = jax.jit(lambda view, memory: scheduler.decide(params, view, memory, None)[0])
    rng = np.random.default_rng(0)
    differs = 0
    for _ in range(100):
        backlog, sent = 8 * rng.random(4), 6 * rng.random(4)
        tasks, work = 40 * rng.random(4), 160 * rng.random(4)
        slot, progress = int(rng.integers(20)), int(rng.integers(8)) / 8
        task = oracle.Task(origin, 10 + 30 * rng.random(), 1 + 9 * rng.random())
        delay = {}
        for count in (1, 4):
            queued = oracle.alike(oracle.Queues(backlog, sent, np.zeros(4)), sent, count)
            delay[count] = queued / capacity + oracle.serves(network, task)
            if name == "marginal-delay":
                delay[count] += task.work * oracle.prices(
                    network, queued, (tasks, work), stations=stations, tasks=expected,
                    work=mean_work, elapsed=slot + progress, slots=20,
                )  # fmt: skip
        queues = QueueState(backlog=backlog, inflight=sent, uplink=np.zeros(4))
        view = View(
            Task(jnp.int32(origin), task.size, task.work, 0.0), queues, jnp.asarray(progress),
            None, jnp.int32(slot),
        )  # fmt: skip
        row = max(origin, 0)
        memory = scheduler.init_memory(params)
        if name == "marginal-delay":
            memory = (memory[0].at[row].set(tasks), memory[1].at[row].set(work))
        chosen = int(np.argmax(decide(view, memory)))
        best = np.sort(delay[stations])
        if best[1] - best[0] > 1e-4:  # but for what float32 cannot tell
            assert chosen == np.argmin(delay[stations])
        differs += int(np.argmin(delay[1]) != np.argmin(delay[4]))
    assert differs > 10


def test_the_best_fixed_sets_beat_what_they_start_from_and_keep_to_their_station():
    options = {"slots": 3, "capacity": (10.0, 20.0, 30.0), "rate": (400.0, 425.0, 450.0)}
    env, params = jaxmec.make(
        MULTI, action="mask", allocate="water_filling", allocation_information="seen", **options
    )
    table = np.asarray(best_sets(env, params))
    assert table.shape == (4, 3) and table.any(axis=1).all()
    report = jaxmec.evaluate("static-sets", episodes=20, seed=5, **options)
    everybody = jaxmec.evaluate("water-filling", episodes=20, seed=5, **options)
    assert report.mean("makespan") < everybody.mean("makespan")


def test_asking_for_less_than_a_rule_needs_is_an_error():
    with pytest.raises(ValueError, match=r"'optimal' needs information 'full', got 'local'"):
        jaxmec.evaluate("optimal", information="local", episodes=1)
    with pytest.raises(ValueError, match="information must be one of slot_start"):
        jaxmec.evaluate("random", information="psychic", episodes=1)
    assert find_scheduler("random").allowed_information("full") == "full"
    assert INFORMATION[0] == "slot_start"


def test_a_scheduler_has_no_neighbours():
    with pytest.raises(ValueError, match="neighbours must be None for scheduler 'random'"):
        jaxmec.evaluate("random", episodes=1, neighbours=3)


def test_the_enumerating_oracle_is_water_filling_on_true_queues():
    env, params = jaxmec.make(MULTI, information="full", action="mask")

    def makespans(key):
        view = _view(key, env, origin=1)
        best, _ = SCHEDULERS["optimal"].decide(params, view, (), key)
        everybody = jnp.ones(5, bool)
        return (
            offload(params.network, view.queues, view.task, best)[0].makespan,
            offload(params.network, view.queues, view.task, everybody, water_filling)[0].makespan,
        )

    enumerated, poured = jax.jit(jax.vmap(makespans))(jax.random.split(jax.random.key(1), 200))
    np.testing.assert_allclose(enumerated, poured, rtol=1e-5)


def test_the_best_server_is_the_one_that_finishes_first():
    env, params = jaxmec.make("SingleServerOffloading-v0", preset="lad-ts", information="full")
    view = _view(jax.random.key(5), env, origin=4)
    chosen, _ = SCHEDULERS["opt-ts"].decide(params, view, (), jax.random.key(0))
    finish = waiting_time(params.network, view.queues, view.task) + service_time(
        params.network, view.task
    )
    assert int(jnp.argmax(chosen)) == int(jnp.argmin(finish))


def test_the_coin_and_the_random_set_have_the_stated_distributions():
    env, params = jaxmec.make(MULTI)
    keys = jax.random.split(jax.random.key(2), 20_000)
    view = _view(keys[0], env)

    def share(name):
        rule = SCHEDULERS[name]
        return jax.jit(jax.vmap(lambda key: rule.decide(params, view, (), key)[0]))(keys)

    # 20,000 draws: a standard error of at most 0.0036, tested at five of them.
    np.testing.assert_allclose(
        share("weighted-coin").mean(axis=0), params.network.capacity / 150, atol=0.018
    )
    np.testing.assert_allclose(share("random").mean(axis=0), 0.2, atol=0.018)
    sets = share("random-subset")
    np.testing.assert_allclose(sets.mean(axis=0), 16 / 31, atol=0.018)
    assert len(np.unique(sets, axis=0)) == 31


def test_random_subsets_of_many_servers_are_never_empty():
    env, params = jaxmec.make(
        MULTI, action="mask", capacity=[10.0] * 40, rate=[400.0] * 40, positions=2
    )
    rule = SCHEDULERS["random-subset"]
    keys = jax.random.split(jax.random.key(2), 500)
    view = _view(keys[0], env)
    sets = jax.jit(jax.vmap(lambda key: rule.decide(params, view, (), key)[0]))(keys)
    assert sets.any(axis=1).all()
    assert 0.4 < float(sets.mean()) < 0.6


def test_local_means_the_origin_and_the_fastest_server_at_a_master_node():
    env, params = jaxmec.make(MULTI)
    for origin, expected in ((2, 2), (-1, 4)):
        view = _view(jax.random.key(0), env, origin)
        chosen, _ = SCHEDULERS["local"].decide(params, view, (), jax.random.key(0))
        np.testing.assert_array_equal(chosen, np.arange(5) == expected)


def test_the_oracle_refuses_too_many_servers():
    with pytest.raises(ValueError, match="at most 10 servers, got 20"):
        jaxmec.evaluate("optimal", preset="lad-ts", episodes=1)


def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'optimal'"):
        find_scheduler("optimla")


def test_everybody_meets_the_same_tasks():
    """Common random numbers: whatever is decided and seen, the same tasks arrive."""
    reports = [
        jaxmec.evaluate(name, slots=5, episodes=3, seed=4)
        for name in ("random", "local", "optimal")
    ]
    reports.append(jaxmec.evaluate("random", slots=5, episodes=3, seed=4, information="full"))
    for report in reports[1:]:
        np.testing.assert_array_equal(report.values["length"], reports[0].values["length"])
    other = jaxmec.evaluate("random", slots=5, episodes=3, seed=5)
    assert (other.values["length"] != reports[0].values["length"]).any()


def test_the_published_setting_gives_the_known_ratios():
    """Figures of independent replicas: water-filling with full knowledge equals Optimal, and
    on start-of-slot backlogs it comes to 1.26 times Optimal."""
    reports = {
        name: jaxmec.evaluate(name, episodes=8)
        for name in ("optimal", "water-filling-full", "water-filling", "local")
    }
    optimal = reports["optimal"].mean("makespan")
    ratio = {name: report.mean("makespan") / optimal for name, report in reports.items()}
    assert ratio["water-filling-full"] == pytest.approx(1, abs=1e-4)
    assert ratio["water-filling"] == pytest.approx(1.26, abs=0.02)
    assert ratio["local"] > 3
