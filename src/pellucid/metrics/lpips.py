"""LPIPS (Zhang et al. 2018, version 0.1) on weights of VGG16 or SqueezeNet 1.1 that the user gives.

torchmetrics has the measure and its trained linear layers, but builds the networks through torchvision. They are
written out here with torchvision's keys, so that the published files load as they are. Without weights there is no
LPIPS.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pellucid.errors import ConfigError, DependencyError, InputError, WeightsError

Net = Literal["vgg", "squeeze"]

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0 is a pooling
# Places in torchvision's sequence after which features are compared.
_TAPS: dict[Net, tuple[int, ...]] = {"vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}


class LPIPS(nn.Module):
    """Distance between two pictures in the features of a network.

    Args:
        net: ``"vgg"`` (torchvision's ``vgg16``) or ``"squeeze"`` (``squeezenet1_1``).
        state: its state dict, ``features.0.weight`` and so on; keys of the classifier are left out.

    Raises:
        ConfigError: another network.
        WeightsError: weights are missing or have another shape.
        DependencyError: torchmetrics, which holds the linear layers, is not installed.
    """

    def __init__(self, net: str, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        if net != "vgg" and net != "squeeze":
            raise ConfigError(f"LPIPS network {net!r} is not known", f"use one of {', '.join(_TAPS)}")
        self.taps = _TAPS[net]
        self.features = _vgg16() if net == "vgg" else _squeezenet()
        wanted = {f"features.{key}": key for key in self.features.state_dict()}
        wrong = [
            key
            for key, own in wanted.items()
            if key not in state or state[key].shape != self.features.state_dict()[own].shape
        ]
        if wrong:
            name = "vgg16" if net == "vgg" else "squeezenet1_1"
            raise WeightsError(
                f"weights do not fit {name}: {len(wrong)} of {len(wanted)} keys missing or of another shape, "
                f"first {wrong[0]}",
                f"use torchvision's {name}",
            )
        self.features.load_state_dict({own: state[key] for key, own in wanted.items()})
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        self.linear = nn.ParameterList(_linear_layers(net))
        self.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare pictures ``(B, 3, H, W)``, sRGB in [0, 1]; returns ``(B,)``, 0 where they are equal.

        Raises:
            InputError: other shapes, or sides shorter than 32.
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3 or min(first.shape[-2:]) < 32:
            raise InputError(
                f"LPIPS compares (B, 3, H, W) of at least 32 px, found {tuple(first.shape)} and {tuple(second.shape)}"
            )
        x = torch.cat([first, second]) * 2.0 - 1.0
        x = (x - self.get_buffer("shift")) / self.get_buffer("scale")
        total = x.new_zeros(first.shape[0])
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                unit = x / torch.sqrt(x.square().sum(1, keepdim=True) + 1e-8)
                one, other = unit.chunk(2)
                weight = self.linear[self.taps.index(place)]
                total = total + ((one - other).square() * weight).sum(1).mean((-2, -1))
        return total


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    c_in = 3
    for c_out in _VGG16:
        if c_out == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
            c_in = c_out
    return nn.Sequential(*layers)


def _squeezenet() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        pool(),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        pool(),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        pool(),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )


class _Fire(nn.Module):
    def __init__(self, c_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


def _linear_layers(net: Net) -> list[nn.Parameter]:
    """Weights ``(C, 1, 1)`` of the features, as torchmetrics ships them."""
    try:
        import torchmetrics
    except ImportError as error:
        raise DependencyError("LPIPS needs torchmetrics", "pip install pellucid[train]") from error
    path = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    if not path.is_file():
        raise DependencyError(f"torchmetrics holds no linear layers of LPIPS ({path.name})", "install torchmetrics 1.8")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [nn.Parameter(state[f"lin{place}.model.1.weight"][0]) for place in range(len(_TAPS[net]))]
