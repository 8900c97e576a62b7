"""Generators opened by path: the kind found by keys, wrong files refused, any size of mask, one seed one picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.semantic_vae.faces.generators import Generator, complete_style, open_generator
from pellucid.semantic_vae.faces.network_generators import SEANRenderer, SPADERenderer, config_of
from pellucid.semantic_vae.faces.sean import SEANGenerator
from pellucid.semantic_vae.faces.spade import FaceNetworkConfig, SPADEGenerator
from pellucid.semantic_vae.faces.style_codes import StyleCodes, save_codes
from pellucid.semantic_vae.masks.classes import ClassSet

from .seeded_weights import seeded_weights
from .test_spade import small_labels

CLASSES = ClassSet("five", ("background", "skin", "left", "right", "hat"), mirror=((2, 3),))
SIZES = {"classes": 5, "width": 2, "hidden": 4}


def state_of(layout: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = (SPADEGenerator if layout == "spade" else SEANGenerator)(FaceNetworkConfig(layout, **SIZES, style=6))
    return seeded_weights({key: value.shape for key, value in network.state_dict().items()})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("generators")
    for layout in ("spade", "sean"):
        torch.save(state_of(layout), folder / f"{layout}.pth")
    return {layout: folder / f"{layout}.pth" for layout in ("spade", "sean")}


def opened(path: Path, **options: Any) -> Any:
    """Open a generator and let it work at 32 pixels; published files do not tell their size, so 256 is taken."""
    generator = open_generator(path, classes=CLASSES, device="cpu", **options)
    assert isinstance(generator, SPADERenderer | SEANRenderer)
    assert generator.config.size == 256
    generator.config = replace(generator.config, size=32)
    return generator


def mask(side: int = 32, seed: int = 0) -> Tensor:
    return small_labels(4, side)[seed]


def picture(side: int = 32) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))


def test_the_kind_is_found_by_the_keys(files: dict[str, Path]) -> None:
    spade, sean = (open_generator(files[layout], classes=CLASSES, device="cpu") for layout in ("spade", "sean"))
    assert isinstance(spade, SPADERenderer)
    assert isinstance(sean, SEANRenderer)
    assert isinstance(open_generator(), Generator)
    assert isinstance(spade, Generator)
    assert isinstance(sean, Generator)
    assert sean.config == FaceNetworkConfig("sean", **SIZES, style=6)


@pytest.mark.parametrize("shape", [(32, 32), (100, 100), (40, 80)])
def test_pictures_have_the_size_of_the_mask(files: dict[str, Path], shape: tuple[int, int]) -> None:
    labels = torch.nn.functional.interpolate(mask()[None, None].float(), shape)[0, 0].to(torch.uint8)
    for layout in ("spade", "sean"):
        generator = opened(files[layout])
        out = generator.render(labels, generator.style(torch.rand(3, *shape), labels))
        assert out.shape == (3, *shape)
        assert 0 <= out.min() <= out.max() <= 1
        assert out.std() > 0.01


def test_one_seed_one_picture(files: dict[str, Path]) -> None:
    generator = opened(files["sean"])
    style = generator.style(picture(), mask())
    first, again, other = (generator.render(mask(), style, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    quiet = opened(files["sean"], noise=0)
    assert torch.equal(quiet.render(mask(), style, 1), quiet.render(mask(), style, 2))


def test_the_style_is_the_pictures(files: dict[str, Path]) -> None:
    generator = opened(files["sean"], noise=0)
    labels = mask()
    one, other = (generator.style(image, labels) for image in (picture(), 1 - picture()))
    assert one.known.tolist() == [place in labels.unique().tolist() for place in range(5)]
    assert (generator.render(labels, one) - generator.render(labels, other)).abs().max() > 1e-3


def test_added_classes_get_a_style(files: dict[str, Path], tmp_path: Path) -> None:
    plain = opened(files["sean"], noise=0)
    labels = mask().clamp(max=2)  # neither right nor hat
    style = plain.style(picture(), labels)
    edited = torch.full_like(labels, 3)
    mirrored = StyleCodes(style.codes[[0, 1, 3, 2, 4]], style.known[[0, 1, 3, 2, 4]])
    assert torch.equal(plain.render(edited, style), plain.render(edited, mirrored))
    mean = save_codes(tmp_path / "mean.safetensors", StyleCodes(torch.rand(5, 6), torch.ones(5, dtype=torch.bool)))
    known = opened(files["sean"], mean_style=mean, noise=0)
    hat = torch.full_like(labels, 4)
    assert torch.equal(known.render(hat, style), known.render(hat, known.mean_style()))
    reference = plain.style(picture(), hat)
    completed = complete_style(known, style, hat, reference)
    assert torch.equal(completed.codes[4], reference.codes[4])
    preview = open_generator("preview")
    assert complete_style(preview, "its own", hat) == "its own"


def test_without_a_mean_style_a_picture_is_needed(files: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="no mean style"):
        opened(files["sean"]).mean_style()


def test_files_that_do_not_fit(files: dict[str, Path], tmp_path: Path) -> None:
    def read(state: dict[str, Tensor]) -> None:
        torch.save(state, tmp_path / "wrong.pth")
        open_generator(tmp_path / "wrong.pth", classes=CLASSES, device="cpu")

    state = state_of("sean")
    with pytest.raises(WeightsError, match=r"1 extra: up_4\.conv_0\.bias"):
        read({**state, "up_4.conv_0.bias": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"1 missing: up_1\.ace_0\.fc_mu3\.weight"):
        read({key: value for key, value in state.items() if key != "up_1.ace_0.fc_mu3.weight"})
    with pytest.raises(WeightsError, match=r"1 wrong-shaped: conv_img\.bias"):
        read({**state, "conv_img.bias": torch.zeros(4)})
    with pytest.raises(WeightsError, match=r"no SPADE or SEAN generator: found features\.0\.weight"):
        read({"features.0.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"fc\.weight must have four axes, found \(3,\)"):
        config_of({**state, "fc.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"nowhere\.pth' is not there"):
        open_generator(tmp_path / "nowhere.pth")
    with pytest.raises(ConfigError, match="masks of 5 classes, the class set 'celebamask-hq' has 19"):
        open_generator(files["sean"])


def test_masks_and_styles_that_do_not_fit(files: dict[str, Path]) -> None:
    sean = opened(files["sean"])
    style = sean.style(picture(), mask())
    beyond = mask().clone()
    beyond[0, 0] = 7
    with pytest.raises(InputError, match="id 7, the generator knows 0 to 4"):
        sean.render(beyond, style)
    with pytest.raises(InputError, match=r"\(H, W\) uint8"):
        sean.render(mask().float(), style)
    with pytest.raises(InputError, match="found NoneType"):
        sean.render(mask(), None)
    with pytest.raises(InputError, match="a picture"):
        sean.style(picture(16), mask())


def test_folded_weights_open_too(files: dict[str, Path], tmp_path: Path) -> None:
    generator = opened(files["spade"])
    torch.save(dict(generator.network.state_dict()), tmp_path / "folded.pth")  # type: ignore[attr-defined]
    again = opened(tmp_path / "folded.pth")
    assert torch.equal(again.render(mask(), None), generator.render(mask(), None))
