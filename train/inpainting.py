"""The application of the prototype: three networks that paint what is missing of an image.

Trains S, M from S and L from M on robots of RoboHash, and writes their graphs with half-precision
weights and what they were made by to --weights. Checkpoints go under --out; an interrupted run
goes on where it stopped, with the same bits as one that was not.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import serialization

from jaxmec.cli import guarded
from jaxmec.core import files
from jaxmec.core.terminal import Screen
from jaxmec.training.progress import Display, PlanDisplay
from jaxmec_testbed import export, network, robots

EVERY = 100  # updates between checkpoints
EXAMPLES = 128  # held-out images that are shipped beside the weights
DECAY = 0.998  # of the average of the weights, which is what is kept


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the networks of the prototype's application."""

    out: Path = Path("runs/inpainting")  # checkpoints
    weights: Path = Path("jaxmec_testbed/weights")  # where the graphs go
    updates: tuple[int, int, int] = (4000, 900, 300)  # of S, M and L
    batch: int = 32  # images of an update
    learning_rate: float = 3e-3  # of S at its highest; falls with the root of the blocks
    seed: int = 0
    progress: bool = True  # show a progress display


class State(NamedTuple):
    """All that training goes on from."""

    update: int  # how many are done
    seconds: float  # that they took
    params: network.Params
    average: network.Params  # of the weights, over about 1 / (1 - DECAY) updates
    optimiser: Any


def optimiser(options: Options, variant: str, updates: int) -> optax.GradientTransformation:
    """Adam whose rate rises over 50 updates and falls along a cosine."""
    depth = network.SIZES[variant].blocks / network.SIZES["S"].blocks
    highest = options.learning_rate / depth**0.5
    rate = optax.warmup_cosine_decay_schedule(0, highest, 50, max(updates, 51), 0.02 * highest)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))


def updating(variant: str, transformation: optax.GradientTransformation) -> Callable[..., Any]:
    """One update, compiled: weights, their average, the optimiser's state, and the loss."""

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(
        params: Any, average: Any, state: Any, images: Any, masks: Any, key: Any, step: Any
    ) -> Any:
        loss, gradient = jax.value_and_grad(functools.partial(network.loss, variant))(
            params, images / 127.5 - 1, masks, key
        )
        changes, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, changes)
        decay = jnp.minimum(DECAY, step / (step + 9))  # at first over what there is
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return params, average, state, loss

    return update


def begun(options: Options, variant: str, smaller: network.Params | None) -> network.Params:
    """First weights: what the smaller variant learnt, where there is one."""
    key = jax.random.fold_in(jax.random.key(options.seed), list(network.SIZES).index(variant))
    if smaller is None:
        return network.init(variant, key)
    return network.grown(variant, smaller, key)


def trained(
    options: Options,
    variant: str,
    smaller: network.Params | None,
    images: robots.Robots,
    display: Display,
) -> State:
    """Train one variant, or go on with it."""
    place = list(network.SIZES).index(variant)
    updates = options.updates[place]
    transformation = optimiser(options, variant, updates)
    params = begun(options, variant, smaller)
    # A copy: what is donated to an update must not be passed twice.
    state = State(0, 0.0, params, jax.tree.map(jnp.array, params), transformation.init(params))
    settings = json.dumps(
        {
            "updates": options.updates[: place + 1],
            "batch": options.batch,
            "learning_rate": options.learning_rate,
            "seed": options.seed,
        }
    )
    file = options.out / f"{variant}.msgpack"
    if file.exists():
        kept = serialization.msgpack_restore(file.read_bytes())
        if kept["settings"] != settings:
            raise ValueError(
                f"{file} is of a training with other settings, {kept['settings']}: "
                "choose another --out, or remove it"
            )
        state = serialization.from_state_dict(state, kept["state"])
    update = updating(variant, transformation)
    key = jax.random.fold_in(jax.random.key(options.seed + 1), place)
    done, seconds, *rest = state
    while done < updates:
        started, losses = time.perf_counter(), []
        for step in range(done + 1, min(done + EVERY, updates) + 1):
            drawn = images.draw(np.random.default_rng([options.seed, place, step]), options.batch)
            *rest, loss = update(*rest, *drawn, jax.random.fold_in(key, step), jnp.asarray(step))
            losses.append(loss)
        done += len(losses)
        display.update(done, {"loss": np.asarray(jnp.stack(losses))})
        seconds += time.perf_counter() - started
        state = State(done, seconds, *rest)
        kept = {"settings": settings, "state": serialization.to_state_dict(state)}
        files.write_whole(file, serialization.msgpack_serialize(jax.device_get(kept)))
    return state


def command(options: Options) -> str:
    """What to type for the same weights."""
    updates = " ".join(map(str, options.updates))
    return (
        f"python train/inpainting.py --updates {updates} --batch {options.batch} "
        f"--learning-rate {options.learning_rate:g} --seed {options.seed}"
    )


def write_examples(options: Options, images: robots.Robots) -> None:
    """Images that are never trained on, and masks, for benchmarks and whoever tries the painter."""
    rng = np.random.default_rng([options.seed, len(network.SIZES)])
    held_out, masks = images.draw(rng, EXAMPLES, held_out=True)
    content = io.BytesIO()
    np.savez_compressed(content, images=held_out, masks=masks)
    files.write_whole(options.weights / robots.EXAMPLES.name, content.getvalue())


def main(options: Options) -> None:
    """Train, write, say what came of it."""
    console = Screen(soft_wrap=False)
    images = robots.load()
    write_examples(options, images)
    work = [
        updates * size.blocks
        for updates, size in zip(options.updates, network.SIZES.values(), strict=True)
    ]
    average = None
    with PlanDisplay(len(work), sum(work), enabled=options.progress, interval=10) as plan:
        for variant, updates, share in zip(network.SIZES, options.updates, work, strict=True):
            with plan.piece(variant, updates, share) as display:
                state = trained(options, variant, average, images, display)
            average = state.average
            made = {
                "command": command(options),
                "updates": state.update,
                "seconds": round(state.seconds),
            }
            path = export.write(options.weights, variant, average, made)
            console.print(f"written: {path}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Options, description=__doc__))))
