"""CPU-seconds of the colour room's generator on one thread, at its working size of 256x256.

Two questions: what the weights that ship and the paper's size cost, and how much faster our path (norms folded,
channels last) is than the paper's size run plainly, with the same random weights and the same output.
"""

import os

from table import ONE_THREAD, Row, interleaved, main, peak

os.environ.update(ONE_THREAD)

import torch
from torch import Tensor, nn

from pellucid.hub.pretrained import bundled, load_config, load_state
from pellucid.tic.model import PRESETS, TICConfig, TICGenerator, fold_norms

BUDGET, PAPER_BUDGET = 0.15, 0.35  # CPU-seconds
FASTER = 1.2
SAME = 1e-5  # of the largest output


def shipped() -> tuple[TICGenerator, str]:
    """The bundled generator, else one of random weights and the same size."""
    for weights in bundled("tic"):
        network = TICGenerator(load_config(weights.folder, TICConfig))
        load_state(network, weights.folder)
        return network, f"bundled weights {weights.name!r}"
    return TICGenerator(PRESETS["small"]), "small, random weights"


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    repeats = 1 if quick else 15
    small, which = shipped()
    paper = TICGenerator(PRESETS["paper"]).eval()
    for module in paper.modules():  # norms as training leaves them: fresh ones would fold into nothing
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0, 0.1)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    side = 64 if quick else paper.config.working_side
    picture = torch.rand(1, 1, side, side) * 2 - 1

    def ready(network: TICGenerator) -> tuple[nn.Module, Tensor, Tensor]:
        fast = fold_norms(network).to(memory_format=torch.channels_last)
        text = torch.randn(1, network.config.vector_dim)
        return fast, picture.contiguous(memory_format=torch.channels_last), text

    ours, theirs = ready(small), ready(paper)

    @torch.no_grad()
    def run(network: nn.Module, *inputs: Tensor) -> Tensor:
        return network(*inputs)

    works = [lambda: run(*ours), lambda: run(*theirs), lambda: run(paper, picture, theirs[2])]
    seconds = interleaved(works, repeats)
    wanted, found = run(paper, picture, theirs[2]), run(*theirs)
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    at = f"{side}x{side}"
    return [
        Row(f"colour generator, {which}, {at}", seconds[0], "CPU-s", BUDGET),
        Row(f"colour generator, paper's size, {at}", seconds[1], "CPU-s", PAPER_BUDGET, peak=peak()),
        Row(f"colour generator, paper's size run plainly, {at}", seconds[2], "CPU-s"),
        Row(
            "colour generator, our way against plainly",
            seconds[2] / seconds[1],
            "x",
            None if quick else FASTER,
            at_least=True,
            note=f"outputs differ by {gap:.0e} of the largest",
            failure="" if gap <= SAME else f"outputs differ by more than {SAME:g}",
        ),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
