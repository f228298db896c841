"""How well the prototype's application paints, by variant, steps and share masked.

python benchmarks/inpainting.py     # about four minutes

On robots that no network was trained on (jaxmec_testbed/weights/examples.npz): PSNR and SSIM inside
the mask, how far small patches are in distribution from true ones, seconds of a step, memory. A
figure is written beside the page that has the table.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from measuring import RESULTS, begin, write
from rich.console import Console
from rich.table import Table

from jaxmec import plots
from jaxmec_testbed import robots
from jaxmec_testbed.onnx_painter import OnnxPainter
from jaxmec_testbed.painter import ONE_PASS, VARIANTS, Loaded

FIGURE = Path(__file__).parents[1] / "docs" / "results" / "inpainting"
SHOWN_STEPS = (1, 4, 10, 20)
PATCH = 5  # pixels a side, of those whose distribution is compared
DIRECTIONS = 256


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    images: int
    steps: tuple[int, ...]
    shares: tuple[float, ...]  # of the pixels, in one rectangle
    repetitions: int  # of each timing


SIZES = {
    "tiny": Size(images=4, steps=(1, 2), shares=(0.25,), repetitions=1),
    "small": Size(images=32, steps=(1, 2, 4, 10, 20), shares=(0.1, 0.25, 0.5), repetitions=20),
}


def rectangles(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """[n, 32, 32] bool: a rectangle of that share of the pixels, as far as whole pixels allow."""
    masks = np.zeros((count, robots.SIDE, robots.SIDE), bool)
    area = share * robots.SIDE**2
    for mask in masks:
        height = round(np.sqrt(area) * rng.uniform(0.8, 1.25))
        width = round(area / height)
        down, right = (rng.integers(0, robots.SIDE - side + 1) for side in (height, width))
        mask[down : down + height, right : right + width] = True
    return masks


def painted(loaded: Loaded, images: np.ndarray, masks: np.ndarray, steps: int) -> np.ndarray:
    """One version of each image [n, 32, 32, 3], each with a seed of its own."""
    pairs = enumerate(zip(images, masks, strict=True))
    return np.stack([loaded.paint(image, mask, 1, steps, i)[0] for i, (image, mask) in pairs])


def scores(truth: np.ndarray, found: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM inside the mask, means over images, and the distance of patches."""
    from skimage.metrics import structural_similarity

    peaks, similar = [], []
    for image, other, mask in zip(truth, found, masks, strict=True):
        error = np.mean((image[mask].astype(float) - other[mask]) ** 2)
        peaks.append(10 * np.log10(255**2 / max(error, 1e-2)))
        _, of_pixels = structural_similarity(
            image, other, data_range=255, channel_axis=-1, full=True
        )
        similar.append(of_pixels[mask].mean())
    return {
        "psnr": float(np.mean(peaks)),
        "ssim": float(np.mean(similar)),
        "patches": sliced_distance(patches(truth, masks), patches(found, masks)),
    }


