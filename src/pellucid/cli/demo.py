"""``pellucid demo``: every finished task on the pictures that ship, and one sheet that shows it all."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pellucid
from pellucid.cli.common import Debug, Device, Model, Quiet, Verbose, start_logging
from pellucid.errors import ConfigError, InputError, WeightsError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pellucid.layers import LayerStack

logger = logging.getLogger(__name__)

EXAMPLES = Path(pellucid.__file__).parent / "examples"
_MARK = ".made-by-pellucid-demo"
_TILE, _GAP, _LINE = 240, 12, 24  # of the contact sheet, in pixels
# What the grey photograph is coloured with: three texts, then one with other words for the lower half of the garment.
_WORDS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("a red dress", ()),
    ("a green dress", ()),
    ("a blue dress", ()),
    ("a blue dress", (("0%,42%,100%,90%", "a yellow dress"),)),
)
# What is done to the face mask, in the words of the room's edits; "other" is the second mask.
_EDITS: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("new hair", ({"kind": "generate", "parts": ["hair"], "seed": 1},)),
    ("other new hair", ({"kind": "generate", "parts": ["hair"], "seed": 2},)),
    ("hair of the other", ({"kind": "swap", "parts": ["hair"], "reference": "other"},)),
    ("mouth of the other", ({"kind": "swap", "parts": ["mouth_group"], "reference": "other"},)),
    ("nose perturbed", ({"kind": "perturb", "parts": ["nose"], "amount": 1.5, "seed": 1},)),
    ("half way to the other", ({"kind": "interpolate", "parts": ["all"], "amount": 0.5, "reference": "other"},)),
)
_STYLE = 19  # seed of the drawing's colours
_INK, _PAPER, _CHECKS = (40, 40, 40), (250, 250, 248), (0.80, 0.92)


@dataclass(frozen=True)
class Shown:
    """One cell of the contact sheet: a picture ``(3, H, W)`` in [0, 1] and what to call it."""

    caption: str
    pixels: "Tensor"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of this command alone.")] = Path(
        "demo"
    ),
    task: Annotated[
        str | None, typer.Option("--task", help="Only this task or verb; --model needs it.", show_default=False)
    ] = None,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Run every finished task on bundled pictures and write results, layered files and a contact sheet."""
    from pellucid import registry

    start_logging(quiet, verbose)
    if model is not None and task is None:
        raise ConfigError("--model has the weights of one task", f"add --task {' or '.join(registry.tasks())}")
    methods = list(registry.METHODS.values()) if task is None else [registry.find(task)]
    _claim(out)
    written: list[Path] = []
    rows: list[tuple[str, list[Shown]]] = []
    for method in methods:
        if method.verb not in _SHOWS:
            logger.info("%s has no demo", method.verb)
            continue
        try:
            pipe = registry.pipeline(method.task, method.name, model, device=device)
        except WeightsError as error:
            if task is not None:
                raise
            logger.warning("%s is left out: %s", method.verb, error)
            continue
        new_rows, files = _SHOWS[method.verb](pipe, out)
        rows += new_rows
        written += files
    sheet = out / "index.png"
    _replace(contact_sheet(rows), sheet)
    if not quiet:
        for path in [*written, sheet]:
            typer.echo(str(path))


