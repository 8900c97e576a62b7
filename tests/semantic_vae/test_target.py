"""Reaching a value on a face whose nose grows as it is told."""

import math

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.directions import Direction
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ
from pellucid.semantic_vae.target import reach

SIDE, UNIT = 200, 136.0
NOSE = Direction("nose_length", (CELEBAMASK_HQ.id_of("nose"),), torch.zeros(1, 4), std=0.04)


class Face:
    """Draws a nose of ``length(amount)`` pixels, and counts how often it was asked to."""

    def __init__(self, length) -> None:
        self.length, self.drawn = length, 0

    def __call__(self, amount: float) -> Tensor:
        self.drawn += 1
        labels = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        labels[40:160, 50:150] = CELEBAMASK_HQ.id_of("skin")
        labels[88:96, 115:135] = CELEBAMASK_HQ.id_of("l_eye")
        labels[92 : 92 + round(self.length(amount)), 90:110] = CELEBAMASK_HQ.id_of("nose")
        return labels


@pytest.mark.parametrize("wanted", [15, 24, 28, 33, 45])
@pytest.mark.parametrize(
    "length",
    [
        lambda t: 28 + t * UNIT,  # as asked
        lambda t: 28 + 0.6 * t * UNIT,  # weakly
        lambda t: 28 + 25 * math.tanh(9 * t),  # less and less
        lambda t: 28 + 400 * t**3 * UNIT + 0.1 * t * UNIT,  # first hardly, then much
    ],
)
def test_the_value_is_reached_within_eight_decodes(length, wanted: int) -> None:
    face = Face(length)
    found = reach(face, NOSE, CELEBAMASK_HQ, wanted / UNIT)
    assert found.value * UNIT == pytest.approx(wanted, abs=2.01)
    assert face.drawn == found.decodes <= 8
    assert found.before * UNIT == pytest.approx(28, abs=0.01)


def test_what_is_out_of_reach_gives_the_nearest_seen() -> None:
    found = reach(Face(lambda t: 28 + min(max(t * UNIT, -5), 5)), NOSE, CELEBAMASK_HQ, 60 / UNIT)
    assert found.value * UNIT == pytest.approx(33, abs=0.01)
    assert abs(found.amount) <= 6 * NOSE.std
    gone = reach(Face(lambda t: 28 + t * UNIT if t < 0.05 else 0), NOSE, CELEBAMASK_HQ, 50 / UNIT)
    assert 28 <= gone.value * UNIT <= 36


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="cannot be measured"):
        reach(Face(lambda t: 0), NOSE, CELEBAMASK_HQ, 0.2)
    with pytest.raises(ConfigError, match="component"):
        reach(Face(lambda t: 28), Direction("nose/pc1", (2,), torch.zeros(1, 4)), CELEBAMASK_HQ, 0.2)
    with pytest.raises(ConfigError, match="nan"):
        reach(Face(lambda t: 28), NOSE, CELEBAMASK_HQ, float("nan"))
