"""Pictures in plain tar shards with one JSON line each, read in place.

A data folder holds ``NAME.jsonl``, whose rows have ``file``, ``split`` and mostly ``shard`` (the tar that holds the
member ``file``; a row without it names a plain file in the folder), and the tar files. Nothing is unpacked: a member
is read by its offset.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from pellucid.errors import ConfigError, InputError

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
_Members = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class ShardIndex:
    """The rows of one ``NAME.jsonl`` and random access to their pictures. Open with `ShardIndex.open`.

    Attributes:
        root: the data folder.
        rows: one mapping per picture, as in the file.
    """

    root: Path
    rows: tuple[Row, ...]
    _offsets: dict[str, _Members] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, root: str | Path, name: str | None = None) -> ShardIndex:
        """Read the rows of a data folder.

        Args:
            root: the folder.
            name: which ``NAME.jsonl``; may be left out when there is one only.

        Raises:
            ConfigError: the folder or the file is not there, or there are several and none is named.
            InputError: a line is not a row, or a row's name leads out of the folder.
        """
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"data folder {folder} is not there")
        tables = sorted(path.stem for path in folder.glob("*.jsonl"))
        if name is None:
            if len(tables) != 1:
                raise ConfigError(f"{folder} must hold one .jsonl, found {len(tables)}", f"name one of {tables}")
            name = tables[0]
        path = folder / f"{name}.jsonl"
        if name not in tables:
            raise ConfigError(f"{path} is not there", f"there are {', '.join(tables) or 'none'}")
        return cls(folder, tuple(_read_rows(path)))

    def select(self, *, split: str | None = None, where: Callable[[Row], bool] | None = None) -> ShardIndex:
        """Keep the rows of a split (``"train"``, ``"val"``) for which ``where`` holds, in the same order."""
        kept = tuple(
            row for row in self.rows if split in (None, row.get("split")) and (where is None or bool(where(row)))
        )
        return ShardIndex(self.root, kept, self._offsets)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def read(self, row: Row) -> bytes:
        """Return the bytes of a row's file.

        Raises:
            InputError: the shard or the member is not there, or the shard is cut short.
        """
        name, shard = row["file"], row.get("shard")
        try:
            if shard is None:
                return (self.root / name).read_bytes()
            if shard not in self._offsets:
                self._offsets[shard] = _members(self.root / shard)
            if name not in self._offsets[shard]:
                raise InputError(f"{self.root / shard} has no member {name!r}")
            offset, size = self._offsets[shard][name]
            with open(self.root / shard, "rb") as file:  # opened per read: an index can cross to worker processes
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise InputError(f"{name!r} of {self.root} cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise InputError(f"{self.root / shard} is cut short: {name!r} has {len(data)} of {size} bytes")
        return data

    def image(self, row: Row, mode: str = "RGB") -> Tensor:
        """Decode a row's picture.

        Args:
            row: one of `rows`.
            mode: ``"RGB"``, ``"RGBA"`` or ``"L"``.

        Returns:
            ``(C, H, W)`` uint8, upright.

        Raises:
            InputError: the picture cannot be decoded, or has alpha that ``mode`` would drop.
        """
        return decode(self.read(row), mode, name=str(row["file"]))


def decode(data: bytes, mode: str = "RGB", *, name: str = "picture") -> Tensor:
    """Decode a compressed 8-bit picture to ``(C, H, W)`` uint8, upright; see `ShardIndex.image`."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened)
            if mode != "RGBA" and _is_transparent(picture):
                raise InputError(f"{name!r} has transparency, which {mode} cannot hold", 'decode it as "RGBA"')
            picture = picture.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name!r} is not a picture that can be read: {error}") from error
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(picture.height, picture.width, -1).permute(2, 0, 1).contiguous()  # (C, H, W)


def _is_transparent(picture: Image.Image) -> bool:
    return picture.has_transparency_data and min(picture.convert("RGBA").getchannel("A").tobytes()) < 255


def _read_rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("file"), str):
                raise InputError(f"{path} line {number} must be an object with a file name")
            for key in ("file", "shard"):
                if row.get(key) is not None and _climbs(row[key]):
                    raise InputError(f"{path} line {number}: {key} {row[key]!r} leads out of the data folder")
            yield row


def _members(path: Path) -> _Members:
    """Offsets and sizes of the plain files in an uncompressed tar; names that climb are refused."""
    found: _Members = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if _climbs(member.name):
                    raise InputError(f"{path} has a member {member.name!r} that leads out of the folder")
                if member.isreg() and not member.issparse():
                    found[member.name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(f"{path} is not a plain tar: {error}") from error
    return found


def _climbs(name: object) -> bool:
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name or ":" in name.split("/")[0]:
        return True
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
