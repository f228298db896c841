"""Pictures of one episode: which share of which task ran where and when, and who sends where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from jaxmec.plots.style import DASHES, PALETTE, show_stations, station_colours, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from jaxmec.experiment.episode import Episode

MASTER_COLOUR = "#444444"
MOST_LABELS = 24  # stations of a map that are labelled, beyond which the labels would not fit
MOST_ARROWS = 60  # of a map; 5 stations have 20 at most
MOST_SLOTS = 12  # slot labels of a timeline


def timeline(episode: Episode, slots: tuple[int, int] | None = None) -> Figure:
    """A Gantt chart of some slots: every share of a task, waiting and then being served.

    Above, a row a server; in it a line of its own for each share that the server was given, in
    the order of the decisions. A thin line is the wait (the queue, and the uplink where that is
    contended), a bar the service, light while data moves and solid while the server computes;
    the colour is that of the station where the task arrived. Grey is what earlier slots left.
    A bar is a point high at least, and where there are more shares than that has room for, bars
    touch: show fewer slots then.
    Below, the work queued at each server, in seconds of that server, on the same axis of time.

    What the order within a slot means: all tasks of a slot are there when it begins, and they
    are decided station by station (0, 1, ...) and task by task without time passing. Work queues
    in that order, so a share waits for all that was queued there before it was decided, also by
    stations decided earlier in the same slot. A queue holds computation alone: while data of one
    share moves the server computes on others, and since the model takes a share's transfer
    after its wait, solid bars of one server may overlap by a transfer's length. Their total length
    is the server's work over its capacity. Nobody decides at other moments, so the backlog jumps
    where a slot begins and falls by one second a second until it ends.

    Args:
        episode: of `jaxmec.episode.record`.
        slots: the first and the last slot shown; by default the first one with a task.

    Raises:
        ValueError: slots that the episode does not have, or that have no task.
        ModuleNotFoundError: matplotlib is not installed.
    """
    first, last = slots_of(episode, slots)
    shown = (episode.slot >= first) & (episode.slot <= last)
    if not shown.any():
        raise ValueError(f"no task arrived in the slots {first} to {last}")
    servers, length = episode.num_servers, episode.slot_length
    left = episode.slot_backlog[first] / episode.capacity  # [B] s
    given = shown[:, None] & (episode.fraction > 0)
    latest = np.max(np.where(given, episode.start[:, None] + episode.finish, -np.inf))
    latest = max(latest, first * length + left.max())
    edges = (first * length, latest + 0.02 * (latest - first * length))
    with styled() as (Figure, _):
        row = max(0.34, 0.85 - 0.05 * servers)  # inches
        figure = Figure(figsize=(9.0, 2.6 + row * servers))
        rows, queues = figure.subplots(
            2, 1, sharex=True, height_ratios=[servers, max(1.5, 0.35 * servers)]
        )
        _draw_shares(rows, episode, given, left, first * length, row)
        _draw_backlogs(queues, episode, first, last)
        rows.set(xlim=edges, ylim=(servers, 0))
        queues.set(xlabel="time since the episode began [s]", ylabel="work queued [s]")
        queues.set_ylim(bottom=0)
        _mark_slots(rows, queues, length, (first, last), edges)
        rows.set_title(f"{episode.name}, {_scenario(episode)}, {int(shown.sum())} tasks", pad=16)
        entries = _legend(episode, shown, bool((left > 0).any()))
        show_stations(figure, [rows, queues], servers, entries)
    return figure


def _legend(episode: Episode, shown: np.ndarray, leftover: bool) -> list[Artist]:
    """What a timeline's marks mean; of the tasks ``shown``, with work of earlier slots or not."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Artist] = [
        Line2D([], [], color="0.3", lw=0.8, label="waits"),
        Patch(color="0.3", alpha=0.4, lw=0, label="data moves"),
        Patch(color="0.3", lw=0, label="is computed"),
    ]
    if (episode.origin[shown] < 0).any():
        entries.insert(0, Patch(color=MASTER_COLOUR, lw=0, label="master node"))
    if leftover:
        entries.append(Patch(color="0.7", lw=0, label="of earlier slots"))
    if episode.failed[shown].any():
        entries.append(Line2D([], [], ls="", marker="x", color="black", ms=4,
                              label="missed deadline"))  # fmt: skip
    return entries


