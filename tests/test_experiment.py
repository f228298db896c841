"""The public API: train, save, load, evaluate, on small sizes."""

import dataclasses
import json
import shutil
import warnings

import edge_policies
import jax
import numpy as np
import pytest

import jaxmec
from jaxmec import experiment
from jaxmec.agents import Pathwise, ScoreTD3
from jaxmec.methods import find_method
from jaxmec.training import checkpoint
from jaxmec.training.checkpoint import CheckpointCorrupt, CheckpointIncompatible, CheckpointMissing
from jaxmec.training.cloning import CloningConfig

SMALL = {
    "steps": 1_200,
    "num_envs": 4,
    "prefill": 200,
    "batch_size": 16,
    "buffer_size": 1_000,
    "eval_every": 500,
    "eval_episodes": 2,
    "hidden": (16,),
    "progress": False,
}
MULTI = "MultiServerOffloading-v0"


@pytest.fixture(scope="module")
def cartpole():
    return jaxmec.train("sac", env="CartPole-v1", seeds=2, **SMALL)


@pytest.fixture(scope="module")
def amsa():
    return jaxmec.train("ddrl-amsa", seeds=2, slots=3, **SMALL)


def test_training_returns_a_history_of_every_seed(cartpole):
    assert cartpole.seeds == (0, 1)
    for values in cartpole.history.evaluation.values():
        assert values.shape == (2, 3)
    assert np.isfinite(cartpole.history.evaluation["return"]).all()
    assert len(cartpole.policies) == 2
    first, second = (jax.tree.leaves(p.learner) for p in cartpole.policies)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["dqn", "sac", "dsac"])
def test_a_saved_policy_decides_as_before(name, tmp_path):
    result = jaxmec.train(name, env="CartPole-v1", **SMALL)
    path = result.save(tmp_path / "policy")
    loaded = jaxmec.load_policy(path)
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded(observations), result.policy(observations))
    assert loaded(observations[0]) == loaded(observations)[0]
    assert isinstance(loaded(observations[0]), int)
    assert len(set(loaded(observations).tolist())) <= 2


def test_what_is_saved_is_the_actor_alone(amsa, tmp_path):
    amsa.save(tmp_path / "policy")
    manifest = json.loads((tmp_path / "policy" / "manifest.json").read_text())
    assert {leaf["path"][0] for leaf in manifest["leaves"]} == {"judged_actor"}


def test_a_loaded_policy_knows_its_setting(amsa, tmp_path):
    loaded = jaxmec.load_policy(amsa.save(tmp_path / "policy"))
    assert loaded.setting == amsa.setting
    reports = [jaxmec.evaluate(p, episodes=2, seed=3) for p in (loaded, amsa.policy)]
    for name in reports[0].values:
        np.testing.assert_array_equal(reports[0].values[name], reports[1].values[name])


def test_evaluating_a_result_takes_every_seed_on_the_same_arrivals(amsa):
    report = jaxmec.evaluate(amsa, episodes=3)
    assert report.values["makespan"].shape == (2, 3)
    length = report.values["length"]
    np.testing.assert_array_equal(length[0], length[1])
    rule = jaxmec.evaluate("random-subset", slots=3, episodes=3)
    np.testing.assert_array_equal(rule.values["length"][0], length[0])
    ratio = report.ratio(rule)
    assert ratio.shape == (2,)
    expected = report.values["makespan"].mean(axis=1) / rule.values["makespan"].mean()
    np.testing.assert_allclose(ratio, expected)
    (line,) = (line for line in str(report).splitlines() if "makespan" in line)
    assert line.endswith("]  s")
    assert f"{np.mean(length, dtype=float):.4f}" in str(report)


def test_damaged_and_missing_policies_are_refused_by_name(cartpole, tmp_path):
    with pytest.raises(CheckpointMissing, match="nowhere"):
        jaxmec.load_policy(tmp_path / "nowhere")
    path = cartpole.save(tmp_path / "policy")
    victim = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(CheckpointCorrupt, match=victim.name):
        jaxmec.load_policy(path)


@pytest.mark.parametrize(
    ("name", "options", "fits"),
    [
        ("master", (), False),
        ("master", (("master", False),), True),
        ("master", (("information", "full"),), True),
        ("priced", (), True),
        ("one_server", (), True),
    ],
)
def test_what_was_trained_to_see_a_master_nodes_work_many_times_is_refused(
    tmp_path, monkeypatch, name, options, fits
):
    """A policy of before, where it did see that; none of now."""
    case = edge_policies.CASES[name]
    options = tuple((dict(case.options) | dict(options)).items())
    policy = dataclasses.replace(case, options=options).policy()
    monkeypatch.setattr(experiment, "OBSERVATIONS", 1)
    path = policy.save(tmp_path / "policy")
    monkeypatch.undo()
    if fits:
        assert jaxmec.load_policy(path).setting == policy.setting
    else:
        with pytest.raises(
            CheckpointIncompatible, match=r"policy .*master node 10 times.*train it"
        ):
            jaxmec.load_policy(path)
    assert jaxmec.load_policy(policy.save(tmp_path / "now")).setting == policy.setting