def patches(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """[m, 5 · 5 · 3] the patches, in [0, 1], that lie inside the image with a masked middle."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
    edge = PATCH // 2
    inside = masks[:, edge:-edge, edge:-edge]
    return np.asarray(windows[inside].reshape(-1, PATCH * PATCH * images.shape[-1]) / 255.0)


def sliced_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced Wasserstein distance of as many points each, over fixed random directions.

    Sorted along a direction, two samples of one distribution agree: what is blurred or
    misplaced everywhere is far, another robot that could be one is near.
    """
    directions = np.random.default_rng(0).normal(size=(a.shape[1], DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    along = [np.sort(points @ directions, axis=0) for points in (a, b)]
    return float(np.abs(along[0] - along[1]).mean())


def quality(size: Size) -> list[dict[str, Any]]:
    """A row for each variant, number of steps and share."""
    images = robots.examples()[0][: size.images]
    painter, rows = OnnxPainter(), []
    for variant in VARIANTS:
        loaded = painter.load(variant)
        for share in size.shares:
            masks = rectangles(np.random.default_rng(round(100 * share)), len(images), share)
            for steps in (1,) if variant == ONE_PASS else size.steps:
                found = scores(images, painted(loaded, images, masks, steps), masks)
                rows.append({"variant": variant, "share": share, "steps": steps, **found})
    return rows


def seconds(size: Size) -> list[dict[str, Any]]:
    """Median seconds of a step on one thread, for one image and for four."""
    (image, *_), (mask, *_) = robots.examples()
    rows = []
    for variant in VARIANTS:
        loaded = OnnxPainter().load(variant)
        for images in (1, 4):
            taken: list[float] = []
            loaded.paint(image, mask, images, 1, 0)
            for seed in range(size.repetitions):
                start = time.perf_counter()
                loaded.paint(image, mask, images, 1, seed)
                taken.append(time.perf_counter() - start)
            rows.append({"variant": variant, "images": images, "seconds": statistics.median(taken)})
    return rows


def memory() -> dict[str, float]:
    """GB that a process grows by when it loads a variant and paints four images."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {variant: pool.apply(growth, (variant,)) for variant in VARIANTS}


def growth(variant: str) -> float:
    """In a process of its own, which has the libraries already."""
    import onnxruntime  # noqa: F401
    import skimage.restoration  # noqa: F401

    (image, *_), (mask, *_) = robots.examples()
    before = resident()
    loaded = OnnxPainter().load(variant)
    loaded.paint(image, mask, 4, 2, 0)
    return resident() - before


def resident() -> float:
    """GB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def draw(count: int) -> Any:
    """Rows of images: masked, painted by each variant in more and more steps, and the original."""
    from matplotlib.figure import Figure

    images, masks = (array[:count] for array in robots.examples())
    columns = {"masked": np.where(masks[..., None], np.uint8(128), images)}
    columns[ONE_PASS] = painted(OnnxPainter().load(ONE_PASS), images, masks, 1)
    for variant in VARIANTS[1:]:
        loaded = OnnxPainter().load(variant)
        for steps in SHOWN_STEPS:
            columns[f"{variant}, {steps}"] = painted(loaded, images, masks, steps)
    columns["original"] = images
    figure = Figure(figsize=(0.72 * len(columns), 0.72 * count + 0.3))
    axes = figure.subplots(count, len(columns), squeeze=False)
    for across, (name, column) in enumerate(columns.items()):
        axes[0][across].set_title(name, fontsize=8)
        for down, image in enumerate(column):
            axes[down][across].imshow(image)
            axes[down][across].axis("off")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - 0.3 / figure.get_figheight(),
                           wspace=0.05, hspace=0.05)  # fmt: skip
    return figure


def table(rows: list[dict[str, Any]], shares: tuple[float, ...]) -> Table:
    """Quality by variant and steps, a group of columns for each share."""
    found = Table(title="inside the mask: PSNR in dB / SSIM / distance of patches x 1000")
    for header in ("variant", "steps", *(f"{share:.0%} masked" for share in shares)):
        found.add_column(header, justify="right")
    for variant, steps in dict.fromkeys((row["variant"], row["steps"]) for row in rows):
        cells = [
            f"{row['psnr']:.1f} / {row['ssim']:.2f} / {1000 * row['patches']:.0f}"
            for row in rows
            if (row["variant"], row["steps"]) == (variant, steps)
        ]
        found.add_row(variant, str(steps), *cells)
    return found


def main(
    size: Literal["tiny", "small"] = "small",
    output: Path = RESULTS / "inpainting.json",
    figure: Path = FIGURE,
) -> None:
    """Measure, print, draw."""
    chosen, console = SIZES[size], Console()
    report = begin(size, dataclasses.asdict(chosen))
    rows, taken, grows = quality(chosen), seconds(chosen), memory()
    console.print(table(rows, chosen.shares))
    for row in taken:
        console.print(
            f"{row['variant']}, images {row['images']}: {1000 * row['seconds']:.1f} ms a step"
        )
    console.print(", ".join(f"{variant} {1000 * grow:.0f} MB" for variant, grow in grows.items()))
    write({**report, "quality": rows, "seconds": taken, "memory": grows}, output)
    plots.save(draw(12 if size == "small" else 2), figure, formats=("png",))


if __name__ == "__main__":
    tyro.cli(main)
