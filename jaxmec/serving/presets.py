"""Fleets as data: who serves what, how fast, and who asks (docs/fleets.md).

A preset is a TOML file, of the package or a user's own (:mod:`jaxmec.serving.preset_files`).
:meth:`ServingPreset.params` draws what a fleet draws once, its cold starts and the phases of its
heartbeats, and makes the parameters of an environment.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxmec.core import checks
from jaxmec.core.naming import look_up, suggestion
from jaxmec.serving.arrivals import Bursts, Diurnal, Recorded, heavy_tailed
from jaxmec.serving.availability import Availability
from jaxmec.serving.errors import FleetError
from jaxmec.serving.fleet import Fleet
from jaxmec.serving.laws import Alternating, always_up, given
from jaxmec.serving.outage_files import read_outages, read_spot
from jaxmec.serving.scenario import Arrivals, Mix, Outages, Poisson, Requests, ServingParams, Times

FLEETS = ("genai-5", "genai-20", "genai-64", "prototype", "edge-inpainting")
FOLDER = Path(__file__).with_name("fleets")
SMALLEST, LARGEST = 1e-9, 1e9  # of whatever unit
ARRIVALS = ("poisson", "bursts", "diurnal")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A version of the model, which every server that has the memory can hold."""

    name: str
    size: float  # GB
    work: float  # of a server's step_time, where that is one number
    task_time: float  # s a request beside its steps
    load_time: float  # s, a cold start
    steps: tuple[int, ...]  # [L] numbers of denoising steps that can be asked for
    quality: tuple[float, ...]  # [L] in [0, 1]


@dataclasses.dataclass(frozen=True)
class Server:
    """One server."""

    name: str
    step_time: tuple[float, ...]  # [M] s, one denoising step of one image
    task_time: tuple[float, ...]  # [M] s a request beside its steps
    load_time: tuple[float, ...] | None  # [M] s; None: the variants', times a factor that is drawn
    memory: float  # GB
    rate: float  # Mbit/s
    latency: float  # s, added to every answer
    breaks: tuple[float, ...] = (0.0,)  # [K] s, where its availability is given
    speed: tuple[float, ...] = (1.0,)  # [K] of the nominal speed


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Where requests do not wait, crash or load, and whose answers take long all the same."""

    latency: float  # s, added to every answer
    image_time: float  # s an image
    variant: str  # the one that it offers
    steps: int
    rate: float  # Mbit/s


@dataclasses.dataclass(frozen=True)
class RequestClass:
    """What some of the requests have in common."""

    name: str
    share: float  # of the requests
    quality: float  # in [0, 1], the least that will do
    limit: float  # s


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What all requests have in common."""

    images: tuple[int, ...]  # [J] numbers of images that are asked for
    images_share: tuple[float, ...]  # [J] of the requests
    size: tuple[float, float]  # Mbit, uniform between
    result: tuple[float, float]  # Mbit, uniform between
    origin_share: tuple[float, ...]  # [S] of the requests, a station each

    @property
    def mean_images(self) -> float:
        """Of a request."""
        return float(np.average(self.images, weights=self.images_share))


@dataclasses.dataclass(frozen=True)
class Reference:
    """The request that load is counted in."""

    variant: str
    steps: int
    images: float


@dataclasses.dataclass(frozen=True)
class OutageLaw:
    """How servers fail, where the setting does not say that they never do."""

    law: str = "none"  # none, log-normal, given or spot
    up_median: float = 180.0  # s
    up_spread: float = 1.0  # σ of the logarithm
    down_median: float = 20.0  # s
    down_spread: float = 0.8  # σ of the logarithm
    slow_share: float = 0.0  # of the troubles that are slowed phases
    slow_speed: float = 0.5  # of the nominal speed, in a slowed phase
    troubles: int = 8  # of one server in an episode, at most
    file: str = ""  # given: a list of troubles; else the servers say theirs
    files: tuple[str, ...] = ()  # spot: records of when instances were up
    squeeze: float = 1.0  # spot: times as fast as it was


