"""Pictures of a run: clips as film strips over a checkerboard, and how a figure fell, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

_LIGHT, _DARK, _CHECK = 0.92, 0.80, 8
_LABEL = 14  # pixels above each strip
_INK, _FAINT = (40, 40, 40), (205, 205, 205)
_COLOURS = ((40, 90, 200), (200, 90, 40), (60, 150, 70), (140, 60, 160))


def over_checks(frames: Tensor) -> Tensor:
    """``(F, 4, H, W)`` straight alpha over a grey checkerboard: ``(F, 3, H, W)``."""
    height, width = frames.shape[-2:]
    rows, columns = torch.arange(height) // _CHECK, torch.arange(width) // _CHECK
    checks = torch.where((rows[:, None] + columns[None]) % 2 == 0, _LIGHT, _DARK).to(frames)
    return frames[:, :3] * frames[:, 3:] + checks * (1.0 - frames[:, 3:])


def film_strip(clips: Sequence[tuple[str, Tensor]], *, most: int = 16, side: int = 64) -> Tensor:
    """Lay clips under one another, a labelled row each.

    Args:
        clips: label and ``(F, 4, H, W)`` frames in [0, 1], all of one shape.
        most: frames shown; longer clips are thinned out evenly.
        side: frames with a smaller side are shown larger, by whole factors, up to about this.

    Returns:
        ``(3, H', W')`` in [0, 1].
    """
    rows: list[Tensor] = []
    for label, frames in clips:
        places = torch.linspace(0, len(frames) - 1, min(most, len(frames))).round().long()
        shown = over_checks(frames[places].detach().float().cpu())
        factor = max(1, side // min(shown.shape[-2:]))
        shown = F.interpolate(shown, scale_factor=float(factor), mode="nearest")
        shown = F.pad(shown, (1, 1, 1, 1), value=1.0)
        strip = torch.cat(list(shown), dim=2)  # (3, H, F * W)
        rows += [_text(label, strip.shape[2]), strip]
    return stacked(rows)


def contact_sheet(pairs: Sequence[tuple[str, Tensor, Tensor]], *, columns: int = 4, side: int = 64) -> Tensor:
    """Lay pairs of pictures, true and made, on a sheet, with what they are told with above each pair.

    Args:
        pairs: label, and two straight RGBA pictures ``(4, H, W)`` in [0, 1], all of one shape.
        columns: pairs beside one another.
        side: pictures with a smaller side are shown larger, by whole factors, up to about this.

    Returns:
        ``(3, H', W')`` in [0, 1].
    """
    cells: list[Tensor] = []
    for label, true, made in pairs:
        shown = over_checks(torch.stack([true, made]).detach().float().cpu())
        factor = max(1, side // min(shown.shape[-2:]))
        shown = F.interpolate(shown, scale_factor=float(factor), mode="nearest")
        both = F.pad(torch.cat(list(shown), dim=2), (2, 2, 1, 3), value=1.0)  # (3, H, 2 W)
        cells.append(torch.cat([_text(label, both.shape[2]), both], dim=1))
    rows = [torch.cat(cells[start : start + columns], dim=2) for start in range(0, len(cells), columns)]
    return stacked(rows)


def curve(points: Sequence[Sequence[float]], names: Sequence[str], *, width: int = 640, height: int = 180) -> Tensor:
    """Draw figures over steps, on a logarithmic scale when they fall by more than a factor of four.

    Args:
        points: rows ``(step, figure, figure, ...)``, in order.
        names: of the figures.
        width: of the picture.
        height: of the picture.

    Returns:
        ``(3, height, width)`` in [0, 1].
    """
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=10)
    left, top, right, bottom = 56, 20, width - 12, height - 24
    values = [value for row in points for value in row[1:] if math.isfinite(value)]
    if values:
        low, high = min(values), max(values)
        logarithmic = low > 0 and high / low > 4
        scale = math.log if logarithmic else float
        span = max(scale(high) - scale(low), 1e-12)
        first, last = points[0][0], max(points[-1][0], points[0][0] + 1)

        def place(step: float, value: float) -> tuple[float, float]:
            across = left + (right - left) * (step - first) / (last - first)
            return across, bottom - (bottom - top) * (scale(value) - scale(low)) / span

        for share in (0.0, 0.5, 1.0):
            value = math.exp(scale(low) + span * share) if logarithmic else low + span * share
            y = bottom - (bottom - top) * share
            draw.line((left, y, right, y), fill=_FAINT)
            draw.text((4, y - 6), f"{value:.3g}", fill=_INK, font=font)
        for number, name in enumerate(names):
            colour = _COLOURS[number % len(_COLOURS)]
            line = [place(row[0], row[number + 1]) for row in points if math.isfinite(row[number + 1])]
            if len(line) > 1:
                draw.line(line, fill=colour, width=2)
            for x, y in line:
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
            draw.text((left + 130 * number, 4), name, fill=colour, font=font)
        draw.text((left, bottom + 6), f"step {first:g}", fill=_INK, font=font)
        draw.text((right - 60, bottom + 6), f"step {points[-1][0]:g}", fill=_INK, font=font)
    return _tensor(image)


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Pictures ``(3, H, W)`` of any width under one another, on white."""
    width = max(row.shape[2] for row in rows)
    return torch.cat([F.pad(row, (0, width - row.shape[2]), value=1.0) for row in rows], dim=1)


def _text(text: str, width: int) -> Tensor:
    image = Image.new("RGB", (width, _LABEL), "white")
    ImageDraw.Draw(image).text((2, 1), text, fill=_INK, font=ImageFont.load_default(size=10))
    return _tensor(image)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255.0
