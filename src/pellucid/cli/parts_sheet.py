"""``pellucid parts sheet``: the paper's figures of edits as a picture, with all that they were made of beside it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pellucid.cli.common import Debug, Device, Model, Offline, Overwrite, Quiet, Seed, Verbose, start_logging
from pellucid.cli.demo import Shown, contact_sheet
from pellucid.cli.parts_masks import TASK, Desk, Source
from pellucid.cli.parts_options import ClassSetFile, Fit, Guard, LabelOrder, Parts, Prior, Temperature, fit_of, words
from pellucid.errors import ConfigError


def sheet(
    figure: Annotated[
        Literal["3", "5", "6"],
        typer.Option(
            "--figure",
            help="3: parts drawn anew and perturbed; 5: parts led over to another mask; 6: edits, rendered.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.png", help="The picture; OUT.json tells how it was made.")
    ],
    masks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[MASK...]", help="Label maps; without them faces drawn by code.", show_default=False),
    ] = None,
    parts: Parts = None,
    render: Annotated[str, typer.Option("--render", metavar="preview|PATH", help="Of figure 6.")] = "preview",
    photo: Annotated[
        list[Path] | None,
        typer.Option("--photo", metavar="PICTURE", help="Of figure 6: the picture of each mask.", show_default=False),
    ] = None,
    amount: Annotated[float, typer.Option("--amount", min=0.0, help="How much parts are perturbed.")] = 1.0,
    prior: Prior = None,
    fit: Fit = 0.0,
    temperature: Temperature = 1.0,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep-unedited/--no-keep-unedited",
            help="Copy what lies far from the edited parts; by default only in figure 6, as the paper does not.",
            show_default=False,
        ),
    ] = None,
    guard: Guard = True,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    model: Model = None,
    device: Device = "auto",
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Make a figure like the paper's 3, 5 or 6 with these weights: OUT.png, and OUT.json with all parameters."""
    from pellucid.io.files import atomic_path, check_output
    from pellucid.registry import find

    start_logging(quiet, verbose)
    number = int(figure)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"a sheet is written as .png, found {out}")
    if photo and (number != 6 or len(photo) > len(masks or ())):
        raise ConfigError("--photo is of figure 6, one for each mask that is given")
    document = out.with_suffix(".json")
    for path in (out, document):
        check_output(path, overwrite)
    desk = Desk(Source(find(TASK), model, device, offline, label_order, class_set))
    room = desk.source.method.module("figures")
    chosen = tuple(words(parts) or (room.MIXED if number == 5 else room.EDITED))
    if masks:
        faces = [room.NamedMask(path.name, desk.read(path).labels) for path in masks]
    else:
        faces = room.drawn_masks(room.COUNTS[number], desk.classes, chosen)
    way = room.Way(
        seed=seed or 0,
        amount=amount,
        temperature=temperature,
        prior=None if prior == "conditional" else prior,
        fit=fit_of(prior, fit),
        keep_unedited=number == 6 if keep is None else keep,
        stray_guard=guard,
    )
    more: dict[str, Any] = {"generator": render, "photos": photo or ()} if number == 6 else {}
    made = getattr(room, f"figure_{number}")(desk.pipe, faces, way, chosen, **more)
    rows = [(title, [Shown(cell.caption, cell.pixels) for cell in row]) for title, row in made.rows]
    picture = contact_sheet(rows)
    with atomic_path(document, overwrite) as temporary:
        temporary.write_text(json.dumps(made.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_path(out, overwrite) as temporary:
        picture.save(temporary)
    if not quiet:
        typer.echo(f"wrote {out} and {document}", err=True)
