"""Where the networks are while a clip is made: all on the device, or each only while it runs, in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pellucid.layer_animate.model import LayerAnimate


class WorkingMemory:
    """Moves the networks of a model.

    Text encoder and UNet have the precision that was asked for. VAE and transparency networks are float32, because
    bfloat16 cannot tell neighbouring levels of an 8-bit alpha apart; where memory is short they are float16.

    Args:
        model: the networks.
        device: where they run.
        dtype: of text encoder and UNet.
    """

    def __init__(self, model: LayerAnimate, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self._in_turns = False

    def move_in(self) -> None:
        """Put all networks on the device."""
        self._place(self.device, self.dtype, torch.float32)

    @contextmanager
    def low(self, wanted: bool = True) -> Iterator[None]:
        """Keep networks off the device unless they run; changes nothing on the CPU, or when not ``wanted``."""
        if not wanted or self.device.type == "cpu":
            yield
            return
        half = torch.float16 if self.dtype == torch.float32 else self.dtype
        self._place(torch.device("cpu"), half, torch.float16)
        self._emptied()
        self._in_turns = True
        try:
            yield
        finally:
            self._in_turns = False
            self.move_in()

    @contextmanager
    def at_work(self, *parts: nn.Module) -> Iterator[None]:
        """Have some of the networks on the device for the length of a ``with`` block."""
        if not self._in_turns:
            yield
            return
        for part in parts:
            nn.Module.to(part, self.device)
        try:
            yield
        finally:
            for part in parts:
                nn.Module.to(part, "cpu")
            self._emptied()

    def _place(self, device: torch.device, dtype: torch.dtype, pixels: torch.dtype) -> None:
        # nn.Module's own method: diffusers' says things about precision that do not apply here.
        for part in (self.model.text, self.model.unet):
            nn.Module.to(part, device, dtype)
        for part in (self.model.vae, self.model.encoder, self.model.decoder):
            nn.Module.to(part, device, pixels)

    def _emptied(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
