"""``pellucid parts``: the parts of face masks are made anew, moved and swapped, and shown as faces."""

import typer

from pellucid.cli.parts_attributes import attributes, fit
from pellucid.cli.parts_edit import edit, interpolate, swap
from pellucid.cli.parts_make import augment, sample
from pellucid.cli.parts_sheet import sheet
from pellucid.cli.parts_show import parse, render

app = typer.Typer(
    help="Edit, draw, mix and render face masks: label maps with one class a part.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _verb in (edit, sample, swap, interpolate, render, augment, parse, attributes, fit, sheet):
    app.command(_verb.__name__)(_verb)
