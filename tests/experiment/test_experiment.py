"""The public API: train, save, load, evaluate, on small sizes."""

import dataclasses
import inspect
import json
import shutil
import warnings
from pathlib import Path

import edge_policies
import jax
import numpy as np
import pytest

import jaxmec
from jaxmec import envs, experiment, mec, traces
from jaxmec.experiment import player_of
from jaxmec.experiment.episode import record
from jaxmec.methods import METHODS
from jaxmec.studies import gap
from jaxmec.training import checkpoint
from jaxmec.training.checkpoint import CheckpointCorrupt, CheckpointIncompatible, CheckpointMissing

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


def test_a_policy_is_drawn_from_on_the_same_arrivals(amsa):
    greedy = jaxmec.evaluate(amsa, episodes=2)
    drawn = jaxmec.evaluate(amsa, episodes=2, sampled=True)
    drawn.check_same_episodes(greedy)
    assert not np.array_equal(drawn.values["makespan"], greedy.values["makespan"])
    again = jaxmec.evaluate(amsa, episodes=2, sampled=True)
    np.testing.assert_array_equal(again.values["makespan"], drawn.values["makespan"])


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
    monkeypatch.setattr(experiment.policy, "OBSERVATIONS", 1)
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
    metadata = {"run": {}, "seconds": 0.0, "caller": {"setting": setting}}
    checkpoint.save(tmp_path / "checkpoints", {}, step=8, metadata=metadata)
    with pytest.raises(CheckpointIncompatible, match=r"master node 10 times.*train it again"):
        jaxmec.train("ddrl-ats", preset="fdedge", directory=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, "metadata.name must be a string"),
        ({"agent": []}, "metadata.agent must be an object, got a list of 0"),
        ({"agent": {"class": "DQN"}}, "metadata.agent.fields is missing"),
        ({"spec": {"observation_size": 1e9, "num_actions": 2}}, "observation_size must be a whole"),
        ({"spec": {"observation_size": 4, "num_actions": 10**9}}, "num_actions must be a whole"),
        ({"setting": {"env": "CartPole-v1"}}, "metadata.setting.options is missing"),
        (
            {"setting": {"env": "CartPole-v1", "options": [["a"]]}},
            r"options\[0\] must be a list of 2",
        ),
    ],
)
def test_a_policy_that_says_something_else_of_itself_is_refused(cartpole, tmp_path, changes, said):
    cartpole.save(tmp_path / "policy")
    arrays, manifest = checkpoint.load_policy_arrays(tmp_path / "policy")
    checkpoint.save_policy(tmp_path / "policy", arrays, manifest.metadata | changes)
    with pytest.raises(CheckpointCorrupt, match=said):
        jaxmec.load_policy(tmp_path / "policy")


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
        (
            lambda: jaxmec.make(MULTI, probability=1.5),
            "probability must be a finite number of at least 0 and at most 1.*1.5",
        ),
        (lambda: jaxmec.make(MULTI, probabilty=0.5), "did you mean 'probability'"),
        (lambda: jaxmec.evaluate("optimla"), "did you mean 'optimal'"),
        (lambda: jaxmec.evaluate("triage"), "'triage' is a rule of serving; name Generative"),
        (
            lambda: jaxmec.evaluate("optimal", sampled=True),
            "sampled must be False for scheduler 'optimal'",
        ),
        (lambda: jaxmec.evaluate("optimal", sampled=1), "sampled must be .*got 1"),
    ],
)
def test_wrong_names_and_values_are_told_before_anything_runs(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_where_schedulers_are_played_no_option_has_an_arguments_name():
    for row in envs.ENVIRONMENTS.values():
        for call in (jaxmec.evaluate, record, gap.measure):
            assert not row.option_names & {*inspect.signature(call).parameters}


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("agent", "momentum"),
        ("spec", "stations"),
        ("setting", "weather"),
        ("options", "weather"),
        ("trace", "weather"),
    ],
)
def test_fields_that_this_version_lacks_are_named_with_the_file(cartpole, tmp_path, part, field):
    path = cartpole.save(tmp_path / "policy")
    about = checkpoint.read_manifest(path).metadata
    where = {
        "agent": about["agent"]["fields"],
        "spec": about["spec"],
        "setting": about["setting"],
    }.get(part)
    if where is not None:
        where[field] = 1
    elif part == "options":
        about["setting"]["options"] = [[field, 1]]
    else:
        about["setting"]["trace"] = {"file": "t.csv", "sha256": "", field: 1}
    other = checkpoint.save_policy(tmp_path / "other", cartpole.policy.learner, about)
    with pytest.raises(CheckpointIncompatible, match=field) as caught:
        jaxmec.load_policy(other)
    assert str(other / "manifest.json") in str(caught.value)


