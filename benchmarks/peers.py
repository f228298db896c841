"""DQN and SAC on CartPole end to end, ours beside other people's at equal settings; see README.md.

python benchmarks/peers.py --size small
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from measuring import RESULTS, begin, begun, ratio, turns, write

import jaxmec
from jaxmec.agents import Agent
from jaxmec.core import compilation
from jaxmec.training import TrainConfig

RESULT = RESULTS / "peers.json"
REJAX = Path(__file__).parents[1] / "build" / "rejax" / "bin" / "python"
AGENTS = ("dqn", "sac")
HIDDEN, LEARNING_RATE = (64, 64), 3e-4  # those that rejax has


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    config: TrainConfig  # `eval_every` steps are a repetition
    repetitions: int


SMALL = TrainConfig(
    num_envs=16, prefill=1_000, buffer_size=100_000, batch_size=128, updates_per_step=16,
    eval_every=3_200,
)  # fmt: skip
SIZES = {
    "tiny": Size(
        TrainConfig(
            num_envs=4, prefill=16, buffer_size=64, batch_size=8, updates_per_step=2, eval_every=32
        ),
        1,
    ),
    "small": Size(SMALL, 5),
    "full": Size(dataclasses.replace(SMALL, eval_every=16_000), 9),
}


def agent_of(name: str) -> Agent:
    """Our agent with the networks and the learning rates that rejax has."""
    if name == "dqn":
        return jaxmec.DQN(
            hidden=HIDDEN, activation="relu", layer_norm=False, learning_rate=LEARNING_RATE
        )
    return jaxmec.SAC(
        hidden=HIDDEN,
        activation="relu",
        tau=0.005,
        actor_learning_rate=LEARNING_RATE,
        critic_learning_rate=LEARNING_RATE,
        temperature_learning_rate=LEARNING_RATE,
    )


def ours(name: str, config: TrainConfig) -> Callable[[], Any]:
    """A call that trains ``eval_every`` steps."""
    env, params = jaxmec.make("CartPole-v1")
    agent = agent_of(name)
    state = [begun(agent, env, params, config)]
    program = jax.jit(
        lambda state: config.chunk(agent, env, params, state)[0],
        donate_argnums=0,
        compiler_options=compilation.options(),
    )

    def call() -> None:
        state[0] = jax.block_until_ready(program(state[0]))

    return call


def stable_baselines(config: TrainConfig) -> Callable[[], Any]:
    """Stable-Baselines3's DQN, in PyTorch, on gymnasium's CartPole."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    model = DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", config.num_envs),
        learning_rate=LEARNING_RATE,
        buffer_size=config.buffer_size,
        learning_starts=config.prefill,
        batch_size=config.batch_size,
        tau=0.005,
        target_update_interval=1,
        train_freq=1,
        gradient_steps=config.updates_per_step,
        policy_kwargs={"net_arch": list(HIDDEN), "activation_fn": torch.nn.ReLU},
        device="cpu",
        seed=0,
    )
    # The first call fills the buffer, which ours has done by then.
    begun = [False]

    def call() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # products this small only wait for a second one
        steps = config.chunk_steps + (0 if begun[0] else config.prefill_steps)
        model.learn(steps, reset_num_timesteps=not begun[0])
        begun[0] = True
        torch.set_num_threads(threads)

    return call


class Rejax:
    """rejax in a process of its own, which works only while it is called.

    Args:
        python: an interpreter that has rejax.
        name: dqn or sac.
        config: the sizes.
    """

    def __init__(self, python: Path, name: str, config: TrainConfig) -> None:
        settings = {
            "agent": name,
            "num_envs": config.num_envs,
            "batch_size": config.batch_size,
            "updates_per_step": config.updates_per_step,
            "buffer_size": config.buffer_size,
            "prefill": config.prefill,
            "steps": config.chunk_steps,
            "learning_rate": LEARNING_RATE,
        }
        script = Path(__file__).with_name("rejax_peer.py")
        # Our own packages are not its.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python, script, json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip
        self.versions: dict[str, str] = json.loads(self._answer())
        self()  # in which it fills its buffer

    def __call__(self) -> None:
        """Train ``eval_every`` steps."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"rejax ended with exit code {self.process.wait()}")
        return line

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compared(name: str, size: Size, rejax: Path, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one agent, ours first; rejax's versions go into the report."""
    config = size.config
    names, calls, child = ["jaxmec"], [ours(name, config)], None
    if name == "dqn":  # Stable-Baselines3 has no SAC for discrete actions
        try:
            calls.append(stable_baselines(config))
            names.append("Stable-Baselines3")
        except ImportError:
            print("Stable-Baselines3 is not installed (the extra peers): left out")
    if rejax.exists():
        child = Rejax(rejax, name, config)
        report["versions_of_rejax"] = child.versions
        calls.append(child)
        names.append("rejax")
    else:
        print(f"no rejax at {rejax}: left out")
    try:
        taken = turns(calls, size.repetitions)
    finally:
        if child is not None:
            child.close()
    rows = []
    for whose, seconds in zip(names, taken, strict=True):
        each = [s / config.chunk_steps for s in seconds]
        row = {"case": f"{name.upper()} on CartPole: {whose}", "seconds_a_step": each}
        row["per_second"] = 1 / statistics.median(each)
        if whose != "jaxmec":
            row["ratio"] = ratio(seconds, taken[0])
        rows.append(row)
        beside = f"   ours is {row['ratio']:.1f} x" if "ratio" in row else ""
        print(f"{row['case']:<40}{row['per_second']:>12,.0f} steps/s{beside}", flush=True)
    return rows


def main(
    size: Literal["tiny", "small", "full"] = "small",
    output: Path | None = RESULT,
    rejax: Path = REJAX,
) -> dict[str, Any]:
    """Measure DQN and SAC on CartPole, print it and keep every repetition.

    Args:
        size: how much to measure: seconds, a few minutes, or more.
        output: the JSON file to write; None writes nothing.
        rejax: an interpreter that has rejax (README.md); without one rejax is left out.
    """
    chosen = SIZES[size]
    report = begin(size, dataclasses.asdict(chosen))
    report["results"] = [row for name in AGENTS for row in compared(name, chosen, rejax, report)]
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
