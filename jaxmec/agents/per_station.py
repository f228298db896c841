"""A learner of its own for every station, as the published methods have it.

Any agent becomes a set of independent ones: station b's decides station b's tasks and
learns from them alone (with ``n_step`` above 1 its returns count the tasks between them too).
They share nothing but the replay buffer that they draw from.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxmec.agents.base import (
    Agent,
    DenoisingAgent,
    Learner,
    Metrics,
    SamplingAgent,
    Spec,
    Transition,
    place_of,
)
from jaxmec.core.types import Memory, PyTree
from jaxmec.struct import pytree

ORIGIN = "origin"  # the feature that says, one-hot, at which station a task arrived


class StationsLearner(NamedTuple):
    """What learning changes, and where an observation names the station."""

    stations: PyTree  # [B] of every leaf of the inner agent's learner
    origin: jax.Array  # [observation_size, B] 1 where an entry says that it is that station


@pytree
class PerStation:
    """B independent learners of the agent ``inner`` (:class:`jaxmec.agents.base.Agent`).

    A station is no input to its own learner: the observation's feature ``origin`` is zeroed.
    A task of a master node counts as station 0's. An update on a minibatch [M] draws for
    each station M/B, rounded up, of those transitions in it that are the station's own, with
    replacement; a station without any learns from any.
    """

    inner: Agent  # what each station has

    @property
    def discount(self) -> ArrayLike:
        """[] the inner agent's γ."""
        return self.inner.discount

    def init(self, key: jax.Array, spec: Spec) -> StationsLearner:
        """Fresh learners, each from a key of its own.

        Raises:
            ValueError: observations that do not say where a task arrived.
        """
        place = place_of(spec.layout, ORIGIN) or slice(0, 0)
        stations = place.stop - place.start
        if stations == 0:
            raise ValueError(
                f"a learner for each station needs observations with the feature {ORIGIN!r}, "
                f"got {', '.join(name for name, _ in spec.layout) or 'none that have names'}"
            )
        keys = jax.random.split(key, stations)
        return StationsLearner(
            stations=jax.vmap(lambda key: self.inner.init(key, spec))(keys),
            origin=jnp.eye(spec.observation_size, stations, -place.start),
        )

    def init_memory(self, spec: Spec) -> Memory:
        """The inner agent's; the stations share it."""
        return self.inner.init_memory(spec)

    def act(
        self,
        learner: StationsLearner,
        memory: Memory,
        observation: jax.Array,
        key: jax.Array,
        explore: bool,
    ) -> tuple[jax.Array, Memory, PyTree]:
        """What the learner of the observation's station does."""
        own = self._own(learner, observation)
        return self.inner.act(own, memory, _without(learner, observation), key, explore)

    def sample(
        self, learner: StationsLearner, memory: Memory, observation: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Memory]:
        """What the learner of the observation's station draws.

        Raises:
            TypeError: its kind cannot be drawn from.
        """
        if not isinstance(self.inner, SamplingAgent):
            raise TypeError(f"{type(self.inner).__name__} has no policy to draw from")
        own = self._own(learner, observation)
        return self.inner.sample(own, memory, _without(learner, observation), key)

    def acting(self, learner: StationsLearner) -> StationsLearner:
        """The acting part of every station's learner."""
        return learner._replace(stations=self.inner.acting(learner.stations))

    def preferences(self, learner: StationsLearner, observation: jax.Array) -> jax.Array:
        """[A] the preferences of the learner of the observation's station."""
        own = self._own(learner, observation)
        return self.inner.preferences(own, _without(learner, observation))

    def chains(
        self, learner: StationsLearner, observation: jax.Array, key: jax.Array, number: int
    ) -> jax.Array:
        """[number, K + 1, A] of the learner of the observation's station.

        Raises:
            TypeError: its kind has no chains.
        """
        if not isinstance(self.inner, DenoisingAgent):
            raise TypeError(f"{type(self.inner).__name__} has no chains of denoising steps")
        own = self._own(learner, observation)
        return self.inner.chains(own, _without(learner, observation), key, number)

    def update(
        self, learner: StationsLearner, batch: Transition, key: jax.Array
    ) -> tuple[StationsLearner, Metrics]:
        """One update of every station's learner; the metrics are means over the stations."""
        station = jnp.argmax(batch.observation @ learner.origin, axis=-1)  # [M]
        stations = learner.origin.shape[-1]
        size = station.shape[0]
        share = -(-size // stations)
        # The minibatch sorted by station: each one's own transitions are a range of it.
        order = jnp.argsort(station)
        counts = jnp.bincount(station, length=stations)
        firsts = jnp.where(counts > 0, jnp.cumsum(counts) - counts, 0)
        counts = jnp.where(counts > 0, counts, size)
        batch = batch._replace(
            observation=_without(learner, batch.observation),
            next_observation=_without(learner, batch.next_observation),
        )

        def one(
            first: jax.Array, count: jax.Array, own: Learner, key: jax.Array
        ) -> tuple[Learner, Metrics]:
            key_draw, key_update = jax.random.split(key)
            drawn = order[first + jax.random.randint(key_draw, (share,), 0, count)]
            return self.inner.update(own, jax.tree.map(lambda x: x[drawn], batch), key_update)

        keys = jax.random.split(key, stations)
        updated, metrics = jax.vmap(one)(firsts, counts, learner.stations, keys)
        return (
            learner._replace(stations=updated),
            {name: jnp.mean(value) for name, value in metrics.items()},
        )

    def _own(self, learner: StationsLearner, observation: jax.Array) -> Learner:
        station = jnp.argmax(observation @ learner.origin)
        return jax.tree.map(lambda leaf: leaf[station], learner.stations)


def of_station(agent: Agent) -> Agent:
    """What each station has of a :class:`PerStation`; of any other agent, the agent itself."""
    return agent.inner if isinstance(agent, PerStation) else agent


def with_fields(agent: Agent, **changes: object) -> Agent:
    """The agent with other fields; a :class:`PerStation` with others in what each station has."""
    each: Any = of_station(agent)
    each = dataclasses.replace(each, **changes)
    return PerStation(each) if isinstance(agent, PerStation) else each


def _without(learner: StationsLearner, observation: jax.Array) -> jax.Array:
    """Observations [..., S] that do not say the station."""
    origin = jax.lax.stop_gradient(learner.origin)  # no parameter: distilling must not change it
    return observation * (1 - jnp.sum(origin, axis=-1))
