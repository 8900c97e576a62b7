"""What Inter-Frame Attention and its rivals learn from (Sec. III-B): the noise that was added, frame by frame.

Legend: ``z_0 (B, C, F, h, w)`` model latents of a clip, ``m`` its base frame, ``t`` one timestep a clip, ``eps`` noise,
its own for every frame, ``z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps`` with frame m put back clean,
``pred (B, C, F, h, w)`` what the network says of eps. All terms are means over numbers, in float32.

    ours            mean over i != m of (pred_i - eps_i)^2      frame m is given, so it is not asked for
    motion module   mean over all i, nothing clean              plain text to clip, as AnimateDiff
    base            the same, one frame a clip                  stage 1: pictures
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.errors import ConfigError


def noised(z_0: Tensor, eps: Tensor, kept: Tensor, base_index: int | None) -> Tensor:
    """z_t of clips, the base frame clean.

    Args:
        z_0: ``(B, C, F, h, w)``.
        eps: noise of the same shape.
        kept: ``(B,)`` abar_t, the share of the variance that is still the clip's.
        base_index: m; None leaves no frame clean.

    Returns:
        ``(B, C, F, h, w)``.
    """
    weight = kept.reshape(-1, 1, 1, 1, 1)
    z_t = weight.sqrt() * z_0 + (1.0 - weight).sqrt() * eps
    if base_index is not None:
        z_t[:, :, base_index] = z_0[:, :, base_index]
    return z_t


def inter_frame_loss(pred: Tensor, eps: Tensor, base_index: int | None) -> Tensor:
    """Squared error of the noise over the frames that were noised.

    Args:
        pred: ``(B, C, F, h, w)``.
        eps: the same shape.
        base_index: m, left out of the mean (spec Sec. 7, A5); None counts all frames.

    Raises:
        ConfigError: no frame is left.
    """
    return squared_errors(pred, eps, base_index).mean()


def squared_errors(pred: Tensor, eps: Tensor, base_index: int | None) -> Tensor:
    """`inter_frame_loss` clip by clip: ``(B,)``."""
    if pred.shape != eps.shape:
        raise ConfigError(f"prediction and noise must have one shape, found {tuple(pred.shape)} and {tuple(eps.shape)}")
    errors = (pred.float() - eps.float()).square().mean(dim=(1, 3, 4))  # (B, F)
    if base_index is None:
        return errors.mean(dim=1)
    frames = errors.shape[1]
    if frames < 2:
        raise ConfigError("a clip of 1 frame has none besides the base frame", "train on at least 2 frames")
    asked = torch.arange(frames, device=errors.device) != base_index
    return errors[:, asked].mean(dim=1)
