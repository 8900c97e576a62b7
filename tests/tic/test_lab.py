"""Lab against scikit-image's values, and what bringing colours into sRGB keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.tic import lab
from pellucid.tic.lab import grey_of, lab_to_rgb, lightness, linear_rgb, rgb_to_lab, to_gamut

GOLDEN = Path(__file__).parent / "golden" / "lab_golden.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def line(colours: Tensor) -> Tensor:
    """``(N, 3)`` as a picture of one row ``(3, 1, N)``."""
    return colours.T[:, None].float()


def grey_levels(levels: int = 256) -> Tensor:
    """All greys of 8 or 16 bits: ``(3, 1, levels)``."""
    return (torch.arange(levels) / (levels - 1)).expand(3, 1, levels)


def strong_colours(seed: int = 0, side: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    L = torch.rand(1, 1, side, side, generator=generator) * 100
    return L, (torch.rand(1, 2, side, side, generator=generator) - 0.5) * 250


def in_8_bits(rgb: Tensor) -> Tensor:
    return (rgb * 255).round() / 255


def test_lab_is_that_of_scikit_image(golden: dict[str, Tensor]) -> None:
    rgb, wanted = line(golden["rgb_uint8"].double() / 255), line(golden["lab"])
    assert (rgb_to_lab(rgb) - wanted).abs().max() < 1e-4
    assert (lightness(rgb) - wanted[:1]).abs().max() < 1e-4
    picture = golden["image_rgb"].permute(2, 0, 1)
    assert (rgb_to_lab(picture) - golden["image_lab"].permute(2, 0, 1)).abs().max() < 1e-4


def test_the_way_back_is_that_of_scikit_image(golden: dict[str, Tensor]) -> None:
    given, wanted = line(golden["lab"]), line(golden["rgb_back"])
    assert (lab_to_rgb(given) - wanted).abs().max() < 1e-5
    assert (to_gamut(given[:1], given[1:]) - wanted).abs().max() < 1e-5
    assert torch.equal((lab_to_rgb(given).squeeze(1).T * 255).round().byte(), golden["rgb_uint8"])
    outside, clipped = line(golden["lab_out_of_gamut"]), line(golden["rgb_out_of_gamut_clipped"])
    assert (to_gamut(outside[:1], outside[1:], "clip") - clipped).abs().max() < 1e-5


@pytest.mark.parametrize("how", ["chroma", "clip"])
def test_grey_without_colour_returns_itself(how: lab.Gamut) -> None:
    grey = grey_levels()
    back = to_gamut(lightness(grey), torch.zeros(2, 1, 256), how)
    assert torch.equal((back * 255).round(), (grey * 255).round())
    fine = grey_levels(65536)  # the matrices' six digits tint white by two levels of 16 bits
    back = to_gamut(lightness(fine), torch.zeros(2, 1, 65536), how)
    assert ((back - fine) * 65535).round().abs().max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_the_grey_of_a_lightness_is_exact(bits: int) -> None:
    grey = grey_levels(2**bits)
    levels = 2**bits - 1
    assert torch.equal((grey_of(lightness(grey)) * levels).round(), (grey[:1] * levels).round())


def test_chroma_keeps_lightness_and_hue() -> None:
    L, ab = strong_colours()
    assert (linear_rgb(torch.cat([L, ab], 1)).amin(1) < 0).float().mean() > 0.3  # a test of something
    rgb = to_gamut(L, ab)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    found = rgb_to_lab(rgb)
    assert (found[:, :1] - L).abs().max() < 0.02
    assert (lightness(in_8_bits(rgb)) - L).abs().max() < 0.3
    chroma, asked = found[:, 1:].norm(dim=1), ab.norm(dim=1)
    assert (chroma <= asked + 0.05).all()
    cosine = (found[:, 1:] * ab).sum(1) / (chroma * asked)
    assert cosine[chroma > 5].min() > 0.999
    # Clipping is what moves the lightness.
    assert (lightness(to_gamut(L, ab, "clip")) - L).abs().max() > 5


def test_chroma_is_scaled_no_further_than_needed() -> None:
    L, ab = strong_colours(1)
    linear = linear_rgb(torch.cat([L, ab], 1))
    inside = ((linear >= 0) & (linear <= 1)).all(1, keepdim=True).expand_as(ab)
    found = rgb_to_lab(to_gamut(L, ab))[:, 1:]
    assert (found - ab)[inside].abs().max() < 0.01
    # A thousandth more chroma would leave sRGB again.
    further = linear_rgb(torch.cat([L, found * 1.005 + (ab - found) * 1e-3], 1))
    left = ((further < 1e-5) | (further > 1 - 1e-5)).any(1, keepdim=True)
    assert left[~inside[:, :1]].float().mean() > 0.99


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    L, ab = strong_colours(2, 37)
    rgb = to_gamut(L, ab)
    whole = [rgb, rgb_to_lab(rgb), lab_to_rgb(torch.cat([L, ab], 1)), lightness(rgb), grey_of(L)]
    monkeypatch.setattr(lab, "STRIP", 37 * 5)
    strips = [to_gamut(L, ab), rgb_to_lab(rgb), lab_to_rgb(torch.cat([L, ab], 1)), lightness(rgb), grey_of(L)]
    for one, other in zip(whole, strips, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-6)


def test_colours_outside_srgb_have_a_lightness() -> None:
    wide = torch.tensor([[-0.1, 1.05, -0.05], [1.2, 1.1, 1.1], [-0.2, -0.1, -0.1]]).T[:, None]
    L = lightness(wide)
    assert L.isfinite().all()
    assert L.min() == 0
    assert L.max() == 100


def test_another_way_into_gamut_is_refused() -> None:
    with pytest.raises(ConfigError, match="chroma or clip"):
        to_gamut(torch.zeros(1, 2, 2), torch.zeros(2, 2, 2), "soft")  # type: ignore[arg-type]
