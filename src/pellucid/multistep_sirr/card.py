"""The model card of a run: written by the training itself, from its recipe, its data and what it measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.hub.cards import Figure, credit_lines, model_card

CITATION = (
    "Abdelrahman Elnenaey, Marwan Torki: Utilizing Multi-Step Loss for Single Image Reflection Removal, "
    "arXiv 2412.08582."
)
LIMITS = """- It finds soft veils and blurred ghosts better than sharp reflections that look like part of the scene.
- Behind a reflection that is brighter than the scene there is nothing left to recover; nothing is invented.
- The transmission is what a network guesses from one picture. It is no evidence of what stood behind the glass.
- Trained on blends of free photographs, not on photographs through real glass: real pairs are too few and not free.
- The depth ranges come from a cue without learned weights unless MiDaS weights are given; see `depth`."""


def write_card(
    name: str,
    figures: Mapping[str, float],
    *,
    sources: Sequence[Mapping[str, Any]],
    step: int,
    minutes: float,
    seeds: int = 1,
) -> str:
    """Write the card of exported weights.

    Args:
        name: of the recipe.
        figures: of `train.validate`; a key ``X_input`` is what doing nothing scores where ``X`` is the score.
        sources: rows of the training pictures, for the credits.
        step: optimiser steps done.
        minutes: wall-clock minutes of training.
        seeds: training runs behind the figures.
    """
    rows = [
        Figure(data=f"{key}, native size", measure="PSNR dB", ours=value, nothing=figures[f"{key}_input"])
        for key, value in figures.items()
        if f"{key}_input" in figures
    ]
    if "clean" in figures:
        kept = Figure("reflection-free validation photographs", "PSNR dB to the input", figures["clean"], float("inf"))
        rows.append(kept)
    licences = sorted({str(row.get("licence") or row.get("license")) for row in sources})
    data = (
        f"{len(sources)} photographs, blended on the fly into mixtures (`blending.py`). Licences of the pictures: "
        f"{', '.join(licences)}. No picture is redistributed with these weights."
        if sources
        else "Pictures drawn by code."
    )
    return model_card(
        f"multistep_sirr/{name or 'unnamed'}",
        summary="R-CNN and T-CNN of the multi-step reflection removal, trained by us; the paper published no weights.",
        data=data,
        credits=credit_lines(sources) if sources else "None needed.",
        recipe=f"`pellucid train recipes/multistep_sirr/{name or 'your'}.toml`, {step} optimiser steps.",
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
