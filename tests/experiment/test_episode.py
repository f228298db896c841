"""A record says what the environment did, and what `evaluate` reports of it."""

import functools

import edge_policies
import jax
import numpy as np
import pytest

import jaxmec
from jaxmec.agents import DQN, DSAC, Pathwise, PerStation
from jaxmec.agents.base import Spec
from jaxmec.experiment import Policy, Setting
from jaxmec.experiment.episode import record
from jaxmec.training.rollout import make_spec

CASES = {
    "sets, failures, capped waits": (
        "water-filling",
        {"preset": "smcoedge", "deadline": 0.06, "slots": 3, "positions": 20,
         "information": "local"},
    ),
    "one server, backlogs": (
        "weighted-coin",
        {"env": "SingleServerOffloading-v0", "preset": "lad-ts", "slots": 3, "positions": 8,
         "capacity": (3.0, 2.0), "rate": (400.0, 500.0)},
    ),
    "a master node": (
        "weighted-coin",
        {"env": "SingleServerOffloading-v0", "preset": "fdedge", "slots": 3, "positions": 20},
    ),
    "neighbours": (edge_policies.CASES["neighbours"].policy, {"slots": 1, "positions": 12}),
}  # fmt: skip
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in (*CASES,)[1:3]]
PARAMETERS = pytest.mark.parametrize("case", ["sets, failures, capped waits", *SLOW, "neighbours"])


@functools.cache
def played(case):
    """The record of episode 1, and the report of two episodes."""
    who, options = CASES[case]
    who = who if isinstance(who, str) else who()
    report = jaxmec.evaluate(who, episodes=2, seed=5, **options)
    return record(who, episode=1, seed=5, **options), report


def policy_of(agent, env="MultiServerOffloading-v0", preset="amcoedge", **options):
    setting = Setting(env, preset, 0, tuple(sorted(options.items())))
    environment, params = setting.make()
    spec = make_spec(environment, params)
    learner = jax.jit(agent.init, static_argnums=1)(jax.random.key(0), spec)
    return Policy(agent, learner, spec, setting, type(agent).__name__.lower())


@PARAMETERS
def test_make_spans_are_those_that_evaluate_reports(case):
    episode, report = played(case)
    assert len(episode) == report.values["length"][0, 1]
    assert len(episode) != report.values["length"][0, 0]  # the episodes differ: this is the second
    assert episode.makespan.mean() == pytest.approx(report.values["makespan"][0, 1], rel=1e-5)
    assert episode.failed.mean() == pytest.approx(report.values["failed"][0, 1], rel=1e-5)
    assert episode.reward.sum() == pytest.approx(report.values["return"][0, 1], rel=1e-5)


@PARAMETERS
def test_the_record_obeys_the_model(case):
    """What is written down fits together by the equations of docs/model.md, in float64."""
    e, _ = played(case)
    n, servers = e.fraction.shape
    assert e.fraction.sum(axis=1) == pytest.approx(np.ones(n), abs=1e-5)
    remote = np.arange(servers) != e.origin[:, None]
    megabits = remote * e.size[:, None] + e.result[:, None]
    assert e.serve == pytest.approx(megabits / e.rate + e.work[:, None] / e.capacity, rel=1e-5)
    # What waits is at least what is queued there, and nothing else where no uplink is contended.
    queue = np.minimum((e.backlog + e.inflight) / e.capacity, e.max_wait)
    assert (e.wait >= queue - 1e-5).all()
    if dict(e.setting.options).get("information") != "local":
        assert e.wait == pytest.approx(queue, abs=1e-4)
    assert (e.makespan <= np.max(e.finish, axis=1) + 1e-5).all()
    assert (e.makespan >= np.max(np.where(e.fraction > 0, e.finish, 0), axis=1) - 1e-5).all()
    assert (e.failed == (e.makespan > e.deadline)).all()
    # Decided slot by slot, station by station, position by position.
    order = np.lexsort((e.position, e.origin, e.slot))
    assert (order == np.arange(n)).all()
    # Work of the slot's earlier decisions, and backlogs from slot to slot.
    for slot in range(e.slots):
        rows = e.slot == slot
        before = np.cumsum(e.given[rows], axis=0) - e.given[rows]
        assert e.inflight[rows] == pytest.approx(before, abs=1e-4)
        assert e.backlog[rows] == pytest.approx(
            np.broadcast_to(e.slot_backlog[slot], e.backlog[rows].shape), abs=1e-4
        )
    assert len(e.feature_names) == e.observation.shape[1]


