"""Pictures of policies show what the record says, and no text lies on other text or outside."""

import dataclasses
import functools

import numpy as np
import pytest
from edge_policies import CASES
from legible import assert_legible
from PIL import Image

import jaxmec
from jaxmec import cli, plots
from jaxmec.agents import DQN, DSAC, Pathwise
from jaxmec.experiment import Setting
from jaxmec.experiment.episode import CartPoleEpisode, Episode


@functools.cache
def made(servers=5, slots=3, tasks=8, master=False, heavy=False, whole=False, deadline=np.inf):
    """An episode of random splits, played by the equations of docs/model.md in float64."""
    rng = np.random.default_rng(servers + slots + tasks)
    capacity, rate = np.linspace(10, 50, servers), np.linspace(400, 500, servers)
    slot = np.repeat(np.arange(slots), tasks)
    count = len(slot)
    origin = np.sort(rng.integers(0, servers, (slots, tasks)), axis=1).ravel()
    origin = np.full(count, -1) if master else origin
    size, result = rng.uniform(2, 5, count), rng.uniform(0.6, 1, count)
    work = size * (10.0 if heavy else 0.2)
    fraction = rng.dirichlet(np.ones(servers), count)
    fraction[fraction < 0.1] = 0
    if whole:
        fraction = (fraction == fraction.max(axis=1, keepdims=True)).astype(float)
    fraction /= fraction.sum(axis=1, keepdims=True)
    remote = np.arange(servers) != origin[:, None]
    megabits = remote * size[:, None] + result[:, None]
    serve = megabits / rate + work[:, None] / capacity
    backlog, inflight = np.zeros((2, count, servers))
    queue = np.zeros(servers)
    for number in range(slots):
        rows = np.flatnonzero(slot == number)
        added = fraction[rows] * work[rows, None]
        backlog[rows], inflight[rows] = queue, np.cumsum(added, axis=0) - added
        queue = np.maximum(queue + added.sum(axis=0) - capacity, 0)
    wait = (backlog + inflight) / capacity
    makespan = np.max(np.where(fraction > 0, wait + fraction * serve, 0), axis=1)
    return Episode(
        name="made by hand", setting=Setting("MultiServerOffloading-v0", "amcoedge"),
        capacity=capacity, rate=rate, slot_length=1.0, slots=slots, deadline=deadline,
        max_wait=np.inf, feature_names=("size",), slot=slot, origin=origin,
        position=np.arange(count) % tasks, size=size, work=work, result=result,
        observation=size[:, None], action=np.zeros(count, int), fraction=fraction, wait=wait,
        serve=serve, makespan=makespan, failed=makespan > deadline, reward=-makespan,
        backlog=backlog, inflight=inflight,
    )  # fmt: skip


@functools.cache
def fallen():
    time = np.arange(31)[:, None]
    return CartPoleEpisode(
        "by hand", Setting("CartPole-v1"), np.array([0.01, 0.4, 0.007, 0.2]) * time,
        np.arange(30) % 2, time_step=0.02, half_length=0.5, position_limit=2.4, angle_limit=0.2095,
    )  # fmt: skip


@functools.cache
def policy_of(kind):
    agent, env, preset, options = {
        "pushes": (DSAC(hidden=(8,), denoising_steps=2, judged_chains=0), "CartPole-v1", None, ()),
        "sets": (
            DSAC(hidden=(8,), denoising_steps=2, judged_chains=0),
            "MultiServerOffloading-v0", "amcoedge", (),
        ),
        "scores": (
            Pathwise(hidden=(8,), denoising_steps=2),
            "MultiServerOffloading-v0", "amcoedge", (("action", "score"), ("features", "times")),
        ),
        "no chain": (DQN(hidden=(8,)), "CartPole-v1", None, ()),
    }[kind]  # fmt: skip
    return dataclasses.replace(CASES["subset"], agent=agent, env=env, preset=preset,
                               options=options).policy()  # fmt: skip


def observation_of(kind):
    return np.linspace(0, 1, policy_of(kind).spec.observation_size)


