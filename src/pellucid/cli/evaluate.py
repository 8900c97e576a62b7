"""``pellucid eval``: measure weights on a set of pairs under a named protocol."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pellucid.cli.common import Debug, Device, Model, Quiet, Verbose, start_logging
from pellucid.errors import InputError


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
    blends: Annotated[
        Path | None,
        typer.Option("--blends", metavar="RECIPE", help="Compare the recipe's training blends with the set instead."),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Measure weights on a set; doing nothing is always measured beside them."""
    from pellucid.metrics.tables import markdown_table
    from pellucid.registry import find, resolve

    start_logging(quiet, verbose)
    if not set_dir.is_dir():
        raise InputError(f"set {set_dir} is not a folder")
    room = resolve(find(task, method).evaluate)
    if blends is not None:
        rows = room.blend_statistics(set_dir, blends)
    else:
        options = {} if way is None else {"way": way}
        rows = room.evaluate(set_dir, protocol, model, device, **options)
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else markdown_table(rows))
