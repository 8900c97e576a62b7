"""Obedience on painters whose obedience is known."""

import math

import pytest
import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.tic.obedience import central_ninth, contact_sheet, obedience, prompt
from pellucid.tic.vocabulary import SIX, hue_angle, opposite

SIDE = 48
L = torch.full((3, 1, SIDE, SIDE), 60.0)
NOUNS = ["shirt", "dress", "hat"]


def ab_of(word: str, chroma: float = 40.0, turned: float = 0.0) -> Tensor:
    angle = math.radians(hue_angle(word) + turned)
    return torch.tensor([math.cos(angle), math.sin(angle)])[:, None, None] * chroma


def named(text: str) -> str:
    return next(word for word in SIX if word in text)


def flat(text: str, chroma: float = 40.0) -> Tensor:
    return ab_of(named(text), chroma).expand(2, SIDE, SIDE)


def painter(chroma: float = 40.0):
    return lambda L, texts: torch.stack([flat(text, chroma) for text in texts])


def masks() -> Tensor:
    found = torch.zeros(3, 1, SIDE, SIDE)
    found[:, :, 12:36, 12:36] = 1.0
    return found


def test_one_who_always_obeys() -> None:
    asked: list[str] = []

    def predict(L: Tensor, texts: list[str]) -> Tensor:
        assert L.shape == (len(texts), 1, SIDE, SIDE)
        asked.extend(texts)
        return painter()(L, texts)

    figures = obedience(predict, L, None, NOUNS, batch=7)
    assert figures["accuracy"] == 1.0
    assert figures["chroma"] == pytest.approx(40.0, abs=1e-3)
    assert figures["pictures"] == 3
    assert asked == [prompt(colour, noun) for noun in NOUNS for colour in SIX]
    assert prompt("orange", "hat") == "an orange hat"
    assert "bleeding" not in figures
    assert "opposite" not in figures


def test_the_hue_of_the_mean_must_show() -> None:
    assert obedience(painter(12.1), L, None, NOUNS)["accuracy"] == 1.0
    pale = obedience(painter(11.9), L, None, NOUNS)
    assert pale["accuracy"] == 0.0
    assert pale["chroma"] == pytest.approx(11.9, abs=1e-3)
    assert obedience(painter(11.9), L, None, NOUNS, min_chroma=11.0)["accuracy"] == 1.0


def test_one_who_paints_everything_red() -> None:
    figures = obedience(lambda L, texts: torch.stack([flat("red")] * len(texts)), L, None, NOUNS)
    assert figures["accuracy"] == pytest.approx(1 / 6)
    assert (figures["accuracy_red"], figures["accuracy_blue"]) == (1.0, 0.0)
    assert figures["spread"] == pytest.approx(0.0, abs=1e-4)


def test_spread_is_the_mean_distance_from_the_average() -> None:
    figures = obedience(painter(), L, None, NOUNS)
    six = torch.stack([ab_of(word)[:, 0, 0] for word in SIX])
    assert figures["spread"] == pytest.approx(float((six - six.mean(0)).norm(dim=-1).mean()), abs=1e-3)


def test_only_the_box_counts_for_the_hue() -> None:
    def centre_only(L: Tensor, texts: list[str]) -> Tensor:
        out = torch.stack([ab_of("green").expand(2, SIDE, SIDE)] * len(texts)).clone()
        for place, text in enumerate(texts):
            out[place, :, 16:32, 16:32] = ab_of(named(text))
        return out

    assert obedience(centre_only, L, None, NOUNS)["accuracy"] == 1.0
    assert central_ninth(2, SIDE).tolist() == [[16, 16, 32, 32]] * 2
    corner = torch.tensor([[0, 0, 10, 10]] * 3)
    assert obedience(centre_only, L, None, NOUNS, boxes=corner)["accuracy"] == pytest.approx(1 / 6)


def test_a_network_of_another_size() -> None:
    def small(L: Tensor, texts: list[str]) -> Tensor:
        return painter()(L, texts)[..., ::2, ::2]

    assert obedience(small, L, None, NOUNS)["accuracy"] == 1.0


