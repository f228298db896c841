"""Images to paint in: robots put together from the parts of RoboHash, and masks over them.

The parts are those of set 1 of the package ``robohash``, drawn by Zikri Kader and given under
CC-BY (jaxmec_testbed/weights/NOTICE): ten colours of ten bodies, faces, mouths, eyes and
accessories each, a million robots. A twentieth of them, chosen by a hash of the combination,
is never trained on.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import numpy as np

SIDE = 32  # pixels, of an image
KINDS = ("Body", "Face", "Accessory", "Eyes", "Mouth")  # in the order in which they are laid on
CHOICES = 10  # of each kind, and of colours
EXAMPLES = Path(__file__).parent / "weights" / "examples.npz"
HELD_OUT = 20  # one robot in so many is for validation

# Behind a robot: two of these, one running into the other from top to bottom.
BACKGROUNDS = np.array(
    [
        (246, 240, 226), (222, 236, 245), (228, 244, 230), (250, 224, 214), (236, 226, 244),
        (188, 208, 228), (244, 214, 150), (120, 134, 160), (70, 78, 104), (206, 206, 206),
    ],
    np.float32,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Robots:
    """The parts, small enough to put together thousands of robots a second."""

    parts: np.ndarray  # [10 colours, 5 kinds, 10, 32, 32, 4] float32 in [0, 1], colour times alpha

    def combinations(self, rng: np.random.Generator, count: int, *, held_out: bool) -> np.ndarray:
        """[count, 6] a colour and a part of each kind: robots of one side of the split."""
        found = np.empty((0, 1 + len(KINDS)), np.int64)
        while len(found) < count:
            drawn = rng.integers(0, CHOICES, (count + count * HELD_OUT * held_out, found.shape[1]))
            found = np.concatenate([found, drawn[is_held_out(drawn) == held_out]])
        return found[:count]

    def compose(self, rng: np.random.Generator, combinations: np.ndarray) -> np.ndarray:
        """[n, 32, 32, 3] uint8: the robots, each before a background that is drawn."""
        ends = BACKGROUNDS[rng.integers(0, len(BACKGROUNDS), (len(combinations), 2))] / 255
        down = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None]
        column = ends[:, None, 0] * (1 - down) + ends[:, None, 1] * down  # [n, 32, 3]
        images = np.repeat(column[:, :, None], SIDE, axis=2)
        for kind in range(len(KINDS)):
            part = self.parts[combinations[:, 0], kind, combinations[:, 1 + kind]]
            images = part[..., :3] + (1 - part[..., 3:]) * images
        return (images * 255).round().astype(np.uint8)

    def draw(
        self, rng: np.random.Generator, count: int, *, held_out: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images [n, 32, 32, 3] uint8 and masks [n, 32, 32] bool: rectangles, strokes, parts."""
        combinations = self.combinations(rng, count, held_out=held_out)
        images = self.compose(rng, combinations)
        kind = rng.integers(0, len(KINDS), count)
        alpha = self.parts[
            combinations[:, 0], kind, combinations[np.arange(count), 1 + kind], ..., 3
        ]
        of_parts = grown(alpha > 0.1)
        masks = np.stack([rectangles(rng, count), strokes(rng, count), of_parts])
        masks = masks[rng.integers(0, len(masks), count), np.arange(count)]
        empty = ~masks.any(axis=(1, 2))  # a part that there is none of
        masks[empty] = rectangles(rng, int(empty.sum()))
        return images, masks


