"""Colour words: what they mean, where they lie, and which one a colour gets."""

import math

import pytest
import torch

from pellucid.tic.vocabulary import (
    ACHROMATIC,
    CHROMATIC,
    COLOURS,
    FAMILIES,
    NAMED,
    SIX,
    SYNONYMS,
    canonical,
    hue_angle,
    hue_difference,
    name_colour,
    opposite,
)


def test_the_words() -> None:
    assert len(COLOURS) == 24
    assert set(ACHROMATIC) == {"black", "white", "grey", "silver"}
    assert set(SIX) <= set(CHROMATIC)
    assert set(SYNONYMS.values()) <= set(COLOURS)
    assert not set(SYNONYMS) & set(COLOURS)
    assert {word for family in FAMILIES for word in family} <= set(COLOURS)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("red", "red"),
        ("crimson", "red"),
        ("scarlet", "red"),
        ("azure", "blue"),
        ("gray", "grey"),
        ("reddish", "red"),
        ("bluish", "blue"),
        ("blueish", "blue"),
        ("purplish", "purple"),
        ("greyish", "grey"),
        ("tannish", "tan"),
        ("oranges", "orange"),
        ("greens", "green"),
        ("golden", "gold"),
        ("burgundy", "maroon"),
        ("dress", None),
        ("bored", None),
        ("infrared", None),
        ("", None),
        ("красный", None),
    ],
)
def test_what_a_word_means(word: str, meant: str | None) -> None:
    assert canonical(word) == meant


def test_a_thing_is_a_colour_only_when_asked() -> None:
    assert canonical("lemon") == "yellow"
    assert canonical("lemon", things=False) is None
    assert canonical("lemons", things=False) is None


def test_anchors_lie_at_their_hue() -> None:
    for word in CHROMATIC:
        a, b = COLOURS[word].ab
        assert math.degrees(math.atan2(b, a)) % 360 == pytest.approx(hue_angle(word))
        assert math.hypot(a, b) == pytest.approx(COLOURS[word].chroma)
    assert hue_angle("crimson") == hue_angle("red")
    with pytest.raises(KeyError, match="no hue"):
        hue_angle("grey")
    with pytest.raises(KeyError, match="no hue"):
        hue_angle("dress")


def test_the_six_are_apart() -> None:
    """Obedience takes the nearest of the six, so none may crowd another."""
    angles = [hue_angle(word) for word in SIX]
    gaps = [hue_difference(x, y) for at, x in enumerate(angles) for y in angles[:at]]
    assert min(gaps) > 25


def test_hues_go_round() -> None:
    assert hue_difference(350, 10) == pytest.approx(20)
    assert hue_difference(10, 350) == pytest.approx(20)
    assert hue_difference(0, 180) == pytest.approx(180)
    assert opposite("yellow") == "blue"
    assert opposite("green") == "purple"
    assert opposite(212.0) == "red"
    assert opposite("red", ("orange", "teal")) == "teal"


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((10, 10, 10), "black"),
        ((128, 128, 128), "grey"),
        ((250, 250, 250), "white"),
        ((200, 30, 40), "red"),
        ((245, 130, 32), "orange"),
        ((245, 211, 39), "yellow"),
        ((46, 154, 63), "green"),
        ((42, 95, 208), "blue"),
        ((125, 47, 166), "purple"),
        ((242, 140, 177), "pink"),
        ((110, 66, 38), "brown"),
        ((224, 203, 168), "beige"),
        ((20, 30, 80), "navy"),
    ],
)
def test_naming(rgb: tuple[int, int, int], word: str) -> None:
    from kornia.color import rgb_to_lab

    lab = rgb_to_lab(torch.tensor(rgb).view(1, 3, 1, 1) / 255).flatten()
    assert NAMED[int(name_colour(lab))] == word


def test_naming_gives_every_colour_a_word() -> None:
    lab = torch.rand(7, 50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([100.0, 200.0, 200.0])
    lab = lab - torch.tensor([0.0, 100.0, 100.0])
    names = name_colour(lab)
    assert names.shape == (7, 50)
    assert names.dtype == torch.int64
    assert int(names.min()) >= 0
    assert int(names.max()) < len(NAMED)
    assert torch.equal(name_colour(lab[3, 4]), names[3, 4])


def test_anchors_are_named_by_their_own_word() -> None:
    """What a recoloured picture is told to be and what it is called must agree."""
    called = {word: NAMED[int(name_colour(torch.tensor(COLOURS[word].lab)))] for word in NAMED}
    assert called == {word: word for word in NAMED}
