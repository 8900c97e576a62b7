"""Objects take the colour of a word, keep lightness and pattern, and leave their surroundings alone."""

import math

import pytest
import torch
from torch import Generator, Tensor

from pellucid.errors import ConfigError
from pellucid.tic.recolour import Recolouring, RecolourOptions, shown_chroma, turned
from pellucid.tic.vocabulary import COLOURS


def scene(count: int = 1, ab: tuple[float, float] = (20.0, -10.0)) -> tuple[Tensor, Tensor]:
    """A striped square of one hue on a faintly warm ground, and its mask."""
    lab = torch.empty(count, 3, 16, 16)
    lab[:, 0], lab[:, 1], lab[:, 2] = 55.0, 3.0, 6.0
    objects = torch.zeros(count, 1, 16, 16)
    objects[..., 4:12, 4:12] = 1.0
    lab[:, 1:, 4:12, 4:12] = torch.tensor(ab)[None, :, None, None]
    lab[:, 1:, 4:12, 4:8] *= 0.5
    return lab, objects


def mean_ab(lab: Tensor, objects: Tensor) -> Tensor:
    return (lab[:, 1:] * objects).sum((2, 3)) / objects.sum((2, 3))


def test_an_object_gets_the_hue_and_chroma_and_keeps_its_pattern() -> None:
    lab, objects = scene()
    new = turned(lab, objects, torch.tensor([math.radians(140.0)]), torch.tensor([30.0]))
    a, b = mean_ab(new, objects)[0].tolist()
    assert math.degrees(math.atan2(b, a)) == pytest.approx(140, abs=1)
    assert math.hypot(a, b) == pytest.approx(30, abs=0.5)
    pale, strong = (new[0, 1:, 8, column].norm() for column in (5, 10))
    assert float(strong / pale) == pytest.approx(2, rel=0.01)  # as before
    assert torch.equal(new[:, :1], lab[:, :1])
    assert torch.equal(new[..., :4, :], lab[..., :4, :])


def test_a_grey_object_is_tinted() -> None:
    lab, objects = scene(ab=(0.0, 1.0))
    new = turned(lab, objects, torch.tensor([0.0]), torch.tensor([30.0]))
    assert mean_ab(new, objects)[0, 0] == pytest.approx(30, abs=1)


def test_nothing_gets_more_chroma_than_its_lightness_shows() -> None:
    lab, objects = scene()
    lab[:, 0] = torch.linspace(0, 100, 16)
    new = turned(lab, objects, torch.tensor([1.0]), torch.tensor([90.0]))
    chroma = new[:, 1:].norm(dim=1, keepdim=True)
    assert bool((chroma <= shown_chroma(lab[:, :1]) + 1e-3)[objects > 0].all())


def test_a_batch_is_told_what_it_became() -> None:
    lab, objects = scene(64)
    objects[0] = 0.0  # no object: nothing can be named
    options = RecolourOptions(share=0.5, colours={"green": 30.0, "red": 40.0}, hue_jitter=0, chroma_jitter=0, bare=0.3)
    new, texts, changed = Recolouring(options)(lab, objects, ["its own"] * 64, ["hat"] * 64, Generator().manual_seed(0))
    assert not bool(changed[0])
    assert 20 <= int(changed.sum()) <= 44
    assert {text for text, done in zip(texts, changed.tolist(), strict=True) if not done} == {"its own"}
    assert {text for text, done in zip(texts, changed.tolist(), strict=True) if done} == {
        "a green hat",
        "a red hat",
        "green",
        "red",
    }
    for place in changed.nonzero().flatten().tolist():
        a, b = mean_ab(new, objects)[place].tolist()
        word = "green" if "green" in texts[place] else "red"
        assert math.degrees(math.atan2(b, a)) == pytest.approx(COLOURS[word].hue, abs=1)


def test_the_ground_of_recoloured_objects_loses_chroma() -> None:
    lab, objects = scene(32)
    new, _, changed = Recolouring(RecolourOptions(ground=(0.0, 0.5)))(
        lab, objects, [""] * 32, ["hat"] * 32, Generator().manual_seed(0)
    )
    ground = new[:, 1:, :4].norm(dim=1).mean((1, 2)) / lab[:, 1:, :4].norm(dim=1).mean((1, 2))
    assert bool((ground[changed] <= 0.5 + 1e-4).all())
    assert float(ground[changed].std()) > 0.05
    assert torch.equal(new[~changed], lab[~changed])


@pytest.mark.parametrize("wrong", [{"colours": {"grey": 5.0}}, {"colours": {}}, {"share": 1.5}, {"bare": -0.1}])
def test_wrong_options_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RecolourOptions(**wrong)


def test_the_share_changes_with_the_training() -> None:
    lab, objects = scene(400)
    recolouring = Recolouring(RecolourOptions(share=0.8, last_share=0.2))

    def share(progress: float) -> float:
        generator = Generator().manual_seed(0)
        return float(recolouring(lab, objects, [""] * 400, ["hat"] * 400, generator, progress)[2].float().mean())

    assert share(0.0) == pytest.approx(0.8, abs=0.07)
    assert share(0.5) == pytest.approx(0.5, abs=0.07)
    assert share(1.0) == share(7.0) == pytest.approx(0.2, abs=0.07)
