"""Attributes of hand-drawn faces, whose answers can be read off the drawing."""

import math

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.attributes import ATTRIBUTES, measure
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet

SIDE, UNIT = 200, 136.0  # twice the 68 pixels from the eyes at 92 to the chin at 160

BOXES = {  # top, bottom, left, right
    "hair": (20, 170, 40, 160),
    "neck": (160, 200, 80, 120),
    "skin": (40, 160, 50, 150),
    "nose": (92, 120, 90, 110),
    "l_eye": (88, 96, 115, 135),
    "r_eye": (88, 96, 65, 85),
    "l_brow": (76, 82, 112, 138),
    "r_brow": (76, 82, 62, 88),
    "l_ear": (90, 110, 150, 156),
    "r_ear": (90, 110, 44, 50),
    "u_lip": (128, 134, 80, 120),
    "mouth": (134, 140, 80, 120),
    "l_lip": (140, 148, 80, 120),
}


def drawn(*without: str, **boxes: tuple[int, int, int, int]) -> Tensor:
    labels = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    for name, (top, bottom, left, right) in (BOXES | boxes).items():
        if name not in without:
            labels[top:bottom, left:right] = CELEBAMASK_HQ.id_of(name)
    return labels


def value(labels: Tensor, name: str, classes: ClassSet = CELEBAMASK_HQ) -> float:
    return float(measure(labels, classes, [name])[name][0])


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("nose_length", 28),
        ("nose_width", 20),
        ("mouth_width", 40),
        ("mouth_openness", 6),
        ("lip_thickness", 14),
        ("smile", -1),  # between the lips at 137, the corners' middle at 138
        ("eye_width", 20),
        ("eye_height", 8),
        ("eye_spacing", 50),
        ("brow_height", 13),
        ("brow_thickness", 6),
        ("brow_arch", 0),
        ("face_width", 100),
        ("hairline_height", 52),
        ("neck_width", 40),
    ],
)
def test_a_box_measures_its_sides(name: str, pixels: float) -> None:
    assert value(drawn(), name) * UNIT == pytest.approx(pixels, abs=0.02)


def test_areas_and_ratios() -> None:
    assert value(drawn(), "face_height") == pytest.approx(UNIT / SIDE, abs=1e-4)
    assert value(drawn(), "jaw_squareness") == pytest.approx(1.0, abs=1e-4)
    assert value(drawn(), "ear_visibility") == pytest.approx(2 * 20 * 6 / UNIT**2, abs=1e-5)
    # Above the skin, and beside it without the ears; below it the hull of the skin has ended.
    hair = 120 * 20 + 2 * (120 * 10 - 20 * 6) + 10 * (120 - 40)
    assert value(drawn(), "hair_volume") == pytest.approx(hair / UNIT**2, rel=0.02)


def test_every_attribute_is_measured_and_follows_the_size_of_the_picture() -> None:
    small = measure(drawn(), CELEBAMASK_HQ)
    large = measure(drawn().repeat_interleave(2, 0).repeat_interleave(2, 1), CELEBAMASK_HQ)
    assert small.keys() == ATTRIBUTES.keys()
    for name in ATTRIBUTES.keys() - {"hair_curliness"}:
        assert float(large[name][0]) == pytest.approx(float(small[name][0]), abs=0.003), name


@pytest.mark.parametrize(
    ("name", "box", "rises"),
    [
        ("hair_length", {"hair": (20, 190, 40, 160)}, True),
        ("hair_volume", {"hair": (10, 170, 30, 170)}, True),
        ("hairline_height", {"skin": (60, 160, 50, 150)}, False),
        ("eye_height", {"l_eye": (86, 98, 115, 135)}, True),
        ("brow_height", {"l_brow": (70, 76, 112, 138)}, True),
    ],
)
def test_a_larger_part_measures_more(name: str, box: dict[str, tuple[int, int, int, int]], rises: bool) -> None:
    assert (value(drawn(**box), name) > value(drawn(), name) + 0.01) == rises
    assert (value(drawn(**box), name) < value(drawn(), name) - 0.01) != rises


def test_raised_corners_are_a_smile_and_an_opening_is_not() -> None:
    smiling = drawn()
    for left, right in ((80, 86), (114, 120)):
        moved = smiling[128:148, left:right].clone()
        smiling[128:148, left:right] = CELEBAMASK_HQ.id_of("skin")
        smiling[122:142, left:right] = moved
    assert (value(smiling, "smile") - value(drawn(), "smile")) * UNIT == pytest.approx(6, abs=0.1)
    wider = drawn(u_lip=(124, 130, 80, 120), mouth=(130, 144, 80, 120), l_lip=(144, 152, 80, 120))
    assert value(wider, "smile") == pytest.approx(value(drawn(), "smile"), abs=1e-3)


def test_waves_of_the_outline_are_curls() -> None:
    row, column = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    angle, radius = torch.atan2(row - 120, column - 128), torch.hypot(row - 120, column - 128)

    def head(depth: float) -> Tensor:
        labels = torch.zeros(256, 256, dtype=torch.uint8)
        labels[radius < 90 + depth * torch.sin(24 * angle)] = CELEBAMASK_HQ.id_of("hair")
        labels[radius < 60] = CELEBAMASK_HQ.id_of("skin")
        labels[100:104, 100:156] = CELEBAMASK_HQ.id_of("l_eye")
        return labels

    straight, wavy, curly = (value(head(depth), "hair_curliness") for depth in (0.0, 3.0, 6.0))
    assert abs(straight) < 0.1
    assert straight + 0.05 < wavy < curly - 0.05


def test_stray_pixels_move_nothing() -> None:
    labels = drawn()
    labels[[3, 190, 5], [3, 4, 196]] = CELEBAMASK_HQ.id_of("nose")
    for name in ("nose_length", "nose_width", "face_height"):
        assert value(labels, name) == pytest.approx(value(drawn(), name), rel=0.03), name


def test_what_is_not_there_is_nan_and_glasses_stand_for_the_eyes() -> None:
    shut = drawn("mouth")
    assert value(shut, "mouth_openness") == 0.0
    assert math.isnan(value(drawn("u_lip", "l_lip", "mouth"), "mouth_width"))
    assert math.isnan(value(drawn("hair"), "hair_volume"))
    assert math.isnan(value(torch.zeros(SIDE, SIDE, dtype=torch.uint8), "nose_length"))
    hidden = drawn("l_eye", "r_eye", eye_g=(84, 100, 60, 140))
    assert math.isnan(value(hidden, "eye_height"))
    assert value(hidden, "face_width") == pytest.approx(value(drawn(), "face_width"), abs=0.002)


def test_another_class_set_measures_what_it_has() -> None:
    six = ClassSet("six", ("background", "skin", "hair", "nose", "mouth", "eyes"))
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[10:60, 16:48] = 1
    labels[30:40, 28:36] = 3
    found = measure(labels, six)
    assert float(found["nose_length"]) == pytest.approx(10 / 60, abs=1e-3)  # from the nose's top, 30 above the chin
    assert all(bool(found[name].isnan()) for name in ("eye_width", "ear_visibility", "brow_arch", "lip_thickness"))


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ConfigError, match="nose_size"):
        measure(drawn(), CELEBAMASK_HQ, ["nose_size"])
    with pytest.raises(InputError, match=r"\(1, 3, 8, 8\)"):
        measure(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), CELEBAMASK_HQ)
    assert measure(torch.zeros(0, 8, 8, dtype=torch.uint8), CELEBAMASK_HQ)["smile"].shape == (0,)
