"""Traces that are drawn from a law, at a mean load."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxmec.core import checks
from jaxmec.core.naming import look_up
from jaxmec.traces.files import Rows


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Tasks drawn from a law, at a mean load.

    diurnal: Poisson arrivals whose rate goes up and down as a sine. mmpp: each station is quiet
    or busy, for times that are geometric, and has Poisson arrivals at that state's rate.
    heavy-tailed: Poisson arrivals whose sizes have a bounded Pareto distribution; else sizes are
    uniform. Work is density · size.
    """

    kind: str  # diurnal, mmpp or heavy-tailed
    load: float = 0.5  # mean work of a slot over what all servers do in one
    capacity: float = 150.0  # Gcycles/s, of all servers
    slot_length: float = 1.0  # s
    stations: int = 5  # B
    slots: int = 60  # T
    size: tuple[float, float] | None = None  # Mbit, low and high; by default 2 5, heavy-tailed 1 50
    density: float = 0.2048  # Gcycles/Mbit
    amplitude: float = 0.8  # diurnal: of the sine, as a share of the mean rate
    period: float = 60.0  # diurnal: slots of one sine
    burst: float = 5.0  # mmpp: rate of a busy station over that of a quiet one
    busy: float = 5.0  # mmpp: mean slots that a station stays busy
    quiet: float = 20.0  # mmpp: mean slots that a station stays quiet
    tail: float = 1.2  # heavy-tailed: index of the Pareto distribution; less is heavier

    def __post_init__(self) -> None:
        look_up("kind", self.kind, dict.fromkeys(("diurnal", "mmpp", "heavy-tailed")))
        positive = checks.number(above=0)
        checks.fields(
            self,
            stations=checks.whole(1),
            slots=checks.whole(1),
            **dict.fromkeys(
                ("load", "capacity", "slot_length", "density", "period", "tail"), positive
            ),
            **dict.fromkeys(("burst", "busy", "quiet"), checks.number(1)),
            amplitude=checks.number(0, most=1),
        )
        low, high = self.sizes
        if not 0 < low < high < np.inf:
            raise ValueError(f"size must be two growing numbers above 0, got {self.size!r}")

    @property
    def sizes(self) -> tuple[float, float]:
        """Mbit, low and high."""
        if self.size is not None:
            return self.size
        return (1.0, 50.0) if self.kind == "heavy-tailed" else (2.0, 5.0)

    @property
    def mean_size(self) -> float:
        """Mbit."""
        low, high = self.sizes
        if self.kind != "heavy-tailed":
            return (low + high) / 2
        if self.tail == 1:
            return low * high / (high - low) * np.log(high / low)
        # E d = l^a / (1 − (l/h)^a) · a/(a − 1) · (l^(1 − a) − h^(1 − a))
        a, share = self.tail, 1 - (low / high) ** self.tail
        return low**a / share * a / (a - 1) * (low ** (1 - a) - high ** (1 - a))

    def draw(self, seed: int = 0) -> Rows:
        """One trace.

        Raises:
            ValueError: there is not one task in it.
        """
        rng = np.random.default_rng(seed)
        work = self.load * self.capacity * self.slot_length  # Gcycles a slot
        mean = work / (self.density * self.mean_size * self.stations)
        counts = rng.poisson(mean * self._intensity(rng))  # [T, B]
        total = int(counts.sum())
        if total == 0:
            raise ValueError(
                f"load must give at least one task in {self.slots} slots, got {self.load:g}"
            )
        slot, origin = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(
            counts.shape))  # fmt: skip
        (low, high), uniform = self.sizes, rng.random(total)
        if self.kind == "heavy-tailed":
            size = low * (1 - uniform * (1 - (low / high) ** self.tail)) ** (-1 / self.tail)
        else:
            size = low + (high - low) * uniform
        return Rows(slot, origin, size, self.density * size, np.zeros(total))

    def _intensity(self, rng: np.random.Generator) -> np.ndarray:
        """[T, B] expected tasks over their mean."""
        shape = (self.slots, self.stations)
        if self.kind == "diurnal":
            wave = 1 + self.amplitude * np.sin(2 * np.pi * np.arange(self.slots) / self.period)
            if wave.mean() <= 0:  # one slot at the bottom of a wave that touches 0
                return np.ones(shape)
            return np.broadcast_to((wave / wave.mean())[:, None], shape)
        if self.kind == "mmpp":
            share = self.busy / (self.busy + self.quiet)
            is_busy = np.empty(shape, bool)
            state = rng.random(self.stations) < share
            for slot, change in enumerate(rng.random(shape)):
                is_busy[slot] = state
                state = state ^ (change < np.where(state, 1 / self.busy, 1 / self.quiet))
            return np.where(is_busy, self.burst, 1.0) / (1 + share * (self.burst - 1))
        return np.ones(shape)
