"""Training of the tiny CLIP with CLIP's symmetric loss, and how well it finds names (Radford et al. 2021).

What it is for: the text score without a download, and a text encoder that has seen what words look like. It knows the
drawings and words it was trained on, so its scores compare clips of such drawings and nothing else; the score takes a
real CLIP when one is given.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from pellucid.errors import ConfigError
from pellucid.hub.cards import Figure, credit_lines, model_card
from pellucid.hub.pretrained import CARD, STATE
from pellucid.layer_animate.text import Vocabulary, split_words
from pellucid.layer_animate.tiny_clip.data import (
    DRAWN,
    HELD_OUT_SEED,
    NamedBatches,
    NamedPictures,
    draw_named,
    joined,
    other_makers,
    over_grey,
    read_named,
)
from pellucid.layer_animate.tiny_clip.recipe import Recipe
from pellucid.layer_animate.tiny_clip.words import numbered, padded, word_tokenizer
from pellucid.train.state import Accelerator, TrainState, clip

log = logging.getLogger(__name__)

AMONG = 50  # names that one is found among
MEAN = STD = (0.5, 0.5, 0.5)
CITATION = "Radford and others: Learning Transferable Visual Models From Natural Language Supervision. 2021."
_CHUNK = 64  # pictures or texts measured at a time
_SHOWN = 8  # rows of the contact sheet
_LARGEST = math.log(100.0)  # of the scale's logarithm, as in CLIP

__all__ = ["Recipe", "build", "export", "retrieval", "samples", "step", "validate"]


@dataclass
class Room:
    """What the steps need besides the network; the recipe makes it again.

    Attributes:
        recipe: of the run.
        config: of the network.
        vocabulary: the words of the captions.
        tokenizer: of these words.
        train: pictures to learn.
        measured: ``"known"`` names drawn by another hand, and names that were ``"never"`` seen, as far as there are
            any.
    """

    recipe: Recipe
    config: CLIPConfig
    vocabulary: Vocabulary
    tokenizer: PreTrainedTokenizerFast
    train: NamedPictures
    measured: dict[str, NamedPictures]


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build network, optimiser and pictures of a run.

    Raises:
        ConfigError: a folder is not there, no table is named, or there are fewer names than a batch takes.
        InputError: a table holds no named picture.
    """
    train, measured = _open(recipe)
    sizes = recipe.text_config()
    most, length = int(sizes["vocab_size"]), int(sizes["max_position_embeddings"])
    texts = [train.captions(index) for index in range(len(train))]
    vocabulary = Vocabulary.of([text for each in texts for text in each], most - 2)
    tokenizer = word_tokenizer(vocabulary, most, length)
    config = CLIPConfig(text_config=sizes, vision_config=recipe.vision_config(), projection_dim=recipe.projection)
    model = CLIPModel(config)
    device = accelerator.device
    # Biases, norms, embeddings of places and the scale are not pulled to 0.
    matrices = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.train.lr,
        betas=recipe.betas,
        fused=device.type == "cuda" or None,
    )
    batches = NamedBatches(
        train.to(device),
        _tokens(tokenizer, texts),
        recipe.train.batch,
        recipe.seed,
        unknown=int(tokenizer.unk_token_id),  # type: ignore[arg-type]
        process=(accelerator.process_index, accelerator.num_processes),
        affine=recipe.data.affine,
        word_drop=recipe.data.word_drop,
    )
    log.info(
        "%d pictures of %d names and %d words to learn; measured: %s",
        len(train),
        len(set(train.names)),
        len(vocabulary.words),
        ", ".join(f"{len(held)} of {len(set(held.names))} names ({which})" for which, held in measured.items()),
    )
    state = TrainState({"clip": model}, {"clip": optimizer}, batches)
    held = {which: pictures.to(device) for which, pictures in measured.items()}
    state.room = Room(recipe, config, vocabulary, tokenizer, train, held)
    return state


def step(state: TrainState, batch: tuple[Tensor, list[list[int]]]) -> dict[str, Tensor]:
    """One step: each picture finds its text among the batch's and each text its picture."""
    pictures, texts = batch
    accelerator = state.accelerator
    assert accelerator is not None
    found = state.modules["clip"](
        input_ids=padded(texts).to(pictures.device), pixel_values=_normalised(pictures), return_loss=True
    )
    accelerator.backward(found.loss)
    clip(state, "clip")
    state.optimizers["clip"].step()
    state.optimizers["clip"].zero_grad()
    scale: Any = state.bare()["clip"].logit_scale
    with torch.no_grad():
        scale.clamp_(0.0, _LARGEST)
    right = found.logits_per_image.argmax(1) == torch.arange(len(texts), device=pictures.device)
    return {"loss": found.loss.detach(), "right": right.float().mean(), "scale": scale.detach().exp()}


