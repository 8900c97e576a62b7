"""The floor of the logarithm falls during training, from Eq. 1's weighing to PSNR's."""

import pytest

from pellucid.multistep_sirr.recipe import LossSection
from pellucid.multistep_sirr.train import FIRST_FLOOR, floor_at


def test_the_floor_falls_evenly_in_its_logarithm_and_then_stays() -> None:
    options = LossSection(pixel="log", pixel_floor=5e-4, floor_steps=100)
    assert floor_at(options, 0) == pytest.approx(FIRST_FLOOR)
    assert floor_at(options, 50) == pytest.approx((FIRST_FLOOR * 5e-4) ** 0.5)
    assert floor_at(options, 100) == floor_at(options, 9999) == 5e-4


def test_without_steps_it_is_there_from_the_start() -> None:
    assert floor_at(LossSection(pixel="log", pixel_floor=1e-3), 0) == 1e-3
