"""Painting by denoising: the process and its steps, in NumPy.

An image in [-1, 1] runs into noise along a quarter of a circle, x_t = cos(πt/2) x + sin(πt/2) ε,
and a network is asked for its velocity v = cos(πt/2) ε - sin(πt/2) x (Salimans and Ho 2022,
arXiv:2202.00512). From both follow the image and the noise, and the steps back are those of DDIM
(Song et al. 2021, arXiv:2010.02502), as many as one likes. Known pixels are imposed in each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from jaxmec_testbed.painter import AfterStep

CHANNELS = 3
SEEN = 2 * CHANNELS + 1  # channels of what a network is shown
Denoise = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # seen [n, ., ., 7], time [n] -> [n, ., ., 3]


def side_of(row: int) -> int:
    """Pixels a side of the images of a network that is shown rows so long, the time included."""
    return math.isqrt((row - 1) // SEEN)


def to_signed(image: np.ndarray) -> np.ndarray:
    """uint8 as float32 in [-1, 1]."""
    return np.asarray(image / np.float32(127.5) - 1, np.float32)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[-1, 1], or beyond, as uint8."""
    return ((np.clip(image, -1, 1) + 1) * 127.5).round().astype(np.uint8)


def seen(noisy: np.ndarray, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the network is shown, [..., H, W, 7]: noisy where masked, the rest, and the mask."""
    hidden = mask[..., None].astype(np.float32)
    return np.concatenate([noisy * hidden, image * (1 - hidden), hidden], axis=-1)


def paint(
    denoise: Denoise,
    image: np.ndarray,
    mask: np.ndarray,
    noise: np.ndarray,
    steps: int,
    after_step: AfterStep | None = None,
) -> np.ndarray:
    """The masked part of images, denoised from ``noise``.

    Args:
        denoise: the network, on a batch.
        image: [n, H, W, 3] in [-1, 1].
        mask: [n, H, W] bool, True where to paint.
        noise: [n, H, W, 3] standard normal.
        steps: of DDIM, evenly spaced in time.
        after_step: as `painter.Loaded.paint` has it.

    Returns:
        [n, H, W, 3] in [-1, 1].
    """
    image, noisy = np.where(mask[..., None], 0, image).astype(np.float32), noise
    times = np.linspace(1, 0, steps + 1, dtype=np.float32)
    for step, (now, then) in enumerate(itertools.pairwise(times)):
        velocity = denoise(seen(noisy, image, mask), np.full(len(image), now))
        angle = np.pi / 2 * now
        clean = np.clip(np.cos(angle) * noisy - np.sin(angle) * velocity, -1, 1)
        # The noise that fits the clipped image, unless all is noise and nothing can be told.
        rest = (noisy - np.cos(angle) * clean) / np.sin(angle)
        angle = np.pi / 2 * then
        noisy = np.asarray(np.cos(angle) * clean + np.sin(angle) * rest, np.float32)
        if after_step is not None:
            after_step(step + 1)
    return np.where(mask[..., None], np.clip(noisy, -1, 1), image)
