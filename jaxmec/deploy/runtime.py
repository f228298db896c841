"""The decision of an exported policy, from named quantities in their units to fractions.

    scheduler = jaxmec.deploy.onnx.load("bundle")
    decision = scheduler.decide(None, Queues(backlog=[...]), Task(origin=0, size=3, work=0.6))
    decision.servers, decision.fractions

A :class:`Scheduler` checks what is told, puts it into a row and asks the exported graph, which
holds everything in between: what the policy sees, its preferences, and how the task is split
(:mod:`jaxmec.deploy.decision`). It needs NumPy alone, and decides by water-filling where the
graph fails.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxmec.core.bundle import MAX_SERVERS, Bundle, BundleDamaged, BundleError, BundleIncompatible
from jaxmec.deploy import schema
from jaxmec.deploy.schema import (
    ACTION_MODES,
    LARGEST,
    LEAST_WORK,
    ONE_SERVER,
    SMALLEST,
    Array,
    Column,
    Decision,
    Network,
    Packer,
    Queues,
    Task,
)

__all__ = [
    "LARGEST",
    "LEAST_WORK",
    "SMALLEST",
    "Decision",
    "Network",
    "PolicyFailed",
    "Queues",
    "Scheduler",
    "Task",
]

Decide = Callable[[Array], Array]  # [n, W] float32 -> [n, 2 B + 1 + A] float32

MAX_PREFERENCES = 2**16  # of the sets of 16 servers


class PolicyFailed(Exception):
    """The policy gave no usable decision: it is not finite, or the model raised."""


class Scheduler:
    """An exported policy, ready to decide.

    The decision is a function of what is passed: there is no state and nothing random.
    """

    def __init__(self, bundle: Bundle, rows_to_decisions: Decide, form: str) -> None:
        """Args:
            bundle: the opened bundle; its manifest says what the decision takes.
            rows_to_decisions: from rows of the manifest's columns [n, W] float32 to rows of
                set, fractions, make-span and preferences [n, 2 B + 1 + A].
            form: "jax", "stablehlo" or "onnx": where ``rows_to_decisions`` comes from.

        Raises:
            BundleIncompatible: an older jaxmec made the bundle, or its manifest names a quantity
                or an action that is not known here, or numbers that do not fit together.
        """
        self.bundle = bundle
        self.rows_to_decisions = rows_to_decisions
        self.form = form
        refuse_old(bundle)
        method = bundle.manifest.get("method")
        if not isinstance(method, str) or not method.isprintable():
            raise _unknown(bundle, f"its method must be a name, got {method!r:.200}")
        self.method = method
        try:
            self.network = _read_network(bundle)
            self.num_servers = len(self.network.capacity)
            self._read_action(bundle)
            columns = _read_columns(bundle, self.num_servers)
        except BundleError:
            raise
        except Exception as error:  # of the wrong type where nobody thought of one
            raise _unknown(bundle, f"its manifest cannot be read: {error!r:.200}") from error
        # A master node has no neighbours.
        self._packer = Packer(columns, self.num_servers, masters=self._near is None)
        self.needs = self._packer.needs  # the fields of Queues without which it cannot decide
        self.row_size = sum(column.length for column in columns)
        self._network_row = self._packer.network_row(self.network)

    def _read_action(self, bundle: Bundle) -> None:
        servers, near = self.num_servers, bundle.section("observation").get("neighbours")
        if near is not None and not (type(near) is int and 1 <= near <= servers):
            raise _unknown(bundle, f"its observation.neighbours is {near!r} of {servers} servers")
        self._near = near  # how many servers a decision is among, the task's own first; None: all
        action = bundle.section("action")
        self.mode, count = action.get("mode"), action.get("num_preferences")
        if self.mode not in ACTION_MODES:
            raise _unknown(
                bundle, f"action.mode must be one of {', '.join(ACTION_MODES)}, got {self.mode!r}"
            )
        if type(count) is not int or not 1 <= count <= MAX_PREFERENCES:
            raise _unknown(
                bundle,
                f"action.num_preferences must be a whole number from 1 to {MAX_PREFERENCES}, "
                f"got {count!r:.50}",
            )
        self.num_preferences: int = count

    def checked(self) -> Scheduler:
        """Itself, after one trial of its graph.

        Raises:
            BundleDamaged: it fails, or gives another number of numbers than the manifest says.
        """
        row = np.ones((1, self.row_size), np.float32)
        try:
            shape = self.rows_to_decisions(row).shape
        except Exception as error:
            raise BundleDamaged(
                f"damaged bundle: {self.bundle.path}: its {self.form} form failed: {error}"
            ) from error
        if shape != (1, self.result_size):
            raise BundleDamaged(
                f"damaged bundle: {self.bundle.path}: its {self.form} form gave decisions of "
                f"shape {shape}, and (1, {self.result_size}) was expected"
            )
        return self

    @property
    def result_size(self) -> int:
        """2 B + 1 + A: set, fractions, make-span and preferences."""
        return 2 * self.num_servers + 1 + self.num_preferences

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
            PolicyFailed: the policy gave no usable decision; see :meth:`decide_by_rule`.
        """
        return self.decide_many(network, (queues,), (task,))[0]

    def decide_many(
        self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]
    ) -> list[Decision]:
        """Decisions for n tasks, each with its own view of the queues, none aware of the others.

        Raises as :meth:`decide` does; a ValueError names the place, as in "tasks[3].size".
        """
        rows = self.rows(network, queues, tasks)
        try:
            results = self.rows_to_decisions(rows)
        except Exception as error:
            raise PolicyFailed(f"the {self.form} model failed: {error}") from error
        if results.shape != (len(rows), self.result_size):
            raise PolicyFailed(
                f"the {self.form} model gave decisions of shape {results.shape}, "
                f"and ({len(rows)}, {self.result_size}) was expected"
            )
        servers = self.num_servers
        decisions = []
        for result, numbers in zip(results, results.tolist(), strict=True):
            if not math.isfinite(sum(numbers)):
                raise PolicyFailed(f"the {self.form} model gave numbers that are not finite")
            chosen = tuple([i for i in range(servers) if numbers[i]])
            decisions.append(
                Decision(chosen, result[servers : 2 * servers], numbers[2 * servers], "policy")
            )
        return decisions

    def rows(self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]) -> Array:
        """[n, W] float32, what the graph takes; raises ``ValueError`` as :meth:`decide` does."""
        if len(queues) != len(tasks) or not len(tasks):
            raise ValueError(
                f"queues and tasks must be as many, at least one, got {len(queues)} and "
                f"{len(tasks)}"
            )
        if network is None:
            network, row = self.network, self._network_row
        else:
            network = self._completed(network)
            row = self._packer.network_row(network)
        return self._packer.rows(row, network.uplink_contention, queues, tasks)

    def decide_by_rule(
        self, network: Any, queues: Sequence[Queues], tasks: Sequence[Task]
    ) -> list[Decision]:
        """What stands in for a policy that failed: water-filling over all that it decides among.

        Where a task may have one server only, the one that would finish it first. Raises
        ``ValueError`` as :meth:`decide_many` does.
        """
        self.rows(network, queues, tasks)
        self._packer.check(queues, tasks)
        network = self.network if network is None else self._completed(network)
        return [
            self._by_rule(network, entry, task) for entry, task in zip(queues, tasks, strict=True)
        ]

    def _by_rule(self, network: Network, queues: Queues, task: Task) -> Decision:
        servers = np.arange(self.num_servers)
        remote = servers != task.origin
        added = queues.sent if queues.inflight is None else queues.inflight
        queued = np.asarray(queues.backlog) + (0 if added is None else np.asarray(added))
        wait = queued / network.capacity
        if network.uplink_contention and queues.uplink is not None and task.origin >= 0:
            uplink = np.broadcast_to(queues.uplink, servers.shape)
            wait = wait + remote * uplink[task.origin]
        wait = np.minimum(wait, network.max_wait)
        serve = (remote * task.size + task.result) / network.rate + task.work / network.capacity
        among = servers
        if self._near is not None:
            among = (task.origin + np.arange(self._near)) % self.num_servers
        fraction = np.zeros(self.num_servers)
        if self.mode == ONE_SERVER:
            fraction[among[np.argmin((wait + serve)[among])]] = 1
        else:
            fraction[among] = water_filling(wait[among], serve[among])
        chosen = np.flatnonzero(fraction)
        makespan = float(np.max((wait + fraction * serve)[chosen]))
        by = "earliest_finish" if self.mode == ONE_SERVER else "water_filling"
        return Decision(tuple(chosen.tolist()), fraction, makespan, by)

    def _completed(self, network: Any) -> Network:
        """The network that is named, with the bundle's own numbers where it names none."""
        named = {
            field.name: value if np.ndim(value) else np.asarray(value).item()  # no array of JAX's
            for field in dataclasses.fields(Network)
            if (value := getattr(network, field.name)) is not None
        }
        completed = dataclasses.replace(self.network, **named)
        if len(completed.capacity) != self.num_servers:
            raise ValueError(
                f"network.capacity must have {self.num_servers} entries, as the policy was "
                f"trained with, got {len(completed.capacity)}"
            )
        return completed


