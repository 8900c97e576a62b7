"""Optical flow for measures of motion: a classical one, or RAFT on weights that the user gives.

Published figures of motion are RAFT's. Another flow gives other figures, so each says its name, which goes beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, DependencyError, InputError
from pellucid.nn.raft import RAFT, SMALLEST, STRIDE

_GREY = (0.299, 0.587, 0.114)  # what OpenCV's own conversion takes
_DIS_SMALLEST = 16  # px; OpenCV refuses pictures of less than its patches
_BATCH = 4  # pairs in one pass of RAFT


class Flow(Protocol):
    """Where the pixels of one picture lie in another.

    ``label`` names it in tables. Called with two ``(N, 3, H, W)``, sRGB in [0, 1], it returns ``(N, 2, H, W)`` float32
    on the CPU: pixels to the right, then pixels down.
    """

    @property
    def label(self) -> str: ...

    def __call__(self, first: Tensor, second: Tensor) -> Tensor: ...


class DISFlow:
    """Dense Inverse Search (Kroeger et al. 2016) of OpenCV, on 8-bit grey; the same answer every time.

    Args:
        preset: ``"ultrafast"``, ``"fast"`` or ``"medium"``, slower and finer from left to right.

    Raises:
        ConfigError: another preset.
        DependencyError: OpenCV is not installed.
    """

    def __init__(self, preset: Literal["ultrafast", "fast", "medium"] = "medium") -> None:
        if preset not in ("ultrafast", "fast", "medium"):
            raise ConfigError(f"DIS preset {preset!r} is not known", "use ultrafast, fast or medium")
        cv2 = opencv("optical flow without weights of RAFT")
        self._flow = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
        self.label = f"DIS {preset}"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Flow`.

        Raises:
            InputError: other shapes, or a side is shorter than 16 px.
        """
        check_pair(first, second)
        if min(first.shape[-2:]) < _DIS_SMALLEST:
            height, width = first.shape[-2:]
            raise InputError(f"DIS flow needs sides of at least {_DIS_SMALLEST} px, found {width}x{height}")
        flows = [self._flow.calc(_grey(one), _grey(other), None) for one, other in zip(first, second, strict=True)]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous()  # (N, 2, H, W)


class RAFTFlow:
    """RAFT with published weights: the flow that the published figures of motion were made with.

    Args:
        state: state dict of ``raft-things.pth`` (VBench's) or of torchvision's ``raft_large``.
        name: goes into ``label``.
        iterations: 20, as VBench has it.
        device: where to compute.

    Raises:
        WeightsError: the weights do not fit.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        name: str = "weights given",
        *,
        iterations: int = 20,
        device: torch.device | str = "cpu",
    ) -> None:
        self._network = RAFT.load(state).to(device)
        self._iterations, self._device = iterations, device
        self.label = f"RAFT ({name})"

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Flow`. Sides that are no multiple of 8, or shorter than 128, are padded by their edge and cropped after.

        Raises:
            InputError: other shapes.
        """
        check_pair(first, second)
        height, width = first.shape[-2:]
        tall, wide = (max(-(-side // STRIDE) * STRIDE, SMALLEST) for side in (height, width))
        left, top = (wide - width) // 2, (tall - height) // 2
        edges = (left, wide - width - left, top, tall - height - top)
        found = []
        for start in range(0, len(first), _BATCH):
            part = slice(start, start + _BATCH)
            one, other = (F.pad(each[part].to(self._device), edges, mode="replicate") for each in (first, second))
            found.append(self._network(one, other, self._iterations).float().cpu())
        return torch.cat(found)[..., top : top + height, left : left + width]


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """Fetch values from where the flow leads: ``result(x) = values(x + flow(x))``, bilinear, the edge outside.

    Args:
        values: ``(N, C, H, W)``, of the second picture.
        flow: ``(N, 2, H, W)`` in pixels, from the first picture to the second.

    Returns:
        ``(N, C, H, W)``: the second picture, moved to where the first is.
    """
    height, width = values.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y]).to(flow) + flow  # (N, 2, H, W)
    size = flow.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    points = 2.0 * place.permute(0, 2, 3, 1) / size - 1.0
    return F.grid_sample(values, points, mode="bilinear", padding_mode="border", align_corners=True)


def check_pair(first: Tensor, second: Tensor) -> None:
    """Raise InputError unless both are ``(N, 3, H, W)`` of one size."""
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
        raise InputError(f"flow is of (N, 3, H, W) twice, found {tuple(first.shape)} and {tuple(second.shape)}")


def opencv(what: str) -> Any:
    """Import OpenCV, which is an extra.

    Raises:
        DependencyError: it is not installed; the message says ``what`` needs it.
    """
    try:
        import cv2
    except ImportError as error:
        raise DependencyError(f"{what} needs OpenCV", "pip install pellucid[metrics]") from error
    return cv2


def _grey(picture: Tensor) -> np.ndarray:
    weights = picture.new_tensor(_GREY)[:, None, None]
    return (picture.clamp(0.0, 1.0) * weights).sum(0).mul(255.0).round().to(torch.uint8).cpu().numpy()
