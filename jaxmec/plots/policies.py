"""Pictures of a policy: how noise becomes its choice, and what it does in which state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmec.agents.base import Learner
from jaxmec.core.naming import look_up
from jaxmec.core.types import Keywords, Memory, PyTree
from jaxmec.plots.style import PALETTE, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxmec.experiment import PathLike, Policy, TrainResult
    from jaxmec.schedulers import Scheduler

TOP = len(PALETTE)  # actions that get a colour
TASKS = {"work": "work of the task [Gcycles]", "size": "size of the task [Mbit]"}
QUEUE_LABELS = {
    "backlog": "queued at server {} when the slot began [s]",
    "sent": "sent to server {} by the own station in this slot [s]",
}
MAP_COLOURS = {
    "servers": "servers that get a share [number]",
    "home": "share kept at the own station [%]",
    "most": "server that gets most of the task [number]",
}
MOSTLY = 0.9  # share of a map's decisions from which on it is of policies that take one server
REFERENCE_TASKS = 512  # tasks that the reference and the range of a policy map come from


def denoising(
    policy: Policy,
    observation: Any,
    index: int | None = None,
    *,
    chains: int = 8,
    seed: int = 0,
) -> Figure:
    """How a diffusion policy's noise becomes its choice, for one decision.

    On the left, one thin line a chain and the thick mean of them: at step 0 pure noise, at step
    K what the chain ends with. Of a policy over single actions these are the probabilities
    softmax(x_k), and the actions shown are those that are most probable in the end, by name. Of
    a policy that scores servers they are x_k itself: the offset that is added to a server's wait
    and the log-factor on its service time, or the one score of which the largest wins. On the
    right, where each chain ended (dots), their mean (bars) and what the policy is judged by
    (diamonds), which may have no noise or noise of its own: see the agent.

    Args:
        policy: a trained policy with a diffusion actor.
        observation: [observation_size], or an episode of `jaxmec.episode.record`, of which
            ``index`` names the decision.
        index: see ``observation``.
        chains: how many draws of the noise.
        seed: of the noise.

    Raises:
        ValueError: a policy without a diffusion actor, or an observation that is none of its.
        ModuleNotFoundError: matplotlib is not installed.
    """
    observation, note = _one_observation(observation, index)
    paths = policy.chains(observation, chains, seed)  # [chains, K + 1, A]
    judged = policy.preferences(observation)  # [A]
    panels, order = _panels(policy, paths, judged)
    shown = order[:TOP]
    with styled() as (Figure, ticker):
        from matplotlib.lines import Line2D

        figure = Figure(figsize=(9.0, 1.0 + 2.8 * len(panels)))
        grid = figure.subplots(
            len(panels), 2, squeeze=False, sharex="col" if len(panels) == 1 else False,
            width_ratios=[1.6, 1],
        )  # fmt: skip
        for (label, values, ends, names), (path, final) in zip(panels, grid, strict=True):
            _draw_paths(path, values, shown, names)
            path.set(ylabel=label)
            path.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            _draw_ends(final, values[:, -1], ends, shown, names)
            final.set(xlabel=label)
        rest = len(order) - len(shown)
        hidden = f"; {rest} more not shown" if rest else ""
        figure.suptitle(f"{policy.name}: {chains} draws of the noise{note}{hidden}", fontsize=11)
        entries = [
            Line2D([], [], color="0.4", lw=0.6, label="one chain"),
            Line2D([], [], color="0.4", lw=2.2, label="mean of the chains"),
            Line2D([], [], ls="", marker=".", color="black", ms=4, label="end of a chain"),
            Line2D([], [], ls="", marker="D", mec="black", mfc="white", ms=6, label="judged by"),
        ]
        figure.legend(handles=entries, loc="outside lower center", ncols=4)
    return figure


def _one_observation(observation: Any, index: int | None) -> tuple[Any, str]:
    """The observation, or an episode's of that decision, and a note that says which."""
    if index is not None:
        number = len(observation)
        if not 0 <= index < number:
            raise ValueError(f"index must be from 0 to {number - 1}, got {index}")
        return observation.observation[index], f", decision {index}"
    if not hasattr(observation, "__array__") and not isinstance(observation, list | tuple):
        raise ValueError("index must name the decision of the episode, got None")
    return observation, ""


class _Panel(NamedTuple):
    """One quantity of the chains, of A choices."""

    label: str
    paths: np.ndarray  # [chains, K + 1, A]
    judged: np.ndarray  # [A]
    names: tuple[str, ...]  # of the choices


