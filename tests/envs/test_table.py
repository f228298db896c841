"""The table of environments: a new one is one file and one row."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import toy_environment

import jaxmec
from jaxmec import envs
from jaxmec.cli import index
from jaxmec.envs.table import of_problem
from jaxmec.schedulers import SCHEDULERS
from jaxmec.studies.study import Entry, Study


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(envs.ENVIRONMENTS, "Toy-v0", toy_environment.ROW)


@pytest.mark.usefixtures("toy")
def test_a_new_environment_is_a_file_and_a_row(tmp_path):
    """Made, listed, trained, evaluated, saved, loaded, recorded and compared."""
    env, params = jaxmec.make("Toy-v0", reward=2.0)
    assert isinstance(env, toy_environment.Toy) and params.reward == 2.0
    with pytest.raises(TypeError, match="Toy-v0 has no option 'rewards'; did you mean 'reward'"):
        jaxmec.make("Toy-v0", rewards=1.0)
    with pytest.raises(TypeError, match="Toy-v0 has no presets"):
        jaxmec.make("Toy-v0", preset="amcoedge")
    assert index.build()["environments"]["Toy-v0"]["about"] == "go to the light"

    agent = jaxmec.DQN(hidden=(8,))
    result = jaxmec.train(
        agent, env="Toy-v0", steps=600, num_envs=2, prefill=128, eval_every=300,
        reward=3.0, progress=False,
    )  # fmt: skip
    report = jaxmec.evaluate(result, episodes=2)
    assert 0 <= report.mean("return") <= 60 and report.mean("length") == 20
    loaded = jaxmec.load_policy(result.save(tmp_path / "policy"))
    assert loaded.setting == result.setting and dict(loaded.setting.options) == {"reward": 3.0}
    assert jaxmec.evaluate(loaded, episodes=2).mean("return") == report.mean("return")
    episode = jaxmec.episode.record(loaded)
    assert len(episode) == 20 and episode.state.shape == (21, 2)
    with pytest.raises(ValueError, match="Toy-v0 has none"):
        jaxmec.evaluate("local", env="Toy-v0")
    with pytest.raises(ValueError, match="Toy-v0 has no presets, no schedulers"):
        Study("toys", "Toys", env="Toy-v0", schedulers=(Entry("local"),))
    assert Study("toys", "Toys", env="Toy-v0", methods=(Entry("dqn"),)).metric == "return"


def test_rows_name_what_there_is():
    for row in envs.ENVIRONMENTS.values():
        assert dataclasses.is_dataclass(row.options)
        if row.schedules:
            assert row.preset().problem == row.problem
            assert row.oracle is not None and SCHEDULERS[row.oracle].oracle
            assert of_problem(row.problem) is row
            env, _ = row.make(**dict(row.set_options))
            assert env.name == row.name and env.splits == (row.problem == "multi")
        else:
            assert row.oracle is None
            env, params = row.make()
            assert env.name == row.name and env.num_actions == env.action_space(params).n
    with pytest.raises(ValueError, match="did you mean 'CartPole-v1'"):
        envs.find_environment("cartpole-v1")


def test_the_table_and_the_presets_need_no_jax():
    code = """if True:
        import sys, jaxmec, jaxmec.envs
        assert "amcoedge" in jaxmec.PRESETS and "CartPole-v1" in jaxmec.ENVIRONMENTS
        assert jaxmec.envs.find_environment("CartPole-v1").about
        heavy = {"jax", "gymnax", "gymnasium", "flax"} & set(sys.modules)
        assert not heavy, heavy
        import gymnax
        assert gymnax.make("MultiServerOffloading-v0", slots=2)[0].splits
        assert gymnax.make("jaxmec/CartPole-v1")[0].name == "CartPole-v1"
        assert type(gymnax.make("CartPole-v1")[0]).__module__.startswith("gymnax")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_old_table_of_options_warns():
    with pytest.warns(DeprecationWarning, match="ENVIRONMENTS"):
        choices = envs.CHOICES
    assert "allocate" in choices["MultiServerOffloading-v0"] and choices["CartPole-v1"] == ()
    with pytest.warns(DeprecationWarning, match=r"jaxmec\.envs\.multi"):
        assert envs.offloading.MultiServerOffloading is envs.MultiServerOffloading


def test_an_environment_takes_its_options_as_one_object_or_by_name():
    _, params = jaxmec.make("MultiServerOffloading-v0")
    options = envs.MultiServerOffloading.Options(information="local", action="top_k", k=2)
    env = envs.MultiServerOffloading(params, options, features="times")
    assert env.options == dataclasses.replace(options, features="times")
    assert (env.information, env.feature_set, env.action, env.k) == ("local", "times", "top_k", 2)
    with pytest.raises(TypeError, match="informations"):
        envs.MultiServerOffloading(params, informations="full")


# What a run's identity says of its environment (`jaxmec.training.identity`). A name more, and runs
# that were begun before are refused: what is no choice begins with an underscore.
OF_BOTH = {
    "action", "charges", "feature_set", "information", "keeps_history", "neighbours",
    "num_servers", "place_is_seen",
}  # fmt: skip
SAID = {
    "CartPole-v1": set(),
    "SingleServerOffloading-v0": OF_BOTH,
    "MultiServerOffloading-v0": OF_BOTH
    | {"allocate", "allocation_information", "entry_gradient", "k"},
}


@pytest.mark.parametrize("name", SAID)
def test_a_run_of_before_goes_on(name):
    environment, _ = jaxmec.make(name)
    assert {key for key in vars(environment) if not key.startswith("_")} == SAID[name]
