"""Colour through the command line: a photograph of 24 megapixels, and films of 1080p of two lengths."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from large_picture import photograph
from PIL import Image
from table import Row, command, main

from pellucid.hub.pretrained import bundled
from pellucid.io.image import load_image
from pellucid.io.video import VideoReader, VideoWriter

MEMORY = 2.5  # GiB
SECONDS = 15.0  # CPU-seconds, from start to saved file
RATE = 4.0  # frames a second on two cores
LONGER = 1.05  # peak memory of a film three times as long
RANDOM_WEIGHTS = """
import sys, torch
from pellucid.tic.model import PRESETS, TICGenerator
from pellucid.tic.pipeline import ColorizationPipeline
from pellucid.tic.text import TextEncoder
from pellucid.tic.word_vectors import WordVectors
torch.manual_seed(0)
generator = TICGenerator(PRESETS["small"])
generator.head.weight.data.mul_(10)  # strong colours, many of them outside sRGB
pipe = ColorizationPipeline(generator, TextEncoder(WordVectors.bundled()))
pipe.save_pretrained(sys.argv[1], card="Random weights, for measurements only.")
"""


def weights(folder: Path) -> tuple[list[str], str]:
    """Options that name the weights, and what they are: the bundled ones, else random ones written to ``folder``."""
    if bundled("tic"):
        return [], "bundled weights"
    command([sys.executable, "-c", RANDOM_WEIGHTS, str(folder)])
    return ["--model", str(folder)], "random weights, small"


def film(path: Path, width: int, height: int, frames: int) -> None:
    """Write a film that pans over a photograph."""
    still = path.with_suffix(".jpg")
    photograph(still, width + 4 * frames, height)
    pixels = load_image(still).layers[0].pixels.mean(0, keepdim=True).expand(3, -1, -1)
    with VideoWriter(path, width, height, 25, False) as writer:
        for index in range(frames):
            writer.write(pixels[..., 4 * index : 4 * index + width].contiguous())


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    width, height = (600, 400) if quick else (6000, 4000)
    film_size = (192, 108) if quick else (1920, 1080)
    lengths = (2, 6) if quick else (64, 192)  # up to 60 frames the encoder's look ahead grows
    with TemporaryDirectory() as folder:
        here = Path(folder)
        options, which = weights(here / "weights")
        call = [sys.executable, "-m", "pellucid", "colorize", "--text", "a red shirt", "--device", "cpu", *options]
        photograph(here / "in.jpg", width, height)
        still = command([*call, str(here / "in.jpg"), "-o", str(here / "out.jpg")])
        with Image.open(here / "out.jpg") as written:
            size = written.size
        rows = [
            Row(
                f"`colorize`, {width}x{height} JPEG",
                still.cpu,
                "CPU-s",
                None if quick else SECONDS,
                peak=still.peak,
                note=f"{still.seconds:.1f} s; output {size[0]}x{size[1]}; {which}",
                failure="" if size == (width, height) else "the output has another size",
            ),
            Row(f"peak memory of `colorize`, {width}x{height} JPEG", still.peak / 2**30, "GiB", MEMORY),
        ]
        runs = []
        for frames in lengths:
            film(here / f"{frames}.mp4", *film_size, frames)
            runs.append(command([*call, str(here / f"{frames}.mp4"), "-o", str(here / f"out{frames}.mp4")]))
        with VideoReader(here / f"out{lengths[1]}.mp4") as written:
            count = sum(1 for _ in written)
        short, long = runs
        name = f"{film_size[0]}x{film_size[1]}, {lengths[1]} frames"
        rows += [
            Row(
                f"`colorize` of a film, {name}",
                lengths[1] / long.seconds,
                "frames/s",
                None if quick else RATE,
                at_least=True,
                peak=long.peak,
                note=f"{long.cpu / lengths[1]:.2f} CPU-s a frame; wall time: fair only on two idle cores",
                failure="" if count == lengths[1] else f"{count} frames were written",
            ),
            Row(
                f"peak memory of a film of {lengths[1]} frames against {lengths[0]}",
                long.peak / short.peak,
                "x",
                None if quick else LONGER,
            ),
        ]
    return rows


if __name__ == "__main__":
    main(measure, __doc__)
