"""Loops: the order of playing, which frames are faded, and how closed a clip is."""

import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.layer_animate.sampling.loops import Fade, play_order, seam


def test_pingpong_shows_both_ends_once() -> None:
    assert play_order(4, "pingpong") == [0, 1, 2, 3, 2, 1]
    assert play_order(2, "pingpong") == [0, 1]
    assert play_order(1, "pingpong") == [0]
    assert play_order(3, "closed") == [0, 1, 2]
    with pytest.raises(ConfigError, match="'round'"):
        play_order(3, "round")


def test_the_last_frames_go_over_into_the_first() -> None:
    fade = Fade.closing(16, 7, 3)
    assert fade is not None
    assert (fade.frames, fade.target) == ((13, 14, 15), 0)
    assert fade.weights == pytest.approx((0.5 - 0.5**1.5, 0.5, 0.5 + 0.5**1.5))


def test_the_base_frame_is_never_faded() -> None:
    for frames in (2, 3, 5, 16):
        for base in range(frames):
            for length in (1, 4, 40):
                fade = Fade.closing(frames, base, length)
                assert fade is not None
                assert base not in fade.frames
                assert fade.target not in fade.frames
    late = Fade.closing(8, 7, 2)
    assert late is not None
    assert (late.frames, late.target) == ((0, 1), 7)
    assert late.weights == pytest.approx((0.75, 0.25))
    assert Fade.closing(1, 0) is None
    with pytest.raises(ConfigError, match="at least 1"):
        Fade.closing(16, 7, 0)


def test_faded_noise_is_still_noise() -> None:
    noise = torch.randn(1, 4, 6, 64, 64, generator=torch.Generator().manual_seed(0))
    fade = Fade.closing(6, 0, 3)
    assert fade is not None
    faded = fade.noise(noise)
    assert faded.std(dim=(0, 1, 3, 4)).sub(1).abs().max() < 0.03
    assert torch.equal(faded[:, :, :3], noise[:, :, :3])
    alike = [float((faded[:, :, frame] * noise[:, :, 0]).mean()) for frame in (3, 4, 5)]
    assert 0.1 < alike[0] < alike[1] < alike[2]


@pytest.mark.parametrize("frames", [8, 16, 33])
def test_a_drift_becomes_a_closed_clip(frames: int) -> None:
    drift = torch.arange(float(frames)).reshape(1, 1, frames, 1, 1).expand(1, 1, frames, 2, 2)
    fade = Fade.closing(frames, (frames - 1) // 2)
    assert fade is not None
    assert seam(drift[0].movedim(1, 0)) == pytest.approx(frames - 1)
    assert seam(fade.picture(drift)[0].movedim(1, 0)) <= 1.5


def test_seam_of_a_turn_is_one() -> None:
    angles = torch.arange(8) / 8 * 2 * torch.pi
    turn = torch.stack([angles.sin(), angles.cos()], dim=1)
    assert seam(turn) == pytest.approx(1)
    assert seam(turn[:1]) == 0