FIGURES = {
    "timeline": lambda: plots.timeline(made()),
    "timeline of all, too late": lambda: plots.timeline(made(heavy=True, deadline=0.5), (0, 2)),
    "timeline, later": lambda: plots.timeline(made(heavy=True), (1, 2)),
    "timeline of many": lambda: plots.timeline(made(20, tasks=60, whole=True), (0, 1)),
    "timeline of a master": lambda: plots.timeline(made(10, master=True, whole=True)),
    "map": lambda: plots.network_map(made()),
    "map of a master": lambda: plots.network_map(made(10, master=True)),
    "map of many": lambda: plots.network_map(made(20, tasks=60)),
    "map of two": lambda: plots.network_map(made(2)),
    "denoising of pushes": lambda: drawn_denoising("pushes"),
    "denoising of sets": lambda: drawn_denoising("sets"),
    "denoising of scores": lambda: drawn_denoising("scores"),
    "policy map": lambda: drawn_map(),
}


@functools.cache
def drawn_denoising(kind):
    return plots.denoising(policy_of(kind), observation_of(kind), chains=3, seed=4)


@functools.cache
def drawn_map():
    return plots.policy_map(
        "water-filling", information="local", show="home", origin=1, server=1, points=5, until=2.0
    )


@pytest.mark.parametrize(
    "draw",
    [pytest.param(draw, id=name, marks=[pytest.mark.slow] if name == "denoising of sets" else [])
     for name, draw in FIGURES.items()],
)  # fmt: skip
def test_no_text_overlaps_or_is_clipped_and_axes_have_units(draw):
    figure = draw()
    assert_legible(figure)
    for axes in figure.axes:
        for label, axis in ((axes.get_xlabel(), axes.xaxis), (axes.get_ylabel(), axes.yaxis)):
            numbers = [t.get_text() for t in axis.get_ticklabels()]
            if axes.axison and axis.get_visible() and any(t[:1].isdigit() for t in numbers):
                inner = axes.get_subplotspec() and axis is axes.xaxis and axes.get_shared_x_axes(
                ).joined(axes, figure.axes[-1]) and not label  # fmt: skip
                assert inner or label.endswith(("]", "(number)")), (label, numbers)


def boxes(figure, label):
    """[bars, 4] left, right, low, high of the bars of that label."""
    found = [c for c in figure.axes[0].collections if c.get_label() == label]
    corners = np.array([p.vertices[:4] for c in found for p in c.get_paths()])
    return np.column_stack([corners[:, 0, 0], corners[:, 1, 0], corners[:, 0, 1], corners[:, 2, 1]])


@pytest.mark.parametrize("slots", [(0, 0), (1, 2)])
def test_bars_are_waits_and_services_in_the_row_of_their_server(slots):
    e = made(heavy=True)
    figure = plots.timeline(e, slots)
    shown = (e.slot >= slots[0]) & (e.slot <= slots[1])
    computed = np.zeros(e.num_servers)
    for origin in np.unique(e.origin[shown]):
        n, server = np.nonzero((shown & (e.origin == origin))[:, None] & (e.fraction > 0))
        start = e.slot[n] + e.wait[n, server]
        there, solid, back = (
            boxes(figure, f"station {origin}: {part}")
            for part in ("transfer there", "computation", "transfer back")
        )
        assert there[:, 0] == pytest.approx(start)
        assert there[:, 1] == pytest.approx(solid[:, 0]) and solid[:, 1] == pytest.approx(
            back[:, 0]
        )
        lasts = e.fraction[n, server] * e.serve[n, server]
        assert back[:, 1] - there[:, 0] == pytest.approx(lasts)
        assert back[:, 1] - back[:, 0] == pytest.approx(
            e.fraction[n, server] * e.result[n] / e.rate[server]
        )
        assert (np.floor(solid[:, 2:]) == server[:, None]).all()  # within the server's own row
        np.add.at(computed, server, solid[:, 1] - solid[:, 0])
        (waits,) = (c for c in figure.axes[0].collections
                    if c.get_label() == f"station {origin}: wait")  # fmt: skip
        ends = np.array(waits.get_segments())[:, :, 0]
        assert ends[:, 0] == pytest.approx(e.slot[n]) and ends[:, 1] == pytest.approx(start)
    assert computed == pytest.approx(e.given[shown].sum(axis=0) / e.capacity)
    if slots[0] > 0:
        left = boxes(figure, "earlier slots")
        assert left[:, 1] - left[:, 0] == pytest.approx(e.slot_backlog[slots[0]] / e.capacity)


