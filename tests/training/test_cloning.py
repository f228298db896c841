"""Behaviour cloning: what is shown is learned, held back rows judge it, and it can be gone on
from."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmec
from jaxmec.agents import SAC, Pathwise
from jaxmec.training import checkpoint
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.rollout import make_spec

SETTING = {
    "capacity": (10, 20, 30), "rate": (400, 450, 500), "positions": 10, "probability": 0.5,
    "slots": 3,
}  # fmt: skip
SIZES = {
    "windows": 12, "validation_windows": 4, "window": 30, "batch_size": 64, "steps": 12_800,
    "eval_every": 6_400, "hidden": (16,), "denoising_steps": 2,
    "progress": False, **SETTING,
}  # fmt: skip


def assert_same(one, other):
    """Learners, to the bit."""
    for name in ("actor", "candidate", "optimiser", "cost", "updates", "rate"):
        leaves = (jax.tree.leaves(getattr(learner, name)) for learner in (one, other))
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)


class Teacher:
    """An environment whose demonstrator gives the size of a task as a score, and its double."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)

    def demonstrate(self, key, params, length):
        observation = jax.random.uniform(key, (length, 12))
        action = jnp.stack([observation[:, 0], -2 * observation[:, 0]], axis=1) @ jnp.eye(2, 6)
        return Shown(observation, action, None, jnp.arange(length) % 3 != 0)


@dataclasses.dataclass
class Shown:
    observation: jax.Array
    action: jax.Array
    makespan: None
    counts: jax.Array


jax.tree_util.register_dataclass(
    Shown, data_fields=["observation", "action", "makespan", "counts"], meta_fields=[]
)


@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_shown_is_learned_and_rows_that_do_not_count_are_not(steps):
    env, params = jaxmec.make(
        "MultiServerOffloading-v0", preset="amcoedge", action="score", **SETTING
    )
    teacher = Teacher(env)
    teacher.observation_space = lambda params: jaxmec.envs.spaces.Scores(12)
    teacher.feature_layout = lambda params: (("x", 12),)
    agent = Pathwise(hidden=(32,), denoising_steps=steps, learning_rate=1e-2)
    config = CloningConfig(
        steps=19_200, windows=20, validation_windows=5, window=30, batch_size=64, eval_every=19_200
    )

    @jax.jit
    def run(key):
        state = config.init(agent, teacher, params, key)
        return state, config.chunk(agent, teacher, params, state)

    start, (state, metrics) = run(jax.random.key(0))
    assert int(start.shown.number) == 20 * 20 and int(start.held_back.number) == 5 * 20
    assert make_spec(teacher, params).observation_size == 12
    observation = np.random.default_rng(0).uniform(size=(64, 12)).astype(np.float32)
    scores = jax.vmap(lambda o: agent.preferences(state.learner, o))(observation)
    expected = np.zeros((64, 6))
    expected[:, 0], expected[:, 1] = observation[:, 0], -2 * observation[:, 0]
    assert np.sqrt(np.mean((scores - expected) ** 2)) < 0.1
    assert float(metrics["validation"]) < 0.02 and int(state.updates) == 300


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    return jaxmec.train(
        "ddrl-amsa-cloned", seeds=2, directory=tmp_path_factory.mktemp("run") / "whole", **SIZES
    )


@pytest.mark.slow
def test_the_planner_is_imitated_and_training_goes_on_from_there(cloned):
    losses = cloned.history.training["imitation_loss"]
    assert np.all(losses[:, 2] < losses[:, 1])
    assert not np.allclose(*(jax.tree.leaves(cloned.state.learner.actor)[-1]))  # seeds differ
    on = jaxmec.train(
        "ddrl-amsa-pathwise", seeds=2, start=cloned, steps=160, num_envs=4, window=20,
        validation_envs=4, eval_every=80, hidden=(16,), denoising_steps=2, progress=False,
        learning_rate=1e-12, final_learning_rate=1e-13, **SETTING,
    )  # fmt: skip
    for a, b in zip(
        *(jax.tree.leaves(result.state.learner.actor) for result in (on, cloned)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_a_method_is_taught_first_and_resumed_from_either_part(tmp_path):
    """Stopped in its first part, or in its second, it ends with the bits of one never stopped."""
    options = SETTING | {
        "steps": 1_920, "num_envs": 4, "window": 20, "validation_envs": 4, "eval_every": 960,
        "hidden": (16,), "denoising_steps": 2, "progress": False, "seeds": 2,
    }  # fmt: skip
    whole = jaxmec.train("ddrl-amsa-taught", directory=tmp_path / "whole", **options)
    first = jaxmec.load_policy(tmp_path / "whole" / "start" / "policy")
    assert first.name == "ddrl-amsa-cloned" and first.agent.hidden == (16,)
    assert whole.name == "ddrl-amsa-taught"
    with pytest.raises(FileExistsError, match="holds a run"):
        jaxmec.train("ddrl-amsa-taught", directory=tmp_path / "whole", **options)
    for stopped in ("first", "second"):
        home = tmp_path / stopped
        if stopped == "first":
            shutil.copytree(tmp_path / "whole" / "start", home / "start")
        else:
            shutil.copytree(tmp_path / "whole", home)
            shutil.rmtree(checkpoint.checkpoints(home / "checkpoints")[-1])
        again = jaxmec.train("ddrl-amsa-taught", directory=home, resume=True, **options)
        assert_same(whole.state.learner, again.state.learner)


@pytest.mark.slow
def test_a_cloning_that_was_stopped_ends_with_the_same_bits(cloned, tmp_path):
    shutil.copytree(cloned.directory, tmp_path / "part")
    shutil.rmtree(checkpoint.checkpoints(tmp_path / "part" / "checkpoints")[-1])
    options = SIZES | {"seeds": 2, "directory": tmp_path / "part"}
    resumed = jaxmec.train("ddrl-amsa-cloned", resume=True, **options)
    assert_same(cloned.state.learner, resumed.state.learner)


def test_what_cannot_be_cloned_is_refused():
    env, params = jaxmec.make("MultiServerOffloading-v0", action="score")
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="SAC cannot imitate"):
        CloningConfig().init(SAC(), env, params, key)
    with pytest.raises(TypeError, match="MultiServerOffloading cannot demonstrate"):
        CloningConfig().init(Pathwise(), env, params, key)
    with pytest.raises(ValueError, match="windows must be a whole number of at least 1, got 0"):
        CloningConfig(windows=0)
