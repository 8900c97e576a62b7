"""Masks to codes and back: sizes, batches, precision and the device, so that edits see nothing of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import InputError, WeightsError
from pellucid.semantic_vae.editing import Codes, stray_guard
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.masks.label_geometry import Frame, resize_labels, square
from pellucid.semantic_vae.model import SemanticVAE

log = logging.getLogger(__name__)

_CHUNK = 16  # masks through the network at once


@dataclass(frozen=True)
class SeenMask:
    """Masks as squares ``(..., H, H)``, at the network's size ``(..., S, S)``, and their codes ``(..., P, L)``."""

    squared: Tensor
    frame: Frame
    small: Tensor
    codes: Codes


class MaskCoder:
    """Encoder and decoder for label maps of any size.

    Args:
        model: the network; it is moved.
        classes: what its channels are.
        device: where to compute.
        dtype: precision of the network; codes are float32.

    Raises:
        WeightsError: network and class set are of different numbers of classes or have another background.
    """

    def __init__(self, model: SemanticVAE, classes: ClassSet, device: torch.device, dtype: torch.dtype) -> None:
        config = model.config
        if config.classes != len(classes) or config.background != classes.background:
            raise WeightsError(
                f"these weights are for {config.classes} classes with background {config.background}, the class set "
                f"{classes.name!r} has {len(classes)} with background {classes.background}"
            )
        self.model = model.to(device, dtype)
        self.classes = classes
        self.size = config.size
        self.device = device
        self.dtype = dtype

    def see(self, labels: Tensor, codes: Codes | None = None) -> SeenMask:
        """Label maps ``(H, W)`` or ``(N, H, W)`` as squares, at the network's size, and encoded."""
        if labels.ndim not in (2, 3) or labels.is_floating_point() or 0 in labels.shape:
            found = f"{tuple(labels.shape)} {labels.dtype}"
            raise InputError(f"label maps must be whole numbers, (H, W) or (N, H, W), found {found}")
        low, high = (int(one) for one in labels.aminmax())
        if low < 0 or high >= len(self.classes):
            raise InputError(
                f"label maps must hold ids 0 to {len(self.classes) - 1} of {self.classes.name!r}, "
                f"found {low if low < 0 else high}"
            )
        maps = labels if labels.ndim == 3 else labels[None]
        squares, frames = zip(*(square(one, fill=self.classes.background) for one in maps), strict=True)
        squared, frame = torch.stack(squares), frames[0]
        if squared.shape[-1] != self.size:
            log.info("masks of side %d are edited at %d", squared.shape[-1], self.size)
        small = resize_labels(squared, self.size).to(self.device, torch.uint8)
        found = self._encoded(small) if codes is None else codes
        if labels.ndim == 3:
            return SeenMask(squared, frame, small, found)
        return SeenMask(squared[0], frame, small[0], found[0] if codes is None else found)

    @torch.no_grad()
    def decode(self, z: Tensor, allowed: Tensor | None = None, seed: int = 0) -> Tensor:
        """Decode codes.

        Args:
            z: ``(P, L)`` or ``(N, P, L)``.
            allowed: ``(C,)`` or ``(N, C)`` bool, see `editing.stray_guard`.
            seed: of the LSTM's first state, for weights with ``init_state="noise"``; the same for every mask.

        Returns:
            Label maps ``(S, S)`` or ``(N, S, S)`` uint8.
        """
        batch = (z if z.ndim == 3 else z[None]).to(self.device, self.dtype)
        maps = []
        for start in range(0, len(batch), _CHUNK):
            chunk = batch[start : start + _CHUNK]
            state = self.model.first_state(chunk[:1], generator_of(seed))
            if state is not None:
                h, c = (one.expand(-1, len(chunk), -1).contiguous() for one in state)
                state = h, c
            logits = self.model.decode(chunk, state).float()
            if allowed is not None:
                which = allowed if allowed.ndim == 1 else allowed[start : start + _CHUNK]
                logits = stray_guard(logits, which.to(logits.device).expand(len(chunk), -1))
            maps.append(logits.argmax(dim=1).to(torch.uint8))
        found = torch.cat(maps)
        return found if z.ndim == 3 else found[0]

    @torch.no_grad()
    def _encoded(self, batch: Tensor) -> Codes:
        codes = [self.model.encode(chunk) for chunk in batch.split(_CHUNK)]
        present = torch.stack([(batch == part).flatten(1).any(dim=1) for part in self.classes.parts], dim=1)
        return Codes(torch.cat([one.mu for one in codes]), torch.cat([one.logvar for one in codes]), present)