def test_no_share_lies_on_another():
    e = made(heavy=True)
    figure = plots.timeline(e, (0, 2))
    spans = []
    for label in {c.get_label().split(":")[0] for c in figure.axes[0].collections}:
        if label.startswith("station"):
            begin, end = (
                boxes(figure, f"{label}: transfer there"),
                boxes(figure, f"{label}: transfer back"),
            )
            spans += [(a[0], b[1], *a[2:]) for a, b in zip(begin, end, strict=True)]
    left, right, low, high = np.transpose(spans)
    crossing = (left[:, None] < right - 1e-9) & (left < right[:, None] - 1e-9)
    crossing &= (low[:, None] < high - 1e-9) & (low < high[:, None] - 1e-9)
    assert crossing.sum() == len(spans)  # each with itself alone


def test_backlogs_jump_and_fall_with_the_slots():
    e = made(heavy=True)
    axes = plots.timeline(e, (0, 1)).axes[1]
    lines = {line.get_label(): line for line in axes.lines}
    for server in range(e.num_servers):
        times, seconds = lines[f"server {server}"].get_data()
        after = e.queued[e.slot == 0][-1, server] / e.capacity[server]
        assert seconds[:2] == pytest.approx([0, after]) and times[1] == 0
        assert seconds[3] == pytest.approx(max(after - 1, 0)) and times[3] == 1
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_label() == "_slot"]
    assert marks == [0.0, 1.0, 2.0]


def test_missed_deadlines_are_marked():
    e = made(heavy=True, deadline=float(np.median(made(heavy=True).makespan)))
    (marks,) = (
        x for x in plots.timeline(e, (0, 2)).axes[0].lines if x.get_label() == "failed task"
    )
    assert marks.get_xdata() == pytest.approx((e.slot + e.makespan)[e.failed])
    assert e.failed.sum() == len(e) / 2


def test_timeline_is_of_slots_that_are_there():
    with pytest.raises(ValueError, match="slots must be a first and a last one of 0 to 2"):
        plots.timeline(made(), (1, 3))
    empty = dataclasses.replace(made(), slots=9)
    with pytest.raises(ValueError, match="no task arrived in the slots 5 to 6"):
        plots.timeline(empty, (5, 6))


def test_arrows_are_as_wide_as_what_is_sent():
    e = made()
    axes = plots.network_map(e).axes[0]
    arrows = {
        p.get_label(): p.get_arrowstyle().tail_width
        for p in axes.patches
        if " to " in p.get_label()
    }
    sent = np.zeros((5, 5))
    np.add.at(sent, e.origin, e.given)
    np.fill_diagonal(sent, 0)
    assert len(arrows) == (sent > 0.02 * sent.max()).sum()
    for name, width in arrows.items():
        origin, server = map(int, name.split(" to "))
        assert width / 7.0 == pytest.approx(sent[origin, server] / sent.max())
    discs = {p.get_label(): p for p in axes.patches if p.get_label().startswith("server")}
    areas = np.array([discs[f"server {i}"].radius ** 2 for i in range(5)])
    assert areas / areas[-1] == pytest.approx(e.capacity / 50)
    texts = [t.get_text() for t in axes.texts]
    load = e.given.sum(axis=0) / e.capacity / e.slots
    own = [e.given[e.origin == i].sum(axis=0) for i in range(5)]
    for i in range(5):
        assert (f"{e.capacity[i]:g} Gcycles/s\nload {100 * load[i]:.0f} %\n"
                f"keeps {100 * own[i][i] / own[i].sum():.0f} %") in texts  # fmt: skip


