"""``pellucid eval``: measure weights on a set of pairs under a named protocol."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.common import Debug, Device, Model, Quiet, Verbose, start_logging
from pellucid.errors import InputError


def evaluate(
    set_dir: Annotated[Path, typer.Option("--set", metavar="DIR", help="Folder of a test set.", show_default=False)],
    protocol: Annotated[str, typer.Option("--protocol", help="How to measure; the room's README has them.")] = "disk",
    task: Annotated[str, typer.Option("--task", help="Task or verb.")] = "reflection-removal",
    method: Annotated[str | None, typer.Option("--method", help="The task's first method by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table's rows as JSON.")] = False,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Measure weights on a set; doing nothing is always measured beside them."""
    from pellucid.registry import find, resolve

    start_logging(quiet, verbose)
    if not set_dir.is_dir():
        raise InputError(f"set {set_dir} is not a folder")
    room = resolve(find(task, method).evaluate)
    table = room.evaluate_command(set_dir, protocol, model, device)
    typer.echo(json.dumps(rows_of(table), indent=2, ensure_ascii=False) if as_json else table)


def rows_of(markdown: str) -> list[dict[str, Any]]:
    """Read the rows of the Markdown tables in a text; figures become numbers."""
    rows: list[dict[str, Any]] = []
    header: list[str] = []
    for line in [*markdown.splitlines(), ""]:
        if not line.lstrip().startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
        elif not all(set(cell) <= set("-: ") and cell for cell in cells):
            rows.append(dict(zip(header, map(_number, cells), strict=False)))
    return rows


def _number(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return cell or None
