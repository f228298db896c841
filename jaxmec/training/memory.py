"""What a training state takes of a device's memory, and what the device has."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping

import jax

from jaxmec.core.types import PyTree
from jaxmec.training.devices import Placement

# The fields of training states, in the user's words; keys and counters take next to nothing.
PARTS: Mapping[str, str] = {
    "learner": "learner",
    "replay": "replay",
    "rollout": "environments",
    "places": "environments",
    "shown": "demonstrations",
    "held_back": "demonstrations",
}


def size(tree: PyTree) -> int:
    """Bytes of all leaves: arrays, or ``jax.ShapeDtypeStruct``."""
    leaves = jax.tree.leaves(jax.eval_shape(_keys_as_data, tree))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def by_part(state: PyTree) -> dict[str, int]:
    """Bytes of a training state's learner, replay buffer, environments, ..."""
    parts: dict[str, int] = {}
    for name, part in PARTS.items():
        if hasattr(state, name):
            parts[part] = parts.get(part, 0) + size(getattr(state, name))
    return {part: taken for part, taken in parts.items() if taken}


def described(state: PyTree, seeds: int, placement: Placement) -> str:
    """One line: the bytes of a training state [S] in all, a seed, and by part."""
    parts = ", ".join(f"{part} {bytes_in_words(taken)}" for part, taken in by_part(state).items())
    total = size(state)
    line = f"training state: {bytes_in_words(total)}"
    if seeds > 1:
        line += f" for {seeds} seeds, {bytes_in_words(total / seeds)} a seed"
    if placement.num_devices > 1:
        line += f", on {placement.num_devices} devices by {placement.axis}"
    return f"{line} ({parts})"


def limit() -> int:
    """Bytes that one device may take: what it has, or of the host's free memory its part."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="utf-8") as lines:
        free = next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    return free // jax.local_device_count()


def bytes_in_words(count: float) -> str:
    """Bytes as a person says them: 512 B, 4.1 MB, 20 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _keys_as_data(tree: PyTree) -> PyTree:
    """Keys as their data, which has a size in bytes."""

    def leaf(x: jax.Array) -> jax.Array:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(leaf, tree)
