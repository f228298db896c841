"""Denoising step by step, against data whose best denoiser is known."""

import numpy as np
import pytest

from jaxmec_testbed import diffusion

RNG = np.random.default_rng(0)
N = 500
IMAGE = RNG.uniform(-0.5, 0.5, (N, 8, 8, 3)).astype(np.float32)
MASK = RNG.random((N, 8, 8)) < 0.5
NOISE = RNG.normal(size=IMAGE.shape).astype(np.float32)


def circle(time):
    angle = np.pi / 2 * time[:, None, None, None]
    return np.cos(angle), np.sin(angle)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_who_knows_the_image_paints_it(steps):
    def perfect(seen, time):
        cosine, sine = circle(time)
        noise = (seen[..., :3] - cosine * IMAGE) / sine
        return cosine * noise - sine * IMAGE

    painted = diffusion.paint(perfect, IMAGE, MASK, NOISE, steps)
    np.testing.assert_allclose(painted, IMAGE, atol=2e-5)


def test_many_steps_give_the_distribution_and_one_its_mean():
    """Pixels are independent, normal with mean 0.3 and deviation 0.1: all is known."""
    mean, deviation = 0.3, 0.1

    def best(seen, time):
        cosine, sine = circle(time)
        noisy = seen[..., :3]
        rest = (noisy - cosine * mean) / (cosine**2 * deviation**2 + sine**2)
        return cosine * sine * rest - sine * (mean + cosine * deviation**2 * rest)

    everywhere = np.ones_like(MASK)
    one = diffusion.paint(best, IMAGE, everywhere, NOISE, 1)
    np.testing.assert_allclose(one, mean, atol=1e-6)
    many = diffusion.paint(best, IMAGE, everywhere, NOISE, 200)
    assert many.mean() == pytest.approx(mean, abs=2e-3)
    assert many.std() == pytest.approx(deviation, rel=0.03)
    # The path is a deterministic one: more noise, more of the pixel.
    assert np.corrcoef(many.ravel(), NOISE.ravel())[0, 1] > 0.99


def test_the_network_is_shown_the_known_pixels_the_mask_and_no_more():
    shown = []

    def look(seen, time):
        shown.append((seen, time))
        return np.zeros((*seen.shape[:-1], 3), np.float32)

    counted = []
    painted = diffusion.paint(look, IMAGE, MASK, NOISE, 4, counted.append)
    assert counted == [1, 2, 3, 4]
    assert [time[0] for _, time in shown] == [1, 0.75, 0.5, 0.25]
    for seen, _ in shown:
        assert seen.shape[-1] == diffusion.SEEN
        np.testing.assert_array_equal(seen[~MASK][:, :3], 0)
        np.testing.assert_array_equal(seen[~MASK][:, 3:6], IMAGE[~MASK])
        np.testing.assert_array_equal(seen[MASK][:, 3:6], 0)
        np.testing.assert_array_equal(seen[..., 6], MASK)
    np.testing.assert_array_equal(shown[0][0][MASK][:, :3], NOISE[MASK])
    np.testing.assert_array_equal(painted[~MASK], IMAGE[~MASK])


def test_bytes_are_kept():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(diffusion.to_bytes(diffusion.to_signed(every)), every)
    assert diffusion.to_bytes(np.array([-3.0, 3.0])).tolist() == [0, 255]
    assert diffusion.side_of(32 * 32 * 7 + 1) == 32
