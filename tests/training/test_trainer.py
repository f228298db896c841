"""A new way to train is one class: everything that serves the others serves it too."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.agents.dqn import DQN
from jaxmec.envs.cartpole import CartPole
from jaxmec.training import TrainConfig, parts, runner
from jaxmec.training.rollout import make_spec
from jaxmec.training.trainer import Trainer, train


class DriftState(NamedTuple):
    learner: Any
    key_evaluation: jax.Array
    env_steps: jax.Array


@dataclass(frozen=True)
class Drift(Trainer[Any, DriftState]):
    """Each update makes the weight larger by its progress."""

    state_type: ClassVar[Any] = DriftState

    steps: int = 60
    eval_every: int = 20
    eval_episodes: int = 1
    step_size: int = 7

    def __post_init__(self) -> None:
        self.check_counts()

    @property
    def stride(self) -> int:
        return self.step_size

    def init(self, agent: Any, env: Any, params: Any, key: jax.Array) -> DriftState:
        learner = agent.init(key, make_spec(env, params))
        return DriftState(learner, key, jnp.zeros((), jnp.int32))

    def chunk(self, agent: Any, env: Any, params: Any, state: DriftState) -> Any:
        def update(state: DriftState, _: None) -> Any:
            progress = self.progress(state.env_steps // self.stride)
            learner = state.learner._replace(weight=state.learner.weight + progress)
            steps = state.env_steps + self.stride
            return state._replace(learner=learner, env_steps=steps), {"progress": progress}

        state, metrics = jax.lax.scan(update, state, length=self.chunk_steps // self.stride)
        return state, {"progress": jnp.mean(metrics["progress"])}

    def scaled(self, share: float) -> Drift:
        return replace(self, steps=math.ceil(share * self.steps))

    def work(self, agent: Any) -> float:
        return self.total_steps / self.stride


def test_a_new_way_to_train_is_run_saved_resumed_and_parted(
    counting: Any, walk: Any, walk_params: Any, tmp_path: Path
) -> None:
    drift = Drift()
    assert (drift.chunk_steps, drift.num_chunks, drift.total_steps) == (21, 3, 63)
    assert drift.work(counting) == 9 and drift.prefill_steps == 0
    given = (counting, walk, walk_params)
    state, history = jax.jit(lambda key: train(*given, drift, key))(jax.random.key(1))
    start = drift.init(*given, jax.random.key(1))
    np.testing.assert_allclose(state.learner.weight - start.learner.weight, 4.5, rtol=1e-5)
    np.testing.assert_allclose(history.training["progress"], [0, 1 / 8, 4 / 8, 7 / 8])
    np.testing.assert_array_equal(history.env_steps, [0, 21, 42, 63])

    whole = parts.run(*given, drift, 2, progress=False)
    np.testing.assert_allclose(whole.state.learner.weight[1], state.learner.weight, rtol=1e-6)
    home = tmp_path / "run"
    runner.run(*given, drift.scaled(0.5), 2, directory=home, progress=False)
    with pytest.raises(ValueError, match=r"config\.step_size was 7 and is 3 now"):
        runner.run(*given, Drift(step_size=3), 2, directory=home, resume=True, progress=False)
    apart = parts.run(*given, drift, 2, seeds_at_once=1, progress=False)
    np.testing.assert_array_equal(apart.state.learner.weight, whole.state.learner.weight)
    with pytest.raises(ValueError, match="step_size must be a whole number of at least 1, got 0"):
        Drift(step_size=0)


def test_a_training_needs_every_method() -> None:
    class Half(Trainer[Any, Any]):
        @property
        def stride(self) -> int:
            return 1

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", ["jaxmec.training", "jaxmec.training.loop"])
def test_the_functions_of_before_go_on_for_a_version(module: str) -> None:
    before = importlib.import_module(module)
    config = TrainConfig(
        steps=40, num_envs=2, prefill=8, buffer_size=32, batch_size=4, eval_every=8
    )
    assert before.TrainConfig is TrainConfig
    env, params = CartPole(), CartPole().default_params
    given = (DQN(hidden=(4,)), env, params)
    with pytest.warns(DeprecationWarning, match="the config's method init now"):
        init = before.init
    old, new = init(*given, config, jax.random.key(0)), config.init(*given, jax.random.key(0))
    assert jax.tree.structure(old) == jax.tree.structure(new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = before.nothing
