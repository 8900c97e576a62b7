"""What verbs that turn pictures into layers share: which file a result becomes, how it is read, written and filmed."""

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import frame_progress
from pellucid.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.io.batch import Job
    from pellucid.io.video import VideoReader
    from pellucid.layers import LayerStack

logger = logging.getLogger(__name__)

_OTHER_FILMS = (".mkv", ".avi", ".m4v")  # read, not written

Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="png|jpg|webp|tif|ora|psd|...",
        help="Format of the result, the input's by default; ora and psd hold all layers.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Output:
    """How results are written, as far as one job needs it.

    Attributes:
        layers: every layer becomes a file of its own.
        layered: the format holds all layers.
        format: that of ``--format``; None is the input's.
        overwrite: files that are there may be replaced.
        strip: leave out EXIF, XMP, resolution and names.
        quiet: no bar.
        lone: a single file named by the user, not one of a batch.
    """

    layers: bool = False
    layered: bool = False
    format: str | None = None
    overwrite: bool = False
    strip: bool = False
    quiet: bool = False
    lone: bool = True


def readable_suffixes() -> set[str]:
    """Suffixes of the pictures and films that a folder is searched for."""
    from pellucid.io import formats

    return {suffix for row in formats.FORMATS if row.reader for suffix in row.suffixes if suffix} | {*_OTHER_FILMS}


def extension_rule(out: str | None, format: str | None) -> Callable[[Path], str]:
    """Suffix of a result: that of ``--format``, else the input's where it can be written, else PNG or MOV.

    Raises:
        ConfigError: the format cannot be written, or ``out`` asks for another.
    """
    from pellucid.io import batch, formats

    stills = {suffix for row in formats.FORMATS if row.still and row.writer for suffix in row.suffixes}
    films = {suffix for row in formats.FORMATS if row.time and row.writer for suffix in row.suffixes} - {""}
    if format is not None:
        asked = f".{format.lower().lstrip('.')}"
        if asked not in stills | films:
            able = formats.suffixes_that("still"), formats.suffixes_that("time")
            raise ConfigError(f"format {format!r} cannot be written", f"use one of {', '.join(able)}")
        if out not in (None, batch.STDIO) and not batch.is_folder(out):
            told = Path(out).suffix.lower()
            row = next(row for row in formats.FORMATS if asked in row.suffixes)
            if told and told not in row.suffixes:
                raise ConfigError(f"--format {format} and -o {out} ask for different formats", "leave one of them out")
        return lambda path: asked

    def keep(path: Path) -> str:
        if is_film(path):
            return path.suffix if path.suffix.lower() in films else ".mov"
        return path.suffix if path.suffix.lower() in stills else ".png"

    return keep


def is_layered(out: str | None, format: str | None) -> bool:
    """Whether the result goes into a file that holds all layers, by ``--format`` or else by the suffix of ``-o``."""
    from pellucid.io import batch, formats

    suffix = format or (None if out is None or batch.is_folder(out) else Path(out).suffix)
    return bool(suffix) and any(
        row.layers and f".{suffix.lower().lstrip('.')}" in row.suffixes for row in formats.FORMATS
    )


def is_film(path: Path) -> bool:
    """Whether a file name is that of a film; ``.png``, ``.webp`` and ``.gif``, which can be both, count as pictures."""
    from pellucid.io import formats

    suffix = path.suffix.lower()
    rows = [row for row in formats.FORMATS if suffix and suffix in row.suffixes]
    return suffix in _OTHER_FILMS or (bool(rows) and not any(row.still for row in rows))


class Stdin(BytesIO):
    """Bytes from standard input, by the name that messages call them."""

    name = "stdin"


def read_picture(job: "Job", output: Output) -> tuple["LayerStack", str | None]:
    """Read the picture of a job.

    Returns:
        The stack, and the format to write: for stdin, when none was asked for, the one its bytes are in.

    Raises:
        InputError: it cannot be read.
    """
    from pellucid import io

    if job.source is not None:
        return io.load_image(job.source), output.format
    data = sys.stdin.buffer.read()
    return io.load_image(Stdin(data)), output.format or _sniff(data)


