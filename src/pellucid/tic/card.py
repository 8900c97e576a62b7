"""The model card of a run: written by the training itself, from its recipe, its data and what it measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.hub.cards import Figure, credit_lines, model_card

CITATION = (
    "Subhankar Ghosh, Prasun Roy, Saumik Bhattacharya, Umapada Pal, Michael Blumenstein: TIC: Text-Guided Image "
    "Colorization, arXiv 2208.02843."
)
LIMITS = """- A small demonstration model, not to be compared with networks of a hundred times its size.
- It is made for one thing on a plain background. In general photographs colours bleed over borders, and those of sky,
  grass and skin are unreliable.
- One text becomes one vector without the order of its words: "a red shirt and a blue bag" may come out the other way
  round. Regions bind a colour to a thing.
- Colour words are understood as far as the word vectors know them; the names of the pictures' colours were measured by
  code, not by people.
- The colours are invented. They are no evidence of what was photographed."""
WORDS = (
    "Word vectors: trained on the captions of the pictures and of COCO val2017 (COCO Consortium, CC BY 4.0), see "
    "`weights/tic/vectors.npz`."
)


def write_card(
    name: str,
    figures: Mapping[str, float],
    *,
    sources: Sequence[Mapping[str, Any]],
    step: int,
    minutes: float,
    adversarial: bool,
    seeds: int = 1,
) -> str:
    """Write the card of exported weights.

    Args:
        name: of the recipe.
        figures: of `train.validate`.
        sources: rows of the training pictures, for the credits.
        step: optimiser steps done.
        minutes: wall-clock minutes of training.
        adversarial: whether the discriminator took part.
        seeds: training runs behind the figures.
    """
    held_out = "held-out pictures of the first set"
    grey = figures.get("ab_grey", 0.0)
    table = (
        ("ab_true", "PSNR of a*b* dB, its own text", grey),
        ("ab_shuffled", "PSNR of a*b* dB, another picture's text", grey),
        ("ab_empty", "PSNR of a*b* dB, no text", grey),
        ("ab_mean", "PSNR of a*b* dB of the true mean colour, for comparison", grey),
        ("obeyed", "obedience, six colours", 0.0),
        ("opposite", "obedience, the colour opposite to the picture's", 0.0),
        ("chroma", "mean chroma of named colours", 0.0),
        ("bleeding", "bleeding, chroma on grey ground", 0.0),
    )
    rows = [Figure(held_out, measure, figures[key], nothing) for key, measure, nothing in table if key in figures]
    licences = sorted({str(row.get("licence") or row.get("license")) for row in sources})
    data = (
        f"{len(sources)} captioned pictures. Licences of the pictures: {', '.join(licences)}. No picture is "
        "redistributed with these weights."
        if sources
        else "Pictures drawn by code."
    )
    if share_alike := sum("SA" in str(row.get("licence") or row.get("license")) for row in sources):
        data += f" {share_alike} of them are share-alike (CC BY-SA)."
    second = "with the discriminator of Eq. 2" if adversarial else "without the adversarial term"
    return model_card(
        f"tic/{name or 'unnamed'}",
        summary="Colours a grey picture as a text says; the generator of TIC, trained by us: the paper published none.",
        data=f"{data}\n\n{WORDS}",
        credits=credit_lines(sources) if sources else "None needed.",
        recipe=f"`pellucid train recipes/tic/{name or 'your'}.toml`, {step} optimiser steps, {second}.",
        hardware=_hardware(),
        minutes=max(minutes, 0.01),
        figures=rows or [Figure("validation", "score", figures.get("score", 0.0), 0.0)],
        seeds=seeds,
        limits=LIMITS,
        citation=CITATION,
    )


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"One {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU"
