"""CartPole-v1: a pole on a cart, held up by pushing the cart left or right.

The equations, thresholds and rewards are those of Gymnasium's CartPole-v1 (Barto, Sutton
and Anderson 1983; corrected as in Florian 2007, "Correct equations for the dynamics of the
cart-pole system"), integrated with its explicit Euler step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces
from jax.typing import ArrayLike

from jaxmec.core.types import Info
from jaxmec.mec import checks
from jaxmec.struct import is_concrete, pytree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESET_BOUND = 0.05  # an episode starts with every coordinate uniform within ±RESET_BOUND


@pytree
class CartPoleParams:
    """The numbers of the cart and the pole, to be vmapped over.

    Raises:
        ValueError: a mass, length, force, time step, limit or step count that is not
            positive, or a gravity that is negative.
    """

    gravity: float = 9.8  # [] m/s²
    cart_mass: float = 1.0  # [] kg
    pole_mass: float = 0.1  # [] kg
    half_length: float = 0.5  # [] m, from the pivot to the pole's centre of mass
    force: float = 10.0  # [] N, of a push to either side
    time_step: float = 0.02  # [] s
    angle_limit: float = 12 * 2 * math.pi / 360  # [] rad, from the vertical
    position_limit: float = 2.4  # [] m, from the centre
    max_steps_in_episode: int = 500  # [] the episode is truncated after so many steps

    def __post_init__(self) -> None:
        checks.reals(self, "gravity", ndim=0, at_least=0)
        positive = ("cart_mass", "pole_mass", "half_length", "force", "time_step")
        checks.reals(self, *positive, "angle_limit", "position_limit", ndim=0, above=0)
        steps = self.max_steps_in_episode
        checks.real("max_steps_in_episode", steps, ndim=0, at_least=1)
        if is_concrete(steps) and int(steps) != steps:
            raise ValueError(f"max_steps_in_episode must be an integer, got {steps}")

    @property
    def total_mass(self) -> float:
        """[] kg."""
        return self.cart_mass + self.pole_mass

    @property
    def pole_moment(self) -> float:
        """[] kg m, the pole's mass times the half of its length."""
        return self.pole_mass * self.half_length


class CartPoleState(NamedTuple):
    """Where the cart and the pole are, and how fast they move."""

    x: jax.Array  # [] m, position of the cart
    x_dot: jax.Array  # [] m/s
    theta: jax.Array  # [] rad, angle of the pole from the vertical
    theta_dot: jax.Array  # [] rad/s
    time: jax.Array  # [] int32, steps made in this episode