def test_what_has_gone_since_is_left_out_where_it_was_off_and_else_refused(cartpole, tmp_path):
    about = checkpoint.read_manifest(cartpole.save(tmp_path / "policy")).metadata
    about["setting"]["options"] = [["privileged", False]]
    off = checkpoint.save_policy(tmp_path / "off", cartpole.policy.learner, about)
    assert jaxmec.load_policy(off).setting == cartpole.policy.setting
    about["setting"]["options"] = [["privileged", True]]
    on = checkpoint.save_policy(tmp_path / "on", cartpole.policy.learner, about)
    with pytest.raises(CheckpointIncompatible, match="privileged"):
        jaxmec.load_policy(on)
    about["agent"] = {"class": "ScoreTD3", "fields": {"tau": 0.01}}
    gone = checkpoint.save_policy(tmp_path / "gone", cartpole.policy.learner, about)
    with pytest.raises(CheckpointIncompatible, match=r"ScoreTD3.*train 'ddrl-amsa-pathwise'"):
        jaxmec.load_policy(gone)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("tau", 3.0, "tau must be"), ("hidden", None, "hidden")],
)
def test_a_field_that_this_version_refuses_is_named_with_the_file(
    cartpole, tmp_path, field, value, message
):
    about = checkpoint.read_manifest(cartpole.save(tmp_path / "policy")).metadata
    about["agent"]["fields"][field] = value
    other = checkpoint.save_policy(tmp_path / "other", cartpole.policy.learner, about)
    with pytest.raises(CheckpointIncompatible, match=message):
        jaxmec.load_policy(other)


def test_a_path_will_do_wherever_a_policy_will(amsa, tmp_path, monkeypatch):
    """Saved alone, in a run's directory, and in a directory that is named like a scheduler."""
    monkeypatch.chdir(tmp_path)
    amsa.save("run/policy")
    amsa.save("local")
    expected = jaxmec.evaluate(amsa.policy, episodes=2)
    for path in ("run/policy", "run", Path("run"), "./local", Path("local")):
        report = jaxmec.evaluate(path, episodes=2)
        assert report.name == amsa.name
        np.testing.assert_array_equal(report.values["makespan"], expected.values["makespan"])
        assert player_of(path).name == jaxmec.load_policy(path).name == amsa.name
    assert player_of("local").name == "local"
    assert gap._entry("local") == jaxmec.SCHEDULERS["local"]
    assert gap._entry("./local").name == gap._entry("run").name == amsa.name
    Path("drlcoedge").mkdir()
    assert gap._entry("drlcoedge") == METHODS["drlcoedge"]
    for missing in ("./optimal", "runs/none", "none.policy"):
        with pytest.raises(ValueError, match="there is no policy at"):
            jaxmec.evaluate(missing)
    with pytest.raises(CheckpointMissing):
        jaxmec.evaluate(Path("optimal"))
    with pytest.raises(TypeError, match=r"expected a scheduler's name.*got float"):
        jaxmec.evaluate(1.0)


def test_of_a_result_the_best_policy_is_recorded(amsa):
    episode, best = (record(policy, seed=2, slots=2) for policy in (amsa, amsa.policy))
    np.testing.assert_array_equal(episode.makespan, best.makespan)
    assert player_of(amsa).name == amsa.name


def tasks(work=0.5, slots=3):
    """A trace in memory whose float32 numbers have no short decimals."""
    return mec.trace_workload(
        slot=[0, 0, 1], origin=[0, 3, 1], size=[2.1, 3.0, 2.5], work=[0.4 / 3, work, 0.3],
        slots=slots,
    )  # fmt: skip


