"""Measures of colour, against values worked out by hand and numpy's."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from pellucid.errors import InputError
from pellucid.metrics.colour import (
    ab_psnr,
    chroma,
    colour_distribution_consistency,
    colourfulness,
    hue,
    hue_distance,
)


def test_colourfulness_by_hand() -> None:
    rgb = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    red, green, blue = rgb.double().numpy() * 255
    for absolute in (False, True):
        rg, yb = red - green, (red + green) / 2 - blue
        if absolute:
            rg, yb = abs(rg), abs(yb)
        wanted = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        assert colourfulness(rgb, absolute=absolute) == pytest.approx(wanted, rel=1e-9)
    assert colourfulness(torch.full((3, 8, 8), 0.4)) == 0.0
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 8, 8)
    assert colourfulness(red) == pytest.approx(0.3 * 255 * math.hypot(1, 0.5))
    with pytest.raises(InputError, match="1, 8, 8"):
        colourfulness(torch.zeros(1, 8, 8))


def test_cdc_is_scipys_divergence_over_three_distances() -> None:
    film = (
        torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(1)) ** torch.arange(1, 7)[:, None, None, None]
    )
    counts = np.array([[np.bincount(c.ravel(), minlength=256) for c in f] for f in (film * 255).round().int().numpy()])
    wanted = [
        np.mean([jensenshannon(counts[t + d, c], counts[t, c]) ** 2 for t in range(6 - d) for c in range(3)])
        for d in (1, 2, 4)
    ]
    assert colour_distribution_consistency(iter(film)) == pytest.approx(np.mean(wanted), rel=1e-9)


def test_cdc_of_films_without_surprise() -> None:
    assert colour_distribution_consistency(torch.rand(1, 3, 8, 8).expand(5, -1, -1, -1)) == 0.0
    flicker = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    assert colour_distribution_consistency(flicker) == pytest.approx(math.log(2))
    with pytest.raises(InputError, match="found 1"):
        colour_distribution_consistency(torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match="a frame"):
        colour_distribution_consistency(torch.rand(2, 1, 8, 8))


def test_ab_psnr_is_of_each_picture() -> None:
    truth = torch.rand(3, 2, 8, 8) * 100 - 50
    predicted = truth + torch.tensor([22.0, 2.2, 0.0])[:, None, None, None]
    assert ab_psnr(predicted, truth).tolist() == pytest.approx([20.0, 40.0, 100.0], abs=1e-4)
    with pytest.raises(InputError, match="3, 8, 8"):
        ab_psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_hues() -> None:
    ab = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -5.0], [1.0, -1.0]])
    assert hue(ab).tolist() == pytest.approx([0, 90, 180, 270, 315])
    assert chroma(ab.T, dim=0).tolist() == pytest.approx([3, 2, 1, 5, 2**0.5])
    assert hue_distance(torch.tensor([350.0, 10.0, 0.0]), torch.tensor([10.0, 350.0, 180.0])).tolist() == [20, 20, 180]
