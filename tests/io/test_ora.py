"""OpenRaster: all layers come back exactly, editors find what they expect, and harmful files are refused."""

import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import profiles
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.ora import load_ora, save_ora
from pellucid.layers import Layer, LayerStack, Meta

HEIGHT, WIDTH = 47, 33


def noise(seed: int, channels: int = 3, levels: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels + 1, (channels, HEIGHT, WIDTH), generator=generator).float() / levels


def four_layers(levels: int = 255, **meta: object) -> LayerStack:
    alpha = noise(9, 1, levels)
    alpha[:, :20] = 0  # the colour below these must survive too
    layers = (
        Layer("ground & <sky>", noise(1, 3, levels)),
        Layer("light", noise(2, 3, levels), blend="add", opacity=0.3),
        Layer("lightness", noise(3, 3, levels), alpha, blend="luminosity"),
        Layer("тон", noise(4, 3, levels), alpha, blend="color", opacity=1 / 3, visible=False),
    )
    return LayerStack(layers, meta=Meta(bit_depth=8 if levels == 255 else 16, **meta))  # type: ignore[arg-type]


def assert_same(found: LayerStack, expected: LayerStack) -> None:
    assert found.names == expected.names
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert torch.equal(ours.rgba, theirs.rgba), ours.name
        assert (ours.blend, ours.opacity, ours.visible) == (theirs.blend, theirs.opacity, theirs.visible)


def png(color: tuple[int, ...], size: tuple[int, int], mode: str = "RGBA") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path: Path, xml: str | bytes | None, mimetype: str | None = "image/openraster", **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        if mimetype:
            archive.writestr("mimetype", mimetype)
        if xml is not None:
            archive.writestr("stack.xml", xml)
        for name, data in entries.items():
            archive.writestr(f"data/{name}.png", data)
    return path


@pytest.mark.parametrize("levels", [255, 65535])
def test_layers_come_back_exactly(tmp_path: Path, levels: int) -> None:
    saved = four_layers(levels)
    loaded = load_ora(save_ora(saved, tmp_path / "a.ora"))
    assert_same(loaded, saved)
    assert loaded.meta.bit_depth == saved.meta.bit_depth
    assert torch.equal(loaded.composite(), saved.composite())


def test_what_editors_expect_is_there(tmp_path: Path) -> None:
    saved = four_layers()
    save_ora(saved, tmp_path / "a.ora")
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read("mimetype") == b"image/openraster"
        image = ElementTree.fromstring(archive.read("stack.xml"))
        assert (image.get("w"), image.get("h")) == (str(WIDTH), str(HEIGHT))
        layers = image.findall("stack/layer")
        assert [layer.get("name") for layer in layers] == list(saved.names)[::-1]  # the topmost first
        assert [layer.get("composite-op") for layer in layers] == [
            "svg:color",
            "svg:luminosity",
            "svg:plus",
            "svg:src-over",
        ]
        assert [layer.get("visibility") for layer in layers] == ["hidden", "visible", "visible", "visible"]
        assert all(layer.get("src") in archive.namelist() for layer in layers)
        merged = Image.open(io.BytesIO(archive.read("mergedimage.png")))
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
    assert merged.mode == "RGBA"
    shown = (saved.composite() * 255).round().to(torch.uint8)
    assert np.array_equal(np.asarray(merged)[..., :3], shown.permute(1, 2, 0).numpy())
    assert thumbnail.size == (WIDTH, HEIGHT)


def test_thumbnail_is_small_and_faint_colour_does_not_bleed(tmp_path: Path) -> None:
    pixels = torch.zeros(3, 300, 600)
    pixels[0, :, :301] = 1  # red that is seen
    pixels[1, :, 301:] = 1  # green that is nearly not
    alpha = torch.ones(1, 300, 600)
    alpha[:, :, 301:] = 5 / 255
    save_ora(LayerStack((Layer("a", pixels, alpha),)), tmp_path / "a.ora")
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
    assert thumbnail.size == (256, 128)
    array = np.asarray(thumbnail)
    edge = (array[..., 3] > 100) & (array[..., 3] < 250)
    assert edge.any()
    assert array[..., 1][edge].max() < 30


