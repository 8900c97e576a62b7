"""Directions fitted to a drawn decoder whose answers are known."""

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, WeightsError
from pellucid.semantic_vae.attributes import measure
from pellucid.semantic_vae.direction_fit import fit_directions
from pellucid.semantic_vae.directions import Direction, Directions
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ
from pellucid.semantic_vae.responses import CodedMasks, Response

SIDE, LATENT, COUNT = 96, 8, 240
PARTS = len(CELEBAMASK_HQ.parts)
SKIN, NOSE, EYE = (CELEBAMASK_HQ.parts.index(CELEBAMASK_HQ.id_of(name)) for name in ("skin", "nose", "l_eye"))


def painted(lengths: Tensor, widths: Tensor) -> Tensor:
    """Faces ``(N, SIDE, SIDE)`` with noses of given lengths and widths in pixels."""
    labels = torch.zeros(len(lengths), SIDE, SIDE, dtype=torch.uint8)
    labels[:, 16:88, 20:76] = CELEBAMASK_HQ.id_of("skin")
    labels[:, 40:44, 56:66] = CELEBAMASK_HQ.id_of("l_eye")
    row, column = torch.arange(SIDE)[None, :, None], torch.arange(SIDE)[None, None]
    nose = (row >= 42) & (row < 42 + lengths[:, None, None]) & ((column - 47.5).abs() < widths[:, None, None] / 2)
    labels[nose] = CELEBAMASK_HQ.id_of("nose")
    return labels


def shape_of(z: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """The nose's code says its length in its first two numbers and its width in the third."""
    nose = z[:, NOSE]
    return 20 + strength * 4 * (nose[:, 0] + nose[:, 1]), 13 + strength * 2 * nose[:, 2]


@pytest.fixture(scope="module")
def masks() -> CodedMasks:
    generator = torch.Generator().manual_seed(1)
    mu = 0.5 * torch.randn(COUNT, PARTS, LATENT, generator=generator)
    present = torch.zeros(COUNT, PARTS, dtype=torch.bool)
    present[:, [SKIN, NOSE, EYE]] = True
    found = measure(painted(*shape_of(mu, 1.0)), CELEBAMASK_HQ, ["nose_length", "nose_width"])
    noise = torch.randn(COUNT, generator=generator)
    return CodedMasks(mu, present, found | {"face_width": noise, "mouth_width": torch.full((COUNT,), torch.nan)})


def weak(z: Tensor, present: Tensor) -> Tensor:
    """A decoder that does half of what the codes say, and paints no nose where there is none."""
    length, width = shape_of(z, 0.5)
    return painted(torch.where(present[:, NOSE], length, 0), width)


@pytest.fixture(scope="module")
def fitted(masks: CodedMasks) -> Directions:
    names = ["nose_length", "nose_width", "face_width", "mouth_width"]
    return fit_directions(masks, CELEBAMASK_HQ, weak, names=names, tested=16, components=3)


def test_a_direction_achieves_what_is_asked_and_leaves_its_sibling(fitted: Directions) -> None:
    for name, other in (("nose_length", "nose_width"), ("nose_width", "nose_length")):
        one = fitted[name]
        assert one.figures["r2"] > 0.8
        assert one.figures["slope"] == pytest.approx(1.0, abs=0.2)
        assert one.figures["monotone"] > 0.8
        assert abs(one.leakage[other]) < 0.25
        assert one.parts == (CELEBAMASK_HQ.id_of("nose"),)
        assert set(fitted.offsets(name)) == set(one.parts)
    # Half a decoder: twice the way.
    length = fitted["nose_length"].offset[0]
    assert float(4 * (length[0] + length[1])) / (88 - 42) / 2 == pytest.approx(2.0, rel=0.25)


def test_what_does_not_hold_is_hidden_and_says_why(fitted: Directions) -> None:
    assert "face_width" in fitted.entries
    assert "face_width" not in fitted.names
    assert "mouth_width" not in fitted.entries  # nothing was measured
    with pytest.raises(ConfigError, match=r"R² on held-out masks"):
        fitted.offsets("face_width")
    with pytest.raises(ConfigError, match="did you mean nose_length") as caught:
        fitted.offsets("nose_lenth")
    assert "nose_lenth" in caught.value.message


def test_a_decoder_that_does_not_follow_hides_the_slider(masks: CodedMasks) -> None:
    def deaf(z: Tensor, present: Tensor) -> Tensor:
        return painted(torch.full((len(z),), 20.0), torch.full((len(z),), 13.0))

    found = fit_directions(masks, CELEBAMASK_HQ, deaf, names=["nose_length"], tested=12, components=0)
    assert found.entries["nose_length"].figures["r2"] > 0.8
    with pytest.raises(ConfigError, match="monotone on 0 %"):
        found.offsets("nose_length")


def test_components_are_orthogonal_and_one_deviation_long(masks: CodedMasks, fitted: Directions) -> None:
    found = torch.cat([fitted[f"nose/pc{place}"].offset for place in (1, 2, 3)])
    gram = found @ found.T
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-4)
    along = (masks.mu[:, NOSE] - masks.mu[:, NOSE].mean(0)) @ found[0] / found[0].square().sum()
    assert float(along.std()) == pytest.approx(1.0, abs=0.01)
    assert fitted["nose/pc1"].figures["share"] > fitted["nose/pc2"].figures["share"]
    assert "hair/pc1" not in fitted.entries  # never there


def test_response_reads_slope_and_order() -> None:
    amounts = torch.tensor([-1.0, 0.0, 1.0])
    values = torch.tensor([[1.0, 3.0, 5.0], [0.0, 2.0, 1.0], [0.0, 1.0, torch.nan]])
    response = Response(amounts, {"smile": values})
    assert response.slope("smile") == pytest.approx((2.0 + 0.5) / 2)
    assert response.monotone("smile") == pytest.approx(1 / 3)
    assert response.change("smile") == pytest.approx(2.5)


def test_directions_come_back_from_tensors_and_json(fitted: Directions) -> None:
    again = Directions.of(fitted.tensors(), fitted.plain())
    assert again.names == fitted.names
    assert torch.equal(again["nose_length"].offset, fitted["nose_length"].offset)
    assert again["nose_length"].std == fitted["nose_length"].std
    with pytest.raises(WeightsError, match="one of the two"):
        Directions.of({}, fitted.plain())
    with pytest.raises(WeightsError, match="expected 1 codes"):
        Directions.of({"a": torch.zeros(2, 4)}, {"a": Direction("a", (2,), torch.zeros(1, 4)).plain()})
