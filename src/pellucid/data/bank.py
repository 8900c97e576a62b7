"""A whole picture set on the training device as one uint8 tensor, and crops of it in batches.

Small sets fit: 900 photographs of 320 x 480 are 400 MB. No loader runs, so a fast GPU never waits for one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.data.shards import ShardIndex
from pellucid.errors import InputError

log = logging.getLogger(__name__)


class PixelBank:
    """Pictures of different sizes, stored side by side, and random resized crops of them.

    Upright pictures are stored lying on their side, so that one canvas of ``side`` x ``longest`` fits all of them.

    Args:
        pixels: ``(N, C, S, L)`` uint8; each picture in the top left corner of its canvas.
        sizes: ``(N, 2)`` int64, height and width of each picture as stored.
        lying: ``(N,)`` bool, true where a picture is stored with height and width exchanged.
    """

    def __init__(self, pixels: Tensor, sizes: Tensor, lying: Tensor) -> None:
        self.pixels, self.sizes, self.lying = pixels, sizes, lying

    @classmethod
    def from_index(cls, index: ShardIndex, *, side: int, max_aspect: float = 1.5) -> PixelBank:
        """Decode every row of a `ShardIndex`; see `from_pictures`."""
        return cls.from_pictures((index.image(row) for row in index), side=side, max_aspect=max_aspect)

    @classmethod
    def from_pictures(cls, pictures: Iterable[Tensor], *, side: int, max_aspect: float = 1.5) -> PixelBank:
        """Resize pictures to one short side and store them.

        Args:
            pictures: ``(C, H, W)`` uint8 each, all with the same ``C``.
            side: short side in pixels; pictures with a smaller one are kept as they are, never enlarged.
            max_aspect: pictures longer than this times their short side lose both ends, which bounds the canvas.

        Raises:
            InputError: there is no picture, or one is not ``(C, H, W)`` uint8.
        """
        stored: list[Tensor] = []
        lying: list[bool] = []
        small, cut = 0, 0
        for picture in pictures:
            if picture.ndim != 3 or picture.dtype != torch.uint8:
                raise InputError(f"a picture must be (C, H, W) uint8, found {tuple(picture.shape)} {picture.dtype}")
            upright = picture.shape[1] > picture.shape[2]
            flat = picture.transpose(1, 2) if upright else picture  # (C, short, long)
            small += flat.shape[1] < side
            longest = int(flat.shape[1] * max_aspect)
            if flat.shape[2] > longest:
                cut += 1
                start = (flat.shape[2] - longest) // 2
                flat = flat[:, :, start : start + longest]
            stored.append(_shrink(flat, side))
            lying.append(upright)
        if not stored:
            raise InputError("a bank needs at least one picture, found none")
        sizes = torch.tensor([picture.shape[1:] for picture in stored])
        height, width = (int(value) for value in sizes.amax(dim=0))
        pixels = torch.zeros(len(stored), stored[0].shape[0], height, width, dtype=torch.uint8)
        for canvas, picture in zip(pixels, stored, strict=True):
            canvas[:, : picture.shape[1], : picture.shape[2]] = picture
        log.info(
            "%d pictures, %.0f MB; %d cut to aspect %.2f, %d smaller than %d px",
            *(len(stored), pixels.numel() / 1e6, cut, max_aspect, small, side),
        )
        return cls(pixels, sizes, torch.tensor(lying))

    def to(self, device: torch.device | str) -> PixelBank:
        """Return the bank on another device."""
        return PixelBank(self.pixels.to(device), self.sizes.to(device), self.lying.to(device))

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def picture(self, index: int) -> Tensor:
        """Return one whole picture, upright: ``(C, H, W)`` uint8."""
        height, width = (int(value) for value in self.sizes[index])
        flat = self.pixels[index, :, :height, :width]
        return flat.transpose(1, 2) if bool(self.lying[index]) else flat

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` indices with replacement: ``(count,)`` int64 on the bank's device."""
        drawn = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        return drawn.to(self.pixels.device)

    def crops(
        self,
        indices: Tensor,
        size: int,
        generator: torch.Generator,
        *,
        scale: tuple[float, float] = (0.5, 1.0),
        flip: bool = True,
    ) -> Tensor:
        """Cut a random square out of each picture and resize it, all in one batch on the bank's device.

        The resize is the antialiased bilinear one (a triangle as wide as a source pixel or an output pixel,
        whichever is wider), done as two matrix products: exact at any position and scale, and deterministic.

        Args:
            indices: ``(B,)`` which pictures.
            size: side of the result in pixels.
            generator: where the randomness comes from; one on the CPU gives the same crops on every device.
            scale: the square's side as a fraction of the picture's short side, drawn evenly between the two.
            flip: mirror half of the crops.

        Returns:
            ``(B, C, size, size)`` float32 in [0, 1].

        Raises:
            InputError: ``scale`` does not lie in (0, 1].
        """
        low, high = scale
        if not 0.0 < low <= high <= 1.0:
            raise InputError(f"scale must be 0 < low <= high <= 1, found {scale}")
        device = self.pixels.device
        indices = indices.to(device)
        draws = torch.rand(indices.shape[0], 4, generator=generator, device=generator.device).to(device)
        sizes = self.sizes[indices].float()  # (B, 2)
        sides = sizes.amin(dim=1) * (low + (high - low) * draws[:, 0])  # (B,)
        offsets = (sizes - sides[:, None]) * draws[:, 1:3]  # (B, 2)
        # Full precision: under autocast the products would be bfloat16, coarser than 8 bits.
        with torch.autocast(device.type, enabled=False):
            flat = self.pixels[indices].float()  # (B, C, S, L)
            rows = _triangle(offsets[:, 0], sides, size, sizes[:, 0], flat.shape[2])  # (B, size, S)
            columns = _triangle(offsets[:, 1], sides, size, sizes[:, 1], flat.shape[3])  # (B, size, L)
            narrow = flat.flatten(1, 2) @ columns.transpose(1, 2)  # (B, C * S, size)
            narrow = narrow.unflatten(1, flat.shape[1:3])  # (B, C, S, size)
            crops = rows[:, None] @ narrow / 255.0  # (B, C, size, size)
        crops = torch.where(self.lying[indices][:, None, None, None], crops.transpose(2, 3), crops)
        if flip:
            crops = torch.where((draws[:, 3] < 0.5)[:, None, None, None], crops.flip(3), crops)
        return crops.clamp(0.0, 1.0).contiguous()