def test_meta_data_travels(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "Glass & Co"
    saved = four_layers(
        exif=exif.tobytes().removeprefix(b"Exif\0\0"),
        icc_profile=profile,
        dpi=(300.0, 300.0),
        method="multistep_sirr",
        weights="small-1",
        seed=7,
        parameters={"passes": 2, "strength": 0.5},
        source="window.jpg",
    )
    loaded = load_ora(save_ora(saved, tmp_path / "a.ora")).meta
    assert loaded.icc_profile == profile
    assert loaded.exif is not None
    assert b"Glass & Co" in loaded.exif
    assert loaded.dpi == pytest.approx((300, 300), abs=0.1)
    assert (loaded.method, loaded.weights, loaded.seed, loaded.source) == (
        "multistep_sirr",
        "small-1",
        7,
        "window.jpg",
    )
    assert loaded.parameters == {"passes": 2, "strength": 0.5}
    stripped = load_ora(save_ora(saved, tmp_path / "b.ora", strip_metadata=True)).meta
    assert (stripped.exif, stripped.method, stripped.dpi) == (None, None, None)
    assert stripped.icc_profile == profile
    assert b"window.jpg" not in (tmp_path / "b.ora").read_bytes()


def test_a_wide_profile_is_converted_both_ways(tmp_path: Path) -> None:
    saved = four_layers(65535, icc_profile=profiles.DISPLAY_P3)
    loaded = load_ora(save_ora(saved, tmp_path / "a.ora"))
    assert loaded.meta.icc_profile == profiles.DISPLAY_P3
    assert (loaded.layers[0].pixels - saved.layers[0].pixels).abs().max() < 1e-3


def test_the_same_stack_gives_the_same_bytes(tmp_path: Path) -> None:
    first = save_ora(four_layers(), tmp_path / "a.ora").read_bytes()
    assert save_ora(four_layers(), tmp_path / "b.ora").read_bytes() == first


def test_files_of_editors_are_placed_and_flattened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    xml = """<?xml version='1.0' encoding='UTF-8'?>
    <image version="0.0.3" w="10" h="8"><stack>
      <layer name="top" src="data/red.png" x="7" y="-1" opacity="0.5" composite-op="svg:multiply"/>
      <stack name="group" opacity="0.5" visibility="hidden">
        <layer name="dot" src="data/blue.png" x="2" y="3"/>
        <layer name="dot" src="data/blue.png" opacity="0.5"/>
        <text name="words"/>
      </stack>
      <layer src="data/white.png"/>
    </stack></image>"""
    blobs = {
        "red": png((255, 0, 0, 255), (4, 4)),
        "blue": png((0, 0, 255, 128), (2, 1)),
        "white": png((255, 255, 255), (10, 8), "RGB"),
    }
    stack = load_ora(write_zip(tmp_path / "a.ora", xml, **blobs))
    assert stack.names == ("layer", "dot", "dot 2", "top")
    assert (stack.width, stack.height) == (10, 8)
    assert stack["layer"].alpha is None
    assert [layer.opacity for layer in stack.layers] == [1.0, 0.25, 0.5, 0.5]
    assert [layer.visible for layer in stack.layers] == [True, False, False, True]
    expected = torch.zeros(1, 8, 10)
    expected[:, 3, 2:4] = 128 / 255
    assert torch.equal(stack["dot 2"].alpha, expected)
    expected = torch.zeros(1, 8, 10)
    expected[:, 0:3, 7:10] = 1
    assert torch.equal(stack["top"].alpha, expected)
    assert stack["top"].pixels[:, 0, 8].tolist() == [1, 0, 0]
    assert stack["top"].blend == "over"
    for said in ("svg:multiply", "taken apart", "beyond the canvas", "text 'words'"):
        assert said in caplog.text


def test_an_editor_may_change_the_blend_mode(tmp_path: Path) -> None:
    save_ora(four_layers(), tmp_path / "a.ora")
    with zipfile.ZipFile(tmp_path / "a.ora") as archive, zipfile.ZipFile(tmp_path / "b.ora", "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, archive.read(name).replace(b"svg:plus", b"svg:color"))
    assert load_ora(tmp_path / "b.ora")["light"].blend == "color"


LAYER = '<layer name="a" src="data/a.png"/>'


@pytest.mark.parametrize("name", ["../evil.png", "data/../../evil.png", "/etc/evil", "..\\evil.png", "C:\\evil.png"])
def test_names_that_climb_out_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.ora"
    write_zip(path, f'<image w="4" h="4"><stack>{LAYER}</stack></image>', a=png((1, 2, 3, 4), (4, 4)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(InputError, match="climbs out"):
        load_ora(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.ora"]


def test_bombs_are_refused(tmp_path: Path) -> None:
    entities = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'
    xml = f'{entities}<image w="4" h="4"><stack><layer name="&y;" src="data/a.png"/></stack></image>'
    for number, text in enumerate((xml, ('<?xml version="1.0" encoding="UTF-16"?>' + xml).encode("utf-16"))):
        with pytest.raises(InputError, match="document type"):
            load_ora(write_zip(tmp_path / f"{number}.ora", text, a=png((1, 2, 3, 4), (4, 4))))
    fine = f'<image w="4" h="4"><stack>{LAYER}</stack></image>'
    with zipfile.ZipFile(tmp_path / "zip.ora", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "image/openraster")
        archive.writestr("stack.xml", fine)
        archive.writestr("data/a.png", bytes(32 << 20))
    with pytest.raises(InputError, match="too large"):
        load_ora(tmp_path / "zip.ora")
    huge = f'<image w="50000" h="50000"><stack>{LAYER}</stack></image>'
    with pytest.raises(InputError, match="50000x50000"):
        load_ora(write_zip(tmp_path / "canvas.ora", huge, a=png((1, 2, 3, 4), (4, 4))))
    deep = f'<image w="4" h="4">{"<stack>" * 2000}{"</stack>" * 2000}</image>'
    with pytest.raises(InputError, match="nested"):
        load_ora(write_zip(tmp_path / "deep.ora", deep))


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        (None, r"without stack\.xml"),
        ("<image", "cannot be understood"),
        ('<image w="4" h="4"/>', "no stack"),
        ('<image w="four" h="4"><stack/></image>', "cannot be understood"),
        ('<image w="0" h="4"><stack/></image>', "no canvas"),
        ('<image w="4" h="4"><stack/></image>', "holds no layer"),
        ('<image w="4" h="4"><stack><layer src="data/b.png"/></stack></image>', "missing"),
        ('<image w="4" h="4"><stack><layer src="../b.png"/></stack></image>', "missing"),
        ('<image w="4" h="4"><stack><layer src="mimetype"/></stack></image>', "mimetype"),
        ('<image w="4" h="4"><stack><layer name="a"/></stack></image>', "cannot be understood"),
        (f'<image w="4" h="4"><stack x="a">{LAYER[:-2]} opacity="much"/></stack></image>', "cannot be understood"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, xml: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_ora(write_zip(tmp_path / "a.ora", xml, a=png((1, 2, 3, 4), (4, 4))))
    assert "\n" not in str(caught.value)
    assert "a.ora" in str(caught.value)


def test_other_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.ora").touch()
    (tmp_path / "text.ora").write_text("hello")
    whole = save_ora(four_layers(), tmp_path / "whole.ora").read_bytes()
    (tmp_path / "cut.ora").write_bytes(whole[: len(whole) // 2])
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    (tmp_path / "broken.ora").write_bytes(broken)
    write_zip(tmp_path / "odt.ora", "<image/>", mimetype="application/vnd.oasis.opendocument.text")
    for name in ("empty", "text", "cut", "broken", "odt", "missing"):
        with pytest.raises(InputError, match=f"{name}.ora") as caught:
            load_ora(tmp_path / f"{name}.ora")
        assert "\n" not in str(caught.value)


def test_a_broken_note_does_not_stop_the_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_zip(
        tmp_path / "a.ora", f'<image w="4" h="4"><stack>{LAYER}</stack></image>', a=png((1, 2, 3, 4), (4, 4))
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("pellucid.json", json.dumps([1, 2]))
    assert load_ora(path).names == ("a",)
    assert "pellucid.json" in caplog.text


def test_saving_refuses_what_it_must(tmp_path: Path) -> None:
    path = save_ora(four_layers(), tmp_path / "a.ora")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save_ora(four_layers(), path)
    assert path.read_bytes() == before
    film = LayerStack((Layer("a", torch.zeros(2, 3, 4, 4)),), fps=Fraction(8))
    with pytest.raises(FormatError, match=r"\.mov"):
        save_ora(film, tmp_path / "b.ora")
    with pytest.raises(ConfigError, match="quality"):
        save_ora(four_layers(), tmp_path / "b.ora", quality=3)
    hidden = LayerStack((Layer("a", torch.zeros(3, 4, 4), visible=False),))
    assert load_ora(save_ora(hidden, tmp_path / "c.ora"))["a"].visible is False
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.ora", "c.ora"]
