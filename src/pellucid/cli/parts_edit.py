"""``pellucid parts edit``, ``swap`` and ``interpolate``: parts of masks made anew, changed, and taken from others."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import (
    Debug,
    Device,
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
from pellucid.cli.outputs import Output
from pellucid.cli.parts_masks import (
    EDITED,
    MIXED,
    MOST,
    SWAPPED,
    TASK,
    Source,
    collect_masks,
    label_suffix,
    numbered,
)
from pellucid.cli.parts_options import (
    EDITS,
    ClassSetFile,
    Fit,
    Guard,
    Keep,
    LabelFormat,
    LabelOrder,
    Masks,
    Parser,
    Parts,
    Photo,
    Prior,
    Radius,
    Render,
    Style,
    StyleMask,
    Temperature,
    fit_of,
)
from pellucid.cli.parts_replay import Edits, number_of
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pellucid.io.batch import Job

_AMOUNT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(sd)?")


def _parts(name: str, help_: str) -> Any:
    return typer.Option(name, metavar="PARTS", help=help_, rich_help_panel=EDITS, show_default=False)


def edit(
    masks: Masks = None,
    out: Out = None,
    remove: Annotated[list[str] | None, _parts("--remove", "Take parts away.")] = None,
    add: Annotated[list[str] | None, _parts("--add", "Put parts there that the mask has not.")] = None,
    generate: Annotated[list[str] | None, _parts("--generate", "Draw parts anew: hair, nose, eyes, ...")] = None,
    perturb: Annotated[list[str] | None, _parts("--perturb", "Change parts at random by --amount.")] = None,
    reconstruct: Annotated[list[str] | None, _parts("--reconstruct", "Show how the network has parts.")] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(
            "--move",
            metavar="ATTRIBUTE=AMOUNT",
            help="Along an attribute, by so much of its unit, or so many standard deviations: smile=1.5sd.",
            rich_help_panel=EDITS,
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="ATTRIBUTE=VALUE",
            help="Until the mask measures this value; see pellucid parts attributes.",
            rich_help_panel=EDITS,
            show_default=False,
        ),
    ] = None,
    amount: Annotated[
        float, typer.Option("--amount", min=0.0, help="Of --perturb; 1 is the paper's.", rich_help_panel=EDITS)
    ] = 1.0,
    prior: Prior = None,
    fit: Fit = 0.0,
    temperature: Temperature = 1.0,
    variants: Annotated[
        int, typer.Option("--variants", min=1, max=MOST, help="Make so many different results of each mask.")
    ] = 1,
    history: Annotated[
        Path | None,
        typer.Option("--history", metavar="FILE.json", help="Edits that were saved; they come first."),
    ] = None,
    save_history: Annotated[
        str | None,
        typer.Option(
            "--save-history",
            metavar="FILE.json|DIR",
            help="Write the edits with their seeds; DIR for several masks.",
            show_default=False,
        ),
    ] = None,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    photo: Photo = None,
    parser: Parser = None,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
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
    """Make parts of face masks anew, change them, take them away: --generate hair.

    The result is <stem>.edited.png, a label map of the mask's size: pixel values are the ids. PARTS are names, ids or
    groups such as eyes, mouth_group and all, with commas. Edits are made in the order in which they are listed below.
    """
    start_logging(quiet, verbose)
    source = _source(model, device, offline, label_order, class_set, bool(photo), parser, render, style, style_mask)
    fit = fit_of(prior, fit)
    drawn = {"temperature": temperature, "prior": None if prior == "conditional" else prior, "fit": fit}
    kinds: tuple[tuple[str, list[str] | None, dict[str, Any]], ...] = (
        ("remove", remove, {}),
        ("add", add, drawn),
        ("generate", generate, drawn),
        ("perturb", perturb, {"amount": amount}),
        ("reconstruct", reconstruct, {}),
    )
    edits = tuple({"kind": kind, "parts": names} | more for kind, names, more in kinds if names)
    moves, targets = (
        tuple(map(_pair, move or ())),
        tuple((name, number_of(text)) for name, text in map(_pair, target or ())),
    )
    if not edits and not moves and not targets and history is None:
        raise ConfigError("there is nothing to do", "say what, for example --generate hair")
    if targets and variants > 1:
        raise ConfigError("--target solves for one result, --variants makes several", "leave one of them out")
    text = _history_text(history)
    jobs = collect_masks(masks, photo, out, EDITED, label_suffix(out, format), source)
    _run(
        jobs,
        Edits(
            source,
            _output(jobs, overwrite, strip_metadata, quiet),
            label_suffix(out, format),
            histories=(edits,),
            before=text,
            moves=moves,
            targets=targets,
            variants=variants,
            seed=seed or 0,
            keep=keep,
            radius=radius,
            guard=guard,
            save_history=save_history,
        ),
        inputs=photo or masks or (),
        out=out,
        workers=workers,
    )


def swap(
    masks: Masks = None,
    reference: Annotated[
        str, typer.Option("--with", metavar="MASK", help="The other mask, whose parts are taken.", show_default=False)
    ] = "",
    parts: Parts = None,
    out: Out = None,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    photo: Photo = None,
    parser: Parser = None,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
    model: Model = None,
    device: Device = "auto",
    workers: Workers = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    strip_metadata: StripMetadata = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Give masks the parts of another one: --with other.png --parts nose,eyes. Writes <stem>.swapped.png."""
    start_logging(quiet, verbose)
    if not reference or not parts:
        raise ConfigError(f"{'--with MASK' if not reference else '--parts PARTS'} is missing")
    source = _source(model, device, offline, label_order, class_set, bool(photo), parser, render, style, style_mask)
    jobs = collect_masks(masks, photo, out, SWAPPED, label_suffix(out, format), source)
    _run(
        jobs,
        Edits(
            source,
            _output(jobs, overwrite, strip_metadata, quiet),
            label_suffix(out, format),
            histories=(({"kind": "swap", "parts": parts, "reference": reference},),),
            keep=keep,
            radius=radius,
            guard=guard,
        ),
        inputs=photo or masks or (),
        out=out,
        workers=workers,
    )


