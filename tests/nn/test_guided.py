"""The guided filter whose coefficients are enlarged in strips."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.nn import guided
from pellucid.nn.guided import apply_coefficients, enlarge_strips, guided_coefficients


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("small", "large"),
    [((7, 5), (33, 47)), ((8, 8), (16, 16)), ((13, 9), (13, 9)), ((1, 1), (9, 5)), ((5, 7), (40, 1)), ((9, 9), (4, 6))],
)
def test_strips_are_what_enlarging_at_once_gives(
    small: tuple[int, int], large: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided, "ROWS", 7)
    x = noise(2, 3, *small)
    whole, covered = torch.full((2, 3, *large), -1.0), 0
    for rows, strip in enlarge_strips(x, large):
        assert rows.start == covered
        assert strip.shape == (2, 3, rows.stop - rows.start, large[1])
        assert strip.shape[-2] <= 7
        whole[..., rows, :] = strip
        covered = rows.stop
    assert covered == large[0]
    assert torch.allclose(whole, F.interpolate(x, large, mode="bilinear", align_corners=False), atol=1e-5)


def test_a_linear_correction_is_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "ROWS", 20)
    guide = noise(1, 3, 24, 31)
    slope, offset = torch.tensor([-0.3, 0.2, 0.1]), torch.tensor([0.05, -0.1, 0.0])
    correction = guide * slope[:, None, None] + offset[:, None, None]
    found = guided_coefficients(guide, correction, eps=1e-9)
    assert torch.allclose(found[0, :3], slope[:, None, None].expand(3, 24, 31), atol=1e-3)
    assert torch.allclose(found[0, 3:], offset[:, None, None].expand(3, 24, 31), atol=1e-3)
    # At any size the correction is the same function of the picture, with all of its detail.
    large = noise(1, 3, 97, 125, seed=1)
    expected = large * slope[:, None, None] + offset[:, None, None]
    assert torch.allclose(apply_coefficients(large, found), expected, atol=2e-3)


def test_a_flat_guide_carries_the_local_mean() -> None:
    guide = torch.full((1, 3, 20, 20), 0.4)
    found = guided_coefficients(guide, torch.full_like(guide, -0.07))
    assert found[:, :3].abs().max() < 1e-4
    assert torch.allclose(found[:, 3:] + 0.4 * found[:, :3], torch.tensor(-0.07), atol=1e-4)


def test_eps_decides_what_counts_as_flat() -> None:
    guide = 0.5 + 0.02 * (noise(1, 1, 20, 20) - 0.5)
    strict, loose = (guided_coefficients(guide, guide, eps=eps)[:, :1].mean() for eps in (1e-7, 1e-1))
    assert strict > 0.9
    assert loose < 0.05


def test_coefficients_are_written_where_asked() -> None:
    picture, found = noise(1, 3, 9, 9), noise(1, 6, 4, 4)
    out = torch.empty(1, 3, 9, 9)
    assert apply_coefficients(picture, found, out) is out
    assert torch.equal(out, apply_coefficients(picture, found))


def test_one_channel_guides_several() -> None:
    """A guide repeated for every channel says the same."""
    guide, signal, large = noise(1, 1, 20, 23), noise(1, 2, 20, 23, seed=1), noise(1, 1, 61, 70, seed=2)
    found = guided_coefficients(guide, signal)
    assert torch.allclose(found, guided_coefficients(guide.expand(-1, 2, -1, -1), signal), atol=1e-6)
    full = apply_coefficients(large, found)
    assert full.shape == (1, 2, 61, 70)
    assert torch.allclose(full, apply_coefficients(large.expand(-1, 2, -1, -1).clone(), found), atol=1e-6)


def test_a_step_of_the_guide_keeps_two_colours_apart() -> None:
    """Colour found on a coarse grid ends at the full-size edge, not at the coarse one."""
    large = torch.zeros(1, 1, 80, 80)
    large[..., 37:] = 1.0
    small = F.interpolate(large, (20, 20), mode="bilinear", antialias=True)
    signal = torch.cat([small * 60, small * -40], dim=1)
    full = apply_coefficients(large, guided_coefficients(small, signal, eps=1e-6))
    assert (full[0, 0] - large[0, 0] * 60).abs().max() < 1.5
    assert (full[0, 1] + large[0, 0] * 40).abs().max() < 1.5
