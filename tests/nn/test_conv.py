"""The faster orders of work give what the ordinary operations give; padding reflects at any size."""

import pytest
import torch
from torch.nn import functional as F

from pellucid.nn import conv


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operations that oneDNN is asked for directly, in order."""
    calls: list[str] = []
    real = torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *given: calls.append("onednn") or real(*given))
    return calls


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN has no faster order")
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (13, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_enlarged_convolution_is_that_of_the_enlarged_map(
    size: tuple[int, int], layout: torch.memory_format, chosen: list[str]
) -> None:
    x = torch.randn(2, 128, *size).contiguous(memory_format=layout)
    weight, bias = torch.randn(5, 128, 3, 3) / 30, torch.randn(5)
    enlarged = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
    wanted = F.conv2d(enlarged, weight, bias, padding=1)
    with torch.no_grad():
        found = conv.enlarged_conv(x, weight, bias)
    assert len(chosen) == 9
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_pointwise_is_a_1x1_convolution() -> None:
    x, weight, bias = torch.randn(2, 7, 6, 9), torch.randn(4, 7, 1, 1), torch.randn(4)
    with torch.no_grad():
        torch.testing.assert_close(conv.pointwise(x, weight, bias), F.conv2d(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_the_ordinary_operation(chosen: list[str]) -> None:
    x = torch.randn(1, 128, 4, 4)
    weight, bias = torch.randn(5, 128, 3, 3, requires_grad=True), torch.zeros(5, requires_grad=True)
    conv.enlarged_conv(x, weight, bias).square().mean().backward()
    assert not chosen
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_other_precisions_keep_the_ordinary_operation(chosen: list[str]) -> None:
    with torch.no_grad():
        found = conv.enlarged_conv(torch.ones(1, 128, 2, 2).double(), torch.ones(1, 128, 3, 3).double(), None)
    assert not chosen
    assert found.dtype == torch.float64


@pytest.mark.parametrize("size", [(17, 33), (20, 16), (31, 47)])
def test_padding_reflects_like_torch_where_torch_can(size: tuple[int, int]) -> None:
    x = torch.rand(2, 4, *size)
    padded = conv.pad_to_stride(x, 16)
    bottom, right = -size[0] % 16, -size[1] % 16
    assert torch.equal(padded, F.pad(x, (0, right, 0, bottom), mode="reflect"))


def test_padding_of_sizes_that_torch_cannot_reflect() -> None:
    assert torch.equal(conv.pad_to_stride(torch.full((1, 1, 1, 1), 0.3), 16), torch.full((1, 1, 16, 16), 0.3))
    three = conv.pad_to_stride(torch.arange(3.0).reshape(1, 1, 1, 3), 16)
    assert three[0, 0, 5].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]


def test_padding_leaves_whole_multiples_alone() -> None:
    x = torch.rand(1, 3, 32, 16)
    assert conv.pad_to_stride(x, 16) is x
    assert conv.pad_to_stride(x, stride=24).shape == (1, 3, 48, 24)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_doubled_convolution_is_that_of_the_doubled_map(size: tuple[int, int], layout: torch.memory_format) -> None:
    x, weight, bias = torch.randn(2, 7, *size), torch.randn(5, 7, 3, 3), torch.randn(5)
    given = [value.contiguous(memory_format=layout).requires_grad_() for value in (x, weight)] + [bias.requires_grad_()]
    doubled = F.interpolate(given[0], scale_factor=2.0, mode="nearest")
    wanted = F.conv2d(doubled, given[1], given[2], padding=1)
    found = conv.doubled_conv(*given)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    cotangent = torch.randn_like(wanted)
    theirs, ours = torch.autograd.grad(wanted, given, cotangent), torch.autograd.grad(found, given, cotangent)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))
