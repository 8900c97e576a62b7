"""Still pictures: what goes in comes out, and bad input is one clear line."""

import io
import logging
import os
import struct
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import profiles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from pellucid import io as files
from pellucid.errors import ConfigError, FormatError, InputError, PellucidError
from pellucid.io import icc
from pellucid.io.image import (
    as_stack,
    atomic_path,
    count_frames,
    decode_still,
    encode_still,
    from_array,
    load_image,
    save_image,
    to_uint8,
    to_uint16,
)
from pellucid.layers import Layer, LayerStack, Meta

RNG = np.random.default_rng(7)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:title="glass"/></x:xmpmeta>'


def noise(height: int = 21, width: int = 34, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def rgba(path: Path) -> torch.Tensor:
    return load_image(path).layers[0].rgba


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[0x010F] = "Glassworks"
    block[0x0112] = orientation
    block[0x9003] = "2024:05:01 10:00:00"
    block.get_ifd(0x8769)[0x829A] = 0.008  # exposure time
    block.get_ifd(0x8769)[0xA002] = 34
    block.get_ifd(0x8825)[1] = "N"  # GPS latitude reference
    return block


def read_exif(path: Path) -> Image.Exif:
    with Image.open(path) as image:
        block = image.getexif()
        for nested in (0x8769, 0x8825):
            block.get_ifd(nested)  # read while the file is open
        return block


# Round trips


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_eight_bit_is_exact(tmp_path: Path, suffix: str, channels: int) -> None:
    stack = as_stack(noise(channels=channels))
    path = stack.save(tmp_path / f"a.{suffix}")
    assert torch.equal(rgba(path), stack.layers[0].rgba)
    assert load_image(path).meta.bit_depth == 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_is_exact(tmp_path: Path, suffix: str, channels: int) -> None:
    stack = as_stack(noise(channels=channels, dtype=np.uint16))
    path = stack.save(tmp_path / f"a.{suffix}")
    assert torch.equal(rgba(path), stack.layers[0].rgba)
    assert load_image(path).meta.bit_depth == 16
    with Image.open(path) as image:  # another reader, which keeps the high bytes
        array = to_uint16(stack.layers[0].rgba) >> 8
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1), (1, 3), (1, 4099), (2500, 3)])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", np.uint8), ("png", np.uint16), ("tif", np.uint8), ("tif", np.uint16), ("webp", np.uint8)],
)
def test_any_size(tmp_path: Path, height: int, width: int, suffix: str, dtype: type) -> None:
    stack = as_stack(noise(height, width, 4, dtype))
    assert torch.equal(rgba(stack.save(tmp_path / f"a.{suffix}")), stack.layers[0].rgba)


def test_several_strips_of_tiff(tmp_path: Path) -> None:
    stack = as_stack(noise(900, 900, 4, np.uint16))  # 6.5 MB
    path = stack.save(tmp_path / "a.tif")
    with Image.open(path) as image:
        assert len(image.tag_v2[273]) > 1  # pyright: ignore
    assert torch.equal(rgba(path), stack.layers[0].rgba)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["png", "tif", "webp"]),
    st.sampled_from([1, 2, 3, 4]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_lossless_formats_are_exact(suffix: str, channels: int, size: tuple[int, int], seed: int, deep: bool) -> None:
    dtype = np.uint16 if deep and suffix != "webp" else np.uint8
    array = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)
    stack = as_stack(array)
    buffer = io.BytesIO()
    encode_still(stack.layers[0].rgba, stack.meta, buffer, format=suffix)
    buffer.seek(0)
    pixels, alpha, meta = decode_still(buffer)
    assert torch.equal(pixels, stack.layers[0].pixels)
    assert (alpha is None) == (stack.layers[0].alpha is None)
    assert alpha is None or torch.equal(alpha, stack.layers[0].alpha)
    assert meta.bit_depth == 8 * array.itemsize


def test_jpeg_is_close_and_keeps_colour_resolution(tmp_path: Path) -> None:
    array = np.zeros((32, 32, 3), np.uint8)
    array[:, ::2, 0] = 255  # stripes of one pixel: 4:2:0 would smear them
    path = as_stack(array).save(tmp_path / "a.jpg")
    assert float((rgba(path) - from_array(array)).abs().mean()) < 0.02


