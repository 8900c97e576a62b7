"""Measuring: weights on captioned pictures, beside no colour, the picture's mean colour, and the paper (Sec. 5).

A grey picture alone scores 22.6 dB and 0.907 on 26 photographs of COCO, where the paper reports 23.27 and 0.917 for its
network: PSNR and SSIM say little about colour. So the two baselines stand beside every figure, the same text is tried
on the wrong pictures, and `obedience` asks whether the named colour appears.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.hub.convert import load_foreign
from pellucid.io.image import save_image
from pellucid.layers import Layer, LayerStack
from pellucid.metrics.colour import CAP, ab_psnr, colourfulness
from pellucid.metrics.lpips import LPIPS
from pellucid.metrics.protocols import Protocol, evaluate_pair, find, prepare, ssim
from pellucid.tic.data import Captioned, read_pictures
from pellucid.tic.lab import rgb_to_lab, to_gamut
from pellucid.tic.obedience import Predict, contact_sheet
from pellucid.tic.obedience import obedience as obedience_figures
from pellucid.tic.object_mask import object_mask
from pellucid.tic.pipeline import ColorizationPipeline

log = logging.getLogger(__name__)

OPTIONS = ("obedience", "sheet", "lpips")  # of `pellucid eval`
PROTOCOLS: dict[str, Protocol] = {
    "tic-256": Protocol(
        "tic-256",
        "squashed to 256x256, L of the truth, clipped to 8-bit sRGB, PSNR joint over RGB, SSIM mean over RGB",
        square=256,
    ),
}

# Table 1: PSNR, SSIM, LPIPS (vgg), LPIPS (squeeze). The paper does not say on which of its sets.
PAPER: dict[str, tuple[float, float, float, float]] = {
    "Zhang 2016": (22.94, 0.903, 0.253, 0.143),
    "Zhang 2017": (22.15, 0.892, 0.231, 0.129),
    "Bahng 2018": (22.99, 0.912, 0.228, 0.127),
    "TIC": (23.27, 0.917, 0.223, 0.133),
}
LPIPS_COLUMNS = {"vgg": "LPIPS vgg", "squeeze": "LPIPS sqz"}
NO_LPIPS = "n/a (weights missing)"
SEEDS = (0, 1, 2)  # of the permutations that give each picture the text of another
_BATCH = 16
_WORST = 12  # pictures named in the log (Fig. 11)

Colours = Callable[[Tensor, Tensor, slice], Tensor]  # L, true ab and the place in the set -> ab
Lpips = Callable[[Tensor, Tensor], dict[str, float]]


def _no_lpips(result: Tensor, truth: Tensor) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Examples:
    """Captioned pictures of one set at the protocol's size.

    Attributes:
        name: of the set.
        rgb: ``(N, 3, S, S)`` uint8, sRGB.
        alpha: ``(N, 1, S, S)`` uint8; 255 throughout where the file has no transparency.
        captions: N texts, ``""`` where the set says nothing about colour.
        nouns: N names of the object, ``""`` where there is no single one.
        files: N names, for the log.
    """

    name: str
    rgb: Tensor
    alpha: Tensor
    captions: tuple[str, ...]
    nouns: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def lab(self, rows: slice = slice(None)) -> Tensor:
        """L, a, b ``(n, 3, S, S)`` of some of the pictures, float32."""
        return rgb_to_lab(self.rgb[rows].float() / 255.0)


def evaluate(
    set_dir: str | Path,
    protocol: str = "tic-256",
    weights: str | Path | None = None,
    device: str = "auto",
    *,
    obedience: bool = False,
    sheet: str | Path | None = None,
    overwrite: bool = False,
    seeds: Sequence[int] = SEEDS,
    lpips: Mapping[str, str | Path] | None = None,
) -> list[dict[str, Any]]:
    """Measure weights on a folder of captioned pictures.

    Args:
        set_dir: a folder in one of the layouts of `data.LAYOUTS`, or a folder of pictures inside a captioned one.
        protocol: name in `PROTOCOLS`.
        weights: bundled name, folder or hub id.
        device: where to compute.
        obedience: measure `obedience.obedience` too, on the sets whose pictures show a single named object.
        sheet: write a contact sheet of 24 pictures in six colours there (PNG).
        overwrite: replace a sheet that is there.
        seeds: of the permutations of the texts.
        lpips: files of torchvision's ``vgg16`` (key ``"vgg"``) and ``squeezenet1_1`` (``"squeeze"``); a column whose
            weights are missing says so.

    Returns:
        Rows of a table for each set: the two baselines, true a, b through 64x64, the weights with the true texts, with
        the texts of other pictures and without text; the same as means over several sets; then the paper's. ``PSNR``
        and ``ab PSNR`` in dB, 100 for each of the ``equal`` pictures that are the truth itself; means over pictures.
        With ``obedience`` a row of its figures follows for each set of objects.

    Raises:
        ConfigError: the protocol is not known.
        InputError: the folder holds no captioned pictures, one cannot be read, or the sheet is there already.
        WeightsError: the weights cannot be loaded.
    """
    rule = find(protocol, PROTOCOLS)
    distance = _lpips(lpips or {})
    if sheet is not None and Path(sheet).exists() and not overwrite:
        raise InputError(f"{sheet} is there already", "name another file")
    sets = read_sets(set_dir, rule)
    pipe = ColorizationPipeline.from_pretrained(weights, device=device)
    predict, name = predictor(pipe), f"ours ({pipe.weights})"
    measured = [measure(predict, examples, rule, name, seeds, distance) for examples in sets]
    rows = [row for of_set in measured for row in of_set]
    if len(sets) > 1:
        rows += [_mean_over_sets(list(of_system)) for of_system in zip(*measured, strict=True)]
    rows += [
        {"system": f"{peer}, paper's Table 1", "set": "not named", "protocol": "not named"}
        | {"PSNR": psnr, "SSIM": similarity, "LPIPS vgg": vgg, "LPIPS sqz": squeeze}
        for peer, (psnr, similarity, vgg, squeeze) in PAPER.items()
    ]
    objects = [examples for examples in sets if any(examples.nouns)]
    if (obedience or sheet is not None) and not objects:
        raise InputError(f"{set_dir} names no objects, which obedience asks for", "its rows need a label")
    if obedience:
        rows += [{"system": name, "set": each.name} | obedience_of(predict, each) for each in objects]
    if sheet is not None:
        picture = sheet_of(predict, objects[0])
        save_image(LayerStack((Layer("sheet", picture),)), sheet, overwrite=overwrite)
    return rows


def measure(
    predict: Predict,
    examples: Examples,
    rule: Protocol,
    name: str = "ours",
    seeds: Sequence[int] = SEEDS,
    lpips: Lpips = _no_lpips,
) -> list[dict[str, Any]]:
    """Measure a network on one set, the baselines first; see `evaluate` for the rows."""
    texts = {f"{name}, true text": list(examples.captions)}
    texts |= {f"{name}, shuffled text, seed {seed}": shuffled(examples.captions, seed) for seed in seeds}
    texts |= {f"{name}, no text": [""] * len(examples)}

    def coloured(said: list[str]) -> Colours:
        return lambda L, _, rows: _sized(predict(L, said[rows]), L)

    systems: dict[str, Colours] = {
        "grey (ab = 0)": lambda L, ab, rows: torch.zeros_like(ab),
        "mean colour of the picture": lambda L, ab, rows: ab.mean((-2, -1), keepdim=True).expand_as(ab),
        "true ab through 64x64": lambda L, ab, rows: _through(ab, 64),
        **{system: coloured(said) for system, said in texts.items()},
    }
    rows = []
    for system, colours in systems.items():
        figures = _figures(examples, rule, colours, lpips)
        if system.endswith("true text"):
            _say_worst(examples, figures["PSNR"])
        row = {"system": system, "set": examples.name, "protocol": rule.name, "pictures": len(examples)}
        rows.append(row | {key: fmean(values) for key, values in figures.items() if key != "equal"})
        rows[-1]["equal"] = equal = int(sum(figures["equal"]))
        if equal:
            log.info("%s: %d pictures equal the truth and count as %g dB", system, equal, CAP)
        rows[-1] |= {column: NO_LPIPS for column in LPIPS_COLUMNS.values() if column not in figures}
    return rows


def _figures(examples: Examples, rule: Protocol, colours: Colours, lpips: Lpips) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for start in range(0, len(examples), _BATCH):
        rows = slice(start, start + _BATCH)
        L, ab = examples.lab(rows).split([1, 2], dim=1)
        predicted = colours(L, ab, rows).float().cpu()
        # Clipping moves L of colours outside sRGB; it is what the paper's peers do.
        results = (to_gamut(L, predicted, how="clip") * 255.0).round() / 255.0
        ab_figures = ab_psnr(predicted, ab).tolist()
        for result, pixels, ab_figure in zip(results, examples.rgb[rows], ab_figures, strict=True):
            truth = pixels.float() / 255.0
            pair = evaluate_pair(rule, result, truth)
            figures = {
                "PSNR": min(pair["psnr"], CAP),
                "SSIM": pair["ssim"],
                "SSIM gauss": ssim(result, truth, window="gaussian"),
                "ab PSNR": ab_figure,
                "CF": colourfulness(result),
                "equal": float(pair["psnr"] > CAP),
                **lpips(result, truth),
            }
            for key, value in figures.items():
                found.setdefault(key, []).append(value)
    return found


def _mean_over_sets(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    figures = {key: fmean(row[key] for row in rows) for key, value in first.items() if isinstance(value, float)}
    return {**first, "set": "mean of the sets", "pictures": sum(row["pictures"] for row in rows), **figures}


def shuffled(texts: Sequence[str], seed: int) -> list[str]:
    """Give every picture the text of another one; two that are alike may still meet.

    One random round through all pictures, so that none keeps its own.
    """
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    given = list(texts)
    for place, other in zip(order, order[1:] + order[:1], strict=True):
        given[place] = texts[other]
    return given


def obedience_of(predict: Predict, examples: Examples) -> dict[str, float]:
    """`obedience.obedience` of the pictures of a set that show a named object."""
    named = torch.tensor([bool(noun) for noun in examples.nouns])
    L, ab = examples.lab()[named].split([1, 2], dim=1)
    nouns = [noun for noun in examples.nouns if noun]
    return obedience_figures(predict, L, object_masks(examples)[named], nouns, truth=ab)


def sheet_of(predict: Predict, examples: Examples, count: int = 24) -> Tensor:
    """`obedience.contact_sheet` of pictures spread evenly over a set."""
    places = torch.linspace(0, len(examples) - 1, min(count, len(examples))).round().long()
    pictures = examples.rgb[places].float() / 255.0
    return contact_sheet(predict, pictures, [examples.nouns[place] for place in places.tolist()])


def read_sets(set_dir: str | Path, rule: Protocol) -> list[Examples]:
    """Read captioned pictures at a protocol's size, divided into sets.

    The pictures of a captioned folder are divided by the folder they lie in. Of each set those that are held out are
    taken; all of it where nothing is.

    Args:
        set_dir: see `evaluate`.
        rule: its size is taken.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    groups: dict[str, list[Captioned]] = {}
    for item in _listed(Path(set_dir)):
        inside = item.name.split("/")[0] if "caption" in item.row and "/" in item.name else ""
        groups.setdefault(inside or Path(set_dir).name, []).append(item)
    sets = []
    for name, items in groups.items():
        held_out = [item for item in items if item.split != "train"]
        if not held_out:
            log.warning("%s: nothing is held out, so all %d pictures are measured", name, len(items))
        sets.append(_examples(name, held_out or items, rule))
    return sets


