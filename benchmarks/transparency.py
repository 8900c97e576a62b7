"""Latents to pictures with alpha in chunks: CPU-seconds a frame, and whether memory grows with the number of frames.

Each number of frames is decoded in a process of its own, as a process's peak never comes down again.
"""

import json
import os
import sys

from table import ONE_THREAD, Row, command, main

os.environ.update(ONE_THREAD)

FRAMES = (16, 64)
GROWTH = 64.0  # MiB beyond the pictures themselves: what the allocator may keep
DECODE = """
import json, resource, sys, time
import torch
from pellucid.layer_animate.model import preset
from pellucid.layer_animate.transparency.coding import decode_rgba
from pellucid.layer_animate.transparency.weights import LatentTransparency

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

frames, side = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
model = LatentTransparency(preset("small")).eval()
raw = torch.randn(frames, 4, side // 8, side // 8)
decode_rgba(raw[:1], model.vae, model.decoder)
before, begun = peak(), time.process_time()
pictures = decode_rgba(raw, model.vae, model.decoder, chunk=4)
spent = time.process_time() - begun
print(json.dumps({"seconds": spent, "before": before, "peak": peak(), "pictures": pictures.nbytes}))
"""


def decoded(frames: int, side: int) -> dict[str, float]:
    """Decode in a fresh process: CPU-seconds, bytes at the most before and after, bytes of the result."""
    run = command([sys.executable, "-c", DECODE, str(frames), str(side)])
    return json.loads(run.output.splitlines()[-1])


def measure(quick: bool) -> list[Row]:
    few, many = (4, 8) if quick else FRAMES
    side = 64 if quick else 256
    less, more = decoded(few, side), decoded(many, side)
    growth = more["peak"] - less["peak"] - (more["pictures"] - less["pictures"])
    name = f"latents to RGBA, sizes of preset small, random weights, {side}x{side}, 4 frames at a time"
    return [
        Row(f"{name}, one of {few} frames", less["seconds"] / few, "CPU-s", peak=int(less["peak"])),
        Row(f"{name}, one of {many} frames", more["seconds"] / many, "CPU-s", peak=int(more["peak"])),
        Row(
            f"memory that {many} frames take over {few}, the pictures apart",
            max(growth / 2**20, 0.0),  # two processes differ by a little either way
            "MiB",
            GROWTH,
            note=f"the chunk itself takes {(less['peak'] - less['before']) / 2**20:.0f} MiB",
        ),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
