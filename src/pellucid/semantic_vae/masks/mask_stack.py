"""A label map as a stack with one layer a class, and back."""

import logging

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layers.stack import Layer, LayerStack, Meta
from pellucid.semantic_vae.masks.classes import ClassSet, present_ids
from pellucid.semantic_vae.masks.label_orders import tell_ids

logger = logging.getLogger(__name__)

PICTURES = ("image", "photo", "picture", "preview", "render")  # layers of a mask's stack that are no class


def as_stack(labels: Tensor, classes: ClassSet, picture: Tensor | None = None, meta: Meta | None = None) -> LayerStack:
    """Make one layer of every class that is present.

    Args:
        labels: ``(H, W)`` ids of ``classes``.
        classes: gives names and flat colours.
        picture: ``(3, H, W)`` in [0, 1], whose pixels the layers show instead of the flat colour of their class.
        meta: what the stack carries.

    Returns:
        The background lowest, then the order of the set; each layer's alpha is 1 on its class and 0 elsewhere, so the
        composite is the picture, or the map in its palette.

    Raises:
        InputError: the map is not ``(H, W)``, has ids beyond the set, or the picture another size.
    """
    labels = check_labels(labels, classes)
    if picture is not None and tuple(picture.shape) != (3, *labels.shape):
        raise InputError(f"picture must be {(3, *labels.shape)} as the label map, found {tuple(picture.shape)}")
    present = sorted(present_ids(labels), key=lambda one: (one != classes.background, one))
    layers: list[Layer] = []
    for one in present:
        if picture is None:
            flat = torch.tensor(classes.colors[one], dtype=torch.float32) / 255
            pixels = flat[:, None, None].expand(3, *labels.shape)
        else:
            pixels = picture.detach().to("cpu", torch.float32)
        alpha = (labels == one)[None].to(torch.float32)  # (1, H, W)
        layers.append(Layer(classes.names[one], pixels, alpha))
    return LayerStack(tuple(layers), meta=meta or Meta())


def from_stack(stack: LayerStack, classes: ClassSet) -> Tensor:
    """Read the label map out of a stack whose layers are called like classes.

    Where two classes cover a pixel by half or more, the upper layer counts; where none does, the background. Hidden
    layers, and those called ``image``, ``photo``, ``picture``, ``preview`` or ``render``, are left out with a log line.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        InputError: the stack moves, a layer's name is no class, or no layer is a class.
    """
    if stack.fps is not None:
        raise InputError("a label map is a still, found a stack over time")
    names = {name.casefold(): one for one, name in enumerate(classes.names)}
    unknown = [la.name for la in stack.layers if la.visible and la.name.casefold() not in (*names, *PICTURES)]
    used = [la for la in stack.layers if la.visible and la.name.casefold() in names]
    if unknown or not used:
        found = ", ".join(unknown or stack.names)
        raise InputError(
            f"the stack's layers ({found}) are not classes of {classes.name!r}",
            f"hide them, or give the class set they belong to; here are {', '.join(classes.names)}",
        )
    left_out = [la.name for la in stack.layers if la not in used]
    if left_out:
        logger.info("layers %s of the mask are no classes and were left out", ", ".join(left_out))
    labels = torch.full((stack.height, stack.width), 255, dtype=torch.uint8)
    for layer in used:  # bottom first
        covered = torch.ones(labels.shape) if layer.alpha is None else layer.alpha[0]
        labels[(covered * layer.opacity) >= 0.5] = names[layer.name.casefold()]
    return fill_ignored(labels, classes, "the stack")


def fill_ignored(labels: Tensor, classes: ClassSet, name: str) -> Tensor:
    """Make background of 255, "ignore", in a uint8 map, with a log line.

    Raises:
        InputError: the set has no background.
    """
    ignored = labels == 255
    if not bool(ignored.any()):
        return labels
    share = 100 * float(ignored.float().mean())
    if classes.background is None:
        raise InputError(
            f"{name}: {share:.3g} % of the pixels have no class, and {classes.name!r} has no background for them"
        )
    logger.info("%s: %.3g %% of the pixels have no class and become %s", name, share, classes.names[classes.background])
    return labels.masked_fill(ignored, classes.background)


def check_labels(labels: Tensor, classes: ClassSet, name: str = "label map") -> Tensor:
    """Make sure a map ``(H, W)`` holds ids of a set, and return it as uint8 on the CPU.

    Raises:
        InputError: another shape or type, no pixels, or ids beyond the set.
    """
    found = f"{tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
    if labels.ndim != 2 or labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"{name}: expected integers (H, W), found {found}")
    if 0 in labels.shape:
        raise InputError(f"{name}: has no pixels, found {found}")
    labels = labels.detach().cpu()
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        beyond = [one for one in labels.unique().tolist() if not 0 <= one < len(classes)]
        raise InputError(
            f"{name}: ids beyond the class set {classes.name!r} (0 to {len(classes) - 1}): {tell_ids(labels, beyond)}",
            "give its class set or label order",
        )
    return labels.to(torch.uint8)
