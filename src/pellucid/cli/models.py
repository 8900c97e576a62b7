"""``pellucid models``: which weights there are, where they lie, what is known about them; word vectors."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.common import Debug, Offline, Overwrite, Quiet, Verbose, start_logging
from pellucid.errors import ConfigError, WeightsError

app = typer.Typer(
    help="List, find, describe and fetch weights; train word vectors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME|DIR|ID", help="Bundled weights, a folder, or a hub id.", show_default=False)
]
MethodName = Annotated[str | None, typer.Option("--method", help="Which method; needed for a name that two have.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: Json = False, debug: Debug = False) -> None:
    """List the weights that ship inside the package."""
    from pellucid.hub.pretrained import bundled

    rows = [_facts(entry.folder, entry.name) for entry in bundled()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("no weights ship with this package", err=True)
    for row in rows:
        millions = row["parameters"] / 1e6
        typer.echo(f"{row['name']:12} {row['method']:16} {millions:8.2f} M values  {row['size'] / 1e6:7.1f} MB")


@app.command()
def path(name: Name, method: MethodName = None, offline: Offline = False, debug: Debug = False) -> None:
    """Print the folder of NAME."""
    typer.echo(str(_find(name, method, offline=offline)))


@app.command()
def info(
    name: Name, method: MethodName = None, as_json: Json = False, offline: Offline = False, debug: Debug = False
) -> None:
    """Print size, configuration, training and the card of NAME, or what a published file or folder is."""
    from pellucid.hub.pretrained import weights_id

    published = _published(name)
    if published is not None:
        lines: list[str] = published.lines()
        typer.echo(json.dumps(dataclasses.asdict(published), indent=2) if as_json else "\n".join(lines))
        return
    folder = _find(name, method, offline=offline)
    facts = {"id": weights_id(folder)} | _facts(folder, name)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    card = facts.pop("card")
    for key, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for inner, setting in value.items():
                typer.echo(f"  {inner}: {setting}")
        else:
            typer.echo(f"{key}: {value}")
    typer.echo(f"\n{card}")


@app.command()
def pull(
    name: Name,
    method: MethodName = None,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Fetch NAME from the hub into its cache and print the folder."""
    start_logging(quiet, verbose)
    typer.echo(str(_find(name, method, offline=offline)))


@app.command()
def vectors(
    recipe: Annotated[Path, typer.Argument(help="Recipe, for example recipes/tic/vectors.toml.", show_default=False)],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. epochs=5.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, .npz.")] = Path("vectors.npz"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Train word vectors from captions; needs gensim."""
    from pellucid.io.files import atomic_path, check_output
    from pellucid.registry import resolve
    from pellucid.train.config import find_method, read_toml

    start_logging(quiet, verbose + 1)
    if out.suffix != ".npz":
        raise ConfigError(f"word vectors are written as .npz, found {str(out)!r}")
    check_output(out, overwrite)
    method = find_method(read_toml(recipe).get("method"))
    if not method.vectors:
        raise ConfigError(f"method {method.name!r} reads no text, so it has no word vectors")
    trained = resolve(method.vectors)(recipe, set_ or [])
    with atomic_path(out, overwrite) as path:
        trained.save(path)
    typer.echo(str(out))


def _find(name: str, method: str | None, *, offline: bool) -> Path:
    from pellucid.hub.pretrained import bundled, resolve_weights
    from pellucid.registry import METHODS

    if method is not None and method not in METHODS:
        raise ConfigError(f"method {method!r} is not known", f"use one of {', '.join(METHODS)}")
    rooms = [entry.room for entry in bundled() if entry.name == name and method in (None, entry.room)]
    if len(rooms) > 1:
        raise ConfigError(f"{name} ships for {', '.join(rooms)}", "add --method")
    room = method or (rooms[0] if rooms else next(iter(METHODS)))
    return resolve_weights(name, room=room, default=name, offline=offline)


def _published(name: str) -> Any | None:
    """What a room says of somebody else's file or folder; None when NAME is one of ours, or nothing of this machine."""
    from pellucid.hub.pretrained import bundled
    from pellucid.registry import METHODS, resolve

    place = Path(name).expanduser()
    if not place.exists() or any(entry.name == name for entry in bundled()) or _is_ours(place):
        return None
    for method in METHODS.values():
        if method.describe:
            found = resolve(method.describe)(place)
            if found.kind != "unknown":
                return found
            raise WeightsError(f"{place}: {found.title}")
    return None


def _is_ours(place: Path) -> bool:
    from pellucid.hub.pretrained import CONFIG

    try:
        return "method" in json.loads((place / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _facts(folder: Path, name: str) -> dict[str, Any]:
    from pellucid.hub.pretrained import info as read

    return {"name": name} | {
        key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(read(folder)).items()
    }
