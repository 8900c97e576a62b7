"""What a run of training begins with, and what it leaves behind: weights of our own, or IFA beside real checkpoints.

A stack of our own is written whole, as one folder of weights. Of real checkpoints only what was learned is written,
Inter-Frame Attention, with a components file that names the checkpoints it belongs to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.pretrained import CARD, CONFIG, load_config, load_state, read_document, save_pretrained
from pellucid.layer_animate.attention.attach import attach_ifa, ifa_state, load_ifa, save_ifa
from pellucid.layer_animate.denoiser import Words
from pellucid.layer_animate.model import METHOD, LayerAnimate, LayerAnimateConfig, build
from pellucid.layer_animate.pipeline import load_model
from pellucid.layer_animate.recipe import Recipe
from pellucid.layer_animate.text import Vocabulary, WordConditioner
from pellucid.layer_animate.transparency.weights import read_config, transparency_state

log = logging.getLogger(__name__)

COMPONENTS = ".toml"  # how a file that names real checkpoints ends


@dataclass(frozen=True)
class Opened:
    """A model to train.

    Attributes:
        model: all networks, Inter-Frame Attention attached.
        words: reads texts.
        components: the file that named real checkpoints; None for a stack of our own.
    """

    model: LayerAnimate
    words: Words
    components: Path | None = None


def training_side(recipe: Recipe) -> int:
    """Side in pixels that the networks of a recipe were made for, without opening them.

    Raises:
        WeightsError: the named folder holds no such weights.
    """
    if recipe.model.weights is not None:
        if _names_components(recipe.model.weights):
            return 512
        return load_config(_folder(recipe.model.weights), LayerAnimateConfig).size
    if recipe.model.transparency is not None:
        return read_config(recipe.model.transparency).size
    return recipe.config(None).size


def open_for_training(recipe: Recipe, captions: Callable[[], Sequence[str]]) -> Opened:
    """Make or load the model of a recipe.

    Args:
        recipe: its ``model`` table.
        captions: asked for the texts of the clips when a vocabulary has to be made.

    Raises:
        ConfigError: options that do not fit: sizes beside named weights, or a stage that real checkpoints forbid.
        WeightsError: weights are missing, damaged, or do not fit.
    """
    chosen = recipe.model
    if chosen.weights is not None:
        given = [name for name in ("transparency", "widths") if getattr(chosen, name) is not None]
        if given:
            raise ConfigError(f"model.{given[0]} cannot be given beside model.weights", "the weights say their sizes")
        opened = _components(recipe) if _names_components(chosen.weights) else _own(chosen.weights, recipe)
    else:
        opened = _new(recipe, captions)
    if chosen.ifa is not None:
        load_ifa(opened.model.unet, chosen.ifa, opened.model.context)
    _check_length(recipe, opened.model)
    return opened


def save_trained(folder: Path, opened: Opened, model: LayerAnimate, record: Mapping[str, Any], card: str) -> None:
    """Write what was learned.

    Args:
        folder: of the exported model; replaced.
        opened: where the model came from.
        model: the networks as they are now, or their average.
        record: plain facts on the training.
        card: text of the model card.
    """
    if opened.components is not None:
        _save_beside(folder, opened.components, model, record, card)
        return
    save_pretrained(
        folder,
        method=METHOD,
        config=model.config,
        state=model,
        card=card,
        training=record,
        dtype=_storable(model),
        overwrite=True,
    )
    assert isinstance(opened.words, WordConditioner)
    opened.words.vocabulary.save(folder / "vocabulary.json")


def _new(recipe: Recipe, captions: Callable[[], Sequence[str]]) -> Opened:
    chosen = recipe.model
    config = recipe.config(read_config(chosen.transparency) if chosen.transparency is not None else None)
    model = build(config, generator_seed=recipe.seed)
    if chosen.transparency is not None:
        for name, state in _by_part(transparency_state(chosen.transparency)).items():
            load_state(getattr(model, name), state)
    elif recipe.stage != "ifa":
        log.warning("VAE and transparency networks are random: the clips that come out will mean nothing")
    vocabulary = Vocabulary.of(captions(), int(config.text["vocab_size"]))
    log.info("a vocabulary of %d words", len(vocabulary.words))
    return Opened(model, WordConditioner(vocabulary, model.text))


def _own(source: str, recipe: Recipe) -> Opened:
    model, words = load_model(_folder(source))
    if not ifa_state(model.unet):
        attach_ifa(model.unet, model.context)
    if recipe.stage != "base" and model.config.frames != recipe.frames:
        log.info("weights made for clips of %d frames are trained on %d", model.config.frames, recipe.frames)
        model.config = replace(model.config, frames=recipe.frames)
    return Opened(model, words)


def _components(recipe: Recipe) -> Opened:
    if recipe.stage != "ifa":
        raise ConfigError(
            f"stage {recipe.stage!r} cannot be trained on real checkpoints", 'use stage = "ifa", or train a stack anew'
        )
    from pellucid.layer_animate.published.checkpoints import open_components  # published files only

    path = Path(str(recipe.model.weights)).expanduser()
    opened = open_components(path, dtype=torch.float32)
    return Opened(opened.model, opened.conditioner, path)


def _save_beside(folder: Path, components: Path, model: LayerAnimate, record: Mapping[str, Any], card: str) -> None:
    """Write Inter-Frame Attention, and a components file that names it beside the checkpoints it was trained on."""
    from pellucid.layer_animate.published.checkpoints import NEEDED, OPTIONAL, TABLE, read_components

    folder.mkdir(parents=True, exist_ok=True)
    config, parts = model.config, read_components(components)
    facts = {
        "base_family": "sd15",
        "motion_adapter": Path(parts.motion_adapter).name,
        "offset_scale": config.offset_scale,
        "scaling_factor": config.scaling_factor,
        **record,
    }
    file = save_ifa(folder, model.unet, facts, overwrite=True)
    (folder / CARD).write_text(card, encoding="utf-8")
    lines = [f"download = {str(parts.download).lower()}", "", f"[{TABLE}]"]
    for name in (*NEEDED, *OPTIONAL):
        given = file.name if name == "inter_frame_attention" else getattr(parts, name)
        if given is not None:
            # Paths in the other file are relative to it; names of the hub stay names.
            place = components.parent / Path(given).expanduser()
            given = str(place.resolve()) if place.exists() and name != "inter_frame_attention" else given
            lines.append(f"{name} = {json.dumps(given)}")
    lines.append(f"offset_scale = {config.offset_scale}")
    (folder / "components.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _by_part(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def _names_components(source: str) -> bool:
    return source.endswith(COMPONENTS)


def _folder(source: str) -> Path:
    folder = Path(source).expanduser()
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"no weights in {folder}: {CONFIG} is missing", "name a folder that training exported")
    method = read_document(folder)["method"]
    if method != METHOD:
        raise WeightsError(
            f"{folder} holds weights of {method!r}, expected {METHOD!r}",
            "VAE and transparency networks alone are named in model.transparency",
        )
    return folder


def _check_length(recipe: Recipe, model: LayerAnimate) -> None:
    longest = model.config.motion_length
    if recipe.stage != "base" and recipe.frames > longest:
        raise ConfigError(
            f"the motion modules tell {longest} frames apart, the recipe has {recipe.frames}",
            f"use frames <= {longest}",
        )


def _storable(model: LayerAnimate) -> str:
    """fp16, unless a value is too large for it."""
    largest = max(float(value.abs().max()) for value in model.state_dict().values() if value.is_floating_point())
    if largest <= torch.finfo(torch.float16).max:
        return "float16"
    log.info("a value of %.3g does not fit float16: weights are stored as float32", largest)
    return "float32"
