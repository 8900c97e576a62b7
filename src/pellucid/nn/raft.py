"""RAFT, the large form: optical flow by repeated look-ups in a pyramid of correlations (Teed and Deng 2020).

Written out because torchvision does not load beside every build of torch. Modules bear torchvision's names; the
original code's names (``raft-things.pth``) are translated on loading. No weights were at hand when this was written:
keys, shapes, the number of parameters and each step are tested, the published figures are not.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError, WeightsError

LEVELS = 4  # of the pyramid; each halves the second picture's resolution
RADIUS = 4  # of a look-up, in pixels of its level
STRIDE = 8  # pixels of the picture to one of the features
SMALLEST = STRIDE * 2**LEVELS  # px: below this the last level of the pyramid has less than two pixels
_HIDDEN = 128  # channels of the recurrent state, and of the context beside it
_WEIGHING = 0.25  # of the upsampling mask's logits, as the published weights were trained

# The original code's names -> torchvision's, tried in this order, first match taken.
_RENAMES = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)
_ENCODER_RENAMES = (
    (r"encoder\.conv1\.", "encoder.convnormrelu.0."),
    (r"encoder\.norm1\.", "encoder.convnormrelu.1."),
    (r"encoder\.conv2\.", "encoder.conv."),
    (r"(encoder\.layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(encoder\.layer\d\.\d)\.norm([12])\.", r"\1.convnormrelu\2.1."),
)


class RAFT(nn.Module):
    """Optical flow of pairs of pictures; 5,257,536 parameters. It starts with random weights: see `load`."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_encoder = _Encoder(nn.InstanceNorm2d)
        self.context_encoder = _Encoder(nn.BatchNorm2d)
        self.update_block = _Update()
        self.mask_predictor = _MaskPredictor()

    @classmethod
    def load(cls, state: Mapping[str, Tensor]) -> "RAFT":
        """Build it with published weights, frozen.

        Args:
            state: a state dict with torchvision's or the original code's names, with or without ``module.`` before.

        Raises:
            WeightsError: keys are missing, left over or of another shape; the message lists names.
        """
        network = cls()
        given, own = torchvision_names(state), network.state_dict()
        wrong = [f"{key} is missing" for key in own if key not in given and not key.endswith("num_batches_tracked")]
        wrong += [f"{key} is not expected" for key in given if key not in own]
        wrong += [
            f"{key} expected {tuple(own[key].shape)}, found {tuple(value.shape)}"
            for key, value in given.items()
            if key in own and own[key].shape != value.shape
        ]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise WeightsError(
                f"weights do not fit RAFT: {'; '.join(wrong[:5])}{more}",
                "use raft-things.pth or torchvision's raft_large; the small form is not built",
            )
        network.load_state_dict(given, strict=False)  # only counters of batches can be missing
        return network.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor, iterations: int = 20) -> Tensor:
        """Where each pixel of the first picture lies in the second.

        Args:
            first: ``(B, 3, H, W)``, sRGB in [0, 1]; sides are multiples of 8 and at least 128.
            second: the same shape.
            iterations: how often the flow is corrected.

        Returns:
            ``(B, 2, H, W)`` in pixels, x (to the right) before y (down).

        Raises:
            ConfigError: less than one iteration.
            InputError: other shapes.
        """
        height, width = first.shape[-2:]
        if iterations < 1:
            raise ConfigError(f"RAFT needs at least 1 iteration, found {iterations}")
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
            raise InputError(f"RAFT takes (B, 3, H, W) twice, found {tuple(first.shape)} and {tuple(second.shape)}")
        if height % STRIDE or width % STRIDE or min(height, width) < SMALLEST:
            raise InputError(f"RAFT takes sides that are multiples of 8 and >= {SMALLEST} px, found {width}x{height}")
        features = self.feature_encoder(torch.cat([first, second]) * 2.0 - 1.0)  # (2B, 256, h, w)
        pyramid = correlation_pyramid(features[: len(first)], features[len(first) :])
        hidden, context = self.context_encoder(first * 2.0 - 1.0).chunk(2, dim=1)  # each (B, 128, h, w)
        hidden, context = hidden.tanh(), context.relu()
        start = _grid(hidden.shape[-2], hidden.shape[-1], hidden)
        place = start.expand(hidden.shape[0], -1, -1, -1)  # (B, 2, h, w)
        for _ in range(iterations):
            hidden, correction = self.update_block(hidden, context, look_up(pyramid, place), place - start)
            place = place + correction
        return upsample(place - start, self.mask_predictor(hidden))


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the original code's keys; torchvision's own stay. The ``norm3`` of a shortcut is left out: it is there
    a second time as ``downsample.1``."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        original = name.startswith(("fnet.", "cnet."))
        if original and ".norm3." in name:
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        for pattern, replacement in _ENCODER_RENAMES if original else ():
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        renamed[name] = value
    return renamed