def test_rounds_to_nearest_and_says_what_is_clipped(caplog: pytest.LogCaptureFixture) -> None:
    values = torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 254.51 / 255, 1.0]).reshape(1, 1, 5)
    assert to_uint8(values).flatten().tolist() == [0, 0, 1, 255, 255]
    assert not caplog.records
    assert to_uint16(torch.tensor([[[-0.1, 0.5, 1.2]]])).flatten().tolist() == [0, 32768, 65535]
    assert "2 of 3 pixels" in caplog.text


def test_frames_are_converted_together() -> None:
    array = RNG.integers(0, 256, (3, 5, 7, 4)).astype(np.uint8)
    pixels = from_array(array)
    assert pixels.shape == (3, 4, 5, 7)
    assert np.array_equal(to_uint8(pixels), array)


# What travels with the pixels


def test_jpeg_with_orientation_and_p3(tmp_path: Path) -> None:
    smooth = np.stack(np.meshgrid(np.arange(34) * 7, np.arange(21) * 12), -1).astype(np.uint8)
    array = np.concatenate([smooth, 255 - smooth[..., :1]], -1)
    source = tmp_path / "phone.jpg"
    Image.fromarray(array).save(
        source, quality=100, exif=exif(6), icc_profile=profiles.DISPLAY_P3, dpi=(300, 200), xmp=XMP
    )
    stack = load_image(source)
    assert (stack.height, stack.width) == (34, 21)
    assert stack.meta.dpi == (200, 300)  # turned with the picture
    assert float(stack.layers[0].pixels.min()) < 0  # a P3 colour outside sRGB is not cut off
    with Image.open(source) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    for suffix in ("png", "tif", "webp", "jpg"):
        path = stack.save(tmp_path / f"out.{suffix}")
        block = read_exif(path)
        assert block.get(0x0112, 1) == 1
        assert block[0x010F] == "Glassworks"
        assert float(block.get_ifd(0x8769)[0x829A]) == pytest.approx(0.008)
        assert block.get_ifd(0x8825)[1] == "N"
        with Image.open(path) as image:
            assert image.info["icc_profile"] == profiles.DISPLAY_P3
            if suffix != "jpg":
                assert np.array_equal(np.asarray(image), upright)  # the very numbers, through float sRGB and back
            xmp = image.info["xmp"]
            assert b'dc:title="glass"' in xmp
            assert b'tiff:Orientation="1"' in xmp
            if suffix != "webp":
                assert image.info["dpi"] == pytest.approx((200, 300), abs=0.02)
    assert read_exif(tmp_path / "out.jpg").get_ifd(0x8769)[0xA002] == 21  # the width that is written there


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_with_p3(tmp_path: Path, channels: int, suffix: str) -> None:
    array = noise(channels=channels, dtype=np.uint16)
    pixels = from_array(array)
    meta = Meta(icc_profile=profiles.DISPLAY_P3, bit_depth=16, dpi=(72, 72), exif=exif().tobytes()[6:])
    p3 = icc.parse(profiles.DISPLAY_P3)
    assert p3 is not None
    colour = p3.to_srgb(pixels[:3])
    stack = LayerStack((Layer("image", colour, pixels[3:] if channels == 4 else None),), meta=meta)
    path = stack.save(tmp_path / f"second.{suffix}")
    again = load_image(path)
    assert again.meta.icc_profile == profiles.DISPLAY_P3
    assert again.meta.bit_depth == 16
    third = again.save(tmp_path / f"third.{suffix}")
    assert third.read_bytes() == path.read_bytes()  # nothing changes by opening and saving
    raw = replace_profile(third, tmp_path / f"raw.{suffix}", suffix)
    assert np.array_equal(to_uint16(rgba(raw)), array)


def replace_profile(path: Path, target: Path, suffix: str) -> Path:
    """Rename the profile's tag, so that the numbers in the file are read as they are."""
    data = path.read_bytes()
    if suffix == "png":
        at = data.index(b"iCCP")
        size = int.from_bytes(data[at - 4 : at], "big")
        data = data[: at - 4] + data[at + 8 + size :]
    else:
        data = data.replace(struct.pack("<HH", 34675, 7), struct.pack("<HH", 34674, 7))
    target.write_bytes(data)
    return target