def test_a_run_that_saw_a_master_nodes_work_many_times_does_not_go_on(tmp_path):
    setting = dataclasses.asdict(edge_policies.CASES["master"].policy().setting)
    checkpoint.save(tmp_path / "checkpoints", {}, step=8, metadata={"caller": {"setting": setting}})
    with pytest.raises(CheckpointIncompatible, match=r"master node 10 times.*train it again"):
        jaxmec.train("ddrl-ats", preset="fdedge", directory=tmp_path, resume=True, progress=False)


def test_observations_of_the_wrong_kind_are_refused(cartpole):
    policy = cartpole.policy
    with pytest.raises(ValueError, match=r"shape \(4,\) or \(n, 4\), got \(3,\)"):
        policy(np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        policy([0.0, np.nan, 0.0, 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxmec.train("dasc"), "method 'dasc' is not one of .*did you mean 'dsac'"),
        (lambda: jaxmec.train("dsac", stps=5), "option 'stps'; did you mean 'steps'"),
        (lambda: jaxmec.train("dsac", env="CartPole"), "did you mean 'CartPole-v1'"),
        (lambda: jaxmec.train("dsac", steps=0), "steps"),
        (lambda: jaxmec.train("ddrl-amsa", preset="amcoege"), "did you mean 'amcoedge'"),
        (lambda: jaxmec.make(MULTI, probability=1.5), "probability must be at most 1.*1.5"),
        (lambda: jaxmec.make(MULTI, probabilty=0.5), "did you mean 'probability'"),
        (lambda: jaxmec.evaluate("optimla"), "did you mean 'optimal'"),
    ],
)
def test_wrong_names_and_values_are_told_before_anything_runs(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_policy_meets_only_environments_it_fits(cartpole, amsa):
    with pytest.raises(ValueError, match="trained on CartPole-v1"):
        jaxmec.evaluate(cartpole, env=MULTI)
    with pytest.raises(ValueError, match="observations"):
        jaxmec.evaluate(amsa, information="slot_start", episodes=1)


def test_a_run_resumed_ends_with_the_same_policy(tmp_path):
    whole = jaxmec.train("dqn", directory=tmp_path / "whole", **SMALL)
    short = {**SMALL, "steps": 700}
    jaxmec.train("dqn", directory=tmp_path / "part", **short)
    resumed = jaxmec.train("dqn", directory=tmp_path / "part", resume=True, **SMALL)
    for a, b in zip(
        jax.tree.leaves(whole.policy.learner), jax.tree.leaves(resumed.policy.learner), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "part" / "policy").is_dir()
    shutil.rmtree(tmp_path / "part")


def test_a_window_shorter_than_a_slot_is_warned_of():
    small = {"steps": 64, "num_envs": 2, "eval_every": 64, "validation_envs": 2, "progress": False}
    setting = {"preset": "amcoedge-20", "neighbours": 5, "slots": 2, "hidden": (4,)}
    warned = r"window is 32, and 1 of .* 300 tasks.* about 342"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # said before anything is compiled
        with pytest.raises(UserWarning, match=warned):
            jaxmec.train("mlp-pathwise", window=32, **small, **setting)


@pytest.mark.parametrize("name", ["ddrl-amsa-taught", "mlp-carried", "ddrl-ats-pathwise"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_training_starts_from_is_shortened_as_the_method_is(name, share, monkeypatch):
    """Whatever the method's own length; with one that is not shortened, not at all."""
    asked = []

    def train(method, **options):
        asked.append((method, options["config"]))
        raise KeyboardInterrupt

    teach, own = jaxmec.train, find_method(name).config
    monkeypatch.setattr(experiment, "train", train)
    options = {"steps": round(share * own.steps), "progress": False}
    with pytest.raises(KeyboardInterrupt):
        teach(name, start="ddrl-amsa-cloned", slots=2, **options)
    assert asked == [("ddrl-amsa-cloned", CloningConfig().shortened(share))]


def test_what_training_starts_from_has_its_network_as_far_as_it_can():
    agent = Pathwise(network="servers", hidden=(8, 8), denoising_steps=2)
    cloned = experiment._network_of(agent, Pathwise())
    assert cloned["network"] == "servers" and cloned["hidden"] == (8, 8)
    scoring = experiment._network_of(agent, ScoreTD3())  # it has one network only
    assert scoring["hidden"] == (8, 8) and scoring["denoising_steps"] == 2
    assert "network" not in scoring
