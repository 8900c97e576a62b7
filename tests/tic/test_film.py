"""Colours carried from frame to frame: along motion, not over cuts."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.tic.film import SHARE, TemporalSmoother, is_cut, motion, warp


def texture(side: int = 256, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, side // 8, side // 8, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)


def noise(seed: int, spread: float = 10.0, side: int = 256) -> Tensor:
    return torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("shift", [(0, 0), (8, 0), (0, -6), (10, 4), (-3, 12)])
def test_motion_is_found(shift: tuple[int, int]) -> None:
    """A picture that moved by ``shift`` (right, down) is fetched from there."""
    right, down = shift
    before = texture(320)[..., 32:288, 32:288]
    after = texture(320)[..., 32 - down : 288 - down, 32 - right : 288 - right]
    flow = motion(before, after) * 256
    middle = flow[..., 16:-16, 16:-16]
    assert (middle[:, 0].median() + right).abs() <= 1  # half of what 128 pixels can tell
    assert (middle[:, 1].median() + down).abs() <= 1
    moved = warp(before, flow / 256)
    unmoved = (before - after).abs()[..., 32:-32, 32:-32].mean()
    assert (moved - after).abs()[..., 32:-32, 32:-32].mean() <= max(0.02, 0.4 * float(unmoved))


def test_where_nothing_can_be_seen_nothing_moves() -> None:
    flat = torch.full((1, 1, 256, 256), 0.5)
    assert not motion(flat, flat).any()


def test_warp_fetches_from_where_the_flow_points() -> None:
    picture = torch.arange(64.0).reshape(1, 1, 8, 8)
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = 1 / 8
    assert torch.allclose(warp(picture, flow)[..., :-1], picture[..., 1:], atol=1e-4)


def test_a_still_scene_settles() -> None:
    """Independent errors of the frames average out; the true colour stays."""
    L, smooth = texture() * 100, TemporalSmoother()
    for index in range(12):
        ab = smooth(L, 20 + noise(index))
    assert ab.std() < 10 * 0.6  # a share of 0.6 of the past leaves half of the spread
    assert (ab.mean() - 20).abs() < 0.5
    assert TemporalSmoother(0.0)(L, noise(3)).equal(noise(3))


def test_the_first_frame_is_its_own() -> None:
    assert TemporalSmoother()(texture() * 100, noise(0)).equal(noise(0))


def test_where_lightness_disagrees_the_past_is_not_trusted() -> None:
    smooth = TemporalSmoother()
    before = texture()
    after = before.clone()
    after[..., 100:156, 100:156] = (after[..., 100:156, 100:156] + 0.5) % 1.0
    smooth(before * 100, torch.full((1, 2, 256, 256), 50.0))
    ab = smooth(after * 100, torch.zeros(1, 2, 256, 256))
    assert ab[..., 110:146, 110:146].median() < 1
    assert ab[..., :80, :80].mean() > 0.8 * SHARE * 50


def test_after_a_cut_colours_start_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    smooth, dark, light = TemporalSmoother(), texture() * 0.3, texture(seed=1) * 0.3 + 0.7
    assert is_cut(dark, light)
    assert not is_cut(texture(), texture().roll(20, -1))
    smooth(dark * 100, noise(0))
    assert smooth(light * 100, noise(1)).equal(noise(1))
    assert "cut before frame 1" in caplog.text


def test_colours_move_with_things() -> None:
    """A spot of colour goes along with the texture that carries it."""
    smooth, wide = TemporalSmoother(), texture(320)
    ab = torch.zeros(1, 2, 256, 256)
    ab[..., 100:140, 100:140] = 40
    smooth(wide[..., 32:288, 32:288] * 100, ab)
    moved = smooth(wide[..., 32:288, 22:278] * 100, torch.zeros(1, 2, 256, 256))  # ten pixels to the right
    assert moved[..., 104:136, 114:146].mean() > 0.7 * SHARE * 40
    assert moved[..., 104:136, 100:106].mean() < 0.3 * SHARE * 40