def sized(check: checks.Check) -> checks.Check:
    """And of a size that float32 calculates with, products and sums included."""

    def problems(value: object, name: str) -> checks.Problems:
        wrong = list(check(value, name))
        yield from wrong
        if wrong or not isinstance(value, int | float) or value == 0 or math.isinf(value):
            return
        if not SMALLEST <= value <= LARGEST:
            yield f"{name} must be 0 or {SMALLEST:g} to {LARGEST:g}, got {value:g}"

    return problems


POSITIVE, FROM_0 = sized(checks.number(above=0)), sized(checks.number(0))
FRACTION = sized(checks.number(0, most=1))


def span(value: object, name: str) -> checks.Problems:
    """Two numbers from 0 up, of which the second is no smaller."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        yield f"{name} must be [low, high], got {checks.shown(value)}"
        return
    for index, end in enumerate(value):
        yield from FROM_0(end, f"{name}[{index}]")
    if not list(FROM_0(value[0], "")) and value[0] > value[1]:
        yield f"{name}[1] must be at least {name}[0], {value[0]:g}, got {value[1]:g}"


SETTING: dict[str, checks.Check] = {
    "load": POSITIVE,
    "heartbeat": POSITIVE,
    "detect": FROM_0,
    "horizon": POSITIVE,
    "impatience": FROM_0,
    "failure_cost": FROM_0,
    "attempts": checks.whole(1),
    "cloud": checks.flag,
    "outages": FROM_0,
    "arrivals": checks.one_of(ARRIVALS),
    "cold_spread": span,
    "burst": sized(checks.number(1)),
    "busy": POSITIVE,
    "quiet": POSITIVE,
    "amplitude": FRACTION,
    "period": POSITIVE,
    "anywhere": checks.flag,
    "images_tail": FROM_0,
    "most_images": checks.whole(1, 1024),
}


@dataclasses.dataclass(frozen=True)
class ServingSetting:
    """What can be changed by name where an environment is made, as ``load=0.4``."""

    load: float = 0.7  # of the requests that the servers can serve, the cloud left out
    heartbeat: float = 2.0  # s
    detect: float = 1.0  # s from a crash until the station knows
    horizon: float = 600.0  # s in which requests arrive
    impatience: float = 0.2  # w: what a delay as long as the limit costs in the reward
    failure_cost: float = 0.0  # u: what a request that is not served costs in the reward
    attempts: int = 3  # a request that was lost so often has failed
    cloud: bool = True  # the fleet's cloud, if it has one, can be asked
    outages: float = 1.0  # times as frequent as the fleet's law says; 0: always up
    arrivals: str = "poisson"  # law of the requests' times: poisson, bursts or diurnal
    cold_spread: tuple[float, float] = (1.0, 1.0)  # a server's load times, times a factor between
    burst: float = 5.0  # bursts: the rate in one over that between them
    busy: float = 20.0  # bursts: s, mean length
    quiet: float = 80.0  # bursts: s, mean time between
    amplitude: float = 0.8  # diurnal: of the sine, as a share of the mean rate
    period: float = 600.0  # diurnal: s
    anywhere: bool = False  # an episode begins anywhere in a trace of requests, not at its first
    images_tail: float = 0.0  # of Zipf's law of a request's images; 0: as the fleet's requests say
    most_images: int = 32  # of a request, where they have a tail

    def __post_init__(self) -> None:
        checks.fields(self, **SETTING)


@dataclasses.dataclass(frozen=True)
class ServingPreset:
    """A fleet, what it serves and to whom; every field of ``setting`` can be changed by name."""

    name: str
    about: str
    servers: tuple[Server, ...]
    cloud: Cloud | None
    variants: tuple[Variant, ...]
    classes: tuple[RequestClass, ...]
    wanted: Wanted
    reference: Reference
    outages: OutageLaw
    setting: ServingSetting

    @property
    def options(self) -> tuple[tuple[int, int, float], ...]:
        """[O] of variant, steps and quality."""
        return tuple(
            (index, steps, quality)
            for index, variant in enumerate(self.variants)
            for steps, quality in zip(variant.steps, variant.quality, strict=True)
        )

    @property
    def stations(self) -> int:
        """S; station i stands at server i."""
        return len(self.wanted.origin_share)

    @property
    def capacity(self) -> float:
        """Requests a s at load 1: Σ_i 1 / (z c_i + a_i) / n, of z steps and n images."""
        m = [variant.name for variant in self.variants].index(self.reference.variant)
        seconds = [
            self.reference.steps * server.step_time[m] + server.task_time[m]
            for server in self.servers
            if self.variants[m].size <= server.memory
        ]
        return float(np.sum(1 / np.array(seconds)) / self.reference.images)

    def params(
        self, seed: int = 0, workload: Arrivals | None = None, **changes: Any
    ) -> ServingParams:
        """What an environment is made of.

        Args:
            seed: of the servers' cold starts and the phases of their heartbeats, a stream each.
            workload: a law of arrivals instead of the preset's, a record say.
            changes: fields of :class:`ServingSetting`; ``outages`` may be a law of availability.

        Raises:
            TypeError: no such field; suggests the nearest.
            ValueError: a value that it cannot have.
            FleetError: a file of outages is none.
            OSError: a file of outages cannot be read.
        """
        outages: Outages | None = None
        if dataclasses.is_dataclass(changes.get("outages")):
            outages = changes.pop("outages")
        setting = changed(self.setting, **changes)
        cloud = self.cloud if setting.cloud else None
        if setting.anywhere and isinstance(workload, Recorded):
            workload = dataclasses.replace(workload, window=setting.horizon)
        servers = len(self.servers) + (cloud is not None)
        variant, steps, quality = zip(*self.options, strict=True)
        return ServingParams(
            fleet=self._fleet(setting, seed, cloud),
            outages=self._outages(setting, servers) if outages is None else outages,
            arrivals=self._arrivals(setting) if workload is None else workload,
            variant=np.array(variant),
            steps=np.array(steps),
            quality=np.array(quality),
            offered=self._offered(cloud),
            horizon=setting.horizon,
            impatience=setting.impatience,
            failure_cost=setting.failure_cost,
            attempts=setting.attempts,
        )

    def _fleet(self, setting: ServingSetting, seed: int, cloud: Cloud | None) -> Fleet:
        cold_stream, phase_stream = (
            np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)
        )
        factors = cold_stream.uniform(*setting.cold_spread, len(self.servers))
        loads = np.array([variant.load_time for variant in self.variants])
        rows: list[tuple[object, ...]] = [
            (server.step_time, server.task_time,
             factor * loads if server.load_time is None else server.load_time,
             server.memory, server.rate, server.latency, False)
            for server, factor in zip(self.servers, factors, strict=True)
        ]  # fmt: skip
        if cloud is not None:
            none = np.zeros(len(loads))
            step_time = none + cloud.image_time / cloud.steps
            rows.append((step_time, none, none, 0.0, cloud.rate, cloud.latency, True))
        columns = (np.array(column) for column in zip(*rows, strict=True))
        step_time, task_time, load_time, memory, rate, latency, elastic = columns
        return Fleet(
            step_time,
            task_time,
            load_time,
            np.array([variant.size for variant in self.variants]),
            memory,
            rate,
            latency,
            elastic,
            heartbeat=setting.heartbeat,
            phase=setting.heartbeat * phase_stream.random(len(rows)),
            detect=setting.detect,
        )

    def _offered(self, cloud: Cloud | None) -> np.ndarray:
        """[B, O] bool: a server offers all options, the cloud its own."""
        rows = [[True] * len(self.options)] * len(self.servers)
        if cloud is not None:
            rows = [*rows, [(self.variants[m].name, steps) == (cloud.variant, cloud.steps)
                            for m, steps, _ in self.options]]  # fmt: skip
        return np.array(rows)

    def _outages(self, setting: ServingSetting, servers: int) -> Outages:
        law, often = self.outages, setting.outages
        if law.law == "none" or often == 0:
            return always_up(servers)
        if law.law != "log-normal" and often != 1:
            raise ValueError(f"outages must be 0 or 1 where the fleet's are given, got {often:g}")
        if law.law == "spot":
            return read_spot(law.files, setting.horizon, law.squeeze)
        if law.law == "given":
            return self._given(servers)
        return Alternating(
            law.up_median / often,
            law.up_spread,
            law.down_median,
            law.down_spread,
            law.slow_share,
            law.slow_speed,
            troubles=int(np.ceil(law.troubles * max(often, 1))),
        )

    def _given(self, servers: int) -> Availability:
        """The availability that a list or the servers' own pieces say."""
        if self.outages.file:
            try:
                return given(servers, read_outages(self.outages.file))
            except ValueError as error:
                raise FleetError(f"{self.outages.file}: {error}") from None
        longest = max(len(server.breaks) for server in self.servers)
        breaks, speed = np.full((servers, longest), np.inf), np.ones((servers, longest))
        breaks[:, 0] = 0
        for i, server in enumerate(self.servers):
            breaks[i, : len(server.breaks)] = server.breaks
            speed[i, : len(server.speed)] = server.speed
        return Availability(breaks, speed)

    def _arrivals(self, setting: ServingSetting) -> Arrivals:
        wanted = self.wanted
        if setting.images_tail > 0:
            images, share = heavy_tailed(setting.images_tail, setting.most_images)
            wanted = dataclasses.replace(wanted, images=tuple(images), images_share=tuple(share))
        # The load stays what it is, whatever the number of images.
        rate = setting.load * self.capacity * self.wanted.mean_images / wanted.mean_images
        times: Times = Poisson(rate)
        if setting.arrivals == "bursts":
            times = Bursts(rate, setting.burst, setting.busy, setting.quiet)
        elif setting.arrivals == "diurnal":
            times = Diurnal(rate, setting.amplitude, setting.period)
        return Requests(times, self._mix(wanted))

    def _mix(self, wanted: Wanted) -> Mix:
        classes = self.classes
        return Mix(
            share=np.array([each.share for each in classes], float),
            quality=np.array([each.quality for each in classes], float),
            limit=np.array([each.limit for each in classes], float),
            images=np.array(wanted.images, float),
            images_share=np.array(wanted.images_share, float),
            size=np.array(wanted.size, float),
            result=np.array(wanted.result, float),
            origin_share=np.array(wanted.origin_share, float),
        )


