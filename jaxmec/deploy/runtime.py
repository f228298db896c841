"""The decision of an exported policy, from named quantities in their units to fractions.

    scheduler = jaxmec.deploy.onnx.load("bundle")
    decision = scheduler.decide(None, Queues(backlog=[...]), Task(origin=0, size=3, work=0.6))
    decision.servers, decision.fractions

A :class:`Scheduler` is made of a bundle's manifest, which says what the policy sees and what
its preferences mean, and of a function from observations to preferences, which is all that the
forms (JAX, StableHLO, ONNX) differ in. It needs NumPy alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxmec.core.bundle import MAX_SERVERS, Bundle, BundleDamaged, BundleError, BundleIncompatible
from jaxmec.deploy import arithmetic

Preferences = Callable[[np.ndarray], np.ndarray]  # [n, S] float32 -> [n, A] float32

_sum, _min, _max = np.add.reduce, np.minimum.reduce, np.maximum.reduce

MASTER = -1  # the origin of a task that arrives at a node without a server
MAX_LOG_FACTOR = 5.0  # a score changes a service time by at most e^±5
LARGEST = 1e12  # a quantity above this is taken for a mistake; keeps all arithmetic finite
SMALLEST = 1e-6  # likewise a capacity or rate below this
MAX_PREFERENCES = 2**16  # of the sets of 16 servers
LEAST_WORK = 1e-9  # Gcycles, one cycle: a task has some work

ONE_SERVER, SUBSET, LOCAL_PLUS_ONE, TOP_K, SCORE = ACTION_MODES = (
    "one_server",
    "subset",
    "local_plus_one",
    "top_k",
    "score",
)
INFORMATION = ("slot_start", "local", "slot", "full")
ALLOCATORS = ("true", "seen", "expected", "priced")

# What an entry of an observation is: its quantity in this unit, over the scale in the manifest.
FEATURES: dict[str, tuple[str, str]] = {
    "size": ("Mbit", "size of the task's input"),
    "work": ("Gcycles", "work of the task"),
    "result": ("Mbit", "size of the task's result"),
    "origin": ("1", "1 for the server that stands where the task arrived, else 0"),
    "backlog": ("s", "work queued at each server when the slot began, over its capacity"),
    "inflight": ("s", "work added to each server in this slot, as far as it is seen, likewise"),
    "uplink": ("s", "time for which uplinks are committed in this slot, as far as it is seen"),
    "progress": ("1", "how far the station is through its slot, n/N"),
    "remaining_tasks": ("tasks", "tasks that the station has still to decide in its slot"),
    "remaining_work": ("s", "their work, over the capacity of all servers together"),
    "wait": ("s", "time until each server could start on the task"),
    "serve": ("s", "time of the whole task at each server, transmission included"),
    "compute": ("s", "time of the whole task's work at each server"),
    "alike": ("s", "work at each server were all stations to do as this one has in its slot"),
    "charge": ("s", "delay that the task would cause to later ones, by what the station sent"),
    "place": ("1", "where in the episode the task is: (slot * B + station) * N + position"),
}


STATION_FEATURES = ("progress", "remaining_tasks", "remaining_work", "place")
HISTORY = ("sent_tasks", "sent_work")  # fields of Queues that a charge is reckoned from


@dataclasses.dataclass(frozen=True)
class Flow:
    """What a charge takes for granted of the tasks to come."""

    stations: float  # that tasks arrive at
    slots: float  # of an episode
    tasks: float  # expected in a slot, at all stations together
    work: float  # Gcycles, mean of a task


class PolicyFailed(Exception):
    """The policy gave no usable preferences: they are not finite, or the model raised."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The servers and links; a `jaxmec.mec.EdgeNetwork` may stand in for it.

    What is None is as in the bundle.
    """

    capacity: Any  # [B] Gcycles/s
    rate: Any  # [B] Mbit/s
    uplink_contention: Any = None  # bool, whether a station's tasks wait for its uplink
    max_wait: Any = None  # s, the longest that a queue counts
    slot_length: Any = None  # s; only a charge depends on it

    def __post_init__(self) -> None:
        for name in ("capacity", "rate"):
            value = np.asarray(getattr(self, name), np.float64)
            fits = (value >= SMALLEST) & (value <= LARGEST)
            if value.ndim != 1 or not value.size or not np.all(fits):
                raise ValueError(
                    f"network.{name} must be numbers from {SMALLEST:g} to {LARGEST:g}, one a "
                    f"server, got {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, value)
        if self.capacity.shape != self.rate.shape:
            raise ValueError(
                f"network.rate must have the length of network.capacity, {len(self.capacity)}, "
                f"got {len(self.rate)}"
            )
        if not isinstance(self.uplink_contention, bool | None):
            raise ValueError(
                "network.uplink_contention must be True, False or None, "
                f"got {self.uplink_contention!r}"
            )
        if self.max_wait is not None and not self.max_wait >= 0:
            raise ValueError(f"network.max_wait must be at least 0, got {self.max_wait!r}")
        if self.slot_length is not None and not SMALLEST <= self.slot_length <= LARGEST:
            raise ValueError(
                f"network.slot_length must be from {SMALLEST:g} to {LARGEST:g} s, "
                f"got {self.slot_length!r}"
            )


@dataclasses.dataclass(frozen=True)
class Queues:
    """What the station knows of the queues; leave out what it does not know.

    What a policy needs follows from what it was trained to see (``Scheduler.needs``). Whoever
    allocates believes in ``inflight`` and ``uplink`` where they are given, else in ``sent``,
    unless the policy was trained to allocate on what it sees alone.
    """

    backlog: Any  # [B] Gcycles queued when the slot began
    inflight: Any = None  # [B] Gcycles that all stations have added in this slot
    sent: Any = None  # [B] Gcycles that this station has added in this slot
    uplink: Any = None  # s for which this station's uplink is committed, or [B], every station's
    progress: Any = None  # how far the station is through its slot, 0..1
    remaining_tasks: Any = None  # tasks that it has still to decide in the slot
    remaining_work: Any = None  # Gcycles, their work
    place: Any = None  # where in the episode the task is, (slot · B + station) · N + position
    # Since the episode began: a stretch of as many slots as the manifest says, after which a
    # station counts from 0 again.
    slot: Any = None  # slots gone by
    sent_tasks: Any = None  # [B] tasks that this station has sent there, whole or in part
    sent_work: Any = None  # [B] Gcycles, their work, as far as it was sent there


_QUANTITIES = operator.attrgetter(*(field.name for field in dataclasses.fields(Queues)))


@dataclasses.dataclass(frozen=True)
class Task:
    """The task to place."""

    origin: int  # the station where it arrived, 0..B−1; −1 for a master node without a server
    size: float  # Mbit, of its input
    work: float  # Gcycles, at least 1e-9, a cycle
    result: float = 0.0  # Mbit, of its result


@dataclasses.dataclass(frozen=True)
class Decision:
    """Where a task goes."""

    servers: tuple[int, ...]  # the set, ascending
    fractions: np.ndarray  # [B] of the task given to each server, summing to 1
    makespan: float  # s, when the last of them finishes, by the queues that were given
    by: str  # "policy", or the rule that stood in for it


class Scheduler:
    """An exported policy, ready to decide.

    The decision is a function of what is passed: there is no state and nothing random.
    """

    def __init__(self, bundle: Bundle, preferences: Preferences, form: str) -> None:
        """Args:
            bundle: the opened bundle; its manifest says what the policy sees and means.
            preferences: from observations [n, S] float32 to preferences [n, A].
            form: "jax", "stablehlo" or "onnx": where ``preferences`` comes from.

        Raises:
            BundleIncompatible: the manifest names a feature, an action or a rule that is not
                known here, or numbers that do not fit together.
        """
        self.bundle = bundle
        self.preferences = preferences
        self.form = form
        method = bundle.manifest.get("method")
        if not isinstance(method, str) or not method.isprintable():
            raise _unknown(bundle, f"its method must be a name, got {method!r:.200}")
        self.method = method
        try:
            self._read_network(bundle)
            self._read_observation(bundle)
            self._read_action(bundle)
        except BundleError:
            raise
        except Exception as error:  # of the wrong type where nobody thought of one
            raise _unknown(bundle, f"its manifest cannot be read: {error!r:.200}") from error

    def checked(self) -> Scheduler:
        """Itself, after one trial of its preferences.

        Raises:
            BundleDamaged: they fail, or are not as many as the manifest says.
        """
        try:
            shape = self.preferences(np.zeros((1, self.observation_size), np.float32)).shape
        except Exception as error:
            raise BundleDamaged(
                f"damaged bundle: {self.bundle.path}: its {self.form} form failed: {error}"
            ) from error
        if shape != (1, self.num_preferences):
            raise BundleDamaged(
                f"damaged bundle: {self.bundle.path}: its {self.form} form gave preferences of "
                f"shape {shape}, and (1, {self.num_preferences}) was expected"
            )
        return self

    # What the manifest says.

    def _read_network(self, bundle: Bundle) -> None:
        section = bundle.section("network")
        try:
            for name in ("capacity", "rate"):
                if not (isinstance(section[name], list) and len(section[name]) <= MAX_SERVERS):
                    raise ValueError(f"network.{name} must be a list of at most {MAX_SERVERS}")
            limit = section["max_wait"]
            self.network = Network(
                capacity=[_real(number) for number in section["capacity"]],
                rate=[_real(number) for number in section["rate"]],
                uplink_contention=_flag(section["uplink_contention"]),
                max_wait=math.inf if limit is None else _real(limit),
                slot_length=_real(section["slot_length"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _unknown(bundle, f"its network cannot be read: {error!r}") from None
        self.num_servers = len(self.network.capacity)
        # How many places tasks arrive at, 1 where a master node has them all. Bundles of before
        # do not say: their policies were trained to see B, at a master node too.
        self.stations = section.get("stations", self.num_servers)
        if type(self.stations) is not int or not 1 <= self.stations <= self.num_servers:
            raise _unknown(
                bundle,
                f"its network.stations is {self.stations!r}, and a whole number from 1 to "
                f"{self.num_servers} was expected",
            )
        # A row for each server, and one of zeros, which the origin −1 of a master node is.
        self._one_hot = np.vstack([np.eye(self.num_servers), np.zeros(self.num_servers)])

    def _read_observation(self, bundle: Bundle) -> None:
        section = bundle.section("observation")
        near, servers = section.get("neighbours"), self.num_servers
        if near is not None and not (type(near) is int and 1 <= near <= servers):
            raise _unknown(bundle, f"its observation.neighbours is {near!r} of {servers} servers")
        # The servers that a decision is among, m of B, in the order of the policy's: a row for
        # each station, its own first. None: all, each by its number.
        self._neighbours = None
        if near is not None:
            self._neighbours = np.add.outer(np.arange(servers), np.arange(near)) % servers
        self.num_choices = near or servers
        self.information = _one_of(bundle, "observation.information", section, INFORMATION)
        try:
            features = [
                (str(entry["name"]), _whole(entry["length"]), _real(entry["scale"]))
                for entry in section["features"]
            ]
            self.observation_size = _whole(section["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise _unknown(bundle, f"its observation cannot be read: {error!r}") from None
        for name, length, scale in features:
            if name not in FEATURES:
                raise _unknown(bundle, f"its observation has a feature {name!r}")
            if length not in _lengths(name, self.num_choices) or not 0 < scale < math.inf:
                raise _unknown(
                    bundle,
                    f"its feature {name} has length {length!r} and scale {scale!r}; expected "
                    f"length {' or '.join(map(str, _lengths(name, self.num_choices)))}, and a "
                    "positive scale",
                )
        if sum(length for _, length, _ in features) != self.observation_size:
            raise _unknown(bundle, f"its features do not add up to {self.observation_size!r}")
        self._features = tuple((name, length) for name, length, _ in features)
        self._scales = np.concatenate([np.full(length, scale) for _, length, scale in features])
        names = {name for name, _, _ in features}
        needs = {"backlog"}
        if self.information != "slot_start" and "inflight" in names:
            needs.add("inflight" if self.information == "full" else "sent")
        if "uplink" in names and self.network.uplink_contention:
            needs.add("uplink")
        if "charge" in names:
            self._flow = _read_flow(bundle, section)
            needs |= {"slot", "progress", *HISTORY}
        # The fields of Queues without which it cannot decide.
        self.needs = frozenset(needs | (names & set(STATION_FEATURES)))

    def _read_action(self, bundle: Bundle) -> None:
        section, servers = bundle.section("action"), self.num_choices
        self.mode = _one_of(bundle, "action.mode", section, ACTION_MODES)
        self.num_preferences = section.get("num_preferences")
        expected = {SUBSET: 2**servers - 1, SCORE: 2 * servers}.get(self.mode, servers)
        if expected > MAX_PREFERENCES:
            raise _unknown(
                bundle,
                f"its action {self.mode} of {servers} servers has more than {MAX_PREFERENCES} "
                "preferences",
            )
        if type(self.num_preferences) is not int or self.num_preferences != expected:
            raise _unknown(
                bundle,
                f"its action {self.mode} of {servers} servers has {self.num_preferences!r:.50} "
                f"preferences, and {expected} was expected",
            )
        self._sets = np.eye(servers)
        if self.mode == SUBSET:
            self._sets = arithmetic.subset_table(servers).astype(np.float64)
        self.k = section.get("k")
        if self.mode == TOP_K and not (type(self.k) is int and 1 <= self.k <= servers):
            raise _unknown(bundle, f"its action top_k names k = {self.k!r} of {servers} servers")
        self._score_scale = section.get("score_scale", 1.0)  # s
        if not (_is_real(self._score_scale) and 0 < self._score_scale <= LARGEST):
            raise _unknown(
                bundle,
                f"its action.score_scale must be a number above 0, got {self._score_scale!r:.50}",
            )
        rules = bundle.section("allocation")
        self.rule = _one_of(bundle, "allocation.rule", rules, tuple(arithmetic.ALLOCATIONS))
        self._allocate = arithmetic.ALLOCATIONS[self.rule]
        self._allocated_on = _one_of(bundle, "allocation.information", rules, ALLOCATORS)
        if self._allocated_on == "priced" and "charge" not in dict(self._features):
            raise _unknown(bundle, "its allocation is priced, but its observation has no charge")

    # Deciding.

    def decide(self, network: Any, queues: Queues, task: Task) -> Decision:
        """The set of servers for one task and the fraction that each is given.

        Args:
            network: the servers and links now; None for those that the policy was trained on,
                as is each of its fields that is None.
            queues: what is known of the queues.
            task: the task to place.

        Raises:
            ValueError: a quantity that is missing, negative, not finite, or of another length;
                the message names it, its value and what was expected.
            PolicyFailed: the policy gave no usable preferences; see :meth:`decide_by_rule`.
        """
        return self.decide_many(network, (queues,), (task,))[0]

    def decide_many(
        self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]
    ) -> list[Decision]:
        """Decisions for n tasks, each with its own view of the queues, none aware of the others.

        All queues give the same fields. Raises as :meth:`decide` does; a ValueError names the
        place, as in "tasks[3].size".
        """
        return self._decide(self._situation(network, queues, tasks))

    def decide_by_rule(
        self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]
    ) -> list[Decision]:
        """What stands in for a policy that failed: water-filling over all that it decides among.

        Where a task may have one server only, the one that would finish it first.
        """
        now = self._situation(network, queues, tasks)
        serve, among = now.serve, self._among(now)
        if self.mode == ONE_SERVER:
            finish = np.where(among, now.charged_wait + serve, np.inf)
            selected = self._one_hot[finish.argmin(axis=1)]
            return _decisions(selected, selected, now, "earliest_finish")
        fraction = arithmetic.water_filling(now.charged_wait, serve, among)
        return _decisions(fraction > 0, fraction, now, "water_filling")

    def observe(self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]) -> np.ndarray:
        """[n, S] float32, what the policy sees; raises as :meth:`decide_many` does."""
        return self._observe(self._situation(network, queues, tasks))

    def _decide(self, now: _Situation) -> list[Decision]:
        try:
            preferences = self.preferences(self._observe(now))
        except Exception as error:
            raise PolicyFailed(f"the {self.form} model failed: {error}") from error
        if preferences.shape != (now.count, self.num_preferences):
            raise PolicyFailed(
                f"the {self.form} model gave preferences of shape {preferences.shape}, "
                f"and ({now.count}, {self.num_preferences}) was expected"
            )
        if not np.isfinite(preferences).all():
            raise PolicyFailed(f"the {self.form} model gave preferences that are not finite")
        try:
            decisions = self._read(preferences, now)
        except Exception as error:
            raise PolicyFailed(f"the {self.form} model's preferences fail: {error}") from error
        if not all(math.isfinite(decision.makespan) for decision in decisions):
            raise PolicyFailed(f"the {self.form} model's preferences lead to no finite makespan")
        return decisions

    def _read(self, preferences: np.ndarray, now: _Situation) -> list[Decision]:
        """The decisions that preferences [n, A] mean."""
        if self.mode == SCORE:
            fraction = self._decode_scores(preferences, now.charged_wait, now.serve, now)
            return _decisions(fraction > 0, fraction, now, "policy")
        selected = self._select(preferences, now)
        if self.mode == ONE_SERVER:
            return _decisions(selected, selected, now, "policy")
        fraction = self._allocate(now.charged_wait, now.serve, selected)
        # Under CWA a server that is given nothing still belongs to the set; here it does not.
        chosen = fraction > 0 if self.rule == "water_filling" else selected
        return _decisions(chosen, fraction, now, "policy")

    def _select(self, preferences: np.ndarray, now: _Situation) -> np.ndarray:
        """[n, B] 1 for each server of the set that preferences [n, A] name, else 0."""
        if self.mode == TOP_K:
            best = np.argsort(-preferences, axis=1, kind="stable")[:, : self.k]
            return self._everywhere(_max(self._sets[best], axis=1), now)
        selected = self._everywhere(self._sets[preferences.argmax(axis=1)], now)
        return np.maximum(selected, now.fallback) if self.mode == LOCAL_PLUS_ONE else selected

    def _decode_scores(
        self, scores: np.ndarray, wait: np.ndarray, serve: np.ndarray, now: _Situation
    ) -> np.ndarray:
        """[n, B] fractions: water-filling on waits that are offset and service times scaled."""
        scores = scores.astype(np.float64)
        offset = self._everywhere(scores[:, : self.num_choices], now)
        factor = self._everywhere(scores[:, self.num_choices :], now)
        factor = np.minimum(np.maximum(factor, -MAX_LOG_FACTOR), MAX_LOG_FACTOR)
        return arithmetic.water_filling(
            wait + offset * self._score_scale, serve * np.exp(factor), self._among(now)
        )

    def _everywhere(self, near: np.ndarray, now: _Situation) -> np.ndarray:
        """[n, B] from [n, m], numbers of the servers that a decision is among; 0 elsewhere."""
        if now.near is None:
            return near
        values = np.zeros((now.count, self.num_servers))
        np.put_along_axis(values, now.near, near, axis=1)
        return values

    def _among(self, now: _Situation) -> np.ndarray:
        """[n, B] bool, the servers that a decision is among."""
        return self._everywhere(np.ones((now.count, self.num_choices)), now).astype(bool)

    def _observe(self, now: _Situation) -> np.ndarray:
        parts = []
        for name, length in self._features:
            part = now.quantity(name, length)
            if now.near is not None and part.shape[1] > 1:
                part = np.take_along_axis(part, now.near, axis=1)
            parts.append(part)
        return (np.concatenate(parts, axis=1) / self._scales).astype(np.float32)

    def _situation(
        self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]
    ) -> _Situation:
        if len(queues) != len(tasks) or not len(tasks):
            raise ValueError(
                f"queues and tasks must be as many, at least one, got {len(queues)} and "
                f"{len(tasks)}"
            )
        network = self.network if network is None else self._completed(network)
        if len(network.capacity) != self.num_servers:
            raise ValueError(
                f"network.capacity must have {self.num_servers} entries, as the policy was "
                f"trained with, got {len(network.capacity)}"
            )
        return _Situation(self, network, queues, tasks)

    def _completed(self, network: Any) -> Network:
        """The network that is named, with the bundle's own numbers where it names none."""
        named = {
            field.name: value if np.ndim(value) else np.asarray(value).item()  # no array of JAX's
            for field in dataclasses.fields(Network)
            if (value := getattr(network, field.name)) is not None
        }
        return dataclasses.replace(self.network, **named)


