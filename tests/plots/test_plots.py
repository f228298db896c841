"""Figures say what they should, and no text lies on other text or outside."""

import sys

import matplotlib
import matplotlib.text
import numpy as np
import pytest
from legible import assert_legible, visible_texts
from matplotlib import pyplot
from matplotlib.figure import Figure

from jaxmec import plots
from jaxmec.core.statistics import mean_interval


def curve(seeds: int, height: float = 400.0) -> plots.Curve:
    steps = np.arange(0, 100_001, 5_000)
    noise = np.random.default_rng(seeds).normal(0, 10, (seeds, steps.size))
    return plots.Curve(steps, height * (1 - np.exp(-steps / 2e4)) + noise)


FIGURES = {
    "curves": lambda: plots.learning_curves(
        {"DSAC": curve(5), "DQN": curve(5, 200.0), "SAC": curve(3, 300.0)},
        "return per episode",
        references={"solved": 475.0, "limit": 500.0},
        title="CartPole-v1",
    ),
    "many curves": lambda: plots.learning_curves(
        {f"a method with a rather long name, {i}": curve(2, 50.0 * i) for i in range(1, 13)},
        "make-span per decision (s)",
    ),
    "one point": lambda: plots.learning_curves({"one": plots.Curve([1000], [[1.0]])}, "return"),
    "bars": lambda: plots.comparison_bars(
        {
            "DDRL-AMSA": [0.300, 0.302, 0.299],
            "water-filling on what the scheduler sees": [0.33, 0.34],
            "local only": [0.9],
        },
        "make-span per decision (s)",
        references={"Optimal": 0.295, "Optimal × 1.05": 0.31},
        highlight=["DDRL-AMSA"],
        title="amcoedge, 20 episodes",
    ),
    "many bars": lambda: plots.comparison_bars(
        {f"scheduler {i}": np.linspace(-i - 1, -i, 3) for i in range(25)}, "return per episode"
    ),
    "sweep": lambda: plots.sweep_curves(
        {
            f"method {i} (published)": plots.Curve(
                np.arange(1, 11) / 10, i + np.random.default_rng(i).normal(0, 0.1, (5, 10))
            )
            for i in range(10)
        },
        "deadline (s)",
        "mean make-span (s)",
        title="amcoedge, 5 seeds",
    ),
    "sweep of one point": lambda: plots.sweep_curves(
        {"a": plots.Curve([0.5], [[1.0], [2.0]]), "b": plots.Curve([0.5], [[1.0]])}, "x", "y"
    ),
    "profiles": lambda: plots.performance_profiles(
        {
            f"method {i}": 1 + 0.1 * i * np.random.default_rng(i).random((3, 40))
            for i in range(1, 9)
        },
        "make-span of an episode / optimal",
        title="amcoedge-methods",
    ),
    "one bar": lambda: plots.comparison_bars({"nothing": [0.0]}, "failed tasks (%)"),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_no_text_overlaps_or_is_clipped(draw):
    assert_legible(draw())


def test_legibility_check_sees_clipped_and_overlapping_text():
    clipped, overlapping = Figure(), Figure()
    clipped.text(0.99, 0.5, "too far right")
    overlapping.text(0.5, 0.5, "one")
    overlapping.text(0.51, 0.5, "other")
    with pytest.raises(AssertionError, match="clipped"):
        assert_legible(clipped)
    with pytest.raises(AssertionError, match="lies on"):
        assert_legible(overlapping)


def test_curve_shows_mean_and_interval():
    data = plots.Curve([0, 10, 20], [[1.0, 2.0, 3.0], [3.0, 6.0, 5.0]])
    (axes,) = plots.learning_curves({"a": data}, "cost (s)", references={"best": 0.5}).axes
    line, reference = axes.lines
    assert line.get_xdata().tolist() == [0, 10, 20]
    assert line.get_ydata().tolist() == [2.0, 4.0, 4.0]
    assert reference.get_ydata() == [0.5, 0.5]
    (shade,) = axes.collections
    _, half = mean_interval(data.values)
    low, high = np.array([2.0, 4.0, 4.0]) - half, np.array([2.0, 4.0, 4.0]) + half
    corners = shade.get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(low.min())
    assert corners[:, 1].max() == pytest.approx(high.max())
    assert axes.get_ylabel() == "cost (s)"
    assert axes.get_xlabel() == "environment steps"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_curve_is_blank_where_a_seed_has_no_value(bad):
    data = plots.Curve([0, 10, 20], [[1.0, bad, 3.0], [3.0, 6.0, 5.0]])
    (axes,) = plots.learning_curves({"a": data}, "cost (s)").axes
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, True, False]


