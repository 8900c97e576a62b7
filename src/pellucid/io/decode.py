"""From the bytes of a still picture to its pixels and what travels with them."""

import logging
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from pellucid.errors import InputError, PellucidError
from pellucid.io import deep, exif, icc
from pellucid.io.arrays import from_array
from pellucid.io.formats import suffixes_that
from pellucid.layers.stack import Meta

logger = logging.getLogger(__name__)

MAX_PIXELS = 300_000_000
_OTHER_BYTE = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}

# Opened by their own classes: Image.open would try every format Pillow knows and refuse large pictures by a global.
_OPENERS: tuple[tuple[bytes, Callable[..., ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"RIFF", WebPImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"BM", BmpImageFile),
    (b"GIF8", GifImageFile),
)


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, Tensor | None, Meta]:
    """Decode a still picture.

    Args:
        data: the whole file.
        name: what messages call it.
        max_pixels: a header that promises more is refused before anything is decoded.

    Returns:
        Pixels ``(3, H, W)``, alpha ``(1, H, W)`` or None, and the meta data, as `load_image` describes them.

    Raises:
        InputError: the data is no picture, damaged, too large or animated.
    """
    image = open_image(data, name, max_pixels)
    frames = count_frames(image, name)
    if frames > 1 and image.format != "TIFF":
        raise InputError(f"{name}: has {frames} frames, expected a still picture", "this verb takes stills")
    if frames > 1:
        logger.warning("%s: has %d pages; the first one is read", name, frames)
    try:
        if image.format == "TIFF":
            _check_length(image, len(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd tags; what cannot be read raises
            return convert(image, name, data)
    except PellucidError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: {image.width}x{image.height} pixels do not fit in memory") from error
    except Exception as error:  # Pillow's readers raise whatever damaged data leads to, from OSError to IndexError
        raise _damaged(name, image.format or "picture", error) from error


def count_frames(image: ImageFile, name: str) -> int:
    """Count the frames of an animation or the pages of a TIFF.

    Raises:
        InputError: the data is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(getattr(image, "n_frames", 1))
    except Exception as error:  # as in `decode`
        raise _damaged(name, image.format or "picture", error) from error


def _check_length(image: Any, length: int) -> None:
    """Meet a TIFF that is cut short here: libtiff would write lines of its own to stderr."""
    starts = image.tag_v2.get(273, image.tag_v2.get(324, 0))
    sizes = image.tag_v2.get(279, image.tag_v2.get(325, 0))
    pairs = zip(np.atleast_1d(starts).tolist(), np.atleast_1d(sizes).tolist(), strict=False)
    end = max((start + size for start, size in pairs), default=0)
    if end > length:
        raise OSError(f"its pixels end at byte {end}, the file at {length}")


def open_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read the header only.

    Raises:
        InputError: no picture of a known format, damaged, or larger than ``max_pixels``.
    """
    if not data:
        raise InputError(f"{name}: is empty, expected a picture")
    opener = next((opener for magic, opener in _OPENERS if data.startswith(magic)), None)
    if opener is None or (opener is WebPImageFile and data[8:12] != b"WEBP"):
        raise InputError(
            f"{name}: is not a picture of a known format, it begins with {data[:8]!r}",
            f"give one of {suffixes_that('still', reading=True)}",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = opener(BytesIO(data))
    except Exception as error:  # as in `decode`
        raise _damaged(name, "picture", error) from error
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{name}: has {width}x{height} pixels, expected at most {max_pixels / 1e6:.0f} million",
            "scale it down first, or raise max_pixels if you trust the file",
        )
    if width < 1 or height < 1:
        raise InputError(f"{name}: has {width}x{height} pixels, expected at least one")
    return image


def _damaged(name: str, kind: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"{name}: the {kind} data is damaged, cut short or of a kind that is not read: {reason}", "get the file again"
    )


def convert(image: Image.Image, name: str, data: bytes | None = None) -> tuple[Tensor, Tensor | None, Meta]:
    """Take an opened Pillow picture to sRGB pixels.

    Args:
        image: the picture.
        name: what messages call it.
        data: its file, from which 16-bit pixels are read; None for a picture made in memory.
    """
    info = image.info
    turned_by_pillow = image.format == "TIFF"
    block = None if turned_by_pillow else exif.strip_prefix(info.get("exif"))
    orientation = int(getattr(image, "tag_v2", {}).get(274, 1)) if turned_by_pillow else exif.orientation(block)
    profile: bytes | None = info.get("icc_profile") or None
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")

    array, alpha_after = _pixels(image, name, data), None
    if array is None:
        array, profile, alpha_after = _eight_bit(image, name, profile)
    if turned_by_pillow:
        block = exif.from_tiff(image)
    del image
    if orientation in range(2, 9) and not turned_by_pillow:
        array = exif.turn(array, orientation)
        alpha_after = None if alpha_after is None else exif.turn(alpha_after, orientation)
    height, width, channels = array.shape
    bit_depth = 16 if array.dtype == np.uint16 else 8
    if alpha_after is None and channels in (2, 4):
        alpha_after, array = array[..., -1:], array[..., :-1]
    alpha = None if alpha_after is None else from_array(alpha_after)
    pixels, profile = _to_srgb(from_array(array), profile, name)

    dpi = cast("tuple[float, float] | None", info.get("dpi"))
    if dpi and not all(0 < float(value) < 1e6 for value in dpi):
        dpi = None
    if dpi:
        dpi = (float(dpi[0]), float(dpi[1])) if orientation < 5 else (float(dpi[1]), float(dpi[0]))
    if block:
        block = exif.upright(block, width, height)
    if isinstance(xmp, str):
        xmp = xmp.encode()
    meta = Meta(
        exif=block,
        icc_profile=profile,
        xmp=exif.upright_xmp(xmp) if xmp else None,
        dpi=dpi,
        bit_depth=bit_depth,
    )
    return pixels, alpha, meta


def _pixels(image: Image.Image, name: str, data: bytes | None) -> NDArray[Any] | None:
    """Read 16-bit pixels ``(H, W, C)``; None when the picture has 8 bits."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and "transparency" not in image.info and (data is None or image.format != "PNG"):
        grey = np.asarray(image)[..., None].astype(np.uint16)
        if tags.get(258) == (12,):
            grey = (grey * (65535 / 4095) + 0.5).astype(np.uint16)
        return 65535 - grey if tags.get(262) == 0 else grey  # 0: white is zero
    if data is None:
        return None
    if image.format == "PNG" and data[24] == 16:
        return deep.read_png(data)
    if image.format == "TIFF" and set(tags.get(258, (1,))) == {16} and tags.get(262) in (0, 1, 2):
        return _deep_tiff(image, name, data)
    return None


def _deep_tiff(image: Image.Image, name: str, data: bytes) -> NDArray[np.uint16] | None:
    """Read the high bytes, then the low bytes, of a colour TIFF: Pillow's unpackers take one byte of each number.

    Which one they take is a matter of the byte order they are told, so telling the wrong one gives the other byte.
    (FFmpeg's reader would give both at once, but it scrambles tiles without a word.)
    """
    first: Any = image
    second: Any = open_image(data, name, MAX_PIXELS * 100)
    raw_mode = str(first.tile[0].args[0]) if first.tile else ""
    kind, _, suffix = raw_mode.partition(";")
    if kind not in ("RGB", "RGBA", "RGBa") or suffix not in _OTHER_BYTE or first.tag_v2.get(284, 1) != 1:
        logger.warning("%s: this kind of 16-bit TIFF is read with 8 bits per channel", name)
        return None
    kind = kind.upper()
    for opened, order in ((first, suffix), (second, _OTHER_BYTE[suffix])):
        opened._mode = kind
        opened.tile = [tile._replace(args=(f"{kind};{order}", *tile.args[1:])) for tile in opened.tile]
    high = np.asarray(first)
    array = high.astype(np.uint16)  # (H, W, 3|4)
    array <<= 8
    array |= np.asarray(second)
    return _straighten(array) if raw_mode.startswith("RGBa") else array


def _straighten(array: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Divide premultiplied colour by its alpha."""
    alpha = array[..., -1:].astype(np.float64)
    colour = np.where(alpha > 0, array[..., :-1] * (65535.0 / np.maximum(alpha, 1)), 0)
    array[..., :-1] = np.clip(np.rint(colour), 0, 65535)
    return array


def _eight_bit(
    image: Image.Image, name: str, profile: bytes | None
) -> tuple[NDArray[Any], bytes | None, NDArray[Any] | None]:
    """Read 8-bit pixels ``(H, W, 1|2|3|4)``, the profile they are in, and alpha where it was set apart."""
    mode = image.mode
    if mode in ("I", "F"):
        raise InputError(f"{name}: has 32 bits per channel, expected 8 or 16", "convert it to 16 bit first")
    space = icc.color_space(profile) if profile else ""
    if mode == "CMYK":
        if space != "CMYK":
            logger.warning("%s: CMYK picture without a CMYK profile; its colours in RGB are a guess", name)
            return np.asarray(image.convert("RGB")), None, None
        logger.info("%s: CMYK picture converted to sRGB through its profile", name)
        return _littlecms(image, cast(bytes, profile), name), None, None
    if mode in ("LAB", "YCbCr", "HSV"):
        logger.info("%s: %s picture converted to RGB", name, mode)
        if mode == "LAB":
            lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
            return _littlecms(image, lab, name), None, None
        return np.asarray(image.convert("RGB")), profile, None
    see_through = "transparency" in image.info
    if mode in ("P", "PA"):
        logger.info("%s: palette picture converted to RGB", name)
        image = image.convert("RGBA" if see_through or mode == "PA" else "RGB")
    elif see_through and mode in ("1", "L", "RGB", "I;16"):
        image = image.convert("RGBA")
    elif mode in ("1", "La", "RGBa", "RGBX"):
        image = image.convert({"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}[mode])
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        raise InputError(f"{name}: has pixels of mode {mode}, expected grey, RGB, palette or CMYK")
    if profile and image.mode in ("RGB", "RGBA") and space == "RGB" and icc.parse(profile) is None:
        logger.warning("%s: its ICC profile works by lookup tables; converted to sRGB with 8 bits", name)
        alpha = np.asarray(image.getchannel("A"))[..., None] if image.mode == "RGBA" else None
        return _littlecms(image.convert("RGB"), profile, name), None, alpha
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array, profile, None


def _littlecms(image: Image.Image, profile: bytes, name: str) -> NDArray[np.uint8]:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        result = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        return np.asarray(cast(Image.Image, result))
    except ImageCms.PyCMSError as error:
        logger.warning("%s: its ICC profile cannot be used and is dropped: %s", name, error)
        return np.asarray(image.convert("RGB"))


def _to_srgb(pixels: Tensor, profile: bytes | None, name: str) -> tuple[Tensor, bytes | None]:
    """Take ``(1|3, H, W)`` device values to ``(3, H, W)`` sRGB, and say which profile to write it back in."""
    space = icc.color_space(profile) if profile else ""
    grey = pixels.shape[0] == 1
    if grey and profile and space == "GRAY":
        curve = icc.parse_gray(profile)
        if curve is None:
            logger.warning("%s: its grey ICC profile cannot be read and is dropped; taken as sRGB", name)
        else:
            logger.info("%s: grey picture converted to sRGB through its profile", name)
            icc.apply_in_place(pixels, lambda rows: icc.srgb_encode(curve.decode(rows.double())).float())
        profile = None
    if grey:
        pixels = pixels.repeat(3, 1, 1)  # (3, H, W)
    if not profile:
        return pixels, None
    matrix = icc.parse(profile) if space == "RGB" else None
    if matrix is None:
        logger.warning("%s: its ICC profile (%s) does not fit and is dropped; taken as sRGB", name, space or "damaged")
        return pixels, None
    if not matrix.is_srgb:
        icc.apply_in_place(pixels, matrix.to_srgb)
    return pixels, profile
