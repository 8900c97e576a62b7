"""Measuring: weights on a folder of pairs, under a named protocol, beside doing nothing and the paper.

The paper names no protocol. Joint and per-channel PSNR differ by up to 0.3 dB, and its SSIM is most likely that of grey
pictures, so its numbers stand beside ours only for orientation; see the room's README.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from pellucid.metrics.protocols import evaluate_pair, find, prepare
from pellucid.multistep_sirr.data import Pair, error_statistics, find_pairs, read_pair
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline

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


def statistics(set_dir: str | Path) -> list[dict[str, Any]]:
    """What the glass of a set did, pair by pair: the numbers that blends should come near."""
    rows: list[dict[str, Any]] = []
    for pair in find_pairs(set_dir):
        batch = read_pair(pair)
        rows.append({"pair": pair.name, **error_statistics(batch.mixture, batch.transmission)})
    return rows


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {"PSNR": fmean(row["psnr"] for row in rows), "SSIM": fmean(row["ssim"] for row in rows)}