def test_a_wide_interval_does_not_squeeze_the_curves():
    data = plots.Curve([10, 20], [[0.2, 0.2], [0.4, 0.2]])  # of two seeds, 0.3 +- 1.3
    (axes,) = plots.learning_curves({"a": data}, "make-span (s)", references={"rule": 0.1}).axes
    low, high = axes.get_ylim()
    assert 0.05 < low < 0.1 and 0.3 < high < 0.35  # nor does the one seed that begins at 0.4
    (axes,) = plots.learning_curves({"a": data}, "make-span (s)", limits=(0, 1)).axes
    assert axes.get_ylim() == (0, 1)
    nothing = plots.Curve([10, 20], [[np.nan, np.nan]])
    assert plots.learning_curves({"a": nothing}, "make-span (s)")


def test_curves_are_told_apart():
    figure = plots.learning_curves({str(i): curve(2) for i in range(24)}, "return")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 24


def test_bars_show_mean_interval_and_numbers():
    figure = plots.comparison_bars(
        {"ours": [1.0, 2.0, 3.0], "theirs": [4.0]}, "time (s)", highlight=["ours"]
    )
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 4.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "theirs"]
    ours, theirs = (bar.get_facecolor() for bar in axes.patches)
    assert ours != theirs
    numbers = {text for text, _ in visible_texts(figure)}
    assert {"2.000 ± 2.484", "4.000"} <= numbers  # 4.303 · 1 / √3
    assert axes.yaxis_inverted()  # the first row is at the top


def test_sweep_shows_means_and_intervals_side_by_side():
    data = {"a": plots.Curve([1, 2], [[1.0, 2.0], [3.0, 6.0]]), "b": plots.Curve([1, 2], [[5, 7]])}
    (axes,) = plots.sweep_curves(data, "deadline (s)", "failed tasks (share)").axes
    a, b = axes.containers
    assert a.lines[0].get_ydata().tolist() == [2.0, 4.0]
    _, half = mean_interval(data["a"].values)
    (whiskers,) = a.lines[2]
    first, second = whiskers.get_segments()
    assert [first[0, 1], first[1, 1]] == pytest.approx([2.0 - half[0], 2.0 + half[0]])
    assert [second[0, 1], second[1, 1]] == pytest.approx([4.0 - half[1], 4.0 + half[1]])
    assert (a.lines[0].get_xdata() < b.lines[0].get_xdata()).all()
    assert np.abs(a.lines[0].get_xdata() - [1, 2]).max() < 0.5  # nearer than the next point
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("deadline (s)", "failed tasks (share)")


def test_whiskers_of_shares_stay_among_them():
    data = {"a": plots.Curve([1, 2], [[0.0, 0.9], [0.1, 1.0]])}
    (axes,) = plots.sweep_curves(data, "x", "share", within=(0.0, 1.0)).axes
    (whiskers,) = axes.containers[0].lines[2]
    ends = np.array(whiskers.get_segments())[:, :, 1]
    assert ends.min() == pytest.approx(0) and ends.max() == pytest.approx(1)
    _, half = mean_interval(np.array([[0.0, 0.9], [0.1, 1.0]]))
    assert ends[0, 1] == pytest.approx(0.05 + half[0])  # the other end is where it was


