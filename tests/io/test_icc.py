"""Profiles of a matrix and curves: against littlecms, against published numbers, and there and back."""

from io import BytesIO

import numpy as np
import profiles
import pytest
import torch
from PIL import Image, ImageCms

from pellucid.io import icc
from pellucid.io.arrays import from_array, quantise, to_uint8

STEPS = np.linspace(0, 1, 1024)
SRGB_STEPS = np.where(STEPS <= 0.04045, STEPS / 12.92, ((STEPS + 0.055) / 1.055) ** 2.4)
WIDE = {
    "display-p3": profiles.DISPLAY_P3,
    "adobe-rgb": profiles.ADOBE_RGB,
    "prophoto": profiles.rgb(profiles.PROPHOTO, profiles.gamma(1.8)),
    "p3-table": profiles.rgb(profiles.P3, profiles.table(SRGB_STEPS)),
    "p3-linear": profiles.rgb(profiles.P3, profiles.gamma(1.0)),
}


def wide(name: str) -> icc.MatrixProfile:
    profile = icc.parse(WIDE[name])
    assert profile is not None
    return profile


@pytest.mark.parametrize("name", WIDE)
def test_agrees_with_littlecms_inside_srgb(name: str) -> None:
    array = np.random.default_rng(0).integers(90, 160, (40, 40, 3)).astype(np.uint8)
    source = ImageCms.ImageCmsProfile(BytesIO(WIDE[name]))
    image = ImageCms.profileToProfile(Image.fromarray(array), source, ImageCms.createProfile("sRGB"), 1)
    ours = wide(name).to_srgb(from_array(array))
    inside = ((ours > 0.02) & (ours < 0.98)).all(dim=0).numpy()
    assert inside.mean() > 0.5
    difference = to_uint8(ours).astype(int) - np.asarray(image).astype(int)
    assert np.abs(difference[inside]).max() <= 1


def test_p3_red_lies_where_css_color_says() -> None:
    # color(display-p3 1 0 0) in sRGB, CSS Color 4: 1.0930, -0.2267, -0.1501
    red = wide("display-p3").to_srgb(torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)).flatten()
    torch.testing.assert_close(red, torch.tensor([1.0930, -0.2267, -0.1501]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("bits", [8, 16])
def test_comes_back(name: str, bits: int) -> None:
    top = 2**bits
    rng = np.random.default_rng(1)
    array = rng.integers(0, top, (60, 60, 3)).astype(f"u{bits // 8}")
    array[:20] = rng.choice([0, 1, 2, top - 2, top - 1], (20, 60, 3))  # the corners, where float32 is hardest pressed
    profile = wide(name)
    pixels = icc.apply_in_place(from_array(array), profile.to_srgb)
    off = np.abs(quantise(pixels, bits, profile.from_srgb).astype(int) - array)
    if bits == 16 and name in ("adobe-rgb", "prophoto"):
        # Their curves have no straight part at black: beside a saturated channel the darkest levels are closer together
        # than float32 tells apart. On 8 bits that is far below one level.
        assert off.max() <= 50
        assert off[array.min(axis=-1) > 2000].max() <= 1
    else:
        assert off.max() == 0


def test_srgb_by_any_name_is_identity() -> None:
    for curve in (profiles.para(3, *profiles.SRGB_CURVE), profiles.table(SRGB_STEPS)):
        profile = icc.parse(profiles.rgb(profiles.SRGB, curve))
        assert profile is not None
        assert profile.is_srgb
    own = icc.parse(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert own is not None
    assert own.is_srgb
    gamma22 = icc.parse(profiles.rgb(profiles.SRGB, profiles.gamma(2.2)))
    assert gamma22 is not None
    assert not gamma22.is_srgb
    assert not wide("display-p3").is_srgb


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (profiles.gamma(2.0), lambda x: x**2),
        (b"curv" + bytes(8), lambda x: x),
        (profiles.table(STEPS**2), lambda x: x**2),
        (profiles.para(0, 1.8), lambda x: x**1.8),
        (profiles.para(1, 2.0, 1.25, -0.25), lambda x: np.where(x >= 0.2, (1.25 * x - 0.25) ** 2, 0)),
        (profiles.para(2, 2.0, 0.75, 0.0, 0.25), lambda x: (0.75 * x) ** 2 + 0.25),
        (profiles.para(3, *profiles.SRGB_CURVE), lambda x: np.interp(x, STEPS, SRGB_STEPS)),
        (profiles.para(4, 2.0, 0.5, 0.5, 0.5, 0.25, 0.0, 0.25), lambda x: np.where(x >= 0.25, (x + 1) ** 2 / 4, 0)),
    ],
    ids=["gamma", "identity", "table", "para0", "para1", "para2", "para3", "para4"],
)
def test_curve_types(curve: bytes, expected) -> None:
    profile = icc.parse(profiles.rgb(profiles.SRGB, curve))
    assert profile is not None
    x = np.linspace(0.3, 1, 50)
    light = profile.curves[0].decode(torch.from_numpy(x))
    np.testing.assert_allclose(light.numpy(), expected(x), atol=3e-5)
    np.testing.assert_allclose(profile.curves[0].encode(light).numpy(), x, atol=1e-6)


def test_transfer_curve_is_odd_and_its_own_inverse() -> None:
    x = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    torch.testing.assert_close(icc.srgb_encode(icc.srgb_decode(x)), x, atol=1e-7, rtol=0)
    torch.testing.assert_close(icc.srgb_decode(-x), -icc.srgb_decode(x))
    assert float(icc.srgb_decode(torch.tensor(0.5, dtype=torch.float64))) == pytest.approx(0.214041, abs=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a profile" * 20,
        profiles.DISPLAY_P3[:300],
        profiles.profile({b"A2B0": bytes(40)}),
        profiles.rgb(profiles.P3, profiles.table(1 - STEPS)),
        profiles.rgb(profiles.P3, b"para\0\0\0\0\0\x09\0\0" + bytes(40)),
        profiles.rgb(profiles.P3, profiles.para(3, 2.4, 0.5, -0.9, 0.1, 0.5)),
        profiles.rgb(profiles.P3, profiles.para(1, 3000.0, 3000.0, 0.0)),
        profiles.rgb(((0.0,) * 3,) * 3, profiles.gamma(2.2)),
        profiles.profile({b"kTRC": profiles.gamma(2.2)}, b"GRAY"),
    ],
    ids=[
        "empty",
        "noise",
        "cut",
        "lookup",
        "falling",
        "unknown-curve",
        "negative-base",
        "overflow",
        "singular",
        "grey",
    ],
)
def test_what_cannot_be_used_is_none(data: bytes) -> None:
    assert icc.parse(data) is None


def test_grey_curve() -> None:
    curve = icc.parse_gray(profiles.profile({b"kTRC": profiles.gamma(2.0)}, b"GRAY"))
    assert curve is not None
    assert float(curve.decode(torch.tensor(0.5, dtype=torch.float64))) == pytest.approx(0.25)
    assert icc.parse_gray(profiles.DISPLAY_P3) is None
