"""``pellucid dereflect``: reflections out of photographs, folders of them, and films."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
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
    run_batch,
    start_logging,
)
from pellucid.cli.outputs import (
    Format,
    Output,
    extension_rule,
    is_film,
    is_layered,
    read_picture,
    readable_suffixes,
    save_film,
    save_result,
    stripped,
)
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.io.batch import Job
    from pellucid.io.video import VideoReader
    from pellucid.layers import LayerStack
    from pellucid.registry import Method

logger = logging.getLogger(__name__)

TASK = "reflection-removal"
MAIN, ALL = "transmission", "layers"
_OWN = (MAIN, ALL, "reflection", "depth", "confidence", *(f"range_{index}" for index in range(10)))
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
    format: Format = None,
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
    from pellucid.io import batch
    from pellucid.registry import find

    start_logging(quiet, verbose)
    if seed is not None:
        logger.info("there is no noise in this task: --seed changes nothing")
    extension = extension_rule(out, format)
    layered = is_layered(out, format)
    jobs = batch.collect(
        inputs,
        out,
        suffixes=readable_suffixes(),
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
            Output(
                layers=layers,
                layered=layered,
                format=format,
                overwrite=overwrite,
                strip=strip_metadata,
                quiet=quiet,
                lone=len(jobs) == 1 and jobs[0].explicit,
            ),
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
        ),
    )
    run_batch(jobs, maker, inputs=inputs, out=out, workers=workers, device=device, overwrite=overwrite, quiet=quiet)


@dataclass(frozen=True)
class Settings:
    """The verb's options as far as one picture needs them."""

    output: Output
    strength: float = 1.0
    passes: int = 1
    way: str = "fast"
    tile: int = 512
    depth: str = "auto"
    depth_options: dict[str, Any] = field(default_factory=dict[str, Any])


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


def _one(pipe: Any, job: "Job", settings: Settings) -> None:
    if job.source is not None and is_film(job.source):
        _one_film(pipe, job, settings)
        return
    output = settings.output
    picture, format = read_picture(job, output)
    stack = pipe(
        picture,
        strength=settings.strength,
        passes=settings.passes,
        way=settings.way,
        tile=settings.tile,
        depth=_depth_for(job, settings.depth),
        ranges=output.layers or output.layered,
        **settings.depth_options,
    )
    del picture  # a large one is not kept while files are written
    if output.strip:
        stack = stripped(stack)
    others: dict[Path, LayerStack] = {}
    if output.layers and not output.layered and job.target is not None:
        others = {path: _alone(stack, name) for name, path in _other_layers(stack, job.target).items()}
    save_result(stack if output.layered else stack.only(MAIN), job, output, format=format, others=others)


def _alone(stack: "LayerStack", name: str) -> "LayerStack":
    part = stack.only(name)
    return replace(part, meta=replace(part.meta, bit_depth=16, icc_profile=None)) if name in _GREY else part


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


def _one_film(pipe: Any, job: "Job", settings: Settings) -> None:
    output = settings.output

    def clear(frames: "VideoReader") -> "Iterable[Tensor]":
        depth = _depth_for(job, settings.depth)
        return pipe.video(frames, strength=settings.strength, depth=depth, **settings.depth_options)

    save_film(
        job,
        output,
        clear,
        pictures_only={
            "--layers": output.layers or output.layered,
            "--passes": settings.passes != 1,
            "--way exact": settings.way != "fast",
        },
    )
