"""Laws by which requests arrive, beside the Poisson process (docs/fleets.md: "Arrivals").

Each is pure: a request's time comes of its key, the time of the one before and what the law
remembers (:mod:`jaxmec.serving.scenario`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core.checks import require, whole
from jaxmec.core.types import Keywords, Memory
from jaxmec.mec import checks
from jaxmec.serving import draws
from jaxmec.serving.decision import Request
from jaxmec.struct import Leaf, Scalar, is_concrete, leaf, pytree, static

_ROUNDS = 10  # of Newton's method, halving where it would leave the interval


def _spread(mean: float, variance: float) -> int:
    """A bound that a number of requests keeps to for all practical purposes."""
    return int(np.ceil(mean + 8 * np.sqrt(variance) + 8))


@pytree
class Bursts:
    """Times of a Markov-modulated Poisson process of two states, quiet and busy.

    The states last exponential times, and in each requests are Poisson.

    Raises:
        ValueError: a rate or length that is not positive, a burst below 1.
    """

    rate: Leaf  # requests a s, the mean over both states
    burst: Leaf = leaf(default=5.0)  # the rate of the busy state over that of the quiet one
    busy: Leaf = leaf(default=20.0)  # s, mean length of the busy state
    quiet: Leaf = leaf(default=80.0)  # s, mean length of the quiet state

    def __post_init__(self) -> None:
        checks.reals(self, "rate", "busy", "quiet", ndim=0, above=0)
        checks.reals(self, "burst", ndim=0, at_least=1)

    @property
    def busy_share(self) -> jax.Array:
        """Of the time that is busy."""
        return self.busy / (self.busy + self.quiet)

    @property
    def rates(self) -> tuple[jax.Array, jax.Array]:
        """Requests a s while quiet and while busy."""
        quiet = self.rate / (1 + self.busy_share * (self.burst - 1))
        return quiet, self.burst * quiet

    def most(self, horizon: float) -> int:
        """Mean and eight standard deviations; no more than in one long burst."""
        quiet, busy = map(float, self.rates)
        share, mean = float(self.busy_share), float(self.rate) * horizon
        # Of the number in a long time: Poisson's, and twice that of the rate times how long the
        # rate is remembered.
        memory = 1 / (1 / float(self.busy) + 1 / float(self.quiet))
        variance = mean + 2 * horizon * (busy - quiet) ** 2 * share * (1 - share) * memory
        return min(_spread(mean, variance), _spread(busy * horizon, busy * horizon))

    def begin(self, key: jax.Array) -> jax.Array:
        """[] bool, whether it begins busy."""
        return jax.random.bernoulli(key, self.busy_share)

    def next(self, key: jax.Array, time: Scalar, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[] s, when the next request arrives, and whether it is busy then."""
        quiet, busy = self.rates

        def arrived(carry: _Wait) -> jax.Array:
            return ~carry.arrived

        def wait(carry: _Wait) -> _Wait:
            """Until a request arrives or the state changes, whichever is first."""
            lasting = jnp.where(carry.busy, self.busy, self.quiet)
            rate = jnp.where(carry.busy, busy, quiet)
            either = rate + 1 / lasting
            drawn = draws.uniform(draws.fold_in(key, carry.number), 2, either.dtype)
            gap = -jnp.log1p(-drawn[0]) / either
            arrives = drawn[1] * either < rate
            return _Wait(carry.number + 1, carry.time + gap, carry.busy ^ ~arrives, arrives)

        start = _Wait(jnp.zeros((), jnp.int32), jnp.asarray(time, self.rate.dtype),
                      memory, jnp.zeros((), bool))  # fmt: skip
        end = jax.lax.while_loop(arrived, wait, start)
        return end.time, end.busy


class _Wait(NamedTuple):
    number: jax.Array  # [] int32, of changes and arrivals so far
    time: jax.Array  # [] s
    busy: jax.Array  # [] bool
    arrived: jax.Array  # [] bool


