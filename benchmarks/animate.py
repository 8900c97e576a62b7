"""CPU-seconds of a clip with alpha on one thread: 16 frames of 128x128, 12 steps with guidance, sizes of preset small.

Random weights, so the figures tell of speed alone. Three questions: what a whole clip costs from the base picture to
frames with alpha, what Inter-Frame Attention adds to the same network without it, and what the isolated reference
saves. The same network at the size of Stable Diffusion, beside diffusers' pipeline: animate_sd15.py, on a GPU.
"""

import os
from dataclasses import replace

from table import ONE_THREAD, Row, interleaved, main, peak

os.environ.update(ONE_THREAD)

import torch
from torch import nn

from pellucid.layer_animate.model import LayerAnimate, build, preset
from pellucid.layer_animate.sampling.sampler import Sampling, sample_clip

CLIP = 25.0  # CPU-seconds
REFERENCE = 1.12
ISOLATED = 1.0


def random_model(size: str, ifa: bool) -> LayerAnimate:
    """The same random weights with and without Inter-Frame Attention, whose output is not zero."""
    model = build(preset(size), ifa=ifa, generator_seed=0)
    for name, value in model.unet.named_parameters():
        if "to_out_ifa" in name:
            nn.init.normal_(value, std=0.02)
    return model


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, frames, steps = ("tiny", 4, 1) if quick else ("small", 16, 12)
    model, plain = random_model(size, ifa=True), random_model(size, ifa=False)
    config = model.config
    text = torch.randn(2, 1, config.text["max_position_embeddings"], config.text["hidden_size"])
    picture = torch.rand(1, 4, config.size, config.size)
    z_base = model.encode(picture)
    sampling = Sampling(steps=steps, scheduler="dpm++", betas=config.betas)

    def clip(which: LayerAnimate, how: Sampling) -> torch.Tensor:
        return sample_clip(which.unet, which.context, z_base, text[0], text[1], frames, how, seed=0)

    def whole() -> torch.Tensor:
        latents = sample_clip(
            model.unet, model.context, model.encode(picture), text[0], text[1], frames, sampling, seed=0
        )
        return model.decode(latents[0].movedim(1, 0))

    (seconds,) = interleaved([whole], 1 if quick else 3)
    # The comparisons want many turns more than many steps; the isolated reference has its base frame once for all 12.
    few = sampling if quick else replace(sampling, steps=3)
    with_it, without = interleaved([lambda: clip(model, few), lambda: clip(plain, few)], 1 if quick else 9)
    parallel, isolated = interleaved(
        [lambda: clip(model, sampling), lambda: clip(model, replace(sampling, reference="isolated"))],
        1 if quick else 3,
    )
    name = f"{size}, random weights, {frames} frames of {config.size}x{config.size}"
    return [
        Row(
            f"a clip of preset {name}, {steps} steps with guidance, encoded and decoded",
            seconds,
            "CPU-s",
            None if quick else CLIP,
            peak=peak(),
        ),
        Row(
            "a clip with Inter-Frame Attention against the same network without it",
            with_it / without,
            "x",
            None if quick else REFERENCE,
        ),
        Row(
            "a clip with the isolated reference against the parallel one",
            isolated / parallel,
            "x",
            None if quick else ISOLATED,
        ),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
