"""Style codes of a SEAN generator: one for each class of a picture, and what classes without one get (Sec. 5.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.errors import InputError, WeightsError
from pellucid.io.files import atomic_path
from pellucid.semantic_vae.masks.classes import ClassSet

log = logging.getLogger(__name__)

_PUBLISHED = "ACE.npy"


@dataclass(frozen=True)
class StyleCodes:
    """The style of a face.

    Attributes:
        codes: S, ``(K, D)`` float32; zeros where nothing is known.
        known: ``(K,)`` bool, classes that the picture had.

    Raises:
        InputError: the shapes do not go together.
    """

    codes: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.known.shape != self.codes.shape[:1] or self.known.dtype != torch.bool:
            raise InputError(
                f"style codes must be (K, D) with K bools, found {tuple(self.codes.shape)}, {tuple(self.known.shape)}"
            )


def complete_codes(
    style: StyleCodes,
    labels: Tensor,
    classes: ClassSet,
    reference: StyleCodes | None = None,
    mean: StyleCodes | None = None,
) -> StyleCodes:
    """Give every class of a mask a code: its own, its mirror class's, the reference's, the mean, in this order.

    A class that none of them knows keeps the zeros of the published code, and a log line says so.

    Args:
        style: of the picture that is edited.
        labels: ``(H, W)`` uint8, the edited mask.
        classes: names, and which classes mirror each other.
        reference: codes of another picture.
        mean: mean codes of many pictures.
    """
    partner = {one: other for pair in classes.mirror for one, other in (pair, pair[::-1])}
    codes, known = style.codes.clone(), style.known.clone()
    for place in labels.unique().tolist():
        if style.known[place]:
            continue
        other = partner.get(place)
        choices = (
            (style, other, "its mirror class"),
            (reference, place, "the reference"),
            (mean, place, "the mean style"),
        )
        for source, row, what in choices:
            if source is not None and row is not None and source.known[row]:
                codes[place], known[place] = source.codes[row], True
                log.info("%s is not in the picture: its style is that of %s", classes.names[place], what)
                break
        else:
            log.warning("no style is known for %s: it is rendered with zeros", classes.names[place])
    return StyleCodes(codes, known)


def mean_codes(styles: Iterable[StyleCodes]) -> StyleCodes:
    """Average codes over the pictures that have the class.

    Raises:
        InputError: there is no style, or they have different shapes.
    """
    found = list(styles)
    if not found or len({style.codes.shape for style in found}) > 1:
        raise InputError(f"a mean style needs styles of one generator, found {len(found)}")
    known = torch.stack([style.known for style in found]).float()  # (N, K)
    codes = torch.stack([style.codes for style in found])  # (N, K, D)
    counts = known.sum(dim=0)
    return StyleCodes(torch.einsum("nk,nkd->kd", known, codes) / counts.clamp(min=1)[:, None], counts > 0)


def save_codes(path: str | Path, style: StyleCodes, overwrite: bool = True) -> Path:
    """Write codes as safetensors: ``codes`` (float32) and ``known`` (uint8).

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_path(path, overwrite) as temporary:
        save_file({"codes": style.codes.contiguous().float(), "known": style.known.to(torch.uint8)}, temporary)
    return Path(path)


def load_codes(path: str | Path, shape: tuple[int, int]) -> StyleCodes:
    """Read style codes.

    Args:
        path: a file of `save_codes`; an ``.npy`` of ``(K, D)`` in which a row of zeros is unknown; or a folder
            ``<class id>/ACE.npy`` as published with SEAN (``styles_test/mean_style_code/mean``).
        shape: ``(K, D)`` of the generator.

    Raises:
        WeightsError: nothing is there, or it is no style of this generator.
    """
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            style = _from_folder(file, shape)
        elif file.suffix.casefold() == ".npy":
            codes = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))
            style = StyleCodes(codes, codes.ne(0).any(dim=-1))
        else:
            found = load_file(file)
            style = StyleCodes(found["codes"].float(), found["known"].bool())
    except (OSError, ValueError, KeyError, SafetensorError, InputError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"style codes {file} cannot be read: {reason}") from error
    if style.codes.shape != shape:
        raise WeightsError(f"style codes {file}: expected {shape}, found {tuple(style.codes.shape)}")
    return style


def _from_folder(folder: Path, shape: tuple[int, int]) -> StyleCodes:
    codes, known = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.bool)
    for place in range(shape[0]):
        file = folder / str(place) / _PUBLISHED
        if file.is_file():
            codes[place] = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32)).reshape(shape[1])
            known[place] = True
    if not known.any():
        raise InputError(f"no {_PUBLISHED} in folders 0 to {shape[0] - 1}")
    return StyleCodes(codes, known)