def _triangle(offset: Tensor, side: Tensor, size: int, length: Tensor, canvas: int) -> Tensor:
    """Weights ``(B, size, canvas)`` of each source pixel in each output pixel; every row sums to 1.

    Args:
        offset: ``(B,)`` where the crop begins, in source pixels.
        side: ``(B,)`` how long it is, in source pixels.
        size: output pixels.
        length: ``(B,)`` source pixels that belong to the picture.
        canvas: source pixels that are stored.
    """
    step = (side / size)[:, None, None]
    outputs = torch.arange(size, device=side.device, dtype=side.dtype)[None, :, None] + 0.5
    sources = torch.arange(canvas, device=side.device, dtype=side.dtype)[None, None, :] + 0.5
    centres = offset[:, None, None] + outputs * step  # (B, size, 1)
    weights = (1.0 - (centres - sources).abs() / step.clamp(min=1.0)).clamp(min=0.0)  # (B, size, canvas)
    weights = weights * (sources < length[:, None, None])
    return weights / weights.sum(dim=2, keepdim=True)


def _shrink(picture: Tensor, side: int) -> Tensor:
    height, width = picture.shape[1:]
    if height <= side:
        return picture
    size = (side, max(side, round(width * side / height)))
    resized = F.interpolate(picture[None].float(), size, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
