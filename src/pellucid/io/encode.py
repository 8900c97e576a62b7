"""From pixels and what travels with them to the bytes of a still picture."""

import logging
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pellucid.errors import ConfigError, FormatError
from pellucid.io import deep, exif, icc
from pellucid.io.arrays import quantise
from pellucid.io.formats import FileFormat, find_format, suffixes_that
from pellucid.layers.stack import Meta

logger = logging.getLogger(__name__)

_JPEG_BLOCK = 65000  # bytes of EXIF or XMP that one JPEG marker holds, with its own header
_OPTIONS = {
    "PNG": {"compress_level"},
    "JPEG": {"progressive", "optimize", "subsampling"},
    "WebP": {"lossless", "method", "alpha_quality"},
    "TIFF": set[str](),
}


def encode_still(
    pixels: Tensor,
    meta: Meta,
    file: BinaryIO,
    *,
    format: str = "png",
    quality: int = 95,
    bit_depth: int | None = None,
    strip_metadata: bool = False,
    name: str = "picture",
    **options: Any,
) -> None:
    """Write one picture to an open file.

    Args:
        pixels: ``(3, H, W)`` or, with straight alpha, ``(4, H, W)``; sRGB, converted to ``meta.icc_profile``.
        meta: EXIF, ICC, XMP, resolution and bit depth are written where the format holds them.
        file: open for writing, at its beginning.
        format: a suffix without its dot: ``"png"``, ``"jpg"``, ``"webp"``, ``"tif"``.
        quality: of JPEG and of WebP with ``lossless=False``, 1 to 100.
        bit_depth: 8 or 16; None means that of ``meta`` where the format holds it, else 8.
        strip_metadata: leave out EXIF, XMP and resolution. The ICC profile stays: without it the colours change.
        name: what messages call it.
        **options: ``compress_level`` (PNG); ``progressive``, ``optimize``, ``subsampling`` (JPEG, 0 = 4:4:4);
            ``lossless`` (default True), ``method``, ``alpha_quality`` (WebP).

    Raises:
        FormatError: the format does not hold alpha or 16 bits.
        ConfigError: an option is unknown or out of range.
    """
    row = find_format(name, time=False, format=format)
    _check(row, pixels, bit_depth, quality, options, name)
    depth = bit_depth or (meta.bit_depth if row.deep else 8)
    if depth < meta.bit_depth:
        logger.warning(
            "%s: 16 bit per channel written as 8%s", name, "" if row.deep else f", all that {row.name} holds"
        )
    matrix = icc.parse(meta.icc_profile) if meta.icc_profile else None
    if meta.icc_profile and matrix is None:
        logger.warning("%s: its ICC profile cannot be written; the picture is sRGB", name)
    convert = matrix.from_srgb if matrix and not matrix.is_srgb else None
    array = quantise(pixels, depth, convert)

    block, xmp, dpi = (None, None, None) if strip_metadata else (meta.exif, meta.xmp, meta.dpi)
    profile = meta.icc_profile if matrix else None
    if row.name == "TIFF":
        tags = exif.tiff_tags(block)
        tags.update({exif.XMP_TAG: xmp} if xmp else {})
        tags.update({34675: profile} if profile else {})
        tags.update({282: dpi[0], 283: dpi[1], 296: 2} if dpi else {})
        deep.write_tiff(file, array, tags)
        return
    if row.name == "JPEG":
        block, xmp = _fitting(block, "EXIF", name), _fitting(xmp, "XMP", name)
    # Empty values and not None: Pillow would otherwise look for tags the picture was opened with.
    arguments: dict[str, Any] = {"icc_profile": profile or b"", "exif": exif.PREFIX + block if block else b""}
    if dpi and row.name != "WebP":
        arguments["dpi"] = dpi
    elif dpi:
        logger.info("%s: WebP holds no resolution; %g x %g dpi is left out", name, *dpi)
    if row.name == "PNG":
        arguments["pnginfo"] = PngInfo()
        if profile is None:
            arguments["pnginfo"].add(b"sRGB", b"\0")  # what a picture without a profile means here
        if xmp:
            arguments["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        if depth == 16:
            deep.write_png(file, array, arguments)
            return
    else:
        arguments["xmp"] = xmp or b""
    if row.name == "JPEG":
        arguments.update({"quality": quality, "subsampling": 0})
    if row.name == "WebP":
        lossless = options.get("lossless", True)
        # For a lossless file Pillow's quality is effort; exact keeps the colour below transparent pixels.
        arguments.update({"lossless": lossless, "quality": 50 if lossless else quality, "method": 4, "exact": True})
    Image.fromarray(array).save(file, row.name, **{**arguments, **options})


def _check(
    row: FileFormat, pixels: Tensor, bit_depth: int | None, quality: int, options: dict[str, Any], name: str
) -> None:
    if row.name not in _OPTIONS:
        raise FormatError(f"{name}: {row.name} is not a plain picture", "use .png, .jpg, .webp or .tif")
    if pixels.shape[0] == 4 and not row.alpha:
        able = suffixes_that("still", "alpha")
        raise FormatError(f"{name}: {row.name} holds no alpha", f"use one of {able}, or give a background")
    if bit_depth not in (None, 8, 16):
        raise ConfigError(f"{name}: bit depth must be 8 or 16, found {bit_depth}")
    if bit_depth == 16 and not row.deep:
        raise FormatError(
            f"{name}: {row.name} holds 8 bits per channel", f"use one of {suffixes_that('still', 'deep')}"
        )
    if not 1 <= quality <= 100:
        raise ConfigError(f"{name}: quality must be between 1 and 100, found {quality}")
    for option in options:
        if option not in _OPTIONS[row.name]:
            known = ", ".join(sorted(_OPTIONS[row.name])) or "none"
            raise ConfigError(f"{name}: {row.name} has no option {option!r}", f"its options: {known}")
    limits = {"JPEG": 65500, "WebP": 16383}
    side = max(pixels.shape[-2:])
    if side > limits.get(row.name, side):
        raise FormatError(
            f"{name}: {row.name} holds at most {limits[row.name]} pixels a side, found {side}", "use .png"
        )


def _fitting(block: bytes | None, kind: str, name: str) -> bytes | None:
    if block and len(block) > _JPEG_BLOCK:
        logger.warning("%s: %d bytes of %s do not fit in a JPEG and are left out", name, len(block), kind)
        return None
    return block
