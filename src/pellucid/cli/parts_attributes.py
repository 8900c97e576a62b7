"""``pellucid parts attributes`` and ``fit``: what edits can move, what a mask measures, and where both come from."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.common import Debug, Device, Model, Offline, Quiet, Verbose, start_logging
from pellucid.cli.parts_masks import TASK, Desk, Source
from pellucid.cli.parts_options import ClassSetFile, LabelOrder
from pellucid.errors import ConfigError, InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def attributes(
    masks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[MASK...]", help="Label maps to measure.", show_default=False),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those that do not hold, and the components of codes.")
    ] = False,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    as_json: Json = False,
    model: Model = None,
    device: Device = "auto",
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """List the attributes that --move and --target know, and measure them on masks.

    An attribute is accepted when its direction holds on masks that the fit has not seen.
    """
    from pellucid.registry import find

    start_logging(quiet, verbose)
    desk = Desk(Source(find(TASK), model, device, offline, label_order, class_set))
    rows = [row for row in _rows(desk) if all_ or ("/" not in row["attribute"] and (row["accepted"] or masks))]
    for path in masks or ():
        values = desk.source.method.module("attributes").measure(desk.read(path).labels, desk.classes)
        for row in rows:
            value = float(values[row["attribute"]][0]) if row["attribute"] in values else math.nan
            row[str(path)] = None if math.isnan(value) else round(value, 4)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if desk.pipe.directions is None and not quiet:
        typer.echo("these weights have no attributes to move; fit them with pellucid parts fit", err=True)
    elif not all_ and not quiet:
        typer.echo("--all also lists those that do not hold, and components such as hair/pc1", err=True)
    if rows:
        typer.echo(_table(rows, [str(path) for path in masks or ()]))


def _rows(desk: Desk) -> list[dict[str, Any]]:
    """A row for each attribute and component, the accepted ones first."""
    known = desk.source.method.module("attributes").ATTRIBUTES
    fitted = {} if desk.pipe.directions is None else dict(desk.pipe.directions.entries)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys((*known, *fitted)):
        one, direction = known.get(name), fitted.get(name)
        ids = () if direction is None else direction.parts
        row: dict[str, Any] = {
            "attribute": name,
            "parts": [desk.classes.names[part] for part in ids] if ids else list(one.parts if one else ()),
            "unit": one.unit if one else direction.unit if direction else "",
            "accepted": bool(direction is not None and direction.accepted),
            "description": one.description if one else "component of the codes",
        }
        if direction is not None:
            figures = {key: round(value, 3) for key, value in direction.figures.items()}
            row |= {"mean": round(direction.mean, 4), "std": round(direction.std, 4), "figures": figures}
            if not direction.accepted:
                row["why_not"] = direction.why_not()
        rows.append(row)
    return sorted(rows, key=lambda row: not row["accepted"])


def _table(rows: list[dict[str, Any]], measured: list[str]) -> str:
    head = ["attribute", "accepted", "unit", "usual", "R²", "slope", *(Path(path).name for path in measured), "what"]
    lines = [head]
    for row in rows:
        figures = row.get("figures", {})
        usual = f"{row['mean']:.3g} ± {row['std']:.2g}" if "mean" in row else ""
        values = ["-" if row.get(path) is None else f"{row[path]:.4g}" for path in measured]
        shown = [f"{figures[key]:.2f}" if key in figures else "" for key in ("r2", "slope")]
        accepted = "yes" if row["accepted"] else "no"
        lines.append([row["attribute"], accepted, row["unit"], usual, *shown, *values, row["description"]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def fit(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A folder of weights.", show_default=False)],
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks", metavar="FOLDER", help="Masks to fit to; drawn by code if not given.", show_default=False
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=2, help="How many masks are drawn, or taken.")] = 3000,
    label_order: LabelOrder = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the drawn masks.")] = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was fitted before.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Fit priors and attributes to the codes of masks, and keep them beside the weights.

    Writes editing.safetensors and editing.json into the folder WEIGHTS; takes minutes.
    """
    from pellucid.registry import find

    start_logging(quiet, verbose + (0 if quiet else 1))
    method = find(TASK)
    fitting = method.module("fitting")
    folder = Path(weights)
    if not folder.is_dir():
        raise InputError(f"{weights} is not a folder of weights", "name a folder, for example a run's model/")
    there = [folder / name for name in (fitting.TENSORS, fitting.DOCUMENT) if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]}: exists already", "use --overwrite to fit again")
    labels = None
    if masks is not None:
        labels = _bank(method, folder, masks, count, label_order)
    elif label_order is not None:
        raise ConfigError("--label-order is of a folder of masks, and none is given", "add --masks FOLDER")
    found = fitting.fit(folder, labels, count=count, seed=seed, device=device)
    if not quiet:
        names = () if found.directions is None else found.directions.names
        typer.echo("\n".join(name for name in names if "/" not in name))


def _bank(method: Any, folder: Path, masks: Path, count: int, order: str | None) -> Any:
    """Label maps of a folder at the network's size."""
    pipe = method.module("pipeline").FacePartsPipeline.from_pretrained(folder, device="cpu")
    bank = method.module("data").folder_bank(masks, None, pipe.classes, pipe.config.size, count, order)
    return bank.labels