def _listed(folder: Path) -> list[Captioned]:
    if folder.is_dir() and not any(folder.glob("*.jsonl")) and any(folder.parent.glob("*.jsonl")):
        inside = [item for item in read_pictures(folder.parent) if item.name.startswith(f"{folder.name}/")]
        if inside:
            return inside
    return read_pictures(folder)


def _examples(name: str, items: Sequence[Captioned], rule: Protocol) -> Examples:
    pictures, alphas = [], []
    for item in items:
        rgba = item.image("RGBA").float() / 255.0  # (4, H, W)
        rgb, alpha = rgba[:3] * rgba[3:] + (1.0 - rgba[3:]), rgba[3:].expand(3, -1, -1)  # over white
        rgb, alpha = prepare(rule, rgb, alpha)
        pictures.append((rgb * 255.0).round().byte())
        alphas.append((alpha[:1] * 255.0).round().byte())
    return Examples(
        name,
        torch.stack(pictures),
        torch.stack(alphas),
        tuple(item.caption for item in items),
        tuple(item.noun for item in items),
        tuple(item.name for item in items),
    )


def predictor(pipe: ColorizationPipeline) -> Predict:
    """The network of a pipeline as a function of L ``(B, 1, S, S)`` and B texts."""

    @torch.no_grad()
    def predict(L: Tensor, texts: list[str]) -> Tensor:
        vectors = torch.stack([pipe.encode(text).vector for text in texts])
        return pipe.predict(L, vectors)

    return predict


