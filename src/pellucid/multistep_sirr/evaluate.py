"""Measuring: weights on a folder of pairs, under a named protocol, beside doing nothing and the paper.

The paper names no protocol. Joint and per-channel PSNR differ by up to 0.3 dB, and its SSIM is most likely that of grey
pictures, so its numbers stand beside ours only for orientation; see the room's README.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from pellucid.metrics.protocols import evaluate_pair, find, prepare
from pellucid.multistep_sirr.blending import MODELS, BlendOptions
from pellucid.multistep_sirr.data import BlendBatches, Pair, error_statistics, find_pairs, read_pair
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline
from pellucid.multistep_sirr.recipe import Recipe
from pellucid.multistep_sirr.train import photo_bank
from pellucid.train import load_recipe

OPTIONS = ("way", "blends")  # of `pellucid eval`

# Table 1, column "Ours": PSNR, SSIM, LPIPS, by words of a set's folder name.
PAPER: dict[str, tuple[float, float, float]] = {
    "real_world": (25.18, 0.904, 0.126),
    "nature": (24.39, 0.906, 0.082),
    "wild": (25.80, 0.941, 0.075),
    "postcard": (23.65, 0.931, 0.099),
    "object": (25.76, 0.943, 0.053),
}


def evaluate(
    set_dir: str | Path,
    protocol: str = "disk",
    weights: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> list[dict[str, Any]]:
    """Measure weights on a set of pairs.

    Args:
        set_dir: a folder in one of the layouts of `data.LAYOUTS`.
        protocol: name in `metrics.protocols.PROTOCOLS`: sizes, PSNR and SSIM as there.
        weights: bundled name, folder or hub id.
        device: where to compute.
        options: of the pipeline's call, such as ``way="exact"``.

    Returns:
        Rows of a table, the first always the unchanged input: ``system``, ``set``, ``protocol``, ``pictures``,
        ``PSNR`` in dB, ``SSIM``; means over pictures.

    Raises:
        InputError: the folder holds no pairs or one cannot be read.
        ConfigError: the protocol is not known.
        WeightsError: the weights cannot be loaded.
    """
    pipe = ReflectionRemovalPipeline.from_pretrained(weights, device=device)
    return measure(pipe, find_pairs(set_dir), Path(set_dir).name, protocol, **options)


def measure(
    pipe: ReflectionRemovalPipeline, pairs: Iterable[Pair], name: str, protocol: str = "disk", **options: Any
) -> list[dict[str, Any]]:
    """Measure a pipeline on pairs; see `evaluate` for the rows."""
    rule = find(protocol)
    nothing: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    for pair in pairs:
        batch = read_pair(pair)
        mixture, truth = prepare(rule, batch.mixture[0], batch.transmission[0])
        nothing.append(evaluate_pair(rule, mixture, truth))
        ours.append(evaluate_pair(rule, pipe(mixture, **options)["transmission"].pixels, truth))
    shared = {"set": name, "protocol": rule.name, "pictures": len(ours)}
    rows = [
        {"system": "input (doing nothing)", **shared, **_means(nothing)},
        {"system": f"ours ({pipe.weights})", **shared, **_means(ours)},
    ]
    for word, (psnr, ssim, _) in PAPER.items():
        if word in name.lower():
            rows.append({"system": "paper, Table 1", **shared, "protocol": "not named", "PSNR": psnr, "SSIM": ssim})
    return rows


def blend_statistics(set_dir: str | Path, recipe: str | Path, batches: int = 8) -> list[dict[str, Any]]:
    """What glass does to pictures: the real pairs of a set beside a recipe's blends, all mixed and model by model.

    Args:
        set_dir: a folder of real pairs.
        recipe: a TOML recipe of this room whose ``[data]`` names photographs.
        batches: how many batches of the recipe's size are drawn for each row.

    Returns:
        Rows of means over pairs, the columns those of `data.error_statistics`.
    """
    plan = load_recipe(recipe, Recipe)
    bank, _ = photo_bank(plan.data.photos[0], plan.data.side, "val")
    options = replace(BlendOptions(**plan.blend.model_dump()), clean=0.0)
    drawn = {"blends of the recipe": options} | {
        f"{name} alone": replace(options, shares={name: 1.0}, ghost=0.0, veil=0.0, faint=0.0) for name in MODELS
    }
    pairs = [read_pair(pair) for pair in find_pairs(set_dir)]
    rows = [_mean_statistics(f"real pairs of {Path(set_dir).name}", [(p.mixture, p.transmission) for p in pairs])]
    for label, chosen in drawn.items():
        source = BlendBatches(
            [(bank, 1.0)], plan.train.batch, plan.data.crop, plan.data.scale, chosen, seed=1, relit=plan.data.relit
        )
        made = [source(index) for index in range(batches)]
        split = [(i[None], t[None]) for batch in made for i, t in zip(batch.mixture, batch.transmission, strict=True)]
        rows.append(_mean_statistics(label, split))
    return rows


def _mean_statistics(label: str, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    found = [error_statistics(mixture, transmission) for mixture, transmission in pairs]
    return {"mixtures": label, "count": len(found), **{key: fmean(row[key] for row in found) for key in found[0]}}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {"PSNR": fmean(row["psnr"] for row in rows), "SSIM": fmean(row["ssim"] for row in rows)}
