"""Exported policies: three forms that decide alike, and a manifest that explains them."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from edge_policies import CASES, MULTI, Case

import jaxmec
from jaxmec.agents import DQN, DSAC
from jaxmec.core import files
from jaxmec.core.bundle import BundleNotWritten, is_bundle, open_bundle
from jaxmec.deploy import distil, export
from jaxmec.deploy.distil import DistilConfig
from jaxmec.deploy.graph import NotTranslatable
from jaxmec.experiment import Policy
from jaxmec.training import checkpoint


def test_a_bundle_holds_what_it_says(bundle):
    path = bundle("subset")
    opened = open_bundle(path)
    about = opened.manifest
    assert about["method"] == "dsac"
    assert about["agent"]["class"] == "DSAC" and about["agent"]["fields"]["denoising_steps"] == 5
    assert about["setting"]["preset"] == "amcoedge"
    assert about["network"]["capacity"] == [10, 20, 30, 40, 50]
    assert about["network"]["units"]["capacity"] == "Gcycles/s"
    assert about["action"]["mode"] == "subset" and about["action"]["num_preferences"] == 31
    assert about["allocation"] == {"rule": "hecwa", "information": "true"}
    assert "x_K = 0" in about["noise"]
    features = {feature["name"]: feature for feature in about["observation"]["features"]}
    assert features["size"] == {
        "name": "size",
        "length": 1,
        "unit": "Mbit",
        "scale": 5.0,
        "about": "size of the task's input",
    }
    assert features["backlog"]["length"] == 5 and features["backlog"]["unit"] == "s"
    assert {"jax", "numpy", "python", "jaxmec", "orbax-checkpoint"} <= about["versions"].keys()
    assert max(about["parity"]["largest_difference_to_jax"].values()) < 1e-4
    # The policy alone: no optimiser, no critics, no replay buffer.
    saved = json.loads((path / "policy" / "manifest.json").read_text())
    assert saved["kind"] == "policy"
    (part,) = {leaf["path"][0] for leaf in saved["leaves"]}
    assert part.endswith("actor")
    kinds = {entry.suffix for entry in path.rglob("*") if entry.is_file()}
    assert not kinds & {".py", ".pkl", ".pickle", ".pt", ".npy", ".so"}


def test_how_far_forms_may_differ_grows_with_the_preferences(tmp_path):
    """Values of some ten thousands are exported: their rounding is no fault of a form's."""
    policy = CASES["expected"].policy()
    learner = jax.tree.map(lambda leaf: 30 * leaf, policy.learner)
    large = Policy(policy.agent, learner, policy.spec, policy.setting, "large")
    export.export(large, tmp_path / "bundle")
    parity = open_bundle(tmp_path / "bundle").manifest["parity"]["largest_difference_to_jax"]
    assert parity["onnx"] > 1e-4  # or nothing was tried


