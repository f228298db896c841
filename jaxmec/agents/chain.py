"""What the agents with a diffusion actor share: the hyperparameters of its reverse chain."""

from __future__ import annotations

import dataclasses

from jaxmec.core import checks
from jaxmec.core.types import Keywords
from jaxmec.networks.chain import (
    CLIPS,
    PREDICTIONS,
    SCHEDULES,
    DiffusionActor,
    ReverseChainActor,
)
from jaxmec.networks.servers import EquivariantDiffusionActor
from jaxmec.struct import pytree, static

NETWORKS = ("flat", "servers")


@pytree
class DiffusionPolicy:
    """Hyperparameters of a diffusion actor, which an agent has beside its own.

    The actor is that of docs/model.md, "The diffusion actor". The agent says how wide its network
    is, checks these fields by :meth:`check_chain` and makes the actor by :meth:`chain_actor`.
    """

    denoising_steps: int = static(default=5)  # K, denoising steps; 0, where allowed: no chain
    schedule: str = static(default="vp")  # noise schedule: vp, linear or cosine
    predict: str = static(default="x0")  # what the network predicts: x0, or the noise
    clip: str = static(default="soft")  # how x_0's estimate is bounded: soft, hard or none
    embedding_size: int = static(default=16)  # of the step's sinusoidal embedding, even
    network: str = static(default="flat")  # flat, or shared over "servers", any number of them
    bound: float = 10.0  # c, within which clip keeps x_0's estimate and so the logits, > 0

    def check_chain(self, *, least_steps: int) -> None:
        """Refuse with a ``ValueError`` a field outside what its comment allows."""
        checks.fields(
            self,
            denoising_steps=checks.whole(least_steps),
            schedule=checks.one_of(SCHEDULES),
            predict=checks.one_of(PREDICTIONS),
            clip=checks.one_of(CLIPS),
            embedding_size=checks.whole(2),
            network=checks.one_of(NETWORKS),
            bound=checks.number(above=0),
        )
        if self.embedding_size % 2:
            raise ValueError(f"embedding_size must be even, got {self.embedding_size}")

    def chain_actor(
        self,
        num_actions: int,
        layout: tuple[tuple[str, int], ...],
        *,
        outputs: int,
        hidden: tuple[int, ...],
        activation: str,
    ) -> ReverseChainActor:
        """The actor of A logits, ``outputs`` of them for each server where it is shared over them.

        ``layout`` names the parts of the observations that it is given.
        """
        fields: Keywords = {
            "hidden": hidden,
            "activation": activation,
            "steps": self.denoising_steps,
            "schedule": self.schedule,
            "predict": self.predict,
            "clip": self.clip,
            "embedding_size": self.embedding_size,
            "bound": self.bound,
        }
        if self.network == "flat":
            return DiffusionActor(num_actions, **fields)
        return EquivariantDiffusionActor(num_actions // outputs, layout, outputs, **fields)


def ordered_repr(agent: DiffusionPolicy, last: tuple[str, ...]) -> str:
    """The agent as text, the fields in ``last`` after all others.

    The order is the one that users know, whichever of an agent's classes defines a field.
    """
    names = [f.name for f in dataclasses.fields(agent) if f.name not in last]
    text = ", ".join(f"{name}={getattr(agent, name)!r}" for name in (*names, *last))
    return f"{type(agent).__name__}({text})"


# The fields that say what the actor's network is; agents alike in them have the same parameters.
OF_NETWORK = ("hidden", "activation", *(f.name for f in dataclasses.fields(DiffusionPolicy)))
