"""``pellucid train``: a recipe becomes a run folder; the same command goes on with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import Debug, Device, Quiet, Verbose, start_logging

if TYPE_CHECKING:
    from pellucid.train.config import Recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, for example recipes/multistep_sirr/tiny.toml.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. train.steps=2000.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/<recipe folder>-<recipe name> by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, print what would be trained where, and stop.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Train a recipe. Running the same command again resumes where it stopped."""
    from pellucid.train.config import open_recipe

    start_logging(quiet, verbose + 1)  # a run of hours tells how far it is without being asked
    resolved = open_recipe(recipe, set_ or [])
    folder = out if out is not None else default_folder(recipe)
    if dry_run:
        typer.echo(describe(resolved, folder, device))
        return
    from pellucid.train.loop import run

    try:
        result = run(resolved, folder, device=device)
    except KeyboardInterrupt as stopped:  # the checkpoint is written
        raise typer.Exit(130) from stopped
    typer.echo(str(result.model))


def default_folder(recipe: Path) -> Path:
    """Where a run goes when nothing else is said: ``runs/multistep_sirr-tiny``."""
    return Path("runs") / f"{recipe.resolve().parent.name}-{recipe.stem}"


def describe(recipe: "Recipe", folder: Path, device: str) -> str:
    """Build the run and tell the resolved recipe, the number of parameters, the length and the place."""
    from pellucid.registry import resolve, training
    from pellucid.train.config import dump_toml
    from pellucid.train.loop import make_accelerator, prepare

    accelerator = make_accelerator(recipe, device)
    state = prepare(recipe, resolve(training(recipe.method)), accelerator)
    lines = [dump_toml(recipe)]
    for name, module in state.bare().items():
        count = sum(parameter.numel() for parameter in module.parameters())
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        lines.append(f"# {name}: {count:,} parameters, {trained:,} of them trained")
    minutes = f" or {recipe.train.minutes:g} minutes" if recipe.train.minutes is not None else ""
    micro = recipe.train.batch * recipe.train.accumulate * accelerator.num_processes
    lines.append(f"# {recipe.train.steps:,} steps{minutes} of {micro} examples on {accelerator.device.type}")
    lines.append(
        f"# precision {accelerator.mixed_precision.replace('no', 'fp32')}, {accelerator.num_processes} processes"
    )
    lines.append(f"# writes {folder}{' (goes on with the run there)' if (folder / 'recipe.toml').exists() else ''}")
    return "\n".join(lines)