def test_bleeding_is_read_on_grey_ground_outside_object_and_rim() -> None:
    truth = torch.zeros(3, 2, SIDE, SIDE)
    truth[:, :, :, 40:] = 30.0  # a coloured wall: no bleeding there
    truth[:, 0, :6] = 3.0

    def leaking(L: Tensor, texts: list[str]) -> Tensor:
        out = painter()(L, texts).clone()
        out[..., :6, :] *= 5.0 / 40.0  # faint
        out[..., 6:, :] *= 20.0 / 40.0
        out[..., :, 40:] *= 10.0
        out[..., 11, 12:36] *= 10.0  # the rim of one pixel around the object
        return out

    figures = obedience(leaking, L, masks(), NOUNS, truth=truth)
    ground = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    ground[:, :40] = True
    ground[11:37, 11:37] = False
    faint, strong = int(ground[:6].sum()), int(ground[6:].sum())
    assert figures["bleeding"] == pytest.approx((5.0 * faint + 20.0 * strong) / (faint + strong), rel=1e-4)
    assert figures["bleeding_of_truth"] == pytest.approx(3.0 * faint / (faint + strong), rel=1e-4)
    coloured = obedience(leaking, L, masks(), NOUNS, truth=torch.full_like(truth, 30.0))
    assert "bleeding" not in coloured


def test_the_opposite_colour_is_that_of_coloured_pictures_only() -> None:
    truth = torch.zeros(3, 2, SIDE, SIDE)
    truth[0] = ab_of("red")
    truth[1] = ab_of("yellow")
    truth[2] = ab_of("blue", chroma=5.0)  # grey: has no opposite

    def stubborn(L: Tensor, texts: list[str]) -> Tensor:
        # Refuses only the first picture's opposite colour.
        painted = [ab_of("red") if "shirt" in t and opposite("red") in t else ab_of(named(t)) for t in texts]
        return torch.stack([each.expand(2, SIDE, SIDE) for each in painted])

    figures = obedience(stubborn, L, None, NOUNS, truth=truth)
    assert figures["opposite_pictures"] == 2
    assert figures["opposite"] == 0.5
    assert figures["accuracy"] == pytest.approx(17 / 18)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nouns": ["hat"]}, "3 nouns"),
        ({"object_masks": torch.zeros(3, 1, 8, 8)}, "masks must be"),
        ({"truth": torch.zeros(3, 3, SIDE, SIDE)}, "true ab must be"),
        ({"boxes": torch.tensor([[50, 50, 60, 60]] * 3)}, "outside the picture"),
        ({"Ls": torch.zeros(3, 1, 8, 9)}, "L is"),
    ],
)
def test_what_does_not_fit(change: dict, message: str) -> None:
    given = {"Ls": L, "object_masks": None, "nouns": NOUNS} | change
    with pytest.raises(InputError, match=message):
        obedience(painter(), **given)


def test_the_sheet_shows_grey_truth_and_six_colours() -> None:
    rgb = torch.tensor([0.8, 0.3, 0.3])[:, None, None].expand(3, 3, SIDE, SIDE)
    sheet = contact_sheet(painter(30.0), rgb, NOUNS, cell=20, blocks=2)
    assert sheet.shape == (3, 18 + 2 * 22, 2 * 8 * 22)
    assert float(sheet[:, :18].min()) < 0.5  # words
    cells = [sheet[:, 18 + 11, 11 + 22 * place] for place in range(8)]
    assert float(cells[0].max() - cells[0].min()) < 0.01
    assert torch.allclose(cells[1], rgb[0, :, 0, 0], atol=1e-3)
    red, green, blue = cells[SIX.index("red") + 2], cells[SIX.index("green") + 2], cells[SIX.index("blue") + 2]
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2
    assert float(sheet[:, 18 + 22 :, 8 * 22 :].min()) == 1.0  # the place of a fourth picture stays white
