"""``pellucid dereflect``: reflections out of photographs, folders of them, and films."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Inputs,
    Model,
    Offline,
    Out,
    Overwrite,
    Quiet,
    Seed,
    StripMetadata,
    Verbose,
    Workers,
    frame_progress,
    run_batch,
    start_logging,
)
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pellucid.io.batch import Job
    from pellucid.layers import LayerStack
    from pellucid.registry import Method

logger = logging.getLogger(__name__)

TASK = "reflection-removal"
MAIN, ALL = "transmission", "layers"
_OWN = (MAIN, ALL, "reflection", "depth", "confidence", *(f"range_{index}" for index in range(10)))
_OTHER_FILMS = (".mkv", ".avi", ".m4v")  # read, not written
_GREY = ("depth", "confidence")  # measurements, worth 16 bits whatever the photograph has


def dereflect(
    inputs: Inputs,
    out: Out = None,
    strength: Annotated[
        float, typer.Option("--strength", min=0.0, max=1.5, help="How much of the correction is applied.")
    ] = 1.0,
    passes: Annotated[int, typer.Option("--passes", min=1, help="How often the result is fed in again.")] = 1,
    way: Annotated[
        Literal["fast", "exact"],
        typer.Option("--way", help="fast: one look at a reduced picture; exact: full size in tiles."),
    ] = "fast",
    tile: Annotated[int, typer.Option("--tile", min=64, help="Side of a tile in pixels, a multiple of 16.")] = 512,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also write reflection, depth ranges, depth and confidence.")
    ] = False,
    depth: Annotated[
        str,
        typer.Option(
            "--depth",
            metavar="auto|cue|none|midas_small|transformers|PATH",
            help="Where depth comes from; PATH is a depth picture, or a folder of them for a batch.",
        ),
    ] = "auto",
    depth_weights: Annotated[
        Path | None,
        typer.Option("--depth-weights", metavar="PATH", help="File of MiDaS, or folder of a transformers network."),
    ] = None,
    depth_kind: Annotated[
        Literal["inverse", "metric"] | None,
        typer.Option("--depth-kind", help="What a depth picture holds: larger is nearer, or farther."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="png|jpg|webp|tif|ora|psd|...",
            help="Format of the result, the input's by default; ora and psd hold all layers.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    workers: Workers = None,
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    strip_metadata: StripMetadata = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Take the reflection out of photographs and films made through glass.

    The result is <stem>.transmission.<ext>, of the input's size, with its alpha, EXIF, colour profile and bit depth.
    A folder's tree is mirrored under OUT; finished files are skipped, so the same command goes on after Ctrl-C.
    """
    from pellucid.io import batch, formats
    from pellucid.registry import find

    start_logging(quiet, verbose)
    if seed is not None:
        logger.info("there is no noise in this task: --seed changes nothing")
    extension = _extension_rule(out, format)
    layered = _is_layered(format or (None if out is None or batch.is_folder(out) else Path(out).suffix))
    jobs = batch.collect(
        inputs,
        out,
        suffixes={suffix for row in formats.FORMATS if row.reader for suffix in row.suffixes if suffix}
        | {*_OTHER_FILMS},
        layer=ALL if layered else MAIN,
        extension=extension,
        own=_OWN,
    )
    if layers and not layered and any(job.target is None and job.problem is None for job in jobs):
        raise ConfigError("stdout can hold one picture, --layers makes several", "add --format ora, or -o FILE")
    if Path(depth).is_file() and len(jobs) > 1:
        raise ConfigError(f"--depth {depth} is one picture for {len(jobs)} inputs", "give a folder of depth pictures")
    maker = Dereflect(
        find(TASK),
        model,
        device,
        offline,
        Settings(
            strength=strength,
            passes=passes,
            way=way,
            tile=tile,
            depth=depth,
            depth_options={
                name: value
                for name, value in (("depth_weights", depth_weights), ("depth_kind", depth_kind))
                if value is not None
            },
            layers=layers,
            layered=layered,
            format=format,
            overwrite=overwrite,
            strip=strip_metadata,
            quiet=quiet,
            lone=len(jobs) == 1 and jobs[0].explicit,
        ),
    )
    run_batch(jobs, maker, inputs=inputs, out=out, workers=workers, device=device, overwrite=overwrite, quiet=quiet)


def _extension_rule(out: str | None, format: str | None) -> Callable[[Path], str]:
    """Suffix of a result: that of ``--format``, else the input's where it can be written, else PNG or MOV."""
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
        if _is_film(path):
            return path.suffix if path.suffix.lower() in films else ".mov"
        return path.suffix if path.suffix.lower() in stills else ".png"

    return keep


def _is_layered(suffix: str | None) -> bool:
    from pellucid.io import formats

    return bool(suffix) and any(
        row.layers and f".{suffix.lower().lstrip('.')}" in row.suffixes for row in formats.FORMATS
    )


def _is_film(path: Path) -> bool:
    """Whether a file name is that of a film; ``.png``, ``.webp`` and ``.gif``, which can be both, count as pictures."""
    from pellucid.io import formats

    suffix = path.suffix.lower()
    rows = [row for row in formats.FORMATS if suffix and suffix in row.suffixes]
    return suffix in _OTHER_FILMS or (bool(rows) and not any(row.still for row in rows))


