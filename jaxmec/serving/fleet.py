"""The fleet that serves generative models (docs/serving.md: "The fleet")."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.mec import checks
from jaxmec.struct import Leaf, is_concrete, leaf, pytree

MOST_VARIANTS = 31  # what a station has sent of each is a bit of a whole number


@pytree
class Fleet:
    """B servers that serve M variants of a model, and what is known of them beforehand.

    A variant fits a server where ``size[m] <= memory[i]``; every variant fits an ``elastic``
    server, whose requests do not wait for one another (a cloud).

    Raises:
        ValueError: a quantity out of range, shapes that disagree, a variant that fits nowhere.
    """

    step_time: Leaf  # [B, M] s, one denoising step of one image at nominal speed
    task_time: Leaf  # [B, M] s, what a request costs beside its steps
    load_time: Leaf  # [B, M] s, a cold start
    size: Leaf  # [M] GB
    memory: Leaf  # [B] GB
    rate: Leaf  # [B] Mbit/s, toward a server and back; infinite where transfers take no time
    latency: Leaf  # [B] s, added to every answer
    elastic: Leaf  # [B] bool
    heartbeat: Leaf = leaf(default=1.0)  # s, H: how often a server tells about itself
    phase: Any = None  # [B] s in [0, H), φ: when it first does; by default 0
    detect: Leaf = leaf(default=1.0)  # s, from a crash until the station knows

    def __post_init__(self) -> None:
        if self.phase is None:
            object.__setattr__(self, "phase", jnp.zeros_like(jnp.asarray(self.latency)))
        checks.reals(self, "step_time", ndim=2, above=0)
        checks.reals(self, "task_time", "load_time", ndim=2, at_least=0)
        checks.reals(self, "size", ndim=1, above=0)
        checks.reals(self, "memory", "latency", "phase", ndim=1, at_least=0)
        checks.reals(self, "rate", ndim=1, above=0, finite=False)
        checks.reals(self, "heartbeat", ndim=0, above=0)
        checks.reals(self, "detect", ndim=0, at_least=0)
        object.__setattr__(self, "elastic", jnp.asarray(self.elastic, bool))
        checks.same_length(
            step_time=self.step_time, task_time=self.task_time, load_time=self.load_time
        )
        servers, variants = self.step_time.shape
        if servers == 0 or variants == 0:
            raise ValueError(
                "step_time must have a server and a variant at least, "
                f"got shape {self.step_time.shape}"
            )
        if variants > MOST_VARIANTS:
            raise ValueError(
                f"step_time must be of at most {MOST_VARIANTS} variants, got {variants}"
            )
        for name in ("memory", "rate", "latency", "elastic", "phase"):
            if (shape := jnp.shape(getattr(self, name))) != (servers,):
                raise ValueError(
                    f"{name} must have shape ({servers},), one a server as step_time has, "
                    f"got {shape}"
                )
        if self.size.shape != (variants,):
            raise ValueError(
                f"size must have shape ({variants},), one a variant as step_time has, "
                f"got {self.size.shape}"
            )
        if is_concrete(self.phase, self.heartbeat):
            late = np.flatnonzero(np.asarray(self.phase) >= np.asarray(self.heartbeat))
            if late.size:
                raise ValueError(
                    f"phase[{late[0]}] must be below heartbeat, {float(self.heartbeat):g}, "
                    f"got {float(self.phase[late[0]]):g}"
                )
        if is_concrete(self.size, self.memory, self.elastic):
            homeless = np.flatnonzero(~np.asarray(self.fits).any(axis=0))
            if homeless.size:
                m = homeless[0]
                raise ValueError(
                    f"size[{m}] must fit a server, the largest of which has "
                    f"{float(np.max(self.memory)):g} GB, got {float(self.size[m]):g}"
                )

    @property
    def num_servers(self) -> int:
        """B."""
        return self.step_time.shape[-2]

    @property
    def num_variants(self) -> int:
        """M."""
        return self.step_time.shape[-1]

    @property
    def fits(self) -> jax.Array:
        """[B, M] bool: whether a server can hold a variant."""
        return (self.size[None, :] <= self.memory[:, None]) | self.elastic[:, None]
