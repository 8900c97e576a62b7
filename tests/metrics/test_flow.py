"""Optical flow: what is told of a picture that is moved, and RAFT's weights behind the same door."""

import pytest
import torch
from torch.nn import functional as F

from pellucid.errors import ConfigError, DependencyError, InputError, WeightsError
from pellucid.metrics import flow as flows
from pellucid.metrics.flow import DISFlow, RAFTFlow, warp
from pellucid.nn.raft import RAFT


@pytest.fixture(scope="module")
def texture():
    rough = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    return F.interpolate(rough, (96, 96), mode="bicubic").clamp(0, 1)


def test_dis_finds_a_shift_and_says_its_name(texture):
    pytest.importorskip("cv2")
    flow = DISFlow()
    found = flow(texture, texture.roll((-2, 3), (-2, -1)))  # up by 2, to the right by 3
    middle = found[0, :, 20:-20, 20:-20].mean((1, 2))
    assert middle.tolist() == pytest.approx([3.0, -2.0], abs=0.1)
    assert flow.label == "DIS medium"
    assert torch.equal(found, flow(texture, texture.roll((-2, 3), (-2, -1))))


def test_warp_fetches_from_where_the_flow_leads(texture):
    moved = texture.roll((-2, 3), (-2, -1))
    flow = torch.tensor([3.0, -2.0])[None, :, None, None].expand(1, 2, 96, 96)
    assert torch.allclose(warp(moved, flow)[..., 5:-5, 5:-5], texture[..., 5:-5, 5:-5], atol=1e-5)
    half = warp(torch.arange(4.0).reshape(1, 1, 1, 4), torch.tensor([0.5, 0.0])[None, :, None, None].expand(1, 2, 1, 4))
    assert half.flatten().tolist() == pytest.approx([0.5, 1.5, 2.5, 3.0])


def test_raft_pads_what_it_needs_and_crops_it_again(texture):
    torch.manual_seed(0)
    state = RAFT().state_dict()
    flow = RAFTFlow(state, "random.pth", iterations=2)
    assert flow.label == "RAFT (random.pth)"
    with torch.no_grad():
        padded = F.pad(texture[..., :90], (19, 19, 16, 16), mode="replicate")
        expected = RAFT.load(state)(padded, padded.roll(1, 0), 2)[..., 16:112, 19:109]
    assert torch.allclose(flow(texture[..., :90], texture[..., :90]), expected, atol=1e-5)


def test_what_does_not_fit_is_named(texture, monkeypatch):
    with pytest.raises(ConfigError, match="'slow'"):
        DISFlow("slow")  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="is missing"):
        RAFTFlow({})
    pytest.importorskip("cv2")
    with pytest.raises(InputError, match="16 px"):
        DISFlow()(texture[..., :8], texture[..., :8])
    with pytest.raises(InputError, match="twice"):
        DISFlow()(texture, texture[..., :50])
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(DependencyError, match="OpenCV"):
        flows.opencv("this")
