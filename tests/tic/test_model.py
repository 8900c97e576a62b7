"""The generator: the paper's sizes, where and how the text acts, any picture size, and norms folded away."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import load_config, load_state, save_pretrained
from pellucid.tic.model import PRESETS, TICConfig, TICGenerator, fold_norms

TINY = TICConfig(width=4, growth=2, ups=(4, 3, 2), text_dim=6, vector_dim=6, map_side=8, rrdb_blocks=1)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def tiny(**changes: object) -> TICGenerator:
    """A network in eval mode whose norms do something, and whose picture and text both reach the output."""
    torch.manual_seed(0)
    network = TICGenerator(replace(TINY, **changes)).eval()  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    return network


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("preset", "parameters"), [("paper", 2_213_810), ("small", 1_393_370)])
def test_parameters_of_the_presets(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        network = TICGenerator(PRESETS[preset])
    assert size(network) == parameters
    assert size(network.text) == 1_118_464


def test_the_layer_table_of_the_paper() -> None:
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _, given, out: shapes.update({name: tuple(out.shape[1:])})

    with torch.device("meta"):
        network = TICGenerator(PRESETS["paper"])
        for name, module in network.named_modules():
            module.register_forward_hook(note(name))
        network(torch.empty(2, 1, 256, 256), torch.empty(2, 256))
    wanted = {
        "down.0": (64, 256, 256),
        "down.1": (64, 128, 128),
        "down.2": (64, 64, 64),
        "rrdb": (64, 32, 32),
        "up.0": (64, 64, 64),
        "up.1": (32, 128, 128),
        "up.2": (16, 256, 256),
    }
    assert {name: shapes[name] for name in wanted} == wanted


def seen_at(network: TICGenerator, picture: Tensor, text: Tensor) -> dict[str, Tensor]:
    """What enters and leaves the places around the fusion."""
    seen: dict[str, Tensor] = {}
    network.down[-1].register_forward_hook(lambda _, given, out: seen.update(features=out.clone()))
    network.halve[-1].register_forward_pre_hook(lambda _, given: seen.update(to_pool=given[0].clone()))
    network.halve[-1].register_forward_hook(lambda _, given, out: seen.update(pooled=out.clone()))
    network.rrdb.register_forward_pre_hook(lambda _, given: seen.update(to_rrdb=given[0].clone()))
    network.rrdb.register_forward_hook(lambda _, given, out: seen.update(from_rrdb=out.clone()))
    network.enlarge[0].register_forward_pre_hook(lambda _, given: seen.update(to_up=given[0].clone()))
    network.up[0].register_forward_pre_hook(lambda _, given: seen.update(skip=given[0][:, -4:].clone()))
    with torch.no_grad():
        network(picture, text)
        seen["condition"] = network.text(text)
    return seen


def test_the_product_is_one_map_for_all_channels_before_the_last_pooling() -> None:
    seen = seen_at(tiny(), noise(2, 1, 32, 32), noise(2, 6))
    product = seen["features"] * seen["condition"].reshape(2, 1, 8, 8)
    assert torch.equal(seen["to_pool"], product)
    assert torch.equal(seen["skip"], product)
    assert torch.equal(seen["to_rrdb"], seen["pooled"])
    assert torch.equal(seen["to_up"], seen["from_rrdb"])


def test_the_skip_may_take_the_features_before_the_product() -> None:
    seen = seen_at(tiny(skip_fused=False), noise(2, 1, 32, 32), noise(2, 6))
    assert torch.equal(seen["skip"], seen["features"])
    assert not torch.equal(seen["to_pool"], seen["features"])


@pytest.mark.parametrize(
    ("fuse", "changes", "side"),
    [
        ("bottleneck64", {"levels": 2, "ups": (4, 2), "map_side": 64}, 64),
        ("bottleneck32", {"map_side": 32}, 32),
    ],
)
def test_the_product_may_come_after_the_last_pooling(fuse: str, changes: dict, side: int) -> None:
    seen = seen_at(tiny(fuse=fuse, **changes), noise(1, 1, 256, 256), noise(1, 6))
    assert torch.equal(seen["to_pool"], seen["features"])
    assert torch.equal(seen["to_rrdb"], seen["pooled"] * seen["condition"].reshape(1, 1, side, side))


def test_at_other_sizes_the_map_is_stretched_over_the_picture() -> None:
    seen = seen_at(tiny(), noise(1, 1, 64, 32), noise(1, 6))
    ratio = seen["to_pool"] / seen["features"]
    stretched = nn.functional.interpolate(seen["condition"].reshape(1, 1, 8, 8), (16, 8), mode="bilinear")
    there = seen["features"] > 1e-3
    torch.testing.assert_close(ratio[there], stretched.expand_as(ratio)[there], rtol=1e-3, atol=1e-4)


def test_film_gives_each_channel_a_factor_and_a_shift_twice() -> None:
    seen = seen_at(tiny(fusion="film"), noise(2, 1, 40, 32), noise(2, 6))
    factor1, shift1, factor2, shift2 = (part[:, :, None, None] for part in seen["condition"].chunk(4, dim=1))
    torch.testing.assert_close(seen["to_pool"], seen["features"] * (1 + factor1) + shift1)
    torch.testing.assert_close(seen["to_up"], seen["from_rrdb"] * (1 + factor2) + shift2)


def test_a_last_bias_of_one_begins_with_unchanged_features() -> None:
    network = tiny(text_bias_init=1.0)
    nn.init.zeros_(network.text.fc2.weight)
    seen = seen_at(network, noise(1, 1, 32, 32), noise(1, 6))
    assert torch.equal(seen["to_pool"], seen["features"])


@pytest.mark.parametrize("fusion", ["product", "film"])
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (17, 33), (5, 70)])
def test_any_size_comes_back(fusion: str, size: tuple[int, int]) -> None:
    network = tiny(fusion=fusion)
    assert network(noise(2, 1, *size), noise(2, 6)).shape == (2, 2, *size)


def test_padding_reflects_and_is_cut_off() -> None:
    network = tiny(fusion="film")
    picture = noise(1, 1, 29, 30)
    padded = nn.functional.pad(picture, (0, 2, 0, 3), mode="reflect")
    assert torch.equal(network(picture, noise(1, 6)), network(padded, noise(1, 6))[..., :29, :30])


@pytest.mark.parametrize("fusion", ["product", "film"])
@pytest.mark.parametrize("fuse", ["pre_last_down", "bottleneck32"])
def test_one_picture_serves_several_texts(fusion: str, fuse: str) -> None:
    network = tiny(fusion=fusion, fuse=fuse, map_side=32)
    picture, texts = noise(1, 1, 32, 40), noise(3, 6)
    together = network(picture, texts)
    alone = torch.cat([network(picture, text[None]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_tanh_keeps_colour_inside_its_range() -> None:
    network = tiny()
    nn.init.constant_(network.head.bias, 5.0)
    without = TICGenerator(replace(TINY, output="none")).eval()
    without.load_state_dict(network.state_dict())
    picture, text = noise(1, 1, 32, 32), noise(1, 6)
    assert without(picture, text).max() > 1
    assert torch.equal(network(picture, text), torch.tanh(without(picture, text)))


def test_ways_of_halving_differ() -> None:
    picture = noise(1, 1, 32, 32)
    halved = {how: seen_at(tiny(down=how), picture, noise(1, 6)) for how in ("max", "avg", "stride")}
    torch.testing.assert_close(halved["max"]["pooled"], nn.functional.max_pool2d(halved["max"]["to_pool"], 2))
    torch.testing.assert_close(halved["avg"]["pooled"], nn.functional.avg_pool2d(halved["avg"]["to_pool"], 2))
    assert halved["stride"]["pooled"].shape == halved["max"]["pooled"].shape
    assert size(tiny(down="stride")) == size(tiny()) + 3 * (4 * 4 * 9 + 4)


def test_vectors_of_another_dimension_pass_a_learnt_layer() -> None:
    network = tiny(vector_dim=9)
    assert size(network) == size(tiny()) + 9 * 6 + 6
    assert network(noise(1, 1, 16, 16), noise(1, 9)).shape == (1, 2, 16, 16)
    with pytest.raises(InputError, match=r"\(B, 9\), found \(1, 6\)") as caught:
        network(noise(1, 1, 16, 16), noise(1, 6))
    assert "9 numbers" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("picture", "text", "named"),
    [((2, 3, 16, 16), (2, 6), "luminance"), ((2, 1, 16, 16), (3, 6), "as many text vectors")],
)
def test_inputs_that_do_not_belong_together_are_refused(picture: tuple, text: tuple, named: str) -> None:
    with pytest.raises(InputError, match=named):
        tiny()(noise(*picture), noise(*text))


@pytest.mark.parametrize("changes", [{}, {"fusion": "film"}, {"vector_dim": 9, "down": "stride", "rrdb_norm": False}])
def test_gradients_reach_every_parameter(changes: dict) -> None:
    network = tiny(**changes).train()
    network(noise(2, 1, 32, 32), noise(2, network.config.vector_dim)).square().mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in network.text.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("changes", [{}, {"fusion": "film"}, {"rrdb_norm": False}])
def test_folded_norms_answer_the_same(changes: dict) -> None:
    network = tiny(**changes)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_norms(network.train())
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training
    picture, text = noise(2, 1, 40, 32), noise(2, 6)
    wanted = network.eval()(picture, text)
    torch.testing.assert_close(folded(picture, text), wanted, rtol=0, atol=1e-5)
    fast = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        found = fast(picture.contiguous(memory_format=torch.channels_last), text)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_norm_without_its_convolution_is_refused() -> None:
    with pytest.raises(ConfigError, match="1: expected a convolution"):
        fold_norms(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(2)))


def test_weights_and_config_come_back(tmp_path: Path) -> None:
    network = tiny(fusion="film", beta=0.3)
    card = "# Random weights, for a test"
    save_pretrained(tmp_path / "weights", method="tic", config=network.config, state=network, card=card)
    config = load_config(tmp_path / "weights", TICConfig)
    assert config == network.config
    assert isinstance(config.ups, tuple)
    again = TICGenerator(config).eval()
    load_state(again, tmp_path / "weights")
    picture, text = noise(1, 1, 16, 16), noise(1, 6)
    assert torch.equal(again(picture, text), network(picture, text))
    with pytest.raises(WeightsError):
        load_state(TICGenerator(replace(config, fusion="product")), tmp_path / "weights")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"width": 0}, "width"),
        ({"ab_scale": 0.0}, "ab_scale"),
        ({"fusion": "sum"}, "'sum'"),
        ({"fuse": "early"}, "'early'"),
        ({"down": "none"}, "'none'"),
        ({"ups": (64, 32)}, "3 numbers"),
        ({"ups": (64, 32, 0)}, "at least 1"),
        ({"fuse": "bottleneck64"}, "levels = 2"),
        ({"fuse": "bottleneck32"}, "map_side = 32"),
    ],
)
def test_a_config_that_makes_no_network_is_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        TICConfig(**(asdict(TICConfig()) | wrong))
    assert "\n" not in str(caught.value)
