"""Where the one object of a photograph is, guessed without a network: colours of the middle against those of the rim.

Made for one thing on a ground, such as a garment on a floor. It errs where both have the same colours.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.nn.guided import apply_coefficients, guided_coefficients
from pellucid.tic.lab import rgb_to_lab

_SIDE = 96  # the mask is found at this size
_COLOURS = 16  # clusters
_NEAR = 6.0  # Lab distance within which a pixel belongs to a cluster
_LIGHTNESS = 0.7  # weight of L beside a and b: shadows and folds of a sheet change it more than them
_SURE = 3.0  # the most that a colour alone may say, as a logarithm of odds


def object_mask(rgb: Tensor) -> Tensor:
    """Guess where the object in the middle of a picture is.

    The picture's colours are gathered in clusters; a cluster that fills the middle and is rare along the rim is the
    object's. A pixel near the middle needs less evidence than one near a corner, and where the colours say nothing (a
    white shirt on a white sheet) the place alone decides. A guided filter then draws the mask to the picture's edges.

    Args:
        rgb: ``(3, H, W)`` in [0, 1].

    Returns:
        ``(1, H, W)`` in [0, 1], nearly 0 or 1 except along the object's edge.
    """
    small = F.interpolate(rgb[None], (_SIDE, _SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    scale = torch.tensor([_LIGHTNESS, 1.0, 1.0])[:, None, None]
    colours = (rgb_to_lab(small)[0] * scale).flatten(1).T  # (P, 3)
    axis = (torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    radius = (axis[:, None].square() + axis[None].square()).sqrt()
    frame = torch.maximum(axis[:, None].abs(), axis[None].abs())
    inner = torch.sigmoid((0.45 - radius) * 14).flatten()
    rim = torch.sigmoid((frame - 0.88) * 40).flatten()
    distance = torch.cdist(colours, _clusters(colours[::3]))
    belongs = torch.softmax(-distance.square() / (2 * _NEAR**2), dim=1)  # (P, clusters)
    in_middle, on_rim = (belongs.T @ weight / weight.sum() for weight in (inner, rim))
    odds = torch.log((in_middle + 4e-3) / (on_rim + 4e-3))
    evidence = (belongs @ odds).view(_SIDE, _SIDE).clamp(-_SURE, _SURE) + 3.5 * (0.78 - radius)
    found = torch.sigmoid(1.2 * evidence)[None, None]
    guide = small.mean(1, keepdim=True)
    for _ in range(2):
        found = apply_coefficients(guide, guided_coefficients(guide, found, radius=5, eps=4e-4)).clamp(0, 1)
    found = torch.sigmoid((found - 0.5) * 14)
    return F.interpolate(found, rgb.shape[-2:], mode="bilinear", align_corners=False)[0].clamp(0, 1)


def _clusters(colours: Tensor, rounds: int = 8) -> Tensor:
    """K-means centres ``(k, 3)``, started from colours far from one another: the same picture, the same mask."""
    centres = [colours.mean(dim=0)]
    farthest = (colours - centres[0]).norm(dim=1)
    for _ in range(_COLOURS - 1):
        centres.append(colours[farthest.argmax()])
        farthest = torch.minimum(farthest, (colours - centres[-1]).norm(dim=1))
    found = torch.stack(centres)
    for _ in range(rounds):
        nearest = F.one_hot(torch.cdist(colours, found).argmin(dim=1), _COLOURS).to(colours)  # (P, k)
        found = nearest.T @ colours / nearest.sum(dim=0).clamp(min=1)[:, None]
    return found
