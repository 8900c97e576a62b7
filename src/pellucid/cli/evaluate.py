"""``pellucid eval``: measure weights on a test set under a named protocol, with what the task's room can measure."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pellucid.cli.common import Debug, Device, Model, Quiet, Verbose, start_logging
from pellucid.errors import ConfigError, InputError


def evaluate(
    set_dir: Annotated[
        Path,
        typer.Option(
            "--set",
            metavar="DIR",
            help="Folder of a test set; face parts: also procedural:N; clips: also drawn:N.",
            show_default=False,
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="How to measure; the room's README has them.", show_default=False),
    ] = None,
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
    obedience: Annotated[
        bool, typer.Option("--obedience", help="Colorization: colour with six words too, and read the hues.")
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Colorization: write pictures x six colours.", show_default=False),
    ] = None,
    lpips: Annotated[
        list[str] | None,
        typer.Option("--lpips", metavar="NET=FILE", help="Colorization: weights of vgg or squeeze, for LPIPS."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Face parts, clips: train or test (clips: val), of a folder that has both."),
    ] = None,
    label_order: Annotated[
        str | None, typer.Option("--label-order", help="Face parts: whose numbers bare label maps hold.")
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option("--clip", metavar="FOLDER", help="Clips: a saved CLIP, for the text score.", show_default=False),
    ] = None,
    raft: Annotated[
        Path | None,
        typer.Option(
            "--raft", metavar="FILE", help="Clips: RAFT's weights for the flow, else OpenCV's DIS.", show_default=False
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            metavar="NAME[=WEIGHTS]",
            help="Clips: who makes them; again for more. ours and without_ifa by default.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Clips: measure so many at most.", show_default=False)
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="FILE.html", help="Clips: write a page on which people rank them.", show_default=False
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="LIST.toml",
            help="Clips: measure a list of candidates over several seeds: Table I in small.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE.html",
            help="With --table: write the clips side by side, nearest training pictures beside them.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Measure weights on a set; doing nothing is always measured beside them."""
    from pellucid.metrics.tables import markdown_tables
    from pellucid.registry import find, resolve

    start_logging(quiet, verbose)
    entry = find(task, method)
    room = resolve(entry.evaluate)
    is_drawn = getattr(room, "is_drawn", None)  # a room may know sets that code draws
    if not set_dir.is_dir() and not (is_drawn and is_drawn(set_dir)):
        raise InputError(f"set {set_dir} is not a folder")
    given: dict[str, Any] = {"way": way, "blends": blends, "obedience": obedience or None, "sheet": sheet}
    given |= {"split": split, "label_order": label_order}
    given |= {"clip": clip, "raft": raft, "limit": limit, "study": study, "table": table, "page": page}
    given |= {"candidate": dict(_candidate(each) for each in candidate) if candidate else None}
    given |= {"lpips": dict(_named(each) for each in lpips) if lpips else None}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in room.OPTIONS:
            takes = ", ".join(f"--{option.replace('_', '-')}" for option in room.OPTIONS)
            raise ConfigError(f"--{name.replace('_', '-')} is not for {entry.task}", f"it takes {takes}")
    if page is not None and table is None:
        raise ConfigError("--page shows the clips of a table", "give --table LIST.toml too")
    if candidate and table is not None:
        raise ConfigError(f"--candidate and --table are two ways to say who is measured, {table} lists them")
    if protocol is not None:
        given["protocol"] = protocol
    if blends is not None:
        rows = room.blend_statistics(set_dir, blends)
    elif table is not None:
        compare = entry.module("comparison.table").compare
        rows = compare(set_dir, given.pop("table"), weights=model, device=device, **given)
    else:
        rows = room.evaluate(set_dir, weights=model, device=device, **given)
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else markdown_tables(rows))


def _named(text: str) -> tuple[str, Path]:
    net, separator, path = text.partition("=")
    if not separator or not path:
        raise ConfigError(f"--lpips takes NET=FILE, found {text!r}", "NET is vgg or squeeze")
    return net, Path(path)


def _candidate(text: str) -> tuple[str, Path | None]:
    name, separator, path = text.partition("=")
    if not name or (separator and not path):
        raise ConfigError(f"--candidate takes NAME or NAME=WEIGHTS, found {text!r}", "for example without_ifa")
    return name, Path(path) if path else None
