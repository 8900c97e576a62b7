"""``pellucid parts sample`` and ``augment``: masks that were not there before."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Verbose,
    start_logging,
    step_progress,
)
from pellucid.cli.outputs import Output
from pellucid.cli.parts_masks import RENDERED, TASK, Desk, Source, label_suffix, save_labels, save_rendering
from pellucid.cli.parts_options import (
    ClassSetFile,
    Fit,
    Guard,
    Keep,
    LabelFormat,
    LabelOrder,
    Parts,
    Prior,
    Radius,
    Render,
    Style,
    StyleMask,
    Temperature,
    fit_of,
    words,
)
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

JOURNAL = "augmented.jsonl"


def sample(
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 1,
    out: Out = None,
    prior: Prior = None,
    fit: Fit = 0.0,
    temperature: Temperature = 1.0,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
    model: Model = None,
    device: Device = "auto",
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Draw new face masks: sample-000.png, sample-001.png, ... in the folder OUT, or in this one.

    Mask k of a seed is the same however many are drawn. Rendered, each has looks of its own unless --style is given.
    """
    from pellucid.io.files import check_output
    from pellucid.layers import Meta
    from pellucid.registry import find

    start_logging(quiet, verbose)
    suffix = label_suffix(out, format)
    first = seed or 0
    labels = _sample_files(count, out, suffix)
    pictures = [path.with_name(f"{path.stem}.{RENDERED}.png") for path in labels] if render is not None else []
    for path in [*labels, *pictures]:
        check_output(path, overwrite)
    source = Source(find(TASK), model, device, offline, render=render, style=style, style_mask=style_mask)
    fit = fit_of(prior, fit)
    desk = Desk(source)
    drawn = desk.pipe.sample(
        count, first, prior=None if prior == "conditional" else prior, temperature=temperature, fit=fit
    )
    output = Output(overwrite=overwrite)
    for index, path in enumerate(labels):
        stack = desk.stack_of(drawn[index].cpu(), Meta(), desk.random_look(first + index), first)
        if render is not None:
            save_rendering(stack, pictures[index], output, overwrite)
        save_labels(stack, path, desk, output, suffix, overwrite)
        if not quiet:
            typer.echo(f"wrote {path}", err=True)


def _sample_files(count: int, out: str | None, suffix: str) -> list[Path]:
    from pellucid.io.batch import STDIO, is_folder

    if out == STDIO:
        raise ConfigError("samples are files, they do not go to stdout", "give -o FILE or -o FOLDER/")
    if out is not None and count == 1 and not is_folder(out):
        return [Path(out)]
    folder = Path(out or ".")
    if folder.suffix and not folder.is_dir() and not is_folder(out or "."):
        raise ConfigError(f"-o {out} is one file for {count} samples", "give a folder")
    _made(folder)
    width = max(3, len(str(count - 1)))
    return [folder / f"sample-{index:0{width}d}{suffix}" for index in range(count)]


def augment(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A set of masks.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="Folder of the new masks.", show_default=False)
    ],
    variants: Annotated[
        int,
        typer.Option("--variants", min=1, help="New masks of each mask, part and edit; with --balance of each mask."),
    ] = 1,
    parts: Parts = None,
    operation: Annotated[
        list[str] | None,
        typer.Option(
            "--operation",
            metavar="generate|perturb|add|remove|swap|interpolate",
            help="What is done to the parts, as often as you like; generate and perturb by default.",
            show_default=False,
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Pick part and edit so that the rarest classes gain pixels.")
    ] = False,
    amount: Annotated[float, typer.Option("--amount", min=0.0, help="Of perturb, and of interpolate.")] = 1.0,
    prior: Prior = None,
    fit: Fit = 0.0,
    temperature: Temperature = 1.0,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Only train or test, of a set that has both.", show_default=False)
    ] = None,
    model: Model = None,
    device: Device = "auto",
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Make more masks out of a set of masks: OUT/<mask>-000.png, ... and a line for each in OUT/augmented.jsonl.

    A line has the source, the edit with its seed, and the overlap with the source for each class.
    """
    from pellucid.io.files import check_output
    from pellucid.registry import find

    start_logging(quiet, verbose)
    fit = fit_of(prior, fit)
    desk = Desk(Source(find(TASK), model, device, offline, label_order, class_set))
    room = desk.source.method.module("augment")
    plan = room.Plan(
        kinds=tuple(words(operation) or ("generate", "perturb")),
        parts=tuple(words(parts)),
        count=variants,
        seed=seed or 0,
        balance=balance,
        amount=amount,
        temperature=temperature,
        prior=None if prior == "conditional" else prior,
        fit=fit,
        keep_unedited=keep,
        radius=radius,
        stray_guard=guard,
    )
    masks = desk.masks_in(folder, split)
    if out.resolve() == folder.resolve():
        raise ConfigError(f"-o {out} is the folder of the masks", "give another folder")
    check_output(_made(out) / JOURNAL, overwrite)
    before, after = Shares(), Shares()

    def sources() -> "Iterator[tuple[str, Tensor]]":
        with step_progress(len(masks), "masks", quiet=quiet) as advance:
            for name, file in masks:
                labels = desk.load(file)
                before.add(room.class_shares([labels], desk.classes))
                yield name, labels
                advance()

    write = desk.source.method.module("masks.mask_files").write_mask
    with (out / JOURNAL).open("w", encoding="utf-8") as journal:
        for new in room.augment(desk.pipe, sources(), plan):
            write(new.labels, out / f"{new.name}.png", desk.classes, overwrite=overwrite)
            journal.write(json.dumps(new.record, ensure_ascii=False) + "\n")
            after.add(room.class_shares([new.labels], desk.classes))
    if not quiet:
        typer.echo(f"{after.count} new masks of {before.count} in {out}", err=True)
    if balance and not quiet:
        for name in before.rarest(6):
            typer.echo(
                f"{name}: {before.mean(name):.3%} of the pixels before, {after.mean(name):.3%} of the new", err=True
            )


class Shares:
    """Mean share of the pixels that each class has, over the masks that were counted."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, float] = {}

    def add(self, shares: Mapping[str, float]) -> None:
        """Count a mask."""
        self.count += 1
        for name, share in shares.items():
            self._sums[name] = self._sums.get(name, 0.0) + share

    def mean(self, name: str) -> float:
        """Mean share of a class."""
        return self._sums.get(name, 0.0) / max(1, self.count)

    def rarest(self, number: int) -> list[str]:
        """Names of the classes with the fewest pixels."""
        return sorted(self._sums, key=lambda name: self._sums[name])[:number]


def _made(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