@pytest.mark.parametrize("kind", ["pushes", pytest.param("sets", marks=pytest.mark.slow)])
def test_denoising_shows_the_probabilities_of_each_step(kind):
    policy = policy_of(kind)
    path, final = drawn_denoising(kind).axes
    chains = policy.chains(observation_of(kind), 3, 4)
    probability = 100 * np.exp(chains) / np.exp(chains).sum(axis=2, keepdims=True)
    order = np.argsort(-probability[:, -1].mean(axis=0))[:6]
    names = policy.setting.make()[0].action_names()
    assert [t.get_text() for t in final.get_yticklabels()] == [names[i] for i in order]
    means = [line for line in path.lines if line.get_label() != "_chain"]
    for line, action in zip(means, order, strict=True):
        assert line.get_label() == names[action]
        assert line.get_ydata() == pytest.approx(probability[:, :, action].mean(axis=0), rel=1e-4)
    thin = [line.get_ydata() for line in path.lines if line.get_label() == "_chain"]
    assert thin[:3] == [pytest.approx(row, rel=1e-4) for row in probability[:, :, order[0]]]
    bars = [bar.get_width() for bar in final.patches]
    assert bars == pytest.approx(probability[:, -1, order].mean(axis=0), rel=1e-4)


def test_denoising_of_scores_is_in_seconds():
    policy = policy_of("scores")
    _, offsets, _, factors = drawn_denoising("scores").axes
    _, params = policy.setting.make()
    judged = policy.preferences(observation_of("scores"))
    order = [int(t.get_text()[-1]) for t in offsets.get_yticklabels()]
    assert sorted(order) == [0, 1, 2, 3, 4]
    for axes, values in ((offsets, judged[:5] * float(params.scales.slot)), (factors, judged[5:])):
        (diamonds,) = (line for line in axes.lines if line.get_label() == "judged")
        assert diamonds.get_xdata() == pytest.approx(values[order], rel=1e-4)


def test_denoising_takes_a_decision_of_an_episode():
    policy, episode = policy_of("pushes"), fallen()
    figure = plots.denoising(policy, episode, 7, chains=3)
    chains = policy.chains(episode.state[7], 3)
    thin = [line.get_ydata() for line in figure.axes[0].lines if line.get_label() == "_chain"]
    shares = 100 * np.exp(chains) / np.exp(chains).sum(axis=2, keepdims=True)
    assert any(line == pytest.approx(shares[0, :, 0], rel=1e-4) for line in thin)
    with pytest.raises(ValueError, match="index must be from 0 to 29, got 30"):
        plots.denoising(policy, episode, 30)
    with pytest.raises(ValueError, match="index must name the decision"):
        plots.denoising(policy, episode)
    with pytest.raises(ValueError, match="has no denoising to show"):
        plots.denoising(policy_of("no chain"), np.zeros(4))


def test_policy_map_shows_what_the_scheduler_does():
    axes = drawn_map().axes[0]
    (mesh,) = axes.collections
    share = np.asarray(mesh.get_array()).reshape(5, 5)
    # Water-filling on what is seen: the fuller the own server, the less stays there.
    assert (np.diff(share, axis=0) <= 1e-4).all() and (share[0] > 0).all()
    assert (share[-1] < share[0]).all()
    # Against the model: work w of the median size at station 1, all servers empty.
    network = jaxmec.make("MultiServerOffloading-v0", "amcoedge")[1].network
    lowest = axes.get_xlim()[0] + np.diff(axes.get_xlim())[0] / 10
    size = 3.5  # about the median of U(2, 5); shares hardly depend on it
    serve = np.where(np.arange(5) == 1, 0, size / network.rate) + lowest / network.capacity
    expected = float(100 * (1 / serve[1]) / (1 / serve).sum())
    assert share[0, 0] == pytest.approx(expected, rel=0.05)
    assert axes.get_ylabel() == "sent to server 1 by the own station in this slot [s]"


def test_policy_map_of_one_server_a_task_shows_which_and_when_it_changes():
    """By the shortest delay on its own work: the fastest server until its queue is long."""
    figure = plots.policy_map("shortest-delay-own", information="local", points=5, until=1.0)
    assert_legible(figure)
    axes = figure.axes[0]
    (mesh,) = axes.collections
    chosen = np.asarray(mesh.get_array()).reshape(5, 5)
    assert axes.get_ylabel() == "sent to server 4 by the own station in this slot [s]"
    assert (chosen[0] == 4).all() and (chosen[-1] == 3).all()
    assert figure.axes[1].get_ylabel() == "server that gets most of the task [number]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "weight"}, "task axis"),
        ({"show": "server"}, "did you mean 'servers'"),
        ({"server": 5}, "server must be from 0 to 4, got 5"),
        ({"queue": "backlogs"}, "did you mean 'backlog'"),
        ({"origin": 7}, "origin must be from 0 to 4, got 7"),
    ],
)
def test_policy_map_checks_its_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        plots.policy_map("water-filling", **options)


