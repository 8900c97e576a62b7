"""Errors of alpha, with answers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from pellucid.errors import InputError
from pellucid.metrics.alpha import (
    alpha_errors,
    composite_quality,
    connectivity_error,
    dtssd,
    gradient_error,
    mae,
    mse,
)


def square(size=20, start=5, stop=15):
    alpha = torch.zeros(1, 1, size, size)
    alpha[:, :, start:stop, start:stop] = 1.0
    return alpha


def test_mean_errors_are_times_a_thousand():
    truth = square()
    alpha = truth.clone()
    alpha[0, 0, 0, :4] = 0.5  # 4 of 400 pixels
    assert mae(alpha, truth) == pytest.approx(1000 * 4 * 0.5 / 400)
    assert mse(alpha, truth) == pytest.approx(1000 * 4 * 0.25 / 400)
    assert alpha_errors(truth, truth) == {"MAE": 0.0, "MSE": 0.0, "Grad": 0.0, "Conn": 0.0, "dtSSD": 0.0}


def test_the_gradient_error_compares_lengths_of_gradients():
    # On a ramp of slope s the filter answers s * c everywhere, c = sum of x^2 g(x) times sum of g, over its length.
    x = np.arange(-4, 5)
    bell = np.exp(-(x**2) / (2 * 1.4**2))
    answer = (x**2 * bell).sum() * bell.sum() / np.sqrt(((np.outer(bell, x * bell)) ** 2).sum())
    ramp = torch.arange(60.0).expand(1, 1, 60, 60) / 100.0
    still = torch.full_like(ramp, 0.3)
    inner = (..., slice(20, 40), slice(20, 40))
    wide = gradient_error(ramp, still) * 60 * 60 / 1000
    flat_edges = sum((column_answer(ramp[0, 0, 0].numpy(), place, bell, x)) ** 2 * 60 for place in range(60))
    assert wide == pytest.approx(flat_edges, rel=1e-6)
    assert column_answer(ramp[0, 0, 0].numpy(), 30, bell, x) == pytest.approx(answer / 100)
    assert gradient_error(ramp[inner], ramp[inner]) == 0.0
    assert gradient_error(ramp, 0.4 - ramp) == pytest.approx(0.0, abs=1e-9)  # lengths have no sign


def column_answer(row, place, bell, x):
    padded = np.pad(row, 4, mode="edge")[place : place + 9]
    filters = np.outer(bell, x * bell)
    return (padded * x * bell).sum() * bell.sum() / np.sqrt((filters**2).sum())


def test_what_is_cut_off_from_the_largest_part_counts():
    pytest.importorskip("cv2")
    truth = square()
    alpha = truth.clone()
    alpha[0, 0, 0, 0:3] = 0.8  # an island of 3 pixels beside the square: level 0, so all of it is cut off
    # Of both together the island reaches no threshold: level 0, alpha rises 0.8 above it, truth 0.
    assert connectivity_error(alpha, truth) == pytest.approx(1000 * 3 * 0.8 / 400)
    alpha[0, 0, 0, 0:3] = 0.1  # within the slack of 0.15
    assert connectivity_error(alpha, truth) == 0.0
    both = truth.clone()
    both[0, 0, 0, 0:3] = 1.0  # an island in truth too, seen as well: both are cut off by as much
    assert connectivity_error(both, both) == 0.0


def test_a_corner_does_not_join():
    pytest.importorskip("cv2")
    truth = torch.zeros(1, 1, 8, 8)
    truth[0, 0, 2:5, 2:5] = 1.0
    truth[0, 0, 5, 5] = 1.0  # touches by its corner
    alpha = truth.clone()
    alpha[0, 0, 5, 5] = 0.9
    # The corner is in no shared part: truth rises 1 above level 0 there and alpha 0.9. Joined, both would be forgiven.
    assert connectivity_error(alpha, truth) == pytest.approx(1000 * 0.1 / 64, rel=1e-5)


def test_dtssd_compares_changes_over_time():
    truth = torch.zeros(3, 1, 4, 4)
    alpha = truth.clone()
    alpha[2] = 0.5  # one of two changes is wrong
    assert dtssd(alpha, truth) == pytest.approx(25.0)
    assert dtssd(truth + 0.3, truth) == pytest.approx(0.0, abs=1e-5)  # wrong but steady
    assert dtssd(alpha[:1], truth[:1]) == 0.0


def test_the_worst_colour_counts():
    truth = torch.zeros(1, 4, 8, 8)
    truth[:, :3] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    truth[:, 3] = 1.0
    clip = truth.clone()
    clip[:, 3] = 0.9  # red shows it over any colour but red; over white two channels, over green two, over cyan three
    found = composite_quality(clip, truth)
    assert found["worst"] == pytest.approx(0.1)
    assert found["PSNR"] == pytest.approx(10 * math.log10(1 / (2 * 0.01 / 3)), abs=1e-3)
    assert found["SSIM"] < 1.0
    hidden = truth.clone()
    hidden[:, 3], truth[:, 3] = 0.0, 0.0
    hidden[:, :3] = 0.7  # another colour where nothing is to be seen
    assert composite_quality(hidden, truth) == {"PSNR": 100.0, "SSIM": pytest.approx(1.0), "worst": 0.0}


@pytest.mark.parametrize("measure", [mae, mse, gradient_error, dtssd, connectivity_error, composite_quality])
def test_shapes_that_differ_are_refused(measure):
    with pytest.raises(InputError):
        measure(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 9))
