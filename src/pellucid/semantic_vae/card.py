"""The model card of a run: written by the training itself, from its recipe, its masks and what it measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pellucid.hub.cards import Figure, model_card
from pellucid.semantic_vae.masks.classes import ClassSet

CITATION = (
    "Tomaso Fontanini, Claudio Ferrari, Massimo Bertozzi, Andrea Prati: Automatic Generation of Semantic Parts for "
    "Face Image Synthesis, ICIAP 2023, arXiv 2307.05317."
)
PAPER = {"miou": 0.7031, "accuracy": 0.9239}  # Table 1, last row, on 2,000 masks of CelebAMask-HQ
SMOOTH = "- It smooths every mask a little, even without an edit; `keep_unedited` takes the rest from the source."
DRAWN_LIMITS = """\
- It has only seen masks drawn by code: frontal to three-quarter faces, one family of shapes. On masks of
  photographs the outlines of hair, hats, hands and profiles come out simplified; `pellucid eval --task face-parts
  --set DIR` tells how much on yours.
"""
LIMITS = """- It knows the masks it was trained on: other ages, poses and parsers give other errors.
"""


@dataclass(frozen=True)
class Training:
    """What a card says about a run.

    Attributes:
        recipe: name of the recipe.
        row: row of Table 1, or empty.
        masks: what was trained on, in words.
        drawn: whether code drew the masks.
        step: optimiser steps done.
        minutes: wall-clock minutes of training.
        collapsed: parts whose code says nothing.
    """

    recipe: str
    row: str
    masks: str
    drawn: bool
    step: int
    minutes: float
    collapsed: tuple[str, ...] = ()


def write_card(training: Training, figures: Mapping[str, float], classes: ClassSet, seeds: int = 1) -> str:
    """Write the card of exported weights.

    Args:
        training: what was done.
        figures: of `train.validate`; ``empty_accuracy`` and ``empty_miou`` are those of masks of nothing but
            background.
        classes: the class set.
        seeds: training runs behind the figures.
    """
    table = (
        ("accuracy", "pixel accuracy, codes at their mean", "accuracy"),
        ("miou", f"mIoU over {len(classes)} classes, codes at their mean", "miou"),
        ("accuracy_sample", "pixel accuracy, sampled codes", "accuracy"),
        ("miou_sample", f"mIoU over {len(classes)} classes, sampled codes", "miou"),
    )
    rows = [
        Figure(
            "held-out masks, reconstructed",
            measure,
            figures[key],
            figures.get(f"empty_{paper}", 0.0),
            PAPER[paper],
        )
        for key, measure, paper in table
        if key in figures
    ]
    name = training.recipe or "unnamed"
    row = f", row `{training.row}` of Table 1" if training.row else ""
    licence = "drawn by code of this package, free of rights of others" if training.drawn else "terms of the data set"
    dead = (
        f"\n- Codes that say nothing (below half a nat): {', '.join(training.collapsed)}." if training.collapsed else ""
    )
    return model_card(
        f"semantic_vae/{name}",
        summary=(
            f"Takes a mask of {len(classes)} classes (`{classes.name}`) apart, one code a part, and puts it together "
            "again, so that single parts can be made anew, moved and swapped. Semantic-VAE, trained by us. Doing "
            "nothing is here a mask that is all background; the paper's figures are on other masks (CelebAMask-HQ)."
        ),
        data=f"Trained on {training.masks}. The masks: {licence}.",
        credits="None needed." if training.drawn else "See the data set.",
        recipe=f"`pellucid train recipes/semantic_vae/{name}.toml`, {training.step} optimiser steps{row}.",
        hardware=_hardware(),
        minutes=max(training.minutes, 0.01),
        figures=rows or [Figure("validation", "step", float(training.step), 0.0)],
        seeds=seeds,
        limits=(DRAWN_LIMITS if training.drawn else LIMITS) + SMOOTH + dead,
        citation=CITATION,
    )


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"One {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU"
