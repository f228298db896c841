"""Where the parts of a run lie: on one device, on several, on those of several processes.

S runs on N devices are placed by one rule:

* S is a multiple of N: every device trains S/N whole runs and talks to no other.
* Else the environments E are shared out. With each go its column of the replay buffer, its
  windows and its part of every minibatch; the learner lies on every device, and XLA adds up
  the gradients. E and the minibatch are then multiples of N.

Training itself is written for one device. It names what may be shared out (:func:`spread`);
which device has what is decided here alone. Random numbers do not depend on it
(``jax_threefry_partitionable``): N devices compute what one does, within the rounding of
another compiled program, and of another order of adding by the second rule.

Several processes (hosts) each run the same program on their own devices, after
:func:`connect`. The first one writes; what they must do alike, they agree upon.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmec.core import checks, compilation
from jaxmec.core.types import Keywords, PyTree
from jaxmec.training.replay import ReplayState

SEEDS, DATA = "seeds", "data"  # the axis of the mesh, which says what is shared out

# Of a training state [S], the fields whose environments are shared out; all others are not.
BY_ENVIRONMENT: dict[str, PyTree] = {
    "rollout": PartitionSpec(None, DATA),  # [S, E]
    "places": PartitionSpec(None, DATA),  # [S, E]
    "replay": ReplayState._make(
        [PartitionSpec(None, None, DATA), PartitionSpec(), PartitionSpec()]  # items [S, rows, E]
    ),
}


@dataclasses.dataclass(frozen=True)
class Placement:
    """How S runs lie on devices; with no mesh, all on the one that JAX takes by itself."""

    mesh: Mesh | None = None
    axis: str = ""  # SEEDS or DATA

    @property
    def num_devices(self) -> int:
        """N."""
        return 1 if self.mesh is None else self.mesh.size

    def of_runs(self) -> NamedSharding | None:
        """The sharding of what leads with [S] alone; None without a mesh."""
        return self._sharding(PartitionSpec(SEEDS) if self.axis == SEEDS else PartitionSpec())

    def of_state(self, kind: type[PyTree]) -> PyTree:
        """The shardings of a training state [S] of this kind, a prefix of its tree."""
        if self.axis != DATA:
            return self.of_runs()
        specs = kind(*(BY_ENVIRONMENT.get(name, PartitionSpec()) for name in kind._fields))
        is_spec = lambda node: isinstance(node, PartitionSpec)  # noqa: E731
        return jax.tree.map(self._sharding, specs, is_leaf=is_spec)

    def everywhere(self) -> NamedSharding | None:
        """The sharding of what every device has whole; None without a mesh."""
        return self._sharding(PartitionSpec())

    def put(self, tree: PyTree) -> PyTree:
        """What leads with [S], moved from the host to where it belongs."""
        where = self.of_runs()
        return tree if where is None else jax.tree.map(lambda leaf: put(leaf, where), tree)

    def shared(self, tree: PyTree) -> PyTree:
        """What all runs share, as every process can hand it to a compiled function."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, tree)

    def compile(
        self,
        function: Callable[..., PyTree],
        returns: PyTree,
        *,
        donate: int | None = None,
        options: Keywords | None = None,
    ) -> Any:
        """``function`` of what is shared and of one run, for S runs on these devices.

        Args:
            function: of something shared, and of arguments that one run has.
            returns: where its results go, a prefix of their tree; see the methods above.
            donate: the argument whose memory may be taken for the results.
            options: of XLA's compiler.
        """

        mesh: Any = self.mesh

        def runs(shared: PyTree, *of_run: PyTree) -> PyTree:
            many = jax.vmap(function, in_axes=(None, *(0 for _ in of_run)))
            if self.axis == SEEDS:
                each = PartitionSpec(SEEDS)
                many = jax.shard_map(
                    many,
                    mesh=mesh,
                    in_specs=(PartitionSpec(), *(each for _ in of_run)),
                    out_specs=each,
                    check_vma=False,
                )
            if self.axis == DATA:  # for spread
                with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                    return many(shared, *of_run)
            return many(shared, *of_run)

        places = {} if mesh is None else {"out_shardings": returns}
        return jax.jit(runs, donate_argnums=donate, compiler_options=options, **places)

    def _sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, spec)


