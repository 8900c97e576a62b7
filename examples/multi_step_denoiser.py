"""The multi-step loss on another task: a small denoiser trained with a 1-step and with a 2-step loss.

Needs no data and some seconds: ``python examples/multi_step_denoiser.py [seconds]``.
"""

import sys
import time
from itertools import pairwise

import torch
from torch import Tensor, nn

from pellucid.data.synthetic import draw_pictures
from pellucid.multistep_sirr.losses import MultiStepLoss, pixel_loss

SIGMA = 0.1  # standard deviation of the noise, of [0, 1]


class Denoiser(nn.Module):
    """Four convolutions that estimate the noise: ``(B, 3, H, W) -> (B, 3, H, W)``."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = [3, width, width, width, 3]
        parts = [(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(*[part for pair in parts for part in pair][:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x - self.layers(x)


def step_loss(T_hat: Tensor, T: Tensor, *_: object) -> dict[str, Tensor]:
    """The terms of one step; here the mean squared error alone."""
    return {"pixel": pixel_loss(T_hat, T)}


def train(steps: int, pictures: Tensor, seconds: float, limit: int) -> Denoiser:
    """Train with a loss of ``steps`` steps for some seconds, at most ``limit`` times; the same start each time."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Denoiser()
    loss = MultiStepLoss(model, step_loss, steps=steps)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    end = time.monotonic() + seconds
    for _ in range(limit):
        clean = pictures[torch.randint(len(pictures), (4,), generator=generator)]
        noisy = clean + SIGMA * torch.randn(clean.shape, generator=generator)
        total, _ = loss(noisy, clean)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if time.monotonic() > end:
            break
    return model


def main(seconds: float = 10.0, limit: int = 1_000_000, count: int = 64) -> dict[int | str, float]:
    """Print and return the PSNR in dB of noisy pictures and of what each network makes of them in one pass."""
    pictures, held_out = draw_pictures(count, 32, seed=0), draw_pictures(16, 32, seed=1)
    noisy = held_out + SIGMA * torch.randn(held_out.shape, generator=torch.Generator().manual_seed(1))
    found: dict[int | str, float] = {"noisy": psnr(noisy, held_out)}
    print(f"noisy          {found['noisy']:.2f} dB")
    for steps in (1, 2):
        model = train(steps, pictures, seconds, limit)
        with torch.no_grad():
            found[steps] = psnr(model(noisy), held_out)
        print(f"{steps}-step loss    {found[steps]:.2f} dB")
    return found


def psnr(pictures: Tensor, truth: Tensor) -> float:
    return float(-10 * (pictures.clamp(0, 1) - truth).square().mean().log10())


if __name__ == "__main__":
    main(*(float(argument) for argument in sys.argv[1:2]))