def test_profiles_show_the_share_of_runs_at_most_there():
    scores = {"a": [[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 9.0]]}
    (axes,) = plots.performance_profiles(scores, "ratio", thresholds=[0.5, 1.0, 3.0, 10.0]).axes
    assert axes.lines[0].get_xdata().tolist() == [0.5, 1.0, 3.0, 10.0]
    assert axes.lines[0].get_ydata().tolist() == [0.0, 0.375, 0.75, 1.0]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() >= 0 and heights.max() <= 1  # an interval of shares stays among them


def test_save_writes_every_format(tmp_path):
    figure = plots.comparison_bars({"a": [1.0, 2.0]}, "time (s)")
    files = plots.save(figure, tmp_path / "new" / "load_0.5", ("png", "svg", "pdf"))
    assert [file.name for file in files] == ["load_0.5.png", "load_0.5.svg", "load_0.5.pdf"]
    starts = [file.read_bytes()[:8] for file in files]
    assert starts[0] == b"\x89PNG\r\n\x1a\n"
    assert starts[1].startswith(b"<?xml")
    assert starts[2].startswith(b"%PDF")
    assert [file.name for file in plots.save(figure, tmp_path / "b.png")] == ["b.png", "b.svg"]


def test_save_is_repeatable(tmp_path):
    def files(name: str) -> list[bytes]:
        figure = FIGURES["curves"]()
        written = plots.save(figure, tmp_path / name, plots.FORMATS)
        return [file.read_bytes() for file in written]

    assert files("one") == files("other")


def test_no_global_state_is_touched(tmp_path):
    def style() -> dict[str, object]:
        # Not the backend, which matplotlib itself looks up at the first use.
        return {
            name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"
        }

    before = style()
    for draw in FIGURES.values():
        plots.save(draw(), tmp_path / "figure")
    assert style() == before
    assert pyplot.get_fignums() == []


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"jaxmec\[plot\]"):
        plots.comparison_bars({"a": [1.0]}, "time (s)")


@pytest.mark.parametrize(
    ("steps", "values", "message"),
    [
        ([], np.zeros((2, 0)), "steps must have the shape"),
        ([[1, 2]], np.zeros((2, 2)), "steps must have the shape"),
        ([2, 1], np.zeros((2, 2)), "steps must grow"),
        ([1, 2], np.zeros(2), r"values must have the shape \[S, 2\]"),
        ([1, 2], np.zeros((3, 4)), r"got \(3, 4\)"),
        ([1, 2], np.zeros((0, 2)), r"got \(0, 2\)"),
    ],
)
def test_curve_is_checked(steps, values, message):
    with pytest.raises(ValueError, match=message):
        plots.Curve(steps, values)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({}, {}, "rows is empty"),
        ({"a": []}, {}, "row 'a'"),
        ({"a": [1.0, np.nan]}, {}, "row 'a'"),
        ({"a": 1.0}, {}, "row 'a'"),
        ({"a": [1.0]}, {"highlight": ["b"]}, r"highlight names \['b'\]"),
    ],
)
def test_bars_are_checked(rows, options, message):
    with pytest.raises(ValueError, match=message):
        plots.comparison_bars(rows, "time (s)", **options)


def test_other_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="curves is empty"):
        plots.learning_curves({}, "return")
    with pytest.raises(ValueError, match="curves is empty"):
        plots.sweep_curves({}, "x", "y")
    with pytest.raises(ValueError, match="scores is empty"):
        plots.performance_profiles({}, "x")
    with pytest.raises(ValueError, match=r"scores of 'a' must have the shape \[S, X\]"):
        plots.performance_profiles({"a": [1.0]}, "x")
    with pytest.raises(ValueError, match="formats has"):
        plots.save(Figure(), tmp_path / "a", ("bmp",))
