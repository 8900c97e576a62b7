"""PSD: layers come back, the merged image is ours, and what is missing or damaged is said in one line."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import profiles
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from pellucid.errors import ConfigError, DependencyError, FormatError, InputError
from pellucid.io.psd import load_psd, save_psd
from pellucid.layers import Layer, LayerStack, Meta

psd_tools = pytest.importorskip("psd_tools")
HEIGHT, WIDTH = 47, 33


def noise(seed: int, channels: int = 3, levels: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels + 1, (channels, HEIGHT, WIDTH), generator=generator).float() / levels


def four_layers(levels: int = 255, **meta: object) -> LayerStack:
    alpha = noise(9, 1, levels)
    alpha[:, :20] = 0  # the colour below these must survive too
    layers = (
        Layer("ground & <sky>", noise(1, 3, levels)),
        Layer("light", noise(2, 3, levels), blend="add", opacity=51 / 255),
        Layer("lightness", noise(3, 3, levels), alpha, blend="luminosity"),
        Layer("тон 透明", noise(4, 3, levels), alpha, blend="color", visible=False),
    )
    return LayerStack(layers, meta=Meta(bit_depth=8 if levels == 255 else 16, **meta))  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [255, 65535])
def test_layers_come_back_exactly(tmp_path: Path, levels: int) -> None:
    saved = four_layers(levels)
    loaded = load_psd(save_psd(saved, tmp_path / "a.psd"))
    assert loaded.names == saved.names
    for ours, theirs in zip(loaded.layers, saved.layers, strict=True):
        assert ours.rgba.shape == theirs.rgba.shape, ours.name
        assert (ours.rgba - theirs.rgba).abs().max() < 1e-6, ours.name
        assert (ours.blend, ours.opacity, ours.visible) == (theirs.blend, theirs.opacity, theirs.visible)
    assert loaded.meta.bit_depth == saved.meta.bit_depth


def test_the_merged_image_is_our_composite(tmp_path: Path) -> None:
    saved = four_layers()
    with Image.open(save_psd(saved, tmp_path / "a.psd")) as merged:
        assert merged.mode == "RGB"
        expected = (saved.composite() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(merged), expected)


def test_the_merged_image_keeps_alpha(tmp_path: Path) -> None:
    stack = LayerStack((Layer("a", noise(1), noise(2, 1)),))
    document = psd_tools.PSDImage.open(save_psd(stack, tmp_path / "a.psd"))
    merged = np.asarray(document.topil())
    assert np.array_equal(merged[..., 3], (stack.layers[0].alpha[0] * 255).round().numpy())
    seen = merged[..., 3] > 128
    expected = (stack.layers[0].pixels * 255).permute(1, 2, 0).numpy()
    assert np.abs(merged[..., :3].astype(float) - expected)[seen].max() < 3


def test_16_bit_can_be_reduced_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_psd(save_psd(four_layers(65535), tmp_path / "a.psd", bit_depth=8))
    assert loaded.meta.bit_depth == 8
    assert "16 bit per channel written as 8" in caplog.text


def test_meta_data_travels(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "Glass & Co"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    saved = four_layers(exif=block, icc_profile=profile, dpi=(300.0, 150.0), xmp=b"<x:xmpmeta/>")
    loaded = load_psd(save_psd(saved, tmp_path / "a.psd")).meta
    assert (loaded.exif, loaded.icc_profile, loaded.xmp) == (block, profile, b"<x:xmpmeta/>")
    assert loaded.dpi == (300, 150)
    stripped = load_psd(save_psd(saved, tmp_path / "b.psd", strip_metadata=True)).meta
    assert (stripped.exif, stripped.xmp, stripped.dpi, stripped.icc_profile) == (None, None, None, profile)


def test_files_of_editors_are_placed_and_flattened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = psd_tools.PSDImage.new("RGB", (10, 8))
    document.create_pixel_layer(Image.new("RGB", (10, 8), "white"), name="dot")
    group = document.create_group(name="group", opacity=128)
    group.create_pixel_layer(Image.new("RGB", (2, 1), "blue"), name="dot", left=2, top=3)
    masked = group.create_pixel_layer(Image.new("RGB", (4, 4), "red"), name="edge", left=7, top=-1)
    masked.blend_mode = psd_tools.constants.BlendMode.MULTIPLY
    masked.create_mask(Image.new("L", (4, 4), 51))
    group.visible = False
    document.save(tmp_path / "a.psd")
    stack = load_psd(tmp_path / "a.psd")
    assert stack.names == ("dot", "dot 2", "edge")
    assert [layer.visible for layer in stack.layers] == [True, False, False]
    assert [layer.opacity for layer in stack.layers] == [1.0, 128 / 255, 128 / 255]
    expected = torch.zeros(1, 8, 10)
    expected[:, 3, 2:4] = 1
    assert torch.equal(stack["dot 2"].alpha, expected)
    assert stack["dot 2"].pixels[:, 3, 2].tolist() == [0, 0, 1]
    edge = stack["edge"].alpha
    assert edge[:, 0:3, 7:10].unique().tolist() == [pytest.approx(0.2)]
    assert edge.sum() == pytest.approx(9 * 0.2)
    for said in ("multiply", "taken apart", "beyond the canvas"):
        assert said in caplog.text


def test_a_flat_file_is_one_layer(tmp_path: Path) -> None:
    picture = Image.fromarray((noise(1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    psd_tools.PSDImage.frompil(picture).save(tmp_path / "a.psd")
    stack = load_psd(tmp_path / "a.psd")
    assert (stack["image"].pixels - noise(1)).abs().max() < 1e-6
    psd_tools.PSDImage.frompil(picture.convert("CMYK")).save(tmp_path / "b.psd")
    with pytest.raises(InputError, match="found CMYK"):
        load_psd(tmp_path / "b.psd")


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    whole = save_psd(four_layers(), tmp_path / "whole.psd").read_bytes()
    files = {"empty": b"", "text": b"hello", "head": whole[:20], "cut": whole[: len(whole) // 2]}
    for name, data in files.items():
        (tmp_path / f"{name}.psd").write_bytes(data)
    for name in (*files, "missing"):
        with pytest.raises(InputError, match=rf"{name}\.psd") as caught:
            load_psd(tmp_path / f"{name}.psd")
        assert "\n" not in str(caught.value)


def test_saving_refuses_what_it_must(tmp_path: Path) -> None:
    path = save_psd(four_layers(), tmp_path / "a.psd")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save_psd(four_layers(), path)
    assert path.read_bytes() == before
    film = LayerStack((Layer("a", torch.zeros(2, 3, 4, 4)),), fps=Fraction(8))
    with pytest.raises(FormatError, match=r"\.mov"):
        save_psd(film, tmp_path / "b.psd")
    with pytest.raises(FormatError, match=r"30000.*\.ora"):
        save_psd(LayerStack((Layer("a", torch.zeros(3, 1, 30001)),)), tmp_path / "b.psd")
    with pytest.raises(FormatError, match="255 characters"):
        save_psd(LayerStack((Layer("a" * 256, torch.zeros(3, 1, 1)),)), tmp_path / "b.psd")
    with pytest.raises(ConfigError, match="quality"):
        save_psd(four_layers(), tmp_path / "b.psd", quality=3)
    hidden = LayerStack((Layer("a", torch.zeros(3, 4, 4), visible=False),))
    assert load_psd(save_psd(hidden, tmp_path / "c.psd"))["a"].visible is False
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.psd", "c.psd"]


def test_without_psd_tools_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_psd(four_layers(), tmp_path / "a.psd")
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    with pytest.raises(DependencyError, match=r"pip install pellucid\[psd\]"):
        load_psd(path)
    with pytest.raises(DependencyError, match=r"pip install pellucid\[psd\]"):
        save_psd(four_layers(), tmp_path / "b.psd")


def test_a_wide_profile_is_converted_both_ways(tmp_path: Path) -> None:
    saved = four_layers(65535, icc_profile=profiles.DISPLAY_P3)
    loaded = load_psd(save_psd(saved, tmp_path / "a.psd"))
    assert (loaded.layers[0].pixels - saved.layers[0].pixels).abs().max() < 1e-3
    stored = psd_tools.PSDImage.open(tmp_path / "a.psd")[0].numpy("color")
    assert np.abs(stored - saved.layers[0].pixels.permute(1, 2, 0).numpy()).mean() > 0.01
