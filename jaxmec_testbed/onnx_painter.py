"""The application itself: images of 32 x 32 painted by ONNX Runtime, without JAX.

XS fills a hole as smoothly as it can, in one pass (scikit-image's biharmonic equation); S, M and
L denoise, each with a larger network, and take as many steps as they are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxmec.deploy.onnx import session
from jaxmec_testbed import diffusion, painter
from jaxmec_testbed.painter import AfterStep, Image, Loaded, Mask

WEIGHTS = Path(__file__).parent / "weights"
INDEX = "index.json"
PORTS = ("seen", "velocity")
# GB, about what a process grows by when it loads a variant and paints four images: weights in
# single precision, and activations.
SIZES = {"XS": 0.002, "S": 0.003, "M": 0.005, "L": 0.010}


class OnnxPainter:
    """Paints with the weights in a folder."""

    variants: tuple[str, ...] = painter.VARIANTS

    def __init__(self, weights: Path = WEIGHTS, *, threads: int = 1) -> None:
        """Args:
        weights: the folder, as `train/inpainting.py` writes it.
        threads: of ONNX Runtime for one step.
        """
        self._weights, self._threads = weights, threads

    def size(self, variant: str) -> float:
        """The memory that a loaded variant takes, in GB."""
        painter.known(variant, self.variants)
        return SIZES[variant]

    def load(self, variant: str) -> Loaded:
        """The variant, in memory.

        Raises:
            ValueError: there is no such variant, or its weights are not those that the index
                names.
            OSError: they are not there.
            ImportError: ONNX Runtime, or for XS scikit-image, is not installed.
        """
        painter.known(variant, self.variants)
        if variant == painter.ONE_PASS:
            return _Smooth()
        model = read(self._weights, variant)
        return _Denoising(session(model, self._threads, ports=PORTS, reuse_memory=True))


def read(folder: Path, variant: str) -> bytes:
    """The graph of a variant, if it is the one that the index has the digest of.

    Raises:
        ValueError: it is another one; the message names the file.
        OSError: graph or index are not there.
    """
    entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if variant not in entries:
        raise ValueError(f"{folder / INDEX} has no {variant}: train/inpainting.py writes it")
    path = folder / f"{variant}.onnx"
    model = path.read_bytes()
    digest, expected = hashlib.sha256(model).hexdigest(), entries[variant]["sha256"]
    if digest != expected:
        raise ValueError(f"damaged weights: {path} has the digest {digest}, expected {expected}")
    return model


class _Denoising:
    """A network in a session of ONNX Runtime."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._side = diffusion.side_of(network.get_inputs()[0].shape[1])

    def paint(
        self,
        image: Image,
        mask: Mask,
        images: int,
        steps: int,
        seed: int,
        after_step: AfterStep | None = None,
    ) -> np.ndarray:
        """As `painter.Loaded` has it, for images as large as those that were trained on."""
        painter.check(image, mask, images, steps, seed)
        if image.shape[:2] != (self._side, self._side):
            raise ValueError(
                f"image must be of {self._side} x {self._side} pixels for this network, "
                f"got {image.shape[0]} x {image.shape[1]}"
            )
        shape = (images, *image.shape)
        noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        known = np.broadcast_to(diffusion.to_signed(image), shape)
        painted = diffusion.paint(
            self._denoise, known, np.broadcast_to(mask, shape[:3]), noise, steps, after_step
        )
        return np.where(mask[..., None], diffusion.to_bytes(painted), image)

    def _denoise(self, seen: np.ndarray, time: np.ndarray) -> np.ndarray:
        rows = np.concatenate([seen.reshape(len(seen), -1), time[:, None]], axis=1)
        velocity: np.ndarray = self._network.run([PORTS[1]], {PORTS[0]: rows})[0]
        return velocity.reshape(*seen.shape[:3], diffusion.CHANNELS)


class _Smooth:
    """The smoothest image that agrees with the known pixels."""

    def __init__(self) -> None:
        self._fill: Callable[..., np.ndarray] = _biharmonic()

    def paint(
        self,
        image: Image,
        mask: Mask,
        images: int,
        steps: int,
        seed: int,
        after_step: AfterStep | None = None,
    ) -> np.ndarray:
        """As `painter.Loaded` has it, in one pass and all images alike."""
        painter.check(image, mask, images, steps, seed)
        painted = image
        if mask.all():  # nothing to go by
            painted = np.full_like(image, 128)
        elif mask.any():
            hidden = mask[..., None]
            filled = self._fill(np.where(hidden, 0, image) / 255.0, mask, channel_axis=-1)
            painted = np.where(hidden, np.clip(filled * 255, 0, 255).round(), image)
        if after_step is not None:
            after_step(1)
        return np.repeat(painted[None].astype(np.uint8), images, axis=0)


def _biharmonic() -> Callable[..., np.ndarray]:
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError as error:
        raise ImportError(
            f"the variant XS needs scikit-image ({error}): pip install 'jaxmec[testbed]'"
        ) from error
    fill: Callable[..., np.ndarray] = inpaint_biharmonic
    return fill
