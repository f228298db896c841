"""Offloading a task to one edge server."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces as gymnax_spaces
from jax.typing import ArrayLike

from jaxmec.core import checks
from jaxmec.envs import spaces
from jaxmec.envs import state as states
from jaxmec.envs.offloading import OffloadingEnvironment
from jaxmec.envs.spaces import LARGEST_SCORE
from jaxmec.envs.state import OffloadingOptions, OffloadingParams, OffloadingState, View
from jaxmec.mec.network import QueueState
from jaxmec.mec.offload import Outcome, apply_split, fallback
from jaxmec.mec.selection import one_server
from jaxmec.mec.workload import Task

ACTIONS = ("index", "score")


@dataclasses.dataclass(frozen=True)
class SingleOptions(OffloadingOptions):
    """What a scheduler sees, and how it names a server.

    Args:
        action: one of ``ACTIONS``; see :class:`SingleServerOffloading`.
        information, features, show_place, reward, neighbours: as for
            :class:`OffloadingOptions`, which raises likewise.
    """

    action: str = "index"  # index, or score, as the agent's kind asks

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fields(self, action=checks.one_of(ACTIONS))


class SingleServerOffloading(OffloadingEnvironment):
    """Each task goes to one edge server.

    Action modes:
        index: the server's, 0..B−1. An index outside that range means no server; see
            :func:`jaxmec.mec.offload.fallback`.
        score: [B] real numbers; the server of the largest takes the task. Its derivative is that
            of a task spread by the softmax of the scores, at costs that are those of the server
            taken ("straight through", Bengio et al. 2013), so that a policy can be trained on it
            while every decision stays a whole one.

    With neighbours B is m here, and an index counts from the station's own server.
    """

    Options = SingleOptions
    _options: SingleOptions

    def __init__(
        self, params: OffloadingParams, options: SingleOptions | None = None, **changes: Any
    ) -> None:
        """Args, Raises: as for :class:`OffloadingEnvironment`."""
        super().__init__(params, options, **changes)
        self.action = self._options.action

    @property
    def name(self) -> str:
        """The registered id."""
        return "SingleServerOffloading-v0"

    @property
    def num_actions(self) -> int:
        """B, or m."""
        return self.num_choices

    def action_space(self, params: OffloadingParams | None = None) -> gymnax_spaces.Space:
        """The servers, or a score for each."""
        if self.action == "score":
            return spaces.Scores(self.num_choices)
        return gymnax_spaces.Discrete(self.num_choices)

    def place(
        self, action: ArrayLike, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """Give the whole task to one server."""
        if self.action == "score":
            return self._place_scores(action, state, params)
        chosen = self._chosen(action, state.task, params)
        fraction = chosen.astype(state.queues.backlog.dtype)
        return apply_split(params.network, state.queues, state.task, fraction, chosen)

    def _chosen(self, index: ArrayLike, task: Task, params: OffloadingParams) -> jax.Array:
        """[B] bool, the server of that index."""
        chosen = self._everywhere(one_server(index, self.num_choices), task, False)
        return jnp.where(jnp.any(chosen), chosen, fallback(params.network, task))

    def preferred(self, preferences: jax.Array) -> jax.Array:
        """[] int, or the scores [B] themselves."""
        return preferences if self.action == "score" else jnp.argmax(preferences, axis=-1)

    def divide(
        self, action: ArrayLike, view: View, believed: QueueState, params: OffloadingParams
    ) -> tuple[jax.Array, jax.Array]:
        """The one server, which is given all."""
        index = jnp.argmax(_finite(action)) if self.action == "score" else action
        chosen = self._chosen(index, view.task, params)
        return chosen, chosen.astype(believed.backlog.dtype)

    def set_action(self, selected: jax.Array) -> jax.Array:
        """[] int, the first server of the set; −1 for the empty one."""
        return jnp.where(jnp.any(selected), jnp.argmax(selected), -1)

    def _place_scores(
        self, scores: ArrayLike, state: OffloadingState, params: OffloadingParams
    ) -> tuple[Outcome, QueueState]:
        """The server of the largest score; NaN counts as the least."""
        scores = _finite(scores)
        chosen = one_server(jnp.argmax(scores), self.num_choices)
        spread = jax.nn.softmax(scores)
        fraction = chosen + (spread - jax.lax.stop_gradient(spread))  # chosen, and its derivative
        chosen = self._everywhere(chosen, state.task, False)
        fraction = self._everywhere(fraction, state.task, 0)
        outcome, queues = apply_split(params.network, state.queues, state.task, fraction, chosen)
        makespan = jnp.sum(fraction * (outcome.wait + outcome.serve))
        return outcome._replace(makespan=makespan), queues

    def encode(
        self, fraction: jax.Array, state: OffloadingState, params: OffloadingParams
    ) -> jax.Array:
        """[B] scores that stand for the server with the largest fraction; [m] of neighbours."""
        near = states.near(jnp.asarray(fraction), state.task, self.neighbours)
        return jnp.where(jnp.arange(self.num_choices) == jnp.argmax(near), 1.0, -1.0)


def _finite(scores: ArrayLike) -> jax.Array:
    """Scores without NaN, which counts as the least, and without infinities."""
    return jnp.nan_to_num(
        jnp.asarray(scores), nan=-LARGEST_SCORE, posinf=LARGEST_SCORE, neginf=-LARGEST_SCORE
    )
