"""The judge of mask-to-face training: published layouts, scales, and what it is not for."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pellucid.errors import ConfigError
from pellucid.semantic_vae.faces.face_discriminator import MultiscaleDiscriminator

REFERENCE = Path(__file__).parent / "reference"


@pytest.mark.parametrize(
    ("layout", "layers", "stride", "parameters"), [("spade", 4, 1, 5_566_594), ("sean", 3, 2, 1_364_098)]
)
def test_the_layout_is_the_published_one(layout: str, layers: int, stride: int, parameters: int) -> None:
    published = json.loads((REFERENCE / f"{layout}_discriminator.json").read_text())
    with torch.device("meta"):
        judge = MultiscaleDiscriminator(layers=layers, last_stride=stride)
    assert {key: list(value.shape) for key, value in judge.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in judge.parameters()) == parameters


def test_every_scale_gives_every_layer() -> None:
    judge = MultiscaleDiscriminator(4, width=2, layers=3, last_stride=1)
    answers = judge(torch.randn(2, 4, 32, 32))
    # 4x4 convolutions with padding 2: 32 -> 17 -> 9 -> 10 (stride 1) -> 11.
    assert [tuple(layer.shape) for layer in answers[0]] == [
        (2, 2, 17, 17),
        (2, 4, 9, 9),
        (2, 8, 10, 10),
        (2, 1, 11, 11),
    ]
    assert [layer.shape[-1] for layer in answers[1]] == [9, 5, 6, 7]


def test_the_second_scale_sees_means_of_pixels_that_are_there() -> None:
    judge = MultiscaleDiscriminator(1, width=2, layers=1).eval()
    flat = torch.ones(1, 1, 16, 16)
    small = judge.get_submodule("discriminator_1")(torch.ones(1, 1, 8, 8))
    assert torch.equal(judge(flat)[1][-1], small[-1])  # a border that counted padding would be darker
    assert F.avg_pool2d(flat, 3, 2, 1)[0, 0, 0, 0] < 1


def test_sizes_that_make_no_network() -> None:
    with pytest.raises(ConfigError, match="layers must be at least 1, found 0"):
        MultiscaleDiscriminator(layers=0)