def _sniff(data: bytes) -> str:
    """Suffix of the format that the bytes are in, PNG when we cannot write that one."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as picture:
            return {"JPEG": "jpg", "WEBP": "webp", "TIFF": "tif"}.get(picture.format or "", "png")
    except Exception:  # what is wrong with it is for the reader to say
        return "png"


def stripped(stack: "LayerStack") -> "LayerStack":
    """Leave out what tells about the file and its maker; the profile, which says what its colours are, stays."""
    return replace(stack, meta=replace(stack.meta, exif=None, xmp=None, dpi=None, source=None))


def save_result(
    main: "LayerStack",
    job: "Job",
    output: Output,
    *,
    format: str | None = None,
    others: Mapping[Path, "LayerStack"] | None = None,
) -> None:
    """Write the result of one job: the files beside it first, then the one that says that all of them are there.

    Args:
        main: what the job's target holds.
        job: its target None is stdout.
        output: the verb's options.
        format: of what goes to stdout.
        others: stacks of the other files.

    Raises:
        InputError: a file is there and may not be replaced, or cannot be written.
        FormatError: the format cannot hold the picture.
    """
    from pellucid import io

    if job.target is None:
        io.save(main, "-", format=format)
        return
    again = check_others(list(others or {}), output)
    for path, stack in (others or {}).items():
        stack.save(path, overwrite=again)
    options = {} if output.format is None or job.target.suffix else {"format": output.format}
    main.save(job.target, overwrite=again or is_empty(job.target), **options)


def check_others(paths: Collection[Path], output: Output) -> bool:
    """Say before anything is written whether files beside the main one may be, and return whether to replace them.

    Raises:
        InputError: one of them is there, and the user named this one input without ``--overwrite``.
    """
    from pellucid.io.files import check_output

    # A batch gets here for an output that is there only when it is empty, the remains of something that failed.
    again = output.overwrite or not output.lone
    for path in paths:
        if again and not output.overwrite and path.exists():
            logger.warning("%s is replaced: it was left by a run that did not finish", path)
        check_output(path, again)
    return again


def is_empty(path: Path) -> bool:
    """Whether a file is there without content, as one that ``mktemp`` made, which may be written."""
    return path.is_file() and path.stat().st_size == 0


def save_film(
    job: "Job",
    output: Output,
    treat: Callable[["VideoReader"], Iterable["Tensor"]],
    *,
    pictures_only: Mapping[str, bool],
) -> None:
    """Read, treat and write a film frame by frame, with its rate, alpha, depth and sound.

    Args:
        job: its source is a film.
        output: the verb's options.
        treat: turns the frames, ``(3|4, H, W)`` in [0, 1], into as many of the same size.
        pictures_only: options that make no sense for a film -> whether they were given.

    Raises:
        ConfigError: such an option was given, or the film would go to stdout.
        InputError: it cannot be read or written.
    """
    from pellucid.io.video import VideoReader, VideoWriter

    for name, given in pictures_only.items():
        if given:
            raise ConfigError(f"{job.label}: {name} is for pictures, found a film")
    assert job.source is not None
    if job.target is None:
        raise ConfigError(f"{job.label}: a film cannot go to stdout", "give -o FILE")
    with (
        VideoReader(job.source) as reader,
        VideoWriter(
            job.target,
            reader.width,
            reader.height,
            reader.fps,
            reader.has_alpha,
            overwrite=output.overwrite or is_empty(job.target),
            bit_depth=reader.bit_depth,
            audio_from=job.source if reader.has_sound else None,
        ) as writer,
        frame_progress(reader.frames, quiet=output.quiet or not output.lone) as advance,
    ):
        for frame in treat(reader):
            writer.write(frame)
            advance()
