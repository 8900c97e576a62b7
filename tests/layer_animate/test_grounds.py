"""Opaque clips: the picture still moves, what lies behind stands still or drifts, and the captions say it is there."""

import pytest
import torch

from pellucid.layer_animate.clips.drawn_clips import MovedClips
from pellucid.layer_animate.clips.grounds import GROUND_WORDS, Grounded, draw_ground, over_ground


def empty(frames: int = 6, side: int = 16) -> torch.Tensor:
    """A clip in which nothing is drawn: what is seen of it is ground alone."""
    return torch.zeros(frames, 4, side, side)


def test_a_ground_stands_still_while_the_picture_moves() -> None:
    clip = empty()
    for frame in range(6):
        clip[frame, :, 4:8, 2 * frame : 2 * frame + 4] = torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(4, 1, 1)
    shown = over_ground(clip, 3)
    assert bool((shown[:, 3] == 1).all())
    assert torch.equal(shown[:, :3] * clip[:, 3:], clip[:, :3])  # the picture is what it was
    below = shown[:, :3, 10:]  # where nothing is drawn
    assert torch.equal(below, below[:1].expand_as(below))
    half = empty(1)
    half[:, 3] = 0.5
    assert torch.allclose(over_ground(half, 3)[:, :3], 0.5 * over_ground(empty(1), 3)[:, :3])


def test_some_grounds_drift_one_way() -> None:
    seeds = [seed for seed in range(20) if draw_ground(20, 20, seed).std(dim=(1, 2)).max() > 0.1]
    drifting = over_ground(empty(side=20), seeds[0], drift=1.0)[:, :3]
    steps = (drifting[1:] - drifting[:-1]).abs().mean(dim=(1, 2, 3))
    assert float(steps.min()) > 0
    assert float((drifting[5] - drifting[0]).abs().mean()) > float(steps.max())
    moved = [
        bool((over_ground(empty(2), seed, drift=0.5)[0] != over_ground(empty(2), seed)[0]).any()) for seed in seeds
    ]
    assert 0 < sum(moved) < len(moved)


def test_grounds_follow_from_their_numbers_and_differ() -> None:
    assert torch.equal(draw_ground(12, 20, 1, 2), draw_ground(12, 20, 1, 2))
    grounds = [draw_ground(16, 16, 0, number) for number in range(40)]
    assert all(tuple(ground.shape) == (3, 16, 16) for ground in grounds)
    assert all(float(ground.min()) >= 0.0 and float(ground.max()) <= 1.0 for ground in grounds)
    plain = [ground for ground in grounds if float(ground.std(dim=(1, 2)).max()) < 1e-6]
    assert 3 <= len(plain) <= 20  # about a quarter are of one colour
    assert len({round(float(ground.mean()), 4) for ground in grounds}) == 40


@pytest.mark.parametrize("variant", [0, 1])
def test_a_source_over_grounds_is_opaque_and_says_so(variant: int) -> None:
    clips = MovedClips(None, 2, 4, 16, seed=1)
    source = Grounded(clips, seed=7)
    frames, captions = source.cut(1, variant)
    plain, told = clips.cut(1, variant)
    assert bool((frames[:, 3] == 1).all())
    solid = plain[:, 3:] > 0.999
    assert torch.allclose(frames[:, :3] * solid, plain[:, :3] * solid, atol=2e-3)
    assert captions == tuple(f"{text}, {GROUND_WORDS}" for text in told)
    assert GROUND_WORDS in source.texts()
    assert source.facts() != Grounded(clips, seed=8).facts() != clips.facts()
    assert not torch.equal(frames, source.cut(1, 1 - variant)[0])
    assert (len(source), source.rows) == (2, ())