def place(devices: int | str, seeds: int, config: object) -> Placement:
    """The rule of this module.

    Args:
        devices: N, or "all": those of all processes.
        seeds: S.
        config: the sizes of the training.

    Raises:
        ValueError: more devices than there are, or a part of them where there are several
            processes; sizes that cannot be shared out.
    """
    there = jax.devices()
    checks.require("devices", devices, checks.either(checks.whole(1), "all"))
    count = checks.as_int(devices) or len(there)
    if count > len(there):
        hint = ""
        if there[0].platform == "cpu":
            hint = f"; JAX_NUM_CPU_DEVICES={count} splits a CPU"
        raise ValueError(
            f"devices is {count}; expected at most {len(there)}, "
            f"the {there[0].platform} devices that JAX finds here{hint}"
        )
    if jax.process_count() > 1 and count != len(there):
        raise ValueError(
            f"devices is {count}; expected 'all' in {jax.process_count()} processes, "
            f"which have {len(there)}"
        )
    if count == 1:
        return Placement()
    if not compilation.jax_setting("threefry_partitionable"):
        raise ValueError(
            "jax_threefry_partitionable is False; expected True with several devices, "
            "for random numbers that do not depend on how many"
        )
    axis = SEEDS if seeds % count == 0 else DATA
    for name in ("num_envs", "batch_size") if axis == DATA else ():
        value = getattr(config, name, count)
        if value % count:
            raise ValueError(
                f"{name} is {value}; expected a multiple of devices, {count}, "
                f"since seeds, {seeds}, is none"
            )
    return Placement(Mesh(np.array(there[:count]), (axis,)), axis)


def spread(tree: PyTree, axis: int = 0) -> PyTree:
    """The tree, whose leaves' ``axis`` is shared out where environments are.

    Within a compiled function. Whatever that axis cannot be shared out evenly stays whole, as
    everything does on one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names:
        return tree
    spec = PartitionSpec(*(None for _ in range(axis)), DATA)

    def leaf(x: jax.Array) -> jax.Array:
        even = x.shape[axis] % mesh.shape[DATA] == 0
        return jax.lax.with_sharding_constraint(x, spec) if even else x

    return jax.tree.map(leaf, tree)


# Between the host and devices, some of which may be other processes'


def put(value: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array of the host, the same in all processes, where ``sharding`` has it."""
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = put(np.asarray(jax.random.key_data(value)), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    value = np.asarray(value)
    places = sharding.addressable_devices_indices_map(value.shape)
    # Without may_alias=False a CPU array may lie on NumPy's memory, and a state is donated.
    parts = [jax.device_put(value[i], device, may_alias=False) for device, i in places.items()]
    return jax.make_array_from_single_device_arrays(value.shape, sharding, parts)


def gather(tree: PyTree) -> PyTree:
    """The tree, with what other processes have brought here; all call it at once.

    Leaves that lie on this process's devices are left there.
    """

    def leaf(x: jax.Array) -> jax.Array | np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = jnp.asarray(leaf(jax.random.key_data(x)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        if x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(leaf, tree)


# Among processes


def connect(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Make this process one of several; before anything is computed.

    Args:
        coordinator: HOST:PORT of the first process; with the other two, or none of the three:
            then JAX asks SLURM, Open MPI or Kubernetes, which started the processes.
        processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        ValueError: one argument without the others.
        RuntimeError: nothing says who the others are, or they do not answer.
    """
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"{missing[0]} is None; expected all of {', '.join(given)}, or none where SLURM, "
            "Open MPI or Kubernetes started the processes"
        )
    if coordinator is None:
        try:
            jax.distributed.initialize()
        except ValueError as error:  # JAX found no launcher that it knows
            raise RuntimeError(
                "no launcher that JAX knows (SLURM, Open MPI, Kubernetes) started this process; "
                f"name the coordinator, processes and process_id ({error})"
            ) from error
    else:
        jax.distributed.initialize(coordinator, processes, process_id)


def is_first() -> bool:
    """Whether this process is the one that writes; the only one is."""
    return jax.process_index() == 0


def agree(*values: int) -> tuple[int, ...]:
    """The largest of each value over all processes, which call it at once."""
    if jax.process_count() == 1:
        return values
    of_all = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in np.max(of_all, axis=0))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All processes get through the block, or none goes on.

    Raises:
        RuntimeError: another process failed.
    """
    try:
        yield
    except Exception:
        agree(1)
        raise
    if agree(0) != (0,):
        raise RuntimeError("another process failed; what it says is the reason")