def changed(setting: ServingSetting, **changes: Any) -> ServingSetting:
    """A setting with some fields changed.

    Raises:
        TypeError: no such field; suggests the nearest.
        ValueError: a value that it cannot have.
    """
    names = [field.name for field in dataclasses.fields(ServingSetting)]
    for name in changes:
        if name not in names:
            raise TypeError(
                f"a fleet's setting has no field {name!r}{suggestion(name, names)}; "
                f"it has {', '.join(names)}"
            )
    return dataclasses.replace(setting, **changes)


def is_file_name(name: str | os.PathLike[str]) -> bool:
    """Whether a preset's name is a file's: ``my.toml``, ``./mine`` and no plain name."""
    text = os.fspath(name)
    return text.endswith(".toml") or "/" in text or os.sep in text


def find_serving_preset(name: str | os.PathLike[str]) -> ServingPreset:
    """The preset of that name, or in that file: ``./my.toml`` is a path, and so is ``my.toml``.

    Raises:
        ValueError: an unknown name, with the nearest right one.
        FleetError: the file is no fleet; the message says what is wrong where.
        OSError: the file cannot be read.
    """
    from jaxmec.serving.preset_files import read_preset

    text = os.fspath(name)
    if is_file_name(text):
        return read_preset(text)
    look_up("fleet", text, dict.fromkeys(FLEETS))
    return dataclasses.replace(read_preset(FOLDER / f"{text}.toml"), name=text)