def test_what_could_not_be_read_back_takes_no_bundle_s_place(bundle, tmp_path):
    policy = CASES["subset"].policy()
    shutil.copytree(bundle("subset"), tmp_path / "bundle")
    before = open_bundle(tmp_path / "bundle").digest
    named = Policy(policy.agent, policy.learner, policy.spec, policy.setting, "x" * 250)
    with pytest.raises(BundleNotWritten, match="method must be a printable name"):
        export.export(named, tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").digest == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_tasks_in_memory_alone_are_not_exported(tmp_path):
    policy = CASES["subset"].policy()
    workload = jaxmec.mec.trace_workload([0, 0], [0, 1], [1.0, 2.0], [1.0, 2.0])
    options = tuple(sorted((("workload", workload), *policy.setting.options)))
    setting = dataclasses.replace(policy.setting, options=options)
    alone = Policy(policy.agent, policy.learner, policy.spec, setting, "alone")
    with pytest.raises(export.NotExportable, match="in memory alone: save the policy"):
        export.export(alone, tmp_path / "bundle")


def test_a_torn_line_of_metrics_is_left_out(tmp_path):
    point = {"env_steps": 8, "seconds": 1.0, "evaluation": {"return": [1.0]}, "training": {}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(point) + '\n{"env_steps": 1')
    assert export.training_summary(tmp_path)["env_steps"] == 8


def test_a_bundle_opens_as_a_policy(bundle):
    policy = CASES["subset"].policy()
    loaded = jaxmec.load_policy(bundle("subset"))
    rows = np.random.default_rng(0).uniform(size=(64, policy.spec.observation_size))
    np.testing.assert_array_equal(loaded(rows), policy(rows))
    assert loaded.setting == policy.setting


MANY_DEVICES = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jaxmec
from jaxmec.core import files
from jaxmec.deploy import export
assert jax.device_count() == 8
bundle, rows, target = sys.argv[1:]
policy = jaxmec.load_policy(bundle)
rows = np.load(rows)
chosen = [policy(rows)]
for devices in (2, 8):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("e",))
    policy.learner = jax.device_put(policy.learner, NamedSharding(mesh, PartitionSpec()))
    chosen.append(policy(rows))
