"""``pellucid layers``: look into a layered file, take it apart, put one together, convert."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import Debug, Overwrite, Quiet, Verbose, start_logging
from pellucid.errors import ConfigError

if TYPE_CHECKING:
    from pellucid.layers import LayerStack

app = typer.Typer(
    help="Show, split, merge and convert layered files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A picture, layered file or film.", show_default=False)]


@app.command()
def show(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Print size, layers, blend modes, opacity, alpha and meta data of FILE."""
    from pellucid.layers import LayerStack

    start_logging(quiet, verbose)
    facts = describe(LayerStack.load(file))
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else _table(facts))


@app.command()
def split(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the layers; made if missing.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Write one PNG per layer of FILE, hidden ones too, as DIR/<stem>.<layer>.png."""
    from pellucid.io.files import check_output
    from pellucid.layers import LayerStack

    start_logging(quiet, verbose)
    stack = LayerStack.load(file)
    targets = {name: out / f"{file.stem}.{_file_name(name)}.png" for name in stack.names}
    if len(set(targets.values())) < len(targets):
        raise ConfigError(f"{file}: layer names {', '.join(stack.names)} make file names that are not distinct")
    out.mkdir(parents=True, exist_ok=True)
    for target in targets.values():
        check_output(target, overwrite)
    for name, target in targets.items():
        # The bottom-up blend cannot be kept in a PNG; the opacity is, as part of alpha.
        stack.only(name).save(target, overwrite=overwrite)
        _wrote(target, quiet)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures of one size, the bottom one first.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="For example result.ora.")],
    blend: Annotated[
        list[str] | None,
        typer.Option(
            "--blend",
            metavar="over|add|luminosity|color",
            help="Once for all pictures above the bottom one, or once for each of them in order.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Lay pictures over one another and write them as one file: layers where the format has them."""
    start_logging(quiet, verbose)
    merge_files(files, blend or ["over"]).save(out, overwrite=overwrite)
    _wrote(out, quiet)


@app.command()
def convert(
    file: File,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Its suffix decides the format.", show_default=False)],
    background: Annotated[
        str | None,
        typer.Option("--background", metavar="COLOR", help="Opaque colour below everything: white, #8090a0."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Write FILE in another format."""
    from pellucid.io.backdrop import parse_color
    from pellucid.layers import Layer, LayerStack

    start_logging(quiet, verbose)
    stack = LayerStack.load(file)
    if background is not None:
        fill = parse_color(background).reshape(3, 1, 1).expand_as(stack.layers[0].pixels).clone()
        stack = replace(stack, layers=(Layer(_unused("background", stack.names), fill), *stack.layers))
    stack.save(out, overwrite=overwrite)
    _wrote(out, quiet)


def describe(stack: "LayerStack") -> dict[str, Any]:
    """Facts about a stack as plain values; ``coverage`` is the mean of alpha."""
    meta = stack.meta
    return {
        "width": stack.width,
        "height": stack.height,
        "frames": stack.frames,
        "fps": None if stack.fps is None else float(stack.fps),
        "layers": [
            {
                "name": layer.name,
                "blend": layer.blend,
                "opacity": layer.opacity,
                "visible": layer.visible,
                "alpha": layer.alpha is not None,
                "coverage": 1.0 if layer.alpha is None else round(layer.alpha.mean().item(), 4),
            }
            for layer in stack.layers
        ],
        "meta": {
            "bit_depth": meta.bit_depth,
            "exif_bytes": len(meta.exif or b""),
            "icc_bytes": len(meta.icc_profile or b""),
            "xmp_bytes": len(meta.xmp or b""),
            "dpi": meta.dpi,
            "source": meta.source,
            "method": meta.method,
            "weights": meta.weights,
            "seed": meta.seed,
            "parameters": dict(meta.parameters),
        },
    }


def _table(facts: dict[str, Any]) -> str:
    frames = f", {facts['frames']} frames at {facts['fps']:g} per second" if facts["frames"] else ""
    rows = [("layer (top first)", "blend", "opacity", "visible", "alpha")]
    for layer in reversed(facts["layers"]):
        alpha = f"covers {layer['coverage']:.1%}" if layer["alpha"] else "opaque"
        visible = "yes" if layer["visible"] else "no"
        rows.append((layer["name"], layer["blend"], f"{layer['opacity']:g}", visible, alpha))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{facts['width']} x {facts['height']}, {facts['meta']['bit_depth']} bits per channel{frames}"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{key}: {value}" for key, value in facts["meta"].items() if value and key != "bit_depth"]
    return "\n".join(lines)


def merge_files(files: list[Path], blends: list[str]) -> "LayerStack":
    """Read pictures, the bottom one first, into one stack with the first one's meta data.

    Raises:
        ConfigError: the number of blend modes fits neither one nor all pictures above the bottom one.
        InputError: sizes differ, or a blend mode is not known.
    """
    from pellucid.layers import BLEND_MODES, LayerStack

    for mode in blends:
        if mode not in BLEND_MODES:
            raise ConfigError(f"blend {mode!r} is not known", f"use one of {', '.join(BLEND_MODES)}")
    above = len(files) - 1
    if len(blends) not in (1, above):
        raise ConfigError(f"--blend must be given once or {above} times for {len(files)} pictures, found {len(blends)}")
    modes = ["over", *(blends if len(blends) == above else blends * above)]
    layers: list[Any] = []
    stacks = [LayerStack.load(file) for file in files]
    for file, stack, mode in zip(files, stacks, modes, strict=True):
        for layer in stack.layers:
            name = file.stem.rpartition(".")[2] if len(stack.layers) == 1 else layer.name
            name = _unused(name, [done.name for done in layers])
            layers.append(replace(layer, name=name, **({"blend": mode} if len(stack.layers) == 1 else {})))
    depth = max(stack.meta.bit_depth for stack in stacks)
    return replace(stacks[0], layers=tuple(layers), meta=replace(stacks[0].meta, bit_depth=depth))


def _unused(name: str, names: Any) -> str:
    taken, number, unused = set(names), 1, name
    while unused in taken:
        number += 1
        unused = f"{name}-{number}"
    return unused


def _file_name(layer: str) -> str:
    # A layer's name comes from a stranger's file: nothing of it may climb out of the folder.
    return re.sub(r"[^\w.-]+", "_", layer).lstrip(".") or "layer"


def _wrote(path: Path, quiet: bool) -> None:
    if not quiet:
        typer.echo(f"wrote {path}", err=True)
