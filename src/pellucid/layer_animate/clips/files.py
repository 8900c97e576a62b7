"""Clips with alpha and their texts, from what people have (Sec. 5): folders of frames, films, pairs, shards.

| layout | what lies in the folder |
|---|---|
| shards | ``NAME.jsonl`` + tars: sprite sheets with ``sheet = [rows, columns]``, captions, ``seconds`` of the loop |
| frames | ``CLIP/*.png`` or ``CLIP/frames/*.png``, ``CLIP/caption.txt`` or ``CLIP.txt`` |
| films | ``CLIP.mov`` (ProRes 4444), ``.webm``, ``.apng``, ``.png``, ``.webp``, ``.gif``; ``CLIP.txt`` beside it |
| pairs | ``fgr/CLIP.*`` + ``pha/CLIP.*``, or ``CLIP/fgr.*`` + ``CLIP/pha.*``, or ``CLIP_fgr.*`` + ``CLIP_pha.*`` |

A text file holds one caption a line. ``metadata.csv`` in the folder (columns ``file`` and ``caption``) tells them too.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from pellucid.data.shards import ShardIndex
from pellucid.errors import ConfigError, InputError, PellucidError
from pellucid.io.image import count_frames
from pellucid.io.video import VideoReader
from pellucid.layer_animate.clips.cuts import resize_rgba

log = logging.getLogger(__name__)

Item = TypeVar("Item")

FILMS = frozenset({".mov", ".webm", ".mkv", ".mp4", ".avi", ".apng", ".png", ".webp", ".gif"})
METADATA = "metadata.csv"
_FILE_COLUMNS = ("file", "file_name", "filename", "video", "clip", "path", "name", "id")
_TEXT_COLUMNS = ("caption", "captions", "text", "prompt", "description")
_SHOWN = 5

Kind = Literal["sheet", "frames", "film", "pair"]


@dataclass(frozen=True)
class ClipFile:
    """Where one clip lies; nothing of it is read yet.

    Attributes:
        name: unique within its folder.
        kind: ``"sheet"`` (a sprite sheet of shards), ``"frames"`` (PNG files), ``"film"``, ``"pair"`` (colour, matte).
        paths: the film, the folder of frames, or colour and matte; of a sheet none.
        captions: texts that tell it; empty when there is none.
        facts: the row of the jsonl: licence, author, source, group, motion.
        shards: where a sheet is read from.
    """

    name: str
    kind: Kind
    paths: tuple[Path, ...] = ()
    captions: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    shards: ShardIndex | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Clip:
    """A clip in memory.

    Attributes:
        frames: ``(T, 4, H, W)`` uint8, straight alpha, sRGB-encoded.
        fps: frames per second.
        captions: texts that tell it.
        name: as in `ClipFile`.
        loops: frame T would be frame 0 again.
    """

    frames: Tensor
    fps: float
    captions: tuple[str, ...]
    name: str
    loops: bool = False


def evenly(items: Sequence[Item], most: int | None) -> list[Item]:
    """At most so many of a list, evenly spread over it: tables are sorted by style and name, their beginning is alike.

    Args:
        items: any.
        most: how many; None for all.
    """
    if most is None or most >= len(items):
        return list(items)
    return [items[(2 * number + 1) * len(items) // (2 * most)] for number in range(most)]


def find_clips(root: str | Path, *, split: str | None = None, table: str | None = None) -> list[ClipFile]:
    """List the clips of a folder, or the one clip that a file is; see the table above.

    Args:
        root: the folder or file.
        split: keep rows of this split of a shard folder; other layouts have none.
        table: which ``NAME.jsonl``; those whose rows are animations when None.

    Returns:
        The clips in order of name (shards: in the order of the rows).

    Raises:
        ConfigError: nothing is there, or nothing in it is a clip.
        InputError: a table cannot be read.
    """
    folder = Path(root).expanduser()
    if folder.is_file():
        return [ClipFile(folder.stem, "film", (folder,), _beside(folder))]
    if not folder.is_dir():
        raise ConfigError(f"clip folder {folder} is not there")
    if any(folder.glob("*.jsonl")):
        found = list(_rows(folder, split, table))
    else:
        found = list(_files(folder))
        found = _told(folder / METADATA, found) if (folder / METADATA).is_file() else found
    if not found:
        raise ConfigError(f"{folder} holds no clip", "give folders of PNG frames, films with alpha, or shards")
    silent = [clip.name for clip in found if not clip.captions]
    if silent:
        log.warning("%s: %d of %d clips have no caption: %s", folder, len(silent), len(found), _some(silent))
    return found


def read(clip: ClipFile, *, side: int | None = None, opaque: bool = False) -> Clip:
    """Read a clip.

    Args:
        clip: one of `find_clips`.
        side: shrink frames to this short side as they are read (premultiplied); smaller ones are kept.
        opaque: accept a clip without alpha, as alpha 1 everywhere.

    Raises:
        InputError: it cannot be read, has no alpha, or is transparent throughout; the message names it.
    """
    if clip.kind == "sheet":
        frames, fps, has_alpha, loops = *_sheet(clip), True, True
    elif clip.kind == "pair":
        frames, fps, has_alpha, loops = *_pair(clip, side), True, False
    else:
        frames, fps, has_alpha = _film(clip.paths[0], side)
        loops = bool(clip.facts.get("loops", False))
    if clip.kind == "sheet" and side is not None:
        frames = torch.stack([_eight_bit(_shrunk(frame.float() / 255.0, side)) for frame in frames])
    if not has_alpha and not opaque:
        raise InputError(f"{clip.name}: has no alpha", "give a film with alpha, or colour and matte as a pair")
    if not bool(frames[:, 3].any()):
        raise InputError(f"{clip.name}: is transparent throughout")
    return Clip(frames, fps, clip.captions, clip.name, loops)


def read_all(clips: Sequence[ClipFile], *, side: int | None = None, opaque: bool = False) -> Iterator[Clip]:
    """Read clips one after the other; one that cannot be read is named in the log and left out.

    Raises:
        InputError: none of them can be read.
    """
    count = 0
    for clip in clips:
        try:
            found = read(clip, side=side, opaque=opaque)
        except PellucidError as error:
            log.warning("clip left out: %s", error)
            continue
        count += 1
        yield found
    if clips and not count:
        raise InputError(f"none of {len(clips)} clips can be read, the first is {clips[0].name!r}")


def _sheet(clip: ClipFile) -> tuple[Tensor, float]:
    """A sprite sheet, read row by row."""
    assert clip.shards is not None
    row = clip.facts
    rows, columns = (int(value) for value in row["sheet"])
    picture = clip.shards.image(row, "RGBA")  # (4, rows * H, columns * W)
    height, width = picture.shape[1] // rows, picture.shape[2] // columns
    if height * rows != picture.shape[1] or width * columns != picture.shape[2]:
        raise InputError(f"{clip.name}: a sheet of {rows} x {columns} must divide {tuple(picture.shape[1:])}")
    frames = picture.reshape(4, rows, height, columns, width).permute(1, 3, 0, 2, 4)
    frames = frames.reshape(-1, 4, height, width)[: int(row.get("frames", rows * columns))].contiguous()
    fps = row.get("fps") or frames.shape[0] / float(row.get("seconds", frames.shape[0] / 8.0))
    return frames, float(fps)


def _film(path: Path, side: int | None) -> tuple[Tensor, float, bool]:
    frames: list[Tensor] = []
    with VideoReader(path, variable="hold") as film:
        for frame in film:
            if frame.shape[0] == 3:
                frame = torch.cat([frame, torch.ones_like(frame[:1])])
            frames.append(_eight_bit(_shrunk(frame, side)))
        if not frames:
            raise InputError(f"{path}: has no frame")
        return torch.stack(frames), float(film.fps), film.has_alpha


def _pair(clip: ClipFile, side: int | None) -> tuple[Tensor, float]:
    colour, matte = clip.paths
    frames: list[Tensor] = []
    with VideoReader(colour, variable="hold") as film, VideoReader(matte, variable="hold") as mattes:
        size = (film.height, film.width)
        if (mattes.height, mattes.width) != size:
            found = f"{mattes.width}x{mattes.height}"
            raise InputError(f"{clip.name}: the matte must be {film.width}x{film.height} as its colour, found {found}")
        for picture, alpha in zip(film, mattes, strict=False):
            # A matte is a grey film: its three channels differ by the codec's rounding only.
            frames.append(_eight_bit(_shrunk(torch.cat([picture[:3], alpha[:3].mean(0, keepdim=True)]), side)))
        fps = float(film.fps)
        for name, other in (("colour", film), ("matte", mattes)):
            if other.frames is not None and other.frames > len(frames) + 1:
                log.warning("%s: its %s has %d frames, %d are used", clip.name, name, other.frames, len(frames))
    if not frames:
        raise InputError(f"{clip.name}: has no frame")
    return torch.stack(frames), fps


def _shrunk(frame: Tensor, side: int | None) -> Tensor:
    short = min(frame.shape[-2:])
    if side is None or short <= side:
        return frame
    height, width = (max(1, round(length * side / short)) for length in frame.shape[-2:])
    return resize_rgba(frame, (height, width))


def _eight_bit(frame: Tensor) -> Tensor:
    return (frame.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def _rows(folder: Path, split: str | None, table: str | None) -> Iterator[ClipFile]:
    """The animations of a shard folder: rows with a sheet, or that name a film."""
    names = [table] if table is not None else sorted(path.stem for path in folder.glob("*.jsonl"))
    for name in names:
        index = ShardIndex.open(folder, name)
        for row in index.select(split=split):
            captions = tuple(row.get("captions") or ([row["caption"]] if row.get("caption") else []))
            if "sheet" in row:
                yield ClipFile(row["file"], "sheet", (), captions, row, index)
            elif row.get("shard") is None and Path(row["file"]).suffix.lower() in FILMS and "frames" in row:
                yield ClipFile(row["file"], "film", (folder / row["file"],), captions, row)


def _files(folder: Path) -> Iterator[ClipFile]:
    """The clips of a folder without shards, in order of name."""
    if (folder / "fgr").is_dir() and (folder / "pha").is_dir() and not _numbered(folder / "fgr"):
        yield from _paired(folder, folder / "fgr", folder / "pha")
        return
    if _numbered(folder):
        yield ClipFile(folder.name, "frames", (folder,), _inside(folder) or _beside(folder))
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _folder(path)
        elif path.suffix.lower() in FILMS and not path.stem.endswith("_pha"):
            if path.stem.endswith("_fgr"):
                name = path.stem.removesuffix("_fgr")
                matte = next(iter(sorted(folder.glob(f"{_literal(name)}_pha.*"))), None)
                if matte is None:
                    log.warning("clip left out: %s has no matte %s_pha.*", path, name)
                    continue
                yield ClipFile(name, "pair", (path, matte), _beside(folder / name))
            else:
                yield ClipFile(path.stem, "film", (path,), _beside(path))


def _folder(path: Path) -> Iterator[ClipFile]:
    """One clip in a folder of its own: a pair, or frames."""
    captions = _inside(path) or _beside(path)
    colour, matte = (_kind_of(path, name) for name in ("fgr", "pha"))
    if colour is not None and matte is not None:
        yield ClipFile(path.name, "pair", (colour, matte), captions)
    elif _numbered(path / "frames"):
        yield ClipFile(path.name, "frames", (path / "frames",), captions)
    elif _numbered(path):
        yield ClipFile(path.name, "frames", (path,), captions)


def _paired(folder: Path, colours: Path, mattes: Path) -> Iterator[ClipFile]:
    by_name = {path.stem if path.is_file() else path.name: path for path in sorted(mattes.iterdir())}
    for path in sorted(colours.iterdir()):
        name = path.stem if path.is_file() else path.name
        if path.is_file() and path.suffix.lower() not in FILMS:
            continue
        if name not in by_name:
            log.warning("clip left out: %s has no matte of its name in %s", path, mattes)
            continue
        yield ClipFile(name, "pair", (path, by_name[name]), _beside(path) or _beside(folder / name))


def _kind_of(folder: Path, name: str) -> Path | None:
    """``folder/fgr`` as a folder of frames or a film."""
    if _numbered(folder / name):
        return folder / name
    return next((path for path in sorted(folder.glob(f"{name}.*")) if path.suffix.lower() in FILMS), None)


def _numbered(folder: Path) -> bool:
    """Whether a folder holds still PNG files (and is a clip), not animated ones (which are clips each)."""
    first = next(iter(sorted(folder.glob("*.png"))), None) if folder.is_dir() else None
    if first is None:
        return False
    try:
        return count_frames(first) == 1
    except PellucidError:
        return True  # a damaged frame: reading the clip will name it


def _beside(path: Path) -> tuple[str, ...]:
    """``CLIP.txt`` beside a film or a folder."""
    return _lines(path.with_name(f"{path.stem if path.suffix.lower() in FILMS else path.name}.txt"))


def _inside(folder: Path) -> tuple[str, ...]:
    for name in ("caption.txt", "captions.txt"):
        if lines := _lines(folder / name):
            return lines
    return ()


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: a caption file must be text in UTF-8: {error}") from error


def _told(path: Path, clips: list[ClipFile]) -> list[ClipFile]:
    """Add the captions of ``metadata.csv``; a file may have several rows.

    Raises:
        InputError: the table has no column for files or none for texts.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = {(name or "").strip().lower(): name for name in table.fieldnames or ()}
            key = next((columns[name] for name in _FILE_COLUMNS if name in columns), None)
            text = next((columns[name] for name in _TEXT_COLUMNS if name in columns), None)
            if key is None or text is None:
                found = ", ".join(columns) or "none"
                raise InputError(f"{path}: needs the columns file and caption, found {found}")
            told: dict[str, list[str]] = {}
            for row in table:
                if row[key] and row[text] and row[text].strip():
                    told.setdefault(_plain_name(row[key].strip()), []).append(row[text].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error
    unknown = sorted(told.keys() - {clip.name for clip in clips})
    if unknown:
        log.warning("%s: %d rows name no clip: %s", path, len(unknown), _some(unknown))
    return [
        ClipFile(clip.name, clip.kind, clip.paths, clip.captions + tuple(told.get(clip.name, ())), clip.facts)
        for clip in clips
    ]


def _plain_name(text: str) -> str:
    """``clips/heart.webm`` -> ``heart``."""
    name = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in FILMS else name


def _literal(text: str) -> str:
    """A name with what a glob would read as a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