@pytree
class Diurnal:
    """Times of a Poisson process whose rate is a sine, λ(1 + A sin(2πt/P + φ)).

    Each episode begins at a moment φ of its own.

    Raises:
        ValueError: a rate or period that is not positive, an amplitude that is no share.
    """

    rate: Leaf  # requests a s, the mean over a period, λ
    amplitude: Leaf = leaf(default=0.8)  # A, of the sine, as a share of the mean rate
    period: Leaf = leaf(default=600.0)  # s, P

    def __post_init__(self) -> None:
        checks.reals(self, "rate", "period", ndim=0, above=0)
        checks.reals(self, "amplitude", ndim=0, at_least=0, at_most=1)

    def most(self, horizon: float) -> int:
        """Mean at the busiest time of the period, and eight standard deviations."""
        period, amplitude = float(self.period), float(self.amplitude)
        longer = amplitude * min(horizon, period / np.pi)
        mean = float(self.rate) * (horizon + longer)
        return _spread(mean, mean)

    def begin(self, key: jax.Array) -> jax.Array:
        """[] rad, φ."""
        return jax.random.uniform(key, (), self.rate.dtype, 0, 2 * np.pi)

    def next(self, key: jax.Array, time: Scalar, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[] s, when the next request arrives, and φ.

        After x s there have been λ(x + A P/π sin(θ + πx/P) sin(πx/P)) requests in the mean,
        θ = 2πt/P + φ; that is exponential of mean 1 at the next one, and is solved for x.
        """
        mean = draws.exponential(key, self.rate.dtype) / self.rate  # s at the mean rate
        swing = self.amplitude * self.period / np.pi
        angle = 2 * np.pi * time / self.period + memory

        def passed(gap: jax.Array) -> jax.Array:
            turn = np.pi * gap / self.period
            return gap + swing * jnp.sin(angle + turn) * jnp.sin(turn)

        least = jnp.maximum(mean / (1 + self.amplitude), mean - swing)
        calm = jnp.where(self.amplitude < 1, 1 - self.amplitude, 1)
        longest = jnp.where(self.amplitude < 1, mean / calm, jnp.inf)

        def closer(_: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            low, high, gap = carry
            beyond = passed(gap) - mean
            low, high = jnp.where(beyond < 0, gap, low), jnp.where(beyond < 0, high, gap)
            slope = 1 + self.amplitude * jnp.sin(angle + 2 * np.pi * gap / self.period)
            guess = gap - beyond / jnp.where(slope > 0, slope, 1)
            inside = (slope > 0) & (guess >= low) & (guess <= high)
            return low, high, jnp.where(inside, guess, (low + high) / 2)

        most = jnp.minimum(longest, mean + swing)
        _, _, gap = jax.lax.fori_loop(0, _ROUNDS, closer, (least, most, (least + most) / 2))
        return time + gap, memory


def heavy_tailed(tail: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of images by Zipf's law, P(n) ∝ n^−(1 + tail) up to a largest, for a ``Mix``.

    Args:
        tail: less is heavier: below 2 the variance grows with ``most``, below 1 the mean does.
        most: the largest number of images of a request.

    Returns:
        [most] int, the numbers; [most], the share of the requests that ask for each.

    Raises:
        ValueError: a tail that is not positive, no positive number.
    """
    require("most", most, whole(1, 2**16))
    checks.real("tail", tail, ndim=0, above=0)
    images = np.arange(1, most + 1)
    share = images ** -(1.0 + tail)
    return images, share / share.sum()


@pytree
class Recorded:
    """Requests as they were recorded, in the order of their arrival.

    Raises:
        ValueError: shapes that disagree, arrivals that are not in order, an origin that is no
            station, a window that is longer than the record.
    """

    arrival: Leaf  # [N] s
    origin: Leaf  # [N] int
    images: Leaf  # [N] int
    size: Leaf  # [N] Mbit
    result: Leaf  # [N] Mbit
    quality: Leaf  # [N] in [0, 1]
    limit: Leaf  # [N] s
    window: Any = None  # s: an episode begins anywhere and has so much; None: at 0, with all
    num_stations: int = static(default=0)  # S; 0: as many as the origins say
    gap: Any = None  # [N] s after the one before; made of the arrivals

    def __post_init__(self) -> None:
        arrival = np.asarray(self.arrival, np.float64)
        bounds: dict[str, Keywords] = {
            "arrival": {"at_least": 0},
            "origin": {"at_least": 0},
            "images": {"at_least": 1},
            "size": {"at_least": 0},
            "result": {"at_least": 0},
            "quality": {"at_least": 0, "at_most": 1},
            "limit": {"above": 0, "finite": False},
        }
        for name, bound in bounds.items():
            value = checks.real(name, getattr(self, name), ndim=1, **bound)
            kind = jnp.int32 if name in ("origin", "images") else value.dtype
            object.__setattr__(self, name, value.astype(kind))
        checks.same_length(**{name: getattr(self, name) for name in bounds})
        if len(arrival) == 0 or np.any(np.diff(arrival) < 0):
            raise ValueError("arrival must be one request at least, in order of time")
        # In float64 first: in float32 seconds of a month are steps of a quarter of one.
        if self.gap is None:
            gap = np.diff(arrival, prepend=0.0)
            object.__setattr__(self, "gap", jnp.asarray(gap, self.arrival.dtype))
        needed = int(np.max(np.asarray(self.origin))) + 1
        if self.num_stations == 0:
            object.__setattr__(self, "num_stations", needed)
        if needed > self.num_stations:
            raise ValueError(
                f"origin must be below num_stations, {self.num_stations}, got {needed - 1}"
            )
        if self.window is not None:
            window = checks.real("window", self.window, ndim=0, above=0)
            object.__setattr__(self, "window", window)
            if is_concrete(window) and window > arrival[-1]:
                raise ValueError(
                    f"window must be at most {arrival[-1]:g} s, when the last request arrives, "
                    f"got {float(window):g}"
                )

    def most(self, horizon: float) -> int:
        """The requests of an episode, wherever it begins."""
        arrival = np.cumsum(np.asarray(self.gap, np.float64))
        if self.window is None:
            return max(int(np.searchsorted(arrival, horizon, "right")), 1)
        ends = np.searchsorted(arrival, arrival + min(horizon, float(self.window)), "right")
        return int(np.max(ends - np.arange(len(arrival)))) + 1

    def begin(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[] int32, the first request of the episode; [] s, when the episode begins."""
        if self.window is None:
            return jnp.zeros((), jnp.int32), jnp.zeros((), self.arrival.dtype)
        last = self.arrival[-1] - self.window
        start = jax.random.uniform(key, (), self.arrival.dtype) * last
        return jnp.sum(self.arrival < start, dtype=jnp.int32), start

    def next(self, key: jax.Array, time: Scalar, memory: Memory) -> tuple[Request, Memory]:
        """The next request; at infinity where there are no more."""
        del key
        index, start = memory
        there = index < self.arrival.shape[0]
        row = jnp.minimum(index, self.arrival.shape[0] - 1)
        # ``start`` is negative once the episode has had its first request.
        first = jnp.maximum(self.arrival[row] - start, 0)
        arrival = jnp.where(start >= 0, first, time + self.gap[row])
        if self.window is not None:
            there &= arrival <= self.window
        request = Request(
            arrival=jnp.where(there, arrival, jnp.inf),
            origin=self.origin[row],
            size=self.size[row],
            result=self.result[row],
            images=self.images[row],
            quality=self.quality[row],
            limit=self.limit[row],
        )
        return request, (index + 1, jnp.full_like(start, -1))
