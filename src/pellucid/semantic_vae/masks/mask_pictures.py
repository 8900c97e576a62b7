"""What the pixels of a picture say about classes: ids, a palette's indices, or colours."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet, Color, present_ids
from pellucid.semantic_vae.masks.label_orders import (
    IGNORE,
    ORDERS,
    OWN,
    Beard,
    LabelOrder,
    find_order,
    guess,
    remap,
    tell_ids,
)

logger = logging.getLogger(__name__)

FAR = (
    25.0  # distance in RGB beyond which a colour is of no class: half that of the nearest two colours of CELEBAMASK_HQ
)

# The official code of the paper paints r_brow like this, MaskGAN's palette like CELEBAMASK_HQ (section 1.1).
_ALSO: dict[Color, str] = {(0x33, 0xFF, 0xFF): "r_brow"}

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_PHOTO_HINT = "a photograph needs a parser (--photo), a foreign palette or order its class set or label order"


@dataclass(frozen=True)
class Reading:
    """How a label map is read.

    Attributes:
        classes: what the result's ids mean.
        order: label order of bare ids: a name in `ORDERS`, ``"own"``, the name of the class set, or None.
        unmatched: largest share of pixels that may be farther than `FAR` from every colour of the palette.
        beard: what becomes of foreign classes that have no class here.
    """

    classes: ClassSet = CELEBAMASK_HQ
    order: str | None = None
    unmatched: float = 0.15
    beard: Beard = "skin"

    @property
    def foreign(self) -> LabelOrder | None:
        """The order of another parser, None when the ids are those of the class set.

        Raises:
            ConfigError: the order is not known.
        """
        if self.order is None or self.order.casefold() == self.classes.name.casefold():
            return None
        return find_order(self.order)


def labels_of_picture(picture: Image.Image, name: str, reading: Reading) -> tuple[Tensor, float]:
    """Read the label map out of a Pillow picture.

    Grey is ids. A palette's indices are ids when its colours are not those of the class set; else the colours count.
    RGB is colours, unless its channels are equal everywhere, which is grey again. What is transparent by more than
    half becomes 255, "ignore".

    Args:
        picture: decoded, in any mode.
        name: what messages call it.
        reading: class set, label order and the rest.

    Returns:
        ``(H, W)`` integers with 255 for "ignore", and the share of pixels whose colour was not in the palette.

    Raises:
        InputError: the picture is no label map.
        ConfigError: the ids need an order that is not given.
    """
    lossy = picture.format == "JPEG"
    picture = ImageOps.exif_transpose(picture)
    picture, clear = _without_alpha(picture, name)
    if picture.mode == "1":
        raise InputError(f"{name}: has one bit per pixel, expected ids or colours of classes", "is it a single part?")
    if picture.mode == "P":
        labels, share = _indexed(picture, name, reading)
    elif picture.mode == "RGB":
        labels, share = _colored(np.asarray(picture), name, reading)
    elif picture.mode == "L" or picture.mode.startswith("I"):
        if lossy:
            raise InputError(f"{name}: is a JPEG, which changes ids", "save the label map as PNG")
        labels, share = to_classes(_grey(picture, name), name, reading), 0.0
    else:
        raise InputError(f"{name}: has pixels of mode {picture.mode}, expected grey, palette or RGB")
    return (labels if clear is None else labels.masked_fill(clear, IGNORE)), share


def to_classes(ids: Tensor, name: str, reading: Reading) -> Tensor:
    """Turn the bare ids of a file into ids of the class set, by the order that was named.

    Only the CelebAMask-HQ set needs one, as only its classes have been numbered in several ways; another set's file is
    taken at its word.

    Args:
        ids: ``(H, W)`` integers, 255 "ignore".
        name: what messages call the file.
        reading: the class set to arrive at, and the order.

    Raises:
        InputError: ids beyond the order.
        ConfigError: the order is needed and not given, or unknown.
    """
    classes = reading.classes
    ambiguous = classes.fingerprint() == CELEBAMASK_HQ.fingerprint()
    if reading.order is None and ambiguous:
        there = ids.unique().tolist() if int(ids.min()) < 0 else present_ids(ids)
        longest = max(len(one.targets) for one in ORDERS.values())
        if there == [0, IGNORE]:
            raise InputError(f"{name}: holds 0 and 255 only, the mask of one part", "give the folder of all parts")
        if beyond := [one for one in there if not 0 <= one < longest and one != IGNORE]:
            raise InputError(
                f"{name}: ids beyond every known label order (0 to {longest - 1}): {tell_ids(ids, beyond)}",
                _PHOTO_HINT,
            )
        if there in ([0], [IGNORE], [0, IGNORE]):
            return ids  # every order has its background there
        raise ConfigError(
            f"{name}: holds bare ids, and parsers number the same classes in several orders",
            f"name the label order: {', '.join((*ORDERS, OWN))}; {guess(ids)}",
        )
    try:
        return remap(ids, reading.foreign or OWN, reading.beard, classes)
    except InputError as error:
        raise InputError(f"{name}: {error.message}", error.hint) from error


def labels_of_colors(
    colors: NDArray[np.uint8], classes: ClassSet, name: str, unmatched: float = 0.15
) -> tuple[Tensor, float]:
    """Find the class of every pixel by its colour: exactly, else the nearest with a log line.

    Args:
        colors: ``(H, W, 3)``.
        classes: whose palette.
        name: what messages call the picture.
        unmatched: largest share of pixels that may be farther than `FAR` from every colour of the palette.

    Returns:
        ``(H, W)`` uint8, and the share of pixels whose colour was not exactly in the palette.

    Raises:
        InputError: too many colours are far from the palette: the picture is something else.
    """
    palette = {**dict(zip(classes.colors, range(len(classes)), strict=True)), **_aliases(classes)}
    known = np.array(list(palette), dtype=np.int64)  # (K, 3)
    ids = torch.tensor(list(palette.values()), dtype=torch.uint8)
    packed = (colors.astype(np.int64) << np.array([16, 8, 0])).sum(axis=-1)  # (H, W)
    values, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
    there = np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=-1)  # (V, 3)
    nearest = np.empty(len(there), np.int64)
    distance = np.empty(len(there))
    for start in range(0, len(there), 65536):  # a photograph has as many colours as pixels
        part = slice(start, start + 65536)
        squares = np.square(there[part, None] - known[None]).sum(axis=-1)  # (v, K)
        nearest[part] = squares.argmin(axis=1)
        distance[part] = np.sqrt(squares.min(axis=1))
    total = packed.size
    far, off = counts[distance > FAR].sum() / total, counts[distance > 0].sum() / total
    if far > unmatched:
        worst = there[np.where(distance > FAR, counts, 0).argmax()]
        raise InputError(
            f"{name}: {100 * far:.3g} % of the pixels have colours that are none of {classes.name!r}, "
            "such as #{:02X}{:02X}{:02X}".format(*worst),
            _PHOTO_HINT,
        )
    if off > 0:
        logger.warning(
            "%s: %d pixels (%.3g %%) have colours outside the palette and took the nearest, %.0f away at most",
            *(name, round(off * total), 100 * off, distance.max()),
        )
    return ids[torch.from_numpy(nearest)][torch.from_numpy(where.reshape(packed.shape))], float(off)


def _aliases(classes: ClassSet) -> dict[Color, int]:
    if classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
        return {}
    return {color: classes.id_of(one) for color, one in _ALSO.items() if color not in classes.colors}


def _without_alpha(picture: Image.Image, name: str) -> tuple[Image.Image, Tensor | None]:
    """Take alpha away, and say which pixels ``(H, W)`` it hides."""
    if picture.mode not in _WITH_ALPHA and "transparency" not in picture.info:
        return picture, None
    clear = torch.from_numpy(np.asarray(picture.convert("RGBA").getchannel("A")) < 128)
    if bool(clear.any()):
        share = 100 * float(clear.float().mean())
        logger.warning("%s: %.3g %% of the pixels are transparent and count as without class", name, share)
    if picture.mode in _WITH_ALPHA:
        # Straight channels and indices: converting to RGB would keep them too, but La and RGBa are premultiplied.
        straight = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode))
        picture = straight.convert({"LA": "L", "PA": "RGB", "RGBA": "RGB"}[straight.mode])
    return picture, clear


def _grey(picture: Image.Image, name: str) -> Tensor:
    values = np.array(picture)
    values = values if values.dtype == np.uint8 else values.astype(np.int64)
    high = int(values.max())
    if picture.mode != "L" and high > 255:
        raise InputError(
            f"{name}: has 16 bits per channel and values up to {high}, expected ids up to 255",
            "save the ids themselves with 8 bits",
        )
    if picture.mode != "L":
        logger.info("%s: ids with 16 bits per channel, none above 255, were read", name)
    return torch.from_numpy(values)


def _indexed(picture: Image.Image, name: str, reading: Reading) -> tuple[Tensor, float]:
    classes = reading.classes
    indices = torch.from_numpy(np.asarray(picture).astype(np.int64))
    flat = picture.getpalette("RGB") or []
    palette = [(flat[at], flat[at + 1], flat[at + 2]) for at in range(0, len(flat) - 2, 3)]
    known = {**dict(zip(classes.colors, range(len(classes)), strict=True)), **_aliases(classes)}
    used = [one for one in indices.unique().tolist() if one != IGNORE]
    if used and all(one < len(palette) and palette[one] in known for one in used):
        table = torch.full((256,), IGNORE)
        table[used] = torch.tensor([known[palette[one]] for one in used])
        if reading.foreign is not None:
            logger.warning("%s: its palette says what the ids mean; label order %s is left out", name, reading.order)
        return table[indices], 0.0
    return to_classes(indices, name, reading), 0.0


def _colored(colors: NDArray[np.uint8], name: str, reading: Reading) -> tuple[Tensor, float]:
    classes = reading.classes
    grey = bool((colors[..., 0] == colors[..., 1]).all()) and bool((colors[..., 0] == colors[..., 2]).all())
    known = {*classes.colors, *_aliases(classes)}
    if grey and any((one, one, one) not in known for one in np.unique(colors[..., 0]).tolist()):
        logger.info("%s: its three channels are equal, so they are read as ids", name)
        return to_classes(torch.from_numpy(colors[..., 0].astype(np.int64)), name, reading), 0.0
    return labels_of_colors(colors, classes, name, reading.unmatched)
