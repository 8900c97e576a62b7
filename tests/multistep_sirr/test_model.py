"""The two U-Nets beside the golden pairs: sizes and options."""

import pytest
import torch
from torch.nn import functional as F

from pellucid.errors import ConfigError
from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig, SimpleRemover, UNet


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (32, 48), (31, 16)])
def test_output_has_the_input_size(size: tuple[int, int]) -> None:
    pair = ReflectionPair(ReflectionPairConfig(width=2))
    transmission, reflection = pair(noise(2, 3, *size), noise(2, 1, *size))
    assert transmission.shape == reflection.shape == (2, 3, *size)


@pytest.mark.parametrize(("encoding", "ranges", "channels"), [("scalar", 4, 1), ("onehot", 3, 3), ("continuous", 5, 1)])
def test_depth_channels_follow_the_encoding(encoding: str, ranges: int, channels: int) -> None:
    config = ReflectionPairConfig(width=2, encoding=encoding, ranges=ranges)  # type: ignore[arg-type]
    pair = ReflectionPair(config)
    assert config.depth_channels == channels
    assert pair.r_cnn.stem1.in_channels == 3 + channels
    assert pair.t_cnn.stem1.in_channels == 6 + channels
    assert pair(noise(1, 3, 16, 16), noise(1, channels, 16, 16))[0].shape == (1, 3, 16, 16)


def test_the_transmission_network_sees_picture_then_reflection_then_depth() -> None:
    pair = ReflectionPair(ReflectionPairConfig(width=2, final="leaky"))
    seen: list[torch.Tensor] = []
    pair.t_cnn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, depth = noise(1, 3, 16, 16), noise(1, 1, 16, 16)
    _, reflection = pair(x, depth)
    assert torch.equal(seen[0], torch.cat([x, reflection, depth], dim=1))


def test_residual_and_leaky_outputs() -> None:
    pair = ReflectionPair(ReflectionPairConfig(width=2, final="residual"))
    same = ReflectionPair(ReflectionPairConfig(width=2, final="leaky"))
    same.load_state_dict(pair.state_dict())
    x, depth = noise(1, 3, 16, 16), noise(1, 1, 16, 16)
    plain_r = pair.r_cnn(torch.cat([x, depth], 1))
    plain_t = pair.t_cnn(torch.cat([x, plain_r, depth], 1))
    transmission, reflection = pair(x, depth)
    assert torch.equal(reflection, plain_r)
    assert torch.equal(transmission, x - plain_t)
    leaky_t, leaky_r = same(x, depth)
    assert torch.equal(leaky_r, F.leaky_relu(plain_r, 0.01))
    assert torch.equal(leaky_t, F.leaky_relu(pair.t_cnn(torch.cat([x, leaky_r, depth], 1)), 0.01))


def test_squeeze_and_excitation_gates_the_deepest_features() -> None:
    net = UNet(3, 2, se=True)
    assert net.gate_conv is not None
    assert net.gate_linear is not None
    seen: dict[str, torch.Tensor] = {}
    net.gate_conv.register_forward_hook(lambda _, given, out: seen.update(conv=out.clone()))
    net.join1.register_forward_pre_hook(lambda _, given: seen.update(gated=given[0]))
    net(noise(1, 3, 32, 48))
    features = F.leaky_relu(seen["conv"], 0.01)
    squeezed = F.linear(features.mean(dim=(2, 3)), net.gate_linear.weight, net.gate_linear.bias)
    gate = torch.sigmoid(F.leaky_relu(squeezed, 0.01))
    assert torch.allclose(seen["gated"], features * gate[:, :, None, None], atol=1e-7)
    assert UNet(3, 2).gate_conv is None


def test_the_single_network_of_table_5() -> None:
    remover = SimpleRemover(width=2)
    x = noise(1, 3, 16, 32)
    assert torch.equal(remover(x), x - remover.net(x))
    plain = SimpleRemover(width=2, residual=False)
    assert torch.equal(plain(x), plain.net(x))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"width": 0}, "width"),
        ({"ranges": 1}, "ranges"),
        ({"final": "tanh"}, "'tanh'"),
        ({"range_mode": "even"}, "'even'"),
        ({"encoding": "one-hot"}, "'one-hot'"),
        ({"working_side": -1}, "working_side"),
    ],
)
def test_a_config_that_makes_no_network_is_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        ReflectionPairConfig(**wrong)
    assert "\n" not in str(caught.value)
