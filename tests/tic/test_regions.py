"""Where a phrase holds: boxes, masks, their feathered edges, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.nn.guided import enlarge_strips
from pellucid.tic import regions
from pellucid.tic.regions import Box, Region, as_regions, feathered, parse_where, reach, weight, working_size


def lightness_of(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed)) * 100


def full_weight(where: Any, L: Tensor) -> Tensor:
    """The weight at full size ``(H, W)``."""
    found = feathered(Region(where, "red"), L)
    return torch.cat([weight(strip, L[..., rows, :]) for rows, strip in enlarge_strips(found, L.shape[-2:])], -2)[0, 0]


def inside(box: tuple[int, int, int, int], size: tuple[int, int], margin: int) -> Tensor:
    x0, y0, x1, y1 = box
    where = torch.zeros(size, dtype=torch.bool)
    where[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = True
    return where


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10,20,300,400", Box(10, 20, 300, 400)),
        (" 1.5, 2 ,3,4 ", Box(1.5, 2, 3, 4)),
        ("0%,10%,50.5%,100%", Box(0, 10, 50.5, 100, percent=True)),
        ("-5,0,3,4", Box(-5, 0, 3, 4)),
        ("masks/shirt.png", Path("masks/shirt.png")),
        ("a,b,c,d", Path("a,b,c,d")),
    ],
)
def test_places_are_read(text: str, wanted: object) -> None:
    assert parse_where(text) == wanted


@pytest.mark.parametrize(("text", "said"), [("1,2,3", "four"), ("1,2,3,4,5", "four"), ("10%,2,3,4", "mixes")])
def test_half_a_box_is_no_mask_file(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_where(text)


@pytest.mark.parametrize("size", [(60, 90), (1, 1), (1500, 1100)])
def test_outside_the_feather_the_weight_is_zero_and_inside_it_is_one(size: tuple[int, int]) -> None:
    L = lightness_of(*size)
    x0, y0, x1, y1 = box = (size[1] // 4, size[0] // 4, max(1, size[1] * 3 // 4), max(1, size[0] * 3 // 4))
    found, margin = full_weight(box, L), reach(size)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found[~inside(box, size, margin)].any()
    core = found[y0 + margin : y1 - margin, x0 + margin : x1 - margin]
    assert (core == 1).all()
    assert margin <= max(6, max(size) * 0.02)
    if min(size) > 1:
        assert core.numel() > 0


def test_a_mask_says_the_same_as_its_box(tmp_path: Path) -> None:
    L = lightness_of(80, 70)
    mask = torch.zeros(80, 70)
    mask[20:60, 10:50] = 1
    box = full_weight((10, 20, 50, 60), L)
    Image.fromarray((mask * 255).byte().numpy()).save(tmp_path / "mask.png")
    for where in (mask, mask[None], tmp_path / "mask.png", str(tmp_path / "mask.png"), "10,20,50,60"):
        assert torch.allclose(full_weight(where, L), box, atol=1e-5)
    percent = Box(100 * 10 / 70, 25, 100 * 50 / 70, 75, percent=True)
    assert torch.allclose(full_weight(percent, L), box, atol=1e-4)
    # Transparent pixels of a mask are outside it.
    clear = Image.new("LA", (70, 80), (255, 0))
    clear.paste((255, 255), (10, 20, 50, 60))
    clear.save(tmp_path / "clear.png")
    assert torch.allclose(full_weight(tmp_path / "clear.png", L), box, atol=1e-5)


def test_the_edge_follows_the_picture() -> None:
    """A box drawn two pixels too large ends at the step of lightness."""
    L = torch.full((1, 1, 100, 1000), 20.0)
    L[..., 500:] = 80.0
    found = full_weight((498, 0, 1000, 100), L)[50]
    assert found[498:500].max() < 0.5
    assert found[500:503].min() > 0.5


def test_a_large_mask_is_feathered_at_a_smaller_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "LONGEST", 100)
    assert working_size((400, 300)) == (100, 75)
    L = lightness_of(400, 300)
    mask = torch.zeros(400, 300)
    mask[101:299, 83:219] = 1
    box = full_weight((83, 101, 219, 299), L)
    assert torch.allclose(full_weight(mask, L), box, atol=1e-4)
    assert not box[~inside((83, 101, 219, 299), (400, 300), reach((400, 300)))].any()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ((0, 0, 91, 60), "picture of 90x60"),
        ((-1, 0, 9, 9), "picture of 90x60"),
        (Box(0, 0, 101, 50, percent=True), "picture of 90x60"),
        ((200, 200, 300, 300), "200,200,300,300"),
        ((9, 9, 9, 20), "no area"),
        ((20, 9, 9, 20), "no area"),
        (torch.zeros(90, 60), "90x60, found 60x90"),
        (torch.zeros(3, 60, 90), "found 90x60x3"),
        (torch.full((60, 90), 2.0), r"values in \[0, 1\]"),
        (torch.full((60, 90), float("nan")), r"values in \[0, 1\]"),
        ("nowhere.png", "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(where: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        feathered(Region(where, "red"), lightness_of(60, 90))
    assert "\n" not in str(caught.value)


def test_a_mask_file_of_another_size_names_both(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png.*90x60, found 30x20"):
        feathered(Region(tmp_path / "mask.png", "red"), lightness_of(60, 90))


def test_an_empty_mask_is_said(caplog: pytest.LogCaptureFixture) -> None:
    found = full_weight(torch.zeros(60, 90), lightness_of(60, 90))
    assert not found.any()
    assert "colours nothing" in caplog.text


def test_regions_may_be_pairs() -> None:
    one, other = as_regions([((0, 0, 1, 1), "red"), Region("mask.png", "blue")])
    assert (str(one), one.text, str(other), other.text) == ("0,0,1,1", "red", "mask.png", "blue")
    assert str(Region(torch.zeros(1, 4, 6), "")) == "mask of 6x4"
    for wrong in ("red", ("mask.png", "red", 1), (Path("mask.png"), None)):
        with pytest.raises(ConfigError, match="a place and a text"):
            as_regions([wrong])  # type: ignore[list-item]
