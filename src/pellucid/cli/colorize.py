"""``pellucid colorize``: words give a grey photograph its colours; folders of them, and films."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from pellucid.cli.captions import read_captions, texts_for
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
    check_others,
    extension_rule,
    is_film,
    is_layered,
    read_picture,
    readable_suffixes,
    save_film,
    save_result,
    stripped,
)
from pellucid.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.io.batch import Job
    from pellucid.io.video import VideoReader
    from pellucid.layers import LayerStack
    from pellucid.registry import Method

logger = logging.getLogger(__name__)

TASK = "colorization"
MAIN, RESULT, LUMINANCE = "color", "colorized", "luminance"
_MOST = 99  # variants
_OWN = (RESULT, LUMINANCE, *(f"{RESULT}-{number}" for number in range(1, _MOST + 1)))
_SHOWN = 10  # unknown words that are named before the rest is counted
_REGION = "--region"
_JOINT = "\0"  # between the two values of --region; no argument of a command line can hold it


class _TakesRegions(TyperCommand):
    """Gives ``--region`` its two values; typer has options that repeat and options of two values, but none of both."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_regions(args))


def join_regions(arguments: Sequence[str]) -> list[str]:
    """Make one argument of the two that follow each ``--region``; nothing changes behind ``--``.

    A second one that begins with a dash is the next option: the words were forgotten, which `_pairs` says.
    """
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*joined, word, *rest]
        if word == _REGION and rest:
            joined.append(word)
            word = rest.pop(0)
        elif not word.startswith(f"{_REGION}="):
            joined.append(word)
            continue
        paired = bool(rest) and not rest[0].startswith("-")
        joined.append(word + _JOINT + rest.pop(0) if paired else word)
    return joined


