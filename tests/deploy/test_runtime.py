"""The runtime builds what the policy saw in training, and decides as the environment would."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from edge_policies import CASES, visited

from jaxmec.core.bundle import Bundle, open_bundle
from jaxmec.deploy import export, onnx, schema, xla
from jaxmec.deploy.runtime import (
    LARGEST,
    LEAST_WORK,
    SMALLEST,
    Network,
    PolicyFailed,
    Queues,
    Scheduler,
    Task,
)
from jaxmec.envs import multi
from jaxmec.experiment import Policy, Setting
from jaxmec.mec import EdgeNetwork, workload
from jaxmec.training.rollout import make_spec

ROWS = 10_000


def test_names_and_constants_are_those_of_the_environment():
    """The edge has no JAX, and so has copies of them."""
    assert set(schema.ACTION_MODES) - {schema.ONE_SERVER} < set(multi.ACTIONS)
    assert tuple(export.MEANINGS) == schema.ACTION_MODES
    assert schema.MASTER == workload.MASTER
    assert set(schema.FIELDS) == schema.QUEUES.keys() - {"believed"}


# What differs from the quick ones in the agent alone is left to the slow run.
SLOW = (
    "one_server_places",
    "per_station",
    "top_k",
    "neighbours_score",
    "neighbours_priced",
    "expected",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES],
)
def test_decisions_are_those_of_the_environment(bundle, name):
    """From named quantities to the preferences, the set and the fractions: all as in training."""
    policy = CASES[name].policy()
    scheduler = onnx.load(bundle(name))
    env, params = policy.setting.make()
    seen, observed, queues, tasks = visited(name)
    servers = env.num_servers

    result = scheduler.rows_to_decisions(scheduler.rows(None, queues, tasks))
    preferences = jax.vmap(policy.agent.preferences, in_axes=(None, 0))(policy.learner, observed)
    scale = max(1.0, float(np.abs(preferences).max()))
    np.testing.assert_allclose(result[:, 2 * servers + 1 :], preferences, atol=1e-5 * scale)

    outcome, _ = jax.jit(jax.vmap(lambda action, state: env.place(action, state, params)))(
        policy(observed), seen
    )
    fraction, makespan = np.asarray(outcome.fraction), np.asarray(outcome.makespan)
    decisions = scheduler.decide_many(None, queues, tasks)
    assert {decision.by for decision in decisions} == {"policy"}
    got = np.stack([decision.fractions for decision in decisions])
    # Charges are differences of large numbers, and so less exact.
    exact = 2e-6 if "charge" not in dict(env.feature_layout(params)) else 1e-4
    close = np.abs(got - fraction).max(axis=1) < exact
    assert np.mean(close) > 0.99  # but for ties of preferences
    for decision, shares in zip(decisions, fraction, strict=True):
        if np.abs(decision.fractions - shares).max() < exact:
            assert set(np.flatnonzero(shares > exact)) <= set(decision.servers)
    if env.information == "full" or getattr(env, "allocation_information", "true") == "true":
        ours = np.array([decision.makespan for decision in decisions])
        if env.splits or env.information == "full":  # the others see less than is so
            np.testing.assert_allclose(ours[close], makespan[close], rtol=1e-5)
    used = np.mean((fraction > 0), axis=0)
    assert np.count_nonzero(used) >= 2  # not one server for ever


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * n.startswith("neighbours_")) for n in CASES],
)
def test_the_three_forms_agree_on_random_rows(bundle, name):
    """Preferences within 1e-4 on 10,000 random rows, and but for ties the same decisions."""
    path = bundle(name)
    schedulers = [
        onnx.load(path),
        xla.load(path, form="stablehlo"),
        xla.load(path, form="jax"),
    ]
    rows = export.random_rows(np.random.default_rng(1), ROWS, open_bundle(path).manifest)
    given = [
        np.concatenate([scheduler.rows_to_decisions(some) for some in np.split(rows, 10)])
        for scheduler in schedulers
    ]
    decided = 2 * schedulers[0].num_servers + 1
    for other in given[:2]:
        preferences = given[2][:, decided:]
        scale = max(1.0, float(np.abs(preferences).max()))
        np.testing.assert_allclose(other[:, decided:], preferences, atol=1e-4 * scale)
        different = np.abs(other - given[2])[:, :decided].max(axis=1) > 1e-3
        assert np.mean(different) < 1e-3


def described(env_id, **options):
    """A scheduler of such an environment whose preferences are all 0, and its parameters."""
    setting = Setting(env_id, options.pop("preset"), 0, tuple(sorted(options.items())))
    env, params = setting.make()
    policy = Policy(Indifferent(env.num_actions), (), make_spec(env, params), setting, "described")
    manifest = {
        "method": "described",
        "network": export.describe_network(params),
        "observation": export.describe_observation(env, params),
        "action": export.describe_action(env, params),
        "allocation": export.describe_allocation(env),
        "decision": export.describe_decision(env, params),
    }
    decide = onnx.session(export.to_onnx(policy)).run
    return Scheduler(
        Bundle(Path("bundle"), manifest, {}, ""),
        lambda rows: decide([onnx.OUTPUT], {onnx.INPUT: rows})[0],
        "onnx",
    ), params


@dataclasses.dataclass(frozen=True)
class Indifferent:
    """An agent whose preferences are all 0."""

    num_actions: int

    def acting(self, learner):
        return learner

    def preferences(self, learner, observation):
        return jnp.zeros(self.num_actions)


OF_A_MASTER = {
    "preset": "fdedge",
    "information": "local",
    "features": "priced",
    "action": "score",
    "slots": 20,
    "positions": 8,
    "capacity": (10.0, 14.0, 20.0, 25.0),
    "rate": (500.0, 450.0, 420.0, 400.0),
}


@pytest.mark.parametrize("allocation", ["expected", "priced"])
@pytest.mark.parametrize("stations", [1, 4])
def test_what_all_stations_would_do_is_what_the_oracle_says(allocation, stations):
    """At a master node its own work is all there is, once; at B stations it counts B times."""
    scheduler, params = described(
        "MultiServerOffloading-v0",
        allocation_information=allocation,
        master=stations == 1,
        **OF_A_MASTER,
    )
    assert params.stations == stations
    network = oracle.Network(OF_A_MASTER["capacity"], OF_A_MASTER["rate"], 1.0, False)
    tasks, work, _ = (float(moment) for moment in params.workload.moments())
    rng = np.random.default_rng(0)
    for _ in range(50):
        backlog, sent, history = 8 * rng.random(4), 6 * rng.random(4), 40 * rng.random((2, 4))
        slot, progress = int(rng.integers(20)), rng.random()
        task = oracle.Task(-1 if stations == 1 else 2, 10 + 30 * rng.random(), 1 + rng.random())
        queued = oracle.alike(oracle.Queues(backlog, sent, np.zeros(4)), sent, stations)
        charge = task.work * oracle.prices(
            network, queued, history, stations=stations, tasks=tasks, work=work,
            elapsed=slot + progress, slots=20,
        )  # fmt: skip
        asked = (
            Queues(
                backlog, sent=sent, progress=progress, slot=slot, sent_tasks=history[0],
                sent_work=history[1],
            ),
            Task(task.origin, task.size, task.work),
        )  # fmt: skip
        wait, serve = queued / network.capacity, oracle.serves(network, task)
        believed = wait + (charge if allocation == "priced" else 0)
        decision = scheduler.decide(None, *asked)
        fraction = oracle.water_filling(believed, serve, np.ones(4, bool))
        np.testing.assert_allclose(decision.fractions, fraction, atol=5e-6)
        # A charge moves work to other servers, and nobody waits for it.
        makespan = (wait + fraction * serve)[fraction > 1e-9].max()
        assert decision.makespan == pytest.approx(makespan, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SLOW])
def test_a_batch_decides_as_one_by_one(bundle, name):
    scheduler = onnx.load(bundle(name))
    _, _, queues, tasks = visited(name)
    queues, tasks = queues[::20], tasks[::20]
    for one, of_many in zip(
        [scheduler.decide(None, q, t) for q, t in zip(queues, tasks, strict=True)],
        scheduler.decide_many(None, queues, tasks),
        strict=True,
    ):
        assert one.servers == of_many.servers
        np.testing.assert_allclose(one.fractions, of_many.fractions, atol=1e-6)
        assert one.makespan == pytest.approx(of_many.makespan, rel=1e-5)


@pytest.fixture
def scheduler(bundle):
    return onnx.load(bundle("subset"))


GOOD = Queues(backlog=[0, 1, 2, 3, 4], sent=[0] * 5, uplink=0.1, progress=0.5)
TASK = Task(origin=2, size=3.0, work=0.6)


def test_what_a_policy_needs_is_said(scheduler, bundle):
    assert scheduler.needs == {"backlog", "sent", "uplink", "progress"}
    assert onnx.load(bundle("top_k")).needs == {"backlog"}
    seen_in_full = onnx.load(bundle("local_plus_one")).needs
    assert {"backlog", "inflight", "uplink", "progress"} <= seen_in_full
    assert "sent" not in seen_in_full
    assert onnx.load(bundle("one_server_places")).needs == {"backlog", "place"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backlog": [1, 2]}, r"queues\[0\]\.backlog must be 5 numbers from 0 to 1e\+12, got \[1"),
        ({"backlog": None}, r"queues\[0\]\.backlog is missing"),
        ({"backlog": [0, 0, 0, 0, -1]}, r"queues\[0\]\.backlog must be 5 numbers"),
        ({"backlog": [0, 0, 0, 0, math.nan]}, r"queues\[0\]\.backlog must be 5 numbers"),
        ({"backlog": [0, 0, 0, 0, math.inf]}, r"queues\[0\]\.backlog must be 5 numbers"),
        ({"backlog": "empty"}, r"queues\[0\]\.backlog must be 5 numbers"),
        ({"backlog": [[0] * 5]}, r"queues\[0\]\.backlog must be 5 numbers"),
        ({"backlog": 3.0}, r"queues\[0\]\.backlog must be 5 numbers"),
        (
            {"sent": None},
            r"queues\[0\]\.sent is missing, and the policy was trained to see backlog, progress, "
            "sent, uplink",
        ),
        ({"uplink": None}, r"queues\[0\]\.uplink is missing"),
        ({"uplink": -0.1}, r"queues\[0\]\.uplink must be a number from 0"),
        ({"progress": None}, r"queues\[0\]\.progress is missing"),
        ({"progress": "half"}, r"queues\[0\]\.progress must be a number"),
        ({"inflight": [1]}, r"queues\[0\]\.inflight must be 5 numbers"),
    ],
)
def test_wrong_queues_are_named(scheduler, changes, message):
    with pytest.raises(ValueError, match=message):
        scheduler.decide(None, dataclasses.replace(GOOD, **changes), TASK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": 5}, r"tasks\[0\]\.origin must be a station, 0 to 4, or -1 .* got 5"),
        ({"origin": -2}, r"origin must be a station"),
        ({"origin": 1.0}, r"origin must be a station"),
        ({"origin": True}, r"origin must be a station"),
        ({"size": -1}, r"tasks\[0\]\.size must be a number from 0 to 1e\+12, got -1"),
        ({"size": None}, r"tasks\[0\]\.size must be a number"),
        ({"size": 1e13}, r"tasks\[0\]\.size must be a number"),
        ({"work": 0}, r"tasks\[0\]\.work must be a number from 1e-09"),
        ({"work": 1e-320}, r"tasks\[0\]\.work must be a number from 1e-09"),
        ({"work": math.nan}, r"tasks\[0\]\.work must be a number from 1e-09"),
        ({"result": math.inf}, r"tasks\[0\]\.result must be a number from 0"),
    ],
)
def test_wrong_tasks_are_named(scheduler, changes, message):
    with pytest.raises(ValueError, match=message):
        scheduler.decide(None, GOOD, dataclasses.replace(TASK, **changes))


def test_the_wrong_one_of_a_batch_is_named(scheduler):
    with pytest.raises(ValueError, match=r"tasks\[2\]\.size"):
        scheduler.decide_many(None, [GOOD] * 3, [TASK, TASK, Task(0, -1.0, 1.0)])
    for queues, tasks in (([], []), ([GOOD], [TASK, TASK])):
        with pytest.raises(ValueError, match="as many, at least one"):
            scheduler.decide_many(None, queues, tasks)


def test_each_of_a_batch_is_decided_by_what_it_is_told_itself(bundle):
    """What one entry knows and another does not changes the decision of one alone."""
    scheduler = onnx.load(bundle("top_k"))
    fields = ({}, {"inflight": [9] * 5}, {"sent": [0, 9, 0, 0, 9]}, {"uplink": 0.5},
              {"uplink": [0.5] * 5}, {"progress": 0.5})  # fmt: skip
    entries = [Queues(backlog=[0, 1, 2, 3, 4], **some) for some in fields]
    makespans = []
    for entry, decision in zip(
        entries, scheduler.decide_many(None, entries, [TASK] * len(entries)), strict=True
    ):
        alone = scheduler.decide(None, entry, TASK)
        assert alone.servers == decision.servers
        np.testing.assert_allclose(alone.fractions, decision.fractions, rtol=1e-6)
        makespans.append(decision.makespan)
    assert len({round(makespan, 5) for makespan in makespans}) == 4  # nothing told of: three alike


def test_every_uplink_is_needed_where_all_were_seen(bundle):
    scheduler = onnx.load(bundle("local_plus_one"))
    queues = Queues(
        backlog=[0] * 5, inflight=[0] * 5, uplink=0.1, progress=0.5, remaining_tasks=1,
        remaining_work=1.0, slot=0, sent_tasks=[0] * 5, sent_work=[0] * 5,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"uplink \(every station's\) must be 5 numbers"):
        scheduler.decide(None, queues, TASK)
    scheduler.decide(None, dataclasses.replace(queues, uplink=[0.1] * 5), TASK)


def test_another_network_changes_the_decision(scheduler):
    usual = scheduler.decide(None, GOOD, TASK)
    assert scheduler.decide(scheduler.network, GOOD, TASK).servers == usual.servers
    capacity, rate = [50, 40, 30, 20, 10], [400] * 5
    ours = scheduler.decide(Network(capacity, rate), GOOD, TASK)
    theirs = scheduler.decide(EdgeNetwork(capacity=capacity, rate=rate), GOOD, TASK)
    np.testing.assert_allclose(ours.fractions, theirs.fractions, rtol=1e-6)
    assert ours.makespan != pytest.approx(usual.makespan)
    asked = SimpleNamespace(
        capacity=capacity, rate=rate, uplink_contention=True, max_wait=1e12, slot_length=None
    )  # as the service passes it on
    assert scheduler.decide(asked, GOOD, TASK).servers == ours.servers
    with pytest.raises(ValueError, match=r"network\.capacity must have 5 entries"):
        scheduler.decide(Network([1, 2], [1, 2]), GOOD, TASK)


# Of a bundle whose network has none of the usual values.
CAPPED = {"max_wait": 0.3, "uplink_contention": False, "slot_length": 0.5}


@pytest.mark.parametrize("named", [{}, {"max_wait": 0.2}, {"slot_length": 2.0}, CAPPED])
def test_what_a_network_does_not_name_is_the_bundles(named):
    """Against the oracle: waits that end at 0.3 s, no uplink, and prices of slots of 0.5 s."""
    scheduler, params = described(
        "MultiServerOffloading-v0",
        **{**OF_A_MASTER, **CAPPED, "allocation_information": "priced", "master": False},
    )
    capacity, rate = (25.0, 14.0, 20.0, 10.0), (400.0, 450.0, 420.0, 500.0)
    now = {**CAPPED, **named}
    network = oracle.Network(capacity, rate, now["slot_length"], False, max_wait=now["max_wait"])
    backlog, sent, history = np.array([40, 12, 1, 0.5]), 0.3 * np.arange(4), 5 * np.ones((2, 4))
    task = oracle.Task(1, 20.0, 5.0)
    queued = oracle.alike(oracle.Queues(backlog, sent, np.zeros(4)), sent, stations=4)
    tasks, work, _ = (float(moment) for moment in params.workload.moments())
    price = oracle.prices(
        network, queued, history, stations=4, tasks=tasks, work=work, elapsed=19.7, slots=20
    )
    believed = oracle.Queues(queued, np.zeros(4), np.full(4, 0.3))
    wait = oracle.waits(network, believed, task) + task.work * price
    fraction = oracle.water_filling(wait, oracle.serves(network, task), np.ones(4, bool))
    assert np.count_nonzero(fraction) > 1
    asked = (
        Queues(
            backlog, sent=sent, uplink=0.3, progress=0.7, slot=19, sent_tasks=history[0],
            sent_work=history[1],
        ),
        Task(1, 20.0, 5.0),
    )  # fmt: skip
    for given in (
        Network(capacity, rate, **named),
        SimpleNamespace(**{**dict.fromkeys(CAPPED), "capacity": capacity, "rate": rate, **named}),
    ):
        decision = scheduler.decide(given, *asked)
        np.testing.assert_allclose(decision.fractions, fraction, atol=1e-6)
        (by_rule,) = scheduler.decide_by_rule(given, asked[:1], asked[1:])
        plain = np.minimum((backlog + sent) / capacity, now["max_wait"])
        spread = oracle.water_filling(plain, oracle.serves(network, task), np.ones(4, bool))
        np.testing.assert_allclose(by_rule.fractions, spread, atol=1e-6)
    whole = scheduler.decide(Network(scheduler.network.capacity, scheduler.network.rate), *asked)
    assert whole.makespan == scheduler.decide(None, *asked).makespan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], [1, 1]), "network.capacity must be numbers from 1e-06"),
        (([1, math.nan], [1, 1]), "network.capacity"),
        (([1, 1], [1]), "network.rate must have the length of network.capacity, 2, got 1"),
        (([[1]], [1]), "network.capacity"),
        (([1], [1], True, -1.0), "network.max_wait must be at least 0"),
        (([1], [1], "no"), "network.uplink_contention must be True, False or None, got 'no'"),
        (([1], [1], True, 1.0, 0.0), "network.slot_length must be from 1e-06"),
    ],
)
def test_a_network_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Network(*arguments)


@pytest.mark.parametrize("name", ["subset", "score", "local_plus_one", "neighbours"])
def test_whatever_is_allowed_has_an_answer_in_numbers(bundle, name):
    """At the bounds of everything that is let in, in every combination that chance makes."""
    scheduler = onnx.load(bundle(name))
    rng = np.random.default_rng(0)
    least = {"capacity": SMALLEST, "rate": SMALLEST, "work": LEAST_WORK}

    def amount(field, *shape):
        bounds = [least.get(field, 0.0), least.get(field, 0.0), 1e-3, 1.0, 1e3, LARGEST]
        return rng.choice(bounds, shape)

    vectors = ("backlog", "inflight", "sent", "uplink", "sent_tasks", "sent_work")
    numbers = ("progress", "remaining_tasks", "remaining_work", "place", "slot")
    for _ in range(200):
        network = Network(amount("capacity", 5), amount("rate", 5), True, LARGEST)
        queues = Queues(
            **{field: amount(field, 5) for field in vectors},
            **{field: float(amount(field)) for field in numbers},
        )
        quantities = {field: float(amount(field)) for field in ("size", "work", "result")}
        task = Task(origin=int(rng.integers(5)), **quantities)
        (stand_in,) = scheduler.decide_by_rule(network, [queues], [task])
        decisions = [stand_in]
        with np.errstate(over="ignore"):  # to float32
            try:
                decisions.append(scheduler.decide(network, queues, task))
            except PolicyFailed:
                seen = scheduler.rows(network, [queues], [task])
                assert not np.abs(seen).max() <= 1e2  # nothing that a station would see
        for decision in decisions:
            assert decision.fractions.sum() == pytest.approx(1), (network, queues, task)
            assert (decision.fractions >= 0).all() and math.isfinite(decision.makespan)
            assert decision.servers


@pytest.mark.parametrize(
    ("decide", "message"),
    [
        (lambda rows: np.full((len(rows), 42), np.nan, np.float32), "not finite"),
        (lambda rows: np.zeros((len(rows), 41), np.float32), r"shape \(1, 41\)"),
        (lambda rows: 1 / 0, "onnx model failed: division by zero"),
    ],
)
def test_a_policy_that_fails_says_so_and_a_rule_stands_in(scheduler, decide, message):
    scheduler.rows_to_decisions = decide
    with pytest.raises(PolicyFailed, match=message):
        scheduler.decide(None, GOOD, TASK)
    (decision,) = scheduler.decide_by_rule(None, [GOOD], [TASK])
    assert decision.by == "water_filling"
    assert decision.fractions.sum() == pytest.approx(1)
    # All that take part finish together, and nobody left out could have helped.
    network = scheduler.network
    local = np.arange(5) == TASK.origin
    wait = np.asarray(GOOD.backlog) / network.capacity + ~local * 0.1
    serve = ~local * TASK.size / network.rate + TASK.work / network.capacity
    finish = wait + decision.fractions * serve
    used = list(decision.servers)
    np.testing.assert_allclose(finish[used], decision.makespan)
    assert (np.delete(wait, used) >= decision.makespan - 1e-12).all()


def test_preferences_that_are_no_numbers_are_a_failure_of_the_policy(bundle):
    """The argmax of them would name a set; what led to it shows that it means nothing."""
    policy = CASES["subset"].policy()
    learner = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), policy.learner)
    broken = Policy(policy.agent, learner, policy.spec, policy.setting, "broken")
    decide = onnx.session(export.to_onnx(broken)).run
    scheduler = onnx.load(bundle("subset"))
    scheduler.rows_to_decisions = lambda rows: decide(None, {onnx.INPUT: rows})[0]
    with pytest.raises(PolicyFailed, match="not finite"):
        scheduler.decide(None, GOOD, TASK)


def test_where_a_task_has_one_server_the_rule_gives_it_one(bundle):
    scheduler = onnx.load(bundle("master"))
    backlog = np.linspace(5, 0, 10)
    queues = Queues(
        backlog=backlog, sent=[0] * 10, uplink=0, progress=0, slot=0,
        sent_tasks=[0] * 10, sent_work=[0] * 10,
    )  # fmt: skip
    (decision,) = scheduler.decide_by_rule(None, [queues], [Task(-1, 20.0, 4.0)])
    network = scheduler.network
    finish = backlog / network.capacity + 20.0 / network.rate + 4.0 / network.capacity
    assert decision.by == "earliest_finish"
    assert decision.servers == (int(finish.argmin()),)
    assert decision.makespan == pytest.approx(finish.min())
