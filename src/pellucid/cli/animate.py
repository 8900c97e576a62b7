"""``pellucid animate``: words, and a picture with alpha, become a clip with alpha."""

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Offline,
    Overwrite,
    Quiet,
    Seed,
    Verbose,
    start_logging,
    step_progress,
)
from pellucid.errors import ConfigError, PellucidError, WeightsError

if TYPE_CHECKING:
    from pellucid.io.export import Export
    from pellucid.registry import Method

logger = logging.getLogger(__name__)

TASK = "transparent-video"
_PICTURE, _MOTION, _WRITING = "The picture", "How it moves", "What is written"
_SIZE = re.compile(r"(\d+)[x×](\d+)")


def animate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What is seen and how it moves; may be empty.")],
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="clip.mov .webm .apng .webp .gif .mp4, clip.sheet.png or a folder; may be given several times. "
            "clip.webm by default.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="FILE|-",
            help="Your picture with alpha; without it one is made from the words.",
            rich_help_panel=_PICTURE,
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        Literal["contain", "cover", "stretch"],
        typer.Option("--fit", help="How a picture of another size is fitted.", rich_help_panel=_PICTURE),
    ] = "contain",
    key_color: Annotated[
        str | None,
        typer.Option(
            "--key-color",
            metavar="COLOR",
            help="This colour of the picture becomes transparent.",
            rich_help_panel=_PICTURE,
            show_default=False,
        ),
    ] = None,
    image_alpha: Annotated[
        str | None,
        typer.Option(
            "--image-alpha",
            metavar="FILE",
            help="A picture whose brightness becomes the alpha of --image.",
            rich_help_panel=_PICTURE,
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="In pixels; by default as the weights were trained."),
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", metavar="N", help="By default as trained.")] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames per second; by default as trained.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="How often the network denoises; by default 25.", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", help="How much the words count; 1 is twice as fast, 7.5 by default."),
    ] = None,
    negative: Annotated[str, typer.Option("--negative", metavar="TEXT", help="What shall not be seen.")] = "",
    scheduler: Annotated[Literal["ddim", "dpm++", "euler-a"], typer.Option("--scheduler", help="The solver.")] = "ddim",
    reference_strength: Annotated[
        float,
        typer.Option(
            "--reference-strength",
            help="0 to 1.5: how much every frame looks at the picture; 1 as trained.",
            rich_help_panel=_MOTION,
        ),
    ] = 1.0,
    base_index: Annotated[
        int | None,
        typer.Option(
            "--base-index",
            metavar="M",
            help="Which frame the picture is, from 0; by default the middle one.",
            rich_help_panel=_MOTION,
        ),
    ] = None,
    loop: Annotated[
        Literal["none", "pingpong", "closed", "circular"],
        typer.Option("--loop", help="How the end meets the beginning.", rich_help_panel=_MOTION),
    ] = "none",
    reference: Annotated[
        Literal["parallel", "isolated"],
        typer.Option("--reference", help="isolated is faster, and not as trained.", rich_help_panel=_MOTION),
    ] = "parallel",
    similarity: Annotated[
        float | None,
        typer.Option(
            "--similarity",
            help="0 to 1: begin near the picture; steadier, moves less.",
            rich_help_panel=_MOTION,
            show_default=False,
        ),
    ] = None,
    keep_base: Annotated[
        bool | None,
        typer.Option(
            "--keep-base/--no-keep-base",
            help="Frame M is the picture itself; by default for your own.",
            rich_help_panel=_MOTION,
            show_default=False,
        ),
    ] = None,
    draft: Annotated[bool, typer.Option("--draft", help="A quick look: 8 frames, 6 steps, no guidance.")] = False,
    tta: Annotated[
        int | None,
        typer.Option("--tta", metavar="1|2|4|8", help="Views of which alpha is the median.", show_default=False),
    ] = None,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Fewer frames at a time: slower, in less memory.")
    ] = False,
    over: Annotated[
        str | None,
        typer.Option(
            "--over",
            metavar="COLOR|checkerboard|FILE",
            help="Lay the clip over a colour, squares, a picture or a film; OUT is opaque.",
            rich_help_panel=_WRITING,
            show_default=False,
        ),
    ] = None,
    linear_light: Annotated[
        bool, typer.Option("--linear-light", help="With --over: mix as film programs do.", rich_help_panel=_WRITING)
    ] = False,
    premultiplied: Annotated[
        bool,
        typer.Option("--premultiplied", help="Colour times alpha; OUT's name says so.", rich_help_panel=_WRITING),
    ] = False,
    split: Annotated[
        bool, typer.Option("--split", help="Two opaque files, OUT_rgb and OUT_alpha.", rich_help_panel=_WRITING)
    ] = False,
    matte: Annotated[
        str | None,
        typer.Option(
            "--matte",
            metavar="COLOR",
            help="What soft edges of a GIF are mixed with.",
            rich_help_panel=_WRITING,
            show_default=False,
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits",
            metavar="8|16",
            help="Of PNG, APNG and sheets; by default the picture's.",
            rich_help_panel=_WRITING,
            show_default=False,
        ),
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option(
            "--crf",
            metavar="N",
            help="How coarse .webm and .mp4 may be, 0 is finest; by default alpha in .webm is within 2/255.",
            rich_help_panel=_WRITING,
            show_default=False,
        ),
    ] = None,
    padding: Annotated[
        bool,
        typer.Option(
            "--padding/--no-padding",
            help="Below alpha 0, colour continues what is beside it.",
            rich_help_panel=_WRITING,
        ),
    ] = True,
    sidecar: Annotated[
        bool, typer.Option("--sidecar/--no-sidecar", help="Settings as OUT.json.", rich_help_panel=_WRITING)
    ] = True,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="DIR|FILE.toml|random:tiny",
            help="Weights: a folder, a list of components, or random ones to try the machinery.",
            rich_help_panel="Common options",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Make a clip with alpha from words, and from a picture with alpha if you have one.

    Alpha is straight, and colour below alpha 0 continues what is beside it. Seed and settings are kept in OUT and in
    OUT.json: the same seed gives the same clip everywhere.
    """
    from pellucid.registry import find

    start_logging(quiet, verbose)
    if image is None:
        for name, given in {"--key-color": key_color, "--image-alpha": image_alpha}.items():
            if given is not None:
                raise ConfigError(f"{name} is about your picture, and there is none", "give --image FILE")
    export = _export(
        over,
        linear_light,
        matte=matte,
        bit_depth=bits,
        crf=crf,
        premultiplied=premultiplied,
        split=split,
        sidecar=sidecar,
        padded=padding,
    )
    targets = _checked(out or ["clip.webm"], export, overwrite)
    width, height = (None, None) if size is None else _pixels(size)
    options: dict[str, Any] = {
        "negative_prompt": negative,
        "base_image": image,
        "fit": fit,
        "key_color": None if key_color is None else _color(key_color),
        "matte": image_alpha,
        "frames": frames,
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "reference_strength": reference_strength,
        "base_index": base_index,
        "loop": loop,
        "reference": reference,
        "scheduler": scheduler,
        "similarity": similarity,
        "keep_base_exact": keep_base,
        "draft": draft,
        "tta": tta,
        "fps": fps,
        "seed": seed,
        "low_memory": low_memory,
    }
    # What was not asked for is the pipeline's to choose.
    options = {name: value for name, value in options.items() if value is not None}
    pipe = _open(find(TASK), model, device=device, offline=offline)
    with _StepBar(quiet) as bar:
        stack = pipe(prompt, progress=bar, **options)
    _write(stack, targets, export, overwrite, quiet=quiet)


class _StepBar:
    """A bar over steps whose number is known at the first of them."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._shown = quiet, ExitStack()
        self._advance: Callable[[], None] | None = None

    def __enter__(self) -> "_StepBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def __call__(self, done: int, total: int) -> None:
        if self._advance is None:
            self._advance = self._shown.enter_context(step_progress(total, "steps", quiet=self._quiet))
        self._advance()