def water_filling(wait: Array, serve: Array) -> Array:
    """[B] fractions that minimise max_i (wait_i + x_i serve_i), the participants' level.

    The level at which the k servers of the shortest waits finish together is lowest for the k
    that take part: one more would only wait.
    """
    wait = wait - wait.min()  # all counts from there, and cancels least
    order = np.argsort(wait)
    speed = 1 / serve[order]
    level = np.min((1 + np.cumsum(wait[order] * speed)) / np.cumsum(speed))
    share = np.maximum(level - wait, 0) / serve
    return share / share.sum()


# What the manifest says.


def refuse_old(bundle: Bundle) -> None:
    """Raise ``BundleIncompatible`` where the forms of a bundle give no decisions yet."""
    if "decision" not in bundle.manifest:
        raise BundleIncompatible(
            f"{bundle.path} was exported by an older jaxmec: its forms give preferences, not "
            "decisions; export the policy in it again with this version: "
            f"jaxmec export {bundle.path} --to {bundle.path}"
        )


def _read_network(bundle: Bundle) -> Network:
    section = bundle.section("network")
    try:
        for name in ("capacity", "rate"):
            if not (isinstance(section[name], list) and len(section[name]) <= MAX_SERVERS):
                raise ValueError(f"network.{name} must be a list of at most {MAX_SERVERS}")
        limit = section["max_wait"]
        contention = section["uplink_contention"]
        if type(contention) is not bool:
            raise TypeError(f"expected true or false, got {contention!r:.50}")
        return Network(
            capacity=[_real(number) for number in section["capacity"]],
            rate=[_real(number) for number in section["rate"]],
            uplink_contention=contention,
            max_wait=math.inf if limit is None else _real(limit),
            slot_length=_real(section["slot_length"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown(bundle, f"its network cannot be read: {error!r}") from None


def _read_columns(bundle: Bundle, servers: int) -> list[Column]:
    """The columns of a row, which are what is known here and as long as they have to be."""
    columns = []
    for entry in bundle.section("decision")["columns"]:
        name, length, optional = (entry.get(key) for key in ("name", "length", "optional"))
        if name not in schema.TABLE:
            raise _unknown(bundle, f"its decision takes a quantity {name!r:.50}")
        allowed = {schema.TABLE[name].length(servers)} | ({servers} if name == "uplink" else set())
        if type(length) is not int or length not in allowed:
            raise _unknown(
                bundle,
                f"its decision's {name} has length {length!r:.50}; expected "
                f"{' or '.join(map(str, sorted(allowed)))}",
            )
        if type(optional) is not bool or (optional and name not in ("believed", "uplink")):
            raise _unknown(bundle, f"its decision's {name} has optional = {optional!r:.50}")
        columns.append(Column(name, length, optional))
    names = [column.name for column in columns]
    if names != [name for name in schema.TABLE if name in names] or not set(names) >= {
        *schema.TASK,
        "capacity",
        "rate",
        "backlog",
    }:
        raise _unknown(bundle, f"its decision takes {', '.join(names)}, in another order or less")
    return columns


def _real(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"expected a number, got {value!r:.50}")
    return float(value)


def _unknown(bundle: Bundle, problem: str) -> BundleIncompatible:
    return BundleIncompatible(
        f"{bundle.path} cannot be used here: {problem}; a newer jaxmec may know it"
    )
