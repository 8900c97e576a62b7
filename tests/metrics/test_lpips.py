"""LPIPS: the same figures as torchmetrics, whose networks are here built without torchvision, and weights that fit."""

import pytest
import torch
from torchmetrics.functional.image import lpips as reference

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.metrics import lpips


def network(net: str) -> torch.nn.Sequential:
    torch.manual_seed(0)
    features = lpips._vgg16() if net == "vgg" else lpips._squeezenet()
    for parameter in features.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)  # keeps the deep features as large as the shallow ones
    return features


@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_figures_are_torchmetrics(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = network(net)
    if net == "vgg":
        features.append(torch.nn.MaxPool2d(2))  # the last entry of torchvision's sequence, which nothing reads
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: features)
    wanted = reference._LPIPS(net=net)
    ours = lpips.LPIPS(net, {f"features.{key}": value for key, value in features.state_dict().items()})
    first, second = torch.rand(2, 2, 3, 64, 48)
    assert torch.allclose(ours(first, second), wanted(first, second, normalize=True).flatten(), rtol=1e-4)
    assert float(ours(first, first).abs().max()) == 0.0


def test_what_does_not_fit() -> None:
    state = {f"features.{key}": value for key, value in network("squeeze").state_dict().items()}
    with pytest.raises(ConfigError, match="alex"):
        lpips.LPIPS("alex", state)
    with pytest.raises(WeightsError, match="vgg16"):
        lpips.LPIPS("vgg", state)
    with pytest.raises(InputError, match="32 px"):
        lpips.LPIPS("squeeze", state)(torch.rand(1, 3, 16, 64), torch.rand(1, 3, 16, 64))
