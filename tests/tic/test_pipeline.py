"""The contract of the pipeline: any picture in, a stack of its size out, and its lightness in every pixel."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.io import load_image
from pellucid.layers import Layer, LayerStack, Meta
from pellucid.tic.lab import lightness, rgb_to_lab
from pellucid.tic.model import TICConfig, TICGenerator
from pellucid.tic.pipeline import ColorizationPipeline
from pellucid.tic.regions import reach
from pellucid.tic.text import TextEncoder
from pellucid.tic.word_vectors import WordVectors

SIZES = [(1, 1), (3, 3), (17, 33), (90, 60)]
WORDS = ("red", "blue", "green", "shirt", "bag", "maroon")
TINY: dict[str, Any] = {
    "width": 4,
    "growth": 4,
    "ups": (4, 4, 4),
    "text_dim": 8,
    "vector_dim": 8,
    "working_side": 32,
    "fusion": "film",
}


def words(dimension: int = 8) -> WordVectors:
    generator = torch.Generator().manual_seed(5)
    return WordVectors(WORDS, torch.randn(len(WORDS), dimension, generator=generator).half().float())


def make(strong: float = 1.0, **config: Any) -> ColorizationPipeline:
    """Random weights whose colours are seen and depend on the text."""
    torch.manual_seed(0)
    generator = TICGenerator(TICConfig(**(TINY | config)))
    generator.text.fc2.weight.data.mul_(10)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # features of unit variance, as after training: signals do not fade on their way
        generator.train()(torch.rand(8, 1, 32, 32) * 2 - 1, torch.randn(8, generator.config.vector_dim))
    generator.head.weight.data.mul_(strong)
    return ColorizationPipeline(generator, TextEncoder(words()), "test/random", device="cpu")


def constant(a: float, b: float) -> ColorizationPipeline:
    """A network that says the same a, b everywhere, whatever the text."""
    generator = TICGenerator(TICConfig(**TINY))
    torch.nn.init.zeros_(generator.head.weight)
    generator.head.bias.data = torch.atanh(torch.tensor([a, b]) / 110)
    return ColorizationPipeline(generator, TextEncoder(words()), "test/constant", device="cpu")


def grey(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth grey picture with some grain on 8-bit values ``(1, H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]
    return ((smooth * 0.8 + 0.2 * torch.rand(1, height, width, generator=generator)) * 255).round() / 255


def coloured(height: int, width: int) -> Tensor:
    return torch.cat([grey(height, width, seed) for seed in (1, 2, 3)])


def in_8_bits(rgb: Tensor) -> Tensor:
    return (rgb * 255).round() / 255


def rgb(stack: LayerStack) -> Tensor:
    return stack["color"].pixels


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipe() -> ColorizationPipeline:
    return make()


# Any picture


@pytest.mark.parametrize("size", SIZES)
def test_output_has_the_input_size_and_its_lightness(pipe: ColorizationPipeline, size: tuple[int, int]) -> None:
    x = grey(*size)
    stack = pipe(x, "a red shirt")
    assert stack.names == ("color", "luminance")
    assert [layer.blend for layer in stack.layers] == ["over", "luminosity"]
    for layer in stack.layers:
        assert layer.pixels.shape == (3, *size)
        assert layer.pixels.min() >= 0
        assert layer.pixels.max() <= 1
    assert torch.equal(stack["luminance"].pixels, x.expand(3, -1, -1))
    wanted = lightness(x.expand(3, -1, -1))
    for result in (rgb(stack), stack.composite()):
        assert (lightness(in_8_bits(result)) - wanted).abs().max() <= 0.3
    assert torch.allclose(stack.composite(), rgb(stack), atol=1e-4)


def test_colours_are_strong_enough_for_these_tests(pipe: ColorizationPipeline) -> None:
    ab = rgb_to_lab(rgb(pipe(grey(90, 60), "a red shirt")))[1:]
    assert ab.norm(dim=0).mean() > 5
    asked = pipe.predict(lightness(grey(90, 60).expand(3, -1, -1))[None], pipe.encode("a red shirt").vector[None])
    assert asked.norm(dim=1).max() > 60


def test_no_colour_returns_an_8_bit_grey_picture_bit_for_bit() -> None:
    levels = (torch.arange(256) / 255).reshape(1, 16, 16)
    stack = constant(0, 0)(levels, "red")
    assert torch.equal((rgb(stack) * 255).round(), (levels * 255).round().expand(3, -1, -1))
    again = make()(levels, "red", saturation=0)
    assert torch.equal((rgb(again) * 255).round(), (levels * 255).round().expand(3, -1, -1))


def test_the_networks_colour_arrives() -> None:
    x = torch.full((1, 70, 50), 0.5)
    found = rgb_to_lab(rgb(constant(20, -15)(x)))
    assert torch.allclose(found[1], torch.tensor(20.0), atol=0.1)
    assert torch.allclose(found[2], torch.tensor(-15.0), atol=0.1)


def test_gamut_may_be_clipped(pipe: ColorizationPipeline) -> None:
    x = grey(60, 60)
    kept, clipped = (constant(80, 80)(x, gamut=how) for how in ("chroma", "clip"))  # type: ignore[arg-type]
    wanted = lightness(x.expand(3, -1, -1))
    assert (lightness(in_8_bits(rgb(kept))) - wanted).abs().max() <= 0.3
    assert (lightness(rgb(clipped)) - wanted).abs().max() > 2
    with pytest.raises(ConfigError, match="gamut"):
        pipe(x, gamut="soft")  # type: ignore[arg-type]


def test_every_way_to_hand_over_a_picture_is_the_same(pipe: ColorizationPipeline, tmp_path: Path) -> None:
    x = grey(40, 30)
    array = (x[0] * 255).byte().numpy()
    Image.fromarray(array).save(tmp_path / "in.png")
    first = rgb(pipe(x, "red"))
    for image in (array, Image.fromarray(array), tmp_path / "in.png", load_image(tmp_path / "in.png")):
        assert torch.allclose(rgb(pipe(image, "red")), first, atol=1e-6)


def test_a_coloured_picture_gives_its_lightness_and_that_is_said(
    pipe: ColorizationPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    x = coloured(40, 30)
    stack = pipe(x, "red")
    assert "is coloured: only its lightness is used" in caplog.text
    assert torch.allclose(lightness(stack["luminance"].pixels), lightness(x), atol=0.01)
    assert (stack["luminance"].pixels.amax(0) - stack["luminance"].pixels.amin(0)).max() < 1e-6
    caplog.clear()
    same = pipe(stack["luminance"].pixels, "red")
    assert torch.allclose(rgb(same), rgb(stack), atol=1e-3)
    assert not caplog.text


def test_alpha_meta_and_depth_travel(pipe: ColorizationPipeline) -> None:
    alpha = torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0))
    meta = Meta(exif=b"exif", icc_profile=b"icc", bit_depth=16, source="in.tif")
    stack = pipe(LayerStack((Layer("image", grey(20, 30).expand(3, -1, -1), alpha),), meta=meta), "red zorg", seed=3)
    for layer in stack.layers:
        assert layer.alpha is not None
        assert torch.equal(layer.alpha, alpha)
    assert (stack.meta.exif, stack.meta.icc_profile, stack.meta.bit_depth) == (b"exif", b"icc", 16)
    assert (stack.meta.method, stack.meta.weights, stack.meta.seed) == ("tic", "test/random", 3)
    parameters = json.loads(json.dumps(stack.meta.parameters))
    assert parameters["text"] == "red zorg"
    assert parameters["unknown"] == ["zorg"]


def test_16_bits_go_through(pipe: ColorizationPipeline) -> None:
    fine = np.linspace(0, 65535, 40 * 30).round().astype(np.uint16).reshape(40, 30)
    stack = constant(0, 0)(fine)
    found = (rgb(stack) * 65535).round()
    assert (found - torch.from_numpy(fine.astype(np.float32))).abs().max() <= 2


def test_films_are_refused(pipe: ColorizationPipeline) -> None:
    film = LayerStack((Layer("image", torch.rand(2, 3, 8, 8)),), fps=Fraction(25))
    with pytest.raises(InputError, match="film of 2 frames"):
        pipe(film)


# Text


def test_text_decides_and_empty_text_is_the_networks_guess(pipe: ColorizationPipeline) -> None:
    x = grey(50, 40)
    red, blue, none = (rgb(pipe(x, text)) for text in ("a red shirt", "a blue shirt", ""))
    assert (red - blue).abs().max() > 0.008
    assert (red - none).abs().max() > 0.008
    for nothing in ("zorg", "🙂 🙂", "красный", " \n", "!!!"):
        stack = pipe(x, nothing)
        assert torch.equal(rgb(stack), none)
    assert pipe(x, "zorg zorg red").meta.parameters["unknown"] == ["zorg"]


def test_ten_thousand_words(pipe: ColorizationPipeline) -> None:
    stack = pipe(grey(20, 20), "red shirt " * 5000)
    assert torch.allclose(rgb(stack), rgb(pipe(grey(20, 20), "red shirt")), atol=1e-5)


def test_strength_goes_from_no_words_to_more_than_the_words() -> None:
    pipe, x = make(0.5), torch.full((1, 32, 32), 0.5)  # weak colours: all inside sRGB, where ab is linear
    none, one = (rgb_to_lab(rgb(pipe(x, text)))[1:] for text in ("", "red"))
    for strength in (0.0, 0.5, 1.0, 1.5):
        found = rgb_to_lab(rgb(pipe(x, "red", strength=strength)))[1:]
        assert torch.allclose(found, none + strength * (one - none), atol=0.02)
    assert (one - none).norm(dim=0).mean() > 1


def test_saturation_scales_colour() -> None:
    x = torch.full((1, 20, 20), 0.5)
    for factor in (0.0, 0.5, 2.0):
        found = rgb_to_lab(rgb(constant(12, 8)(x, saturation=factor)))[1:]
        assert torch.allclose(found.norm(dim=0), torch.tensor(factor * 208**0.5), atol=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": 1.6}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"saturation": -0.1}, "saturation"),
        ({"saturation": float("inf")}, "saturation"),
        ({"text": 5}, "text"),
        ({"keep": True}, "no region"),
    ],
)
def test_options_out_of_range_are_refused(pipe: ColorizationPipeline, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pipe(grey(8, 8), **options)


# Seeds and variants


def test_one_seed_one_picture(pipe: ColorizationPipeline) -> None:
    x = grey(30, 30)
    plain, one, again, other = (rgb(pipe(x, "red", seed=seed)) for seed in (None, 1, 1, 2))
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 1e-3
    assert (one - plain).abs().max() > 1e-3


def test_variants_differ_and_repeat(pipe: ColorizationPipeline) -> None:
    x = grey(30, 30)
    stacks = list(pipe.variants(x, "a red shirt", 5, seed=7))
    assert len(stacks) == 5
    assert torch.equal(rgb(stacks[0]), rgb(pipe(x, "a red shirt")))
    for index, stack in enumerate(stacks):
        assert stack["luminance"].pixels.equal(x.expand(3, -1, -1))
        assert all((rgb(stack) - rgb(other)).abs().max() > 1e-3 for other in stacks[:index])
    for one, other in zip(stacks, pipe.variants(x, "a red shirt", 5, seed=7), strict=True):
        assert torch.equal(rgb(one), rgb(other))
    assert not torch.equal(rgb(stacks[1]), rgb(list(pipe.variants(x, "a red shirt", 2, seed=8))[1]))
    # What made a variant is in its meta data: the same call gives it again.
    meta = stacks[2].meta
    given = {name: meta.parameters[name] for name in ("text", "strength", "saturation", "gamut")}
    assert torch.equal(rgb(pipe(x, seed=meta.seed, **given)), rgb(stacks[2]))
    with pytest.raises(ConfigError, match="variants"):
        pipe.variants(x, "red", 0)


# Regions


@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_a_region_changes_nothing_outside_its_feather(pipe: ColorizationPipeline, strength: float) -> None:
    size = (300, 260)
    x = grey(*size)
    box = (100, 80, 170, 150)
    plain = pipe(x, "a red shirt", strength=strength)
    for where in (box, "100,80,170,150", _mask(box, size)):
        stack = pipe(x, "a red shirt", regions=[(where, "a blue bag")], strength=strength)
        margin = reach(size)
        outside = ~_mask((100 - margin, 80 - margin, 170 + margin, 150 + margin), size).bool()
        for one, other in zip(stack.layers, plain.layers, strict=True):
            assert torch.equal(one.pixels[:, outside], other.pixels[:, outside])
        assert outside.float().mean() > 0.5
        # Deep inside, it is what the phrase gives for the whole picture.
        whole = rgb(pipe(x, "a blue bag", strength=strength))
        assert torch.allclose(rgb(stack)[:, 95:135, 115:155], whole[:, 95:135, 115:155], atol=1e-4)
        assert (rgb(stack) - rgb(plain)).abs().max() > 0.008


def test_the_later_region_lies_above(pipe: ColorizationPipeline) -> None:
    x = grey(200, 200)
    below, above = ((20, 20, 180, 180), "a blue bag"), ((60, 60, 140, 140), "a green bag")
    both = rgb(pipe(x, "a red shirt", regions=[below, above]))
    for text, (rows, columns) in {
        "a red shirt": (slice(0, 10), slice(0, 200)),
        "a blue bag": (slice(30, 50), slice(30, 170)),
        "a green bag": (slice(75, 125), slice(75, 125)),
    }.items():
        assert torch.allclose(both[:, rows, columns], rgb(pipe(x, text))[:, rows, columns], atol=1e-4)
    turned = rgb(pipe(x, "a red shirt", regions=[above, below]))
    assert torch.allclose(turned[:, 75:125, 75:125], rgb(pipe(x, "a blue bag"))[:, 75:125, 75:125], atol=1e-4)


def test_unknown_words_of_regions_are_told(pipe: ColorizationPipeline) -> None:
    parameters = pipe(grey(20, 20), "red yxz", regions=[((0, 0, 9, 9), "blue zorg")]).meta.parameters
    assert parameters["unknown"] == ["yxz", "zorg"]
    assert parameters["regions"] == [{"where": "0,0,9,9", "text": "blue zorg"}]


def test_a_region_that_does_not_fit_is_refused(pipe: ColorizationPipeline) -> None:
    with pytest.raises(InputError, match="30x20"):
        pipe(grey(20, 30), regions=[((0, 0, 31, 20), "red")])
    with pytest.raises(InputError, match="30x20, found 20x30"):
        pipe(grey(20, 30), regions=[(torch.zeros(30, 20), "red")])


def test_kept_colours_stay_bit_for_bit_outside_the_regions(
    pipe: ColorizationPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    x, box = coloured(200, 160), (60, 70, 110, 130)
    stack = pipe(x, regions=[(box, "a blue bag")], keep=True)
    margin = reach((200, 160))
    outside = ~_mask((60 - margin, 70 - margin, 110 + margin, 130 + margin), (200, 160)).bool()
    assert torch.equal(rgb(stack)[:, outside], x[:, outside])
    assert (rgb(stack) - x).abs()[:, 90:110, 80:90].max() > 0.05
    assert (lightness(in_8_bits(rgb(stack))) - lightness(x)).abs().max() <= 0.3
    assert "only its lightness" not in caplog.text


def _mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    mask = torch.zeros(size)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


# Films


def test_films_are_coloured_frame_by_frame(pipe: ColorizationPipeline) -> None:
    frames = [grey(40, 60).roll(step, -1).expand(3, -1, -1) for step in range(4)]
    drawn: list[int] = []

    def film() -> Any:
        for index, frame in enumerate(frames):
            drawn.append(index)
            yield frame

    results = pipe.video(film(), "a red shirt")
    first = next(iter(results))
    assert drawn == [0]  # no frame is read before it is needed
    rest = list(results)
    assert len(rest) == 3
    assert torch.equal(first, rgb(pipe(frames[0], "a red shirt")))
    for frame, result in zip(frames[1:], rest, strict=True):
        assert (lightness(in_8_bits(result)) - lightness(frame)).abs().max() <= 0.3
    unsmoothed = list(pipe.video(frames, "a red shirt", smoothing=0.0))
    assert torch.equal(unsmoothed[3], rgb(pipe(frames[3], "a red shirt")))
    assert (unsmoothed[3] - rest[2]).abs().max() > 1e-3


def test_films_keep_alpha_and_say_once_that_they_are_coloured(
    pipe: ColorizationPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [torch.cat([coloured(20, 20), torch.rand(1, 20, 20)]) for _ in range(3)]
    results = list(pipe.video(frames, "red"))
    for frame, result in zip(frames, results, strict=True):
        assert result.shape == (4, 20, 20)
        assert torch.equal(result[3], frame[3])
    assert caplog.text.count("the film is coloured") == 1
    assert len(list(pipe.video(frames[:1], "red"))) == 1


def test_options_of_a_film_are_checked_before_its_first_frame(pipe: ColorizationPipeline) -> None:
    for options in ({"smoothing": 1.0}, {"strength": 2.0}):
        with pytest.raises(ConfigError):
            pipe.video([], "red", **options)  # type: ignore[arg-type]


# The network call


def test_predict_takes_lightness_or_colours_and_one_picture_for_many_texts(pipe: ColorizationPipeline) -> None:
    x = coloured(50, 70)[None]
    vectors = torch.stack([pipe.encode(text).vector for text in ("red", "blue", "")])
    found = pipe.predict(x, vectors)
    assert found.shape == (3, 2, 32, 32)
    assert found.abs().max() <= 110
    assert torch.allclose(found, pipe.predict(lightness(x).expand(3, -1, -1, -1), vectors), atol=1e-3)
    assert not found.requires_grad


# Weights


def test_weights_come_back_with_their_vectors(pipe: ColorizationPipeline, tmp_path: Path) -> None:
    folder = pipe.save_pretrained(tmp_path / "weights", card="For a test.")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md", "vectors.npz"}
    again = ColorizationPipeline.from_pretrained(folder, device="cpu", offline=True)
    assert again.config == pipe.config
    assert again.weights.startswith("tic/weights@")
    assert torch.allclose(rgb(again(grey(30, 30), "red")), rgb(pipe(grey(30, 30), "red")), atol=1e-5)


def test_vectors_of_another_dimension_are_refused(pipe: ColorizationPipeline, tmp_path: Path) -> None:
    folder = pipe.save_pretrained(tmp_path / "weights", card="For a test.")
    words(6).save(folder / "vectors.npz")
    with pytest.raises(WeightsError, match=r"8.*6"):
        ColorizationPipeline.from_pretrained(folder, device="cpu", offline=True)
    with pytest.raises(WeightsError, match=r"8.*6"):
        ColorizationPipeline(TICGenerator(pipe.config), TextEncoder(words(6)), device="cpu")


def test_the_palette_is_plain(pipe: ColorizationPipeline) -> None:
    found = pipe.palette(pipe(grey(40, 40), "red"))
    assert json.loads(json.dumps(found))
    assert {"hex", "name", "share", "lab"} == set(found[0])


@pytest.mark.slow
def test_onnx_gives_the_same(pipe: ColorizationPipeline, tmp_path: Path) -> None:
    session: Any = pytest.importorskip("onnxruntime").InferenceSession
    path = pipe.export_onnx(tmp_path / "tic.onnx")
    L = lightness(grey(32, 32).expand(3, -1, -1))[None]
    vectors = torch.stack([pipe.encode(text).vector for text in ("red", "blue", "")])
    given = {"L_n": (L / 50 - 1).expand(3, -1, -1, -1).numpy(), "text": vectors.numpy()}
    (found,) = session(str(path), providers=["CPUExecutionProvider"]).run(None, given)
    assert np.abs(found * 110 - pipe.predict(L, vectors).numpy()).max() < 0.05