@dataclass(frozen=True)
class Settings:
    """The verb's options as far as one picture needs them."""

    strength: float = 1.0
    passes: int = 1
    way: str = "fast"
    tile: int = 512
    depth: str = "auto"
    depth_options: dict[str, Any] = field(default_factory=dict[str, Any])
    layers: bool = False
    layered: bool = False
    format: str | None = None
    overwrite: bool = False
    strip: bool = False
    quiet: bool = False
    lone: bool = True  # a single file named by the user, not one of a batch


@dataclass(frozen=True)
class Dereflect:
    """Makes the work in whichever process does it: the pipeline once, then one job after the other."""

    method: "Method"  # as a value: worker processes see the registry as it is on disk
    model: str | None
    device: str
    offline: bool
    settings: Settings

    def __call__(self) -> Callable[["Job"], None]:
        from pellucid.registry import resolve

        pipe = resolve(self.method.pipeline).from_pretrained(self.model, device=self.device, offline=self.offline)
        return lambda job: _one(pipe, job, self.settings)


class _Stdin(BytesIO):
    name = "stdin"  # what messages call it


def _one(pipe: Any, job: "Job", settings: Settings) -> None:
    if job.source is not None and _is_film(job.source):
        _one_film(pipe, job, settings)
        return
    from pellucid import io

    source: Any = job.source
    format = settings.format
    if source is None:
        data = sys.stdin.buffer.read()
        source, format = _Stdin(data), format or _sniff(data)
    stack = pipe(
        io.load_image(source),
        strength=settings.strength,
        passes=settings.passes,
        way=settings.way,
        tile=settings.tile,
        depth=_depth_for(job, settings.depth),
        ranges=settings.layers or settings.layered,
        **settings.depth_options,
    )
    if settings.strip:
        stack = replace(stack, meta=replace(stack.meta, exif=None, xmp=None, dpi=None, source=None))
    _save(stack, job, settings, format)


def _save(stack: "LayerStack", job: "Job", settings: Settings, format: str | None) -> None:
    from pellucid import io
    from pellucid.io.files import check_output

    main = stack if settings.layered else stack.only(MAIN)
    if job.target is None:
        io.save(main, "-", format=format)
        return
    # A batch gets here for an output that is there only when it is empty, the remains of something that failed.
    again = settings.overwrite or not settings.lone
    others = {} if not settings.layers or settings.layered else _other_layers(stack, job.target)
    for path in others.values():
        if again and not settings.overwrite and path.exists():
            logger.warning("%s is replaced: it was left by a run that did not finish", path)
        check_output(path, again)
    # The main layer last: its file says that all of them are there.
    for name, path in others.items():
        part = stack.only(name)
        if name in _GREY:
            part = replace(part, meta=replace(part.meta, bit_depth=16, icc_profile=None))
        part.save(path, overwrite=again)
    options = {} if settings.format is None or job.target.suffix else {"format": settings.format}
    main.save(job.target, overwrite=again or _is_empty(job.target), **options)


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _other_layers(stack: "LayerStack", target: Path) -> dict[str, Path]:
    """Files of the layers beside the main one: the reflection in its format, the others, which have alpha, as PNG."""
    stem = target.stem.removesuffix(f".{MAIN}")
    return {
        name: target.with_name(f"{stem}.{name}{target.suffix if name == 'reflection' else '.png'}")
        for name in stack.names
        if name != MAIN
    }


def _depth_for(job: "Job", depth: str) -> str:
    """The depth picture of this job when ``--depth`` is a folder of them: same place and stem below it."""
    folder = Path(depth)
    if not folder.is_dir():
        return depth
    place = folder / job.relative.parent
    stem = job.relative.stem
    found = sorted(path for path in place.glob("*") if path.stem == stem) if place.is_dir() else []
    if not found:
        raise InputError(f"{job.label}: no depth picture {place / stem}.* is there", "see --depth")
    return str(found[0])


def _sniff(data: bytes) -> str:
    """Suffix of the format that the bytes are in, PNG when we cannot write that one."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as picture:
            return {"JPEG": "jpg", "WEBP": "webp", "TIFF": "tif"}.get(picture.format or "", "png")
    except Exception:  # what is wrong with it is for the reader to say
        return "png"


def _one_film(pipe: Any, job: "Job", settings: Settings) -> None:
    from pellucid.io.video import VideoReader, VideoWriter

    for name, wrong in (
        ("--layers", settings.layers or settings.layered),
        ("--passes", settings.passes != 1),
        ("--way exact", settings.way != "fast"),
    ):
        if wrong:
            raise ConfigError(f"{job.label}: {name} is for pictures, found a film")
    assert job.source is not None
    if job.target is None:
        raise ConfigError(f"{job.label}: a film cannot go to stdout", "give -o FILE")
    overwrite = settings.overwrite or _is_empty(job.target)
    with (
        VideoReader(job.source) as reader,
        VideoWriter(
            job.target,
            reader.width,
            reader.height,
            reader.fps,
            reader.has_alpha,
            overwrite=overwrite,
            bit_depth=reader.bit_depth,
            audio_from=job.source if reader.has_sound else None,
        ) as writer,
        frame_progress(reader.frames, quiet=settings.quiet or not settings.lone) as advance,
    ):
        depth = _depth_for(job, settings.depth)
        for frame in pipe.video(reader, strength=settings.strength, depth=depth, **settings.depth_options):
            writer.write(frame)
            advance()
