"""When servers are up, slowed and down (docs/serving.md: "Availability").

A server's speed is piecewise constant. What decisions ask of it (the work done by a time, the time
at which work is done) are sums over its troubles, the pieces in which it is not at nominal speed:
O(K) each, without a search and without an array between.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.mec import checks
from jaxmec.struct import Leaf, Scalar, is_concrete, pytree, static


@pytree
class Availability:
    """The speed of each of B servers, in K pieces.

    Piece p of server i begins at ``breaks[i, p]`` and lasts until the next one begins; the last
    goes on for ever. A piece that begins at infinity never does (padding, where servers have
    different numbers of pieces).

    Raises:
        ValueError: breaks that do not begin at 0 or do not increase, a speed that is negative
            or not finite, a server whose last piece is an outage.
    """

    breaks: Leaf  # [B, K] s
    speed: Leaf  # [B, K] of the nominal speed: 1, between 0 and 1 slowed, 0 down
    alternates: bool = static(default=False)  # every other piece, from the first, is at speed 1

    def __post_init__(self) -> None:
        breaks = checks.real("breaks", self.breaks, ndim=2, at_least=0, finite=False)
        speed = checks.real("speed", self.speed, ndim=2, at_least=0)
        checks.same_length(breaks=breaks, speed=speed)
        if is_concrete(breaks, speed):
            _check_pieces(np.asarray(breaks), np.asarray(speed))
        for name, value in (("breaks", breaks), ("speed", speed)):
            object.__setattr__(self, name, value)

    @property
    def troubles(self) -> Troubles:
        """Of each server, in the order in which they begin."""
        begin, speed = self.breaks, self.speed
        end = jnp.concatenate([begin[:, 1:], jnp.full_like(begin[:, :1], jnp.inf)], axis=1)
        # Outages that follow one another are one.
        down = speed == 0
        again = down & jnp.concatenate([jnp.zeros_like(down[:, :1]), down[:, :-1]], axis=1)
        up_again = jax.lax.associative_scan(
            jnp.minimum, jnp.where(down, jnp.inf, begin), axis=1, reverse=True
        )
        up_again = jnp.concatenate([up_again[:, 1:], jnp.full_like(begin[:, :1], jnp.inf)], axis=1)
        end = jnp.where(down, up_again, end)
        there = (speed != 1) & ~again & jnp.isfinite(begin)
        begin, end = jnp.where(there, begin, jnp.inf), jnp.where(there, end, jnp.inf)
        return Troubles.of(*(x[:, self.alternates :: 1 + self.alternates].T for x in
                             (begin, end, jnp.where(there, speed, 1))))  # fmt: skip

    @property
    def num_servers(self) -> int:
        """B."""
        return self.breaks.shape[-2]

    def draw(self, key: jax.Array, steady: jax.Array) -> Availability:
        """Itself: the law of what is known beforehand (:mod:`jaxmec.serving.scenario`)."""
        del key, steady
        return self


@pytree
class Troubles:
    """When servers are down or slowed, [K, B], or [K] of one; one that begins at infinity is none.

    They do not overlap, an outage begins where the speed falls to 0, and the last ends. Questions
    are asked of every server at a time [B], or of one at a time []; ``time`` is not negative.
    """

    begin: Leaf  # s
    end: Leaf  # s
    speed: Leaf  # of the nominal speed, below 1
    work: Leaf  # s at nominal speed, done by the time it begins: F(begin)
    beat: Any = None  # k of the last heartbeat heard before it, where `hearing` has added that

    @classmethod
    def of(cls, begin: Scalar, end: Scalar, speed: Scalar) -> Troubles:
        """From what is known of each, [K, B], those of one server in their order."""
        # Servers last: sums over the first axis are done for many servers at once.
        there = jnp.isfinite(begin)
        lost = jnp.where(there & jnp.isfinite(end), (1 - speed) * (end - begin), 0)
        work = begin - (jax.lax.associative_scan(jnp.add, lost) - lost)
        return cls(begin, end, speed, work)

    @property
    def troubles(self) -> Troubles:
        """Itself."""
        return self

    @property
    def falls(self) -> jax.Array:
        """[K, B] s, when each outage begins; infinite of a slowed phase."""
        return jnp.where(self.speed == 0, self.begin, jnp.inf)

    def work_by(self, time: Scalar) -> jax.Array:
        """[B] s at nominal speed that is done by ``time``, F(t) = ∫₀ᵗ s."""
        spent = jnp.minimum(time, self.end) - jnp.minimum(time, self.begin)
        return time - jnp.sum((1 - self.speed) * spent, axis=0)

    def time_of(self, work: Scalar) -> jax.Array:
        """[B] s, the smallest t with F(t) ≥ ``work``, which is positive."""
        into = work - self.work  # negative infinity of what never begins
        slowed = (self.end - self.begin) * self.speed
        slow = jnp.clip(into, 0, slowed) * (1 / jnp.where(self.speed > 0, self.speed, 1) - 1)
        late = jnp.where(self.speed > 0, slow, self.end - self.begin)
        return work + jnp.sum(jnp.where(into > 0, late, 0), axis=0)

    def up_from(self, time: Scalar) -> jax.Array:
        """[B] s: ``time`` where the server is up then, else the end of that outage."""
        inside = (self.falls <= time) & (time < self.end)
        return jnp.maximum(time, jnp.max(jnp.where(inside, self.end, -jnp.inf), axis=0))

    def next_outage(self, time: Scalar) -> jax.Array:
        """[B] s, when the first outage after ``time`` begins; infinite where there is none."""
        falls = self.falls
        return jnp.min(jnp.where(falls > time, falls, jnp.inf), axis=0)

    def last_outage(self, time: Scalar) -> jax.Array:
        """[B] s, when the last outage up to ``time`` began; negative infinity if none has."""
        falls = self.falls
        return jnp.max(jnp.where(falls <= time, falls, -jnp.inf), axis=0)


def _check_pieces(breaks: np.ndarray, speed: np.ndarray) -> None:
    """Raise ``ValueError`` for pieces that are no speed for all time."""
    if breaks.shape[0] == 0 or breaks.shape[1] == 0:
        raise ValueError(f"breaks must have a server and a piece at least, got {breaks.shape}")
    late = np.flatnonzero(breaks[:, 0] != 0)
    if late.size:
        raise ValueError(f"breaks[{late[0]}, 0] must be 0, got {breaks[late[0], 0]:g}")
    steps = np.diff(np.where(np.isinf(breaks), np.finfo(float).max, breaks), axis=1)
    back = np.argwhere((steps <= 0) & np.isfinite(breaks[:, 1:]))
    back = np.concatenate(
        [back, np.argwhere(np.isinf(breaks[:, :-1]) & np.isfinite(breaks[:, 1:]))]
    )
    if back.size:
        i, p = back[0]
        raise ValueError(
            f"breaks[{i}, {p + 1}] must be above breaks[{i}, {p}], {breaks[i, p]:g}, "
            f"got {breaks[i, p + 1]:g}"
        )
    last = np.isfinite(breaks).sum(axis=1) - 1
    dead = np.flatnonzero(speed[np.arange(len(last)), last] <= 0)
    if dead.size:
        i = dead[0]
        raise ValueError(
            f"speed[{i}, {last[i]}] must be above 0, since the last piece goes on for ever, "
            f"got {speed[i, last[i]]:g}"
        )
