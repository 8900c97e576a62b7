"""The dominant colours of a picture."""

import pytest
import torch

from pellucid.layers import Layer, LayerStack
from pellucid.tic.palette import palette


def stripes(colours: list[tuple[float, float, float]], widths: list[int], height: int = 40) -> torch.Tensor:
    return torch.cat(
        [torch.tensor(c).float()[:, None, None].expand(3, height, w) for c, w in zip(colours, widths, strict=True)], 2
    )


def test_flat_colours_are_found_with_their_shares() -> None:
    picture = stripes([(1, 0, 0), (0.2, 0.4, 0.8), (1, 1, 1), (0, 128 / 255, 0)], [50, 30, 15, 5])
    found = palette(picture)
    assert [swatch.hex for swatch in found] == ["#ff0000", "#3366cc", "#ffffff", "#008000"]
    assert [swatch.share for swatch in found] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.01)
    assert [swatch.name for swatch in found] == ["red", "blue", "white", "green"]
    assert found[0].lab == pytest.approx((53.24, 80.09, 67.2), abs=0.1)


def test_a_rare_colour_is_not_lost_among_shades() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(1, 100, 100, generator=generator).expand(3, -1, -1).clone()
    grey[:, :15, :30] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    found = palette(grey)
    assert len(found) == 6
    assert sum(swatch.share for swatch in found) == pytest.approx(1, abs=1e-3)
    assert [swatch.name for swatch in found].count("red") == 1
    assert found == palette(grey)


def test_large_pictures_are_sampled() -> None:
    picture = stripes([(1, 0, 0), (0, 0, 1)], [700, 300], 500)
    assert [swatch.share for swatch in palette(picture)] == pytest.approx([0.7, 0.3], abs=0.01)


def test_one_pixel_and_none() -> None:
    assert [swatch.hex for swatch in palette(torch.tensor([0.2, 0.4, 0.6])[:, None, None])] == ["#336699"]
    clear = torch.rand(4, 5, 5)
    clear[3] = 0
    assert palette(clear) == []


def test_transparent_pixels_do_not_count() -> None:
    picture = stripes([(1, 0, 0), (0, 0, 1)], [20, 20])
    alpha = torch.zeros(1, 40, 40)
    alpha[..., 20:] = 1
    assert [swatch.hex for swatch in palette(torch.cat([picture, alpha]))] == ["#0000ff"]
    stack = LayerStack((Layer("color", picture, alpha), Layer("luminance", picture, alpha, blend="luminosity")))
    assert [swatch.hex for swatch in palette(stack)] == ["#0000ff"]


def test_fewer_may_be_asked_for() -> None:
    assert len(palette(torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(1)), colours=3)) == 3
