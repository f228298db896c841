"""A pipeline of `diffusers` as a painter: a fake of the interface, and a real one if there is."""

import sys
import types

import numpy as np
import pytest

from jaxmec_testbed.diffusers_painter import DiffusersPainter
from jaxmec_testbed.painter import Painter

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 48, 3), np.uint8)
MASK = np.zeros((32, 48), bool)
MASK[8:24, 16:40] = True


class Generator:
    def __init__(self, device):
        self.device = device

    def manual_seed(self, seed):
        self.seed = seed
        return self


class FakePipeline:
    """What `StableDiffusionInpaintPipeline.__call__` takes, as of diffusers 0.42."""

    vae_scale_factor = 8

    def set_progress_bar_config(self, disable):
        assert disable

    def __call__(
        self, prompt=None, image=None, mask_image=None, height=None, width=None, strength=1.0,
        num_inference_steps=50, guidance_scale=7.5, num_images_per_prompt=1, generator=None,
        output_type="pil", callback_on_step_end=None,
    ):  # fmt: skip
        assert prompt == "a robot" and guidance_scale == 2.0 and strength == 1.0
        assert (height, width) == image.size[::-1] == mask_image.size[::-1] == MASK.shape
        assert (np.asarray(image)[MASK] == 0).all() and mask_image.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask_image), 255 * MASK)
        for step in range(num_inference_steps):
            tensors = {"latents": step}
            assert callback_on_step_end(self, step, 999 - step, tensors) is tensors
        assert output_type == "np" and generator.device == "cpu"
        rng = np.random.default_rng(generator.seed)
        images = rng.uniform(-0.1, 1.1, (num_images_per_prompt, height, width, 3))
        return types.SimpleNamespace(images=images.astype(np.float32))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(Generator=Generator))
    return DiffusersPainter(
        {"one": FakePipeline}, {"one": 5.2}, prompt="a robot", guidance_scale=2.0
    )


def paints(painter, variant):
    """What every painter promises."""
    assert isinstance(painter, Painter)
    counted = []
    loaded = painter.load(variant)
    painted = loaded.paint(IMAGE, MASK, 2, 3, 7, counted.append)
    assert painted.shape == (2, *IMAGE.shape) and painted.dtype == np.uint8
    assert counted == [1, 2, 3]
    assert all(np.array_equal(one[~MASK], IMAGE[~MASK]) for one in painted)
    np.testing.assert_array_equal(painted, loaded.paint(IMAGE, MASK, 2, 3, 7))
    assert (painted != loaded.paint(IMAGE, MASK, 2, 3, 8)).any()
    with pytest.raises(ValueError, match=r"multiples of \d for this pipeline, got 32 x 45"):
        loaded.paint(IMAGE[:, :45], MASK[:, :45], 1, 1, 0)


def test_a_pipeline_paints(fake):
    assert fake.variants == ("one",) and fake.size("one") == 5.2
    paints(fake, "one")


def test_what_does_not_fit_is_named(fake):
    with pytest.raises(ValueError, match="variant must be one of one, got 'two'"):
        fake.load("two")
    with pytest.raises(ValueError, match="same variants as pipelines, one, got two"):
        DiffusersPainter({"one": FakePipeline}, {"two": 1.0})


@pytest.mark.slow
def test_a_pipeline_of_diffusers_paints():
    """A real Stable Diffusion pipeline, with a tiny network of random weights."""
    diffusers = pytest.importorskip("diffusers", reason="for who has such a pipeline: it brings it")
    torch = pytest.importorskip("torch", reason="for who has such a pipeline: it brings it")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=9,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        vae=autoencoder, text_encoder=None, tokenizer=None, unet=unet,
        scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    told = {"prompt_embeds": torch.randn(1, 5, 16), "guidance_scale": 1.0}
    paints(DiffusersPainter({"tiny": lambda: pipeline}, {"tiny": 0.01}, **told), "tiny")
