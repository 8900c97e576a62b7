"""``pellucid parts render`` and ``parse``: from masks to faces, and from photographs to masks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from pellucid.cli.outputs import Format, Output, is_empty
from pellucid.cli.parts_masks import (
    PARSED,
    RENDERED,
    TASK,
    Desk,
    Source,
    collect_masks,
    label_suffix,
    save_labels,
    save_rendering,
)
from pellucid.cli.parts_options import ClassSetFile, LabelFormat, LabelOrder, Masks, Style, StyleMask

if TYPE_CHECKING:
    from pellucid.io.batch import Job


def render(
    masks: Masks = None,
    generator: Annotated[
        str,
        typer.Option("--with", metavar="preview|PATH", help="A drawing, or a SPADE or SEAN generator's file."),
    ] = "preview",
    style: Style = None,
    style_mask: StyleMask = None,
    out: Out = None,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    format: Format = None,
    model: Model = None,
    device: Device = "auto",
    workers: Workers = None,
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Show the face of a mask: <stem>.rendered.png, of the mask's size.

    --seed changes strands and folds of the drawing, or the noise of a generator; the looks are the style's.
    """
    from pellucid.registry import find

    start_logging(quiet, verbose)
    source = Source(
        find(TASK),
        model,
        device,
        offline,
        label_order,
        class_set,
        render=generator,
        style=style,
        style_mask=style_mask,
    )
    suffix = _picture_suffix(out, format)
    jobs = collect_masks(masks, None, out, RENDERED, suffix, source)
    output = Output(overwrite=overwrite, format=suffix, quiet=quiet, lone=len(jobs) == 1 and jobs[0].explicit)
    run_batch(
        jobs,
        Rendering(source, output, seed or 0),
        inputs=masks or (),
        out=out,
        workers=workers,
        device=device,
        overwrite=overwrite,
        quiet=quiet,
    )


@dataclass(frozen=True)
class Rendering:
    """Makes the work of ``render`` in whichever process does it."""

    source: Source
    output: Output
    seed: int

    def __call__(self) -> Callable[["Job"], None]:
        desk = Desk(self.source)
        return lambda job: self._one(desk, job)

    def _one(self, desk: Desk, job: "Job") -> None:
        from pellucid import io
        from pellucid.layers import Layer

        mask, _ = desk.mask_of(job)
        stack = desk.stack_of(mask.labels, mask.meta, desk.look(job, None), self.seed)
        if job.target is None:
            stack = replace(stack, layers=(Layer(RENDERED, stack.composite()[:3]),))
            io.save(stack, "-", format=self.output.format)
        else:
            save_rendering(
                stack, job.target, self.output, self.output.overwrite or not self.output.lone or is_empty(job.target)
            )


def _picture_suffix(out: str | None, format: str | None) -> str:
    """Suffix of a picture by ``--format``, else that of ``-o FILE``, else ``.png``."""
    from pellucid.cli.outputs import extension_rule
    from pellucid.io import batch

    told = "" if out in (None, batch.STDIO) or batch.is_folder(out) else Path(out).suffix.lower()
    return extension_rule(out, format)(Path(f"a{told or '.png'}"))


def parse(
    photos: Inputs,
    parser: Annotated[
        Path | None,
        typer.Option(
            "--parser", metavar="FOLDER", help="A face parser of transformers; none ships.", show_default=False
        ),
    ] = None,
    out: Out = None,
    label_order: LabelOrder = None,
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
    """Find the parts of the face in photographs: <stem>.mask.png, with the classes of the weights."""
    from pellucid.registry import find

    start_logging(quiet, verbose)
    source = Source(find(TASK), model, device, offline, label_order, photos=True, parser=parser)
    suffix = label_suffix(out, format)
    jobs = collect_masks(None, photos, out, PARSED, suffix, source)
    lone = len(jobs) == 1 and jobs[0].explicit
    run_batch(
        jobs,
        Parsing(source, Output(overwrite=overwrite, strip=strip_metadata, quiet=quiet, lone=lone), suffix),
        inputs=photos,
        out=out,
        workers=workers,
        device=device,
        overwrite=overwrite,
        quiet=quiet,
    )


@dataclass(frozen=True)
class Parsing:
    """Makes the work of ``parse`` in whichever process does it."""

    source: Source
    output: Output
    suffix: str

    def __call__(self) -> Callable[["Job"], None]:
        desk = Desk(self.source)
        return lambda job: self._one(desk, job)

    def _one(self, desk: Desk, job: "Job") -> None:
        mask, _ = desk.mask_of(job)
        stack = desk.stack_of(mask.labels, mask.meta, {})
        again = self.output.overwrite or not self.output.lone
        save_labels(stack, job.target, desk, self.output, self.suffix, again)
