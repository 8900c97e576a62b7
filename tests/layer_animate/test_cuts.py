"""F frames out of a clip: which, how fast, which way, which part, the same for all frames."""

from itertools import pairwise

import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.cuts import (
    Cutting,
    cut,
    frame_places,
    handed,
    one_way,
    premultiply,
    resize_rgba,
    straighten,
)


def numbered(total: int, height: int = 8, width: int = 8) -> torch.Tensor:
    """Opaque frames whose red is their number."""
    frames = torch.ones(total, 4, height, width)
    frames[:, 0] = torch.arange(total).reshape(-1, 1, 1) / 255
    return frames


def numbers(frames: torch.Tensor) -> list[int]:
    return [round(float(frame[0].mean()) * 255) for frame in frames]


def test_places_by_step() -> None:
    assert frame_places(30, 4, 4.0, 0.0).tolist() == [0, 4, 8, 12]
    assert frame_places(30, 4, 4.0, 1.0).tolist() == [17, 21, 25, 29]
    assert frame_places(24, 16, 1.5, 0.0, loops=True).tolist() == [round(i * 1.5) for i in range(16)]
    assert frame_places(6, 4, 2.0, 0.5, loops=True).tolist() == [3, 5, 1, 3]


def test_the_step_follows_from_both_rates() -> None:
    found = cut(numbered(60), Cutting(frames=4, fps=8), (8, 8), fps=24, seed=(0,))
    places = numbers(found)
    assert [b - a for a, b in pairwise(places)] == [3, 3, 3]


def test_speed_stays_within_its_bounds() -> None:
    steps = set()
    for seed in range(40):
        places = numbers(cut(numbered(80), Cutting(frames=3, fps=8, speed=(0.5, 2.0)), (8, 8), fps=32, seed=(seed,)))
        steps.add(places[1] - places[0])
    assert min(steps) >= 2
    assert max(steps) <= 8
    assert len(steps) > 3


def test_a_whole_loop_is_spread_over_the_frames() -> None:
    cutting = Cutting(frames=16, loop="whole")
    places = numbers(cut(numbered(24), cutting, (8, 8), fps=99, seed=(3,), loops=True))
    steps = [(b - a) % 24 for a, b in zip(places, places[1:] + places[:1], strict=True)]
    assert set(steps) <= {1, 2}
    assert sum(steps) == 24  # the last frame leads to the first


def test_a_short_clip_is_slower_and_a_shorter_one_refused() -> None:
    assert numbers(cut(numbered(9), Cutting(frames=16), (8, 8), fps=8, seed=(0,)))[-1] == 8
    with pytest.raises(InputError, match="tiny: a clip of 7 frames is too short for 16"):
        cut(numbered(7), Cutting(frames=16), (8, 8), fps=8, seed=(0,), name="tiny")


def test_backwards_only_without_a_direction() -> None:
    cutting = Cutting(frames=4, reverse=1.0)
    assert numbers(cut(numbered(4), cutting, (8, 8), fps=8, seed=(0,), caption="a heart, swinging")) == [3, 2, 1, 0]
    assert numbers(cut(numbered(4), cutting, (8, 8), fps=8, seed=(0,), caption="a heart melting")) == [0, 1, 2, 3]


def test_words_of_direction() -> None:
    assert one_way("a rocket flying up")
    assert one_way("a cup falling")
    assert not one_way("a heart, growing and shrinking")
    assert not one_way("a ball, moving up and down")
    assert not one_way("a rat, appearing and disappearing and swinging")
    assert handed("sliding left")
    assert not handed("moving up and down")
    assert not handed("a bright light")  # "right" is a word of its own


def test_mirrored_unless_told_left_or_right() -> None:
    clip = numbered(2, 4, 4)
    clip[:, 1] = torch.linspace(0, 1, 4)
    plain = cut(clip, Cutting(frames=2), (4, 4), fps=8, seed=(0,))
    mirrored = cut(clip, Cutting(frames=2, flip=1.0), (4, 4), fps=8, seed=(0,), caption="a ball")
    told = cut(clip, Cutting(frames=2, flip=1.0), (4, 4), fps=8, seed=(0,), caption="a ball sliding left")
    assert torch.equal(mirrored, plain.flip(-1))
    assert torch.equal(told, plain)


def test_one_part_for_all_frames() -> None:
    """A still clip stays still, however it is cut."""
    clip = torch.rand(1, 4, 20, 30).expand(6, -1, -1, -1)
    cutting = Cutting(frames=6, crop=(0.4, 1.0), flip=0.5, speed=(0.5, 2))
    found = cut(clip, cutting, (8, 8), fps=8, seed=(5,))
    assert tuple(found.shape) == (6, 4, 8, 8)
    assert float((found[1:] - found[:1]).abs().max()) == 0
    other = cut(clip, cutting, (8, 8), fps=8, seed=(6,))
    assert float((other - found).abs().max()) > 0
    assert torch.equal(found, cut(clip, cutting, (8, 8), fps=8, seed=(5,)))


def test_contained_and_zoomed_out_have_a_transparent_margin() -> None:
    clip = torch.ones(1, 4, 8, 16)
    whole = cut(clip, Cutting(frames=1, fit="contain"), (16, 16), fps=8, seed=(0,))
    assert float(whole[0, 3, :4].max()) == 0
    assert float(whole[0, 3, 4:12].min()) == 1
    small = cut(clip, Cutting(frames=1, crop=(2.0, 2.0)), (16, 16), fps=8, seed=(0,))
    assert float(small[0, 3].mean()) == pytest.approx(0.5, abs=0.05)  # all of 16 x 8, in a square of 16
    cropped = cut(clip, Cutting(frames=1), (16, 16), fps=8, seed=(0,))
    assert float(cropped[0, 3].min()) == 1


def test_resizing_in_premultiplied_colour() -> None:
    picture = torch.zeros(4, 8, 8)
    picture[0], picture[3, :, 4:] = 1.0, 1.0  # red; seen on the right
    picture[:3, :, :4] = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1)  # green where nothing is seen
    small = resize_rgba(picture, (3, 3))
    seen = small[3] > 0
    assert float(small[1][seen].max()) == 0
    assert float(small[0][seen].min()) == pytest.approx(1.0, abs=1e-5)
    back = straighten(premultiply(picture))
    assert torch.allclose(back[:3] * back[3:], picture[:3] * picture[3:])


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="speed must be"):
        Cutting(speed=(2.0, 1.0))
    with pytest.raises(ConfigError, match="frames must be at least 1"):
        Cutting(frames=0)
