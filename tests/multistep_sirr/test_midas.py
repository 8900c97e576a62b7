"""MiDaS small against the published layout and a golden pair."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pellucid.errors import WeightsError
from pellucid.multistep_sirr.depth import MidasDepth, make_provider
from pellucid.multistep_sirr.midas import MidasSmall, SameConv2d, network_size, postprocess, preprocess

Shapes = dict[str, list[int]]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(
    reference_shapes: Callable[[str], Shapes], deterministic_weights: Callable[[Shapes], State]
) -> dict[str, torch.Tensor]:
    return deterministic_weights(reference_shapes("midas_small"))


@pytest.fixture(scope="module")
def model(state: State) -> MidasSmall:
    network = MidasSmall().eval()
    network.load_state_dict(state, strict=True)
    return network


def test_keys_and_shapes_are_the_published_ones(reference_shapes: Callable[[str], Shapes]) -> None:
    ours = {key: list(value.shape) for key, value in MidasSmall().state_dict().items()}
    assert len(ours) == 482
    assert list(ours.items()) == list(reference_shapes("midas_small").items())
    assert sum(parameter.numel() for parameter in MidasSmall().parameters()) == 21_320_545


def test_golden_output(model: MidasSmall, reference_arrays: Callable[[str], State]) -> None:
    golden = reference_arrays("midas_small")
    with torch.no_grad():
        error = model(golden["input"]) - golden["output"]
    # The golden file is float32 and 1.7e-5 away from the same network in float64, and another number of threads
    # moves float32 as much: 1e-5 is asked of the error's size, and a little more of the worst pixel.
    largest = golden["output"].abs().max()
    assert error.square().mean().sqrt() / largest < 1e-5
    assert error.abs().max() / largest < 5e-5


def test_golden_features(model: MidasSmall, reference_arrays: Callable[[str], State]) -> None:
    golden = reference_arrays("midas_small")
    with torch.no_grad():
        features = model.pretrained(golden["input"])
    assert [tuple(f.shape[1:]) for f in features] == [(32, 24, 32), (48, 12, 16), (136, 6, 8), (384, 3, 4)]
    for found, name in ((features[0][0, :4], "layer1_slice"), (features[3][0, :32], "layer4_slice")):
        assert (found - golden[name]).abs().max() / golden[name].abs().max() < 1e-4
    for found, name in zip(features, ("layer1", "layer2", "layer3", "layer4"), strict=True):
        std, mean = torch.std_mean(found.double(), correction=0)
        stats = torch.stack([mean, std, found.min().double(), found.max().double()])
        assert torch.allclose(stats, golden[f"{name}_stats"], rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (3, 9), (5, 8), (5, 9), (5, 1)])
def test_same_padding_follows_every_size(kernel: int, size: int) -> None:
    conv = SameConv2d(1, 1, kernel, 2)
    with torch.no_grad():
        conv.weight.fill_(1)
        found = conv(torch.ones(1, 1, size, size))[0, 0]
    steps = -(-size // 2)
    start = [2 * i - max((steps - 1) * 2 + kernel - size, 0) // 2 for i in range(steps)]
    inside = [min(s + kernel, size) - max(s, 0) for s in start]  # how many pixels each window sees
    assert found.tolist() == [[float(a * b) for b in inside] for a in inside]


def test_sizes_may_change_between_calls(model: MidasSmall) -> None:
    generator = torch.Generator().manual_seed(0)
    first, other = torch.randn(1, 3, 64, 64, generator=generator), torch.randn(1, 3, 96, 32, generator=generator)
    with torch.no_grad():
        before = model(first)
        assert model(other).shape == (1, 96, 32)
        assert torch.equal(model(first), before)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [((480, 640), (192, 256)), ((4000, 6000), (160, 256)), ((128, 128), (256, 256)), ((10, 5000), (32, 256))],
)
def test_longer_side_becomes_256(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert network_size(*picture) == expected


def test_rounding_never_exceeds_a_side_that_is_no_multiple() -> None:
    assert network_size(100, 200, side=250) == (128, 224)


def test_preprocess_normalises_and_postprocess_returns_the_size() -> None:
    grey = torch.full((1, 3, 50, 70), 0.5)
    ready = preprocess(grey)
    assert ready.shape == (1, 3, 192, 256)
    assert ready[0, :, 0, 0].tolist() == pytest.approx([0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225], abs=1e-4)
    assert preprocess(grey, keep_aspect=False).shape == (1, 3, 256, 256)
    assert postprocess(torch.rand(2, 192, 256), (50, 70)).shape == (2, 1, 50, 70)


@pytest.mark.parametrize("form", ["plain", "with optimizer"])
def test_provider_loads_the_published_file(form: str, state: State, model: MidasSmall, tmp_path: Path) -> None:
    file = tmp_path / "midas_v21_small_256.pt"
    torch.save(state if form == "plain" else {"model": state, "optimizer": {"lr": 0.1}}, file)
    provider = make_provider("midas_small", weights=file)
    picture = torch.rand(1, 3, 45, 64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    depth = provider(picture)
    assert (provider.name, provider.is_learned) == ("midas_small", True)
    assert depth.shape == (1, 1, 45, 64)
    assert not depth.requires_grad
    with torch.no_grad():
        plain = postprocess(model(preprocess(picture)), (45, 64))
    assert (depth - plain).abs().max() / plain.abs().max() < 1e-4


def test_provider_finds_the_file_in_the_cache(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"no weights of MiDaS small.*never downloaded"):
        MidasDepth.from_file()
    torch.save(state, tmp_path / "midas_v21_small_256.pt")
    assert MidasDepth.from_file().is_learned


def test_a_missing_key_is_named(state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({key: value for key, value in state.items() if key != "scratch.output_conv.4.bias"}, file)
    with pytest.raises(WeightsError, match=r"1 missing: scratch\.output_conv\.4\.bias"):
        make_provider("midas_small", weights=file)
