"""The picture that is animated: fitted without fringes, and bad pictures told in one line."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.base_image import fit_base
from pellucid.layers import Layer, LayerStack


def disc(height: int = 32, width: int = 32) -> Tensor:
    """A red disc; the colour under transparent pixels is green, which must never be seen."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    alpha = ((y * y + x * x) < 0.5).float()
    return torch.stack([alpha, 1 - alpha, torch.zeros_like(alpha), alpha])


def test_a_picture_that_fits_is_not_touched() -> None:
    rgba = disc() * 0.7
    assert fit_base(rgba, (32, 32)).equal(rgba)
    array = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
    fitted = fit_base(Image.fromarray(array, "RGBA"), (16, 24), "cover")
    assert np.array_equal((fitted * 255).round().permute(1, 2, 0).numpy().astype(np.uint8), array)


def test_contain_shows_all_with_a_transparent_margin() -> None:
    fitted = fit_base(torch.ones(4, 16, 32), (32, 32))
    assert fitted[3, 8:24].min() == 1
    assert fitted[3, :8].max() == 0
    assert fitted[3, 24:].max() == 0


def test_cover_fills_and_cuts_both_sides_alike() -> None:
    rgba = torch.ones(4, 16, 48)
    rgba[0, :, :16], rgba[0, :, 32:] = 0, 0
    fitted = fit_base(rgba, (32, 32), "cover")
    assert fitted.shape == (4, 32, 32)
    assert fitted[0].min() == 1


def test_stretch_takes_all_of_it() -> None:
    rgba = torch.ones(4, 16, 48)
    rgba[0, :, :24] = 0
    fitted = fit_base(rgba, (32, 32), "stretch")
    assert fitted[0, :, :15].max() == 0
    assert fitted[0, :, 17:].min() == 1


@pytest.mark.parametrize("mode", ["contain", "cover", "stretch"])
def test_colour_under_transparent_pixels_does_not_bleed(mode: str) -> None:
    fitted = fit_base(disc(40, 60), (16, 16), mode)  # type: ignore[arg-type]
    seen = fitted[3] > 0.02
    assert seen.any()
    assert (fitted[3] < 0.98).any()
    assert fitted[0][seen].min() > 0.999
    assert fitted[1][seen].max() < 1e-3


@pytest.mark.parametrize("mode", ["contain", "cover", "stretch"])
def test_a_picture_20000_pixels_wide_is_fitted(mode: str) -> None:
    assert fit_base(torch.ones(4, 8, 20000), (64, 64), mode).shape == (4, 64, 64)  # type: ignore[arg-type]


def test_a_picture_without_alpha_is_taken_as_opaque_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fitted = fit_base(torch.rand(3, 16, 16), (16, 16))
    assert fitted[3].min() == 1
    assert "no alpha" in caplog.text
    assert "matte" in caplog.text


def test_a_key_colour_is_taken_out_of_edges_too() -> None:
    alpha = disc()[3] * 0.5 + 0.5 * disc().roll(2, -1)[3]  # with half-covered columns
    red, green = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    seen = red[:, None, None] * alpha + green[:, None, None] * (1 - alpha)
    fitted = fit_base(seen, (32, 32), key_color=(0, 1, 0))
    assert fitted[3][alpha == 0].max() == 0
    assert fitted[3][alpha == 1].min() == 1
    edge = (alpha == 0.5) & (fitted[3] > 0)
    assert edge.any()
    assert fitted[1][edge].max() < 0.6


def test_a_matte_becomes_alpha() -> None:
    matte = torch.zeros(3, 32, 32)
    matte[:, :, 16:] = 1
    fitted = fit_base(torch.ones(3, 16, 16), (16, 16), matte=matte)
    assert fitted[3, :, :7].max() == 0
    assert fitted[3, :, 9:].min() == 1


def test_layers_are_composed() -> None:
    colour = torch.zeros(3, 16, 16)
    below = Layer("below", colour, disc(16, 16)[3:])
    above = Layer("above", colour + 1, torch.zeros(1, 16, 16))
    fitted = fit_base(LayerStack((below, above)), (16, 16))
    assert fitted[3].equal(disc(16, 16)[3])
    assert fitted[:3].max() == 0


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (torch.ones(4, 1, 1), "1x1"),
        (torch.ones(4, 1, 500), "500x1"),
        (torch.cat([torch.ones(3, 16, 16), torch.zeros(1, 16, 16)]), "fully transparent"),
    ],
)
def test_pictures_that_show_nothing_are_refused_with_a_hint(picture: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        fit_base(picture, (16, 16))
    assert caught.value.hint


def test_a_picture_of_which_nothing_remains_is_refused() -> None:
    rgba = torch.zeros(4, 16, 1600)
    rgba[:, :, 0] = 1  # cover cuts the only column that shows something
    with pytest.raises(InputError, match="nothing is visible"):
        fit_base(rgba, (16, 16), "cover")
    with pytest.raises(InputError, match="nothing is left"):
        fit_base(torch.zeros(3, 16, 16), (16, 16), key_color=(0, 0, 0))


def test_a_film_is_refused() -> None:
    film = LayerStack((Layer("f", torch.zeros(2, 3, 16, 16)),), fps=8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="film of 2 frames"):
        fit_base(film, (16, 16))


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="fit 'fill'"):
        fit_base(disc(), (16, 16), "fill")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="both say"):
        fit_base(disc(), (16, 16), key_color=(0, 0, 0), matte=disc())
    with pytest.raises(ConfigError, match="three numbers"):
        fit_base(disc(), (16, 16), key_color=(0, 255, 0))
    with pytest.raises(InputError, match="proportions"):
        fit_base(disc(), (16, 16), matte=torch.ones(3, 16, 32))
