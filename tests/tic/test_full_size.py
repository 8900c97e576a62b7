"""The network's ab at full size: nothing lost, edges where L has them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.nn.guided import apply_coefficients
from pellucid.tic.full_size import ab_coefficients, paint
from pellucid.tic.lab import rgb_to_lab


def scene(side: int = 120) -> Tensor:
    """Discs of one colour each over a shaded ground: Lab ``(1, 3, side, side)``, all inside sRGB."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    L, a, b = 45 + 10 * x / side, torch.full((side, side), 4.0), torch.full((side, side), -6.0)
    for cx, cy, radius, colour in ((40, 40, 22, (70.0, -20.0, 20.0)), (80, 75, 28, (30.0, 18.0, 5.0))):
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        L, a, b = (torch.where(disc, value, plane) for value, plane in zip(colour, (L, a, b), strict=True))
    return torch.stack([L, a, b])[None]


def shrunk(lab: Tensor, side: int) -> Tensor:
    return F.interpolate(lab, (side, side), mode="bicubic", antialias=True)


def test_at_its_own_size_the_networks_ab_arrives_as_it_is() -> None:
    L = scene(60)[:, :1]
    ab = torch.randn(1, 2, 60, 60, generator=torch.Generator().manual_seed(0)) * 10
    assert torch.allclose(apply_coefficients(L / 100, ab_coefficients(L, ab)), ab, atol=1e-4)


def test_edges_of_colour_are_those_of_lightness() -> None:
    lab = scene()
    small = shrunk(lab, 30)
    found = apply_coefficients(lab[:, :1] / 100, ab_coefficients(small[:, :1], small[:, 1:]))
    blurred = F.interpolate(small[:, 1:], (120, 120), mode="bilinear")
    error, without = ((each - lab[:, 1:]).abs().mean() for each in (found, blurred))
    assert error < 0.7 * without


def test_strips_do_not_show() -> None:
    lab = scene(200)
    small = shrunk(lab, 32)
    base, over = ab_coefficients(small[:, :1], small[:, 1:]), ab_coefficients(small[:, :1], -small[:, 1:])
    feather = torch.zeros(1, 2, 10, 10)
    feather[:, 1, 3:7, 3:7] = 1.0
    painted = paint(lab[:, :1], base, [(over, feather)])
    assert painted.shape == (1, 3, 200, 200)
    found = rgb_to_lab(painted)
    assert (found[:, :1] - lab[:, :1]).abs().max() < 0.02
    wanted = apply_coefficients(lab[:, :1] / 100, base)
    assert torch.allclose(found[:, 1:, :40], wanted[..., :40, :], atol=0.02)
    assert torch.allclose(found[:, 1:, 90:110, 90:110], -wanted[..., 90:110, 90:110], atol=0.02)


def test_what_is_kept_is_the_picture_itself() -> None:
    picture = torch.rand(1, 3, 70, 50, generator=torch.Generator().manual_seed(1))
    lab = rgb_to_lab(picture)
    base = torch.zeros(1, 4, 8, 8)
    feather = torch.zeros(1, 2, 10, 10)
    feather[:, 1, :2] = 1.0
    painted = paint(lab[:, :1], base, [(base, feather)], kept=picture)
    assert torch.equal(painted[..., 30:, :], picture[..., 30:, :])
    assert rgb_to_lab(painted)[:, 1:, :7].abs().max() < 0.1  # no colour there
