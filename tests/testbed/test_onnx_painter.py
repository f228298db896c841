"""The graphs compute what JAX does, and paint."""

import json

import jax
import numpy as np
import pytest

from jaxmec_testbed import export, network, robots
from jaxmec_testbed.onnx_painter import INDEX, WEIGHTS, OnnxPainter
from jaxmec_testbed.painter import Painter

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 32, 3), np.uint8)
MASK = np.zeros((32, 32), bool)
MASK[8:20, 10:25] = True


def weights_of(variant):
    """Weights away from where they start, as half precision has them."""
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda array: np.float32(np.float16(array + rng.normal(0, 0.05, array.shape))),
        network.init(variant, jax.random.key(0)),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    export.write(folder, "S", weights_of("S"), {"updates": 7})
    return folder


@pytest.mark.parametrize("variant", ["S", "M", "L"])
def test_onnx_runtime_agrees_with_jax(variant, tmp_path):
    weights = weights_of(variant)
    export.write(tmp_path, variant, weights, {})
    seen = RNG.normal(size=(3, 32, 32, 7)).astype(np.float32)
    time = np.array([0, 0.4, 1], np.float32)
    wanted = jax.vmap(lambda one, t: network.velocity(variant, weights, one, t))(seen, time)
    got = OnnxPainter(tmp_path).load(variant)._denoise(seen, time)
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_it_paints_step_by_step(folder):
    painter = OnnxPainter(folder)
    assert isinstance(painter, Painter)
    counted = []
    loaded = painter.load("S")
    painted = loaded.paint(IMAGE, MASK, 3, 5, 1, counted.append)
    assert painted.shape == (3, 32, 32, 3) and painted.dtype == np.uint8
    assert counted == [1, 2, 3, 4, 5]
    assert all(np.array_equal(one[~MASK], IMAGE[~MASK]) for one in painted)
    assert (painted[0] != painted[1]).any()
    np.testing.assert_array_equal(painted, loaded.paint(IMAGE, MASK, 3, 5, 1))
    covered = np.where(MASK[..., None], 0, IMAGE).astype(np.uint8)
    np.testing.assert_array_equal(painted, loaded.paint(covered, MASK, 3, 5, 1))
    assert (painted != loaded.paint(IMAGE, MASK, 3, 5, 2)).any()


def test_an_image_of_another_size_is_refused(folder):
    with pytest.raises(ValueError, match=r"image must be of 32 x 32 pixels .* got 40 x 32"):
        OnnxPainter(folder).load("S").paint(
            np.zeros((40, 32, 3), np.uint8), np.ones((40, 32), bool), 1, 1, 0
        )


def test_other_weights_than_the_index_names_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert json.loads((tmp_path / "index.json").read_text())["S"]["updates"] == 7
    with pytest.raises(ValueError, match=r"index.json has no M"):
        OnnxPainter(tmp_path).load("M")
    (tmp_path / "S.onnx").write_bytes((tmp_path / "S.onnx").read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"damaged weights: .*S.onnx has the digest"):
        OnnxPainter(tmp_path).load("S")


def test_one_pass_fills_a_hole_smoothly(folder):
    pytest.importorskip("skimage", reason="scikit-image comes with jaxmec[testbed]")
    loaded = OnnxPainter(folder).load("XS")
    down, right = np.mgrid[:32, :32]
    slope = np.stack([60 + 3 * down, 200 - 2 * right, 20 + down + 4 * right], -1).astype(np.uint8)
    covered = np.where(MASK[..., None], 0, slope).astype(np.uint8)
    counted = []
    painted = loaded.paint(covered, MASK, 2, 20, 0, counted.append)
    assert counted == [1] and painted.dtype == np.uint8
    # A plane solves the biharmonic equation.
    np.testing.assert_allclose(painted.astype(int), np.broadcast_to(slope, painted.shape), atol=1)
    nothing_masked = loaded.paint(IMAGE, np.zeros_like(MASK), 1, 1, 0)
    np.testing.assert_array_equal(nothing_masked, IMAGE[None])
    assert (loaded.paint(IMAGE, np.ones_like(MASK), 1, 1, 0) == 128).all()


SHIPPED = list(json.loads((WEIGHTS / INDEX).read_text()))


def test_what_is_shipped_is_small_and_attributed():
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*.onnx")) < 5e6
    notice = (WEIGHTS / "NOTICE").read_text()
    assert "Zikri Kader" in notice and "CC-BY" in notice


@pytest.mark.parametrize("variant", SHIPPED)
def test_shipped_weights_paint_robots_they_never_saw(variant):
    """In ten steps far nearer to the original than the mean colour of what is known is."""
    images, masks = (array[:48] for array in robots.examples())
    loaded = OnnxPainter().load(variant)
    errors, of_mean = [], []
    for image, mask in zip(images, masks, strict=True):
        (painted,) = loaded.paint(image, mask, 1, 10, 0)
        errors.append(np.mean((painted[mask] - image[mask].astype(float)) ** 2))
        of_mean.append(np.mean((image[~mask].mean(axis=0) - image[mask]) ** 2))
    assert np.mean(errors) < 0.45 * np.mean(of_mean)