def test_policy_map_needs_tasks():
    with pytest.raises(ValueError, match="schedules no tasks"):
        plots.policy_map(policy_of("no chain"))


def test_a_film_of_cartpole_has_its_pictures_and_its_pace(tmp_path):
    path = plots.animate_cartpole(fallen(), tmp_path / "new" / "film.gif", every=12)
    with Image.open(path) as film:
        assert film.n_frames == 4  # of the states 0, 12, 24 and the last
        assert film.size == (576, 288)
        assert film.info["duration"] == 240  # ms: 12 steps of 0.02 s


@pytest.mark.parametrize(("every", "pictures"), [(None, 8), (3, 4)])
def test_a_film_of_an_episode_has_its_pictures(tmp_path, every, pictures):
    path = plots.animate_episode(made(), tmp_path / "film.gif", (1, 1), every=every)
    with Image.open(path) as film:
        assert film.n_frames == pictures
        assert film.size[0] == 720


def test_a_film_shows_the_queues_after_its_decision(monkeypatch, tmp_path):
    e, seen = made(heavy=True), []

    def watch(figure, draw, numbers, path, fps):
        for number in numbers:
            draw(number)
            assert_legible(figure)
            bars = [bar for group in figure.axes[0].containers[:-1] for bar in group]
            ends = np.zeros(e.num_servers)
            for i, bar in enumerate(bars):
                server = i % e.num_servers
                ends[server] = max(ends[server], bar.get_x() + bar.get_width())
            seen.append(ends)
        return path

    monkeypatch.setattr("jaxmec.plots.films._write", watch)
    plots.animate_episode(e, tmp_path / "film.gif", (1, 1), every=1)
    assert np.array(seen) == pytest.approx((e.queued / e.capacity)[e.slot == 1])


@pytest.mark.parametrize("name", ["film.mov", "film"])
def test_films_are_checked(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        plots.animate_cartpole(fallen(), tmp_path / name)
    with pytest.raises(ValueError, match="every must be a whole number of at least 1"):
        plots.animate_cartpole(fallen(), tmp_path / "film.gif", every=0)


def test_an_mp4_needs_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.animation.FFMpegWriter.isAvailable", lambda: False)
    with pytest.raises(RuntimeError, match="ffmpeg"):
        plots.animate_cartpole(fallen(), tmp_path / "film.mp4")


def shown(monkeypatch, episode, *words):
    monkeypatch.setattr("jaxmec.experiment.episode.record", lambda *_, **__: episode)
    return cli.main(["show", *map(str, words)])


def test_show_writes_what_there_is_and_says_where(monkeypatch, capsys, tmp_path):
    assert shown(monkeypatch, made(), "optimal", "--to", tmp_path, "--pictures", "timeline", "map",
                 "animation", "--formats", "svg", "--slots", "1", "1") == 0  # fmt: skip
    files = capsys.readouterr().out.split()
    assert files == [str(tmp_path / n) for n in ("timeline.svg", "map.svg", "animation.gif")]
    assert all((tmp_path / name).stat().st_size > 1000 for name in files)


@pytest.mark.slow
def test_show_of_a_saved_policy(monkeypatch, capsys, tmp_path):
    policy_of("pushes").save(tmp_path / "policy")
    assert shown(monkeypatch, fallen(), tmp_path, "--to", tmp_path / "new", "--formats", "png",
                 "--decision", "3", "--chains", "2") == 0  # fmt: skip
    files = capsys.readouterr().out.split()
    assert files == [str(tmp_path / "new" / n) for n in ("denoising.png", "animation.gif")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pictures", "denoising"], "there is no denoising picture of made by hand"),
        (["--pictures", "timelin"], "did you mean 'timeline'"),
        (["--film", "gf"], "did you mean 'gif'"),
    ],
)
def test_show_says_what_there_is_not(monkeypatch, capsys, tmp_path, words, message):
    assert shown(monkeypatch, made(), "optimal", "--to", tmp_path, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