def _claim(out: Path) -> None:
    """Make the folder ours, or find that it is; a folder with somebody's files is left alone."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).exists())):
        raise InputError(f"{out} is there and not made by this command", "give another folder with -o")
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()


def _dereflect(pipe: Any, out: Path) -> tuple[list[tuple[str, list[Shown]]], list[Path]]:
    from pellucid import io

    folder = out / "dereflect"
    folder.mkdir(exist_ok=True)
    pictures = sorted((EXAMPLES / "reflection").glob("*.jpg"))
    if not pictures:
        raise InputError(f"no example pictures in {EXAMPLES / 'reflection'}", "install the package again")
    rows: list[tuple[str, list[Shown]]] = []
    written: list[Path] = []
    for path in pictures:
        source = io.load_image(path)
        stack: LayerStack = pipe(source, ranges=True)
        for name in ("transmission", "reflection"):
            written.append(stack.only(name).save(folder / f"{path.stem}.{name}.jpg", overwrite=True))
        written.append(stack.save(folder / f"{path.stem}.ora", overwrite=True))
        bright, gain = _brightened(stack["reflection"].pixels)
        cells = [
            Shown("input", source.layers[0].pixels),
            Shown("transmission", stack["transmission"].pixels),
            Shown(f"reflection, {gain:.1f} x as bright" if gain > 1.05 else "reflection", bright),
        ]
        ranges = [layer for layer in stack.layers if layer.name.startswith("range_")]
        for index, layer in enumerate(ranges):
            where = {0: ", farthest", len(ranges) - 1: ", nearest"}.get(index, "")
            cells.append(Shown(f"range {index}{where}", _on_checks(layer.pixels, layer.alpha)))
        rows.append((f"dereflect  {path.stem}", cells))
    return rows, written


def _colorize(pipe: Any, out: Path) -> tuple[list[tuple[str, list[Shown]]], list[Path]]:
    from pellucid import io

    folder = out / "colorize"
    folder.mkdir(exist_ok=True)
    pictures = sorted((EXAMPLES / "colorize").glob("*.jpg"))
    if not pictures:
        raise InputError(f"no example pictures in {EXAMPLES / 'colorize'}", "install the package again")
    rows: list[tuple[str, list[Shown]]] = []
    written: list[Path] = []
    for path in pictures:
        source = io.load_image(path)
        cells = [Shown("input", source.layers[0].pixels)]
        for number, (text, regions) in enumerate(_WORDS, 1):
            stack: LayerStack = pipe(source, text, regions=regions)
            cells.append(Shown(" + ".join([text, *(f"{phrase}, box" for _, phrase in regions)]), stack["color"].pixels))
            written.append(stack.only("color").save(folder / f"{path.stem}.colorized-{number}.jpg", overwrite=True))
            if regions:
                written.append(stack.save(folder / f"{path.stem}.ora", overwrite=True))
        rows.append((f"colorize  {path.stem}", cells))
    return rows, written


def _parts(pipe: Any, out: Path) -> tuple[list[tuple[str, list[Shown]]], list[Path]]:
    folder = out / "parts"
    folder.mkdir(exist_ok=True)
    masks = sorted((EXAMPLES / "parts").glob("*.png"))
    if len(masks) < 2:
        raise InputError(f"two example masks expected in {EXAMPLES / 'parts'}", "install the package again")
    mask, other = masks[:2]
    style = pipe.generator("preview").random_style(_STYLE)
    labelled: list[Shown] = []
    drawn: list[Shown] = []
    written: list[Path] = []
    whole = ("the other mask", other, ()), ("mask", mask, ())
    edits = ((caption, mask, operations) for caption, operations in _EDITS)
    for caption, path, operations in (*whole, *edits):
        plain: LayerStack = pipe(path, operations, references={"other": other})
        face: LayerStack = pipe(path, operations, references={"other": other}, render="preview", style=style)
        labelled.append(Shown(caption, plain.composite()[:3]))
        drawn.append(Shown("drawn", face.composite()[:3]))
        name = f"{path.stem}.{caption.replace(' ', '-')}" if operations else path.stem
        written.append(face.save(folder / f"{name}.png", overwrite=True))
        if operations and not any(one.suffix == ".ora" for one in written):
            written.append(face.save(folder / f"{name}.ora", overwrite=True))
    return [(f"parts  {mask.stem}", labelled), ("", drawn)], written


_SHOWS: dict[str, Callable[[Any, Path], tuple[list[tuple[str, list[Shown]]], list[Path]]]] = {
    "dereflect": _dereflect,
    "colorize": _colorize,
    "parts": _parts,
}


def _brightened(pixels: "Tensor") -> tuple["Tensor", float]:
    """Scale a dark layer so that its bright parts are seen; returns the factor, at most 8."""
    import torch

    # A sample is enough for a quantile, which is limited to 16 million values.
    sample = pixels.flatten()[:: max(1, pixels.numel() // 1_000_000)]
    bright = torch.quantile(sample, 0.995).item()
    gain = min(8.0, max(1.0, 0.9 / max(bright, 1e-3)))
    return (pixels * gain).clamp(0, 1), gain


def _on_checks(pixels: "Tensor", alpha: "Tensor | None") -> "Tensor":
    """Lay a layer over a checkerboard of sixteen squares across, so that one sees where it is."""
    import torch

    if alpha is None:
        return pixels
    height, width = pixels.shape[-2:]
    side = max(1, width // 16)
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    dark, light = _CHECKS
    board = torch.where((rows[:, None] + columns[None]) % 2 == 0, dark, light)  # (H, W)
    return torch.lerp(board.expand_as(pixels), pixels, alpha)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Shown]]]) -> "Image":
    """Draw rows of captioned pictures, each row with a title.

    Returns:
        A Pillow picture; cells are 240 pixels wide, rows as high as their tallest picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    from pellucid.io.image import to_uint8

    font = ImageFont.load_default(size=14)
    prepared: list[tuple[str, list[tuple[str, Image.Image]]]] = []
    for title, cells in rows:
        tiles: list[tuple[str, Image.Image]] = []
        for cell in cells:
            tile = Image.fromarray(to_uint8(cell.pixels.clamp(0, 1)))
            tile.thumbnail((_TILE, _TILE * 2), Image.Resampling.LANCZOS)
            tiles.append((cell.caption, tile))
        prepared.append((title, tiles))
    width = max((len(tiles) for _, tiles in prepared), default=0) * (_TILE + _GAP) + _GAP
    heights = [2 * _LINE + max(tile.height for _, tile in tiles) + _GAP for _, tiles in prepared]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for (title, tiles), height in zip(prepared, heights, strict=True):
        draw.text((_GAP, top), title, fill=_INK, font=font)
        for index, (caption, tile) in enumerate(tiles):
            left = _GAP + index * (_TILE + _GAP)
            draw.text((left, top + _LINE), caption, fill=_INK, font=font)
            sheet.paste(tile, (left, top + 2 * _LINE))
        top += height
    return sheet


def _replace(picture: "Image", path: Path) -> None:
    from pellucid.io.image import atomic_path

    with atomic_path(path, overwrite=True) as temporary:
        picture.save(temporary)
