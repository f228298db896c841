"""Films, without a display: GIF by Pillow, which comes with matplotlib, MP4 where ffmpeg is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmec.core import checks, files
from jaxmec.core.types import Keywords
from jaxmec.plots.decisions import MASTER_COLOUR, slots_of
from jaxmec.plots.style import PALETTE, show_stations, station_colours, styled

if TYPE_CHECKING:
    from jaxmec.experiment import Policy
    from jaxmec.experiment.episode import Episode, PlainEpisode

MOST_FRAMES = 250  # of a film whose ``every`` is left to it
DPI = 90


def animate_cartpole(
    policy: Policy | Episode | PlainEpisode, path: str | Path, *, every: int = 2, seed: int = 1
) -> Path:
    """A cart with its pole, as a film in real time; returns the file written.

    Args:
        policy: a policy for CartPole, or one of its episodes (`jaxmec.episode.record`).
        path: the film, .gif or .mp4. Missing folders are made.
        every: one picture every so many steps; the last state is shown in any case.
        seed: of the episode that a policy plays.

    Raises:
        ValueError: another suffix, ``every`` below 1, or an episode of another environment.
        RuntimeError: MP4 without ffmpeg.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from jaxmec.experiment.episode import CartPoleEpisode, Episode, PlainEpisode, record

    episode: Episode | PlainEpisode
    episode = policy if isinstance(policy, Episode | PlainEpisode) else record(policy, seed=seed)
    if not isinstance(episode, CartPoleEpisode):
        raise ValueError(f"{episode.name}: the episode is of {episode.setting.env}, not CartPole")
    numbers = _every_so_many(len(episode.state), every)
    with styled() as (Figure, _):
        from matplotlib.patches import Rectangle

        figure = Figure(figsize=(6.4, 3.2), dpi=DPI)
        axes = figure.add_subplot()
        limit, pole = episode.position_limit, 2 * episode.half_length
        axes.set(
            xlim=(-limit - 0.4, limit + 0.4), ylim=(-0.4, pole + 0.35), aspect="equal",
            xlabel="position of the cart [m]", ylabel="height [m]",
        )  # fmt: skip
        axes.axhline(0, color="0.6", lw=1, zorder=1)
        for side in (-limit, limit):
            axes.axvline(side, color="black", lw=1, ls="--")
        cart = Rectangle((0, -0.12), 0.5, 0.24, fc=PALETTE[0], ec="black", zorder=2)
        axes.add_patch(cart)
        (beam,) = axes.plot([], [], lw=5, color=PALETTE[1], solid_capstyle="round", zorder=3)
        (push,) = axes.plot([], [], marker=">", ms=9, ls="", color="black", zorder=4)
        title = axes.set_title(" ")

        def draw(number: int) -> None:
            x, _, angle, _ = episode.state[number]
            cart.set_x(x - 0.25)
            beam.set_data([x, x + pole * np.sin(angle)], [0, pole * np.cos(angle)])
            over = number == len(episode)
            right = not over and episode.action[number] == 1
            push.set_marker(">" if right else "<")
            push.set_data([] if over else [x + (0.4 if right else -0.4)], [] if over else [0])
            end = (", fell" if episode.fell else ", held to the end") if over else ""
            title.set_text(
                f"{episode.name}: {number * episode.time_step:.2f} s, "
                f"pole {np.degrees(angle):+.1f}°{end}".replace("-", "−")
            )

        return _write(figure, draw, numbers, path, 1 / (every * episode.time_step))


