"""Whether a figure can be read: no text lies on another, and none is clipped."""

import itertools

import matplotlib
import matplotlib.text
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def visible_texts(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every drawn text with its box (x0, y0, x1, y1) in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for text in figure.findobj(matplotlib.text.Text):
        box = text.get_window_extent(renderer)
        if text.get_visible() and text.get_text().strip() and is_shown(text, figure):
            found.append((text.get_text(), box.extents))
    return found


def is_shown(text: matplotlib.text.Text, figure: Figure) -> bool:
    """A tick beyond the axis' limits keeps its label, which is not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if text in (tick.label1, tick.label2):
                    return low <= tick.get_loc() <= high
    return True


def assert_legible(figure: Figure) -> None:
    width, height = figure.get_size_inches() * figure.dpi
    texts = visible_texts(figure)
    for text, (x0, y0, x1, y1) in texts:
        inside = x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
        assert inside, f"{text!r} is clipped"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} lies on {other!r}"
