"""VGG19 features for perceptual losses (Simonyan and Zisserman 2015), with torchvision's keys.

Written out because torchvision does not load beside every build of torch; the published ``vgg19-*.pth`` loads as it is.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError, WeightsError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_WIDTHS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))


def _table() -> dict[str, tuple[int, int, int]]:
    """Name of each convolution -> (place in torchvision's sequence, channels in, channels out)."""
    table, place, c_in = {}, 0, 3
    for block, widths in enumerate(_WIDTHS, start=1):
        for number, c_out in enumerate(widths, start=1):
            table[f"conv{block}_{number}"] = (place, c_in, c_out)
            place, c_in = place + 2, c_out  # each convolution is followed by its ReLU
        place += 1  # and each block by its pooling
    return table


CONVOLUTIONS = _table()


class VGG19Features(nn.Module):
    """Features of a frozen VGG19, computed no further than the deepest layer that is wanted.

    There is no way to build it without weights: features of random weights would look like a loss and be none.

    Args:
        state: torchvision's state dict, ``features.0.weight`` and so on; keys of deeper layers and of the classifier
            are left out.
        layers: names ``conv1_1`` to ``conv5_4``, in any order.
        post_relu: take the features after their ReLU instead of before.

    Raises:
        ConfigError: an unknown layer, or none.
        WeightsError: weights are missing or have another shape.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        layers: Sequence[str] = ("conv1_1", "conv4_1"),
        post_relu: bool = False,
    ) -> None:
        super().__init__()
        unknown = [name for name in layers if name not in CONVOLUTIONS]
        if unknown or not layers:
            found = ", ".join(unknown) or "none"
            raise ConfigError(f"VGG19 layers: expected conv1_1 to conv5_4, found {found}")
        self.layers = tuple(layers)
        self.post_relu = post_relu
        deepest = max(CONVOLUTIONS[name][0] for name in layers)
        self.features = nn.ModuleDict(
            {str(place): nn.Conv2d(c_in, c_out, 3, padding=1) for place, c_in, c_out in _up_to(deepest)}
        )
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self._load(state)
        self.eval().requires_grad_(False)

    def forward(self, rgb01: Tensor) -> list[Tensor]:
        """Compute the features.

        Args:
            rgb01: ``(B, 3, H, W)``, sRGB in [0, 1]; sides of at least 8 for conv4 and 16 for conv5.

        Returns:
            One tensor per wanted layer, in the order of ``layers``: ``(B, C, H / 2^k, W / 2^k)``, k = block - 1.
        """
        names = {place: name for name, (place, _, _) in CONVOLUTIONS.items()}
        kept: dict[str, Tensor] = {}
        x = (rgb01 - self.get_buffer("mean")) / self.get_buffer("std")
        for key, conv in self.features.items():
            name = names[int(key)]
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = conv(x)
            wanted = name in self.layers
            if wanted and not self.post_relu:
                kept[name] = x
            x = F.relu(x, inplace=not wanted)  # what is kept must stay as it is
            if wanted and self.post_relu:
                kept[name] = x
        return [kept[name] for name in self.layers]

    def _load(self, state: Mapping[str, Tensor]) -> None:
        wrong = []
        for key, parameter in self.state_dict().items():
            if key not in state:
                wrong.append(f"{key} is missing")
            elif state[key].shape != parameter.shape:
                wrong.append(f"{key} expected {tuple(parameter.shape)}, found {tuple(state[key].shape)}")
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise WeightsError(
                f"weights do not fit VGG19: {'; '.join(wrong[:5])}{more}", "use torchvision's vgg19 without batch norm"
            )
        self.load_state_dict({key: state[key] for key in self.state_dict()})


def _up_to(deepest: int) -> list[tuple[int, int, int]]:
    return [entry for entry in CONVOLUTIONS.values() if entry[0] <= deepest]
