"""The model card of a training on clips: from its recipe, its clips and what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

import torch

from pellucid.errors import ConfigError
from pellucid.hub.cards import Figure, credit_lines, model_card
from pellucid.layer_animate.clips.sets import ClipSets
from pellucid.layer_animate.recipe import Recipe

CITATION = "Bai, Zhou, Wang, Chen, Yang, Lei, Wang: Layer-Animate for Transparent Video Generation."
_LEARNED = {
    "ifa": "Inter-Frame Attention alone learned (its W_Q', W_O' and b_O'); everything else stayed as it was.",
    "motion": "The motion modules alone learned, without a base frame: clips from text.",
    "base": "The UNet and the text encoder learned single pictures; motion modules and Inter-Frame Attention did not.",
    "all": "UNet, motion modules, Inter-Frame Attention and text encoder learned at once, from random weights or those "
    "named in the recipe; VAE and transparency networks did not.",
}
_LIMITS = """- It knows the kind of clips it was trained on and the words of their captions; unknown words are reported.
- {seen}."""
_SINGLE = "Trained on single pictures: it makes no clips before its motion modules learn"
_SAME = "- The figures are of the very clips it was trained on: that it learned them, not what it makes of others."


def write_card(recipe: Recipe, figures: Mapping[str, float], sets: ClipSets, step: int, minutes: float) -> str:
    """Write the card of exported weights.

    Args:
        recipe: of the run.
        figures: of `train.validate`.
        sets: the clips.
        step: optimiser steps done.
        minutes: wall-clock minutes of training.
    """
    which = "clips that were learned" if sets.learning else "held-out clips"
    without = figures.get("loss_alone", float("nan"))
    rows = [Figure(which, f"noise loss, stage {recipe.stage}; doing nothing is lambda 0", figures["loss"], without)]
    for key, measure in (("psnr", "PSNR dB over grey of made frames"), ("alpha_mae", "mean error of alpha")):
        if key in figures:
            still = figures[f"{key}_still"]
            rows.append(
                Figure(which, f"{measure}; doing nothing is the base frame standing still", figures[key], still)
            )
    rows = [row for row in rows if row.nothing == row.nothing] or [Figure(which, "noise loss", figures["loss"], 1.0)]
    licensed = [row for row in sets.rows if row.get("licence") or row.get("license")]
    data = f"Trained on {'; '.join(sets.shares)}."
    if licensed:
        licences = sorted({str(row.get("licence") or row.get("license")) for row in licensed})
        data += f" Licences of the clips: {', '.join(licences)}."
    try:
        credits = credit_lines(licensed) or "None needed: drawn by code, or the user's own clips."
    except ConfigError:
        credits = "See the data set."
    base = "no base frame" if recipe.clean is None else f"frame {recipe.clean} the base frame"
    limits = _LIMITS.format(
        seen=_SINGLE
        if recipe.stage == "base"
        else f"Trained on {recipe.frames} frames, {base}; other lengths were not tried"
    )
    gpu = torch.cuda.is_available()
    return model_card(
        f"layer_animate/{recipe.name or 'unnamed'}",
        summary=f"Films with alpha from a picture with alpha and words. {_LEARNED[recipe.stage]}",
        data=data,
        credits=credits,
        recipe=f"`pellucid train recipes/layer_animate/{recipe.name or 'your'}.toml`, {step} optimiser steps.",
        hardware=f"One {torch.cuda.get_device_name(0)}"
        if gpu
        else f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU",
        minutes=max(minutes, 0.01),
        figures=rows,
        seeds=1,
        limits=f"{limits}\n{_SAME}" if sets.learning else limits,
        citation=CITATION,
    )