def _export(over: str | None, linear_light: bool, *, matte: str | None, **ways: Any) -> "Export":
    from pellucid.io.backdrop import open_backdrop
    from pellucid.io.export import Export

    if linear_light and over is None:
        raise ConfigError("--linear-light is for a clip laid over something", "give --over COLOR or FILE")
    below = None if over is None else open_backdrop(over)
    return Export(over=below, linear=linear_light, matte=None if matte is None else _color(matte), **ways)


def _checked(outs: Sequence[str], export: "Export", overwrite: bool) -> list[str]:
    """Say before the work whether every file can be written."""
    from pellucid.io.export import check_export, targets

    taken: set[Path] = set()
    for out in outs:
        if out == "-":
            raise ConfigError("a clip cannot go to stdout", "give -o FILE")
        check_export(out, replace(export, overwrite=overwrite))
        for target in targets(out, export):
            if target.absolute() in taken:
                raise ConfigError(f"{target} would be written twice", "give each -o another name")
            taken.add(target.absolute())
    return list(outs)


def _pixels(size: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(size.lower())
    if found is None:
        raise ConfigError(f"size {size!r} is not WxH in pixels", "write for example 512x512")
    return int(found[1]), int(found[2])


def _color(text: str) -> Any:
    from pellucid.io.backdrop import parse_color

    return parse_color(text)


def _open(method: "Method", model: str | None, *, device: str, offline: bool) -> Any:
    from pellucid.hub.pretrained import bundled
    from pellucid.registry import resolve

    if model is None and not bundled(method.name):  # before the libraries of the pipeline are loaded
        raise WeightsError(
            "no weights for clips with alpha ship with this package yet",
            "give --model DIR of a trained model, --model FILE.toml of components, or --model random:tiny to try it",
        )
    return resolve(method.pipeline).from_pretrained(model, device=device, offline=offline)


def _write(stack: Any, outs: Sequence[str], export: "Export", overwrite: bool, *, quiet: bool) -> None:
    """Write every file; one that fails does not keep the others from being written."""
    from pellucid.io.export import export_clip

    failed: list[PellucidError] = []
    for out in outs:
        try:
            written = export_clip(stack, out, replace(export, overwrite=overwrite))
        except PellucidError as error:
            failed.append(error)
            continue
        if not quiet:
            for path in written:
                typer.echo(f"wrote {path}", err=True)
    for error in failed[:-1]:
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise failed[-1]