def interpolate(
    source_mask: Annotated[str, typer.Argument(metavar="SOURCE", help="The mask at 0.", show_default=False)],
    target_mask: Annotated[str, typer.Argument(metavar="TARGET", help="The mask at 1.", show_default=False)],
    parts: Parts = None,
    alphas: Annotated[
        str, typer.Option("--alphas", metavar="A,B,...", help="How much of the target, from 0 to 1.")
    ] = "0,.25,.5,.75,1",
    spherical: Annotated[bool, typer.Option("--spherical", help="On the sphere of codes, not the chord.")] = False,
    out: Out = None,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
    model: Model = None,
    device: Device = "auto",
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Lead parts of SOURCE over to those of TARGET (Eq. 4): <stem>.mixed-1.png, -2, ..., one for each alpha.

    Without --parts all parts are led over.
    """
    start_logging(quiet, verbose)
    amounts = [number_of(text) for text in alphas.split(",") if text.strip()]
    if not 1 <= len(amounts) <= MOST or not all(0.0 <= one <= 1.0 for one in amounts):
        raise ConfigError(f"--alphas must be 1 to {MOST} numbers from 0 to 1, found {alphas}")
    source = _source(model, device, offline, label_order, class_set, False, None, render, style, style_mask)
    jobs = collect_masks([source_mask], None, out, MIXED, label_suffix(out, format), source)
    if len(jobs) != 1 or not jobs[0].explicit:
        raise ConfigError(f"SOURCE must be one mask, found {len(jobs)} in {source_mask}")
    mix = {"kind": "interpolate", "parts": parts or ["all"], "reference": target_mask, "spherical": spherical}
    _run(
        jobs,
        Edits(
            source,
            _output(jobs, overwrite, False, quiet),
            label_suffix(out, format),
            histories=tuple((mix | {"amount": one},) for one in amounts),
            keep=keep,
            radius=radius,
            guard=guard,
        ),
        inputs=[source_mask],
        out=out,
        workers=None,
    )


def _run(jobs: "Sequence[Job]", edits: Edits, *, inputs: Sequence[str], out: str | None, workers: int | None) -> None:
    several = edits.count > 1 or edits.source.render is not None
    if several and any(job.target is None and job.problem is None for job in jobs):
        raise ConfigError("stdout can hold one result, this makes several", "give -o FILE")
    if edits.save_history is not None and not edits.output.lone and Path(edits.save_history).suffix:
        raise ConfigError(f"--save-history {edits.save_history} is one file for several masks", "give a folder")
    if edits.count > 1:
        jobs = [job if job.target is None else replace(job, target=numbered(job.target, edits.count)) for job in jobs]
    sources = {os.path.realpath(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        for path in edits.beside(job) + edits.files(job):
            if os.path.realpath(path) in sources:
                raise ConfigError(f"output {path} is also an input", "give another -o")
    run_batch(
        jobs,
        edits,
        inputs=inputs,
        out=out,
        workers=workers,
        device=edits.source.device,
        overwrite=edits.output.overwrite,
        quiet=edits.output.quiet,
    )


def _source(
    model: str | None,
    device: str,
    offline: bool,
    order: str | None,
    class_set: Path | None,
    photos: bool,
    parser: Path | None,
    render: str | None,
    style: str | None,
    style_mask: Path | None,
) -> Source:
    from pellucid.registry import find

    return Source(find(TASK), model, device, offline, order, class_set, photos, parser, render, style, style_mask)


def _output(jobs: "Sequence[Job]", overwrite: bool, strip: bool, quiet: bool) -> Output:
    return Output(overwrite=overwrite, strip=strip, quiet=quiet, lone=len(jobs) == 1 and jobs[0].explicit)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not name or not _AMOUNT.fullmatch(value):
        raise ConfigError(f"expected ATTRIBUTE=NUMBER, found {text!r}", "for example smile=0.02")
    return name, value


def _history_text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise InputError(f"history {path}: {reason}", "give a file that --save-history wrote") from error
