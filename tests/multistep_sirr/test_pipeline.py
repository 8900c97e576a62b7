"""The contract of the pipeline: any picture in, a stack of its size out, and nothing lost on the way."""

import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.io import load_image
from pellucid.layers import Layer, LayerStack, Meta
from pellucid.multistep_sirr.depth import CueDepth
from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline

Save = Callable[[Path, Tensor], Path]
SIZES = [(1, 1), (3, 3), (17, 33), (100, 60)]
SIDE = 40  # working side, so that the larger sizes are shrunk
LAYERS = ("transmission", "reflection")


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    """A smooth picture with some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]
    return (smooth * 0.8 + 0.2 * torch.rand(channels, height, width, generator=generator)).clamp(0, 1)


def make(seed: int = 0, **config: Any) -> ReflectionRemovalPipeline:
    """Random weights whose effect is seen."""
    torch.manual_seed(seed)
    pair = ReflectionPair(ReflectionPairConfig(**({"width": 2, "working_side": SIDE} | config)))
    for network in (pair.r_cnn, pair.t_cnn):
        network.head2.weight.data.mul_(3)
        network.head2.bias.data.fill_(0.1)
    return ReflectionRemovalPipeline(pair, "test/random", device="cpu")


def constant(correction: float, reflection: float) -> ReflectionRemovalPipeline:
    """Networks that say the same everywhere: T = x - correction, R = reflection; 0 and 0 is doing nothing."""
    pair = ReflectionPair(ReflectionPairConfig(width=2, working_side=SIDE))
    for network, value in ((pair.t_cnn, correction), (pair.r_cnn, reflection)):
        torch.nn.init.zeros_(network.head2.weight)
        torch.nn.init.constant_(network.head2.bias, value)
    return ReflectionRemovalPipeline(pair, "test/constant", device="cpu")


@pytest.fixture(scope="module")
def pipe() -> ReflectionRemovalPipeline:
    return make()


@pytest.fixture(scope="module")
def nothing() -> ReflectionRemovalPipeline:
    return constant(0.0, 0.0)


def same(one: LayerStack, other: LayerStack) -> bool:
    return one.names == other.names and all(
        torch.equal(a.pixels, b.pixels) for a, b in zip(one.layers, other.layers, strict=True)
    )


# Any picture


@pytest.mark.parametrize("way", ["fast", "exact"])
@pytest.mark.parametrize("size", SIZES)
def test_output_has_the_input_size(pipe: ReflectionRemovalPipeline, size: tuple[int, int], way: Any) -> None:
    x = noise(*size)
    stack = pipe(x, way=way, tile=64, overlap=16)
    assert stack.names == LAYERS
    for layer in stack.layers:
        assert layer.pixels.shape == (3, *size)
        assert layer.pixels.isfinite().all()
        assert layer.pixels.min() >= 0
        assert layer.pixels.max() <= 1
    assert [layer.blend for layer in stack.layers] == ["over", "add"]
    assert (stack["transmission"].pixels - x).abs().max() > 1e-3


@pytest.mark.parametrize("way", ["fast", "exact"])
@pytest.mark.parametrize("size", SIZES)
def test_a_network_that_does_nothing_changes_nothing(
    nothing: ReflectionRemovalPipeline, size: tuple[int, int], way: Any
) -> None:
    x = noise(*size)
    stack = nothing(x, way=way, tile=64, overlap=16)
    assert torch.equal(stack["transmission"].pixels, x)
    assert not stack["reflection"].pixels.any()


@pytest.mark.parametrize("way", ["fast", "exact"])
@pytest.mark.parametrize("size", [(17, 33), (100, 60), (50, 170)])
def test_both_ways_apply_the_correction(size: tuple[int, int], way: Any) -> None:
    x = noise(*size) * 0.5 + 0.3
    stack = constant(0.1, 0.07)(x, way=way, tile=64, overlap=16)
    assert torch.allclose(stack["transmission"].pixels, x - 0.1, atol=1e-4)
    assert torch.allclose(stack["reflection"].pixels, torch.tensor(0.07), atol=1e-4)


def test_both_ways_agree_where_the_picture_is_small(pipe: ReflectionRemovalPipeline) -> None:
    x = noise(33, 40)
    fast, exact = pipe(x), pipe(x, way="exact", tile=64)
    for name in LAYERS:
        assert torch.allclose(fast[name].pixels, exact[name].pixels, atol=1e-6)
    large = noise(100, 80)
    assert not torch.allclose(pipe(large)["transmission"].pixels, pipe(large, way="exact")["transmission"].pixels)


def test_the_fast_way_keeps_every_detail() -> None:
    x = noise(160, 160)
    detail = 0.1 * (torch.arange(160) % 2).expand(3, 160, 160)  # gone at the working size
    pipe = constant(0.05, 0.0)
    change = pipe(0.5 * x + detail)["transmission"].pixels - pipe(0.5 * x)["transmission"].pixels
    assert torch.allclose(change[:, 8:-8, 8:-8], detail[:, 8:-8, 8:-8], atol=0.01)


def test_large_pictures_are_shrunk_to_the_working_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, seen = make(), []
    pipe.pair.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    pipe(noise(100, 60))
    pipe(noise(30, 200))
    assert seen == [(80, 48), (32, 208)]  # 67 x 40 and, with a side below 40, as it is; then padded to 16
    seen.clear()
    monkeypatch.setattr("pellucid.multistep_sirr.pipeline.LONGEST", 64)
    pipe(noise(30, 200))
    assert seen == [(16, 64)]


# Strength and passes


def test_strength_zero_returns_the_input(pipe: ReflectionRemovalPipeline) -> None:
    for size in ((17, 33), (100, 60)):
        for way in ("fast", "exact"):
            stack = pipe(noise(*size), strength=0.0, way=way)  # type: ignore[arg-type]
            assert torch.equal(stack["transmission"].pixels, noise(*size))
            assert not stack["reflection"].pixels.any()


def test_strength_scales_the_correction() -> None:
    pipe, x = constant(0.1, 0.06), noise(60, 50) * 0.5 + 0.25
    for strength in (0.5, 1.0, 1.5):
        stack = pipe(x, strength=strength)
        assert torch.allclose(stack["transmission"].pixels, x - 0.1 * strength, atol=1e-4)
        assert torch.allclose(stack["reflection"].pixels, torch.tensor(0.06 * strength), atol=1e-4)


def test_results_are_clamped_at_the_end() -> None:
    stack = constant(0.6, 1.4)(noise(20, 20), strength=1.5)
    assert stack["transmission"].pixels.min() == 0
    assert stack["reflection"].pixels.max() == 1


@pytest.mark.parametrize("way", ["fast", "exact"])
def test_passes_feed_the_output_in_again(way: Any) -> None:
    x = noise(50, 70) * 0.5 + 0.4
    stack = constant(0.1, 0.06)(x, passes=3, way=way, tile=64)
    assert torch.allclose(stack["transmission"].pixels, x - 0.3, atol=1e-4)
    assert torch.allclose(stack["reflection"].pixels, torch.tensor(0.18), atol=1e-4)


def test_depth_is_seen_once_and_from_the_whole_picture(pipe: ReflectionRemovalPipeline) -> None:
    class Spy(CueDepth):
        name = "spy"
        seen: list[Tensor] = []  # noqa: RUF012

        def __call__(self, rgb01: Tensor) -> Tensor:
            self.seen.append(rgb01)
            return super().__call__(rgb01)

    for way in ("fast", "exact"):
        Spy.seen.clear()
        stack = pipe(noise(100, 60), passes=3, way=way, tile=64, depth=Spy())  # type: ignore[arg-type]
        assert [tuple(given.shape) for given in Spy.seen] == [(1, 3, 67, 40)]
        assert stack.meta.parameters["depth"] == "spy"


def test_tiles_take_their_ranges_from_the_whole_picture() -> None:
    pipe, seen = make(), []
    pipe.pair.register_forward_pre_hook(lambda _, given: seen.append(given[1].unique().numel()))

    def slope(rgb01: Tensor) -> Tensor:
        return torch.linspace(0, 1, rgb01.shape[-1]).expand(1, 1, *rgb01.shape[-2:])

    slope.name = "slope"  # type: ignore[attr-defined]
    pipe(noise(64, 256), way="exact", tile=64, overlap=0, depth=slope)  # type: ignore[arg-type]
    assert len(seen) == 4
    assert max(seen) <= 2  # a tile is a quarter of the width: one range of four, not four of them


def test_tiles_share_what_the_networks_conclude_from_the_whole_picture() -> None:
    pipe, seen = make(se=True), []
    pipe.pair.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    pipe(noise(64, 160), way="exact", tile=64)
    assert len(seen) > 2
    for gates in seen:
        assert torch.equal(gates[0], seen[0][0])
        assert torch.equal(gates[1], seen[0][1])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"strength": 1.6}, r"strength must be in \[0, 1.5\], found 1.6"),
        ({"strength": -0.1}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"passes": 0}, "passes"),
        ({"way": "quick"}, "'quick'"),
        ({"tile": 500}, "multiple of 16"),
        ({"tile": 48}, "at least 64"),
        ({"overlap": 300}, "overlap"),
        ({"overlap": -1}, "overlap"),
        ({"tile": 96, "overlap": 64}, "overlap"),
        ({"depth": None}, "depth"),
        ({"depth": "transformers"}, "transformers"),
        ({"depth": "file"}, "depth map"),
    ],
)
def test_options_out_of_range_are_refused(pipe: ReflectionRemovalPipeline, options: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        pipe(noise(20, 20), **options)
    assert "\n" not in str(caught.value)


def test_progress_reaches_its_end(pipe: ReflectionRemovalPipeline) -> None:
    for options in ({"way": "fast"}, {"way": "exact", "tile": 64, "passes": 2}):
        for size in ((20, 20), (100, 60)):
            reports: list[tuple[int, int, str]] = []
            pipe(noise(*size), progress=lambda *report, to=reports: to.append(report), **options)
            assert reports
            assert reports[-1][0] == reports[-1][1]
            assert all(done <= total for done, total, _ in reports)


# What goes in


def test_ways_to_hand_over_a_picture(pipe: ReflectionRemovalPipeline, save_picture: Save, tmp_path: Path) -> None:
    x = (noise(30, 45) * 255).round() / 255
    file = save_picture(tmp_path / "x.png", x)
    array = np.asarray(Image.open(file))
    expected = pipe(load_image(file))
    for given in (file, str(file), Image.open(file), array, load_image(file).layers[0].pixels):
        assert same(pipe(given), expected)


@pytest.mark.parametrize(
    ("array", "alpha"),
    [
        (np.full((20, 30), 90, np.uint8), False),
        (np.full((20, 30, 2), 90, np.uint8), True),
        (np.full((20, 30, 4), 90, np.uint8), True),
        (np.full((20, 30, 3), 30000, np.uint16), False),
        (np.full((20, 30), 0.25, np.float32), False),
    ],
)
def test_kinds_of_arrays(pipe: ReflectionRemovalPipeline, array: np.ndarray, alpha: bool) -> None:
    stack = pipe(array)
    assert stack["transmission"].pixels.shape == (3, 20, 30)
    assert (stack["transmission"].alpha is not None) == alpha
    assert stack.meta.bit_depth == (16 if array.dtype == np.uint16 else 8)


def test_sixteen_bits_are_used(pipe: ReflectionRemovalPipeline) -> None:
    fine = (noise(20, 20) * 65535).round().permute(1, 2, 0).numpy().astype(np.uint16)
    coarse = (fine >> 8).astype(np.uint8)
    assert not same(pipe(fine), pipe(coarse))


def test_alpha_is_kept_with_the_colour_below_it(nothing: ReflectionRemovalPipeline) -> None:
    rgba = noise(30, 20, channels=4)
    rgba[3, :10] = 0
    stack = nothing(rgba)
    for layer in stack.layers:
        assert layer.alpha is not None
        assert torch.equal(layer.alpha, rgba[3:])
    assert torch.equal(stack["transmission"].pixels, rgba[:3])


def test_meta_data_travels_and_tells_what_was_done(pipe: ReflectionRemovalPipeline) -> None:
    given = Meta(
        exif=b"Exif\0\0x", icc_profile=b"profile", xmp=b"<x/>", dpi=(300.0, 300.0), bit_depth=16, source="a.tif"
    )
    x = noise(20, 20)
    meta = pipe(LayerStack((Layer("image", x),), meta=given), strength=0.5, way="exact", passes=2, depth="none").meta
    for name in ("exif", "icc_profile", "xmp", "dpi", "bit_depth", "source"):
        assert getattr(meta, name) == getattr(given, name)
    assert (meta.method, meta.weights) == ("multistep_sirr", "test/random")
    assert meta.parameters == {"strength": 0.5, "passes": 2, "way": "exact", "depth": "none"}


def test_a_file_keeps_its_exif(pipe: ReflectionRemovalPipeline, tmp_path: Path) -> None:
    picture = Image.fromarray((noise(20, 30) * 255).byte().permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "through a window", 6
    picture.save(tmp_path / "in.jpg", exif=exif)
    stack = pipe(tmp_path / "in.jpg")
    assert stack["transmission"].pixels.shape == (3, 30, 20)  # turned upright
    stack.only("transmission").save(tmp_path / "out.jpg")
    assert Image.open(tmp_path / "out.jpg").getexif()[0x010E] == "through a window"


@pytest.mark.parametrize("way", ["fast", "exact"])
def test_colours_outside_srgb_are_not_clipped(nothing: ReflectionRemovalPipeline, way: Any) -> None:
    x = noise(60, 50) * 1.4 - 0.2
    stack = nothing(LayerStack((Layer("image", x),)), way=way, tile=64)
    assert torch.equal(stack["transmission"].pixels, x)


def test_several_layers_are_put_together_first(pipe: ReflectionRemovalPipeline) -> None:
    x, light = noise(20, 30) * 0.5, noise(20, 30, seed=1) * 0.5
    stack = LayerStack((Layer("a", x), Layer("b", light, blend="add"), Layer("c", x, visible=False)))
    assert same(pipe(stack), pipe(x + light))


def test_a_film_is_refused(pipe: ReflectionRemovalPipeline) -> None:
    for frames in (2, 4):
        film = LayerStack((Layer("film", torch.rand(frames, 3, 20, 20)),), fps=Fraction(25))
        with pytest.raises(InputError, match="film"):
            pipe(film)


def test_calls_leave_the_input_alone_and_do_not_touch_one_another(pipe: ReflectionRemovalPipeline) -> None:
    x, other = noise(100, 60), noise(17, 33, seed=1)
    before = x.clone()
    first = pipe(x)
    pipe(other, depth="none", way="exact", strength=0.3)
    assert same(pipe(x), first)
    assert torch.equal(x, before)


# Hidden layers


@pytest.mark.parametrize("size", [(17, 33), (100, 60)])
@pytest.mark.parametrize("alpha", [False, True])
def test_hidden_layers(pipe: ReflectionRemovalPipeline, size: tuple[int, int], alpha: bool) -> None:
    x = noise(*size, channels=4 if alpha else 3)
    stack = pipe(x, ranges=True)
    hidden = ("range_0", "range_1", "range_2", "range_3", "depth", "confidence")
    assert stack.names == LAYERS + hidden
    assert [layer.visible for layer in stack.layers] == [True, True] + [False] * 6
    assert same(LayerStack(stack.layers[:2]), pipe(x))
    masks = [stack[f"range_{index}"].alpha for index in range(4)]
    total = torch.stack([mask for mask in masks if mask is not None]).sum(0)
    assert torch.allclose(total, x[3:] if alpha else torch.ones(1, *size), atol=1e-5)
    assert all(mask.any() for mask in masks if mask is not None)
    for index in range(4):
        assert torch.equal(stack[f"range_{index}"].pixels, stack["transmission"].pixels)
    depth = stack["depth"].pixels
    assert torch.equal(depth[0], depth[2])
    assert depth.min() >= 0
    assert depth.max() <= 1
    assert depth.max() - depth.min() > 0.9


def test_more_ranges_make_more_layers() -> None:
    stack = make(ranges=6, encoding="onehot")(noise(40, 40), ranges=True)
    assert [name for name in stack.names if name.startswith("range_")] == [f"range_{index}" for index in range(6)]


def test_near_things_are_in_the_high_ranges(nothing: ReflectionRemovalPipeline, tmp_path: Path) -> None:
    np.save(tmp_path / "depth.npy", np.repeat(np.linspace(0, 1, 40)[:, None], 40, 1))  # larger is nearer: below
    stack = nothing(noise(40, 40), ranges=True, depth=tmp_path / "depth.npy")
    assert stack.meta.parameters["depth"] == "file"
    rows = torch.arange(40.0)[:, None]
    centres = [float((mask := stack[f"range_{index}"].alpha[0]).mul(rows).sum() / mask.sum()) for index in range(4)]  # type: ignore[index]
    assert centres == pytest.approx([4.5, 14.5, 24.5, 34.5], abs=0.6)
    metric = nothing(noise(40, 40), ranges=True, depth=str(tmp_path / "depth.npy"), depth_kind="metric")
    assert float(metric["depth"].pixels[0, 39].mean()) < float(metric["depth"].pixels[0, 1].mean())


def test_confidence_tells_where_the_layers_explain_the_picture() -> None:
    x = noise(40, 40) * 0.5 + 0.3
    assert torch.allclose(constant(0.1, 0.1)(x, ranges=True)["confidence"].pixels, torch.tensor(1.0), atol=1e-3)
    low = constant(0.1, 0.0)(x, ranges=True)["confidence"].pixels
    assert torch.allclose(low, torch.exp(torch.tensor(-1.0)), atol=1e-3)


def test_an_openraster_file_holds_all_layers(pipe: ReflectionRemovalPipeline, tmp_path: Path) -> None:
    stack = pipe(noise(30, 40), ranges=True)
    stack.save(tmp_path / "out.ora")
    found = LayerStack.load(tmp_path / "out.ora")
    assert found.names == stack.names
    for ours, theirs in zip(stack.layers, found.layers, strict=True):
        assert (theirs.blend, theirs.visible) == (ours.blend, ours.visible)
        assert torch.allclose(theirs.pixels, ours.pixels, atol=0.5 / 255 + 1e-6)
    assert found.meta.parameters == stack.meta.parameters
    assert torch.allclose(found.composite(), stack.composite(), atol=1.1 / 255)


# Weights


def saved(pipe: ReflectionRemovalPipeline, folder: Path) -> Path:
    return pipe.save_pretrained(folder, card="# Random weights")


def test_saved_weights_give_the_same_picture(tmp_path: Path) -> None:
    pipe = make(se=True, ranges=3, encoding="onehot", range_mode="quantile", final="leaky", depth="none")
    folder = saved(pipe, tmp_path / "weights")
    again = ReflectionRemovalPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    assert again.config == pipe.config
    assert again.weights.startswith("multistep_sirr/weights@")
    assert same(again(noise(50, 60)), pipe(noise(50, 60)))
    assert again(noise(8, 8)).meta.parameters["depth"] == "none"
    with pytest.raises(WeightsError, match="exists"):
        saved(pipe, folder)


@pytest.mark.parametrize("damage", ["missing", "extra", "wrong-shaped"])
def test_weights_that_do_not_fit_are_refused(damage: str, tmp_path: Path) -> None:
    folder = saved(make(), tmp_path / "weights")
    state = load_file(folder / "model.safetensors")
    key = "t_cnn.head2.bias"
    if damage == "missing":
        del state[key]
    elif damage == "extra":
        key = "t_cnn.more"
        state[key] = torch.zeros(1)
    else:
        state[key] = torch.zeros(4)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"1 {damage}: {key}"):
        ReflectionRemovalPipeline.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(("key", "value"), [("final", "tanh"), ("width", 0), ("widths", 3), ("ranges", "4")])
def test_a_config_that_makes_no_network_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    folder = saved(make(), tmp_path / "weights")
    document = json.loads((folder / "config.json").read_text())
    document["config"][key] = value
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=key):
        ReflectionRemovalPipeline.from_pretrained(folder, device="cpu")


def test_a_pipeline_can_be_sent_to_another_process(pipe: ReflectionRemovalPipeline) -> None:
    expected = pipe(noise(50, 60))
    assert same(pickle.loads(pickle.dumps(pipe))(noise(50, 60)), expected)


def test_low_precision_changes_little(tmp_path: Path) -> None:
    folder = saved(make(), tmp_path / "weights")
    full, half = (
        ReflectionRemovalPipeline.from_pretrained(folder, device="cpu", dtype=dtype)(noise(50, 60))
        for dtype in ("float32", "bfloat16")
    )
    assert half["transmission"].pixels.dtype == torch.float32
    assert not same(full, half)
    assert (full["transmission"].pixels - half["transmission"].pixels).abs().max() < 0.02


# Films


def film(count: int = 5, size: tuple[int, int] = (50, 60), channels: int = 3, flicker: float = 0.0) -> list[Tensor]:
    base = noise(*size, channels=channels) * 0.6 + 0.2
    grain = [flicker * (noise(*size, seed=10 + index, channels=channels) - 0.5) for index in range(count)]
    return [(base + each).clamp(0, 1) for each in grain]


@pytest.mark.parametrize("channels", [3, 4])
def test_films_keep_count_shape_and_alpha(pipe: ReflectionRemovalPipeline, channels: int) -> None:
    frames = film(3, channels=channels, flicker=0.05)
    found = list(pipe.video(iter(frames)))
    assert len(found) == 3
    for given, cleared in zip(frames, found, strict=True):
        assert cleared.shape == given.shape
        assert torch.equal(cleared[3:], given[3:])
        assert not torch.equal(cleared[:3], given[:3])
        assert cleared.min() >= 0
        assert cleared.max() <= 1


def test_a_film_that_stands_still_stays_still(pipe: ReflectionRemovalPipeline) -> None:
    first, *others = pipe.video(film(4))
    assert all(torch.allclose(frame, first, atol=1e-6) for frame in others)


class Dimmer(torch.nn.Module):
    """Takes away half of the mean light."""

    def forward(self, x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return x - 0.5 * x.mean((1, 2, 3), keepdim=True).expand_as(x), torch.zeros_like(x)


def test_smoothing_blends_the_correction_with_its_past() -> None:
    pipe = make()
    pipe.pair = Dimmer()  # type: ignore[assignment]
    light = [0.5, 0.6, 0.5, 0.55]
    frames = [torch.full((3, 20, 30), value) for value in light]
    for smoothing in (0.0, 0.6):
        past = -0.5 * light[0]
        for given, cleared in zip(light, pipe.video(frames, smoothing=smoothing), strict=True):
            past = smoothing * past + (1 - smoothing) * -0.5 * given
            assert torch.allclose(cleared, torch.tensor(given + past), atol=1e-5)


def test_a_cut_starts_anew(pipe: ReflectionRemovalPipeline) -> None:
    first, second = film(3), [1 - frame for frame in film(3, flicker=0.05)]
    together = list(pipe.video(first + second))
    assert torch.equal(together[3], next(iter(pipe.video(second))))
    gentle = [frame * 0.95 for frame in film(3)]  # below a cut: the past still counts
    assert not torch.allclose(list(pipe.video(first + gentle))[3], next(iter(pipe.video(gentle))), atol=1e-5)


def test_strength_of_a_film(pipe: ReflectionRemovalPipeline, nothing: ReflectionRemovalPipeline) -> None:
    frames = film(3, flicker=0.05)
    for found in (pipe.video(frames, strength=0.0), nothing.video(frames)):
        assert all(torch.equal(cleared, given) for cleared, given in zip(found, frames, strict=True))
    cleared = next(iter(constant(0.1, 0.0).video(frames, strength=1.5)))
    assert torch.allclose(cleared, frames[0] - 0.15, atol=1e-4)


def test_depth_of_a_film_comes_from_each_frame(pipe: ReflectionRemovalPipeline) -> None:
    frames = film(2, flicker=0.05)
    with_cue, without = list(pipe.video(frames)), list(pipe.video(frames, depth="none"))
    assert not torch.equal(with_cue[1], without[1])


@pytest.mark.parametrize("options", [{"strength": 1.6}, {"smoothing": 1.0}, {"smoothing": -0.1}])
def test_options_of_a_film_are_checked(pipe: ReflectionRemovalPipeline, options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        next(iter(pipe.video(film(1), **options)))


# ONNX


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoding", ["scalar", "onehot"])
def test_onnx_gives_the_networks_outputs_at_another_size(encoding: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    pipe = make(encoding=encoding, se=encoding == "onehot")
    path = pipe.export_onnx(tmp_path / "pair.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x, condition = noise(48, 80)[None], noise(48, 80, seed=1, channels=pipe.config.depth_channels)[None]
    found = session.run(["transmission", "reflection"], {"picture": x.numpy(), "ranged_depth": condition.numpy()})
    for ours, theirs in zip(pipe.pair(x, condition), found, strict=True):
        assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-4)
