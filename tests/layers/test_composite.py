"""The arithmetic of compositing, by hand and as properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from pellucid.layers import composite, luminosity, over
from pellucid.layers.composite import color

SEEDS = st.integers(0, 2**32 - 1)


def colour(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)


def alpha(value: float) -> Tensor:
    return torch.full((1, 1, 1), float(value))


def layers(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        coverage = torch.rand(1, 6, 5, generator=generator)
        coverage[:, 0] = 0.0  # the ends of the range belong to every draw
        coverage[:, 1] = 1.0
        drawn.append((torch.rand(3, 6, 5, generator=generator), coverage[:, torch.randperm(6, generator=generator)]))
    return drawn


def lab(pixels: Tensor) -> np.ndarray:
    return rgb2lab(pixels.double().movedim(-3, -1).numpy())


def test_over_by_hand() -> None:
    # ao = 0.5 + 0.5 * 0.5 = 0.75; co = (0.5 * 1 + 0.25 * 0) / 0.75 = 2/3 and (0.5 * 0 + 0.25 * 1) / 0.75 = 1/3
    mixed, coverage = over(colour(0, 1, 0), alpha(0.5), colour(1, 0, 0), alpha(0.5))
    assert mixed.flatten().tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert coverage.item() == pytest.approx(0.75)


def test_add_by_hand() -> None:
    # over an opaque backdrop: 0.5 * min(0.6 + 0.8, 1) + 0.5 * 0.6 = 0.8
    mixed, coverage = over(colour(0.6, 0.1, 0), alpha(1), colour(0.8, 0.2, 0), alpha(0.5), "add")
    assert mixed.flatten().tolist() == pytest.approx([0.8, 0.2, 0])
    assert coverage.item() == 1
    # over nothing there is nothing to add to: the source alone
    mixed, coverage = over(colour(0.6, 0.1, 0), alpha(0), colour(0.8, 0.2, 0), alpha(0.5), "add")
    assert mixed.flatten().tolist() == pytest.approx([0.8, 0.2, 0])
    assert coverage.item() == 0.5
    # over half: cs' = 0.5 * 0.8 + 0.5 * 1 = 0.9; as = 1, so co = cs'
    mixed, _ = over(colour(0.6, 0.1, 0), alpha(0.5), colour(0.8, 0.2, 0), alpha(1), "add")
    assert mixed.flatten().tolist() == pytest.approx([0.9, 0.25, 0])


def test_colour_is_zero_where_nothing_is() -> None:
    mixed, coverage = over(colour(0.3, 0.3, 0.3), alpha(0), colour(0.8, 0.2, 0), alpha(0))
    assert mixed.abs().sum() == 0
    assert coverage.item() == 0


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_over_is_associative(seed: int) -> None:
    bottom, middle, top = layers(seed, 3)
    left = over(*over(*bottom, *middle), *top)
    right = over(*bottom, *over(*middle, *top))
    torch.testing.assert_close(left[1], right[1], atol=1e-5, rtol=0)
    # straight colour means nothing where alpha is next to nothing: compare what is seen of it
    torch.testing.assert_close(left[0] * left[1], right[0] * right[1], atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["over", "add", "luminosity", "color"]))
def test_opacity_zero_and_alpha_zero_change_nothing(seed: int, blend: str) -> None:
    (below, below_alpha), (above, _) = layers(seed, 2)
    for opaque in (True, False):
        under = (below, None if opaque else below_alpha, "over", 1.0)
        alone = composite([under])
        for nothing in ((above, None, blend, 0.0), (above, torch.zeros(1, 6, 5), blend, 1.0)):
            mixed, coverage = composite([under, nothing])
            torch.testing.assert_close(mixed, alone[0], atol=1e-6, rtol=0)
            assert (coverage is None) == opaque
            if coverage is not None and alone[1] is not None:
                torch.testing.assert_close(coverage, alone[1])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["over", "add", "luminosity", "color"]))
def test_result_is_a_picture(seed: int, blend: str) -> None:
    bottom, top = layers(seed, 2)
    mixed, coverage = over(*bottom, *top, blend)
    assert torch.isfinite(mixed).all()
    assert float(mixed.min()) >= 0
    assert float(mixed.max()) <= 1 + 1e-6
    assert bool((coverage >= torch.maximum(bottom[1], top[1]) - 1e-6).all())
    assert float(coverage.max()) <= 1 + 1e-6


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0, 1))
def test_opacity_is_a_factor_on_alpha(seed: int, opacity: float) -> None:
    bottom, top = layers(seed, 2)
    under = (bottom[0], bottom[1], "over", 1.0)
    one = composite([under, (top[0], top[1], "over", opacity)])
    two = composite([under, (top[0], top[1] * opacity, "over", 1.0)])
    torch.testing.assert_close(one[0], two[0])
    assert one[1] is not None
    torch.testing.assert_close(one[1], two[1])


@pytest.mark.parametrize("blend", ["over", "add"])
@pytest.mark.parametrize("opacity", [1.0, 0.4])
@pytest.mark.parametrize("covered", [True, False])
def test_short_cuts_give_what_the_long_way_gives(blend: str, opacity: float, covered: bool) -> None:
    bottom, top = layers(3, 2)
    quick, coverage = composite([(bottom[0], None, "over", 1.0), (top[0], top[1] if covered else None, blend, opacity)])
    above = (top[1] if covered else torch.ones(1, 6, 5)) * opacity
    slow, _ = over(bottom[0], torch.ones(1, 6, 5), top[0], above, blend)
    torch.testing.assert_close(quick, slow, atol=1e-6, rtol=0)
    assert coverage is None


def test_luminosity_takes_lightness_from_above_and_colour_from_below() -> None:
    generator = torch.Generator().manual_seed(0)
    below = torch.rand(3, 16, 16, generator=generator) * 0.2 + 0.4  # muted, so that no result leaves sRGB
    above = torch.rand(3, 16, 16, generator=generator) * 0.2 + 0.4
    mixed = lab(luminosity(below, above))
    np.testing.assert_allclose(mixed[..., 0], lab(above)[..., 0], atol=0.02)
    np.testing.assert_allclose(mixed[..., 1:], lab(below)[..., 1:], atol=0.02)
    torch.testing.assert_close(color(above, below), luminosity(below, above))  # the same thing with places changed


def test_luminosity_agrees_with_skimage() -> None:
    below, above = colour(0.5, 0.45, 0.55), colour(0.7, 0.7, 0.7)
    wanted = lab(below)
    wanted[..., 0] = lab(above)[..., 0]
    expected = lab2rgb(wanted)
    np.testing.assert_allclose(luminosity(below, above).movedim(0, -1).numpy(), expected, atol=1e-3)


def test_luminosity_of_a_picture_over_itself_is_itself() -> None:
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert float((luminosity(pixels, pixels) - pixels).abs().max()) < 2e-4


@pytest.mark.parametrize("blend", ["over", "add", "luminosity", "color"])
def test_frames_are_composited_one_by_one(blend: str) -> None:
    pairs = [layers(seed, 2) for seed in range(3)]
    stacked = [torch.stack([pair[n][k] for pair in pairs]) for n in range(2) for k in range(2)]
    mixed, coverage = over(*stacked, blend)  # pyright: ignore
    for index, pair in enumerate(pairs):
        one, one_alpha = over(*pair[0], *pair[1], blend)
        torch.testing.assert_close(mixed[index], one)
        torch.testing.assert_close(coverage[index], one_alpha)


def test_add_leaves_wide_colours_below_alone() -> None:
    mixed, _ = composite([(colour(1.2, 0.5, -0.1), None, "over", 1.0), (colour(0.0, 0.0, 0.0), None, "add", 1.0)])
    assert mixed.flatten().tolist() == pytest.approx([1.2, 0.5, -0.1])
