"""Decisions a second against a plain NumPy loop, and their cost against B; see README.md.

python benchmarks/decisions.py --size small
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measuring import RESULTS, begin, exponent, ratio, turns, write
from numpy_loop import Loop

import jaxmec
from jaxmec.agents import Pathwise
from jaxmec.core import compilation
from jaxmec.envs.presets import PRESETS
from jaxmec.mec import water_filling
from jaxmec.training.rollout import make_spec

RESULT = RESULTS / "decisions.json"
PROBLEMS = {"amcoedge": "MultiServerOffloading-v0", "lad-ts": "SingleServerOffloading-v0"}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    num_envs: int  # of ours, side by side
    decisions: int  # of ours in a repetition, over all environments
    slots: int  # that the NumPy loop plays in a repetition
    repetitions: int
    servers: tuple[int, ...]  # B
    entries: int  # of one call against B: environments x servers


SIZES = {
    "tiny": Size(4, 16, 1, 2, (8, 16), 32),
    "small": Size(65_536, 4_000_000, 60, 5, (16, 64, 256, 1024), 2**17),
    "full": Size(65_536, 8_000_000, 60, 9, (16, 32, 64, 128, 256, 512, 1024), 2**19),
}


def random_steps(env: Any, params: Any, num_envs: int, steps: int) -> Callable[[], Any]:
    """A scan over vectorised steps with uniformly random actions.

    What a learner would read is summed up, so that the compiler can leave none of it out.
    """
    last = env.num_actions - 1

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        states, checksum = carry
        key_act, key_env = jax.random.split(key)
        uniform = jax.random.uniform(key_act, (num_envs,))
        actions = jnp.minimum((uniform * env.num_actions).astype(jnp.int32), last)
        observations, states, rewards, _, _, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            jax.random.split(key_env, num_envs), states, actions, params
        )
        seen = jnp.sum(observations, -1) + jnp.sum(info["final_observation"], -1) + rewards
        return (states, checksum + seen), None

    def run(carry: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, carry, jax.random.split(key, steps))[0]

    keys = jax.random.split(jax.random.key(0), num_envs)
    _, states = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    program = jax.jit(run, donate_argnums=0, compiler_options=compilation.options())
    carry = [(states, jnp.zeros(num_envs))]

    def call() -> None:
        carry[0] = jax.block_until_ready(program(carry[0], jax.random.key(1)))
        if not bool(jnp.all(jnp.isfinite(carry[0][1]))):
            raise FloatingPointError("an environment gave numbers that are not finite")

    return call


def plain(preset: str, slots: int, num_actions: int) -> tuple[Callable[[], Any], list[int]]:
    """The NumPy loop over an episode of so many slots, and the decisions of each call."""
    loop = Loop(dataclasses.replace(PRESETS[preset], slots=slots))
    rng, counts = np.random.default_rng(0), []
    at_most = slots * loop.servers * loop.preset.positions

    def call() -> None:
        drawn = iter(rng.integers(num_actions, size=at_most).tolist())
        counts.append(len(loop.episode(lambda observation, origin: next(drawn))))

    return call, counts


def loops(size: Size) -> list[dict[str, Any]]:
    """Ours beside the NumPy loop, with random actions, for each problem."""
    rows: list[dict[str, Any]] = []
    for preset, env_id in PROBLEMS.items():
        env, params = jaxmec.make(env_id, preset=preset, features="published")
        steps = max(1, size.decisions // size.num_envs)
        call, counts = plain(preset, size.slots, env.num_actions)
        ours = random_steps(env, params, size.num_envs, steps)
        slow, fast = turns([call, ours], size.repetitions)
        each = [s / n for s, n in zip(slow, counts[1:], strict=True)]  # the first is unmeasured
        mine = [s / (size.num_envs * steps) for s in fast]
        of_loop = {"case": f"{preset}: NumPy loop", "seconds_a_decision": each}
        of_ours = {
            "case": f"{preset}: jaxmec, {size.num_envs} environments",
            "seconds_a_decision": mine,
            "ratio": ratio(each, mine),
        }
        for row, taken in ((of_loop, each), (of_ours, mine)):
            row["per_second"] = 1 / statistics.median(taken)
            beside = f"{row['ratio']:>8.0f} x the NumPy loop" if "ratio" in row else ""
            print(f"{row['case']:<50}{row['per_second']:>14,.0f} decisions/s{beside}", flush=True)
        rows += [of_loop, of_ours]
    return rows


def water(servers: int, batch: int) -> Callable[[], Any]:
    """Water-filling over all servers."""
    wait_key, serve_key = jax.random.split(jax.random.key(servers))
    wait = jax.random.uniform(wait_key, (batch, servers))
    serve = jax.random.uniform(serve_key, (batch, servers), minval=0.5, maxval=2.0)
    run = jax.jit(jax.vmap(water_filling), compiler_options=compilation.options())
    selected = jnp.ones((batch, servers), bool)
    return lambda: run(wait, serve, selected).block_until_ready()


def _network(servers: int, neighbours: int | None) -> tuple[Any, Any]:
    return jaxmec.make(
        "MultiServerOffloading-v0", preset=f"amcoedge-{servers}", action="score",
        information="local", features="times", allocation_information="seen",
        neighbours=neighbours,
    )  # fmt: skip


def stepping(neighbours: int | None) -> Callable[[int, int], Callable[[], Any]]:
    """One step of the environment with a random score."""

    def make(servers: int, batch: int) -> Callable[[], Any]:
        env, params = _network(servers, neighbours)
        keys = jax.random.split(jax.random.key(0), batch)
        _, states = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
        actions = jax.vmap(env.action_space(params).sample)(keys)
        run = jax.jit(
            jax.vmap(env.step, in_axes=(0, 0, 0, None)), compiler_options=compilation.options()
        )
        return lambda: jax.block_until_ready(run(keys, states, actions, params))

    return make


def deciding(neighbours: int | None) -> Callable[[int, int], Callable[[], Any]]:
    """The diffusion actor that scores every server (K = 3), from observation to scores."""

    def make(servers: int, batch: int) -> Callable[[], Any]:
        env, params = _network(servers, neighbours)
        agent = Pathwise(network="servers", hidden=(32, 32), denoising_steps=3)
        spec = make_spec(env, params)
        learner = agent.acting(agent.init(jax.random.key(0), spec))
        observations = jax.random.uniform(jax.random.key(1), (batch, spec.observation_size))

        def decide(learner: Any, observation: jax.Array) -> jax.Array:
            memory = agent.init_memory(spec)
            return agent.act(learner, memory, observation, jax.random.key(2), False)[0]

        run = jax.jit(jax.vmap(decide, in_axes=(None, 0)), compiler_options=compilation.options())
        return lambda: run(learner, observations).block_until_ready()

    return make


AGAINST_B: dict[str, Callable[[int, int], Callable[[], Any]]] = {
    "water-filling": water,
    "environment step": stepping(None),
    "score policy": deciding(None),
    "environment step, 5 neighbours": stepping(5),
    "score policy, 5 neighbours": deciding(5),
}


def against_servers(size: Size) -> list[dict[str, Any]]:
    """Seconds of one decision against B, and the exponent of the fitted power."""
    rows = []
    for name, make in AGAINST_B.items():
        batches = [max(1, size.entries // servers) for servers in size.servers]
        pairs = zip(size.servers, batches, strict=True)
        taken = turns([make(servers, batch) for servers, batch in pairs], size.repetitions)
        seconds = [[s / n for s in row] for row, n in zip(taken, batches, strict=True)]
        medians = [statistics.median(row) for row in seconds]
        power = exponent(size.servers, medians)
        rows.append({"case": name, "servers": size.servers, "seconds": seconds, "exponent": power})
        listed = "  ".join(
            f"{b}: {1e6 * m:.3g}" for b, m in zip(size.servers, medians, strict=True)
        )
        print(f"{name:<32} B^{power:.2f}  microseconds a decision  {listed}", flush=True)
    return rows


def main(
    size: Literal["tiny", "small", "full"] = "small", output: Path | None = RESULT
) -> dict[str, Any]:
    """Measure decisions, print them and keep every repetition.

    Args:
        size: how much to measure: seconds, about a minute, or several.
        output: the JSON file to write; None writes nothing.
    """
    started = time.perf_counter()
    report = begin(size, dataclasses.asdict(SIZES[size]))
    report["loops"] = loops(SIZES[size])
    report["against_servers"] = against_servers(SIZES[size])
    report["seconds"] = time.perf_counter() - started
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