def _panels(
    policy: Policy, paths: np.ndarray, judged: np.ndarray
) -> tuple[list[_Panel], np.ndarray]:
    """What to draw of chains [chains, K + 1, A], and the choices, the most wanted first."""
    env, params = policy.setting.make()
    names = env.action_names()
    panels: list[_Panel]
    if getattr(env, "action", "index") == "score":
        servers = tuple(name.removeprefix("offset ") for name in names[: env.num_choices])
        if len(names) == env.num_choices:
            panels = [_Panel("score [no unit]", paths, judged, names)]
        else:
            unit = float(params.scales.slot)
            servers = tuple(f"server {name}" for name in servers)
            offset, factor = np.split(paths, 2, axis=2)
            of_wait, of_serve = np.split(judged, 2)
            panels = [
                _Panel("added to the wait [s]", unit * offset, unit * of_wait, servers),
                _Panel("log-factor on the service [no unit]", factor, of_serve, servers),
            ]
        # A large score wins; a small offset does.
        sign = 1 if len(panels) == 1 else -1
        order = np.argsort(-sign * panels[0][1][:, -1].mean(axis=0), kind="stable")
    else:
        probability = 100 * _softmax(paths)
        panels = [_Panel("probability [%]", probability, 100 * _softmax(judged), names)]
        order = np.argsort(-probability[:, -1].mean(axis=0), kind="stable")
    return panels, order


def _draw_paths(axes: Axes, values: np.ndarray, shown: np.ndarray, names: tuple[str, ...]) -> None:
    """A thin line a chain, a thick one for their mean."""
    steps = np.arange(values.shape[1])
    for colour, action in zip(PALETTE, shown, strict=False):
        for chain in values[:, :, action]:
            axes.plot(steps, chain, color=colour, lw=0.6, alpha=0.5, label="_chain")
        mean = values[:, :, action].mean(axis=0)
        axes.plot(steps, mean, color=colour, lw=2.2, label=names[action])
    axes.set(xlabel="denoising steps taken [number]")
    axes.margins(x=0.02)


