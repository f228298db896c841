"""Trains on one device and on eight forced ones: many_devices.py DIRECTORY CASE...

Fails where eight devices, or a run that changes their number half way, do not compute what one
device does.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Counting, Walk, WalkParams

import jaxmec
from jaxmec.agents import DQN, DSAC
from jaxmec.training import checkpoint, devices, runner
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.pathwise import PathwiseConfig

ROWS = 11  # of the replay buffer: a length that nothing else has
SIZES = TrainConfig(
    steps=96,
    num_envs=8,
    prefill=32,
    buffer_size=ROWS * 8,
    batch_size=8,
    updates_per_step=1,
    eval_every=32,
    eval_episodes=8,
)  # 2 chunks of 4 vectorised steps


def plain(tree: Any) -> Any:
    """Arrays of numbers on the host: keys as their data."""

    def leaf(x: Any) -> Any:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(leaf, tree)


def assert_alike(one: Any, other: Any) -> None:
    """The same, within rounding; whole numbers exactly."""
    one, other = plain(one), plain(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        exact = {"rtol": 0} if a.dtype.kind in "iub" else {"rtol": 1e-3, "atol": 1e-5}
        np.testing.assert_allclose(a, b, err_msg=jax.tree_util.keystr(path), **exact)


def of_cartpole() -> tuple[Any, Any]:
    env, params = jaxmec.make("CartPole-v1")
    return env, params.replace(max_steps_in_episode=10)


def walk(home: Path) -> None:
    """Environments on eight devices, then seeds on two, against one; and what is communicated."""
    params = WalkParams()
    given: Any = (Counting(), Walk(), params)
    one = runner.run(*given, SIZES, 2, progress=False)
    shorter = TrainConfig(**(vars(SIZES) | {"steps": 64}))
    eight = runner.run(*given, shorter, 2, directory=home, devices=8, progress=False)
    stored = eight.state.replay.items.observation
    assert {part.data.shape for part in stored.addressable_shards} == {(2, ROWS, 1, 2)}
    template = jax.eval_shape(lambda: eight.state)
    wanted = {"state": template, "history": checkpoint.AS_STORED}
    saved, _ = checkpoint.restore(home / runner.CHECKPOINTS, wanted)
    assert saved["state"].key.devices() == {jax.devices()[0]}
    jax.tree.map(np.testing.assert_array_equal, plain(saved["state"]), plain(eight.state))
    two = runner.run(*given, SIZES, 2, directory=home, resume=True, devices=2, progress=False)
    assert len(two.state.key.sharding.device_set) == 2
    assert_alike((one.state, one.history), (two.state, two.history))

    # No device ever has more of the buffer than its own column.
    placement = devices.place(8, 2, SIZES)
    program = runner._Programs(*given[:2], SIZES, False, placement)
    compiled = program.chunk.lower(placement.shared(params), (), eight.state).compile().as_text()
    assert f"[2,{ROWS},1,2]" in compiled and f"[2,{ROWS},8,2]" not in compiled


def refused(home: Path) -> None:
    """Sizes that cannot be shared out, each with its reason."""
    for change, seeds, reason in (
        ({"num_envs": 12}, 1, "num_envs is 12; expected a multiple of devices, 8, since seeds, 1"),
        ({"batch_size": 4}, 9, "batch_size is 4; expected a multiple of devices, 8"),
    ):
        config = TrainConfig(**(vars(SIZES) | change))
        with pytest.raises(ValueError, match=reason):
            devices.place("all", seeds, config)
        devices.place("all", 16, config)  # by seeds, and nothing else need be shared out
    with pytest.raises(ValueError, match="devices is 9; expected at most 8"):
        devices.place(9, 9, SIZES)
    jax.config.update("jax_threefry_partitionable", False)
    with pytest.raises(ValueError, match="jax_threefry_partitionable is False"):
        devices.place(8, 8, SIZES)
    jax.config.update("jax_threefry_partitionable", True)


def dqn(home: Path) -> None:
    of_one_seed(DQN(hidden=(8,)), *of_cartpole(), SIZES)


def dsac(home: Path) -> None:
    agent = DSAC(hidden=(8,), denoising_steps=2)
    of_one_seed(agent, *of_cartpole(), SIZES)


def n_step(home: Path) -> None:
    of_one_seed(DQN(hidden=(8,)), *of_cartpole(), dataclasses.replace(SIZES, n_step=3))


def ddrl_amsa(home: Path) -> None:
    method("ddrl-amsa", home, **vars(SIZES), denoising_steps=2, hidden=(8,), slots=1)


def mlp_pathwise(home: Path) -> None:
    sizes = PathwiseConfig(
        steps=128, num_envs=8, window=8, validation_envs=8, eval_every=64, eval_episodes=1
    )
    method("mlp-pathwise", home, **vars(sizes), slots=1)


def mlp_cloned(home: Path) -> None:
    sizes = CloningConfig(
        steps=128, windows=2, validation_windows=1, window=8, batch_size=16, eval_every=64,
        eval_episodes=1,
    )  # fmt: skip
    method("mlp-cloned", home, **vars(sizes), slots=1)


def method(name: str, home: Path, **options: Any) -> None:
    warnings.simplefilter("ignore")  # a window this short leaves tasks out
    one, eight = (jaxmec.train(name, progress=False, devices=count, **options) for count in (1, 8))
    assert_alike((one.state, one.history), (eight.state, eight.history))
    assert eight.policy.save(home / name) == home / name


def of_one_seed(agent: Any, env: Any, params: Any, config: Any) -> None:
    one, eight = (
        runner.run(agent, env, params, config, 1, devices=count, progress=False) for count in (1, 8)
    )
    assert_alike((one.state, one.history), (eight.state, eight.history))


if __name__ == "__main__":
    assert jax.device_count() == 8
    for case in sys.argv[2:]:
        globals()[case](Path(sys.argv[1]) / case)