def animate_episode(
    episode: Episode,
    path: str | Path,
    slots: tuple[int, int] | None = None,
    *,
    every: int | None = None,
    per_second: float = 6.0,
) -> Path:
    """The queues of the servers filling, decision by decision, as a film; returns the file.

    A bar a server, in seconds of its work: grey is what earlier slots left, a colour what the
    tasks of that station brought in this slot, outlined what the decision at hand adds. The time
    of the film is that of the decisions, not of the network, where none passes within a slot.

    Args:
        episode: of `jaxmec.episode.record`.
        path: the film, .gif or .mp4. Missing folders are made.
        slots: the first and the last slot shown; by default the first one with a task.
        every: one picture every so many decisions; by default as many as give a film of at
            most 250 pictures. The last decision is shown in any case.
        per_second: pictures.

    Raises:
        ValueError: another suffix, or slots that the episode does not have or without a task.
        RuntimeError: MP4 without ffmpeg.
        ModuleNotFoundError: matplotlib is not installed.
    """
    first, last = slots_of(episode, slots)
    rows = np.flatnonzero((episode.slot >= first) & (episode.slot <= last))
    if rows.size == 0:
        raise ValueError(f"no task arrived in the slots {first} to {last}")
    every = -(-rows.size // MOST_FRAMES) if every is None else every
    numbers = [int(rows[i]) for i in _every_so_many(rows.size, every)]
    servers = episode.num_servers
    colours = [*station_colours(servers), MASTER_COLOUR]
    with styled() as (Figure, _):
        from matplotlib.patches import Patch

        figure = Figure(figsize=(8.0, 1.8 + 0.32 * max(servers, 4)), dpi=DPI)
        axes = figure.add_subplot()
        places = np.arange(servers)
        zero = np.zeros(servers)
        earlier = axes.barh(places, zero, color="0.7", height=0.7)
        stacks = {int(origin): axes.barh(places, zero, color=colours[origin], height=0.7)
                  for origin in np.unique(episode.origin[rows])}  # fmt: skip
        newest = axes.barh(places, zero, height=0.7, fc="none", ec="black", lw=1.5)
        axes.set_yticks(places, [f"server {i}" for i in places])
        top = (episode.queued[rows] / episode.capacity).max()
        axes.set(
            xlim=(0, 1.03 * top if top > 0 else 1), ylim=(servers - 0.5, -0.5),
            xlabel="work queued [s]",
        )  # fmt: skip
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        title = axes.set_title(" \n ", loc="left", fontsize=9)
        others = [Patch(color="0.7", label="of earlier slots")]
        if (episode.origin < 0).any():
            others.append(Patch(color=MASTER_COLOUR, label="master node"))
        others.append(Patch(fc="none", ec="black", label="this decision"))
        show_stations(figure, axes, servers, others)

        def draw(number: int) -> None:
            of_slot = np.flatnonzero(episode.slot == episode.slot[number])
            until_now = of_slot[of_slot <= number]
            left = episode.backlog[number] / episode.capacity
            _set(earlier, zero, left)
            for origin, bars in stacks.items():
                own = until_now[episode.origin[until_now] == origin]
                width = episode.given[own].sum(axis=0) / episode.capacity
                _set(bars, left, width)
                left = left + width
            # Its station is the last one so far, so what it adds is at the end of the bar.
            added = episode.given[number] / episode.capacity
            _set(newest, left - added, added)
            title.set_text(_caption(episode, number, len(until_now), len(of_slot)))

        return _write(figure, draw, numbers, path, per_second)


def _caption(episode: Episode, number: int, task: int, tasks: int) -> str:
    """Two lines about a decision, on the ``task``-th of the slot's ``tasks``."""
    origin = episode.origin[number]
    place = "the master node" if origin < 0 else f"station {origin}"
    takers = np.flatnonzero(episode.fraction[number] > 0)
    to = ("server " if takers.size == 1 else "servers ") + ", ".join(map(str, takers))
    late = ", too late" if episode.failed[number] else ""
    return (
        f"{episode.name}: slot {episode.slot[number]}, task {task} of {tasks}, "
        f"{episode.size[number]:.1f} Mbit, {episode.work[number]:.2f} Gcycles\n"
        f"{place} to {to}: done after {episode.makespan[number]:.3f} s{late}"
    )


def _every_so_many(count: int, every: int) -> list[int]:
    """Every so many of 0..count − 1, and the last."""
    every = checks.integer("every", every)
    return sorted({*range(0, count, every), count - 1})


def _set(bars: Iterable[Any], left: np.ndarray, width: np.ndarray) -> None:
    for bar, x, size in zip(bars, left, width, strict=True):
        bar.set_x(x)
        bar.set_width(size)
        bar.set_visible(size > 0)


def _write(
    figure: Any, draw: Callable[[int], None], numbers: list[int], path: str | Path, fps: float
) -> Path:
    """A film of what ``draw`` makes of each number."""
    from matplotlib.animation import FFMpegWriter, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    kinds: Keywords = {".gif": PillowWriter, ".mp4": FFMpegWriter}
    if path.suffix not in kinds:
        raise ValueError(f"a film is written to .gif or .mp4, got {path.name}")
    kind = kinds[path.suffix]
    if not kind.isAvailable():
        raise RuntimeError("an MP4 film needs the program ffmpeg; write a .gif instead")
    FigureCanvasAgg(figure)
    draw(numbers[-1])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: nothing may jump from picture to picture
    # Pillow keeps whole milliseconds, and cuts off what is beyond them.
    writer = kind(fps=1000 / (round(1000 / fps) + 0.01))
    with files.writing_whole(path) as new, writer.saving(figure, new, DPI):
        for number in numbers:
            draw(number)
            writer.grab_frame()
    return path