class _Situation:
    """n checked tasks and queues as arrays: what is seen, and what whoever allocates believes.

    [n, B] where a quantity is each server's, [n, 1] where it is the task's or the station's.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network,
        queues: Sequence[Queues],
        tasks: Sequence[Task],
    ) -> None:
        self.scheduler, self.network, self.count = scheduler, network, len(tasks)
        table, place = _table(scheduler, queues, tasks)
        self.quantities = {name: table[:, start:end] for name, (start, end) in place.items()}
        nothing = np.zeros((self.count, 1))
        given = self.quantities.get
        origins = [task.origin for task in tasks]
        self.local = scheduler._one_hot[origins]
        table_of = scheduler._neighbours
        self.near = None if table_of is None else table_of[origins]  # [n, m]
        self.remote = 1 - self.local
        sent, inflight = given("sent"), given("inflight")
        uplink = given("uplink", nothing)
        own = uplink
        if uplink.shape[1] > 1:
            own = _sum(uplink * self.local, axis=1, keepdims=True)
        self.uplink = uplink

        if scheduler.information == "slot_start":
            seen, self.seen_uplink = nothing, nothing
        else:
            known = inflight if scheduler.information == "full" else sent
            seen, self.seen_uplink = nothing if known is None else known, own
        self.seen_inflight = seen
        believed: np.ndarray | None = seen
        believed_uplink = self.seen_uplink
        if scheduler._allocated_on == "true":
            believed, believed_uplink = sent if inflight is None else inflight, own
        elif scheduler._allocated_on != "seen":
            believed = self._factor * seen
        believed = nothing if believed is None else believed
        self.believed_wait = self._wait(believed, believed_uplink)
        # What tasks are split by; a charge is for others' delay, and nobody waits for it.
        self.charged_wait = self.believed_wait
        if scheduler._allocated_on == "priced":
            self.charged_wait = self.believed_wait + self._charge
        # The same numbers make the same wait: computed once where nothing more is believed.
        same = believed is seen and believed_uplink is self.seen_uplink
        self._seen_wait = self.believed_wait if same else None
        self.serve = arithmetic.service_time(
            network.capacity,
            network.rate,
            self.quantities["size"],
            self.quantities["work"],
            self.quantities["result"],
            self.remote,
        )

    @property
    def fallback(self) -> np.ndarray:
        """[n, B] 1 for the server where the task arrived; of a master node, the fastest."""
        alone = self.local.max(axis=1, keepdims=True) == 0
        return np.where(alone, self.scheduler._one_hot[self.network.capacity.argmax()], self.local)

    def _wait(self, inflight: np.ndarray, own_uplink: np.ndarray) -> np.ndarray:
        return arithmetic.waiting_time(
            self.network.capacity,
            self.quantities["backlog"] + inflight,
            own_uplink,
            self.remote,
            self.network.uplink_contention,
            self.network.max_wait,
        )

    @functools.cached_property
    def _alike(self) -> np.ndarray:
        """[n, B] Gcycles at each server were all stations to do as this one has in its slot."""
        return self.quantities["backlog"] + self._factor * self.seen_inflight

    @property
    def _factor(self) -> int:
        """How many stations there are for each whose work is seen."""
        alone = self.scheduler.information in ("local", "slot")
        return self.scheduler.stations if alone else 1

    @functools.cached_property
    def _charge(self) -> np.ndarray:
        """[n, B] s that the task would delay later ones, were all stations to do as this one."""
        flow, given, network = self.scheduler._flow, self.quantities, self.network
        elapsed = given["slot"] + given["progress"]
        price = arithmetic.price(
            network.capacity,
            network.capacity * network.slot_length,
            self._alike,
            *arithmetic.expected_flow(
                network.capacity,
                flow.tasks,
                flow.work,
                flow.stations * given["sent_tasks"],
                flow.stations * given["sent_work"],
                elapsed,
            ),
            flow.slots - elapsed,
        )
        return given["work"] * price

    def quantity(self, name: str, length: int) -> np.ndarray:
        """[n, length] a feature in its unit, before scaling."""
        capacity = self.network.capacity
        if name == "origin":
            return self.local
        if name == "backlog":
            return self.quantities["backlog"] / capacity
        if name == "inflight":
            return self.seen_inflight / capacity
        if name == "uplink":
            if self.scheduler.information != "full":
                return self.seen_uplink
            return np.broadcast_to(self.uplink, self.local.shape)
        if name == "wait":
            if self._seen_wait is None:
                self._seen_wait = self._wait(self.seen_inflight, self.seen_uplink)
            return self._seen_wait
        if name == "serve":
            return self.serve
        if name == "compute":
            return self.quantities["work"] / capacity
        if name == "alike":
            return self._alike / capacity
        if name == "charge":
            return self._charge
        if name == "remaining_work":
            return self.quantities["remaining_work"] / capacity.sum()
        return self.quantities[name]


def _table(
    scheduler: Scheduler, queues: Sequence[Queues], tasks: Sequence[Task]
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """All numbers of n decisions as one array [n, W], and which columns are whose.

    One array is made and checked at once; only where something is wrong with it does anybody
    look for what (:func:`_explain`).
    """
    servers, first = scheduler.num_servers, queues[0]
    fields = _given(first)
    place = {"size": (0, 1), "work": (1, 2), "result": (2, 3), "backlog": (3, 3 + servers)}
    width = 3 + servers
    vectors, numbers = ["backlog"], list[str]()
    for name in ("sent", "inflight"):
        if getattr(first, name) is not None:
            vectors.append(name)
            place[name] = (width, width + servers)
            width += servers
    if first.uplink is not None:
        single = np.ndim(first.uplink) == 0
        (numbers if single else vectors).append("uplink")
        if not single:
            place["uplink"] = (width, width + servers)
            width += servers
    for name in HISTORY:
        if name in scheduler.needs:
            vectors.append(name)
            place[name] = (width, width + servers)
            width += servers
    for name in (*STATION_FEATURES, "slot"):
        if name in scheduler.needs:
            numbers.append(name)
    for name in numbers:
        place[name] = (width, width + 1)
        width += 1
    rows = []
    try:
        for entry, task in zip(queues, tasks, strict=True):
            row = [task.size, task.work, task.result]
            for name in vectors:
                row += _listed(entry, name)
            row += [getattr(entry, name) for name in numbers]
            rows.append(row)
        table = np.array(rows, np.float64)
        sound = (
            table.shape == (len(tasks), width)
            and _min(table, axis=None) >= 0
            and _max(table, axis=None) <= LARGEST
            and _min(table[:, 1]) >= LEAST_WORK
            and scheduler.needs <= place.keys()
            and all(_is_station(task.origin, scheduler) for task in tasks)
            and all(len(_listed(entry, name)) == servers for entry in queues for name in vectors)
            and all(_given(entry) == fields for entry in queues[1:])
        )
    except (TypeError, ValueError, AttributeError):
        sound = False
    if not sound or (
        scheduler.information == "full" and "uplink" in numbers and "uplink" in scheduler.needs
    ):
        _explain(scheduler, queues, tasks, vectors, numbers)
    return table, place


def _given(entry: Queues) -> list[bool]:
    """Of each field of the queues, whether it is there."""
    return [value is not None for value in _QUANTITIES(entry)]


def _listed(entry: Queues, name: str) -> Any:
    value = getattr(entry, name)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _is_station(origin: Any, scheduler: Scheduler) -> bool:
    whole = isinstance(origin, int | np.integer) and not isinstance(origin, bool)
    least = MASTER if scheduler._neighbours is None else 0  # a master node has no neighbours
    return whole and least <= origin < scheduler.num_servers


def _explain(
    scheduler: Scheduler,
    queues: Sequence[Queues],
    tasks: Sequence[Task],
    vectors: Sequence[str],
    numbers: Sequence[str],
) -> None:
    """Raise the ValueError that says what is wrong with the tasks or the queues, and where."""
    servers = scheduler.num_servers
    for i, task in enumerate(tasks):
        if not _is_station(task.origin, scheduler):
            master = ", or -1 for a master node" if scheduler._neighbours is None else ""
            raise ValueError(
                f"tasks[{i}].origin must be a station, 0 to {servers - 1}{master}, "
                f"got {task.origin!r}"
            )
        for name in ("size", "work", "result"):
            least = LEAST_WORK if name == "work" else 0.0
            _check_number(f"tasks[{i}].{name}", getattr(task, name), least)
    names = [field.name for field in dataclasses.fields(Queues)]
    given = {name for name in names if any(getattr(e, name) is not None for e in queues)}
    for i, entry in enumerate(queues):
        for name in sorted(scheduler.needs | given):
            value = getattr(entry, name)
            if value is None:
                why = "other entries have it; all of a batch give the same fields"
                if name in scheduler.needs:
                    why = f"the policy was trained to see {', '.join(sorted(scheduler.needs))}"
                raise ValueError(f"queues[{i}].{name} is missing, and {why}")
            if name not in {*scheduler.needs, *vectors, *numbers}:
                continue  # of no use to this policy
            if name == "uplink" and scheduler.information == "full" and name in scheduler.needs:
                _check_vector(f"queues[{i}].{name} (every station's)", value, servers)
            elif name in vectors:
                _check_vector(f"queues[{i}].{name}", value, servers)
            else:
                _check_number(f"queues[{i}].{name}", value)
    raise ValueError("queues must all give the same fields, as numbers or lists of them")


def _check_number(name: str, value: Any, least: float = 0.0) -> None:
    try:
        number = float(value)
        good = least <= number <= LARGEST
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name} must be a number from {least:g} to {LARGEST:g}, got {value!r}")


def _check_vector(name: str, value: Any, servers: int) -> None:
    try:
        row = np.asarray(value, np.float64)
        good = row.shape == (servers,) and row.min() >= 0 and row.max() <= LARGEST
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name} must be {servers} numbers from 0 to {LARGEST:g}, got {value!r}")


def _decisions(
    selected: np.ndarray, fraction: np.ndarray, now: _Situation, by: str
) -> list[Decision]:
    makespan = _max((now.believed_wait + fraction * now.serve) * selected, axis=1).tolist()
    return [
        Decision(tuple(i for i, chosen in enumerate(row) if chosen), shares, until, by)
        for row, shares, until in zip(selected.tolist(), fraction, makespan, strict=True)
    ]


def _lengths(name: str, servers: int) -> tuple[int, ...]:
    """How long a feature may be: a number of the task or station is 1, one a server is B."""
    if name == "uplink":
        return (1, servers)
    return (1,) if name in ("size", "work", "result", *STATION_FEATURES) else (servers,)


def _read_flow(bundle: Bundle, section: dict[str, Any]) -> Flow:
    try:
        flow = Flow(**{name: _real(number) for name, number in section["flow"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unknown(bundle, f"its observation.flow cannot be read: {error!r}") from None
    if not all(0 < number <= LARGEST for number in dataclasses.astuple(flow)):
        raise _unknown(bundle, f"its observation.flow has to be positive numbers: {flow}")
    return flow


def _is_real(value: Any) -> bool:
    """Whether JSON's value is a number, and a finite one."""
    return type(value) in (int, float) and math.isfinite(value)


def _real(value: Any) -> float:
    if not _is_real(value):
        raise TypeError(f"expected a number, got {value!r:.50}")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a whole number, got {value!r:.50}")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"expected true or false, got {value!r:.50}")
    return value


def _one_of(bundle: Bundle, name: str, section: dict[str, Any], allowed: tuple[str, ...]) -> str:
    value = section.get(name.rpartition(".")[2])
    if value not in allowed:
        raise _unknown(bundle, f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)


def _unknown(bundle: Bundle, problem: str) -> BundleIncompatible:
    return BundleIncompatible(
        f"{bundle.path} cannot be used here: {problem}; a newer jaxmec may know it"
    )
