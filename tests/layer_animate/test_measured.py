"""The motion of a clip in a word, from alpha alone."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layer_animate.clip_figures import motion_obeyed
from pellucid.layer_animate.clips.measured import SIX, WORDS, MeasuredMotion, measure_alpha
from pellucid.layer_animate.clips.motions import MOTIONS, move

# What the makers of `data/rgba` measured, and the words that they gave: dx, dy, dlogarea, dangle.
MEASURED = [
    ((0.553, 0.246, 0.886, 2.811), ["sliding across", "turning", "growing and shrinking"]),
    ((0.027, 0.040, 0.028, 0.434), ["moving up and down", "swinging"]),
    ((0.098, 0.042, 0.144, 0.345), ["moving side to side", "swinging"]),
    ((0.255, 0.182, 2.790, 3.491), ["sliding across", "turning", "appearing and disappearing"]),
    ((0.002, 0.125, 0.173, 0.0), ["bouncing up and down"]),
    ((0.036, 0.032, 0.148, 0.0), ["changing shape"]),  # neither direction leads, and not far enough to move around
]


def still() -> Tensor:
    """A red bar with a foot, off the middle, so that no motion is hidden by symmetry."""
    picture = torch.zeros(4, 48, 48)
    picture[0], picture[3, 10:38, 18:27], picture[3, 31:38, 18:36] = 1.0, 1.0, 1.0
    return picture


def moved(name: str, amount: float = 1.0) -> Tensor:
    return move(still(), name, 16, amount=amount)


@pytest.mark.parametrize(("numbers", "words"), MEASURED)
def test_words_are_those_of_the_real_animations(numbers: Sequence[float], words: list[str]) -> None:
    dx, dy, area, angle = numbers
    assert list(MeasuredMotion(dx, dy, area, area, angle, angle, 5.0, 0.5, 0.0).words) == words


@pytest.mark.parametrize("name", SIX)
def test_six_motions_are_told_apart(name: str) -> None:
    clip = moved(name)
    assert measure_alpha(clip[:, 3:]).one_of_six == name
    assert [other for other in SIX if motion_obeyed(clip, f"a red foot, {SIX[other]}")] == [name]


@pytest.mark.parametrize(
    ("name", "amount", "word"),
    [
        ("up_down", 0.3, "moving up and down"),
        ("up_down", 1.0, "bouncing up and down"),
        ("side_side", 0.3, "moving side to side"),
        ("turning", 1.0, "turning"),
        ("growing", 0.5, "growing and shrinking"),
        ("fading", 1.0, "appearing and disappearing"),
    ],
)
def test_the_main_word_follows_kind_and_size_of_the_motion(name: str, amount: float, word: str) -> None:
    found = measure_alpha(moved(name, amount)[:, 3])
    assert found.word == word
    assert set(found.words) <= set(WORDS)


def test_the_turn_of_a_square_is_seen_by_its_outline_and_that_of_a_disc_is_not() -> None:
    far = (torch.arange(48) - 23.5).abs()
    square = ((far[:, None] < 13) & (far < 13)).float()
    disc = (far[:, None] ** 2 + far**2 < 13**2).float()
    for shape, seen in ((square, "turning"), (disc, None)):
        found = measure_alpha(move(shape.expand(4, -1, -1), "turning", 16)[:, 3])
        assert (found.dangle, found.one_of_six) == (0.0, seen)


def test_grain_in_alpha_is_no_motion() -> None:
    grain = 0.1 * torch.randn(16, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    for clip, seen in ((still().expand(16, -1, -1, -1), None), (moved("up_down"), "up_down")):
        alpha = clip[:, 3:]
        assert measure_alpha(alpha + grain * (alpha > 0)).one_of_six == seen


def test_a_still_clip_moves_gently_and_obeys_nothing() -> None:
    clip = still().expand(8, -1, -1, -1)
    assert measure_alpha(clip[:, 3:]).words == ("moving gently",)
    assert [motion_obeyed(clip, words) for words in SIX.values()] == [False] * 6


def test_a_text_without_one_of_six_motions_is_not_asked() -> None:
    assert motion_obeyed(moved("melting"), f"a red foot, {MOTIONS['melting'].words[0]}") is None
    assert motion_obeyed(moved("up_down"), "a red foot") is None


def test_an_empty_clip_is_measured_without_numbers_that_are_none() -> None:
    found = measure_alpha(torch.zeros(4, 1, 16, 16))
    assert (found.gone, found.dx, found.one_of_six) == (1.0, 0.0, None)


def test_it_grows_when_it_spreads_and_fades_when_it_does_not() -> None:
    grown, faded = (measure_alpha(moved(name)[:, 3]) for name in ("growing", "fading"))
    assert grown.dlogspread == pytest.approx(grown.dlogarea, rel=0.1)
    assert faded.dlogspread < 0.05 < faded.dlogarea


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (1, 1, 8, 8), (8, 8)])
def test_other_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two frames or more"):
        measure_alpha(torch.zeros(shape))
