"""What paints the missing part of an image: the interface between a node and its application.

A node knows a :class:`Painter` by its variants, asks how much memory each needs, loads one and
has images painted, step by step. NumPy alone is needed here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from jaxmec.core import checks

Image = np.ndarray  # [H, W, 3] uint8
Mask = np.ndarray  # [H, W] bool, True: to be painted
AfterStep = Callable[[int], None]

ONE_PASS = "XS"  # the variant without denoising steps
VARIANTS = (ONE_PASS, "S", "M", "L")  # from the quickest to the best
MAX_IMAGES = 64  # of one request
MAX_STEPS = 1000


@runtime_checkable
class Loaded(Protocol):
    """One variant in memory, ready to paint."""

    def paint(
        self,
        image: Image,
        mask: Mask,
        images: int,
        steps: int,
        seed: int,
        after_step: AfterStep | None = None,
    ) -> np.ndarray:
        """Several versions of an image whose masked part is painted anew.

        Args:
            image: [H, W, 3] uint8; what lies under the mask is not looked at.
            mask: [H, W] bool, True where to paint.
            images: I, how many versions, at least 1.
            steps: of denoising, at least 1; a variant of one pass makes one, whatever is asked.
            seed: the same seed gives the same images.
            after_step: called after each denoising step of all images with the number of steps
                done, from 1 on, so that a node can pace itself. What it raises ends the painting.

        Returns:
            [I, H, W, 3] uint8; pixels outside the mask are those of ``image``.

        Raises:
            ValueError: an argument of the wrong type, shape or range; the message names it.
        """
        ...


@runtime_checkable
class Painter(Protocol):
    """An application: its variants, from the quickest to the best."""

    @property
    def variants(self) -> tuple[str, ...]:
        """From the quickest to the best."""
        ...

    def size(self, variant: str) -> float:
        """The memory that a loaded variant takes, in GB."""
        ...

    def load(self, variant: str) -> Loaded:
        """The variant, in memory.

        Raises:
            ValueError: there is no such variant; the message names those that there are.
        """
        ...


def check(image: Image, mask: Mask, images: int, steps: int, seed: int) -> None:
    """Raise a ``ValueError`` that names what of a request cannot be painted."""
    for name, value, dtype, shape in (
        ("image", image, np.uint8, "[H, W, 3]"),
        ("mask", mask, np.bool_, "[H, W]"),
    ):
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            found = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"{name} must be an array of {np.dtype(dtype)}, got {found}")
        if value.ndim != shape.count(",") + 1 or not value.size:
            raise ValueError(f"{name} must have the shape {shape}, got {list(value.shape)}")
    if image.shape[2] != 3:
        raise ValueError(f"image must have the shape [H, W, 3], got {list(image.shape)}")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask must be as large as the image, {list(image.shape[:2])}, got {list(mask.shape)}"
        )
    checks.require("images", images, checks.whole(1, most=MAX_IMAGES))
    checks.require("steps", steps, checks.whole(1, most=MAX_STEPS))
    checks.require("seed", seed, checks.whole(0))


def known(variant: str, variants: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` unless the variant is one of these."""
    checks.require("variant", variant, checks.one_of(variants))


@dataclasses.dataclass(frozen=True)
class TinyPainter:
    """A painter of random weights, for tests of what stands around one: any size of image."""

    variants: tuple[str, ...] = VARIANTS

    def size(self, variant: str) -> float:
        known(variant, self.variants)
        return 0.01 * 2 ** self.variants.index(variant)

    def load(self, variant: str) -> Loaded:
        known(variant, self.variants)
        place = self.variants.index(variant)
        return _Tiny(8 * 2**place, place, one_pass=variant == ONE_PASS)


class _Tiny:
    """Pixels pulled from noise, step by step, towards what a random network makes of them."""

    def __init__(self, width: int, seed: int, *, one_pass: bool) -> None:
        rng = np.random.default_rng(seed)
        self._inner = rng.normal(size=(9, width)).astype(np.float32)
        self._outer = rng.normal(size=(width, 3)).astype(np.float32) / np.sqrt(width)
        self._one_pass = one_pass

    def paint(
        self,
        image: Image,
        mask: Mask,
        images: int,
        steps: int,
        seed: int,
        after_step: AfterStep | None = None,
    ) -> np.ndarray:
        check(image, mask, images, steps, seed)
        if self._one_pass:
            steps = 1
        shape = (images, *image.shape)
        hidden = mask[..., None]
        known_part = np.where(hidden, 0, image / np.float32(127.5) - 1)
        places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in mask.shape), indexing="ij"))
        seen = np.concatenate([known_part, hidden, np.moveaxis(places, 0, -1)], axis=-1)
        seen = np.broadcast_to(seen, (*shape[:3], 6)).astype(np.float32)
        pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        for step in range(steps):
            aim = np.tanh(np.concatenate([seen, pixels], axis=-1) @ self._inner) @ self._outer
            pixels = np.where(hidden, pixels + (aim - pixels) / (steps - step), known_part)
            if after_step is not None:
                after_step(step + 1)
        painted = (np.clip(pixels, -1, 1) + 1) * 127.5
        return np.where(hidden, painted.round(), image).astype(np.uint8)
