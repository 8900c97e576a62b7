"""Does the picture take the colour that the words name? The measure the paper lacks.

PSNR hardly moves when a red shirt turns out blue, and on natural captions it mostly measures how well the network knows
the world. So every picture is coloured with six words, most of which contradict it, and the hue of the object is read.
"""

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import InputError
from pellucid.metrics.colour import chroma, hue, hue_distance
from pellucid.tic.lab import rgb_to_lab, to_gamut
from pellucid.tic.vocabulary import SIX, hue_angle

Predict = Callable[[Tensor, list[str]], Tensor]

MIN_CHROMA = 12.0  # a mean colour paler than this shows no hue
GREY_CHROMA = 8.0  # a pixel of the true picture below this counts as grey: sheets and walls under warm light reach 6
_RIM = 32  # the rim around an object is this part of the picture's side


def prompt(colour: str, noun: str) -> str:
    """The sentence of the test: ``"a red dress"``, ``"an orange dress"``."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {noun}".strip()


def central_ninth(count: int, side: int) -> Tensor:
    """Boxes ``(count, 4)`` as x0, y0, x1, y1 in pixels: the middle third of both sides."""
    low, high = round(side / 3), round(side * 2 / 3)
    return torch.tensor([low, low, high, high]).repeat(count, 1)


def obedience(
    predict: Predict,
    Ls: Tensor,
    object_masks: Tensor | None,
    nouns: Sequence[str],
    colours: Sequence[str] = SIX,
    *,
    truth: Tensor | None = None,
    boxes: Tensor | None = None,
    min_chroma: float = MIN_CHROMA,
    batch: int = 32,
) -> dict[str, float]:
    """Colour each picture with ``"a <colour> <noun>"`` for every colour and read the hue of the object (spec §10).

    A result obeys when the hue of the mean a*, b* in the object's box is nearest to that of the named colour, among
    ``colours``, and the chroma of that mean is at least ``min_chroma``.

    Args:
        predict: takes L ``(B, 1, S, S)`` in [0, 100] and B sentences, gives a*, b* ``(B, 2, S, S)`` in Lab units.
        Ls: ``(N, 1, S, S)`` in [0, 100].
        object_masks: ``(N, 1, S, S)`` in [0, 1], the object above 0.5. Bleeding is read outside, a rim of S / 32 left
            out, because masks are least sure there. Without masks it is read outside the boxes, which on a garment that
            is grey itself counts the rest of the garment as bleeding.
        nouns: N names of the objects; ``""`` leaves the bare colour.
        colours: words of the vocabulary with a hue.
        truth: the true a*, b* ``(N, 2, S, S)``; bleeding and the opposite colour need it.
        boxes: ``(N, 4)`` x0, y0, x1, y1 in pixels, where the hue is read; the central ninth by default.
        min_chroma: see above, in Lab units.
        batch: sentences in one call of ``predict``.

    Returns:
        ``accuracy`` over pictures and colours, ``accuracy_<colour>``, ``chroma`` (mean chroma of the means in the
        boxes), ``spread`` (mean distance of the results of one picture from their average, over all pixels),
        ``pictures``. With ``truth`` also ``bleeding`` (mean chroma outside the object where the true picture is grey)
        and ``bleeding_of_truth`` (the true picture's own there), both left out when no pixel is; and ``opposite``
        (accuracy of the colour whose hue is farthest from the picture's own, among the ``opposite_pictures`` whose own
        chroma is at least ``min_chroma``), left out when there is none.

    Raises:
        InputError: the counts or sizes do not fit.
    """
    count, side = Ls.shape[0], Ls.shape[-1]
    _check(Ls, object_masks, nouns, truth, boxes)
    boxes = central_ninth(count, side) if boxes is None else boxes
    inside = box_masks(boxes, side)  # (N, 1, S, S)
    objects = inside if object_masks is None else _widened(object_masks.cpu() > 0.5)
    outside = _outside(objects, truth)
    angles = torch.tensor([hue_angle(colour) for colour in colours])
    means = torch.zeros(count, len(colours), 2)
    spreads, bled, bled_pixels = torch.zeros(count), 0.0, 0.0
    group = max(1, batch // len(colours))
    for start in range(0, count, group):
        rows = slice(start, min(start + group, count))
        L = Ls[rows].repeat_interleave(len(colours), 0)
        ab = predict(L, [prompt(colour, noun) for noun in nouns[rows] for colour in colours])
        ab = ab.detach().float().cpu()
        if ab.shape[-2:] != (side, side):
            ab = F.interpolate(ab, (side, side), mode="bilinear", antialias=True)
        ab = ab.unflatten(0, (-1, len(colours)))  # (n, C, 2, S, S)
        weight = inside[rows, None].float()  # (n, 1, 1, S, S)
        means[rows] = (ab * weight).sum((-2, -1)) / weight.sum((-2, -1))
        spreads[rows] = chroma(ab - ab.mean(1, keepdim=True), dim=2).mean((1, 2, 3))
        if outside is not None:
            ring = outside[rows].float()  # (n, 1, S, S)
            bled += float((chroma(ab, dim=2) * ring).sum())
            bled_pixels += float(ring.sum()) * len(colours)
    strong = chroma(means) >= min_chroma  # (N, C)
    nearest = hue_distance(hue(means)[..., None], angles).argmin(-1)  # (N, C)
    obeyed = (strong & (nearest == torch.arange(len(colours)))).float()
    figures = {"accuracy": float(obeyed.mean())}
    figures |= {f"accuracy_{colour}": float(obeyed[:, place].mean()) for place, colour in enumerate(colours)}
    figures |= {"chroma": float(chroma(means).mean()), "spread": float(spreads.mean()), "pictures": float(count)}
    if truth is not None and outside is not None:
        if bled_pixels:
            figures["bleeding"] = bled / bled_pixels
            figures["bleeding_of_truth"] = float(chroma(truth.cpu().float(), dim=1)[outside[:, 0]].mean())
        figures |= _opposite(obeyed, truth.cpu().float(), inside, angles, min_chroma)
    return figures


def _opposite(obeyed: Tensor, truth: Tensor, inside: Tensor, angles: Tensor, min_chroma: float) -> dict[str, float]:
    weight = inside.float()
    own = (truth * weight).sum((-2, -1)) / weight.sum((-2, -1))  # (N, 2)
    coloured = chroma(own) >= min_chroma
    if not bool(coloured.any()):
        return {}
    farthest = hue_distance(hue(own)[:, None], angles).argmax(-1, keepdim=True)  # (N, 1)
    right = obeyed.gather(1, farthest)[coloured]
    return {"opposite": float(right.mean()), "opposite_pictures": float(coloured.sum())}


def _outside(objects: Tensor, truth: Tensor | None) -> Tensor | None:
    if truth is None:
        return None
    grey = chroma(truth.cpu().float(), dim=1)[:, None] < GREY_CHROMA  # (N, 1, S, S)
    return grey & ~objects


def _widened(objects: Tensor) -> Tensor:
    rim = objects.shape[-1] // _RIM
    return F.max_pool2d(objects.float(), 2 * rim + 1, 1, rim) > 0.5


def contact_sheet(
    predict: Predict,
    rgb: Tensor,
    nouns: Sequence[str],
    colours: Sequence[str] = SIX,
    *,
    cell: int = 128,
    blocks: int = 2,
) -> Tensor:
    """Show pictures in every colour: one row each of grey, truth, and the results of the test's sentences.

    Args:
        predict: see `obedience`.
        rgb: true pictures ``(N, 3, S, S)``, sRGB in [0, 1].
        nouns: N names of the objects.
        colours: words, one column each.
        cell: side of a picture on the sheet, in pixels.
        blocks: how many pictures stand side by side.

    Returns:
        ``(3, H, W)`` in [0, 1], with a line of words on top.
    """
    lab = rgb_to_lab(rgb)
    strips = []
    for pixels, (L, ab), noun in zip(rgb, (each.split([1, 2]) for each in lab), nouns, strict=True):
        texts = [prompt(colour, noun) for colour in colours]
        predicted = predict(L.expand(len(colours), 1, -1, -1), texts).detach().float().cpu()
        predicted = F.interpolate(predicted, L.shape[-2:], mode="bilinear", antialias=True)
        grey = to_gamut(L[None], torch.zeros_like(ab)[None])
        coloured = to_gamut(L.expand(len(colours), 1, -1, -1), predicted)
        cells = torch.cat([grey, pixels[None], coloured])
        cells = F.interpolate(cells, (cell, cell), mode="bilinear", antialias=True).clamp(0.0, 1.0)
        strips.append(
            F.pad(cells, (1, 1, 1, 1), value=1.0).permute(1, 2, 0, 3).flatten(2)
        )  # (3, cell + 2, C (cell + 2))
    strips += [torch.ones_like(strips[0])] * (-len(strips) % blocks)
    rows = [torch.cat(strips[start : start + blocks], dim=-1) for start in range(0, len(strips), blocks)]
    return torch.cat([_words(["grey", "truth", *colours] * blocks, cell + 2), *rows], dim=-2)


def _words(words: Sequence[str], step: int, height: int = 18) -> Tensor:
    line = Image.new("RGB", (step * len(words), height), "white")
    draw, font = ImageDraw.Draw(line), ImageFont.load_default()
    for place, word in enumerate(words):
        draw.text((place * step + 4, 3), word, fill="black", font=font)
    values = torch.frombuffer(bytearray(line.tobytes()), dtype=torch.uint8)
    return values.reshape(height, -1, 3).permute(2, 0, 1).float() / 255.0


def box_masks(boxes: Tensor, side: int) -> Tensor:
    """Boxes ``(N, 4)`` x0, y0, x1, y1 in pixels as boolean masks ``(N, 1, side, side)``."""
    x0, y0, x1, y1 = (edge[:, None] for edge in boxes.cpu().unbind(-1))
    place = torch.arange(side)[None]
    columns, rows = (place >= x0) & (place < x1), (place >= y0) & (place < y1)  # (N, S)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _check(Ls: Tensor, masks: Tensor | None, nouns: Sequence[str], truth: Tensor | None, boxes: Tensor | None) -> None:
    count, side = Ls.shape[0], Ls.shape[-1]
    if count == 0 or tuple(Ls.shape) != (count, 1, side, side):
        raise InputError(f"L is (N, 1, S, S) with N at least 1, found {tuple(Ls.shape)}")
    if len(nouns) != count:
        raise InputError(f"{count} pictures need {count} nouns, found {len(nouns)}")
    wanted = {"masks": (masks, (count, 1, side, side)), "true ab": (truth, (count, 2, side, side))}
    for name, (tensor, shape) in (wanted | {"boxes": (boxes, (count, 4))}).items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(f"{name} must be {shape}, found {tuple(tensor.shape)}")
    if boxes is not None and not bool(box_masks(boxes, side).flatten(1).any(1).all()):
        raise InputError(f"a box is empty or outside the picture of {side}x{side} px")
