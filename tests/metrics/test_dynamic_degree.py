"""Motion of clips, by the golden pairs of VBench's rule and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.errors import InputError
from pellucid.metrics.dynamic_degree import (
    GREY,
    cropped,
    is_dynamic,
    measure_motion,
    neighbour_flows,
    on_colour,
    pair_score,
    thinned,
    thresholds,
)

GOLDEN = Path(__file__).parent / "golden" / "dynamic_degree.npz"


class Shifts:
    """A flow that says the same speed everywhere, frame after frame."""

    label = "told"

    def __init__(self, *speeds: float) -> None:
        self.speeds, self.seen = speeds, []

    def __call__(self, first, second):
        self.seen.append(first.shape)
        flow = torch.zeros(len(first), 2, *first.shape[-2:])
        flow[:, 0] = torch.tensor(self.speeds)[:, None, None]
        return flow


def clip_of(frames=5, height=64, width=64):
    clip = torch.zeros(frames, 4, height, width)
    clip[:, :, 20:30, 20:30] = 1.0
    return clip


def test_golden_pairs_of_vbench():
    golden = np.load(GOLDEN)
    assert pair_score(torch.from_numpy(golden["flow"])[0]) == pytest.approx(float(golden["score"]), abs=1e-5)
    for height, width, frames, speed, count in golden["params_h_w_n_thres_count"]:
        assert thresholds(int(height), int(width), int(frames)) == (pytest.approx(speed, abs=1e-6), int(count))
    answers = [is_dynamic(list(scores), 512, 512, 16) for scores in golden["seq512"]]
    assert answers == golden["moves"].tolist()


def test_counts_are_rounded_half_to_even_and_speeds_must_exceed():
    assert [thresholds(256, 256, frames)[1] for frames in (1, 2, 6, 8, 10, 14, 16)] == [0, 0, 2, 2, 2, 4, 4]
    assert not is_dynamic([6.0] * 15, 256, 256, 16)
    assert is_dynamic([6.001] * 4 + [0.0] * 11, 256, 256, 16)
    assert not is_dynamic([6.001] * 3 + [0.0] * 12, 256, 256, 16)
    assert not is_dynamic([], 256, 256, 1)
    assert thresholds(256, 256, 16, fps=4.0)[0] == 12.0


def test_the_fastest_twentieth_counts():
    flow = torch.zeros(2, 10, 40)
    flow[0, 0, :20], flow[1, 0, :20] = 3.0, 4.0  # 20 of 400 pixels, 5 px long
    assert pair_score(flow) == pytest.approx(5.0)
    flow[:, 0, :10] = 0.0
    assert pair_score(flow) == pytest.approx(2.5)
    inside = torch.zeros(10, 40, dtype=torch.bool)
    inside[0, 10:20] = True
    assert pair_score(flow, inside) == pytest.approx(5.0)
    assert pair_score(flow, torch.zeros_like(inside)) is None


def test_speed_is_measured_where_something_is_visible():
    class OnlyTheSubject(Shifts):
        def __call__(self, first, second):
            flow = super().__call__(first, second)
            flow[:, :, :20] = flow[:, :, 30:] = flow[..., :20] = flow[..., 30:] = 0.0
            return flow

    motion = measure_motion(clip_of(), OnlyTheSubject(1.0, 2.0, 3.0, 6.0))
    assert motion.visible_pixels == pytest.approx(3.0)
    assert motion.pixels == pytest.approx(3.0 * 100 / int(64 * 64 * 0.05))  # 100 px move, of the 204 that count
    assert motion.percent == pytest.approx(100 * motion.pixels / (64 * 2**0.5))
    assert motion.dynamic  # 2 * 100 / 204 and more exceed 1.5 px in one of the pairs, round(4 * 5 / 16) = 1
    assert motion.flow == "told"


def test_an_empty_clip_and_a_single_frame_stand_still():
    empty = measure_motion(torch.zeros(3, 4, 16, 16), Shifts(0.0, 0.0))
    assert (empty.dynamic, empty.pixels, empty.visible_pixels) == (False, 0.0, None)
    assert measure_motion(clip_of(frames=1), Shifts()).pixels == 0.0
    with pytest.raises(InputError, match=r"\(F, 4, H, W\)"):
        measure_motion(torch.zeros(3, 3, 16, 16), Shifts(0.0, 0.0))


def test_sides_are_padded_to_multiples_of_eight_and_cropped_back():
    flow = Shifts(1.0, 2.0, 3.0, 4.0)
    flows = neighbour_flows(on_colour(clip_of(5, 60, 65)), flow)
    assert flow.seen[0][-2:] == (64, 72)
    assert cropped(flows, 60, 65).shape == (4, 2, 60, 65)
    assert measure_motion(clip_of(5, 60, 65), Shifts(1.0, 2.0, 3.0, 4.0)).visible_pixels == pytest.approx(2.5)


def test_clips_are_seen_on_grey_127_at_8_frames_a_second():
    clip = torch.zeros(1, 4, 8, 8)
    assert float(on_colour(clip).mean()) == pytest.approx(127 / 255) == pytest.approx(GREY)
    assert float(on_colour(torch.tensor([1.0, 0.0, 0.0, 0.5])[:, None, None], (0.0, 1.0, 0.0))[1]) == 0.5
    assert len(thinned(torch.zeros(48, 1), 24.0)) == 16
    assert len(thinned(torch.zeros(48, 1), 8.0)) == 48
    assert len(thinned(torch.zeros(48, 1), 3.0)) == 48