def _pairs(regions: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    found = [tuple(region.split(_JOINT)) for region in regions or ()]
    if any(len(pair) != 2 for pair in found):
        raise ConfigError(f"{_REGION} needs two values, found one", f'write {_REGION} 10,20,110,90 "a red hat"')
    return tuple((where, phrase) for where, phrase in found)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("colorize", cls=_TakesRegions)
def colorize(
    inputs: Inputs,
    out: Out = None,
    text: Annotated[
        str, typer.Option("--text", "-t", help="What is there in which colour; without it colours are guessed.")
    ] = "",
    region: Annotated[
        list[str] | None,
        typer.Option(
            _REGION,
            metavar="MASK|X0,Y0,X1,Y1 TEXT",
            help="Words for a part: a mask picture, or a box in pixels or percent; as often as you like.",
            show_default=False,
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            metavar="FILE.csv|FILE.jsonl",
            help="A text for each picture, in columns file and text; --text is for those it does not name.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", min=0.0, max=1.5, help="How much the words count; 0 is without them.")
    ] = 1.0,
    saturation: Annotated[
        float, typer.Option("--saturation", min=0.0, help="Factor on all colourfulness; 0 is grey.")
    ] = 1.0,
    variants: Annotated[
        int, typer.Option("--variants", min=1, max=_MOST, help="Make so many different results of each picture.")
    ] = 1,
    gamut: Annotated[
        Literal["chroma", "clip"],
        typer.Option("--gamut", help="Colours that no screen has: chroma makes them paler, clip changes lightness."),
    ] = "chroma",
    keep: Annotated[
        bool, typer.Option("--keep", help="Outside the regions a coloured picture keeps its own colours.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Also write the luminance as a file.")] = False,
    palette: Annotated[
        str | None,
        typer.Option(
            "--palette",
            metavar="FILE.json|DIR|-",
            help="Write the six main colours of the result as JSON; DIR for several pictures, - is stdout.",
            show_default=False,
        ),
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
    """Colour photographs and films with words: --text "a red dress".

    The result is <stem>.colorized.<ext>, of the input's size and with its own luminance, alpha, EXIF, colour profile
    and bit depth. ora and psd hold the layers color and luminance. A folder's tree is mirrored under OUT; finished
    files are skipped.
    """
    from pellucid.io import batch
    from pellucid.registry import find

    start_logging(quiet, verbose)
    regions = _pairs(region)
    extension = extension_rule(out, format)
    layered = is_layered(out, format)
    jobs = batch.collect(inputs, out, suffixes=readable_suffixes(), layer=RESULT, extension=extension, own=_OWN)
    lone = len(jobs) == 1 and jobs[0].explicit
    wanted = {
        "--layers": layers and not layered,
        "--variants": variants > 1,
        "--palette -": palette == batch.STDIO,
    }
    if any(job.target is None and job.problem is None for job in jobs):
        for name, given in wanted.items():
            if given:
                raise ConfigError(f"stdout can hold one result, {name} makes more", "give -o FILE")
    _check_palette(palette, several=not lone, overwrite=overwrite)
    settings = Settings(
        Output(
            layers=layers,
            layered=layered,
            format=format,
            overwrite=overwrite,
            strip=strip_metadata,
            quiet=quiet,
            lone=lone,
        ),
        text=text,
        texts={} if captions is None else texts_for(jobs, read_captions(captions), text),
        regions=regions,
        strength=strength,
        saturation=saturation,
        variants=variants,
        gamut=gamut,
        keep=keep,
        seed=seed,
        palette=palette,
    )
    jobs = _numbered(jobs, settings)
    run_batch(
        jobs,
        Colorize(find(TASK), model, device, offline, settings),
        inputs=inputs,
        out=out,
        workers=workers,
        device=device,
        overwrite=overwrite,
        quiet=quiet,
    )


@dataclass(frozen=True)
class Settings:
    """The verb's options as far as one picture needs them.

    Attributes:
        texts: label of a job -> its text, where a file of captions was given.
        regions: where, as it was written, and the words for it.
        palette: a file, a folder, or ``"-"`` for stdout.
    """

    output: Output
    text: str = ""
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    regions: tuple[tuple[str, str], ...] = ()
    strength: float = 1.0
    saturation: float = 1.0
    variants: int = 1
    gamut: str = "chroma"
    keep: bool = False
    seed: int | None = None
    palette: str | None = None

    def text_for(self, job: "Job") -> str:
        """The text of a picture: from the file of captions, else the one for all."""
        return self.texts.get(job.label, self.text)


def _check_palette(palette: str | None, *, several: bool, overwrite: bool) -> None:
    from pellucid.io.batch import STDIO, is_folder
    from pellucid.io.files import check_output

    if palette is None or palette == STDIO or is_folder(palette):
        return
    if not several:
        check_output(palette, overwrite)
    elif Path(palette).suffix or Path(palette).exists():
        raise ConfigError(f"--palette {palette} is one file for several inputs", "give a folder")


def _numbered(jobs: "Sequence[Job]", settings: Settings) -> "list[Job]":
    """Let the target of each job be its last variant, and refuse to write over an input.

    The last file says that all of them are there.
    """
    if settings.variants > 1:
        jobs = [
            job if job.target is None else replace(job, target=_variant(job.target, settings.variants)) for job in jobs
        ]
    sources = {os.path.realpath(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        for path in [] if job.target is None else [job.target, *_beside(job, settings)]:
            if os.path.realpath(path) in sources:
                raise ConfigError(f"output {path} is also an input", "give another -o")
    return list(jobs)


def _variant(target: Path, number: int) -> Path:
    return target.with_name(f"{target.stem}-{number}{target.suffix}")


def _stem(job: "Job", settings: Settings) -> str:
    assert job.target is not None
    stem = job.target.stem
    return stem if settings.variants == 1 else stem.removesuffix(f"-{settings.variants}")


def _beside(job: "Job", settings: Settings) -> list[Path]:
    """Files of a job besides its target: the variants before the last one, then the luminance."""
    assert job.target is not None
    stem = _stem(job, settings)
    first = job.target.with_name(stem + job.target.suffix)
    found = [_variant(first, number) for number in range(1, settings.variants)]
    if settings.output.layers and not settings.output.layered:
        found.append(first.with_name(f"{stem.removesuffix(f'.{RESULT}')}.{LUMINANCE}{first.suffix}"))
    return found


@dataclass(frozen=True)
class Colorize:
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
    from pellucid.io.batch import STDIO

    _tell_unknown(pipe, job, settings)
    if job.source is not None and is_film(job.source):
        _one_film(pipe, job, settings)
        return
    output = settings.output
    picture, format = read_picture(job, output)
    beside = [] if job.target is None else _beside(job, settings)
    again = check_others(beside, output)
    rows: list[dict[str, Any]] = []
    stacks = _colored(pipe, picture, settings.text_for(job), settings)
    del picture  # a large one is not kept while the only result is written
    for number, stack in enumerate(stacks, 1):
        last = number == settings.variants
        if output.strip:
            stack = stripped(stack)
        main = stack if output.layered else stack.only(MAIN)
        if not last:
            main.save(beside[number - 1], overwrite=again)
        else:
            # The last file says that all of them are there.
            luminance = {path: stack.only(LUMINANCE) for path in beside[number - 1 :]}
            save_result(main, job, output, format=format, others=luminance)
        if settings.palette is not None:
            name = STDIO if job.target is None else str(job.target if last else beside[number - 1])
            rows.append({"output": name, "colors": pipe.palette(stack)})
    if settings.palette is not None:
        _write_palette(rows, job, settings)


def _colored(pipe: Any, picture: "LayerStack", text: str, settings: Settings) -> "Iterator[LayerStack]":
    """The variants, one after the other: of a large picture one is in memory at a time."""
    options: dict[str, Any] = {
        "regions": settings.regions,
        "strength": settings.strength,
        "saturation": settings.saturation,
        "gamut": settings.gamut,
        "keep": settings.keep,
    }
    if settings.variants == 1:
        return iter([pipe(picture, text, seed=settings.seed, **options)])
    return iter(pipe.variants(picture, text, settings.variants, settings.seed or 0, **options))


def _tell_unknown(pipe: Any, job: "Job", settings: Settings) -> None:
    for text in (settings.text_for(job), *(phrase for _, phrase in settings.regions)):
        encoded = pipe.encode(text)
        if not encoded.unknown:
            continue
        more = f" and {len(encoded.unknown) - _SHOWN} more" if len(encoded.unknown) > _SHOWN else ""
        effect = "" if encoded.known else "; no word is left, so its colours are guessed"
        logger.warning("%s: not known: %s%s%s", job.label, ", ".join(encoded.unknown[:_SHOWN]), more, effect)


def _write_palette(rows: list[dict[str, Any]], job: "Job", settings: Settings) -> None:
    from pellucid.io.batch import STDIO, is_folder
    from pellucid.io.files import atomic_path

    line = json.dumps({"input": job.label, "text": settings.text_for(job), "results": rows}, ensure_ascii=False)
    assert settings.palette is not None
    if settings.palette == STDIO:
        typer.echo(line)
        return
    place = Path(settings.palette)
    if not settings.output.lone or is_folder(settings.palette):
        place = place / job.relative.with_suffix(".palette.json")
        place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(place, settings.output.overwrite or not settings.output.lone) as temporary:
        temporary.write_text(line + "\n", encoding="utf-8")


def _one_film(pipe: Any, job: "Job", settings: Settings) -> None:
    output = settings.output

    def color(frames: "VideoReader") -> "Iterable[Tensor]":
        return pipe.video(
            frames,
            settings.text_for(job),
            strength=settings.strength,
            saturation=settings.saturation,
            gamut=settings.gamut,
            seed=settings.seed,
        )

    save_film(
        job,
        output,
        color,
        pictures_only={
            "--layers": output.layers or output.layered,
            "--variants": settings.variants > 1,
            "--palette": settings.palette is not None,
            _REGION: bool(settings.regions),
            "--keep": settings.keep,
        },
    )
