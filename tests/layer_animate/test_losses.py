"""The loss of Sec. III-B: the base frame is given clean and not asked for."""

import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.layer_animate.losses import inter_frame_loss, noised, squared_errors


def test_the_base_frame_is_clean_and_the_rest_noised() -> None:
    z_0, eps = torch.full((2, 1, 3, 1, 1), 2.0), torch.full((2, 1, 3, 1, 1), 3.0)
    z_t = noised(z_0, eps, torch.tensor([0.64, 0.0]), 1)
    # sqrt(0.64) * 2 + sqrt(0.36) * 3 = 3.4; at abar 0 nothing but noise
    assert z_t[0].flatten().tolist() == pytest.approx([3.4, 2.0, 3.4])
    assert z_t[1].flatten().tolist() == pytest.approx([3.0, 2.0, 3.0])
    assert noised(z_0, eps, torch.tensor([0.64, 0.0]), None)[0].flatten().tolist() == pytest.approx([3.4] * 3)
    assert float(z_0.min()) == 2.0  # what was given is left as it was


def test_the_base_frame_is_outside_the_mean() -> None:
    eps = torch.zeros(1, 1, 3, 1, 1)
    pred = torch.tensor([1.0, 100.0, 3.0]).reshape(1, 1, 3, 1, 1).requires_grad_()
    loss = inter_frame_loss(pred, eps, 1)
    assert loss.item() == pytest.approx(5.0)  # (1 + 9) / 2
    loss.backward()
    assert pred.grad is not None
    assert pred.grad.flatten().tolist() == pytest.approx([1.0, 0.0, 3.0])
    assert inter_frame_loss(pred.detach(), eps, None).item() == pytest.approx((1 + 10_000 + 9) / 3)


def test_clip_by_clip_and_in_float32() -> None:
    pred = torch.stack([torch.full((4, 3, 2, 2), value) for value in (1.0, 2.0)]).bfloat16()
    errors = squared_errors(pred, torch.zeros_like(pred), 0)
    assert errors.tolist() == [1.0, 4.0]
    assert errors.dtype == torch.float32


def test_refused() -> None:
    with pytest.raises(ConfigError, match="none besides the base frame"):
        inter_frame_loss(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), 0)
    with pytest.raises(ConfigError, match="one shape"):
        inter_frame_loss(torch.zeros(1, 1, 2, 1, 1), torch.zeros(1, 1, 3, 1, 1), 0)
