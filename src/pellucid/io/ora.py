"""OpenRaster: a zip with all layers as PNG files, their order and blend modes, and the merged image.

What OpenRaster has no words for goes into ``pellucid.json``. Editors blend ``luminosity`` and ``color`` in a space of
their own, close to but not the same as CIELAB; ``mergedimage.png`` is our exact composite.
"""

import json
import logging
import posixpath
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.decode import MAX_PIXELS
from pellucid.io.files import atomic_path
from pellucid.io.formats import suffixes_that
from pellucid.io.image import decode_still, encode_still
from pellucid.io.placement import differing, place
from pellucid.layers import Layer, LayerStack, Meta
from pellucid.layers.stack import Blend

logger = logging.getLogger(__name__)

MIMETYPE = "image/openraster"
OPERATIONS: dict[str, str] = {
    "over": "svg:src-over",
    "add": "svg:plus",
    "luminosity": "svg:luminosity",
    "color": "svg:color",
}
_BLENDS = {operation: blend for blend, operation in OPERATIONS.items()}
_THUMBNAIL = 256  # pixels on the longer side, after the specification
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same stack gives the same bytes
_XML_LIMIT, _TOTAL_LIMIT, _DEPTH_LIMIT, _LAYER_LIMIT = 4 << 20, 8 << 30, 32, 1000
_RATIO_LIMIT = 100  # a PNG is compressed already; what shrinks a hundredfold more is a bomb


def save_ora(
    stack: LayerStack,
    path: str | Path,
    *,
    overwrite: bool = False,
    strip_metadata: bool = False,
    compress_level: int = 6,
    **options: Any,
) -> Path:
    """Write all layers, hidden ones too, with their blend modes, and the merged image.

    Args:
        stack: a still.
        path: the file.
        overwrite: whether an existing file may be replaced.
        strip_metadata: leave out EXIF, XMP, resolution, and where the layers came from. The ICC profile stays.
        compress_level: of the PNG files, 0 to 9.
        **options: there are no others.

    Returns:
        The path.

    Raises:
        FormatError: the stack has a time axis.
        ConfigError: an unknown option.
        InputError: the file exists or cannot be written.
    """
    if options:
        raise ConfigError(f"{path}: OpenRaster has no option {next(iter(options))!r}", "it has compress_level")
    if stack.fps is not None:
        able = suffixes_that("time")
        raise FormatError(f"{path}: OpenRaster cannot hold frames over time", f"use one of {able}")
    sources = [f"data/layer{index:03d}.png" for index in range(len(stack.layers))]
    merged = _merged(stack)
    plain = replace(stack.meta, exif=None, xmp=None, dpi=None)
    png: dict[str, Any] = {"strip_metadata": strip_metadata}
    if stack.meta.bit_depth == 8:
        png["compress_level"] = compress_level
    with atomic_path(path, overwrite) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(zipfile.ZipInfo("mimetype", _EPOCH), MIMETYPE)  # must be first and not compressed
        archive.writestr(_entry("stack.xml", zipfile.ZIP_DEFLATED), _stack_xml(stack, sources))
        note = json.dumps(_note(stack, sources, strip_metadata), indent=1, default=str)
        archive.writestr(_entry("pellucid.json", zipfile.ZIP_DEFLATED), note)
        for index, (source, layer) in enumerate(zip(sources, stack.layers, strict=True)):
            # EXIF and its like go into the bottom layer, where load_ora looks, and into the merged image.
            _write_png(archive, source, layer.rgba, plain if index else stack.meta, **png)
        _write_png(archive, "mergedimage.png", merged, stack.meta, **png)
        _write_png(archive, "Thumbnails/thumbnail.png", _thumbnail(merged), replace(plain, bit_depth=8))
    return Path(path)