@torch.no_grad()
def validate(state: TrainState, modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """Measure how often the right name is found for pictures that were not learned, over grey.

    Returns:
        ``known`` and ``never``, see `Room.measured` and `retrieval`, and ``retrieval``, the first of them that there
        is. Of names never seen those count whose words are all known: others cannot be read.
    """
    room: Room = state.room
    model = _bare_clip(modules)
    figures: dict[str, float] = {}
    pools = {"known": list(dict.fromkeys(room.train.names))}
    for which, held in room.measured.items():
        names = pools.get(which) or list(dict.fromkeys(held.names))
        features = _text_features(model, room.tokenizer, names)
        figures[which] = retrieval(_image_features(model, held), features, [names.index(name) for name in held.names])
    return {"retrieval": next(iter(figures.values())), **figures}


def retrieval(images: Tensor, names: Tensor, right: Sequence[int], among: int = AMONG) -> float:
    """Share of pictures whose right name scores highest among ``among`` names, the others drawn from all the rest.

    It is the expectation over all ways to draw the others, so no draw enters: with b of P - 1 others below the right
    one, C(b, among - 1) / C(P - 1, among - 1).

    Args:
        images: ``(N, D)``.
        names: ``(P, D)``.
        right: which of the names each picture has.
        among: names to choose from, all of them when there are fewer.

    Returns:
        A share in [0, 1]; by chance 1 / ``among``.
    """
    scores = F.normalize(images.double(), dim=1) @ F.normalize(names.double(), dim=1).T  # (N, P)
    own = scores.gather(1, torch.tensor(right, device=scores.device)[:, None])
    below = (scores < own).sum(1).double()  # a tie counts as lost
    others = names.shape[0] - 1
    drawn = torch.arange(min(among - 1, others), device=scores.device, dtype=torch.double)
    chances = ((below[:, None] - drawn) / (others - drawn)).clamp(min=0.0)
    return float(chances.prod(1).mean())


@torch.no_grad()
def samples(state: TrainState, modules: Mapping[str, nn.Module]) -> Tensor:
    """Eight names: the held-out picture that has it, then the held-out pictures that fit it best; right ones framed.

    Returns:
        ``(3, H, W)`` in [0, 1].
    """
    room: Room = state.room
    model = _bare_clip(modules)
    held = next(iter(room.measured.values()))
    names = list(dict.fromkeys(held.names))
    places = torch.linspace(0, len(names) - 1, min(_SHOWN, len(names))).round().long().tolist()
    chosen = [names[place] for place in places]
    images = F.normalize(_image_features(model, held), dim=1)
    texts = F.normalize(_text_features(model, room.tokenizer, chosen), dim=1)
    best = (texts @ images.T).topk(min(_SHOWN - 1, len(held)), dim=1).indices.tolist()
    shown = over_grey(held.pixels).cpu()
    rows = []
    for name, found in zip(chosen, best, strict=True):
        cells = [shown[held.names.index(name)]]
        cells += [_framed(shown[index]) if held.names[index] == name else shown[index] for index in found]
        rows.append(torch.cat(cells, dim=2))
    return torch.cat(rows, dim=1)


def export(state: TrainState, modules: Mapping[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write a folder that `metrics.clip_score.CLIPScorer` opens, with the room's ``vocabulary.json``."""
    room: Room = state.room
    config = CLIPConfig.from_dict(room.config.to_dict())
    # Said in every table: scores of different CLIPs do not compare.
    config.scorer_label = f"our tiny CLIP ({room.recipe.name or 'unnamed'})"
    config.architectures = ["CLIPModel"]
    config.save_pretrained(folder)
    state_dict = {key: value.half().contiguous().cpu() for key, value in _bare_clip(modules).state_dict().items()}
    save_file(state_dict, folder / STATE, metadata={"format": "pt"})
    room.tokenizer.save_pretrained(folder)
    room.vocabulary.save(folder)
    settings = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": room.recipe.vision.size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    (folder / CARD).write_text(_card(state, figures), encoding="utf-8")


def _open(recipe: Recipe) -> tuple[NamedPictures, dict[str, NamedPictures]]:
    """Pictures to learn and the held-out sets."""
    data, size = recipe.data, recipe.vision.size
    if data.root == DRAWN:
        train = draw_named(data.count or 1024, size, recipe.seed)
        held = draw_named(data.held_out, size, recipe.seed + HELD_OUT_SEED)
        known = set(train.names)
        return train, {"known": held.take([index for index, name in enumerate(held.names) if name in known])}
    tables = [table for table in (data.stills, data.clips) if table]
    if not tables:
        raise ConfigError("no table to train on", "name one in data.stills or data.clips")

    def every(split: str, count: int | None) -> NamedPictures:
        return joined([read_named(data.root, each, size, split, frames=data.frames, count=count) for each in tables])

    train, known = other_makers(every("train", data.count), data.other_maker)
    words = {word for index in range(len(train)) for text in train.captions(index) for word in split_words(text)}
    never = every("val", data.held_out)
    learned = set(train.names)
    readable = [
        index for index, name in enumerate(never.names) if name not in learned and words.issuperset(split_words(name))
    ]
    measured = {"known": known, "never": never.take(readable)}
    measured = {which: held for which, held in measured.items() if len(held)}
    if not measured:
        raise ConfigError(f"{data.root} leaves no picture to measure", "raise data.held_out or data.other_maker")
    return train, measured


def _tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Token numbers of each picture's captions; a text is read once."""
    every = list(dict.fromkeys(text for each in texts for text in each))
    read = dict(zip(every, numbered(tokenizer, every), strict=True))
    return [[read[text] for text in each] for each in texts]


def _bare_clip(modules: Mapping[str, nn.Module]) -> CLIPModel:
    model = modules["clip"]
    assert isinstance(model, CLIPModel)
    return model


def _image_features(model: CLIPModel, pictures: NamedPictures) -> Tensor:
    parts = over_grey(pictures.pixels).split(_CHUNK)
    return torch.cat([_projected(model.get_image_features(pixel_values=_normalised(part))) for part in parts])  # type: ignore[arg-type]


def _text_features(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    rows = numbered(tokenizer, texts)
    parts = [padded(rows[start : start + _CHUNK]).to(model.device) for start in range(0, len(rows), _CHUNK)]
    return torch.cat([_projected(model.get_text_features(input_ids=part)) for part in parts])


def _projected(found: Any) -> Tensor:
    """Features in the common space; ``transformers`` wraps them since version 5."""
    return (found if isinstance(found, Tensor) else found.pooler_output).float()


def _normalised(pictures: Tensor) -> Tensor:
    return (pictures - MEAN[0]) / STD[0]


def _framed(picture: Tensor) -> Tensor:
    framed = torch.tensor([0.1, 0.7, 0.2])[:, None, None].expand_as(picture).clone()
    framed[:, 2:-2, 2:-2] = picture[:, 2:-2, 2:-2]
    return framed


def _card(state: TrainState, figures: Mapping[str, float]) -> str:
    room: Room = state.room
    recipe = room.recipe
    drawn = recipe.data.root == DRAWN
    names = len(set(room.train.names))
    what = {
        "known": "names that were learned, drawn by a maker whose drawing of it was not",
        "never": "names never seen, of words that were",
    }
    rows = [
        Figure(
            f"{len(held)} pictures: {'drawn anew' if drawn else what[which]}",
            f"right name among {min(AMONG, names if which == 'known' else len(set(held.names)))}; "
            "doing nothing is chance",
            figures[which],
            1.0 / min(AMONG, names if which == "known" else len(set(held.names))),
        )
        for which, held in room.measured.items()
        if which in figures
    ]
    every = [row for row in {str(row.get("file")): row for row in room.train.rows}.values() if not drawn]
    licences = ", ".join(sorted({str(row.get("licence") or row.get("license")) for row in every}))
    try:
        credits = credit_lines(every) or "None needed."
    except ConfigError:
        credits = "See the data set."
    gpu = torch.cuda.is_available()
    name = recipe.name or "unnamed"
    return model_card(
        f"layer_animate/{name}",
        summary=(
            "A tiny CLIP of our own, not OpenAI's: it tells how well a small picture fits words, offline. Its scores "
            "have a range of their own and do not compare with those of another CLIP."
        ),
        data=f"Trained on {len(room.train):,} pictures of {names:,} names"
        + (", drawn by code of this package." if drawn else f". Licences: {licences}."),
        credits="None needed: drawn by code." if drawn else credits,
        recipe=f"`pellucid train recipes/layer_animate/{name}.toml`, {state.step} optimiser steps.",
        hardware=f"One {torch.cuda.get_device_name(0)}"
        if gpu
        else f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU",
        minutes=max(state.minutes, 0.01),
        figures=rows,
        seeds=1,
        limits=f"- It reads {len(room.vocabulary.words):,} words; others are told and count as one unknown word.\n"
        f"- It saw single drawn things of {recipe.vision.size} pixels: photographs and scenes mean little to it.\n"
        "- It learned from the pictures that clips are trained on and may favour them: give a real CLIP where you can.",
        citation=CITATION,
    )
