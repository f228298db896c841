"""What is served, to whom and for how long: all that an episode is made of, as numbers.

A law of arrivals has

- ``num_stations``: S, an int that is static;
- ``most(horizon) -> int``: a bound on the requests of an episode of that many s, for all practical
  purposes, from concrete numbers;
- ``begin(key) -> memory``: what the law remembers before its first request, any pytree;
- ``next(key, time, memory) -> (Request, memory)``: the request after the one at ``time`` [] s (0
  at first). Its arrival is at ``time`` or later, and infinite where there are no more.

Request n of an episode has a key of its own, whatever was decided about those before it. A law of
availability has ``draw(key, steady) -> Availability``.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxmec.core import checks as single
from jaxmec.core.types import Memory
from jaxmec.mec import checks
from jaxmec.serving import draws
from jaxmec.serving.availability import Availability
from jaxmec.serving.decision import Request
from jaxmec.serving.fleet import Fleet
from jaxmec.struct import Leaf, Scalar, is_concrete, leaf, pytree, static


class Arrivals(Protocol):
    """Who asks for what, and when."""

    @property
    def num_stations(self) -> int: ...

    def most(self, horizon: float) -> int: ...

    def begin(self, key: jax.Array) -> Memory: ...

    def next(self, key: jax.Array, time: Scalar, memory: Memory) -> tuple[Request, Memory]: ...


class Times(Protocol):
    """When requests arrive: the part of a law of arrivals that knows nothing of what is asked."""

    def most(self, horizon: float) -> int: ...

    def begin(self, key: jax.Array) -> Memory: ...

    def next(self, key: jax.Array, time: Scalar, memory: Memory) -> tuple[jax.Array, Memory]: ...


class Outages(Protocol):
    """How servers fail."""

    def draw(self, key: jax.Array, steady: jax.Array) -> Availability: ...


@pytree
class Mix:
    """What requests ask for: C classes, numbers of images, sizes, S stations; each by itself.

    Shares need not sum to 1.

    Raises:
        ValueError: a share, quality, limit, size or number of images out of range.
    """

    share: Leaf  # [C] of the requests
    quality: Leaf  # [C] in [0, 1], the least that will do
    limit: Leaf  # [C] s, τ
    images: Leaf  # [J] int, the numbers of images that are asked for
    images_share: Leaf  # [J] of the requests
    size: Leaf  # [2] Mbit, d: uniform between
    result: Leaf  # [2] Mbit, e: uniform between
    origin_share: Leaf  # [S] of the requests

    def __post_init__(self) -> None:
        shares = ("share", "images_share", "origin_share")
        checks.reals(self, *shares, "size", "result", ndim=1, at_least=0)
        checks.reals(self, "quality", ndim=1, at_least=0, at_most=1)
        checks.reals(self, "limit", ndim=1, above=0, finite=False)
        checks.reals(self, "images", ndim=1, at_least=1)
        if is_concrete(self.images) and np.any(np.asarray(self.images) % 1):
            raise ValueError(f"images must be whole numbers, got {np.asarray(self.images)}")
        object.__setattr__(self, "images", self.images.astype(jnp.int32))
        checks.same_length(share=self.share, quality=self.quality, limit=self.limit)
        checks.same_length(images=self.images, images_share=self.images_share)
        for name in shares:
            value = getattr(self, name)
            if is_concrete(value) and not np.sum(value) > 0:
                raise ValueError(f"{name} must have a share above 0, got {np.asarray(value)}")
        for name in ("size", "result"):
            value = getattr(self, name)
            if value.shape != (2,):
                raise ValueError(f"{name} must be [low, high], got shape {value.shape}")
            if is_concrete(value) and value[0] > value[1]:
                raise ValueError(f"{name}[1] must be at least {name}[0], {value[0]:g}, "
                                 f"got {value[1]:g}")  # fmt: skip

    @property
    def num_stations(self) -> int:
        """S."""
        return self.origin_share.shape[-1]

    def draw(self, key: jax.Array, arrival: jax.Array) -> Request:
        """A request that arrives at ``arrival`` [] s."""
        kind, number, place, size, result = draws.uniform(key, 5, self.share.dtype)
        of_class = _pick(self.share, kind)
        return Request(
            arrival=arrival,
            origin=_pick(self.origin_share, place),
            size=self.size[0] + size * (self.size[1] - self.size[0]),
            result=self.result[0] + result * (self.result[1] - self.result[0]),
            images=self.images[_pick(self.images_share, number)],
            quality=self.quality[of_class],
            limit=self.limit[of_class],
        )


def _pick(share: jax.Array, uniform: jax.Array) -> jax.Array:
    """[] int32: an index with a probability in proportion to its share."""
    ends = jnp.cumsum(share)
    return jnp.sum(uniform * ends[-1] >= ends[:-1], dtype=jnp.int32)


@pytree
class Poisson:
    """Times of a Poisson process.

    Raises:
        ValueError: a rate that is not positive.
    """

    rate: Leaf  # requests a s

    def __post_init__(self) -> None:
        rate = checks.real("rate", self.rate, ndim=0, above=0)
        object.__setattr__(self, "rate", rate)

    def most(self, horizon: float) -> int:
        """Mean and eight standard deviations."""
        mean = float(self.rate) * horizon
        return int(np.ceil(mean + 8 * np.sqrt(mean) + 8))

    def begin(self, key: jax.Array) -> tuple[()]:
        """Nothing to remember."""
        del key
        return ()

    def next(self, key: jax.Array, time: Scalar, memory: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        """[] s, when the next request arrives."""
        return time + draws.exponential(key, self.rate.dtype) / self.rate, memory


@pytree
class Requests:
    """Arrivals whose times follow one law, and what they ask for another, apart from them."""

    times: Times  # a law of times, :class:`Poisson` say
    mix: Mix

    @property
    def num_stations(self) -> int:
        """S."""
        return self.mix.num_stations

    def most(self, horizon: float) -> int:
        """A bound on the requests of an episode."""
        return self.times.most(horizon)

    def begin(self, key: jax.Array) -> Memory:
        """What the law of times remembers."""
        return self.times.begin(key)

    def next(self, key: jax.Array, time: Scalar, memory: Memory) -> tuple[Request, Memory]:
        """The next request."""
        key_time, key_mix = draws.split(key)
        arrival, memory = self.times.next(key_time, time, memory)
        return self.mix.draw(key_mix, arrival), memory


@pytree
class ServingParams:
    """Everything about an environment of serving that is a number, to be vmapped over.

    An option is a variant of the model with a number of denoising steps; a decision names a server
    and one of its O options.

    Raises:
        ValueError: a quantity out of range, shapes that disagree, an option that no server can
            offer, a variant whose quality falls where it makes more steps, more stations than
            servers.
    """

    fleet: Fleet
    outages: Outages  # a law of availability: Alternating, or one Availability for every episode
    arrivals: Arrivals  # a law of arrivals
    variant: Leaf  # [O] int, of each option
    steps: Leaf  # [O] int, z
    quality: Leaf  # [O] in [0, 1]
    offered: Any = None  # [B, O] bool; by default all that fits. Never what does not fit
    horizon: Leaf = leaf(default=600.0)  # s: no request arrives later
    impatience: Leaf = leaf(default=0.2)  # w, what a delay of the limit costs in the reward
    failure_cost: Leaf = leaf(default=0.0)  # u, what a request that is not served costs there
    attempts: int = static(default=3)  # a request that was lost so often has failed
    max_requests: int = static(default=0)  # of an episode; 0: as the law of arrivals says

    def __post_init__(self) -> None:
        convert = {
            "quality": checks.real("quality", self.quality, ndim=1, at_least=0, at_most=1),
            "variant": _whole("variant", self.variant, 1, 0, self.fleet.num_variants - 1),
            "steps": _whole("steps", self.steps, 1, 1),
            "horizon": checks.real("horizon", self.horizon, ndim=0, above=0),
            "impatience": checks.real("impatience", self.impatience, ndim=0, at_least=0),
            "failure_cost": checks.real("failure_cost", self.failure_cost, ndim=0, at_least=0),
        }
        for name, value in convert.items():
            object.__setattr__(self, name, value)
        checks.same_length(quality=self.quality, variant=self.variant, steps=self.steps)
        shape = (self.fleet.num_servers, self.num_options)
        offered = np.ones(shape) if self.offered is None else self.offered
        object.__setattr__(self, "offered", jnp.asarray(offered, bool))
        self._check_options(shape)
        stations = self.arrivals.num_stations
        if stations > self.fleet.num_servers:
            raise ValueError(
                f"arrivals.num_stations must be at most the number of servers, at which they "
                f"stand, {self.fleet.num_servers}, got {stations}"
            )
        if self.max_requests == 0 and is_concrete(self.horizon):
            # Rounded up, so that worlds of about the same load can be stacked.
            bound = 1 << (self.arrivals.most(float(self.horizon)) - 1).bit_length()
            object.__setattr__(self, "max_requests", bound)
        whole = single.whole(1)
        single.fields(self, attempts=whole, max_requests=whole)

    def _check_options(self, shape: tuple[int, int]) -> None:
        """Raise ``ValueError`` for options that cannot be."""
        if self.offered.shape != shape:
            raise ValueError(
                f"offered must have shape {shape}, servers and options, got {self.offered.shape}"
            )
        if not is_concrete(self.quality, self.variant, self.steps, self.allowed):
            return
        allowed, quality = np.asarray(self.allowed), np.asarray(self.quality)
        nowhere = np.flatnonzero(~allowed.any(axis=0))
        if nowhere.size:
            raise ValueError(f"offered[:, {nowhere[0]}] must have a server that the option fits")
        variant, steps = np.asarray(self.variant), np.asarray(self.steps)
        order = np.lexsort((steps, variant))
        for less, more in itertools.pairwise(order):
            if variant[less] == variant[more] and quality[less] > quality[more]:
                raise ValueError(
                    f"quality[{more}] must be at least quality[{less}], {quality[less]:g}, since "
                    f"it is of more steps of the same variant, got {quality[more]:g}"
                )

    @property
    def num_options(self) -> int:
        """O."""
        return self.quality.shape[-1]

    @property
    def num_stations(self) -> int:
        """S."""
        return self.arrivals.num_stations

    @property
    def allowed(self) -> jax.Array:
        """[B, O] bool: which options can be asked of a server."""
        return self.offered & self.fleet.fits[:, self.variant]

    @property
    def max_steps_in_episode(self) -> int:
        """An upper bound on the decisions of one episode, each request to one server."""
        return self.max_requests * self.attempts


def _whole(
    name: str, value: ArrayLike, ndim: int, least: int, most: int | None = None
) -> jax.Array:
    """``value`` as an int32 array, checked against the bounds given."""
    if not is_concrete(value):
        return jnp.asarray(value)
    numbers = checks.real(name, value, ndim=ndim, at_least=least, at_most=most)
    wrong = np.flatnonzero(np.asarray(numbers).ravel() % 1)
    if wrong.size:
        where = f"[{wrong[0]}]" if ndim else ""
        raise ValueError(
            f"{name}{where} must be a whole number, got {np.ravel(numbers)[wrong[0]]:g}"
        )
    return numbers.astype(jnp.int32)
