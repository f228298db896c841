"""The published settings, as data (docs/model.md: "Presets").

A preset is plain numbers; :meth:`Preset.params` draws what a setting draws once (the
per-position densities, qualities and result sizes) and makes the environment's parameters.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmec.core import checks
from jaxmec.core.naming import look_up, suggestion

if TYPE_CHECKING:
    from jaxmec.envs.state import OffloadingParams
    from jaxmec.mec.workload import TaskSizes, Workload

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Preset:
    """One published setting. Every field can be overridden in :func:`jaxmec.make`."""

    problem: str  # "multi" or "single": how many servers a task may use
    capacity: tuple[float, ...]  # [B] Gcycles/s
    rate: tuple[float, ...]  # [B] Mbit/s
    slot_length: float  # s
    slots: int  # T
    arrivals: str  # "bernoulli" or "uniform"
    positions: int  # N, the most tasks of one station in a slot
    size: Range  # Mbit, uniform between
    discount: float  # γ of the published methods
    probability: float = 0.3  # of a task at each position, for Bernoulli arrivals
    laid_out: bool = False  # draw a station's slot at once, as information "slot" needs
    master: bool = False  # tasks arrive at one master node that hosts no server
    density: Range | None = None  # Gcycles/Mbit, uniform between, one draw a position
    step_work: Range | None = None  # Gcycles per denoising step, one draw a position
    quality: tuple[int, int] | None = None  # denoising steps, integers, one draw a position
    result: Range = (0.0, 0.0)  # Mbit, uniform between, one draw a position
    deadline: float = math.inf  # s
    penalty: float = 1.0  # deadlines that a failed task costs in the reward
    max_wait: float | str = math.inf  # s, or "deadline"
    uplink_contention: bool = False
    uplink_cap: float | str = math.inf  # s, or "slot_length"
    backlog_scale: float = 1.0  # s of queueing that an observation counts as 1
    slot_scale: float = 1.0  # s of work or transmission within a slot, likewise

    def __post_init__(self) -> None:
        checks.fields(
            self,
            problem=checks.one_of(("multi", "single")),
            arrivals=checks.one_of(("bernoulli", "uniform")),
            master=checks.flag,
            laid_out=checks.flag,
            probability=checks.number(0, most=1),
            positions=checks.whole(1),
            slots=checks.whole(1),
        )
        if self.laid_out and self.arrivals != "bernoulli":
            raise ValueError(f"laid_out goes with arrivals 'bernoulli', got {self.arrivals!r}")
        for name, tie in (("max_wait", "deadline"), ("uplink_cap", "slot_length")):
            if isinstance(getattr(self, name), str) and getattr(self, name) != tie:
                raise ValueError(f"{name} must be seconds or {tie!r}, got {getattr(self, name)!r}")
        if (self.density is None) == (self.step_work is None):
            raise ValueError(
                "exactly one of density and step_work must be given, "
                f"got {self.density!r} and {self.step_work!r}"
            )
        if (self.step_work is None) != (self.quality is None):
            raise ValueError(
                f"step_work and quality go together, got {self.step_work!r} and {self.quality!r}"
            )
        for name in ("size", "density", "step_work", "quality", "result"):
            value = getattr(self, name)
            if value is None:
                continue
            pair = isinstance(value, (tuple, list)) and len(value) == 2
            if not pair or not 0 <= value[0] <= value[1] < math.inf:
                raise ValueError(f"{name} must be a range (low, high) from 0 up, got {value!r}")

    def params(
        self, seed: int = 0, workload: Workload | None = None, **changes: object
    ) -> OffloadingParams:
        """Environment parameters whose per-position numbers are drawn from ``seed``.

        Args:
            seed: of the densities, qualities and result sizes, each a stream of its own.
            workload: arrivals to use instead of the preset's (a trace, say).
            changes: fields of the preset.

        Raises:
            TypeError: no such field.
        """
        if changes:
            return override(self, **changes).params(seed, workload)
        # Here, so that presets can be listed without JAX.
        from jaxmec.envs.state import ObservationScales, OffloadingParams
        from jaxmec.mec import BernoulliWorkload, EdgeNetwork, UniformCountWorkload

        network = EdgeNetwork(
            capacity=self.capacity,
            rate=self.rate,
            slot_length=self.slot_length,
            uplink_contention=self.uplink_contention,
            uplink_cap=self._seconds("uplink_cap"),
            max_wait=self._seconds("max_wait"),
        )
        sizes = self._sizes(seed)
        stations = 1 if self.master else len(self.capacity)
        if workload is None and self.arrivals == "bernoulli":
            workload = BernoulliWorkload(
                probability=self.probability,
                sizes=sizes,
                slots=self.slots,
                stations=stations,
                master=self.master,
                laid_out=self.laid_out,
            )
        elif workload is None:
            workload = UniformCountWorkload(
                sizes=sizes, slots=self.slots, stations=stations, master=self.master
            )
        work_high = self.size[1] * float(np.max(sizes.density)) + float(np.max(sizes.fixed_work))
        return OffloadingParams(
            network=network,
            workload=workload,
            deadline=self.deadline,
            penalty=self.penalty,
            scales=ObservationScales(
                size=self.size[1],
                work=work_high,
                result=self.result[1] or 1.0,
                backlog=self.backlog_scale,
                slot=self.slot_scale,
            ),
        )

    def _seconds(self, name: str) -> float:
        """A limit in s; one that is tied to another field has that field's value."""
        value = getattr(self, name)
        return getattr(self, value) if isinstance(value, str) else value

    def _sizes(self, seed: int) -> TaskSizes:
        from jaxmec.mec.workload import TaskSizes

        density_stream, step_stream, quality_stream, result_stream = (
            np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
        )
        density = fixed_work = np.zeros(self.positions)
        if self.density is not None:
            density = density_stream.uniform(*self.density, self.positions)
        if self.step_work is not None and self.quality is not None:
            steps = quality_stream.integers(*self.quality, self.positions, endpoint=True)
            fixed_work = steps * step_stream.uniform(*self.step_work, self.positions)
        return TaskSizes(
            size_low=self.size[0],
            size_high=self.size[1],
            density=density,
            fixed_work=fixed_work,
            result=result_stream.uniform(*self.result, self.positions),
        )


