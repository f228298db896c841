"""Where the time of a DSAC update goes, and what unrolling does to it; see README.md.

python benchmarks/hot_path.py --size small
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from measuring import RESULTS, begin, turns, uncached, write
from updates import ACTIONS, FEATURES, minibatch

from jaxmec.agents import DSAC, Spec, Transition, losses
from jaxmec.core import compilation
from jaxmec.networks.chain import DiffusionActor, noise_schedule, step_embedding

RESULT = RESULTS / "hot_path.json"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    places: tuple[tuple[str, int, int], ...]  # activation, batch, hidden
    updates: int  # in one call
    repetitions: int
    unrolled: tuple[int, ...]  # updates in one turn of the loop over updates, beside 1


SIZES = {
    "tiny": Size((("tanh", 8, 8),), 2, 2, ()),
    "small": Size((("tanh", 512, 256), ("mish", 512, 256), ("tanh", 64, 20)), 20, 5, (2, 4)),
    "full": Size((("tanh", 512, 256), ("mish", 512, 256), ("relu", 512, 256),
                  ("tanh", 64, 20), ("mish", 64, 20), ("relu", 64, 20)), 50, 9, (2, 4)),
}  # fmt: skip


def rolled_logits(
    actor: DiffusionActor, params: Any, state: jax.Array, noise: jax.Array
) -> jax.Array:
    """[..., A] what ``actor.logits`` gives, with the K steps in a ``lax.scan``.

    For noise prediction without a clip, which is what is measured here.
    """
    beta, alpha, bar, variance = noise_schedule(actor.schedule, actor.steps)
    constants = []
    for i in reversed(range(actor.steps)):
        before = bar[i - 1] if i else 1.0
        of_x0 = beta[i] * before**0.5 / (1 - bar[i])
        of_x = (1 - before) * alpha[i] ** 0.5 / (1 - bar[i])
        constants.append(
            (bar[i] ** -0.5, (1 / bar[i] - 1) ** 0.5, of_x0, of_x, float(variance[i]) ** 0.5)
        )
    embedding = step_embedding(actor.steps, actor.embedding_size)[::-1]
    first = params["params"]["layers_0"]
    ends = (actor.num_actions, actor.num_actions + actor.embedding_size)
    of_x_in, of_step, of_state = jnp.split(first["kernel"], ends)
    of_states = state @ of_state
    of_steps = jnp.asarray(embedding, of_step.dtype) @ of_step + first["bias"]
    added = jnp.concatenate([noise[1:], jnp.zeros_like(noise[:1])])

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
        (root, share, of_x0, of_x, sigma), of_k, z = inputs
        sums = x @ of_x_in + of_states + of_k
        output: Any = actor.network.apply(params, sums, method="after_first")
        x0 = root * x - share * output
        return of_x0 * x0 + of_x * x + sigma * z, None

    table = tuple(jnp.asarray(column, noise.dtype) for column in zip(*constants, strict=True))
    return jax.lax.scan(step, noise[0], (table, of_steps, added))[0]


class RolledDSAC(DSAC):
    """DSAC whose reverse chain is a loop in the program instead of K copies of its body."""

    def logits(
        self, actor: Any, latent: Any, observation: Any, num_actions: int, noise: Any
    ) -> jax.Array:
        return rolled_logits(self._actor(latent), actor, self.inputs(observation), noise)


Step = Callable[[Any, Transition, jax.Array], Any]  # (learner, batch, key) -> learner


def parts(agent: DSAC) -> dict[str, Step]:
    """The update and pieces of it, each of which leaves a learner that depends on its work."""

    def nudged(learner: Any, number: jax.Array) -> Any:
        """The learner with a number in it that the compiler cannot know to be without effect."""
        return learner._replace(log_temperature=learner.log_temperature + 1e-9 * number)

    def logits_of(params: Any, learner: Any, seen: jax.Array, key: jax.Array) -> jax.Array:
        drawn = agent.draw(learner.latent, seen, ACTIONS, key)
        return agent.logits(params, learner.latent, seen, ACTIONS, drawn)

    def noise(learner: Any, batch: Transition, key: jax.Array) -> Any:
        both = jnp.stack([batch.next_observation, batch.observation])
        return nudged(learner, jnp.sum(agent.draw(learner.latent, both, ACTIONS, key)))

    def chain(learner: Any, batch: Transition, key: jax.Array) -> Any:
        logits = logits_of(learner.actor, learner, batch.next_observation, key)
        return nudged(learner, jnp.sum(logits))

    def actor(learner: Any, batch: Transition, key: jax.Array) -> Any:
        q = jnp.zeros((2, len(batch.reward), ACTIONS))

        def loss(params: Any) -> jax.Array:
            logits = logits_of(params, learner, batch.observation, key)
            return -jnp.mean(losses.soft_value(jax.nn.log_softmax(logits), q, 0.1))

        return nudged(learner, optax.tree.norm(jax.grad(loss)(learner.actor)))

    def critics(learner: Any, batch: Transition, key: jax.Array) -> Any:
        network = agent.critics(ACTIONS, learner.latent)
        following: Any = network.apply(learner.target_critics, batch.next_observation)

        def loss(params: Any) -> jax.Array:
            q: Any = network.apply(params, batch.observation)
            target = batch.reward + jnp.min(jnp.max(following, -1), 0)
            return jnp.sum(losses.squared_error(losses.chosen(q, batch.action), target))

        return nudged(learner, optax.tree.norm(jax.grad(loss)(learner.critics)))

    def steps(learner: Any, batch: Transition, key: jax.Array) -> Any:
        def adam(rate: float, params: Any, state: Any) -> tuple[Any, Any]:
            step, state = optax.adam(rate).update(params, state)
            return optax.apply_updates(params, step), state

        actor, of_actor = adam(1e-6, learner.actor, learner.actor_optimiser)
        critics, of_critics = adam(1e-6, learner.critics, learner.critic_optimiser)
        targets = optax.incremental_update(critics, learner.target_critics, 0.005)
        return learner._replace(
            actor=actor, critics=critics, target_critics=targets,
            actor_optimiser=of_actor, critic_optimiser=of_critics,
        )  # fmt: skip

    return {
        "whole update": lambda learner, batch, key: agent.update(learner, batch, key)[0],
        "noise of both chains": noise,
        "chain at s', forward, with its noise": chain,
        "chain at s, forward and backward, with its noise": actor,
        "critics: targets, forward and backward": critics,
        "Adam and averages": steps,
    }


def program(
    step: Step, agent: DSAC, batch: int, updates: int, unroll: int = 1
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call of so many steps in one scan, and what the compiler made of it."""
    data = jax.device_put(minibatch(batch))

    def turn(learner: Any, key: jax.Array) -> tuple[Any, None]:
        # Every turn sees other observations, else a piece that leaves the parameters as they are
        # would be taken out of the loop and done once.
        change = 1e-9 * learner.log_temperature
        changed = data._replace(
            observation=data.observation + change, next_observation=data.next_observation + change
        )
        return step(learner, changed, key), None

    def run(learner: Any, key: jax.Array) -> Any:
        return jax.lax.scan(turn, learner, jax.random.split(key, updates), unroll=unroll)[0]

    learner = jax.tree.map(jnp.array, agent.init(jax.random.key(0), Spec(FEATURES, ACTIONS)))
    lowered = jax.jit(run, compiler_options=compilation.options()).lower(learner, jax.random.key(1))
    start = time.perf_counter()
    with uncached():
        compiled = lowered.compile()
    about = {"seconds_to_compile": time.perf_counter() - start, **kernels(compiled.as_text())}
    key = jax.random.key(1)
    return lambda: jax.block_until_ready(compiled(learner, key)), about


