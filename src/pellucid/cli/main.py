"""The command ``pellucid``: finds a verb, and turns errors into one line and an exit code.

A verb's module is imported when the verb is used or listed, and imports torch only when its function runs, so that
``pellucid --help`` answers at once.
"""

import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pellucid import __version__
from pellucid.cli.common import DEBUG, EXIT_INTERRUPTED
from pellucid.errors import PellucidError

# Verb -> "module:attribute"; the attribute is a function or, for a verb with verbs of its own, a typer.Typer.
VERBS = {
    "dereflect": "pellucid.cli.dereflect:dereflect",
    "colorize": "pellucid.cli.colorize:app",
    "parts": "pellucid.cli.parts:app",
    "animate": "pellucid.cli.animate:animate",
    "layers": "pellucid.cli.layers:app",
    "models": "pellucid.cli.models:app",
    "train": "pellucid.cli.train:train",
    "eval": "pellucid.cli.evaluate:evaluate",
    "study": "pellucid.cli.study:app",
    "demo": "pellucid.cli.demo:demo",
    "doctor": "pellucid.cli.doctor:doctor",
}


class _Verbs(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in VERBS and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        elif cmd_name not in VERBS:
            # The suggestion "did you mean" is made from the commands that are loaded.
            for name in VERBS:
                self.get_command(ctx, name)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
            typer.echo("interrupted", err=True)
        except Exception as error:
            if _is_control_flow(error):
                raise
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            code = _report(error)
        raise typer.Exit(code)


def _is_control_flow(error: Exception) -> bool:
    # Usage errors print themselves; a reader that went away (EPIPE) is typer's to handle.
    return isinstance(error, (typer.Exit, typer.Abort, BrokenPipeError)) or hasattr(error, "show")


def _report(error: Exception) -> int:
    """Print ``error:`` and ``hint:`` on stderr and return the exit code."""
    if isinstance(error, PellucidError):
        message, hint, code = error.message, error.hint, error.exit_code
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message, hint, code = f"{where}{error.strerror}", "", 1
    else:
        message = f"this should not have happened: {type(error).__name__}: {' '.join(str(error).split())}"
        hint, code = "run it again with --debug and report what it prints", 1
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    return code


def _load(verb: str) -> Any:
    module, _, attribute = VERBS[verb].partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(verb, no_args_is_help=False)(found)
    return typer.main.get_command(app)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain and fast here, and usage errors are one line; the verbs' own help is in colour
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 some inputs failed, 2 usage, 3 weights, 130 interrupted.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pellucid {__version__}")
        raise typer.Exit


@app.callback()
def pellucid(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Pictures as stacks of layers: take a photograph apart, keep every layer, put it together again."""


def main() -> None:
    """Entry point of the command."""
    app(prog_name="pellucid")