np.save(target + ".npy", chosen)
export.export(policy, target)
"""


def test_a_bundle_goes_from_one_device_to_many_and_back(bundle, tmp_path):
    """Opened on a machine of 8 devices, spread over 2 and all of them, written there again."""
    rows = export.random_observations(
        np.random.default_rng(3), 64, open_bundle(bundle("top_k")).manifest
    )
    np.save(tmp_path / "rows.npy", rows)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    arguments = [str(bundle("top_k")), str(tmp_path / "rows.npy"), str(tmp_path / "back")]
    subprocess.run(
        [sys.executable, "-c", MANY_DEVICES, *arguments], env=environment, check=True, timeout=300
    )
    wanted = CASES["top_k"].policy()(rows)
    for chosen in [*np.load(tmp_path / "back.npy"), jaxmec.load_policy(tmp_path / "back")(rows)]:
        np.testing.assert_array_equal(chosen, wanted)


def test_the_program_is_for_cpu_and_cuda_and_any_batch(bundle):
    exported = jax.export.deserialize(
        bytearray(open_bundle(bundle("subset")).read("policy.stablehlo"))
    )
    assert set(exported.platforms) == {"cpu", "cuda"}
    (shape,) = exported.in_avals
    assert not isinstance(shape.shape[0], int)
    for count in (1, 3):
        assert exported.call(np.ones((count, shape.shape[1]), np.float32)).shape == (count, 42)


def test_a_run_is_exported_with_its_training(tmp_path):
    jaxmec.train(
        DQN(hidden=(8,)), env=MULTI, slots=2, steps=300, num_envs=2, prefill=100, batch_size=8,
        buffer_size=500, eval_every=200, eval_episodes=1, progress=False,
        directory=tmp_path / "run",
    )  # fmt: skip
    bundle = export.export(tmp_path / "run", tmp_path / "bundle")
    assert bundle.manifest["training"]["env_steps"] >= 300
    assert "return" in bundle.manifest["training"]["evaluation"]
    # A bundle can be exported again, and replaces the one that is there.
    again = export.export(tmp_path / "bundle", tmp_path / "bundle")
    for section in ("agent", "training", "distilled"):
        assert again.manifest[section] == bundle.manifest[section]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((("action", "mask"),), "actions of the mode 'mask' cannot be exported"),
        ((("action", "fraction"),), "actions of the mode 'fraction' cannot be exported"),
    ],
)
def test_actions_that_preferences_do_not_say_are_refused(tmp_path, options, message):
    policy = Case(DQN(hidden=(8,)), MULTI, "amcoedge", options).policy()
    with pytest.raises(export.NotExportable, match=message):
        export.export(policy, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_environment_without_tasks_is_refused(tmp_path):
    policy = Case(DQN(hidden=(8,)), "CartPole-v1", None).policy()
    with pytest.raises(export.NotExportable, match="CartPole-v1, which has no tasks"):
        export.export(policy, tmp_path / "bundle")


class Contrary(DQN):
    """Acts otherwise than its preferences say."""

    def greedy(self, q):
        return jnp.argmin(q).astype(jnp.int32)


class Sorting(DQN):
    """Prefers by a primitive that has no translation."""

    def preferences(self, learner, observation):
        return jnp.sort(super().preferences(learner, observation))


@pytest.mark.parametrize(
    ("agent", "error", "message"),
    [
        (Contrary(hidden=(8,)), export.NotExportable, "greedy action of Contrary is not what"),
        (Sorting(hidden=(8,)), NotTranslatable, "primitive 'sort'"),
    ],
)
def test_a_policy_that_the_forms_cannot_say_is_refused(tmp_path, agent, error, message):
    policy = Case(agent, MULTI, "amcoedge").policy()
    with pytest.raises(error, match=message):
        export.export(policy, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("where", ["checkpoint", "graph", "manifest"])
def test_a_failed_export_leaves_the_bundle_before_it(bundle, tmp_path, monkeypatch, code, where):
    target = tmp_path / "bundle"
    shutil.copytree(bundle("subset"), target)
    before = open_bundle(target).digest

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    if where == "checkpoint":
        monkeypatch.setattr(files, "flush", fail)
    elif where == "graph":
        monkeypatch.setattr(export, "to_onnx", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    error = checkpoint.CheckpointNotSaved if where != "graph" else BundleNotWritten
    with pytest.raises(error, match=os.strerror(code)):
        export.export(CASES["top_k"].policy(), target)
    monkeypatch.undo()
    assert open_bundle(target).digest == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_nothing_else_is_ever_replaced(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for target in (mine, mine / "thesis.tex"):
        with pytest.raises(BundleNotWritten, match="something else is there"):
            export.export(CASES["top_k"].policy(), target)
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert not is_bundle(mine)


@pytest.mark.slow
def test_one_step_instead_of_many(tmp_path):
    """A student of one step decides nearly as its teacher; the difference is measured."""
    case = Case(
        DSAC(hidden=(16,), judged_chains=1, denoising_steps=2),
        MULTI,
        "amcoedge",
        (("slots", 2), ("information", "local")),
    )
    teacher = case.policy()
    config = DistilConfig(updates=600, num_envs=4, kept=256, episodes=2)
    student, measured = distil.distil(teacher, config)
    assert isinstance(student, Policy)
    assert student.agent.denoising_steps == 1 and student.agent.judged_chains == 0
    assert measured.denoising_steps == 2 and measured.judged_chains == 1
    untaught = Policy(student.agent, teacher.learner, teacher.spec, teacher.setting, "untaught")
    seen = distil.observer(teacher, config)(teacher.learner, jax.random.key(9))
    alike = [np.mean(np.asarray(p(seen)) == teacher(seen)) for p in (student, untaught)]
    assert alike[0] > 0.9 and alike[0] > alike[1] + 0.05
    assert measured.agreement > 0.9
    played = jaxmec.evaluate(student, episodes=2, seed=1).mean("makespan")
    assert measured.metric == "makespan" and measured.student == pytest.approx(played)
    assert measured.ratio == pytest.approx(played / measured.teacher)

    opened = export.export(student, tmp_path / "bundle")
    assert opened.manifest["agent"]["fields"]["denoising_steps"] == 1


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (DQN(hidden=(8,)), "DQN has no chain"),
        (
            DSAC(hidden=(8,), denoising_steps=1, judged_chains=0),
            "in one step without noise already",
        ),
    ],
)
def test_there_is_nothing_to_distil_in_one_step(agent, message):
    with pytest.raises(ValueError, match=message):
        distil.distil(Case(agent, MULTI, "amcoedge").policy())
