"""Who decides: a rule of the simulator, called with what a real station knows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmec.serving.decision import Request
from jaxmec.serving.presets import ServingPreset
from jaxmec.serving.rules import ServingRule, find_rule
from jaxmec.serving.scenario import ServingParams
from jaxmec.serving.view import View, stale


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a station knows of a request and the nodes; units as of :class:`View`."""

    now: float  # s
    arrival: float  # s
    origin: int
    size: float  # Mbit
    result: float  # Mbit
    images: int
    quality: float
    limit: float  # s
    attempt: int
    number: int  # of the request, for rules that draw
    told: np.ndarray  # [B] s
    told_at: np.ndarray  # [B] s
    missed: np.ndarray  # [B]
    resident: np.ndarray  # [B, M] bool
    sent: np.ndarray  # [B] s
    sent_variants: np.ndarray  # [B, M] bool
    link: float  # s


def key_of(seed: int, number: Any, attempt: Any) -> jax.Array:
    """The key of a decision, in the testbed as in the simulator."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), attempt)


class Policy:
    """A rule on a fleet, compiled; and the fleet's numbers for those who carry it out."""

    def __init__(self, preset: ServingPreset, rule: str, seed: int = 0, **changes: Any) -> None:
        """Args:
            preset: the fleet; its cloud is left out.
            rule: one of :data:`jaxmec.serving.rules.RULES` that needs no more than "local".
            seed: of the fleet and of decisions that draw.
            changes: fields of the fleet's setting.

        Raises:
            ValueError: no such rule, or one that knows more than a station can.
        """
        self.rule: ServingRule = find_rule(rule)
        if self.rule.information not in ("stale", "local"):
            raise ValueError(
                f"rule must need information stale or local, which a station has, got {rule!r}, "
                f"which needs {self.rule.information!r}"
            )
        self.name, self.seed, self.preset = rule, seed, preset
        self.params: ServingParams = preset.params(seed=seed, **{**changes, "cloud": False})
        fleet = self.params.fleet
        self.variants = tuple(variant.name for variant in preset.variants)
        self.heartbeat, self.detect = float(fleet.heartbeat), float(fleet.detect)
        self.attempts = self.params.attempts
        self.phase, self.rate = np.asarray(fleet.phase), np.asarray(fleet.rate)
        self.variant, self.steps = np.asarray(self.params.variant), np.asarray(self.params.steps)
        self.quality = np.asarray(self.params.quality)
        self._step, self._task = np.asarray(fleet.step_time), np.asarray(fleet.task_time)
        self._memory: Any = self.rule.init_memory(self.params)
        self._decide = jax.jit(self._decided)

    def work(self, server: int, option: int, images: int) -> float:
        """s at nominal speed that an option asks of a node, a cold start left out."""
        m = self.variant[option]
        return float(self._task[server, m] + images * self.steps[option] * self._step[server, m])

    def warm_up(self) -> None:
        """Compile, before it has to be quick, and forget."""
        servers, variants = len(self.rate), len(self.variants)
        none, nowhere = np.zeros(servers), np.zeros((servers, variants), bool)
        seen = Seen(0.0, 0.0, 0, 1.0, 0.0, 1, 0.0, 1.0, 0, 0, none, none, none, nowhere, none,
                    nowhere, 0.0)  # fmt: skip
        self.choose(seen)
        self.anew()

    def anew(self) -> None:
        """Forget what the rule remembers."""
        self._memory = self.rule.init_memory(self.params)

    def choose(self, seen: Seen) -> tuple[int, int]:
        """The server, −1 to refuse, and the option."""
        arrays = jax.tree.map(np.asarray, dataclasses.asdict(seen))
        (server, option), self._memory = self._decide(arrays, self._memory)
        return int(server), int(option)

    def _decided(self, seen: dict[str, Any], memory: Any) -> Any:
        dtype = self.params.fleet.step_time.dtype
        real = {name: jnp.asarray(value, dtype) for name, value in seen.items()}
        request = Request(
            arrival=real["arrival"],
            origin=seen["origin"],
            size=real["size"],
            result=real["result"],
            images=seen["images"],
            quality=real["quality"],
            limit=real["limit"],
        )
        view = View(
            now=real["now"],
            request=request,
            attempt=seen["attempt"],
            told=real["told"],
            age=real["now"] - real["told_at"],
            missed=jnp.asarray(seen["missed"], jnp.int32),
            resident=seen["resident"],
            sent=real["sent"],
            sent_variants=seen["sent_variants"],
            link=real["link"],
            up=jnp.ones(self.params.fleet.num_servers, bool),
        )
        if self.rule.information == "stale":
            view = stale(view)
        key = key_of(self.seed, seen["number"], seen["attempt"])
        return self.rule.decide(self.params, view, memory, key)
