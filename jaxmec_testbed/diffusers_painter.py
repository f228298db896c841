"""Stable Diffusion, or any inpainting pipeline of ``diffusers``, as the prototype's application.

    from diffusers import AutoPipelineForInpainting as Pipelines

    painter = DiffusersPainter(
        {
            "sd2": lambda: Pipelines.from_pretrained("/models/sd2-inpainting").to("cuda"),
            "sdxl": lambda: Pipelines.from_pretrained("/models/sdxl-inpainting").to("cuda"),
        },
        sizes={"sd2": 5.2, "sdxl": 9.8},
        prompt="a photograph",
    )

Nothing here imports ``diffusers``: a pipeline comes ready, with the device and the precision
that it is to run in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmec_testbed import painter
from jaxmec_testbed.painter import AfterStep, Image, Loaded, Mask

Pipeline = Any  # as diffusers.StableDiffusionInpaintPipeline


class DiffusersPainter:
    """A variant for each pipeline."""

    def __init__(
        self,
        pipelines: Mapping[str, Callable[[], Pipeline]],
        sizes: Mapping[str, float],
        **call: Any,
    ) -> None:
        """
        Args:
            pipelines: what makes each variant's pipeline, from the quickest to the best.
            sizes: GB in memory of each.
            call: further arguments of every call of a pipeline: ``prompt`` (empty, unless given),
                ``guidance_scale``, ...

        Raises:
            ValueError: sizes are not of the same variants as pipelines.
        """
        if set(pipelines) != set(sizes):
            raise ValueError(
                f"sizes must name the same variants as pipelines, {', '.join(pipelines)}, "
                f"got {', '.join(sizes)}"
            )
        self.variants = tuple(pipelines)
        self._pipelines, self._sizes, self._call = dict(pipelines), dict(sizes), call

    def size(self, variant: str) -> float:
        """The memory that a loaded variant takes, in GB."""
        painter.known(variant, self.variants)
        return self._sizes[variant]

    def load(self, variant: str) -> Loaded:
        """The variant, in memory, by calling what makes its pipeline.

        Raises:
            ValueError: there is no such variant.
        """
        painter.known(variant, self.variants)
        pipeline = self._pipelines[variant]()
        pipeline.set_progress_bar_config(disable=True)
        return _Piped(pipeline, self._call)


class _Piped:
    """One pipeline."""

    def __init__(self, pipeline: Pipeline, call: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._call = {} if "prompt_embeds" in call else {"prompt": ""}
        self._call.update(call)

    def paint(
        self,
        image: Image,
        mask: Mask,
        images: int,
        steps: int,
        seed: int,
        after_step: AfterStep | None = None,
    ) -> np.ndarray:
        """As `painter.Loaded` has it, for sides that the pipeline's autoencoder can halve.

        A scheduler of second order asks the network more than once a step, and counts so.
        """
        import torch
        from PIL import Image as Picture

        painter.check(image, mask, images, steps, seed)
        factor = self._pipeline.vae_scale_factor
        if image.shape[0] % factor or image.shape[1] % factor:
            raise ValueError(
                f"image must have sides that are multiples of {factor} for this pipeline, "
                f"got {image.shape[0]} x {image.shape[1]}"
            )

        def stepped(pipeline: Pipeline, step: int, time: Any, tensors: Any) -> Any:
            if after_step is not None:
                after_step(step + 1)
            return tensors

        hidden = mask[..., None]
        found = self._pipeline(
            image=Picture.fromarray(np.where(hidden, 0, image).astype(np.uint8)),
            mask_image=Picture.fromarray(np.where(mask, np.uint8(255), np.uint8(0))),
            height=image.shape[0],
            width=image.shape[1],
            strength=1.0,  # nothing under the mask is looked at, and every step is made
            num_inference_steps=steps,
            num_images_per_prompt=images,
            # On the CPU the same seed gives the same images on every device.
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=stepped,
            output_type="np",
            **self._call,
        ).images
        painted = (np.clip(np.asarray(found), 0, 1) * 255).round()
        return np.where(hidden, painted, image).astype(np.uint8)
