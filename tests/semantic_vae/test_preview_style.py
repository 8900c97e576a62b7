"""Styles of the drawing: plain values, drawn from a seed or taken from a picture."""

import json
from dataclasses import replace

import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.preview.style import PreviewStyle, mixed, oklch, random_style, style_from


@pytest.mark.parametrize(
    "style", [PreviewStyle(), random_style(3), PreviewStyle(parting=0.2, others=(("horn", (0.1, 0.2, 0.3)),))]
)
def test_a_style_is_json(style):
    assert PreviewStyle.from_dict(json.loads(json.dumps(style.to_dict()))) == style


def test_what_json_leaves_out_stays_plain():
    style = PreviewStyle.from_dict({"hair": [0.5, 0.25, 0.125]})
    assert style == replace(PreviewStyle(), hair=(0.5, 0.25, 0.125))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"hairs": [0, 0, 0]}, "'hairs'"),
        ({"hair": [0, 0]}, "form"),
        ({"hair": [0, 0, 2]}, "hair must be"),
        ({"hair": [0, 0, float("nan")]}, "hair must be"),
        ({"curl": 1.5}, "curl must be"),
        ({"curl": None}, "form"),
        ({"light": [0, 0, 0]}, "light must be"),
        ({"parting": 3}, "parting must be"),
        ({"background": [[0, 0, 0]]}, "form"),
        ({"others": {"horn": [0, 0, 7]}}, "horn must be"),
    ],
)
def test_a_wrong_style_is_named(found, words):
    with pytest.raises(ConfigError) as raised:
        PreviewStyle.from_dict(found)
    assert words in str(raised.value)


def test_one_seed_one_style_and_styles_differ():
    styles = [random_style(seed) for seed in range(60)]
    assert styles == [random_style(seed) for seed in range(60)]
    assert len({style.hair for style in styles}) >= 6
    assert len({style.skin for style in styles}) == 60
    assert {style.parting is None for style in styles} == {True, False}
    assert {style.light[0] > 0 for style in styles} == {True, False}
    lightness = torch.tensor([style.skin for style in styles]).mean(dim=1)
    assert float(lightness.max() - lightness.min()) > 0.35  # from light to dark skin


def test_a_style_from_a_picture_has_the_means_of_its_classes():
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[10:30, 10:30] = 1
    labels[2:8, 10:30] = 13
    labels[32:38, 10:30] = 18
    picture = torch.zeros(3, 40, 40)
    colors = {0: (0.2, 0.3, 0.9), 1: (0.8, 0.6, 0.5), 13: (0.4, 0.2, 0.1), 18: (0.1, 0.6, 0.2)}
    for part, color in colors.items():
        picture[:, labels == part] = torch.tensor(color)[:, None]
    picture[:, :20][:, labels[:20] == 0] = torch.tensor((0.9, 0.8, 0.7))[:, None]
    style = style_from(picture, labels)
    assert style.skin == pytest.approx(colors[1], abs=1e-5)
    assert style.hair == pytest.approx(colors[13], abs=1e-5)
    assert style.cloth == pytest.approx(colors[18], abs=1e-5)
    assert style.background[0] == pytest.approx((0.9, 0.8, 0.7), abs=1e-5)
    assert style.background[1] == pytest.approx(colors[0], abs=1e-5)
    plain = PreviewStyle()
    assert (style.hat, style.iris) == (plain.hat, plain.iris)  # not in the picture
    assert style.brows < style.hair  # follow from the hair, darker
    assert style.lips[0] / style.lips[1] > style.skin[0] / style.skin[1]  # follow from the skin, redder


def test_the_iris_is_the_dark_part_of_the_eyes():
    labels = torch.full((20, 20), 4, dtype=torch.uint8)
    picture = torch.full((3, 20, 20), 0.95)
    picture[:, :12] = torch.tensor((0.1, 0.2, 0.4))[:, None, None]
    assert style_from(picture, labels).iris == pytest.approx((0.1, 0.2, 0.4), abs=1e-5)


def test_classes_without_a_drawing_keep_their_colour():
    classes = ClassSet("horned", ("background", "skin", "horn"))
    labels = torch.full((10, 10), 2, dtype=torch.uint8)
    picture = torch.tensor((0.3, 0.5, 0.7))[:, None, None].expand(3, 10, 10)
    (name, color), *rest = style_from(picture, labels, classes).others
    assert (name, rest) == ("horn", [])
    assert color == pytest.approx((0.3, 0.5, 0.7), abs=1e-5)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"\(3, 8, 8\)"):
        style_from(torch.zeros(3, 8, 8), torch.zeros(9, 8, dtype=torch.uint8), CELEBAMASK_HQ)


def test_oklch_has_white_black_and_only_colours_of_srgb():
    assert oklch(1.0, 0.0, 0.0) == pytest.approx((1.0, 1.0, 1.0), abs=1e-3)
    assert oklch(0.0, 0.0, 0.0) == pytest.approx((0.0, 0.0, 0.0), abs=1e-3)
    assert oklch(0.627955, 0.257683, 29.2339) == pytest.approx((1.0, 0.0, 0.0), abs=2e-2)  # sRGB's red
    for hue in range(0, 360, 30):
        assert all(0.0 <= value <= 1.0 for value in oklch(0.7, 0.4, float(hue)))


def test_mixing():
    assert mixed((0.0, 0.5, 1.0), (1.0, 0.5, 0.0), 0.25) == (0.25, 0.5, 0.75)
