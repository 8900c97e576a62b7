"""The palette of a picture: its dominant colours, by k-means in Lab, the same for the same picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.layers import LayerStack
from pellucid.tic.lab import lab_to_rgb, rgb_to_lab
from pellucid.tic.vocabulary import NAMED, name_colour

COLOURS = 6
_PIXELS = 128  # rows and columns that are looked at, at most
_CELL = 10.0  # side of the cells of Lab in which the search begins
_ROUNDS = 20


@dataclass(frozen=True)
class Swatch:
    """One colour of a palette.

    Attributes:
        hex: sRGB as ``"#rrggbb"``.
        name: colour word.
        share: of the picture's visible pixels, in [0, 1].
        lab: L, a and b.
    """

    hex: str
    name: str
    share: float
    lab: tuple[float, float, float]


def palette(picture: Tensor | LayerStack, colours: int = COLOURS) -> list[Swatch]:
    """Find the dominant colours.

    Args:
        picture: sRGB ``(3, H, W)`` or, with straight alpha, ``(4, H, W)`` in [0, 1]; or a stack, as it shows.
        colours: how many at most; a picture of fewer colours has fewer.

    Returns:
        Swatches, the largest share first; none when everything is transparent.
    """
    if isinstance(picture, LayerStack):
        # The coloured picture is the stack's lowest layer, and what all of it shows; compositing would do it again.
        picture = picture["color"].rgba if "color" in picture else picture.composite()
    rows, columns = (max(1, -(-size // _PIXELS)) for size in picture.shape[-2:])
    seen = picture[:, rows // 2 :: rows, columns // 2 :: columns]  # (C, h, w): pixels as they are, no mixtures
    lab = rgb_to_lab(seen[:3].float().clamp(0, 1)).flatten(1).T  # (n, 3)
    if seen.shape[0] == 4:
        lab = lab[seen[3].flatten() >= 0.5]
    if not lab.shape[0]:
        return []
    centres = _first_centres(lab, colours)
    nearest = torch.cdist(lab, centres).argmin(dim=1)
    for _ in range(_ROUNDS):
        centres = torch.stack(
            [lab[nearest == i].mean(dim=0) if bool((nearest == i).any()) else centres[i] for i in range(len(centres))]
        )
        moved = torch.cdist(lab, centres).argmin(dim=1)
        if torch.equal(moved, nearest):
            break
        nearest = moved
    counts = torch.bincount(nearest, minlength=len(centres))
    rgb = (lab_to_rgb(centres.T[:, None])[:, 0].T * 255).round().int().tolist()
    names = [NAMED[index] for index in name_colour(centres).tolist()]
    swatches: list[Swatch] = []
    for i, (r, g, b) in enumerate(rgb):
        if counts[i]:
            L, a, own_b = (round(value, 2) for value in centres[i].tolist())
            share = round(int(counts[i]) / lab.shape[0], 4)
            swatches.append(Swatch(f"#{r:02x}{g:02x}{b:02x}", names[i], share, (L, a, own_b)))
    return sorted(swatches, key=lambda swatch: (-swatch.share, swatch.hex))


def _first_centres(lab: Tensor, colours: int) -> Tensor:
    """Cells of Lab that hold many pixels and lie far from those already taken: ``(k, 3)``."""
    cells, where, counts = torch.unique((lab / _CELL).round(), dim=0, return_inverse=True, return_counts=True)
    middles = torch.zeros_like(cells).index_add_(0, where, lab) / counts[:, None]
    taken = [int(counts.argmax())]
    distance = (middles - middles[taken[0]]).norm(dim=1)
    while len(taken) < min(colours, len(cells)):
        best = int((counts * distance**2).argmax())
        if distance[best] <= 1e-3:
            break
        taken.append(best)
        distance = torch.minimum(distance, (middles - middles[best]).norm(dim=1))
    return middles[taken]