def _mark_slots(
    rows: Axes, queues: Axes, length: float, slots: tuple[int, int], edges: tuple[float, float]
) -> None:
    """A line where each slot begins, and the names of as many as there is room for."""
    first, last = slots
    needed = 0.1 * (edges[1] - edges[0]) / length  # slots that a label is as wide as
    stride = math.ceil(max((last - first + 1) / MOST_SLOTS, needed))
    for slot in range(first, last + 2):
        at = slot * length
        if at > edges[1]:
            break
        for axes in (rows, queues):
            axes.axvline(at, color="black", lw=0.8, ls=(0, (4, 3)), label="_slot")
        if slot <= last and (slot - first) % stride == 0:
            rows.annotate(
                f"slot {slot}", (at, 1), xycoords=("data", "axes fraction"), xytext=(2, 2),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip


def network_map(episode: Episode) -> Figure:
    """Who sends work where: the stations on a circle, an arrow for all that one sent another.

    A disc is a station with its server. Its area is the server's capacity, its colour the load:
    the work given to it over what it could do in the whole episode, above 100 % where its queue
    grew. An arrow's width is the work that a station sent; the 60 widest are drawn, and none
    below 2 % of the widest. What stays at home has no arrow: beside a disc stand capacity, load
    and the share of the station's own work that stayed there; of many stations the load alone.
    The tasks of a master node come from the square in the middle.

    Raises:
        ValueError: an episode without a decision.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if len(episode) == 0:
        raise ValueError("the episode has no decision")
    servers = episode.num_servers
    duration = episode.slots * episode.slot_length
    sent = np.zeros((servers + 1, servers))  # by origin, −1 the last
    np.add.at(sent, episode.origin, episode.given)
    sent /= duration  # Gcycles/s
    load = sent.sum(axis=0) / episode.capacity
    angle = np.pi / 2 - 2 * np.pi * np.arange(servers) / servers
    places = np.vstack([np.column_stack([np.cos(angle), np.sin(angle)]), np.zeros((1, 2))])
    most = min(0.24, 0.75 * math.sin(math.pi / max(servers, 2)))
    radius = most * np.sqrt(episode.capacity / episode.capacity.max())
    with styled() as (Figure, _):
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        figure = Figure(figsize=(8.0, 6.4))
        axes = figure.add_subplot()
        axes.set(xlim=(-1.75, 1.75), ylim=(-1.4, 1.45), aspect="equal")
        axes.set(xticks=[], yticks=[])
        axes.set_axis_off()
        norm, shades = Normalize(0, max(1.0, load.max()) * 100), colormaps["cividis"]
        discs = _draw_discs(axes, episode, places, radius, 100 * load, norm)
        away = sent.copy()
        away[np.arange(servers), np.arange(servers)] = 0
        widest = 7.0 if servers <= 10 else 4.0
        scale = widest / away.max() if away.max() > 0 else 0.0
        least = max(0.02 * away.max(), np.sort(away, axis=None)[-MOST_ARROWS:].min())
        widths = np.where(away < least, 0, scale * away)  # points
        _draw_arrows(axes, widths, places, discs)
        if servers <= MOST_LABELS:
            _label_stations(axes, episode, sent, load, places, radius)
        bar = figure.colorbar(
            ScalarMappable(norm, shades), ax=axes, label="load of a server [%]", shrink=0.6
        )
        bar.outline.set_visible(False)
        _explain_arrows(figure, away.max(), scale)
        tasks = f"{len(episode)} tasks in {duration:g} s"
        figure.suptitle(f"{episode.name}, {_scenario(episode)}, {tasks}", fontsize=12)
    return figure


def _explain_arrows(figure: Figure, most: float, scale: float) -> None:
    """A legend of widths: ``scale`` points for each Gcycles/s sent away, of at most ``most``."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color="0.35", alpha=0.65, lw=scale * rate, label=f"{rate:g} Gcycles/s")
        for rate in _round_numbers(most)
    ]
    if entries:
        figure.legend(
            handles=entries, loc="outside lower center", ncols=len(entries),
            title="work sent to another server", handlelength=3,
        )  # fmt: skip