def _draw_ends(
    axes: Axes, ends: np.ndarray, judged: np.ndarray, shown: np.ndarray, names: tuple[str, ...]
) -> None:
    """Where the chains ended [chains, A], their means, and what the policy is judged by [A]."""
    rows = np.arange(len(shown))
    means = ends[:, shown].mean(axis=0)
    axes.barh(rows, means, height=0.7, color=PALETTE[: len(shown)], alpha=0.5)
    spread = np.linspace(-0.25, 0.25, len(ends)) if len(ends) > 1 else [0.0]
    for offset, chain in zip(spread, ends[:, shown], strict=True):
        axes.plot(chain, rows + offset, ".", color="black", ms=4, label="_chain")
    axes.plot(judged[shown], rows, "D", mec="black", mfc="white", ms=6, label="judged")
    axes.set_yticks(rows, [names[action] for action in shown])
    axes.set(ylim=(len(shown) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", lw=0.8)


def policy_map(
    policy: str | Policy | TrainResult | Scheduler | PathLike,
    *,
    task: str = "work",
    queue: str | None = None,
    show: str | None = None,
    origin: int = 0,
    server: int | None = None,
    until: float | None = None,
    points: int = 41,
    **options: Any,
) -> Figure:
    """What a policy does over a task's weight and one server's queue, as a heat map.

    All else is held at a reference: the first decision of a slot at station ``origin``, with
    every other queue empty, and of a task the medians of those that arrive. Work and size of
    real tasks go together; here one is held while the other changes. The policy decides as
    it is judged, without exploration.

    Args:
        policy: a trained policy, a scheduler, or whatever else `jaxmec.episode.record` takes.
        task: along the axis below, "work" or "size", from the least to the most that arrives.
        queue: upwards, "backlog" (queued at ``server`` when the slot began) or "sent" (what the
            station itself has sent there in this slot, and nobody else anything). By default
            "sent" where the policy sees it.
        show: "servers", how many get a share; "home", the share that the station keeps; "most",
            which server gets most. By default "servers", or "most" where nearly every
            task shown takes one.
        origin: the station that decides.
        server: whose queue; by default that where most of the task goes while it is empty.
        until: s, the top of the axis upwards; by default twice what an observation counts as 1.
        points: along each axis.
        options: as for `jaxmec.evaluate`: ``env``, ``preset``, ``information``, ...

    Raises:
        ValueError, TypeError: a wrong name or value, or a policy that schedules nothing.
        ModuleNotFoundError: matplotlib is not installed.
    """
    look_up("task axis", task, TASKS)
    if show is not None:
        look_up("what to show", show, MAP_COLOURS)
    with styled() as (Figure, _):
        import jaxmec.experiment as experiment

        player = experiment.player_of(policy, **options)
        if player.information is None:
            raise ValueError(f"{player.name} schedules no tasks: a policy map needs offloading")
        servers = player.environment.num_servers
        if queue is None:
            queue = "backlog" if player.information == "slot_start" else "sent"
        look_up("queue axis", queue, QUEUE_LABELS)
        for name, value in (("origin", origin), ("server", server)):
            if value is not None and not 0 <= value < servers:
                raise ValueError(f"{name} must be from 0 to {servers - 1}, got {value}")
        if until is None:
            scales = player.params.scales
            until = 2 * float(scales.backlog if queue == "backlog" else scales.slot)
        low, high, server, fraction = _decisions_over(
            player, task, queue, origin, server, until, points
        )
        number = (fraction > 0).sum(axis=-1)
        if show is None:
            show = "most" if (number == 1).mean() > MOSTLY else "servers"
        values, shades = _shaded(fraction, show, origin)
        figure = Figure(figsize=(6.4, 4.6))
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(
            np.linspace(low, high, points), np.linspace(0, until, points), values,
            shading="nearest", edgecolors="face", lw=0.2, **shades,
        )  # fmt: skip
        axes.grid(visible=False)
        axes.set(xlabel=TASKS[task], ylabel=QUEUE_LABELS[queue].format(server))
        axes.set_title(f"{player.name}, {player.setting.preset}, at station {origin}")
        first = {"servers": 1, "most": 0}.get(show)
        ticks = None if first is None else range(first, servers + first, -(-servers // 10))
        bar = figure.colorbar(mesh, ax=axes, label=MAP_COLOURS[show], ticks=ticks)
        bar.outline.set_visible(False)
        bar.minorticks_off()
    return figure


def _shaded(fraction: np.ndarray, show: str, origin: int) -> tuple[np.ndarray, Keywords]:
    """What a map of fractions [..., B] shows, and its colours, for ``pcolormesh``."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    servers = fraction.shape[-1]
    shades: Keywords
    if show == "servers":
        values = (fraction > 0).sum(axis=-1)
        shades = {
            "norm": BoundaryNorm(np.arange(servers + 1) + 0.5, 256), "cmap": "cividis",
        }  # fmt: skip
    elif show == "most":
        values = fraction.argmax(axis=-1)
        colours = ListedColormap(PALETTE[:servers]) if servers <= TOP else "cividis"
        ends = np.arange(servers + 1) - 0.5
        shades = {"norm": BoundaryNorm(ends, servers if servers <= TOP else 256),
                  "cmap": colours}  # fmt: skip
    else:
        values = 100 * fraction[..., origin]
        shades = {"vmin": 0, "vmax": 100, "cmap": "cividis"}
    return values, shades


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _decisions_over(
    player: Any,
    task: str,
    queue: str,
    origin: int,
    server: int | None,
    until: float,
    points: int,
) -> tuple[float, float, int, np.ndarray]:
    """The least and the most of the task's axis, whose queue, and the fractions chosen.

    Fractions are [points, points, B]; rows are of the queue, columns of the task.
    """
    import jax
    import jax.numpy as jnp

    env, params = player.environment, player.params
    tasks = jax.jit(lambda key: _tasks(params.workload, key))(jax.random.key(0))
    axis = np.asarray(getattr(tasks, task), float)
    low, high = float(axis.min()), float(axis.max())
    if low == high:  # all alike: show what is around them
        low, high = 0.5 * low, 1.5 * high
    middle = jax.tree.map(lambda x: jnp.median(x).astype(x.dtype), tasks)
    master = bool(np.asarray(tasks.origin).max() < 0)
    middle = middle._replace(origin=jnp.int32(-1 if master else origin))

    @jax.jit
    def choose(
        learner: Learner, memory: Memory, server: jax.Array, weights: jax.Array, seconds: jax.Array
    ) -> jax.Array:
        rule = player.decides(learner, params)
        _, state = env.reset(jax.random.key(0), params)
        cursor = state.cursor._replace(station=jnp.int32(0 if master else origin))

        def one(weight: jax.Array, wait: jax.Array) -> jax.Array:
            work = jnp.zeros(env.num_servers).at[server].set(wait * params.network.capacity[server])
            queues = state.queues
            if queue == "backlog":
                now = state._replace(queues=queues.replace(backlog=work))
            else:
                now = state._replace(queues=queues.replace(inflight=work), sent=work)
            now = now._replace(
                task=middle._replace(**{task: weight.astype(middle.work.dtype)}), cursor=cursor
            )
            seen = env.observe_state(now, params)
            action, _ = rule(jax.random.key(0), seen, now, memory)
            return env.place(action, now, params)[0].fraction

        return jax.vmap(lambda wait: jax.vmap(lambda w: one(w, wait))(weights))(seconds)

    of_player = (player.learner, player.memory)
    if server is None:
        # As many as below, all alike: one program serves both.
        usual = jnp.full(points, float(getattr(middle, task)))
        server = int(choose(*of_player, jnp.int32(0), usual, jnp.zeros(points))[0, 0].argmax())
    weights, seconds = jnp.linspace(low, high, points), jnp.linspace(0, until, points)
    fraction = choose(*of_player, jnp.int32(server), weights, seconds)
    return low, high, server, np.asarray(fraction)


def _tasks(workload: Any, key: Any) -> PyTree:
    """[REFERENCE_TASKS] tasks as they arrive, of the beginning of an episode."""
    import jax

    def step(arrival: PyTree, key: Any) -> PyTree:
        return strong(workload.next(key, arrival.cursor)), arrival.task

    from jaxmec.training.rollout import strong

    first = strong(workload.first(key))
    return jax.lax.scan(step, first, jax.random.split(key, REFERENCE_TASKS))[1]