def correlation_pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Products of all pairs of features, over sqrt(C), and their means over 2x2, 4x4 and 8x8 of the second (Sec. 3.2).

    Args:
        first: ``(B, C, h, w)``.
        second: the same shape.

    Returns:
        For each level ``(B h w, 1, h / 2^l, w / 2^l)``.
    """
    batch, channels, height, width = first.shape
    products = torch.einsum("bcn,bcm->bnm", first.flatten(2), second.flatten(2)) / channels**0.5  # (B, hw, hw)
    pyramid = [products.reshape(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: list[Tensor], place: Tensor) -> Tensor:
    """Correlations in a window of 9x9 around where each pixel is thought to lie, on every level; 0 outside (Sec. 3.2).

    Args:
        pyramid: of `correlation_pyramid`.
        place: ``(B, 2, h, w)``, x before y, in pixels of the finest level.

    Returns:
        ``(B, 4 * 81, h, w)``. Within a window y changes faster than x: so the published weights have it.
    """
    batch, _, height, width = place.shape
    steps = torch.arange(-RADIUS, RADIUS + 1, device=place.device, dtype=place.dtype)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # (9, 9, 2), the first is x
    centres = place.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)  # (B h w, 1, 1, 2)
    found = []
    for level, products in enumerate(pyramid):
        size = products.new_tensor([products.shape[-1] - 1, products.shape[-2] - 1])
        points = 2.0 * (centres / 2**level + window) / size - 1.0
        seen = F.grid_sample(products, points, mode="bilinear", padding_mode="zeros", align_corners=True)
        found.append(seen.reshape(batch, height, width, -1))  # (B, h, w, 81)
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


def upsample(flow: Tensor, mask: Tensor) -> Tensor:
    """Eight times finer flow; each fine pixel is a convex sum of the 3x3 coarse ones around it (Sec. 3.3).

    Args:
        flow: ``(B, 2, h, w)`` in coarse pixels.
        mask: ``(B, 9 * 64, h, w)``, logits of the weights.

    Returns:
        ``(B, 2, 8h, 8w)`` in fine pixels.
    """
    batch, _, height, width = flow.shape
    weights = mask.reshape(batch, 1, 9, STRIDE, STRIDE, height, width).softmax(dim=2)
    around = F.unfold(STRIDE * flow, 3, padding=1).reshape(batch, 2, 9, 1, 1, height, width)
    fine = (weights * around).sum(dim=2)  # (B, 2, 8, 8, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, STRIDE * height, STRIDE * width)


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    """``(1, 2, h, w)``: each pixel's own x and y."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y])[None].to(like)


def _conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, stride, padding=size // 2)


class _Encoder(nn.Module):
    """Picture ``(B, 3, H, W)`` -> features ``(B, 256, H / 8, W / 8)``."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.convnormrelu = nn.Sequential(_conv(3, 64, 7, 2), norm(64), nn.ReLU())
        self.layer1 = nn.Sequential(_Residual(64, 64, 1, norm), _Residual(64, 64, 1, norm))
        self.layer2 = nn.Sequential(_Residual(64, 96, 2, norm), _Residual(96, 96, 1, norm))
        self.layer3 = nn.Sequential(_Residual(96, 128, 2, norm), _Residual(128, 128, 1, norm))
        self.conv = _conv(128, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.layer3(self.layer2(self.layer1(self.convnormrelu(x)))))


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.convnormrelu1 = nn.Sequential(_conv(c_in, c_out, 3, stride), norm(c_out), nn.ReLU())
        self.convnormrelu2 = nn.Sequential(_conv(c_out, c_out, 3), norm(c_out), nn.ReLU())
        shortcut = stride != 1
        self.downsample = nn.Sequential(_conv(c_in, c_out, 1, stride), norm(c_out)) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.downsample(x) + self.convnormrelu2(self.convnormrelu1(x))).relu()


class _Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.motion_encoder = _MotionEncoder()
        self.recurrent_block = _Recurrent()
        self.flow_head = _FlowHead()

    def forward(self, hidden: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([context, self.motion_encoder(flow, correlation)], dim=1)  # (B, 256, h, w)
        hidden = self.recurrent_block(hidden, seen)
        return hidden, self.flow_head(hidden)


class _MotionEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convcorr1 = nn.Sequential(_conv(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1), nn.ReLU())
        self.convcorr2 = nn.Sequential(_conv(256, 192, 3), nn.ReLU())
        self.convflow1 = nn.Sequential(_conv(2, 128, 7), nn.ReLU())
        self.convflow2 = nn.Sequential(_conv(128, 64, 3), nn.ReLU())
        self.conv = nn.Sequential(_conv(192 + 64, _HIDDEN - 2, 3), nn.ReLU())

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        both = torch.cat([self.convcorr2(self.convcorr1(correlation)), self.convflow2(self.convflow1(flow))], dim=1)
        return torch.cat([self.conv(both), flow], dim=1)  # (B, 128, h, w)


class _GRU(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        c_in, padding = 3 * _HIDDEN, (size[0] // 2, size[1] // 2)
        self.convz = nn.Conv2d(c_in, _HIDDEN, size, padding=padding)
        self.convr = nn.Conv2d(c_in, _HIDDEN, size, padding=padding)
        self.convq = nn.Conv2d(c_in, _HIDDEN, size, padding=padding)

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        both = torch.cat([hidden, seen], dim=1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        candidate = self.convq(torch.cat([reset * hidden, seen], dim=1)).tanh()
        return (1.0 - update) * hidden + update * candidate


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convgru1 = _GRU((1, 5))  # along rows, then along columns
        self.convgru2 = _GRU((5, 1))

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        return self.convgru2(self.convgru1(hidden, seen), seen)


class _FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(_HIDDEN, 256, 3), _conv(256, 2, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(self.conv1(hidden).relu())


class _MaskPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convrelu = nn.Sequential(_conv(_HIDDEN, 256, 3), nn.ReLU())
        self.conv = _conv(256, 9 * STRIDE**2, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return _WEIGHING * self.conv(self.convrelu(hidden))
