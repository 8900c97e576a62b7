"""The sets of a recipe: which clips are learned, which are measured, and what they are told with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pellucid.data.shards import Row, ShardIndex
from pellucid.errors import ConfigError
from pellucid.layer_animate.clips.cuts import Cutting
from pellucid.layer_animate.clips.drawn_clips import MovedClips
from pellucid.layer_animate.clips.files import ClipFile, evenly, find_clips
from pellucid.layer_animate.clips.grounds import Grounded
from pellucid.layer_animate.data import ReadClips, Source
from pellucid.layer_animate.recipe import DRAWN, ClipSet, Recipe

Shares = list[tuple[Source, float]]

_CPU = torch.device("cpu")
_HELD_OUT_SEED = 1 << 12  # added to the seed of clips made by code that are measured
_DRAWN = 64


@dataclass(frozen=True)
class ClipSets:
    """What a run learns and what it measures.

    Attributes:
        train: sources with their shares of the draws.
        measured: the same for the clips that are measured.
        learning: some of the measured clips are among those that are learned.
    """

    train: Shares
    measured: Shares
    learning: bool

    @property
    def names(self) -> list[str]:
        """The sets in words."""
        return [source.name for source, _ in self.train]

    @property
    def shares(self) -> list[str]:
        """The sets in words, with their shares of the draws when there are several."""
        if len(self.train) == 1:
            return self.names
        total = sum(share for _, share in self.train)
        return [f"{source.name} ({100.0 * share / total:.0f} % of the draws)" for source, share in self.train]

    @property
    def rows(self) -> list[Row]:
        """Rows of the clips and stills that are learned, for the credits."""
        return [row for source, _ in self.train for row in source.rows]

    def captions(self) -> list[str]:
        """All texts of the clips that are learned, for the vocabulary of a model that begins with nothing."""
        return [text for source, _ in self.train for text in source.texts()]


def open_sets(recipe: Recipe, size: tuple[int, int], device: torch.device = _CPU) -> ClipSets:
    """Find the clips of a recipe; none is read yet.

    Args:
        recipe: its ``data`` table, frames and base index.
        size: height and width of the frames.
        device: where clips are made by code.

    Raises:
        ConfigError: no set is named, a folder is not there, or nothing is left of one.
    """
    if not recipe.data.sets:
        raise ConfigError("no clips to train on", 'name a set in data.sets, for example root = "drawn"')
    train: Shares = []
    measured: Shares = []
    learning = False
    for number, entry in enumerate(recipe.data.sets):
        made = entry.root == DRAWN or entry.what == "stills"
        seed = recipe.seed + number
        own, held = _moved(recipe, entry, size, seed, device) if made else _read(recipe, entry, size, seed)
        learning = learning or held is None
        if entry.ground == "drawn":
            own = Grounded(own, seed, entry.drift)
            held = None if held is None else Grounded(held, seed + _HELD_OUT_SEED, entry.drift)
        train.append((own, entry.share))
        measured.append((own if held is None else held, entry.share))
    return ClipSets(train, measured, learning)


def _read(recipe: Recipe, entry: ClipSet, size: tuple[int, int], seed: int) -> tuple[Source, Source | None]:
    """Clips of a folder, and those of it that are held out; None when those that are learned are measured."""
    held_out = 0 if entry.only else recipe.data.held_out
    folder = Path(entry.root).expanduser()
    shards = folder.is_dir() and any(folder.glob("*.jsonl"))
    files = _kept(find_clips(folder, split=entry.split if shards else None, table=entry.table), entry)
    held: list[ClipFile] = []
    if held_out and shards:
        held = evenly(_kept(find_clips(folder, split="val", table=entry.table), entry), held_out)
    elif held_out and len(files) > 1:
        spare = min(held_out, len(files) // 2)
        files, held = files[:-spare], files[-spare:]
    files = evenly(files, entry.count)
    cutting = recipe.data.cutting(recipe.frames)
    own = ReadClips(files, cutting, size, seed, folder.name, entry.opaque)
    if not held:
        return own, None
    # Measured as they are, without the accidents of augmentation.
    plain = Cutting(cutting.frames, cutting.fps, cutting.step, cutting.loop, fit=cutting.fit)
    return own, ReadClips(held, plain, size, seed, folder.name, entry.opaque)


def _moved(
    recipe: Recipe, entry: ClipSet, size: tuple[int, int], seed: int, device: torch.device
) -> tuple[Source, Source | None]:
    """Drawings or stills moved by code, and those that are held out."""
    if size[0] != size[1]:
        raise ConfigError(f"clips made by code are square, found data.size {size}")
    held_out = 0 if entry.only else recipe.data.held_out
    stills = held = None
    count = entry.count or _DRAWN
    if entry.root != DRAWN:
        index = ShardIndex.open(entry.root, entry.table or "stills")
        stills = _matching(index.select(split=entry.split), entry)
        held = _matching(index.select(split="val"), entry)
        if not len(stills):
            raise ConfigError(f"{entry.root} has no still of split {entry.split!r} with {entry.where or entry.only}")
        stills, held = (
            replace(of, rows=tuple(evenly(of.rows, n))) for of, n in ((stills, entry.count), (held, held_out))
        )
        count, held_out = len(stills), len(held)

    def clips(of: ShardIndex | None, many: int, seed: int) -> MovedClips:
        motions = entry.motions or None
        more = (motions, entry.anywhere, entry.named, device)
        return MovedClips(of, many, recipe.frames, size[0], seed, recipe.clean, *more)

    return clips(stills, count, seed), clips(held, held_out, seed + _HELD_OUT_SEED) if held_out else None


def _kept(files: list[ClipFile], entry: ClipSet) -> list[ClipFile]:
    """Clips that ``only`` and ``where`` keep.

    Raises:
        ConfigError: nothing is left, or a named clip is not there.
    """
    missing = set(entry.only) - {name for file in files for name in _called(file.name, file.facts)}
    if missing:
        raise ConfigError(f"{entry.root} has no clip {min(missing)!r}", "names are those of files or of rows")
    kept = [file for file in files if _wanted(file.name, file.facts, entry)]
    if not kept:
        raise ConfigError(f"{entry.root} holds no clip with {entry.where}")
    return kept


def _matching(index: ShardIndex, entry: ClipSet) -> ShardIndex:
    return index.select(where=lambda row: _wanted(row["file"], row, entry))


def _wanted(name: str, facts: Mapping[str, Any], entry: ClipSet) -> bool:
    named = not entry.only or bool(_called(name, facts) & set(entry.only))
    return named and all(str(facts.get(key)) == value for key, value in entry.where.items())


def _called(name: str, facts: Mapping[str, Any]) -> set[str]:
    return {name, str(facts.get("name", name)), str(facts.get("file", name))}