LAD_TS_CAPACITY = (50, 25, 18, 32, 28, 21, 50, 17, 44, 41, 21, 31, 41, 36, 30, 47, 49, 13, 48, 14)
LAD_TS_RATE = (
    499, 478, 461, 416, 473, 408, 500, 462, 427, 430,
    480, 407, 476, 415, 453, 480, 427, 444, 477, 475,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "amcoedge": Preset(
        problem="multi",
        capacity=(10, 20, 30, 40, 50),
        rate=(400, 425, 450, 475, 500),
        slot_length=1.0,
        slots=60,
        arrivals="bernoulli",
        probability=0.3,
        positions=50,
        size=(2, 5),
        density=(0.1024, 0.3072),  # 1.024e-3 · U(100, 300)
        deadline=1.0,
        penalty=10.0,
        uplink_contention=True,
        uplink_cap="slot_length",
        discount=0.9,
        backlog_scale=0.2,
        slot_scale=0.2,
    ),
    "smcoedge": Preset(
        problem="multi",
        capacity=(10, 20, 30, 40, 50),
        rate=(500, 425, 450, 400, 475),
        slot_length=0.1,
        slots=100,
        arrivals="bernoulli",
        probability=0.3,
        positions=50,
        size=(10, 40),
        density=(0.003, 0.009),  # 3e-5 · U(100, 300)
        deadline=1.0,
        penalty=2.0,
        max_wait="deadline",
        uplink_contention=True,
        discount=0.9,
        backlog_scale=0.2,
        slot_scale=0.5,
    ),
    "lad-ts": Preset(
        problem="single",
        capacity=LAD_TS_CAPACITY,
        rate=LAD_TS_RATE,
        slot_length=1.0,
        slots=59,
        arrivals="uniform",
        positions=50,
        size=(2, 5),
        step_work=(0.1024, 0.3072),
        quality=(1, 14),
        result=(0.6, 1.0),
        discount=0.95,
        backlog_scale=5.0,
        slot_scale=1.0,
    ),
    "fdedge": Preset(
        problem="single",
        capacity=LAD_TS_CAPACITY[:10],
        rate=LAD_TS_RATE[:10],
        slot_length=1.0,
        slots=99,
        arrivals="uniform",
        positions=100,
        master=True,
        size=(10, 40),
        density=(0.1024, 0.3072),
        discount=0.95,
        backlog_scale=1.0,
        slot_scale=1.0,
    ),
}


def scaled(preset: Preset, servers: int) -> Preset:
    """The preset on a network of B = ``servers``: its capacities and rates, repeated in turn.

    Each station keeps its arrivals, so the load stays what it was, exactly where B is a
    multiple of the preset's own number of servers.

    Raises:
        ValueError: no positive whole number of servers; a preset whose tasks all arrive at
            one master node, so that more servers would mean less load.
    """
    servers = checks.integer("servers", servers)
    if preset.master:
        raise ValueError("master must be False to scale a preset at the same load, got True")
    turns = -(-servers // len(preset.capacity))
    return dataclasses.replace(
        preset,
        capacity=(preset.capacity * turns)[:servers],
        rate=(preset.rate * turns)[:servers],
    )


def find_preset(name: str) -> Preset:
    """The preset of that name; "amcoedge-64" is "amcoedge" on 64 servers (:func:`scaled`).

    Raises:
        ValueError: an unknown name, with the nearest right one.
    """
    base, _, servers = name.rpartition("-")
    if base in PRESETS and servers.isdecimal():
        return scaled(PRESETS[base], int(servers))
    return look_up("preset", name, PRESETS)


def override(preset: Preset, **changes: Any) -> Preset:
    """A copy of a preset with some fields changed, or an error naming the wrong field."""
    names = [field.name for field in dataclasses.fields(preset)]
    for name in changes:
        if name not in names:
            raise TypeError(
                f"a preset has no field {name!r}{suggestion(name, names)}; "
                f"it has {', '.join(names)}"
            )
    lists = {
        name: tuple(value)
        for name, value in changes.items()
        if isinstance(value, (list, np.ndarray)) or hasattr(value, "__array__")
        if np.ndim(value) == 1
    }
    return dataclasses.replace(preset, **{**changes, **lists})
