"""rejax's DQN or SAC on CartPole, for `peers.py`: run by an interpreter that has rejax.

It needs an older gymnax and JAX than ours. Settings come as JSON in the only argument; for each
line on the standard input it trains so many steps and answers with a line.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import Any

import jax
import rejax


def main(settings: dict[str, Any]) -> None:
    """Answer every line of the standard input until it ends."""
    algorithm = getattr(rejax, settings["agent"].upper()).create(
        env="CartPole-v1",
        num_envs=settings["num_envs"],
        batch_size=settings["batch_size"],
        num_epochs=settings["updates_per_step"],
        buffer_size=settings["buffer_size"],
        fill_buffer=settings["prefill"],
        total_timesteps=settings["steps"],
        eval_freq=settings["steps"],
        learning_rate=settings["learning_rate"],
        polyak=0.995,
        agent_kwargs={"activation": "relu"},  # two hidden layers of 64, which cannot be changed
        skip_initial_evaluation=True,
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    state = jax.jit(algorithm.init_state)(jax.random.PRNGKey(0))
    train = jax.jit(lambda state: algorithm.train(train_state=state)[0], donate_argnums=0)
    names = ("rejax", "jax", "gymnax")
    about = {name: importlib.metadata.version(name) for name in names}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        state = jax.block_until_ready(train(state))
        print(int(state.global_step), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
