"""Laws by which servers fail, slow down and come back (docs/serving.md: "Availability").

What a law draws is drawn when an episode begins, and seen by no policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.core.checks import fields, whole
from jaxmec.mec import checks
from jaxmec.serving.availability import Availability
from jaxmec.struct import Leaf, leaf, pytree, static


def always_up(num_servers: int) -> Availability:
    """Every server at nominal speed, for ever."""
    return Availability(jnp.zeros((num_servers, 1)), jnp.ones((num_servers, 1)))


@pytree
class Alternating:
    """Servers that are up and troubled in turn, for log-normal times, each by itself.

    They begin up. A trouble is an outage, or with probability ``slow_share`` a phase at
    ``slow_speed``. Each server has at most ``troubles`` of them, and is up for ever after.

    Raises:
        ValueError: a median, spread or share out of range.
    """

    up_median: Leaf  # s
    up_spread: Leaf  # σ of the logarithm
    down_median: Leaf  # s
    down_spread: Leaf  # σ of the logarithm
    slow_share: Leaf = leaf(default=0.0)  # of the troubles: slowed phases, not outages
    slow_speed: Leaf = leaf(default=0.5)  # of the nominal speed, in a slowed phase
    troubles: int = static(default=8)

    def __post_init__(self) -> None:
        checks.reals(self, "up_median", "down_median", ndim=0, above=0)
        checks.reals(self, "up_spread", "down_spread", ndim=0, at_least=0)
        checks.reals(self, "slow_share", ndim=0, at_least=0, at_most=1)
        checks.reals(self, "slow_speed", ndim=0, above=0, at_most=1)
        fields(self, troubles=whole(1))

    def draw(self, key: jax.Array, steady: jax.Array) -> Availability:
        """The availability of B servers; those that are ``steady`` [B] bool are always up."""
        key_length, key_kind = jax.random.split(key)
        shape = (steady.shape[0], self.troubles)
        up, down = jax.random.normal(key_length, (2, *shape))
        lengths = jnp.stack(
            [
                self.up_median * jnp.exp(self.up_spread * up),
                self.down_median * jnp.exp(self.down_spread * down),
            ],
            axis=-1,
        )  # [B, troubles, 2] s
        breaks = jax.lax.associative_scan(jnp.add, lengths.reshape(shape[0], -1), axis=1)
        breaks = jnp.concatenate([jnp.zeros_like(breaks[:, :1]), breaks], axis=1)
        slow = jax.random.uniform(key_kind, shape) < self.slow_share
        troubled = jnp.where(slow, self.slow_speed, 0)
        speed = jnp.stack([jnp.ones_like(troubled), troubled], axis=-1).reshape(shape[0], -1)
        speed = jnp.concatenate([speed, jnp.ones_like(speed[:, :1])], axis=1)
        return Availability(breaks, jnp.where(steady[:, None], 1, speed), alternates=True)


@pytree
class Spot:
    """Servers that are up when recorded instances were, each from a moment of its own.

    Server i follows record i modulo F. Where an episode's record ends the server is up. Made by
    :meth:`of`.
    """

    begins: Leaf  # [F, R] int32, the entry that each run of like entries begins with, rising
    up: Leaf  # [F, R] bool, what its entries are
    entries: Leaf  # [F] int32, of each record
    gap: Leaf  # [F] s between entries
    window: Leaf  # s of an episode
    pieces: int = static(default=1)  # runs in any window, at most

    @staticmethod
    def least(window: float, gap: float) -> int:
        """Entries that a record must have, so that an episode can begin in it."""
        return int(np.ceil(window / gap)) + 1

    @classmethod
    def of(cls, records: Sequence[np.ndarray], gaps: Sequence[float], window: float) -> Spot:
        """The law of F records.

        Args:
            records: [N] bool each, up or not.
            gaps: s between the entries of each.
            window: s of an episode.

        Raises:
            ValueError: no record, or one that lasts no longer than an episode.
        """
        checks.real("window", window, ndim=0, above=0)
        checks.real("gaps", np.asarray(gaps, float), ndim=1, above=0)
        if not records or len(records) != len(gaps):
            raise ValueError(f"records must be one a gap and one at least, got {len(records)}")
        runs, most = [], 1
        for number, (record, gap) in enumerate(zip(records, gaps, strict=True)):
            least = cls.least(window, gap)
            if len(record) < least:
                raise ValueError(
                    f"records[{number}] must have at least {least} entries, got {len(record)}"
                )
            changes = np.flatnonzero(np.diff(np.asarray(record, np.int8))) + 1
            begins = np.concatenate([[0], changes])
            runs.append(begins)
            first = np.arange(len(record) - least + 1)
            seen = np.searchsorted(begins, first + least) - np.searchsorted(begins, first, "right")
            most = max(most, int(seen.max()) + 1)
        longest = max(map(len, runs))
        padded = [np.pad(b, (0, longest - len(b)), constant_values=2**30) for b in runs]
        up = [np.pad(np.asarray(record, bool)[b], (0, longest - len(b)), constant_values=True)
              for record, b in zip(records, runs, strict=True)]  # fmt: skip
        return cls(
            jnp.asarray(np.stack(padded), jnp.int32),
            jnp.asarray(np.stack(up)),
            jnp.asarray([len(record) for record in records], jnp.int32),
            jnp.asarray(gaps, float),
            jnp.asarray(window, float),
            most,
        )

    def draw(self, key: jax.Array, steady: jax.Array) -> Availability:
        """The availability of B servers; those that are ``steady`` [B] bool are always up."""
        key_entry, key_within = jax.random.split(key)
        servers = steady.shape[0]
        which = jnp.arange(servers) % self.gap.shape[0]
        gap, entries = self.gap[which], self.entries[which]
        within = jax.random.uniform(key_within, (servers,), gap.dtype)  # of the first entry
        last = entries - jnp.ceil(self.window / gap).astype(jnp.int32)
        entry = jax.random.randint(key_entry, (servers,), 0, last)

        def of_server(
            begins: jax.Array, up: jax.Array, entry: jax.Array, within: jax.Array, gap: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            first = jnp.sum(begins <= entry) - 1
            run = first + jnp.arange(self.pieces)
            there = run < begins.shape[0]
            run = jnp.minimum(run, begins.shape[0] - 1)
            # In whole entries first: weeks in seconds are more than float32 can tell apart.
            begin = ((begins[run] - entry).astype(gap.dtype) - within) * gap
            begin = jnp.where(jnp.arange(self.pieces) == 0, 0, begin)
            there &= begin < self.window
            breaks = jnp.append(jnp.where(there, begin, jnp.inf), jnp.inf)
            end = jnp.sum(there)
            breaks = jnp.where(jnp.arange(self.pieces + 1) == end, self.window, breaks)
            return breaks, jnp.append(jnp.where(there, up[run], True), True)

        breaks, up = jax.vmap(of_server)(self.begins[which], self.up[which], entry, within, gap)
        return Availability(breaks, jnp.where(steady[:, None] | up, 1.0, 0.0))


def given(num_servers: int, troubles: Iterable[tuple[int, float, float, float]]) -> Availability:
    """The availability that a list of troubles says.

    Args:
        num_servers: B.
        troubles: (server, begin s, end s, speed between 0, an outage, and 1), in any order;
            those of one server do not overlap.

    Raises:
        ValueError: a server that there is not, a trouble that ends before it begins, overlaps
            another, or does not end.
    """
    listed: list[list[tuple[float, float, float]]] = [[] for _ in range(num_servers)]
    for number, (server, begin, end, speed) in enumerate(troubles):
        if not 0 <= server < num_servers:
            raise ValueError(
                f"troubles[{number}]: server must be between 0 and {num_servers - 1}, got {server}"
            )
        if not 0 <= begin < end < np.inf:
            raise ValueError(
                f"troubles[{number}] must begin at 0 or later and end after it begins, "
                f"got {begin:g} to {end:g} s"
            )
        if not 0 <= speed <= 1:
            raise ValueError(f"troubles[{number}]: speed must be between 0 and 1, got {speed:g}")
        listed[server].append((begin, end, speed))
    rows = []
    for server, of_server in enumerate(listed):
        row = [(0.0, 1.0)]
        for begin, end, speed in sorted(of_server):
            last, _ = row[-1]
            if begin < last:
                raise ValueError(
                    f"troubles of server {server} must not overlap: one begins at {begin:g} s, "
                    f"another ends at {last:g} s"
                )
            if begin == last:
                row.pop()
            row += [(begin, speed), (end, 1.0)]
        rows.append(row)
    longest = max(map(len, rows))
    padded = [row + [(np.inf, 1.0)] * (longest - len(row)) for row in rows]
    table = np.asarray(padded, float)  # [B, K, 2]
    return Availability(table[..., 0], table[..., 1])