@pytest.mark.slow
def test_tasks_in_memory_are_saved_with_what_learnt_from_them(tmp_path):
    sizes = SMALL | {"steps": 700, "eval_episodes": 1, "config.eval_every": 500}
    sizes.pop("eval_every")
    home = tmp_path / "run"
    result = jaxmec.train("drlcoedge", directory=home, env_options={"workload": tasks()}, **sizes)
    loaded = jaxmec.load_policy(home)
    assert loaded.setting.trace.file == str(home / "trace.csv")
    jax.tree.map(np.testing.assert_array_equal, loaded.setting.trace.workload(), tasks())
    with pytest.raises(ValueError, match=r"trace\.csv holds other tasks"):
        jaxmec.train(
            "drlcoedge", directory=home, resume=True, env_options={"workload": tasks(0.6)}, **sizes
        )
    again = jaxmec.train(
        "drlcoedge", directory=home, resume=True, env_options={"workload": tasks()}, **sizes
    )
    assert again.setting == result.setting
    with pytest.raises(FileExistsError):  # and the trace stays
        jaxmec.train("drlcoedge", directory=home, env_options={"workload": tasks(0.6)}, **sizes)
    # In memory until it is saved.
    options = (("workload", tasks()), *loaded.setting.options)
    setting = dataclasses.replace(loaded.setting, options=tuple(sorted(options)), trace=None)
    policy = experiment.Policy(loaded.agent, loaded.learner, loaded.spec, setting, "mine")
    saved = jaxmec.load_policy(policy.save(tmp_path / "mine"))
    assert saved.setting.trace.file == str(tmp_path / "mine.csv")
    assert dict(saved.setting.options) == dict(loaded.setting.options)
    for played in (policy, saved):  # other tasks are played where they are given
        other = player_of(played, workload=tasks(0.7)).params.workload
        np.testing.assert_array_equal(other.work, tasks(0.7).work)
        other = player_of(played, trace=home / "trace.csv").params.workload
        np.testing.assert_array_equal(other.work, tasks().work)


def test_tasks_in_memory_take_no_file_s_place(tmp_path):
    """Neither a file of the user's own, nor that of a run in parts."""
    mine = tmp_path / "trace.csv"
    mine.write_text("slot,origin,size:Mbit,work:Gcycles\n0,0,1,1\n0,1,1,2\n")
    before = mine.read_bytes()
    with pytest.raises(ValueError, match=r"trace\.csv holds other tasks"):
        jaxmec.train("drlcoedge", directory=tmp_path, env_options={"workload": tasks()}, **SMALL)
    assert mine.read_bytes() == before


def test_the_same_tasks_are_the_same_in_memory_and_in_a_file(tmp_path):
    file = tmp_path / "tasks.csv"
    workload = tasks()
    columns = {name: getattr(workload, name) for name in traces.Rows._fields}
    traces.write(file, traces.Rows(**columns))
    in_memory = experiment.Setting(MULTI, "amcoedge", options=(("workload", workload),))
    slots = int(workload.slots)
    in_file = experiment.Setting(MULTI, "amcoedge", trace=traces.TraceFile.of(file, slots))
    experiment.check_same_tasks("one", in_memory, "other", in_file)
    others = dataclasses.replace(in_memory, options=(("workload", tasks(0.6)),))
    with pytest.raises(ValueError, match="arrivals"):
        experiment.check_same_tasks("one", others, "other", in_file)


def test_arrivals_that_no_file_can_hold_are_refused_before_training(tmp_path):
    law = jaxmec.PRESETS["amcoedge"].params().workload
    with pytest.raises(TypeError, match=r"workload is a BernoulliWorkload.*trace_workload"):
        jaxmec.train("drlcoedge", directory=tmp_path / "run", env_options={"workload": law})
    assert not (tmp_path / "run").exists()
    for call in (jaxmec.train, jaxmec.evaluate):
        given = {"env_options": {"workload": tasks()}} if call is jaxmec.train else {
            "workload": tasks()}  # fmt: skip
        name = "drlcoedge" if call is jaxmec.train else "local"
        with pytest.raises(TypeError, match="both arrivals"):
            call(name, trace=tmp_path / "trace.csv", **given)


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
