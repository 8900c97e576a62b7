"""Windows on motion modules: they cover the clip, change nothing where they need not, and go round where asked."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import ConfigError
from pellucid.layer_animate.model import LayerAnimate, motion_off
from pellucid.layer_animate.sampling.windows import motion_length, motion_windows, plan_windows


@pytest.fixture
def unet(tiny_model: LayerAnimate) -> Iterator[nn.Module]:
    with tiny_model.context.changed(enabled=False):
        yield tiny_model.unet


def _run(unet: nn.Module, latents: Tensor) -> Tensor:
    text = torch.ones(latents.shape[2], 3, 16)
    with torch.no_grad():
        return unet(latents, 500, text, return_dict=False)[0]


def _latents(frames: int) -> Tensor:
    return torch.randn(1, 4, frames, 4, 4, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("absent", [None, 0, 3])
@pytest.mark.parametrize(("frames", "length", "stride"), [(4, 16, 4), (16, 16, 4), (17, 16, 4), (33, 16, 5), (9, 2, 2)])
def test_every_frame_is_covered_with_weights_of_one(
    frames: int, length: int, stride: int, absent: int | None, circular: bool
) -> None:
    windows = plan_windows(frames, length, stride, circular=circular, absent=absent)
    rows = frames - (absent is not None)
    sums = [0.0] * rows
    for window in windows:
        assert max(window.places) < min(length, frames)
        for row, weight in zip(window.rows, window.weights, strict=True):
            sums[row] += weight
    assert sums == pytest.approx([1.0] * rows)


def test_windows_are_those_of_freenoise() -> None:
    windows = plan_windows(26, 16, 4)
    assert [(window.rows[0], window.rows[-1]) for window in windows] == [(0, 15), (4, 19), (8, 23), (10, 25)]
    # Frame 4 is the fifth of the first window and the first of the second; frames before it are in the first alone.
    assert windows[0].weights[:5] == pytest.approx((1, 1, 1, 1, 5 / 6))
    assert len(plan_windows(16, 16, 4)) == 1


def test_a_frame_that_is_left_out_leaves_its_position_free() -> None:
    (window,) = plan_windows(5, 16, 4, absent=2)
    assert window.rows == (0, 1, 2, 3)
    assert window.places == (0, 1, 3, 4)


def test_one_window_over_all_is_what_the_block_does(unet: nn.Module) -> None:
    latents = _latents(6)
    plain = _run(unet, latents)
    with motion_windows(unet, plan_windows(6), chunk=5):
        windowed = _run(unet, latents)
    assert torch.allclose(windowed, plain, atol=1e-5)
    with motion_off(unet):
        assert not torch.allclose(_run(unet, latents), plain, atol=1e-3)
    assert torch.equal(_run(unet, latents), plain)


def test_circular_windows_know_no_first_frame(unet: nn.Module) -> None:
    latents = _latents(10)
    with motion_windows(unet, plan_windows(10, 4, 1, circular=True)):
        first, turned = _run(unet, latents), _run(unet, latents.roll(3, 2))
    assert torch.allclose(turned, first.roll(3, 2), atol=1e-4)
    with motion_windows(unet, plan_windows(10, 4, 1)):
        first, turned = _run(unet, latents), _run(unet, latents.roll(3, 2))
    assert not torch.allclose(turned, first.roll(3, 2), atol=1e-3)


def test_long_clips_are_refused_without_windows_and_run_with_them(unet: nn.Module) -> None:
    assert motion_length(unet) == 32
    with (
        pytest.raises(ConfigError, match=r"33 frames.*know 32.*context_length 32"),
        motion_windows(unet, plan_windows(33, 33)),
    ):
        pass
    with motion_windows(unet, plan_windows(33)):
        assert _run(unet, _latents(33)).shape[2] == 33


def test_the_state_dict_stays_as_it_is(unet: nn.Module) -> None:
    before = list(unet.state_dict())
    with motion_windows(unet, plan_windows(33)):
        assert list(unet.state_dict()) == before


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (4, 0), (4, 5)])
def test_windows_that_make_no_sense_are_refused(length: int, stride: int) -> None:
    with pytest.raises(ConfigError, match=f"length {length} and stride {stride}"):
        plan_windows(8, length, stride)
