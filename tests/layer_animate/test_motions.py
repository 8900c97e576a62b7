"""Motions over stills: loopable, neutral at the base frame, in premultiplied colour, and as their words say."""

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.motions import MOTIONS, move


def kite(size: int = 32) -> Tensor:
    """An opaque red and blue shape without symmetry, green under alpha 0."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((x - 15).abs() * (1.0 + 0.05 * (y - 12)) + (y - 15).abs() * 0.7 < 7) & (x < 20)
    alpha = inside.float()[None]
    red = (x < 15).float()
    colour = torch.stack([red, torch.zeros_like(red), 1 - red])
    return torch.cat([torch.where(inside, colour, torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1)), alpha])


def flat(frames: Tensor) -> Tensor:
    return frames[:, :3] * frames[:, 3:]


def centre(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Middle of alpha, right and down, ``(F,)`` each, in pixels."""
    alpha = frames[:, 3]
    total = alpha.sum((1, 2)).clamp(min=1e-6)
    places = torch.arange(frames.shape[-1]).float()
    return (alpha.sum(1) * places).sum(1) / total, (alpha.sum(2) * places).sum(1) / total


@pytest.mark.parametrize("name", MOTIONS)
def test_every_motion(name: str) -> None:
    """It moves, shows the still at the base frame, loops, is deterministic, and lets nothing invisible show."""
    still = kite()
    clip = move(still, name, 12, seed=1)
    assert tuple(clip.shape) == (12, 4, 32, 32)
    assert float(clip.min()) >= 0
    assert float(clip.max()) <= 1
    rest = move(still, "up_down", 1)[0]  # the resampling alone
    assert float((clip[5] - rest).abs().mean()) < 0.005
    steps = (torch.cat([clip[1:], clip[:1]])[:, 3] - clip[:, 3]).abs().mean((1, 2))
    assert float(steps.max()) > 0.004
    assert float(steps[-1]) <= 1.5 * float(steps[:-1].max())  # over the seam as between any two frames
    assert torch.equal(clip, move(still, name, 12, seed=1))
    seen = clip[:, 3] > 0.05
    assert float(clip[:, 1][seen].max()) < 0.02


def test_the_base_frame_may_be_any() -> None:
    still = kite()
    for base_index in (0, 3, 7):
        clip = move(still, "growing", 8, base_index=base_index)
        assert float((clip[base_index] - move(still, "growing", 1)[0]).abs().mean()) < 1e-6


def test_places_go_where_the_words_say() -> None:
    still = kite()
    x, y = centre(move(still, "up_down", 8))
    assert float(x.std()) < 0.3
    assert float(y.max() - y.min()) > 6
    x, y = centre(move(still, "side_side", 8))
    assert float(y.std()) < 0.3
    assert float(x.max() - x.min()) > 6
    _, y = centre(move(still, "bouncing", 16))
    assert float(y[7]) >= float(y.max()) - 1  # on the ground at rest
    for name, sign in (("left", -1), ("right", 1)):
        x, _ = centre(move(still, name, 16))
        assert sign * float(x[9] - x[7]) > 2
    _, y = centre(move(still, "floating", 16))
    assert float(y[9] - y[7]) < -2


def test_what_slides_leaves_wholly() -> None:
    still = kite()
    seen = move(still, "across", 16)[:, 3].sum((1, 2))
    assert float(seen.min()) < 0.02 * float(seen[7])


def test_areas_and_alphas() -> None:
    still = kite()
    area = move(still, "growing", 16)[:, 3].sum((1, 2))
    assert float(area.max() / area[7]) > 1.5
    assert float(area.min() / area[7]) < 0.7
    turned = move(still, "turning", 16)[:, 3].sum((1, 2))
    assert float(turned.max() / turned.min()) < 1.1
    faded = move(still, "fading", 16)[:, 3].amax((1, 2))
    assert float(faded.min()) < 0.1


def test_turns_and_amount() -> None:
    still = kite()
    _, once = centre(move(still, "up_down", 16, turns=1))
    _, twice = centre(move(still, "up_down", 16, turns=2))
    assert torch.allclose(twice[:8], twice[8:], atol=0.05)
    assert not torch.allclose(once[:8], once[8:], atol=1.0)
    _, little = centre(move(still, "up_down", 16, amount=0.5))
    assert float(little.max() - little.min()) == pytest.approx(0.5 * float(once.max() - once.min()), rel=0.1)


def test_any_shape_and_bad_stills() -> None:
    wide = torch.zeros(4, 16, 40)
    wide[:, 6:10, 4:12] = 1.0
    clip = move(wide, "turning", 8)
    assert tuple(clip.shape) == (8, 4, 16, 40)
    # A quarter turn stands on end: lengths are the same in both directions.
    quarter = clip[5, 3] > 0.5
    assert int(quarter.any(1).sum()) > int(quarter.any(0).sum())
    with pytest.raises(InputError, match="something drawn"):
        move(torch.zeros(4, 8, 8), "turning")
    with pytest.raises(ConfigError, match="not known"):
        move(wide, "tumbling")
    with pytest.raises(InputError, match="must be"):
        move(torch.zeros(3, 8, 8), "turning")
