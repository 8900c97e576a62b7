"""Clips with alpha as files: what is read back, what lies below alpha 0, and that a file says how it was made."""

import json
import logging
import resource
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.backdrop import open_backdrop
from pellucid.io.export import Export, check_export, export_clip, targets
from pellucid.io.settings import read_settings, settings_of, sidecar_path
from pellucid.io.sprites import grid, load_sheet
from pellucid.io.video import VideoWriter, load_video
from pellucid.layers import Layer, LayerStack, Meta
from pellucid.layers.padding import fill_invisible

FRAMES, SIZE, FPS = 5, 64, Fraction(8)
EXACT = (".png", ".apng", ".webp", "")
ALL = (*EXACT, ".mov", ".webm", ".gif", ".sheet.png")


def clip(bit_depth: int = 8) -> LayerStack:
    """An orange ball with a soft rim that moves, on nothing, whose hidden colour is an ugly blue."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    rims = [(18 - torch.hypot(x - 24.0 - 3 * t, y - 32.0)) / 6 for t in range(FRAMES)]
    alpha = torch.stack(rims)[:, None].clamp(0, 1).mul(255).round().div(255)  # (T, 1, H, W)
    orange, blue = torch.tensor([1.0, 0.6, 0.2]), torch.tensor([0.0, 0.0, 1.0])
    pixels = torch.where(alpha > 0, orange.reshape(3, 1, 1), blue.reshape(3, 1, 1)).contiguous()
    parameters = {"prompt": 'a "ball" & <more>, größer', "steps": 12, "padded": True}
    meta = Meta(method="layer_animate", weights="random", seed=7, parameters=parameters, bit_depth=bit_depth)
    return LayerStack((Layer("foreground", pixels, alpha),), fps=FPS, meta=meta)


def read(path: Path) -> Tensor:
    stack = load_sheet(path) if path.name.endswith(".sheet.png") else load_video(path)
    assert stack.fps == FPS
    return stack.layers[0].rgba


@pytest.mark.parametrize("suffix", ALL)
def test_alpha_comes_back_within_what_the_format_can(tmp_path: Path, suffix: str) -> None:
    stack = clip()
    path, *_ = export_clip(stack, tmp_path / f"a{suffix}")
    assert path == tmp_path / f"a{suffix}"
    found, alpha = read(path), stack.layers[0].alpha
    assert alpha is not None
    assert found.shape == (FRAMES, 4, SIZE, SIZE)
    worst = float((found[:, 3:] - alpha).abs().max()) * 255
    if suffix == ".gif":
        assert torch.equal(found[:, 3:], (alpha >= 0.5).float())
    else:
        assert worst <= {".mov": 1, ".webm": 2}.get(suffix, 0) + 1e-3
    solid, gone = alpha == 1, alpha == 0
    assert float(found[:, 3:][solid].min()) >= {".webm": 253 / 255 - 1e-6}.get(suffix, 1)
    assert float(found[:, 3:][gone].max()) <= {".webm": 2 / 255 + 1e-6}.get(suffix, 0)
    shown = (found[:, :3] - stack.layers[0].pixels).abs()[solid.expand(-1, 3, -1, -1)]
    assert float(shown.max()) <= (2 / 255 if suffix in (*EXACT, ".sheet.png") else 8 / 255)


@pytest.mark.parametrize("suffix", [".mov", ".webm"])
def test_alpha_that_is_grain_comes_back_as_well(tmp_path: Path, suffix: str) -> None:
    layer = clip().layers[0]
    grain = torch.rand(layer.pixels[:, :1].shape, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    noisy = replace(clip(), layers=(replace(layer, alpha=grain),))
    path, *_ = export_clip(noisy, tmp_path / f"a{suffix}")
    worst = float((read(path)[:, 3:] - grain).abs().max()) * 255
    assert worst <= {".mov": 1, ".webm": 2}[suffix] + 1e-3
    export_clip(clip(), tmp_path / f"b{suffix}")
    sizes = [(tmp_path / f"{name}{suffix}").stat().st_size for name in "ab"]
    assert sizes[1] < sizes[0] / 4  # what is smooth is not written as if it were grain
    if suffix == ".webm":
        export_clip(noisy, tmp_path / "c.webm", Export(crf=40))
        assert (tmp_path / "c.webm").stat().st_size < sizes[0] / 2


@pytest.mark.parametrize("suffix", [*EXACT, ".mov", ".sheet.png"])
def test_hidden_colour_is_padded_unless_it_is_to_stay(tmp_path: Path, suffix: str) -> None:
    stack = clip()
    padded, *_ = export_clip(stack, tmp_path / f"a{suffix}")
    as_it_is, *_ = export_clip(stack, tmp_path / f"b{suffix}", Export(padded=False))
    hidden = (stack.layers[0].alpha == 0).expand(-1, 3, -1, -1)  # type: ignore[union-attr]
    wanted = fill_invisible(stack.layers[0].rgba)[:, :3][hidden]
    assert float((read(padded)[:, :3][hidden] - wanted).abs().max()) < 0.02  # orange, as the ball
    assert float((read(as_it_is)[:, :3][hidden] - stack.layers[0].pixels[hidden]).abs().max()) < 0.02  # blue


def test_a_stack_that_was_made_asks_for_padding_when_it_saves_itself(tmp_path: Path) -> None:
    stack = clip()
    stack.save(tmp_path / "a.webp")
    replace(stack, meta=Meta()).save(tmp_path / "b.webp")
    stack.save(tmp_path / "c.webp", padded=False)
    corners = [load_video(tmp_path / f"{name}.webp").layers[0].pixels[0, :, 0, 0].round().tolist() for name in "abc"]
    assert corners == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_alpha_that_rounds_to_nothing_has_no_colour_of_its_own(tmp_path: Path) -> None:
    frame = torch.tensor([0.2, 0.4, 0.6, 1.0]).reshape(4, 1, 1).repeat(1, 8, 8)
    frame[:, :, 4:] = torch.tensor([1.0, 0.0, 0.0, 0.001]).reshape(4, 1, 1)
    with VideoWriter(tmp_path / "a.webp", 8, 8, 8, True, padded=True) as writer:
        writer.write(frame)
        writer.write(frame)
    found = load_video(tmp_path / "a.webp").layers[0].rgba[0, :, 4, 6]
    assert torch.allclose(found, torch.tensor([0.2, 0.4, 0.6, 0.0]), atol=1e-3)


@pytest.mark.parametrize("suffix", ["", ".mov", ".sheet.png"])
def test_premultiplied_is_colour_times_alpha_and_says_so(tmp_path: Path, suffix: str) -> None:
    stack = clip()
    path, *others = export_clip(stack, tmp_path / f"a{suffix}", Export(premultiplied=True))
    assert path.name == f"a_premultiplied{suffix}"
    found = read(path)
    layer = stack.layers[0]
    assert layer.alpha is not None
    assert float((found[:, :3] - layer.pixels * layer.alpha).abs().max()) <= 3 / 255
    said = json.loads(others[0].read_text())
    assert said.get("alpha", said.get("meta", {}).get("settings", {}).get("alpha")) == "premultiplied"
    named = export_clip(stack, tmp_path / f"my_premultiplied_ball{suffix}", Export(premultiplied=True))[0]
    assert named.name == f"my_premultiplied_ball{suffix}"


@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_split_gives_colour_and_alpha_as_two_films(tmp_path: Path, suffix: str) -> None:
    stack = clip()
    written = export_clip(stack, tmp_path / f"a{suffix}", Export(split=True, sidecar=False))
    assert [path.name for path in written] == [f"a_rgb{suffix}", f"a_alpha{suffix}"]
    colour, alpha = (load_video(path).layers[0] for path in written)
    assert colour.alpha is None
    assert float((alpha.pixels[:, :1] - stack.layers[0].alpha).abs().mean()) < 2 / 255
    assert colour.pixels[0, :, 0, 0].round().tolist() == [1, 1, 0]  # padded


def test_sixteen_bits_stay_where_the_format_has_them(tmp_path: Path) -> None:
    stack = clip()
    fine = stack.layers[0].alpha * 0.5 + 0.001  # type: ignore[operator]
    stack = replace(stack, layers=(replace(stack.layers[0], alpha=fine),))
    for name in ("a", "a.apng", "a.sheet.png"):
        path, *_ = export_clip(stack, tmp_path / name, Export(bit_depth=16))
        assert float((read(path)[:, 3:] - fine).abs().max()) < 1 / 65535
    deep = replace(stack, meta=replace(stack.meta, bit_depth=16))
    for name in ("c", "c.webp"):  # as the stack says, where the format can
        export_clip(deep, tmp_path / name)
    assert torch.equal(read(tmp_path / "c")[:, 3:], read(tmp_path / "a")[:, 3:])
    with pytest.raises(FormatError, match=r"8 bits.*\.mov"):
        check_export(tmp_path / "b.webm", Export(bit_depth=16))


def test_pngs_say_that_they_are_srgb(tmp_path: Path) -> None:
    export_clip(clip(), tmp_path / "a")
    export_clip(clip(), tmp_path / "a.apng")
    for path in (tmp_path / "a" / "frame_00000.png", tmp_path / "a.apng"):
        with Image.open(path) as picture:
            assert picture.info["srgb"] == 0


@pytest.mark.parametrize("suffix", ["", ".apng", ".webp", ".mov", ".webm", ".sheet.png"])
def test_how_a_clip_was_made_is_inside_the_file(tmp_path: Path, suffix: str) -> None:
    stack = clip()
    export_clip(stack, tmp_path / f"a{suffix}", Export(sidecar=False))
    found = read_settings(tmp_path / f"a{suffix}")
    assert found is not None
    assert found["parameters"] == dict(stack.meta.parameters)
    assert (found["seed"], found["fps"], found["frames"], found["alpha"]) == (7, "8", FRAMES, "straight")


def test_how_a_clip_was_made_is_beside_the_file(tmp_path: Path) -> None:
    path, beside = export_clip(clip(), tmp_path / "a.gif")
    assert beside == sidecar_path(path) == tmp_path / "a.gif.json"
    assert read_settings(path) == json.loads(beside.read_text())
    assert read_settings(path)["method"] == "layer_animate"  # type: ignore[index]
    beside.unlink()
    assert read_settings(path) is None
    assert settings_of(clip(), what=torch.device("cpu"))["what"] == "cpu"


def test_gif_tells_what_it_cannot_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_clip(clip(), tmp_path / "a.gif", Export(sidecar=False))
    assert "alpha of one bit" in caplog.text
    matte = torch.tensor([0.0, 1.0, 0.0])
    export_clip(clip(), tmp_path / "b.gif", Export(sidecar=False, matte=matte))
    frames = [load_video(tmp_path / name).layers[0].rgba for name in ("a.gif", "b.gif")]
    alpha = clip().layers[0].alpha
    rim = ((alpha > 0.5) & (alpha < 0.6))[:, 0]  # type: ignore[operator]
    plain, greened = (frame[:, 0][rim].mean().item() for frame in frames)
    assert plain > 0.95
    assert 0.4 < greened < 0.65  # half of the red is the matte's
    with pytest.raises(ConfigError, match="threshold"):
        VideoWriter(tmp_path / "c.gif", 8, 8, 8, True, threshold=0.0)
    with pytest.raises(FormatError, match="50 frames"):
        VideoWriter(tmp_path / "c.gif", 8, 8, 60, True)
    assert not (tmp_path / "c.gif").exists()


def test_an_opaque_gif_of_equal_frames_keeps_all_of_them(tmp_path: Path) -> None:
    still = torch.rand(3, 3, 16, 24)[:1].expand(4, -1, -1, -1).contiguous()
    stack = LayerStack((Layer("video", still),), fps=Fraction(10))
    stack.save(tmp_path / "a.gif")
    found = load_video(tmp_path / "a.gif")
    assert (found.frames, found.fps) == (4, 10)
    assert float((found.layers[0].pixels - still).abs().mean()) < 0.06


def test_over_a_colour_squares_a_picture_and_a_film(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stack = clip()
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :, 1] = 255
    wide[:, :8, 0] = 255  # cropped away: only the middle 20 columns are shown
    Image.fromarray(wide).save(tmp_path / "green.png")
    steps = torch.linspace(0, 1, 3).reshape(3, 1, 1, 1).expand(3, 3, SIZE, SIZE).contiguous()
    LayerStack((Layer("video", steps),), fps=FPS).save(tmp_path / "steps.webp")
    corners = {}
    for name in ("#102030", "checkerboard:8", str(tmp_path / "green.png"), str(tmp_path / "steps.webp")):
        export = Export(over=open_backdrop(name), sidecar=False)
        path, *_ = export_clip(stack, tmp_path / f"{len(corners)}.webp", export)
        found = load_video(path).layers[0]
        assert found.alpha is None
        assert torch.allclose(found.pixels[0, :, 32, 24], torch.tensor([1.0, 0.6, 0.2]), atol=2 / 255)
        corners[name] = found.pixels
    colour, squares, picture, film = corners.values()
    assert (colour[0, :, 0, 0] * 255).round().tolist() == [16, 32, 48]
    assert [squares[0, 0, 0, column].item() > 0.7 for column in (0, 8, 16)] == [True, False, True]
    assert picture[0, :, 0, 0].round().tolist() == [0, 1, 0]
    assert "scaled and cropped" in caplog.text
    assert film[:, 0, 0, 0].sub(torch.tensor([0, 0.5, 1, 0, 0.5])).abs().max() < 0.01  # from the start again
    with pytest.raises(ConfigError, match="neither a colour nor a file"):
        open_backdrop("no-such-thing.png")


def test_linear_light_mixes_light(tmp_path: Path) -> None:
    half = torch.full((2, 1, 8, 8), 0.5)
    stack = LayerStack((Layer("foreground", torch.ones(2, 3, 8, 8), half),), fps=FPS)
    found = []
    for name, linear in (("a", False), ("b", True)):
        export_clip(stack, tmp_path / name, Export(over=open_backdrop("black"), linear=linear, sidecar=False))
        found.append(round(float(load_video(tmp_path / name).layers[0].pixels[0, 0, 0, 0]) * 255))
    assert found == [128, 188]  # half of the value, and half of the light


def test_a_film_below_keeps_its_own_pace(tmp_path: Path) -> None:
    steps = torch.linspace(0, 1, 3).reshape(3, 1, 1, 1).expand(3, 3, 8, 8).contiguous()
    LayerStack((Layer("video", steps),), fps=Fraction(4)).save(tmp_path / "slow.webp")
    below = open_backdrop(str(tmp_path / "slow.webp")).frames(8, 8, FPS)
    found = [round(float(next(below)[0, 0, 0]), 1) for _ in range(8)]
    assert found == [0, 0, 0.5, 0.5, 1, 1, 0, 0]


@pytest.mark.parametrize("suffix", [".mov", ".webp", ".apng", ".gif", "", ".sheet.png"])
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, suffix: str) -> None:
    stack = clip()
    noisy = replace(stack.layers[0], pixels=torch.rand_like(stack.layers[0].pixels))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written") as caught:
            export_clip(replace(stack, layers=(noisy,)), tmp_path / f"a{suffix}", Export(padded=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked_not_even_the_file_beside(tmp_path: Path) -> None:
    (tmp_path / "a.webm.json").write_text("mine")
    with pytest.raises(InputError, match=r"a\.webm\.json: exists already"):
        export_clip(clip(), tmp_path / "a.webm")
    assert [path.name for path in tmp_path.iterdir()] == ["a.webm.json"]
    export_clip(clip(), tmp_path / "a.webm", Export(overwrite=True))
    assert read_settings(tmp_path / "a.webm") is not None


def test_what_makes_no_sense_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="premultiplied and over"):
        Export(premultiplied=True, over=open_backdrop("white"))
    with pytest.raises(ConfigError, match="linear"):
        Export(linear=True)
    with pytest.raises(FormatError, match=r"MP4 cannot hold alpha.*\.webm"):
        check_export(tmp_path / "a.mp4", Export())
    with pytest.raises(FormatError, match="premultiplied"):
        check_export(tmp_path / "a.gif", Export(premultiplied=True))
    with pytest.raises(FormatError, match=r"\.jpg.*\.mov"):
        check_export(tmp_path / "a.jpg", Export())
    with pytest.raises(InputError, match="its folder does not exist"):
        check_export(tmp_path / "no" / "a.webm", Export())
    check_export(tmp_path / "a.mp4", Export(over=open_backdrop("white")))
    check_export(tmp_path / "a.mp4", Export(split=True))
    assert targets("b.sheet.png", Export(premultiplied=True)) == [Path("b_premultiplied.sheet.png")]


def test_a_sheet_says_where_each_frame_is(tmp_path: Path) -> None:
    picture, table = export_clip(clip(), tmp_path / "ball.sheet.png")
    document = json.loads(table.read_text())
    assert table.name == "ball.sheet.json"
    assert (document["meta"]["image"], document["meta"]["size"]) == ("ball.sheet.png", {"w": 2 * SIZE, "h": 3 * SIZE})
    assert document["frames"][3]["frame"] == {"x": SIZE, "y": SIZE, "w": SIZE, "h": SIZE}
    assert {cell["duration"] for cell in document["frames"]} == {125}
    assert document["meta"]["settings"]["seed"] == 7
    assert grid(24, 64, 64, 6) == (4, 6)
    assert grid(16, 64, 64) == (4, 4)
    with pytest.raises(ConfigError, match="1 to 4 columns"):
        grid(4, 8, 8, 5)
    document["frames"][0]["frame"]["x"] = 10_000
    table.write_text(json.dumps(document))
    with pytest.raises(InputError, match="do not lie in"):
        load_sheet(picture)


def test_films_carry_the_tags_that_players_look_for(tmp_path: Path) -> None:
    export_clip(clip(), tmp_path / "a.webm")
    export_clip(clip(), tmp_path / "a.mov")
    with av.open(str(tmp_path / "a.webm")) as film:
        assert film.streams.video[0].metadata["alpha_mode"] == "1"
    with av.open(str(tmp_path / "a.mov")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.pix_fmt, stream.codec_context.codec_tag) == ("yuva444p12le", "ap4h") or (
            stream.codec_context.pix_fmt == "yuva444p10le"
        )


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
