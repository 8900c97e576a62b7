"""Depth providers: shape, order of near and far, and what a user's own depth file means."""

import pytest
import torch

from pellucid.errors import InputError
from pellucid.multistep_sirr.depth import CueDepth, NoDepth


def scene(batch: int = 1, height: int = 96, width: int = 128) -> torch.Tensor:
    """A rich texture below a flat bright sky."""
    generator = torch.Generator().manual_seed(3)
    picture = 0.6 * torch.rand(batch, 3, height, width, generator=generator)
    picture[..., : height // 2, :] = torch.tensor([0.8, 0.85, 0.9])[:, None, None]
    return picture


def test_none_is_zeros() -> None:
    provider = NoDepth()
    assert (provider.name, provider.is_learned) == ("none", False)
    assert torch.equal(provider(scene(2)), torch.zeros(2, 1, 96, 128))


def test_cue_puts_ground_nearer_than_sky() -> None:
    provider = CueDepth()
    assert (provider.name, provider.is_learned) == ("cue", False)
    depth = provider(scene())
    assert depth.shape == (1, 1, 96, 128)
    assert depth[..., 60:, :].mean() > depth[..., :36, :].mean() + 1


def test_cue_uses_contrast_and_haze_not_only_the_row() -> None:
    sideways = scene(height=128, width=128).transpose(-2, -1)  # sky left, ground right, the same rows
    depth = CueDepth()(sideways)
    assert depth[..., 80:].mean() > depth[..., :48].mean() + 0.5


def test_cue_is_the_same_in_a_batch_and_again() -> None:
    pictures = torch.cat([scene(), scene().flip(-1) * 0.5])
    together = CueDepth()(pictures)
    alone = torch.cat([CueDepth()(pictures[:1]), CueDepth()(pictures[1:])])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together, CueDepth()(pictures))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 700), (37, 1300), (600, 450)])
def test_cue_takes_any_size(size: tuple[int, int]) -> None:
    depth = CueDepth()(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert depth.shape == (1, 1, *size)
    assert depth.isfinite().all()


def test_cue_of_a_large_picture_is_that_of_the_small_one() -> None:
    small = scene(height=256, width=512)
    large = torch.nn.functional.interpolate(small, scale_factor=3, mode="nearest")
    upsampled = torch.nn.functional.interpolate(CueDepth()(small), scale_factor=3, mode="bilinear")
    assert (CueDepth()(large) - upsampled).abs().mean() < 0.05


def test_cue_has_no_gradient_and_stays_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = CueDepth()(scene().requires_grad_())
    assert not inside.requires_grad
    assert torch.equal(inside, CueDepth()(scene()))


@pytest.mark.parametrize("provider", [NoDepth(), CueDepth()])
def test_wrong_shapes_are_refused(provider: object) -> None:
    with pytest.raises(InputError, match=r"\(B, 3, H, W\), found \(1, 4, 8, 8\)"):
        provider(torch.rand(1, 4, 8, 8))  # type: ignore[operator]