def kernels(text: str | None) -> dict[str, int]:
    """How many calls to computing kernels the optimised program holds, by their kind."""
    names = ("fusion", "dot", "custom-call", "reduce", "copy")
    found = re.findall(r"= \S+ ([a-z-]+)\(", text or "")
    return {f"{name}s": found.count(name) for name in names}


def main(
    size: Literal["tiny", "small", "full"] = "small", output: Path | None = RESULT
) -> dict[str, Any]:
    """Measure the pieces of an update, print them and keep every repetition.

    Args:
        size: how much to measure: seconds, some two minutes, or ten.
        output: the JSON file to write; None writes nothing.
    """
    chosen = SIZES[size]
    report = begin(size, dataclasses.asdict(chosen))
    rows = report["results"] = []
    for activation, batch, hidden in chosen.places:
        fields: dict[str, Any] = {
            "hidden": (hidden, hidden), "activation": activation, "denoising_steps": 5,
        }  # fmt: skip
        agent, rolled = DSAC.published(**fields), RolledDSAC.published(**fields)
        pieces = parts(agent)
        whole = pieces["whole update"]
        made = {
            name: program(piece, agent, batch, chosen.updates) for name, piece in pieces.items()
        }
        for unroll in chosen.unrolled:
            name = f"whole update, {unroll} in a turn of the loop"
            made[name] = program(whole, agent, batch, chosen.updates, unroll)
        of_rolled = parts(rolled)["whole update"]
        made["whole update, chain rolled up"] = program(of_rolled, rolled, batch, chosen.updates)
        taken = turns([call for call, _ in made.values()], chosen.repetitions)
        print(f"{activation}, batch {batch}, hidden {hidden}")
        reference = statistics.median(taken[0])
        for (name, (_, about)), seconds in zip(made.items(), taken, strict=True):
            median = statistics.median(seconds)
            rows.append(
                {
                    "activation": activation, "batch": batch, "hidden": hidden, "case": name,
                    "seconds": [s / chosen.updates for s in seconds],
                    "share": median / reference, **about,
                }
            )  # fmt: skip
            print(
                f"  {name:<50}{1e6 * median / chosen.updates:>10.1f} µs{median / reference:>8.0%}"
                f"   {about['fusions']} fusions, {about['dots'] + about['custom-calls']} products, "
                f"compiled in {about['seconds_to_compile']:.1f} s",
                flush=True,
            )
    write(report, output)
    return report


if __name__ == "__main__":
    tyro.cli(main)