def test_failures_are_recorded_and_nothing_beyond_the_neighbours():
    assert played("sets, failures, capped waits")[0].failed.any()
    near = played("neighbours")[0]
    away = (np.arange(5) - near.origin[:, None]) % 5
    assert near.fraction[away >= 3].max() == 0  # none beyond the own server and the next two


@pytest.mark.slow
def test_backlogs_and_a_master_node_are_recorded():
    assert (played("one server, backlogs")[0].slot_backlog[1:] > 0).any()
    assert (played("a master node")[0].origin == -1).all()


def test_an_action_is_what_the_policy_answers_to_the_observation():
    episode, _ = played("neighbours")
    assert (edge_policies.CASES["neighbours"].policy()(episode.observation) == episode.action).all()


@pytest.mark.slow
def test_a_record_may_be_longer_than_one_call_of_the_program(monkeypatch):
    who, options = CASES["neighbours"]
    whole, _ = played("neighbours")
    monkeypatch.setattr("jaxmec.experiment.episode.CHUNK", 7)
    parts = record(who(), episode=1, seed=5, **options)
    assert 7 < len(whole) == len(parts)
    assert (whole.fraction == parts.fraction).all() and (whole.work == parts.work).all()


def test_cartpole_from_start_to_fall():
    policy = policy_of(DQN(hidden=(8,)), "CartPole-v1", None)
    episode = record(policy, seed=3)
    report = jaxmec.evaluate(policy, episodes=1, seed=3)
    assert len(episode) == report.values["length"][0, 0]
    assert episode.state.shape == (len(episode) + 1, 4)
    assert np.abs(episode.state[0]).max() <= 0.05 and episode.fell
    assert episode.state[1:, 0] == pytest.approx(
        episode.state[:-1, 0] + episode.time_step * episode.state[:-1, 1], abs=1e-6
    )
    assert (policy(episode.state[:-1]) == episode.action).all()


@pytest.mark.parametrize("wrong", [-1, 1.5, True])
def test_the_number_of_the_episode_is_checked(wrong):
    with pytest.raises(ValueError, match="episode must be a whole number of at least 0"):
        record("optimal", episode=wrong)


CHAINS = {
    "pathwise": lambda: policy_of(
        Pathwise(hidden=(8,), denoising_steps=3), action="score", features="times"
    ),
    "per station": lambda: policy_of(PerStation(DSAC(hidden=(8,), judged_chains=2))),
    "dsac": lambda: edge_policies.CASES["one_server"].policy(),
    "dsac, last": lambda: edge_policies.CASES["one_server_places"].policy(),
    "scores": lambda: edge_policies.CASES["score"].policy(),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_chains_lead_from_noise_to_the_scores(make):
    policy = make()
    env, params = policy.setting.make()
    observation, _ = env.reset(jax.random.key(1), params)
    chains = policy.chains(observation, number=3, seed=2)
    agent = getattr(policy.agent, "inner", policy.agent)
    assert chains.shape == (3, agent.denoising_steps + 1, env.num_actions)
    noise = chains[:, 0]
    if getattr(agent, "start", "noise") == "last":
        assert (noise == noise[0]).all()  # the last answer, not noise
    else:
        assert len({*noise[:, 0].tolist()}) == 3
    # The judged chains of DSAC are those of key 0: their mean is what it is judged by.
    if getattr(agent, "judged_chains", 0):
        drawn = policy.chains(observation, number=agent.judged_chains, seed=0)[:, -1]
        probability = np.exp(drawn) / np.exp(drawn).sum(axis=1, keepdims=True)
        expected = np.exp(policy.preferences(observation))
        assert probability.mean(axis=0) == pytest.approx(expected / expected.sum(), rel=1e-4)


def test_no_chain_without_diffusion():
    for agent in (DQN(), PerStation(DQN()), Pathwise(denoising_steps=0)):
        policy = Policy.__new__(Policy)
        policy.agent, policy.name = agent, "it"
        assert not policy.denoises
        with pytest.raises(ValueError, match=r"it has no denoising to show: its agent, (DQN|Path)"):
            policy.chains(np.zeros(3))


def test_what_is_asked_of_chains_is_checked():
    dsac = Policy.__new__(Policy)
    dsac.agent, dsac.spec = DSAC(), Spec(7, 2)
    with pytest.raises(ValueError, match="observation must have shape"):
        dsac.chains(np.zeros(3))
    with pytest.raises(ValueError, match="number must be a whole number of at least 1"):
        dsac.chains(np.zeros(7), number=0)