def _entry(name: str, compression: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = compression
    return info


def _write_png(archive: zipfile.ZipFile, name: str, pixels: Tensor, meta: Meta, **options: Any) -> None:
    with archive.open(_entry(name), "w", force_zip64=pixels.numel() > 1 << 28) as file:
        encode_still(pixels, meta, cast(BinaryIO, file), format="png", name=name, **options)


def _merged(stack: LayerStack) -> Tensor:
    if any(layer.visible for layer in stack.layers):
        shown = stack.composite()
    else:
        shown = torch.zeros(4, stack.height, stack.width)
    return shown if shown.shape[0] == 4 else torch.cat([shown, torch.ones_like(shown[:1])])  # (4, H, W)


def _thumbnail(merged: Tensor) -> Tensor:
    scale = _THUMBNAIL / max(merged.shape[-2:])
    if scale >= 1:
        return merged
    size = [max(1, round(side * scale)) for side in merged.shape[-2:]]
    # Premultiplied, so that the colour of transparent pixels does not bleed in.
    premultiplied = torch.cat([merged[:3] * merged[3:], merged[3:]])[None]  # (1, 4, H, W)
    small = interpolate(premultiplied, size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    return torch.cat([(small[:3] / small[3:].clamp(min=1e-6)).clamp(0, 1), small[3:]])


def _stack_xml(stack: LayerStack, sources: list[str]) -> bytes:
    dpi = stack.meta.dpi
    resolution = {"xres": str(round(dpi[0])), "yres": str(round(dpi[1]))} if dpi else {}
    image = ElementTree.Element(
        "image", {"version": "0.0.6", "w": str(stack.width), "h": str(stack.height), **resolution}
    )
    parent = ElementTree.SubElement(image, "stack")
    for source, layer in reversed(list(zip(sources, stack.layers, strict=True))):  # the topmost comes first
        attributes = {
            "name": layer.name,
            "src": source,
            "x": "0",
            "y": "0",
            "opacity": repr(float(layer.opacity)),
            "visibility": "visible" if layer.visible else "hidden",
            "composite-op": OPERATIONS[layer.blend],
        }
        ElementTree.SubElement(parent, "layer", attributes)
    return ElementTree.tostring(image, encoding="UTF-8", xml_declaration=True)


def _note(stack: LayerStack, sources: list[str], strip: bool) -> dict[str, Any]:
    layers = {source: {"blend": layer.blend} for source, layer in zip(sources, stack.layers, strict=True)}
    meta = stack.meta
    origin = {
        "source": meta.source,
        "method": meta.method,
        "weights": meta.weights,
        "seed": meta.seed,
        "parameters": dict(meta.parameters),
    }
    return {"version": 1, "space": "CIELAB", "layers": layers, **({} if strip else origin)}


@dataclass(frozen=True)
class _Found:
    """A layer as ``stack.xml`` tells of it."""

    name: str
    source: str
    offset: tuple[int, int]
    opacity: float
    visible: bool
    operation: str


def load_ora(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> LayerStack:
    """Read an OpenRaster file of this or another program.

    Groups are taken apart, in order, with their opacity and visibility given to their layers. Layers smaller or larger
    than the canvas are put in their place. Each time the result may look different, a log line says so.

    Args:
        path: the file.
        max_pixels: the canvas, any layer, or four times all layers together may have no more.

    Raises:
        InputError: the file is no OpenRaster, damaged, cut off, too large, or made to do harm.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, max_pixels)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: cannot be read as OpenRaster: not a zip file, or damaged or cut off") from error
    except (OSError, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read as OpenRaster: {reason}") from error


def _read(archive: zipfile.ZipFile, path: Path, max_pixels: int) -> LayerStack:
    _refuse_harmful(archive, path)
    entries = set(archive.namelist())
    if "mimetype" not in entries:
        logger.warning("%s: has no mimetype entry; read as OpenRaster all the same", path)
    elif (kind := archive.read("mimetype")[:64].strip()) != MIMETYPE.encode():
        raise InputError(f"{path}: expected the type {MIMETYPE}, found {kind.decode('utf-8', 'replace')!r}")
    if "stack.xml" not in entries:
        raise InputError(f"{path}: is a zip file without stack.xml, expected OpenRaster")
    size, found = _parse(archive.read("stack.xml"), path)
    if not found:
        raise InputError(f"{path}: holds no layer")
    if size[0] * size[1] > max_pixels or size[0] * size[1] * len(found) > 4 * max_pixels or len(found) > _LAYER_LIMIT:
        raise InputError(f"{path}: {len(found)} layers of {size[0]}x{size[1]} pixels are more than can be held")
    note = _read_note(archive, path)
    layers: list[Layer] = []
    metas: list[Meta] = []
    for name, each in zip(differing([each.name for each in found]), found, strict=True):
        if each.source not in entries:
            raise InputError(f"{path}: layer {each.name!r} should be in {each.source!r}, which is missing")
        label = f"{path}: {each.source}"
        pixels, alpha, meta = decode_still(BytesIO(archive.read(each.source)), label, max_pixels=max_pixels)
        pixels, alpha = place(pixels, alpha, each.offset, size, name)
        layers.append(Layer(name, pixels, alpha, _blend(each, note, path), each.opacity, each.visible))
        metas.append(meta)
    origin = {key: note.get(key) for key in ("source", "method", "weights", "seed")}
    meta = replace(
        metas[0],
        bit_depth=max(meta.bit_depth for meta in metas),
        **{**origin, "source": origin["source"] or path.name},
        parameters=note.get("parameters") or {},
    )
    return LayerStack(tuple(layers), meta=meta)


def _refuse_harmful(archive: zipfile.ZipFile, path: Path) -> None:
    total = 0
    for entry in archive.infolist():
        # orig_filename: zipfile itself cuts names at a zero byte and turns backslashes round on Windows.
        name = entry.orig_filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
            raise InputError(f"{path}: entry {name!r} climbs out of the archive", "the file is not to be trusted")
        limit = _XML_LIMIT if name in ("mimetype", "stack.xml", "pellucid.json") else _TOTAL_LIMIT
        total += entry.file_size
        bomb = entry.file_size > (16 << 20) and entry.file_size > _RATIO_LIMIT * max(1, entry.compress_size)
        if entry.file_size > limit or total > _TOTAL_LIMIT or bomb:
            found = f"{entry.file_size} bytes, packed into {entry.compress_size}"
            raise InputError(f"{path}: entry {name!r} is too large ({found})", "the file is not to be trusted")


class _NoDoctype(ElementTree.TreeBuilder):
    """A document type can define entities that grow without end or name other files; OpenRaster needs none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InputError("stack.xml has a document type, which OpenRaster does not have")


def _parse(data: bytes, path: Path) -> tuple[tuple[int, int], list[_Found]]:
    try:
        image = ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))
        size = int(image.attrib["w"]), int(image.attrib["h"])
        stack = image.find("stack")
        if min(size) < 1 or stack is None:
            raise ValueError("no canvas or no stack")
        return size, _flatten(stack, path, (0, 0), 1.0, True, 0)[::-1]  # bottom first
    except InputError as error:
        raise InputError(f"{path}: {error.message}", "the file is not to be trusted") from error
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise InputError(f"{path}: stack.xml cannot be understood: {error}") from error


def _flatten(
    stack: ElementTree.Element, path: Path, offset: tuple[int, int], opacity: float, visible: bool, depth: int
) -> list[_Found]:
    if depth > _DEPTH_LIMIT:
        raise InputError(f"groups are nested more than {_DEPTH_LIMIT} deep")
    found: list[_Found] = []
    for child in stack:
        at = offset[0] + _whole(child, "x"), offset[1] + _whole(child, "y")
        through = min(1.0, max(0.0, float(child.get("opacity", "1")))) * opacity
        shown = visible and child.get("visibility", "visible") != "hidden"
        operation = child.get("composite-op", OPERATIONS["over"])
        name = child.get("name", "")
        if child.tag == "layer":
            found.append(_Found(name, posixpath.normpath(child.attrib["src"]), at, through, shown, operation))
        elif child.tag == "stack":
            inner = _flatten(child, path, at, through, shown, depth + 1)
            own = float(child.get("opacity", "1"))
            if len(inner) > 1 and (own < 1 or operation != OPERATIONS["over"] or _blending(inner)):
                logger.warning("%s: group %r is taken apart, so its layers may blend differently", path, name)
            found.extend(inner)
        else:
            logger.warning("%s: %s %r is not a layer with pixels and is left out", path, child.tag, name)
    return found


def _blending(layers: list[_Found]) -> bool:
    return any(layer.operation != OPERATIONS["over"] for layer in layers)


def _whole(element: ElementTree.Element, key: str) -> int:
    return round(float(element.get(key, "0")))


def _blend(found: _Found, note: Mapping[str, Any], path: Path) -> Blend:
    blend = _BLENDS.get(found.operation)
    if blend is None:
        known = ", ".join(_BLENDS)
        logger.warning(
            "%s: layer %r blends with %s, which is taken as over; known are %s",
            path,
            found.name,
            found.operation,
            known,
        )
        return "over"
    if blend in ("luminosity", "color") and not note:
        logger.info("%s: layer %r: %s is taken in CIELAB, editors differ a little", path, found.name, blend)
    return cast(Blend, blend)


def _read_note(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    if "pellucid.json" not in archive.namelist():
        return {}
    try:
        note = json.loads(archive.read("pellucid.json"))
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict) or not isinstance(note.get("parameters") or {}, dict):
        logger.warning("%s: pellucid.json cannot be understood and is left out", path)
        return {}
    return cast(dict[str, Any], note)