def _lpips(files: Mapping[str, str | Path]) -> Lpips:
    unknown = [net for net in files if net not in LPIPS_COLUMNS]
    if unknown:
        raise ConfigError(f"LPIPS network {unknown[0]!r} is not known", f"use one of {', '.join(LPIPS_COLUMNS)}")
    networks = {LPIPS_COLUMNS[net]: LPIPS(net, load_foreign(path)) for net, path in files.items()}

    def distance(result: Tensor, truth: Tensor) -> dict[str, float]:
        return {column: float(network(result[None], truth[None])) for column, network in networks.items()}

    return distance


def object_masks(examples: Examples) -> Tensor:
    """Where the objects are ``(N, 1, S, S)`` in [0, 1]: the alpha of cut-outs, else `object_mask.object_mask`."""
    masks = []
    for pixels, alpha in zip(examples.rgb, examples.alpha, strict=True):
        cut_out = bool((alpha < 128).any())
        masks.append(alpha.float() / 255.0 if cut_out else object_mask(pixels.float() / 255.0))
    return torch.stack(masks)


def _sized(ab: Tensor, L: Tensor) -> Tensor:
    if ab.shape[-2:] == L.shape[-2:]:
        return ab
    return F.interpolate(ab.float(), L.shape[-2:], mode="bilinear", antialias=True)


def _through(ab: Tensor, side: int) -> Tensor:
    """What a network with so few pixels of colour could reach at best."""
    return F.interpolate(F.interpolate(ab, (side, side), mode="area"), ab.shape[-2:], mode="bilinear")


def _say_worst(examples: Examples, values: list[float]) -> None:
    order = sorted(range(len(values)), key=values.__getitem__)[:_WORST]
    log.info("%s, worst by PSNR: %s", examples.name, ", ".join(f"{examples.files[i]} {values[i]:.1f}" for i in order))