def _draw_discs(
    axes: Axes,
    episode: Episode,
    places: np.ndarray,
    radius: np.ndarray,
    load: np.ndarray,
    norm: Normalize,
) -> list[Patch]:
    """A disc a server, coloured by its load in %, and the square of a master node after them."""
    from matplotlib import colormaps
    from matplotlib.patches import Circle, Rectangle

    servers, shades = episode.num_servers, colormaps["cividis"]
    discs: list[Patch] = []
    for server in range(servers):
        disc = Circle(
            tuple(places[server]), radius[server], fc=shades(norm(load[server])),
            ec="black", lw=1, zorder=3, label=f"server {server}",
        )  # fmt: skip
        axes.add_patch(disc)
        discs.append(disc)
        dark = norm(load[server]) < 0.55
        x, y = places[server]
        axes.text(
            x, y, str(server), ha="center", va="center", zorder=4,
            color="white" if dark else "black", fontsize=10 if servers <= 10 else 8,
        )  # fmt: skip
    if (episode.origin < 0).any():
        discs.append(
            Rectangle((-0.12, -0.12), 0.24, 0.24, fc=MASTER_COLOUR, zorder=3, label="master")
        )
        axes.add_patch(discs[-1])
        axes.annotate("master node", (0, -0.14), ha="center", va="top", zorder=5, fontsize=8,
                      bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
    return discs


def _draw_arrows(
    axes: Axes, widths: np.ndarray, places: np.ndarray, discs: Sequence[Patch]
) -> None:
    """An arrow from each origin to each server, as wide in points as ``widths`` [B + 1, B] says."""
    from matplotlib.patches import ArrowStyle, FancyArrowPatch

    servers = widths.shape[1]
    colours = [*station_colours(servers), MASTER_COLOUR]
    for origin, server in zip(*np.nonzero(widths), strict=True):
        width = widths[origin, server]
        arrow = FancyArrowPatch(
            tuple(places[origin]), tuple(places[server]), patchA=discs[origin],
            patchB=discs[server], connectionstyle="arc3,rad=0.14", shrinkA=1, shrinkB=1,
            arrowstyle=ArrowStyle.Simple(
                head_length=4 + 1.2 * width, head_width=4 + 1.6 * width, tail_width=width
            ),
            mutation_scale=1, lw=0, alpha=0.7, zorder=2, label=f"{origin} to {server}",
            color=colours[origin] if servers <= len(PALETTE) else "0.35",
        )  # fmt: skip
        axes.add_patch(arrow)


def slots_of(episode: Episode, slots: tuple[int, int] | None) -> tuple[int, int]:
    """The first and the last slot to show; by default the first with a task."""
    if slots is None:
        if len(episode) == 0:
            raise ValueError("the episode has no decision")
        return int(episode.slot[0]), int(episode.slot[0])
    first, last = slots
    if not 0 <= first <= last < episode.slots:
        raise ValueError(
            f"slots must be a first and a last one of 0 to {episode.slots - 1}, got {slots}"
        )
    return first, last


def _scenario(episode: Episode) -> str:
    setting = episode.setting
    return setting.env if setting.preset is None else setting.preset


def _draw_shares(
    axes: Axes,
    episode: Episode,
    given: np.ndarray,
    left: np.ndarray,
    begins: float,
    row: float,
) -> None:
    """The shares [n, B] that are given, and what was left [B] s, in rows ``row`` inches high."""
    from matplotlib.collections import LineCollection, PolyCollection

    servers = episode.num_servers
    colours = [*station_colours(servers), MASTER_COLOUR]  # by origin, −1 the last
    place, thickness = _lanes(episode, given, left, begins)
    # Wait, transfer there, computation, transfer back; the last three are fraction · serve.
    start = episode.start[:, None] + episode.wait
    computed = episode.given / episode.capacity
    back = episode.fraction * episode.result[:, None] / episode.rate
    ready = start + np.maximum(episode.fraction * episode.serve - computed - back, 0)
    for origin in np.unique(episode.origin[given.any(axis=1)]):
        n, server = np.nonzero(given & (episode.origin == origin)[:, None])
        label = "master node" if origin < 0 else f"station {origin}"
        y, half = place[n, server], np.maximum(0.45 * thickness[server], 0.5 / (72 * row))
        times = [start[n, server], ready[n, server]]
        times += [times[1] + computed[n, server]]
        times += [times[2] + back[n, server]]
        waits = LineCollection(
            [[(a, v), (b, v)] for a, b, v in zip(episode.start[n], times[0], y, strict=True)],
            colors=[colours[origin]],
            linewidths=np.minimum(0.6, 0.25 * 72 * row * thickness[server]),  # points
            alpha=0.5,
            label=f"{label}: wait",
        )
        axes.add_collection(waits)
        parts = ("transfer there", 0.4), ("computation", 1.0), ("transfer back", 0.4)
        for (part, alpha), a, b in zip(parts, times, times[1:], strict=False):
            bars = PolyCollection(
                _boxes(a, b, y, half), facecolors=[colours[origin]], linewidths=0, alpha=alpha,
                label=f"{label}: {part}",
            )  # fmt: skip
            axes.add_collection(bars)
    if (left > 0).any():
        y, at = np.arange(servers) + 0.05 + thickness / 2, np.full(servers, begins)
        bars = PolyCollection(
            _boxes(at, at + left, y, 0.45 * thickness), facecolors=["0.7"], linewidths=0,
            label="earlier slots",
        )  # fmt: skip
        axes.add_collection(bars)
    late = np.flatnonzero(given.any(axis=1) & episode.failed)
    if late.size:
        server = np.where(given, episode.finish, -np.inf).argmax(axis=1)[late]
        ends = episode.start[late] + episode.finish[late, server]
        axes.plot(ends, place[late, server], "x", color="black", ms=4, label="failed task")
    names = [f"server {i}" if servers > 10 else f"server {i}\n{speed:g} Gcycles/s"
             for i, speed in enumerate(episode.capacity)]  # fmt: skip
    axes.set_yticks(np.arange(servers) + 0.5, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for edge in range(1, servers):
        axes.axhline(edge, color="0.85", lw=0.8)


def _draw_backlogs(axes: Axes, episode: Episode, first: int, last: int) -> None:
    """A line a server, in the colour of its station."""
    servers = episode.num_servers
    few = servers <= len(PALETTE)
    for server, colour in enumerate(station_colours(servers)):
        times, seconds = _sawtooth(episode, server, first, last)
        dash = DASHES[server] if few else "-"
        axes.plot(times, seconds, ls=dash, color=colour, lw=1.4, label=f"server {server}")
    axes.margins(y=0.1)


def _lanes(
    episode: Episode, given: np.ndarray, left: np.ndarray, begins: float
) -> tuple[np.ndarray, np.ndarray]:
    """[n, B] where each share's line is in its server's row, and [B] how high a line is.

    The rows are of height 1. The first line of a row is for what earlier slots left there; a
    slot that begins when all shares before it are done starts again at the top.
    """
    number = np.zeros(given.shape, int)
    free = np.asarray(left > 0, int)  # [B] the next line
    done = begins + left  # [B] s
    most = free
    ends = np.where(given, episode.start[:, None] + episode.finish, -np.inf)
    for slot in np.unique(episode.slot[given.any(axis=1)]):
        rows = episode.slot == slot
        free = np.where(done <= slot * episode.slot_length, 0, free)
        number[rows] = free + np.cumsum(given[rows], axis=0) - 1
        free = free + given[rows].sum(axis=0)
        done = np.maximum(done, ends[rows].max(axis=0))
        most = np.maximum(most, free)
    thickness = 0.9 / np.maximum(most, 6)
    return np.arange(given.shape[1]) + 0.05 + (number + 0.5) * thickness, thickness


def _boxes(begin: np.ndarray, end: np.ndarray, y: np.ndarray, half: np.ndarray) -> list[np.ndarray]:
    """[n] of [4, 2], the corners of bars."""
    x = np.stack([begin, end, end, begin], axis=1)
    return list(np.stack([x, np.stack([y - half, y - half, y + half, y + half], axis=1)], axis=2))


def _sawtooth(
    episode: Episode, server: int, first: int, last: int
) -> tuple[list[float], list[float]]:
    """The work queued at a server over time, s and s."""
    before = episode.slot_backlog[:, server] / episode.capacity[server]
    times, seconds = [], []
    for slot in range(first, last + 1):
        at = slot * episode.slot_length
        added = episode.given[episode.slot == slot, server].sum() / episode.capacity[server]
        queued = before[slot] + added
        lasts = min(queued, episode.slot_length)
        times += [at, at, at + lasts, at + episode.slot_length]
        seconds += [before[slot], queued, queued - lasts, before[slot + 1]]
    return times, seconds


def _label_stations(
    axes: Axes,
    episode: Episode,
    sent: np.ndarray,
    load: np.ndarray,
    places: np.ndarray,
    radius: np.ndarray,
) -> None:
    """Capacity, load and the share kept at home, outside the circle; the load alone of many."""
    servers = episode.num_servers
    for server in range(servers):
        x, y = places[server] * (1 + radius[server] + 0.06)
        text = f"{100 * load[server]:.0f} %"
        if servers <= 10:
            text = f"{episode.capacity[server]:g} Gcycles/s\nload {text}"
            if own := sent[server].sum():
                text += f"\nkeeps {100 * sent[server, server] / own:.0f} %"
        side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        height = "center" if abs(y) < 0.5 else "bottom" if y > 0 else "top"
        axes.text(x, y, text, ha=side, va=height, fontsize=8)


def _round_numbers(most: float) -> list[float]:
    """About the whole, and a quarter, of the most, of one digit."""
    if most <= 0:
        return []
    found = []
    for part in (most / 4, most):
        digit = 10 ** math.floor(math.log10(part))
        found.append(math.floor(part / digit) * digit)
    return sorted({round(value, 12) for value in found})
