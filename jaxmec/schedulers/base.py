"""What a scheduler that does not learn is: a rule from what is seen to a set of servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from jaxmec.core.types import EnvState, Memory
from jaxmec.envs.offloading import INFORMATION, OffloadingParams, View

Decide = Callable[[OffloadingParams, View, Memory, jax.Array], tuple[jax.Array, Memory]]


def _no_memory(params: OffloadingParams) -> tuple[()]:
    del params
    return ()


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A rule, and what it may know.

    ``decide(params, view, memory, key)`` returns the selected servers [B] bool, exactly one
    where ``problem`` is "single", and the memory for the next decision of the same episode.
    It is given a view made under ``information`` or a richer model that the caller names,
    and nothing else of the environment's state.
    """

    name: str
    about: str  # one line for `jaxmec list`
    problem: str  # "single": selects one server, for both problems; "multi": a set
    information: str  # the least information model that the rule needs
    decide: Decide
    allocate: str = "cwa"  # who splits a task among the selected servers
    allocation_information: str = "seen"
    oracle: bool = False  # knows what no station could
    init_memory: Callable[[OffloadingParams], Memory] = _no_memory
    # (environment, params) -> the memory that every episode starts with, worked out once and
    # beforehand; it stands in for init_memory.
    plan: Callable[[EnvState, OffloadingParams], Memory] | None = None

    def __post_init__(self) -> None:
        if self.information not in INFORMATION:
            raise ValueError(
                f"information must be one of {', '.join(INFORMATION)}, got {self.information!r}"
            )

    def first_memory(self, env: object, params: OffloadingParams) -> Memory:
        """The memory that an episode starts with, in the environment and under its terms."""
        return self.init_memory(params) if self.plan is None else self.plan(env, params)

    def allowed_information(self, requested: str | None) -> str:
        """The information model to run under: ``requested``, or the rule's own.

        Raises:
            ValueError: the model requested shows less than the rule needs.
        """
        if requested is None:
            return self.information
        if requested not in INFORMATION:
            raise ValueError(
                f"information must be one of {', '.join(INFORMATION)}, got {requested!r}"
            )
        if INFORMATION.index(requested) < INFORMATION.index(self.information):
            raise ValueError(
                f"scheduler {self.name!r} needs information {self.information!r}, got {requested!r}"
            )
        return requested