def examples(file: Path = EXAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Robots that no network was trained on, to try the painter with: what `Robots.draw` gives."""
    with np.load(file) as arrays:
        return arrays["images"], arrays["masks"]


def load(folder: Path | None = None) -> Robots:
    """The parts of RoboHash, made small with Pillow.

    Args:
        folder: with a folder for each colour, in it one of each kind, named as RoboHash does;
            None for those of the installed package.

    Raises:
        ImportError: robohash or Pillow is not installed.
        ValueError: the folder does not have what is expected; the message says what.
    """
    from PIL import Image

    if folder is None:
        package = importlib.util.find_spec("robohash")
        if package is None or package.origin is None:
            raise ImportError(
                "the robots' parts are in the package robohash: pip install 'jaxmec[testbed-train]'"
            )
        folder = Path(package.origin).parent / "sets" / "set1"
    parts = np.empty((CHOICES, len(KINDS), CHOICES, SIDE, SIDE, 4), np.float32)
    colours = sorted(place for place in folder.iterdir() if place.is_dir())
    if len(colours) != CHOICES:
        raise ValueError(f"{folder}: expected {CHOICES} colours, found {len(colours)}")
    for i, colour in enumerate(colours):
        for j, kind in enumerate(KINDS):
            files = sorted(colour.glob(f"*#*{kind}/*.png"), key=_number)
            if len(files) != CHOICES:
                raise ValueError(f"{colour}: expected {CHOICES} of {kind}, found {len(files)}")
            for k, file in enumerate(files):
                with Image.open(file) as image:
                    # Pillow resizes colour times alpha, and divides again; so the edges stay clean.
                    small = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)
                part = np.asarray(small, np.float32) / 255
                parts[i, j, k] = np.concatenate([part[..., :3] * part[..., 3:], part[..., 3:]], -1)
    return Robots(parts)


def _number(file: Path) -> int:
    found = re.search(r"(\d+)(?=\.png$)", file.name)
    if found is None:
        raise ValueError(f"{file}: expected a number at the end of its name")
    return int(found[0])


def is_held_out(combinations: np.ndarray) -> np.ndarray:
    """[n] bool: which robots are for validation, by a hash (splitmix64) of the combination."""
    place = (combinations @ (CHOICES ** np.arange(combinations.shape[1]))).astype(np.uint64)
    place += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        place = (place ^ (place >> np.uint64(shift))) * np.uint64(factor)
    place ^= place >> np.uint64(31)
    return np.asarray(place % np.uint64(HELD_OUT) == 0)


def rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    """[n, 32, 32] bool: rectangles of 8 to 24 pixels a side."""
    sides = rng.integers(8, 25, (count, 2))
    corners = (rng.random((count, 2)) * (SIDE - sides + 1)).astype(int)
    along = np.arange(SIDE)
    inside = (along >= corners[..., None]) & (along < (corners + sides)[..., None])  # [n, 2, 32]
    return np.asarray(inside[:, 0, :, None] & inside[:, 1, None, :])


def strokes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[n, 32, 32] bool: the path of a round brush that turns as it goes."""
    steps, pace = 24, 2.0
    turns = rng.normal(0, 0.6, (count, steps)).cumsum(axis=1) + rng.uniform(0, 7, (count, 1))
    moves = pace * np.stack([np.sin(turns), np.cos(turns)], axis=-1)
    path = rng.uniform(4, SIDE - 4, (count, 1, 2)) + moves.cumsum(axis=1)
    path = np.abs(path)  # turned back at the edges
    path = SIDE - 1 - np.abs(SIDE - 1 - path)
    radius = rng.uniform(1.5, 4.0, (count, 1, 1))
    length = rng.integers(6, steps + 1, count)
    masks = np.zeros((count, SIDE, SIDE), bool)
    along = np.arange(SIDE)
    for step in range(steps):
        down, right = path[:, step, :1, None], path[:, step, 1:, None]
        near = (along[:, None] - down) ** 2 + (along - right) ** 2 < radius**2
        masks |= near & (step < length)[:, None, None]
    return masks


def grown(masks: np.ndarray) -> np.ndarray:
    """[n, 32, 32] bool: masks one pixel larger on every side, the diagonals too."""
    for axis in (1, 2):
        longer = np.pad(masks, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        before, after = (np.take(longer, range(i, i + SIDE), axis=axis) for i in (0, 2))
        masks = masks | before | after
    return masks