class CartPole(environment.Environment):
    """Keep the pole up: reward 1 a step, the last one included, for at most 500 steps.

    Actions: 0 pushes the cart to the left, 1 to the right. The observation is (x, x_dot,
    theta, theta_dot). An episode terminates where the cart or the pole passes its limit,
    and is truncated after ``max_steps_in_episode`` steps.
    """

    Options = CartPoleParams
    metric_names: tuple[str, ...] = ()

    @property
    def default_params(self) -> CartPoleParams:  # type: ignore[override]
        """Gymnasium's numbers."""
        return CartPoleParams()

    # gymnax jits `reset` and `step`; here jit is the caller's, at the top of the program.

    def reset(  # type: ignore[override]
        self, key: jax.Array, params: CartPoleParams | None = None
    ) -> tuple[jax.Array, CartPoleState]:
        """The first observation [4] and state of an episode."""
        del params  # an episode starts the same way whatever the pole weighs
        x, x_dot, theta, theta_dot = RESET_BOUND * _four_uniforms(key)
        state = CartPoleState(x, x_dot, theta, theta_dot, jnp.zeros((), jnp.int32))
        return observation_of(state), state

    def step(  # type: ignore[override]
        self,
        key: jax.Array,
        state: CartPoleState,
        action: ArrayLike,
        params: CartPoleParams | None = None,
    ) -> tuple[jax.Array, CartPoleState, jax.Array, jax.Array, jax.Array, Info]:
        """Push once; where the episode ends, return the start of a new one.

        ``key`` is used for that start alone, since a push has no randomness. ``info`` has
        final_observation [4], what was reached before a new episode began, and, as in
        gymnax, terminated [], truncated [] and discount [] (0 where terminated, else 1).
        """
        params = self.default_params if params is None else params
        reached = push(state, action, params)
        terminated = (jnp.abs(reached.x) > params.position_limit) | (
            jnp.abs(reached.theta) > params.angle_limit
        )
        truncated = reached.time >= params.max_steps_in_episode
        done = terminated | truncated
        _, start = self.reset(key, params)
        next_state = jax.tree.map(lambda a, b: jnp.where(done, a, b), start, reached)
        info = {
            "final_observation": observation_of(reached),
            "terminated": terminated,
            "truncated": truncated,
            "discount": 1 - terminated.astype(reached.x.dtype),
        }
        reward = jnp.ones_like(reached.x)
        return observation_of(next_state), next_state, reward, terminated, truncated, info

    @property
    def name(self) -> str:
        """The registered id."""
        return "CartPole-v1"

    @property
    def num_actions(self) -> int:
        """Left and right."""
        return 2

    def action_space(self, params: CartPoleParams | None = None) -> spaces.Discrete:
        """Left and right."""
        return spaces.Discrete(2)

    def action_names(self) -> tuple[str, ...]:
        """[2] what each action is."""
        return ("push left", "push right")

    def draw(self, axes: Axes, state: CartPoleState, params: CartPoleParams) -> None:
        """The cart and its pole, into the axes of a figure."""
        pole, limit = 2 * float(params.half_length), float(params.position_limit)
        x, angle = float(state.x), float(state.theta)
        axes.plot([x - 0.25, x + 0.25], [0, 0], lw=12, color="#0072B2", solid_capstyle="butt")
        tip = x + pole * math.sin(angle), pole * math.cos(angle)
        axes.plot([x, tip[0]], [0, tip[1]], lw=5, color="#D55E00")
        axes.set(
            xlim=(-limit - 0.4, limit + 0.4),
            ylim=(-0.4, pole + 0.35),
            aspect="equal",
            xlabel="position of the cart [m]",
        )

    def observation_space(self, params: CartPoleParams) -> spaces.Box:
        """Twice the limits, so that the observation that ends an episode is within."""
        dtype = jnp.result_type(float)
        fastest = jnp.finfo(jnp.float32).max
        high = jnp.stack(
            [
                jnp.asarray(limit, dtype)
                for limit in (params.position_limit * 2, fastest, params.angle_limit * 2, fastest)
            ]
        )
        return spaces.Box(-high, high, (4,), dtype)


def observation_of(state: CartPoleState) -> jax.Array:
    """[4] the state as the agent sees it."""
    return jnp.stack([state.x, state.x_dot, state.theta, state.theta_dot])


def _four_uniforms(key: jax.Array) -> jax.Array:
    """[4] independent numbers, uniform in (-1, 1), at the price of one hash.

    Every step pays for this draw, and the hashes are most of what a step costs.
    ``jax.random.uniform`` takes one for each number; both words of a single one hold
    16 bits a number, which places a pole to within 2e-6.
    """
    words = jax.random.key_data(jax.random.fold_in(key, 0))[:2]  # [2] uint32
    halves = jnp.concatenate([words >> 16, words & 0xFFFF]).astype(jnp.result_type(float))
    return (halves + 0.5) * 2.0**-15 - 1


def push(state: CartPoleState, action: ArrayLike, params: CartPoleParams) -> CartPoleState:
    """The state one Euler step after a push (Florian 2007, eqs. 23 and 24, no friction).

    theta_acc = (g sin θ − cos θ · h) / (l (4/3 − m cos² θ / M)),
    x_acc = h − m l theta_acc cos θ / M, with h = (F + m l theta_dot² sin θ) / M,
    where m is the pole's mass, M the total mass and l half the pole's length.
    """
    _, x_dot, theta, theta_dot, _ = state
    force = jnp.where(jnp.asarray(action) == 1, params.force, -params.force)
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    pushed = (force + params.pole_moment * theta_dot**2 * sin) / params.total_mass
    theta_acc = (params.gravity * sin - cos * pushed) / (
        params.half_length * (4 / 3 - params.pole_mass * cos**2 / params.total_mass)
    )
    x_acc = pushed - params.pole_moment * theta_acc * cos / params.total_mass
    return CartPoleState(
        x=state.x + params.time_step * x_dot,
        x_dot=x_dot + params.time_step * x_acc,
        theta=theta + params.time_step * theta_dot,
        theta_dot=theta_dot + params.time_step * theta_acc,
        time=state.time + 1,
    )
