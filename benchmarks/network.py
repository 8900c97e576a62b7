"""CPU-seconds of the networks on one thread, for a picture of 336x336.

Two questions: what the weights that ship cost, and how much faster our path is than the paper-size networks run plainly
(n = 32 and MiDaS small, the same random weights, the same outputs).
"""

import os

from table import BUNDLED, ONE_THREAD, Row, interleaved, main, peak

os.environ.update(ONE_THREAD)

import torch
from plain import PlainPair, plain_midas
from torch import Tensor
from torch.nn import functional as F

from pellucid.multistep_sirr.depth import MidasDepth
from pellucid.multistep_sirr.midas import MidasSmall, postprocess, preprocess
from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline

SIDE = 336
BUDGET = 0.5  # CPU-seconds
FASTER = 1.3
SAME = 1e-4  # of the largest output


def shipped(side: int, repeats: int) -> list[Row]:
    """The pair that ships, at the size of its fast way and at the picture's own."""
    if (BUNDLED / "model.safetensors").is_file():
        pair, which = ReflectionRemovalPipeline.from_pretrained(device="cpu", offline=True).pair, "bundled weights"
    else:
        pair, which = ReflectionPair(ReflectionPairConfig(width=16)), "random weights"
    pipe = ReflectionRemovalPipeline(pair, device="cpu")
    working = min(side, pipe.config.working_side or side)
    pictures = [torch.rand(1, 3, size, size) for size in (working, side)]
    depths = [torch.rand(1, 1, size, size) for size in (working, side)]
    works = [lambda at=at: pipe._steps(pictures[at], depths[at], 1) for at in (0, 1)]
    seconds = interleaved(works, repeats)
    name = f"network of the {which}, n = {pipe.config.width}, {side}x{side} picture"
    return [
        Row(f"{name}, fast way (at {working}x{working})", seconds[0], "CPU-s", BUDGET),
        Row(f"{name}, at its own size", seconds[1], "CPU-s", BUDGET, peak=peak()),
    ]


def compared(side: int, repeats: int) -> list[Row]:
    """The paper's size: plainly, and our way."""
    config = ReflectionPairConfig(width=32, depth="midas_small")
    pair, midas = ReflectionPair(config), MidasSmall()
    # Random weights may end below zero everywhere, where MiDaS's last activation leaves nothing to compare.
    last = midas.scratch.output_conv[4]
    last.weight.data.abs_()
    last.bias.data.zero_()
    plain_pair, plain_depth = PlainPair(config).eval(), plain_midas().eval()
    plain_pair.load_state_dict(pair.state_dict())
    plain_depth.load_state_dict(midas.state_dict())
    provider, pipe = MidasDepth(midas), ReflectionRemovalPipeline(pair, device="cpu")
    picture = F.interpolate(torch.rand(1, 3, side // 8, side // 8), (side, side), mode="bicubic").clamp(0, 1)

    @torch.no_grad()
    def plainly() -> tuple[Tensor, Tensor, Tensor]:
        depth = postprocess(plain_depth(preprocess(picture)), (side, side))
        return depth, *plain_pair(picture, pipe.ranged_depth(depth))

    def ours() -> tuple[Tensor, ...]:
        depth = provider(picture)
        return depth, *pipe._steps(picture, depth, 1)

    depth, *wanted = plainly()
    # Given the same depth: a pixel on the edge of two ranges may fall to either side for the last bit of its depth.
    found = pipe._steps(picture, depth, 1)
    pairs = zip((provider(picture), *found), (depth, *wanted), strict=True)
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    seconds = interleaved([plainly, ours], repeats)
    name = f"n = 32 and MiDaS small, random weights, {side}x{side} picture"
    return [
        Row(f"{name}, run plainly", seconds[0], "CPU-s"),
        Row(f"{name}, our way", seconds[1], "CPU-s", peak=peak()),
        Row(
            "our way against plainly",
            seconds[0] / seconds[1],
            "x",
            FASTER if side == SIDE else None,
            at_least=True,
            note=f"outputs differ by {gap:.0e} of the largest",
            failure="" if gap <= SAME else f"outputs differ by more than {SAME:g}",
        ),
    ]


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, repeats = (64, 1) if quick else (SIDE, 11)
    return [*shipped(side, repeats), *compared(side, repeats)]


if __name__ == "__main__":
    main(measure, __doc__)
