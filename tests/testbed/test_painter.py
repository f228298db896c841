"""What every painter keeps to, tried on the one of random weights."""

import numpy as np
import pytest

from jaxmec_testbed import painter
from jaxmec_testbed.painter import Loaded, Painter, TinyPainter

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 20, 3), np.uint8)
MASK = np.zeros((12, 20), bool)
MASK[3:9, 4:15] = True


def test_the_tiny_painter_is_a_painter():
    tiny = TinyPainter()
    assert isinstance(tiny, Painter)
    sizes = [tiny.size(variant) for variant in tiny.variants]
    assert sizes == sorted(sizes) and sizes[0] > 0
    assert isinstance(tiny.load("S"), Loaded)


@pytest.mark.parametrize("variant", painter.VARIANTS)
def test_only_what_is_masked_is_painted_and_the_seed_says_how(variant):
    loaded = TinyPainter().load(variant)
    painted = loaded.paint(IMAGE, MASK, 3, 4, 5)
    assert painted.shape == (3, *IMAGE.shape) and painted.dtype == np.uint8
    np.testing.assert_array_equal(
        painted[:, ~MASK], np.broadcast_to(IMAGE, painted.shape)[:, ~MASK]
    )
    np.testing.assert_array_equal(painted, loaded.paint(IMAGE, MASK, 3, 4, 5))
    other = IMAGE.copy()
    other[MASK] = 0  # what is to be painted is not looked at
    np.testing.assert_array_equal(painted[:, MASK], loaded.paint(other, MASK, 3, 4, 5)[:, MASK])
    assert (painted != loaded.paint(IMAGE, MASK, 3, 4, 6)).any()


def test_each_step_is_told_and_may_end_the_painting():
    seen = []
    TinyPainter().load("M").paint(IMAGE, MASK, 2, 5, 0, seen.append)
    assert seen == [1, 2, 3, 4, 5]
    TinyPainter().load("XS").paint(IMAGE, MASK, 2, 5, 0, seen.append)
    assert seen[5:] == [1]

    def stop(step):
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"):
        TinyPainter().load("M").paint(IMAGE, MASK, 2, 5, 0, stop)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": IMAGE.astype(np.float32)}, "image must be an array of uint8, got float32"),
        ({"image": IMAGE.tolist()}, "image must be an array of uint8, got list"),
        ({"image": IMAGE[..., 0]}, r"image must have the shape \[H, W, 3\], got \[12, 20\]"),
        ({"image": IMAGE[..., :2]}, r"image must have the shape \[H, W, 3\], got \[12, 20, 2\]"),
        ({"mask": MASK.astype(np.uint8)}, "mask must be an array of bool, got uint8"),
        ({"mask": MASK[:5]}, r"mask must be as large as the image, \[12, 20\], got \[5, 20\]"),
        ({"images": 0}, "images must be a whole number of 1 to 64, got 0"),
        ({"steps": 1.5}, r"steps must be a whole number of 1 to 1000, got 1.5"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_what_cannot_be_painted_is_named(changed, message):
    given = {"image": IMAGE, "mask": MASK, "images": 1, "steps": 1, "seed": 0, **changed}
    with pytest.raises(ValueError, match=message):
        TinyPainter().load("S").paint(**given)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="variant must be one of XS, S, M, L, got 'XL'"):
        TinyPainter().load("XL")
