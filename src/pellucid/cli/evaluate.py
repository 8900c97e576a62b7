"""``pellucid eval``: measure weights on a set of pairs under a named protocol."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pellucid.cli.common import Debug, Device, Model, Quiet, Verbose, start_logging
from pellucid.errors import InputError

_DECIMALS = {"PSNR": 2}  # of figures; three for all others


def evaluate(
    set_dir: Annotated[Path, typer.Option("--set", metavar="DIR", help="Folder of a test set.", show_default=False)],
    protocol: Annotated[str, typer.Option("--protocol", help="How to measure; the room's README has them.")] = "disk",
    task: Annotated[str, typer.Option("--task", help="Task or verb.")] = "reflection-removal",
    method: Annotated[
        str | None, typer.Option("--method", help="The task's first method by default.", show_default=False)
    ] = None,
    way: Annotated[
        Literal["fast", "exact"] | None, typer.Option("--way", help="As of the task's verb.", show_default=False)
    ] = None,
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
    options = {} if way is None else {"way": way}
    rows = room.evaluate(set_dir, protocol, model, device, **options)
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else markdown(rows))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as a Markdown table, aligned for reading in a terminal too; a missing cell stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, *([_cell(column, row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    figures = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]

    def join(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, figures, strict=True)
        return "| " + " | ".join(c.rjust(w) if figure else c.ljust(w) for c, w, figure in placed) + " |"

    rule = ["-" * (width - 1) + ":" if figure else "-" * width for width, figure in zip(widths, figures, strict=True)]
    return "\n".join([join(columns), join(rule), *(join(line) for line in table[1:])])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.{_DECIMALS.get(column, 3)}f}" if isinstance(value, float) else str(value)
