"""Pairs on disk in every published layout, batches that follow from their index, and the statistics of glass."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pellucid.data.bank import PixelBank
from pellucid.errors import ConfigError, InputError
from pellucid.layers import Layer, LayerStack
from pellucid.multistep_sirr.blending import BlendOptions
from pellucid.multistep_sirr.data import (
    LAYOUTS,
    BlendBatches,
    Pair,
    PairBatches,
    error_statistics,
    find_pairs,
    read_pair,
    relight,
)

Save = Callable[[Path, Tensor], Path]
CPU = torch.device("cpu")

# Mixture, transmission and, where there is one, reflection of two scenes, beside files that must not be taken.
FILES: dict[str, tuple[list[tuple[str, str, str | None]], list[str]]] = {
    "flashrr": (
        [
            ("a_ambient.png", "a_ambient_T.png", "a_ambient_R.png"),
            ("train/others/b_ambient.jpg", "train/others/b_ambient_T.png", None),
        ],
        ["a_flash.png", "a_pureflash.png", "train/others/c_ambient.png"],
    ),
    "folders": (
        [
            ("blended/1.png", "transmission_layer/1.jpg", "reflection_layer/1.png"),
            ("wild/blended/2.png", "wild/transmission_layer/2.png", None),
        ],
        ["blended/3.png", "transmission_layer/4.png"],
    ),
    "ceilnet": (
        [
            ("1-input.png", "1-label1.png", "1-label2.png"),
            ("more/2-input.png", "more/2-label1.png", None),
        ],
        ["3-input.png"],
    ),
    "sir2": (
        [("001/m.png", "001/g.png", "001/r.png"), ("002/m1.jpg", "002/g1.jpg", None)],
        ["003/m.png"],
    ),
}


def tiny(seed: int, height: int = 20, width: int = 24) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def lay_out(tmp_path: Path, save_picture: Save) -> Callable[[str], Path]:
    def make(layout: str) -> Path:
        scenes, others = FILES[layout]
        for number, name in enumerate([file for scene in scenes for file in scene if file] + others):
            save_picture(tmp_path / layout / name, tiny(number))
        return tmp_path / layout

    return make


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("asked", [True, False])
def test_layouts_are_found(layout: str, asked: bool, lay_out: Callable[[str], Path]) -> None:
    root = lay_out(layout)
    pairs = find_pairs(root, layout if asked else "auto")
    found = {(pair.mixture, pair.transmission, pair.reflection) for pair in pairs}
    expected = {tuple(root / name if name else None for name in scene) for scene in FILES[layout][0]}
    assert found == expected
    assert len({pair.name for pair in pairs}) == len(pairs)
    assert find_pairs(str(root)) == pairs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixtures_without_a_truth_are_named(
    layout: str, lay_out: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = lay_out(layout)
    with caplog.at_level("WARNING", logger="pellucid"):
        find_pairs(root)
    assert sum("left out" in record.getMessage() for record in caplog.records) == 1


def test_pictures_only(tmp_path: Path, save_picture: Save) -> None:
    for name in ("a_ambient.png", "a_ambient_T.png"):
        save_picture(tmp_path / name, tiny(0))
    (tmp_path / "b_ambient.txt").write_text("no picture")
    (tmp_path / "b_ambient_T.txt").write_text("no picture")
    assert [pair.name for pair in find_pairs(tmp_path)] == ["a"]


def test_upper_case_suffixes_count(tmp_path: Path, save_picture: Save) -> None:
    save_picture(tmp_path / "blended" / "1.PNG", tiny(0))
    save_picture(tmp_path / "transmission_layer" / "1.JPG", tiny(1))
    (pair,) = find_pairs(tmp_path)
    assert pair.transmission.name == "1.JPG"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data folder .*gone is not there"):
        find_pairs(tmp_path / "gone")


def test_a_folder_without_pairs_names_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pairs") as caught:
        find_pairs(tmp_path)
    assert all(name in caught.value.hint for name in LAYOUTS)
    assert "\n" not in str(caught.value)


def test_a_layout_that_finds_nothing_does_not_try_another(lay_out: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="holds no pairs"):
        find_pairs(lay_out("ceilnet"), "flashrr")


def test_an_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout 'flash' is not known"):
        find_pairs(tmp_path, "flash")


# Reading


def test_a_pair_is_read_at_its_own_size(tmp_path: Path, save_picture: Save) -> None:
    I, T, R = (save_picture(tmp_path / f"{name}.png", tiny(seed)) for seed, name in enumerate("ITR"))  # noqa: E741
    batch = read_pair(Pair("scene", I, T, R))
    for seed, picture in enumerate((batch.mixture, batch.transmission, batch.reflection)):
        assert torch.allclose(picture[0], (tiny(seed) * 255).round() / 255, atol=1e-6)
    assert batch.has_reflection.tolist() == [True]


def test_a_missing_reflection_is_derived(tmp_path: Path, save_picture: Save) -> None:
    I, T = (save_picture(tmp_path / f"{name}.png", tiny(seed)) for seed, name in enumerate("IT"))  # noqa: E741
    batch = read_pair(Pair("scene", I, T))
    assert torch.equal(batch.reflection, (batch.mixture - batch.transmission).clamp(0, 1))
    assert batch.has_reflection.tolist() == [False]


@pytest.mark.parametrize("odd", ["transmission", "reflection"])
def test_sizes_that_differ_are_named(odd: str, tmp_path: Path, save_picture: Save) -> None:
    names = ("mixture", "transmission", "reflection")
    files = {name: save_picture(tmp_path / f"{name}.png", tiny(0, 21 if name == odd else 20)) for name in names}
    with pytest.raises(InputError, match=rf"scene 7: .*{odd}.*20.*21") as caught:
        read_pair(Pair("scene 7", **files))
    assert "\n" not in str(caught.value)


def test_colours_outside_srgb_are_brought_inside(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    wide = LayerStack((Layer("image", tiny(0) * 1.4 - 0.2),))
    monkeypatch.setattr("pellucid.multistep_sirr.data.load_image", lambda path: wide)
    with caplog.at_level("INFO", logger="pellucid"):
        batch = read_pair(Pair("wide", Path("wide.png"), Path("wide.png")))
    assert torch.equal(batch.mixture[0], wide.layers[0].pixels.clamp(0, 1))
    assert "wide.png: colours outside sRGB are clipped" in caplog.text


# Real pairs in batches


@pytest.fixture
def numbered(tmp_path: Path, save_picture: Save) -> list[Pair]:
    """Five pairs whose pixels say where they are: red and green the place, blue the number of the pair."""
    pairs = []
    y, x = torch.meshgrid(torch.arange(40.0) / 255, torch.arange(56.0) / 255, indexing="ij")
    for number in range(5):
        place = torch.stack([y, x, torch.full_like(x, number / 255)])
        parts = [place, place[[1, 2, 0]], place[[2, 0, 1]]]
        files = [save_picture(tmp_path / f"{number}{role}.png", part) for role, part in zip("ITR", parts, strict=True)]
        pairs.append(Pair(str(number), *files))
    return pairs


def batches(
    pairs: list[Pair], *, batch: int = 5, crop: int = 32, seed: int = 0, process: tuple[int, int] = (0, 1)
) -> PairBatches:
    return PairBatches(pairs, batch, crop, seed, process, CPU)


def numbers(mixture: Tensor) -> list[int]:
    return (mixture[:, 2, 0, 0] * 255).round().int().tolist()


def test_the_three_pictures_stay_aligned(numbered: list[Pair]) -> None:
    turned: set[tuple[bool, bool]] = set()
    for index in range(6):
        made = batches(numbered)(index)
        assert made.mixture.shape == (5, 3, 32, 32)
        assert torch.equal(made.transmission, made.mixture[:, [1, 2, 0]])
        assert torch.equal(made.reflection, made.mixture[:, [2, 0, 1]])
        assert made.has_reflection.all()
        for picture in made.mixture:
            down = picture[:2, 1, 0] - picture[:2, 0, 0]  # how place changes from row to row
            turned.add((bool(down[0].abs() > 1e-3), bool(down.sum() > 0)))
    assert len(turned) == 4  # rows or columns, forwards or backwards


def test_crops_come_from_everywhere(numbered: list[Pair]) -> None:
    made = torch.cat([batches(numbered, crop=16)(index).mixture for index in range(10)])
    tops = made[:, 0].amin((1, 2)) * 255
    lefts = made[:, 1].amin((1, 2)) * 255
    assert tops.min() <= 4
    assert tops.max() >= 20
    assert lefts.min() <= 6
    assert lefts.max() >= 34


def test_an_epoch_sees_every_pair_once_in_a_new_order(numbered: list[Pair]) -> None:
    epochs = [numbers(batches(numbered)(index).mixture) for index in range(4)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    crossing = [number for index in range(5) for number in numbers(batches(numbered, batch=2)(index).mixture)]
    assert sorted(crossing[:5]) == sorted(crossing[5:]) == [0, 1, 2, 3, 4]


def test_two_processes_draw_disjoint_parts(numbered: list[Pair]) -> None:
    pairs = numbered[:4]
    for index in range(3):
        first, second = (numbers(batches(pairs, batch=2, process=(rank, 2))(index).mixture) for rank in (0, 1))
        assert sorted(first + second) == [0, 1, 2, 3]


def test_a_batch_follows_from_seed_and_index(numbered: list[Pair]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    source = batches(numbered)
    expected = source(3).mixture
    source(0)
    assert torch.equal(source(3).mixture, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batches(numbered)(3).mixture, expected)
    assert not torch.equal(batches(numbered, seed=1)(3).mixture, expected)
    assert not torch.equal(batches(numbered)(4).mixture, expected)


def test_small_pictures_make_the_crop_small(tmp_path: Path, save_picture: Save) -> None:
    small = Pair(
        "s", save_picture(tmp_path / "s.png", tiny(0, 20, 40)), save_picture(tmp_path / "t.png", tiny(1, 20, 40))
    )
    large = Pair(
        "l", save_picture(tmp_path / "l.png", tiny(2, 50, 60)), save_picture(tmp_path / "m.png", tiny(3, 50, 60))
    )
    made = batches([small, large], batch=2)(0)
    assert made.mixture.shape == (2, 3, 16, 16)
    assert not made.has_reflection.any()
    assert torch.equal(made.reflection, (made.mixture - made.transmission).clamp(0, 1))


def test_pictures_too_small_for_the_network_are_named(tmp_path: Path, save_picture: Save) -> None:
    file = save_picture(tmp_path / "s.png", tiny(0, 15, 40))
    with pytest.raises(InputError, match=r"thin: .*at least 16 pixels, found 40 x 15"):
        batches([Pair("thin", file, file)], batch=1)(0)


# Blends in batches


@pytest.fixture(scope="module")
def bank() -> PixelBank:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 6, 6, generator=generator)
    drawn = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1)
    return PixelBank.from_pictures((drawn * 255).round().to(torch.uint8), side=48)


def blends(bank: PixelBank, **changes: object) -> BlendBatches:
    settings: dict = {"batch": 3, "crop": 32, "scale": (0.7, 1.0), "options": BlendOptions(), "seed": 0} | changes
    return BlendBatches([(bank, 1.0)], **settings)


def test_blends_follow_from_seed_process_and_index(bank: PixelBank) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    source = blends(bank)
    expected = source(5)
    source(2)
    again = blends(bank)(5)
    for name in ("mixture", "transmission", "reflection", "has_reflection"):
        assert torch.equal(getattr(again, name), getattr(expected, name))
        assert torch.equal(getattr(source(5), name), getattr(expected, name))
    assert torch.equal(torch.get_rng_state(), state)
    others = [blends(bank)(6), blends(bank, seed=1)(5), blends(bank, process=(1, 2))(5)]
    assert not any(torch.equal(other.mixture, expected.mixture) for other in others)


def test_processes_share_the_stream_out(bank: PixelBank) -> None:
    alone = [blends(bank)(index).mixture for index in range(4)]
    shared = [blends(bank, process=(rank, 2))(index).mixture for index in (0, 1) for rank in (0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))


def test_blends_have_the_shape_and_range_of_a_batch(bank: PixelBank) -> None:
    made = blends(bank)(0)
    for picture in (made.mixture, made.transmission, made.reflection):
        assert picture.shape == (3, 3, 32, 32)
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert torch.equal(made.reflection, (made.mixture - made.transmission).clamp(0, 1))
    assert made.has_reflection.tolist() == [True] * 3


def test_banks_are_drawn_by_their_shares() -> None:
    dark, bright = (
        PixelBank.from_pictures(torch.full((3, 3, 16, 16), v, dtype=torch.uint8), side=16) for v in (0, 255)
    )
    options = BlendOptions(shares={"flashrr": 1.0}, veil=0, clean=0, ghost=0)
    source = BlendBatches([(dark, 1.0), (bright, 3.0)], 100, 16, (1.0, 1.0), options, seed=0, relit=0)
    share = (source(0).transmission.mean((1, 2, 3)) > 0.5).float().mean()
    assert 0.6 < share < 0.9


def test_blending_needs_three_pictures() -> None:
    two = PixelBank.from_pictures(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), side=16)
    with pytest.raises(InputError, match="at least 3 pictures"):
        blends(two)


# Light and statistics


def test_relight_dims_a_share_of_the_pictures() -> None:
    grey = torch.full((64, 3, 4, 4), 0.5)

    def linear(share: float) -> Tensor:
        lit = relight(grey, torch.Generator().manual_seed(0), share)
        assert lit.min() >= 0
        assert lit.max() <= 1
        return lit.mean((1, 2, 3))

    never, always = linear(0.0), linear(1.0)
    ratio = always / never
    assert torch.equal(linear(0.0), never)
    # Dimmed by up to a factor of 2 in linear light, followed by a contrast that is the same in both.
    assert (ratio <= 1.001).all()
    assert ratio.min() > 0.5 ** (math.exp(0.25) / 2.2) - 0.01
    assert ratio.min() < 0.8
    assert never.std() > 0.01
    some = linear(0.3) / never
    assert 0.1 < (some < 0.99).float().mean() < 0.5


def test_relight_stays_in_range_on_any_picture() -> None:
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    x[0], x[1] = 0, 1
    lit = relight(x, torch.Generator().manual_seed(0), 0.5)
    assert lit.isfinite().all()
    assert lit.min() >= 0
    assert lit.max() <= 1
    assert lit[0].max() < 0.03


def test_statistics_of_a_veil_by_hand() -> None:
    T = tiny(0, 40, 60)
    found = error_statistics(0.8 * T + 0.1, T)
    error = 0.1 - 0.2 * T
    assert found["mean"] == pytest.approx(error.mean().item(), abs=1e-6)
    assert found["psnr"] == pytest.approx(-10 * math.log10(error.square().mean().item()), abs=1e-3)
    assert found["contrast"] == pytest.approx(0.8, abs=1e-5)
    assert found["offset"] == pytest.approx(0.1, abs=1e-5)
    assert found["affine_psnr"] > 80
    assert found["constant"] == pytest.approx(
        (error.mean((1, 2)).square().mean() / error.square().mean()).item(), rel=1e-3
    )
    assert error_statistics((0.8 * T + 0.1)[None], T[None]) == found


def test_statistics_tell_smooth_from_sharp() -> None:
    T = torch.full((3, 80, 80), 0.5)
    offset = error_statistics(T + 0.1, T)
    assert offset["constant"] == pytest.approx(1, abs=1e-3)
    assert offset["smooth"] == pytest.approx(1, abs=1e-3)
    noise = error_statistics(T + 0.1 * (tiny(0, 80, 80) - 0.5), T)
    assert noise["smooth"] < 0.1
    assert noise["constant"] < 0.01