def test_tiff_sixteen_bit_with_orientation(tmp_path: Path) -> None:
    array = noise(dtype=np.uint16)
    path = as_stack(array).save(tmp_path / "a.tif")
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 284, 3, 1))  # planar configuration, 1 by default: overwrite it
    data[at : at + 12] = struct.pack("<HHII", 274, 3, 1, 8)
    path.write_bytes(data)
    assert np.array_equal(to_uint16(load_image(path).layers[0].pixels), np.rot90(array))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_every_orientation(tmp_path: Path, value: int, suffix: str) -> None:
    block = Image.Exif()
    block[0x0112] = value
    array = np.kron(RNG.integers(0, 256, (2, 3, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path, exif=block, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(to_uint8(load_image(path).layers[0].pixels), expected)


def test_webp_with_alpha_and_exif(tmp_path: Path) -> None:
    array = noise(channels=4)
    array[:5, :, 3] = 0  # colour below transparent pixels stays too
    source = tmp_path / "a.webp"
    Image.fromarray(array).save(source, lossless=True, exact=True, exif=exif(3), icc_profile=profiles.ADOBE_RGB)
    stack = load_image(source)
    for suffix in ("webp", "png", "tif"):
        path = stack.save(tmp_path / f"b.{suffix}")
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), array[::-1, ::-1])
            assert image.info["icc_profile"] == profiles.ADOBE_RGB
        assert read_exif(path)[0x010F] == "Glassworks"


def test_strip_metadata_keeps_only_the_profile(tmp_path: Path) -> None:
    source = tmp_path / "a.jpg"
    Image.fromarray(noise()).save(source, exif=exif(), icc_profile=profiles.DISPLAY_P3, dpi=(300, 300), xmp=XMP)
    for suffix in ("png", "jpg", "webp", "tif"):
        path = load_image(source).save(tmp_path / f"b.{suffix}", strip_metadata=True)
        data = path.read_bytes()
        assert b"Glassworks" not in data
        assert b"xmpmeta" not in data
        assert load_image(path).meta.icc_profile == profiles.DISPLAY_P3


def test_srgb_profile_changes_no_pixel(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    array = noise()
    Image.fromarray(array).save(tmp_path / "a.png", icc_profile=profile)
    stack = load_image(tmp_path / "a.png")
    assert torch.equal(stack.layers[0].pixels, from_array(array))
    assert stack.meta.icc_profile == profile


# Kinds of pictures


def test_palette_and_transparent_colours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    image = Image.fromarray(noise(8, 8)).quantize(16)
    image.save(tmp_path / "p.png", transparency=3)
    image.save(tmp_path / "p.gif")
    image.save(tmp_path / "p.bmp")
    stack = load_image(tmp_path / "p.png")
    expected = image.convert("RGB")
    assert np.array_equal(to_uint8(stack.layers[0].pixels), np.asarray(expected))
    assert stack.layers[0].alpha is not None
    assert np.array_equal(stack.layers[0].alpha[0].numpy() == 0, np.asarray(image) == 3)
    assert "palette" in caplog.text
    for suffix in ("gif", "bmp"):
        layer = load_image(tmp_path / f"p.{suffix}").layers[0]
        assert np.array_equal(to_uint8(layer.pixels), np.asarray(expected))
        assert layer.alpha is None


def test_cmyk_is_converted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(path)
    red = load_image(path).layers[0].pixels.mean(dim=(1, 2))
    assert red[0] > 0.8
    assert red[1] < 0.2
    assert "CMYK" in caplog.text


def test_lab_tiff_goes_through_littlecms(tmp_path: Path) -> None:
    Image.new("LAB", (3, 3), (255, 128, 128)).save(tmp_path / "a.tif")
    assert float(load_image(tmp_path / "a.tif").layers[0].pixels.min()) > 0.98


def test_grey_profile_is_applied_and_dropped(tmp_path: Path) -> None:
    gamma1 = profiles.profile({b"kTRC": profiles.gamma(1.0)}, b"GRAY")
    Image.new("L", (3, 3), 55).save(tmp_path / "a.png", icc_profile=gamma1)
    stack = load_image(tmp_path / "a.png")
    # Linear light 55/255 in sRGB: 1.055 * 0.215686 ** (1 / 2.4) - 0.055
    assert float(stack.layers[0].pixels.mean()) == pytest.approx(0.50172, abs=1e-4)
    assert stack.meta.icc_profile is None


def test_unusable_profile_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = noise()
    Image.fromarray(array).save(tmp_path / "a.png", icc_profile=b"nonsense" * 30)
    stack = load_image(tmp_path / "a.png")
    assert np.array_equal(to_uint8(stack.layers[0].pixels), array)
    assert stack.meta.icc_profile is None
    assert "ICC" in caplog.text


def test_sixteen_bit_grey_with_alpha_png(tmp_path: Path) -> None:
    array = noise(4, 5, 2, np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path = tmp_path / "la.png"
    path.write_bytes(png(5, 4, 16, 4, raw))
    layer = load_image(path).layers[0]
    assert np.array_equal(to_uint16(layer.pixels), np.repeat(array[..., :1], 3, -1))
    assert layer.alpha is not None
    assert np.array_equal(to_uint16(layer.alpha), array[..., 1:])


def test_sixteen_bit_tiff_of_other_programs(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = noise(40, 50, 3, np.uint16)
    for name, options in {
        "big-endian": {"byteorder": ">"},
        "tiles": {"tile": (16, 16)},
        "deflate": {"compression": "deflate", "predictor": True},
        "bigtiff": {"bigtiff": True},
    }.items():
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", **options)
        stack = load_image(tmp_path / "a.tif")
        assert stack.meta.bit_depth == 16, name
        assert np.array_equal(to_uint16(stack.layers[0].pixels), array), name
    ours = as_stack(noise(channels=4, dtype=np.uint16))
    assert np.array_equal(tifffile.imread(ours.save(tmp_path / "b.tif")), to_uint16(ours.layers[0].rgba))


def test_premultiplied_tiff_is_straightened(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    alpha = np.full((4, 4, 1), 32768, np.uint16)
    array = np.concatenate([np.full((4, 4, 3), 16384, np.uint16), alpha], -1)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["assocalpha"])
    assert float(load_image(tmp_path / "a.tif").layers[0].pixels.mean()) == pytest.approx(0.5, abs=1e-4)


# Bad input


def png(width: int, height: int, bits: int, kind: int, raw: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def refused(path: Path | str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_image(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (Path(path).name, *words):
        assert word in message, message


def test_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.jpg").write_text("hello, world")
    refused(tmp_path / "text.jpg", "not a picture", ".png")
    refused(tmp_path / "missing.png", "no such file")
    refused(tmp_path, "folder")
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(tmp_path / "head.png", "damaged")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = as_stack(noise()).save(tmp_path / "a.png")
    path.chmod(0)
    refused(path, "cannot be read")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    refused(path, "damaged")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("missing", [6, 200, 3000])
def test_truncated_sixteen_bit(tmp_path: Path, suffix: str, missing: int) -> None:
    path = as_stack(noise(64, 64, 3, np.uint16)).save(tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[:-missing])
    refused(path, "damaged")


def test_damaged_inside(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        path = as_stack(noise(dtype=dtype)).save(tmp_path / "bad.png", overwrite=True)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        refused(path, "damaged")


def test_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    for bits, kind in ((8, 2), (16, 6), (1, 0)):
        (tmp_path / "bomb.png").write_bytes(png(50_000, 50_000, bits, kind, b"\0" * 100))
        refused(tmp_path / "bomb.png", "50000x50000", "300 million")
    path = as_stack(noise(10, 10)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="10x10"):
        load_image(path, max_pixels=99)
    assert load_image(path, max_pixels=100).width == 10


def test_a_large_camera_picture_is_not_a_bomb(tmp_path: Path) -> None:
    # 200 megapixels: Pillow's own limit would refuse it. The pixels are missing, so only the header is met.
    (tmp_path / "large.png").write_bytes(png(16320, 12240, 8, 2, b"\0" * 100))
    refused(tmp_path / "large.png", "damaged")


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_animation_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.new("RGB", (8, 8), (index * 80, 0, 0)) for index in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert count_frames(path) == 3
    refused(path, "3 frames", "stills")


def test_several_pages_of_tiff_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (8, 8), (index * 80, 0, 0)) for index in range(3)]
    frames[1].save(tmp_path / "a.tif", save_all=True, append_images=frames[2:])
    assert int(to_uint8(load_image(tmp_path / "a.tif").layers[0].pixels)[0, 0, 0]) == 80
    assert "2 pages" in caplog.text


def test_32_bit_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "32 bits")


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    array = noise()
    Image.fromarray(array).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\0\0")
    stack = load_image(tmp_path / "a.png")
    assert np.array_equal(to_uint8(stack.layers[0].pixels), array)
    stack.save(tmp_path / "b.tif")


# Saving


def test_never_overwrites_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    stack = as_stack(noise())
    with pytest.raises(InputError, match=r"a\.png.*overwrite"):
        stack.save(path)
    assert path.read_bytes() == b"precious"
    path.chmod(0o640)
    assert stack.save(path, overwrite=True) == path
    assert torch.equal(rgba(path), stack.layers[0].pixels)
    assert path.stat().st_mode & 0o777 == 0o640


def test_follows_links_and_refuses_devices(tmp_path: Path) -> None:
    target = tmp_path / "target.png"
    target.write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(target)
    as_stack(noise()).save(tmp_path / "link.png", overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    assert target.read_bytes() != b"old"
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="regular"):
        as_stack(noise()).save(tmp_path / "pipe.png", overwrite=True)


def test_missing_folder_and_folder_as_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder does not exist \(mkdir"):
        as_stack(noise()).save(tmp_path / "no" / "a.png")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        as_stack(noise()).save(tmp_path / "dir.png")


def fail_halfway(path: Path, error: BaseException) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    for error, kind in ((OSError(28, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(kind) as caught:
            fail_halfway(path, error)
        if kind is InputError:
            assert "disk is full" in str(caught.value)
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]
        assert path.read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_encoders_say_when_the_disk_is_full() -> None:
    for suffix in ("png", "jpg", "webp", "tif"):
        with pytest.raises(OSError, match="space"), open("/dev/full", "wb") as file:
            encode_still(torch.rand(3, 64, 64), Meta(), file, format=suffix)


def test_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = as_stack(noise()).save(tmp_path / "a.png")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_alpha_in_jpeg_needs_a_background(tmp_path: Path) -> None:
    array = noise(channels=4)
    array[..., 3] = 0
    stack = as_stack(array)
    with pytest.raises(FormatError) as caught:
        stack.save(tmp_path / "a.jpg")
    for suffix in (".png", ".webp", ".tif", ".ora", "background"):
        assert suffix in str(caught.value)
    assert ".jpg," not in str(caught.value)
    assert not list(tmp_path.iterdir())
    path = save_image(stack, tmp_path / "a.jpg", background=(1.0, 0.0, 0.0))
    assert np.abs(to_uint8(rgba(path)).astype(int) - [254, 0, 0]).max() <= 1
    array[..., 3] = 255
    as_stack(array).save(tmp_path / "opaque.jpg")  # alpha that hides nothing is nothing lost


def test_sixteen_bit_to_eight_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stack = as_stack(noise(dtype=np.uint16))
    stack.save(tmp_path / "a.webp")
    assert "16 bit" in caplog.text
    caplog.clear()
    assert load_image(stack.save(tmp_path / "b.png", bit_depth=8)).meta.bit_depth == 8
    assert "16 bit" in caplog.text
    with pytest.raises(FormatError, match=r"\.png, \.tif"):
        stack.save(tmp_path / "c.jpg", bit_depth=16)


def test_options_are_checked(tmp_path: Path) -> None:
    stack = as_stack(noise())
    with pytest.raises(ConfigError, match="colour_depth"):
        stack.save(tmp_path / "a.png", colour_depth=8)
    with pytest.raises(ConfigError, match="quality"):
        stack.save(tmp_path / "a.jpg", quality=101)
    with pytest.raises(ConfigError, match="bit depth"):
        stack.save(tmp_path / "a.png", bit_depth=12)
    small = stack.save(tmp_path / "a.webp", lossless=False, quality=20).stat().st_size
    assert small < stack.save(tmp_path / "b.webp").stat().st_size / 2


def test_formats_that_cannot_are_answered_with_those_that_can(tmp_path: Path) -> None:
    still = as_stack(noise())
    for name, word in (("a.xyz", ".png"), ("a.gif", ".png"), ("a.mp4", ".ora"), ("a", ".tif"), ("a.bmp", ".jpg")):
        with pytest.raises(FormatError) as caught:
            still.save(tmp_path / name)
        assert word in str(caught.value)
    with pytest.raises(FormatError, match="format"):
        files.save(still, "-")
    moving = LayerStack((Layer("a", torch.zeros(2, 3, 4, 4)),), fps=Fraction(8))
    with pytest.raises(FormatError, match=r"JPEG.*\.mov"):
        moving.save(tmp_path / "a.jpg")
    with pytest.raises(FormatError):
        save_image(moving, tmp_path / "a.png")
    (tmp_path / "what.xyz").write_bytes(b"1")
    with pytest.raises(FormatError, match=r"\.png"):
        files.load(tmp_path / "what.xyz")
    with pytest.raises(InputError, match="no such file"):
        files.load(tmp_path / "none.png")


def test_load_tells_a_still_by_its_content(tmp_path: Path) -> None:
    stack = as_stack(noise())
    assert torch.equal(LayerStack.load(stack.save(tmp_path / "a.png")).layers[0].pixels, stack.layers[0].pixels)
    path = stack.save(tmp_path / "A.TIFF")
    assert files.load(path).meta.source == "A.TIFF"


class Stream:
    """A stand-in for sys.stdin and sys.stdout."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)


def test_stdin_and_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = as_stack(noise(channels=4))
    for suffix in ("png", "tiff", "webp"):
        out = Stream()
        monkeypatch.setattr(sys, "stdout", out)
        files.save(stack, "-", format=suffix)
        monkeypatch.undo()
        monkeypatch.setattr(sys, "stdin", Stream(out.buffer.getvalue()))
        assert torch.equal(load_image("-").layers[0].rgba, stack.layers[0].rgba)
    monkeypatch.setattr(sys, "stdin", Stream())
    with pytest.raises(InputError, match="stdin"):
        load_image("-")


def test_composite_is_what_is_saved(tmp_path: Path) -> None:
    below = Layer("below", torch.full((3, 4, 4), 0.2))
    above = Layer("above", torch.full((3, 4, 4), 0.4), blend="add")
    path = LayerStack((below, above)).save(tmp_path / "a.png")
    assert float(rgba(path).mean()) == pytest.approx(0.6, abs=1e-6)


def test_wide_colours_are_clipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stack = LayerStack((Layer("a", torch.tensor([1.09, -0.2, 0.5]).reshape(3, 1, 1).expand(3, 2, 2).clone()),))
    stack.save(tmp_path / "a.png")
    assert "4 of 4 pixels" in caplog.text


def test_large_exif_in_jpeg_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    block = Image.Exif()
    block[0x010E] = "x" * 70_000
    stack = as_stack(noise())
    stack = LayerStack(stack.layers, meta=Meta(exif=block.tobytes()[6:]))
    load_image(stack.save(tmp_path / "a.jpg"))
    assert "do not fit" in caplog.text
    assert read_exif(stack.save(tmp_path / "a.png"))[0x010E] == "x" * 70_000


def test_text_of_other_chunks_is_no_obstacle(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Comment", "hello")
    Image.fromarray(noise()).save(tmp_path / "a.png", pnginfo=info)
    assert load_image(tmp_path / "a.png").meta.xmp is None


# Anything that is a picture


def test_as_stack_takes_every_kind(tmp_path: Path) -> None:
    array = noise()
    path = as_stack(array).save(tmp_path / "a.png")
    expected = from_array(array)
    with Image.open(path) as opened, path.open("rb") as file:
        kinds = [path, str(path), file, opened, Image.fromarray(array), array, expected, LayerStack.load(path)]
        kinds += [array / 255, (array / 255).astype(np.float32), torch.from_numpy(array).permute(2, 0, 1)]
        kinds += [array[::-1][::-1], np.asfortranarray(array), expected.double()]
        for kind in kinds:
            pixels = as_stack(kind).layers[0].pixels
            assert pixels.dtype == torch.float32
            torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)
    assert as_stack(noise(channels=1)[..., 0]).layers[0].pixels.shape == (3, 21, 34)
    assert as_stack(torch.rand(2, 4, 5)).layers[0].alpha is not None
    half = as_stack(torch.full((3, 2, 2), 0.5, dtype=torch.float16))
    assert float(half.layers[0].pixels.mean()) == 0.5


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((4, 4, 3), 200.0), "255"),
        (torch.full((3, 4, 4), 200.0), "divide by 255"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (torch.full((3, 4, 4), float("inf")), "infinite"),
        (torch.full((3, 4, 4), -0.5), "-0.5"),
        (np.zeros((4, 4, 5), np.uint8), "(4, 4, 5)"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
        (np.zeros(4, np.uint8), "(4,)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (torch.zeros(1, 3, 4, 4), "(1, 3, 4, 4)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (torch.zeros(5, 4, 3), "(5, 4, 3)"),
        (42, "int"),
    ],
)
def test_as_stack_refuses(image: object, words: str) -> None:
    with pytest.raises(PellucidError) as caught:
        as_stack(image)  # pyright: ignore
    assert words in str(caught.value)


def test_import_of_io_is_light() -> None:
    code = "import sys, pellucid.io; sys.exit(any(name in sys.modules for name in ('torch', 'PIL', 'av', 'numpy')))"
    assert os.system(f'"{sys.executable}" -c "{code}"') == 0
