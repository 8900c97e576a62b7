"""``pellucid study``: people rank clips side by side; the page they do it on, and the tally of their answers."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.common import Debug, Overwrite, Quiet, Seed, Verbose, start_logging
from pellucid.errors import ConfigError

app = typer.Typer(
    help="Ask people which clip is best: write the page, count the answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TASK = "transparent-video"


@app.command()
def page(
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=DIR...", help="Folders of clips; those of one prompt have one name.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page.")] = Path("study.html"),
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Ask about so many prompts at most.", show_default=False)
    ] = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Write one HTML file that needs no server, and beside it the key that tells whose clip is whose.

    Send the page to people and keep the key. Each of them gets the clips in another order and sends a CSV file back.
    """
    from pellucid.registry import find

    start_logging(quiet, verbose)
    study = find(TASK).module("study")
    questions, fps = study.read_questions(_folders(candidates), limit=limit)
    key = study.write_study(questions, out, fps=fps, seed=seed, overwrite=overwrite)
    if not quiet:
        typer.echo(f"wrote {out}, which asks {len(questions)} questions, and {key}", err=True)


@app.command()
def tally(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="study.key.json of the page.", show_default=False)],
    answers: Annotated[list[Path], typer.Argument(metavar="CSV...", help="What people sent.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Print how often each method came first, beside the paper's figures."""
    from pellucid.metrics.tables import markdown_tables
    from pellucid.registry import find

    start_logging(quiet, verbose)
    rows = find(TASK).module("study").tally(key, answers)
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else markdown_tables(rows))


def _folders(candidates: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in candidates:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder:
            raise ConfigError(f"{text!r} is not NAME=DIR", "write for example ours=out/ours naive=out/naive")
        if name in found:
            raise ConfigError(f"{name!r} is given twice", "every method has one folder")
        found[name] = Path(folder)
    return found
