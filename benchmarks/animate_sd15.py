"""Our sampling loop beside diffusers' AnimateDiffPipeline at the size of Stable Diffusion 1.5, where a GPU is.

    python benchmarks/animate_sd15.py                 16 frames of 512x512, 25 steps, float16
    python benchmarks/animate_sd15.py --compile       also with a compiled UNet
    python benchmarks/animate_sd15.py --preset tiny --device cpu      shows that it runs

Random weights, the same UNet in both, latents in and latents out, guidance in one batch; diffusers without
Inter-Frame Attention, which it does not know. Then the low-memory mode with decoding: branches one after the other,
spatial layers on two frames at once, one frame decoded at once. Not a part of ``make bench``: ends with 1 when a budget
is not kept.
"""

import os
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers import AnimateDiffPipeline
from table import Row, machine, peak, table

from pellucid.layer_animate.attention.attach import attach_ifa, detach
from pellucid.layer_animate.model import build, preset
from pellucid.layer_animate.sampling.sampler import Sampling, sample_clip
from pellucid.layer_animate.sampling.schedules import make_scheduler

AGAINST = 1.15
MEMORY = 6.0  # GiB


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall seconds; once before, unmeasured."""
    seconds = []
    for turn in range(repeats + 1):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn:
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def compare(options: "Options") -> list[Row]:
    device = torch.device(options.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    config = preset(options.preset)
    with torch.device(device):
        model = build(config, generator_seed=0).to(dtype)
    model.requires_grad_(False)
    frames, side = config.frames, config.size // config.factor
    text = torch.randn(2, 1, config.text["max_position_embeddings"], config.text["hidden_size"])
    text = text.to(device, dtype)
    z_base = torch.randn(1, config.latent_channels, side, side, device=device)
    sampling = Sampling(steps=options.steps, betas=config.betas)

    def ours(how: Sampling) -> torch.Tensor:
        return sample_clip(model.unet, model.context, z_base, text[0], text[1], frames, how, seed=0)

    scheduler = make_scheduler("ddim", config.betas, options.steps)
    # No tokenizer: the vectors of the text are given. The motion modules are in the UNet already.
    theirs = AnimateDiffPipeline(
        vae=model.vae,
        text_encoder=model.text,
        tokenizer=None,
        unet=model.unet,
        motion_adapter=None,
        scheduler=scheduler,
    )
    theirs.set_progress_bar_config(disable=True)

    def diffusers() -> object:
        return theirs(
            prompt_embeds=text[0],
            negative_prompt_embeds=text[1],
            num_frames=frames,
            height=config.size,
            width=config.size,
            num_inference_steps=options.steps,
            guidance_scale=sampling.guidance,
            output_type="latent",
        )

    detach(model.unet)
    base = timed(diffusers, device, options.repeats)
    attach_ifa(model.unet, model.context)
    rows = [Row("diffusers' AnimateDiffPipeline, without Inter-Frame Attention", base, "s")]

    def row(what: str, how: Sampling, budget: float) -> None:
        seconds = timed(lambda: ours(how), device, options.repeats)
        rows.append(Row(f"{what}, against diffusers", seconds / base, "x", budget, note=f"{seconds:.3g} s"))

    row("ours, parallel reference", sampling, AGAINST)
    model.unet.to(memory_format=torch.channels_last)
    best = replace(sampling, reference="isolated")
    row("ours, isolated reference, channels last", best, 1.0)
    if options.compile:
        forward = model.unet.forward
        model.unet.forward = torch.compile(forward)
        row("ours, parallel reference, channels last, compiled", sampling, 1.0)
        model.unet.forward = forward
    low = replace(sampling, guidance_branches="apart", chunk=2, query_chunk=2)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    model.decode(ours(low)[0].movedim(1, 0).to(dtype), chunk=1)
    most = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak()
    spent = f"{time.perf_counter() - begun:.3g} s with decoding, all weights on the device"
    rows.append(Row("peak memory of the low-memory mode", most / 2**30, "GiB", MEMORY, peak=most, note=spent))
    return rows


class Options:
    """What the command line says."""

    preset: str
    device: str
    steps: int
    repeats: int
    compile: bool


def run() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="sd15")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args(namespace=Options())
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    rows = compare(options)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else machine()
    print(f"{where}, torch {torch.__version__}\n\n{table(rows)}")
    return int(not all(row.kept for row in rows))


if __name__ == "__main__":
    sys.exit(run())
