"""CPU-seconds of the face-parts network on two threads, for masks of 256x256.

Two questions: how much faster our path is at the official size than the same layers run plainly (the same random
weights, the same outputs), in encoding, decoding and a training step of four masks; and what a move of a slider costs
with the weights that ship: decode, take the best class, keep what is not edited, draw the preview.
"""

import os

from table import Row, interleaved, main, peak

os.environ.update({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"})

import torch
from plain_parts import PlainVAE
from torch import Tensor, nn

from pellucid.hub.pretrained import bundled
from pellucid.semantic_vae.editing import Operation
from pellucid.semantic_vae.losses import SemanticVAELoss
from pellucid.semantic_vae.model import PRESETS, Posterior, SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.pipeline import FacePartsPipeline
from pellucid.semantic_vae.procedural.masks import procedural_masks

FASTER = 1.5
TICK = 0.15  # CPU-seconds
SAME = 1e-4
BATCH = 4
QUICK = SemanticVAEConfig(encoder_side=32, encoder_widths=(16, 16), channels=(16, 8, 8, 8, 8), groups=4)


def against(what: str, plainly: float, ours: float, quick: bool, gap: float | None = None) -> Row:
    return Row(
        f"{what}, our way against plainly",
        plainly / ours,
        "x",
        None if quick else FASTER,
        at_least=True,
        note="" if gap is None else f"outputs differ by {gap:.0e} at most",
        failure="" if gap is None or gap <= SAME else f"outputs differ by more than {SAME:g}",
    )


def one_mask(ours: SemanticVAE, plain: PlainVAE, labels: Tensor, quick: bool) -> list[Row]:
    """Encode and decode."""
    ours.eval()
    plain.eval()
    with torch.no_grad():
        codes, theirs = ours.encode(labels), plain.encode(labels)
        z = theirs[0]
        encoded = max(float((a - b).abs().max()) for a, b in zip(codes, theirs, strict=True))
        decoded = float((ours.decode(z) - plain.decode(z)).abs().max())
        works = [
            lambda: plain.encode(labels),
            lambda: ours.encode(labels),
            lambda: plain.decode(z),
            lambda: ours.decode(z),
        ]
        seconds = interleaved(works, 1 if quick else 15)
    which = "official size" if not quick else "small"
    return [
        Row(f"encode a mask, {which}, run plainly", seconds[0], "CPU-s"),
        Row(f"encode a mask, {which}, our way", seconds[1], "CPU-s"),
        against("encode a mask", seconds[0], seconds[1], quick, encoded),
        Row(f"decode a mask, {which}, run plainly", seconds[2], "CPU-s"),
        Row(f"decode a mask, {which}, our way", seconds[3], "CPU-s", peak=peak()),
        against("decode a mask", seconds[2], seconds[3], quick, decoded),
    ]


def training(ours: SemanticVAE, plain: PlainVAE, labels: Tensor, quick: bool) -> list[Row]:
    """A whole step: forward, Eq. 3, backward, Adam."""
    loss = SemanticVAELoss()

    def stepper(network: nn.Module) -> tuple[torch.optim.Optimizer, nn.Module]:
        return torch.optim.Adam(network.parameters(), lr=1e-4), network.train()

    def step(optimizer: torch.optim.Optimizer, logits: Tensor, posterior: Posterior) -> None:
        loss(logits, labels, posterior)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    def plainly() -> None:
        posterior = Posterior(*plain.encode(labels))
        step(first, plain.decode(posterior.sample()), posterior)

    def our_way() -> None:
        out = ours(labels)
        step(second, out.logits, out.posterior)

    (first, _), (second, _) = stepper(plain), stepper(ours)
    seconds = interleaved([plainly, our_way], 1 if quick else 5)
    what = f"training step of {len(labels)} masks"
    return [
        Row(f"{what}, run plainly", seconds[0], "CPU-s"),
        Row(f"{what}, our way", seconds[1], "CPU-s", peak=peak()),
        against(what, seconds[0], seconds[1], quick),
    ]


def slider(labels: Tensor, quick: bool) -> list[Row]:
    """One move of a slider: the codes of the mask are there already."""
    if bundled("semantic_vae"):
        pipe, which = FacePartsPipeline.from_pretrained(device="cpu", offline=True), "bundled weights"
    else:
        pipe, which = FacePartsPipeline(SemanticVAE(PRESETS["tiny"]), device="cpu"), "tiny, random weights"
    codes = pipe.encode(labels)
    edits = [Operation("perturb", ("nose",), amount=0.5)]

    def tick() -> Tensor:
        return pipe.render(pipe.edit(labels, edits, codes=codes))

    (seconds,) = interleaved([tick], 1 if quick else 15)
    return [Row(f"a move of a slider with preview, {which}", seconds, "CPU-s", None if quick else TICK, peak=peak())]


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    labels = procedural_masks(BATCH, seed=0)[0]
    config = QUICK if quick else PRESETS["official"]
    ours, plain = SemanticVAE(config), PlainVAE(config)
    for name, parameter in ours.named_parameters():  # the last convolutions start at zero, which would hide them
        if name.endswith("out_layers.3.weight"):
            nn.init.normal_(parameter, std=0.02)
    plain.load_state_dict(ours.state_dict())
    rows = [*one_mask(ours, plain, labels[:1], quick), *slider(labels[0], quick)]
    return [*rows, *training(ours, plain, labels, quick)]


if __name__ == "__main__":
    main(measure, __doc__)
