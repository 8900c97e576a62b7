"""Transparency without truth: a square that moves as told, and what must be noticed about it."""

import pytest
import torch

from pellucid.errors import InputError
from pellucid.metrics.cut_out import carry, changes, measure_cut_out, swept

SIZE, SIDE, STEP, FRAMES, BASE = 64, 16, 3, 5, 2


def moving():
    """A white square of 16 px that moves 3 px to the right in each frame, and its flows."""
    clip = torch.zeros(FRAMES, 4, SIZE, SIZE)
    for frame in range(FRAMES):
        left = 16 + STEP * frame
        clip[frame, :, 24 : 24 + SIDE, left : left + SIDE] = 1.0
    forward = torch.zeros(FRAMES - 1, 2, SIZE, SIZE)
    forward[:, 0] = STEP
    return clip, forward, -forward


def test_a_clean_clip_has_no_faults():
    clip, forward, backward = moving()
    found = measure_cut_out(clip, clip[BASE], BASE, forward, backward)
    assert (found.border, found.leak, found.holes, found.base_alpha, found.base_colour) == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert found.flicker == pytest.approx(0.0, abs=1e-6)
    assert found.change == pytest.approx(2 * STEP * SIDE / SIZE**2)  # a strip goes, a strip comes


def test_the_base_mask_is_carried_both_ways():
    clip, forward, backward = moving()
    carried = carry(clip[BASE, 3:], BASE, forward, backward)
    assert torch.allclose(carried, clip[:, 3:], atol=1e-5)
    area = swept(carried)[0]
    assert bool(area[24, 16 - 4 : 16 + STEP * 4 + SIDE + 4].all())  # dilated by 64 / 16 = 4 px
    assert not bool(area[24, 16 - 5])
    assert not bool(area[24, 16 + STEP * 4 + SIDE + 4])


def test_what_is_painted_where_the_subject_cannot_be_is_a_leak():
    clip, forward, backward = moving()
    clip[0, 3, :2] = 0.5  # two rows at the top of one frame: in the ring, and far from the square
    found = measure_cut_out(clip, clip[BASE], BASE, forward, backward)
    ring = SIZE**2 - (SIZE - 4) ** 2
    outside = SIZE**2 - (SIDE + 8) * (SIDE + STEP * 4 + 8)
    assert found.border == pytest.approx(0.5 * 2 * SIZE / (ring * FRAMES), rel=1e-5)
    assert found.leak == pytest.approx(0.5 * 2 * SIZE / (outside * FRAMES), rel=1e-5)
    assert found.holes == 0.0


def test_holes_are_counted_inside():
    clip, forward, backward = moving()
    clip[4, 3, 28:32, 32:36] = 0.2  # 16 px in the last frame's square
    found = measure_cut_out(clip, clip[BASE], BASE, forward, backward)
    assert found.holes == pytest.approx(16 / (4 * (SIDE - 4) ** 2))  # eroded by 2 px, in four frames
    assert found.leak == 0.0


def test_flicker_is_what_motion_does_not_explain():
    clip, forward, _ = moving()
    alpha = clip[:, 3:].clone()
    alpha[1] *= 0.5  # one frame fades
    _, flicker = changes(alpha, forward)
    # Two of four pairs change by a half over the square; the strips that come and go are partly explained.
    assert flicker == pytest.approx(2 * 0.5 * SIDE**2 / (4 * SIZE**2), rel=0.05)
    assert changes(alpha, torch.zeros_like(forward))[0] == changes(alpha, torch.zeros_like(forward))[1]
    wild = torch.full_like(forward, 40.0)
    assert (
        changes(clip[:, 3:], wild)[1] <= changes(clip[:, 3:], wild)[0]
    )  # a wrong flow explains nothing, costs nothing
    assert changes(alpha[:1], forward[:0]) == (0.0, 0.0)


def test_the_base_frame_is_compared_where_it_is_seen():
    clip, forward, backward = moving()
    base = clip[BASE].clone()
    base[:3] = torch.where(base[3:] > 0, base[:3], torch.tensor(0.7))  # a colour that nobody sees
    assert measure_cut_out(clip, base, BASE, forward, backward).base_colour == 0.0
    base[3] *= 0.5
    found = measure_cut_out(clip, base, BASE, forward, backward)
    assert found.base_alpha == pytest.approx(0.5 * SIDE**2 / SIZE**2)
    assert found.base_colour == pytest.approx(0.5 * SIDE**2 / SIZE**2)


def test_what_cannot_be_asked_is_left_empty():
    clip, forward, backward = moving()
    full = torch.ones_like(clip)
    found = measure_cut_out(full, full[0], 0, forward, backward)
    assert (found.border, found.leak, found.holes) == (None, None, 0.0)
    thin = torch.zeros_like(clip)
    assert measure_cut_out(thin, thin[0], 0, forward, backward).holes is None
    one = measure_cut_out(clip[:1], clip[0], 0, forward[:0], backward[:0])
    assert (one.holes, one.change, one.flicker) == (None, 0.0, 0.0)


def test_shapes_that_do_not_belong_together_are_refused():
    clip, forward, backward = moving()
    with pytest.raises(InputError, match="base index"):
        measure_cut_out(clip, clip[0], 5, forward, backward)
    with pytest.raises(InputError, match="flows must be"):
        measure_cut_out(clip, clip[0], 0, forward[:2], backward[:2])
    with pytest.raises(InputError, match="base frame must be"):
        measure_cut_out(clip, clip[0, :3], 0, forward, backward)
