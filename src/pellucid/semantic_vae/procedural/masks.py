"""Face masks drawn by code, so that the room trains, tests and ships weights without anyone's photographs.

Nineteen classes in the order of `classes.CELEBAMASK_HQ`. The laws of the numbers are in `procedural_parameters`, the
shapes in `procedural_parts` and `procedural_hair`, roll, warp and trembling edges in `procedural_canvas`; here is the
painter's order. What such masks lack: hands, beards, profiles, clothes with patterns, and all that nobody drew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.semantic_vae.procedural.canvas import Sheet, cover, look_up, lookup, textures
from pellucid.semantic_vae.procedural.hair import cap_of, draw_back_hair, draw_front_hair, draw_hat
from pellucid.semantic_vae.procedural.parameters import FaceParameters, parameters_of
from pellucid.semantic_vae.procedural.parts import (
    EARRING,
    EYE,
    HAIR,
    HAT,
    LOWER_LIP,
    MOUTH,
    NOSE,
    UPPER_LIP,
    draw_clothes,
    draw_earrings,
    draw_ears,
    draw_eyes,
    draw_mouth,
    draw_nose,
    draw_skin,
    head_of,
)

_LEAST_SIZE = 16
_AT_ONCE = 4  # masks drawn together: more would leave the processor's cache
_OVER_HAIR = (NOSE, MOUTH, UPPER_LIP, LOWER_LIP, EARRING)


def procedural_masks(count: int, seed: int, size: int = 256, first: int = 0) -> tuple[Tensor, FaceParameters]:
    """Draw masks ``first`` to ``first + count - 1`` of a seed; mask ``k`` is the same in every call that holds it.

    Args:
        count: how many.
        seed: any integer.
        size: side in pixels, at least 16.
        first: number of the first mask.

    Returns:
        labels ``(count, size, size)`` uint8 in 0..18, and the numbers they were drawn from.

    Raises:
        ConfigError: the size is too small.
    """
    parameters = parameters_of(seed, range(first, first + count))
    return draw_masks(parameters, size), parameters


def draw_masks(parameters: FaceParameters, size: int = 256) -> Tensor:
    """Draw the masks of given faces.

    Args:
        parameters: of ``N`` faces.
        size: side in pixels, at least 16.

    Returns:
        ``(N, size, size)`` uint8 in 0..18, on the CPU.

    Raises:
        ConfigError: the size is too small.
    """
    if size < _LEAST_SIZE:
        raise ConfigError(f"drawn masks: size {_LEAST_SIZE} or more expected, found {size}", "draw larger, then resize")
    labels = torch.empty(len(parameters), size, size, dtype=torch.uint8)
    for start in range(0, len(parameters), _AT_ONCE):
        few = slice(start, start + _AT_ONCE)
        labels[few] = _draw(parameters[few], size)
    return labels


def _draw(p: FaceParameters, size: int) -> Tensor:
    shapes = textures(p, size)
    back, face, front, hat = (Sheet(len(p), size) for _ in range(4))
    head = head_of(p, face.axis)
    cap = cap_of(p, head, shapes, face.axis)
    draw_back_hair(back, p, head, cap, shapes)
    draw_clothes(face, p, head, shapes)
    draw_ears(face, p, head)
    draw_skin(face, head)
    draw_earrings(face, p, head)
    draw_eyes(face, p, head)
    draw_nose(face, p, head)
    draw_mouth(face, p, head)
    draw_front_hair(front, p, head, cap, shapes)
    draw_hat(hat, p, cap, head, shapes)

    at = lookup(p, shapes, size)
    picture = look_up(back.labels, at.curled, size)
    drawn = look_up(face.labels, at.still, size)
    picture *= drawn == 0
    picture |= drawn
    falls = look_up(front.labels, at.waved, size) > 0
    for label in _OVER_HAIR:
        falls &= drawn != label
    swept = (p.sweep != 0).numpy()[:, None, None]
    for label in EYE:
        falls &= swept | (drawn != label)
    cover(picture, falls, HAIR)
    worn = look_up(hat.labels, at.still, size)
    cover(picture, worn > 0, HAT)
    return torch.from_numpy(picture)
