"""Layers and stacks: what they accept, what they keep, what they show."""

from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
import torch

from pellucid.errors import InputError
from pellucid.layers import Layer, LayerStack, Meta


def grey(value: float, name: str = "a", **options) -> Layer:
    return Layer(name, torch.full((3, 2, 4), value), **options)


def test_names_sizes_and_lookup() -> None:
    stack = LayerStack((grey(0.1, "low"), grey(0.2, "high")))
    assert stack.names == ("low", "high")
    assert (stack.height, stack.width, stack.frames) == (2, 4, None)
    assert float(stack["high"].pixels.mean()) == pytest.approx(0.2)
    assert "low" in stack
    assert "middle" not in stack
    with pytest.raises(KeyError, match="low, high"):
        stack["middle"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixels": torch.zeros(4, 2, 4)}, r"\(3, H, W\).*found \(4, 2, 4\)"),
        ({"pixels": torch.zeros(3, 2)}, r"found \(3, 2\)"),
        ({"pixels": torch.zeros(3, 2, 4, dtype=torch.float64)}, "float64"),
        ({"alpha": torch.zeros(1, 2, 3)}, r"alpha must be \(1, 2, 4\)"),
        ({"alpha": torch.zeros(2, 4)}, "alpha"),
        ({"alpha": torch.zeros(1, 2, 4, dtype=torch.float16)}, "float16"),
        ({"blend": "multiply"}, "over, add, luminosity, color"),
        ({"opacity": 1.5}, r"\[0, 1\], found 1.5"),
        ({"opacity": -0.1}, "opacity"),
        ({"opacity": float("nan")}, "opacity"),
    ],
)
def test_layer_refuses(fields: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Layer(**{"name": "a", "pixels": torch.zeros(3, 2, 4), **fields})


def test_stack_refuses() -> None:
    with pytest.raises(InputError, match="at least one"):
        LayerStack(())
    with pytest.raises(InputError, match="'a' twice"):
        LayerStack((grey(0.1), grey(0.2)))
    with pytest.raises(InputError, match=r"'b'.*\(3, 5, 5\)"):
        LayerStack((grey(0.1), Layer("b", torch.zeros(3, 5, 5))))
    with pytest.raises(InputError, match="fps"):
        LayerStack((grey(0.1),), fps=Fraction(8))
    with pytest.raises(InputError, match="fps"):
        LayerStack((Layer("a", torch.zeros(2, 3, 2, 4)),))


def test_nothing_changes_in_place() -> None:
    stack = LayerStack((grey(0.5), grey(0.25, "b", blend="add")))
    with pytest.raises(FrozenInstanceError):
        stack.layers[0].opacity = 0.5  # pyright: ignore
    before = [layer.pixels.clone() for layer in stack.layers]
    stack.composite()
    stack.composite(torch.tensor([1.0, 0.0, 0.0]))
    for layer, pixels in zip(stack.layers, before, strict=True):
        assert torch.equal(layer.pixels, pixels)


def test_rgba() -> None:
    assert grey(0.5).rgba.shape == (3, 2, 4)
    layer = grey(0.5, alpha=torch.full((1, 2, 4), 0.25))
    assert layer.rgba.shape == (4, 2, 4)
    assert float(layer.rgba[3].mean()) == 0.25


def test_only_keeps_meta_and_order() -> None:
    meta = Meta(exif=b"II*\0", icc_profile=b"profile", bit_depth=16, seed=3)
    stack = LayerStack((grey(0.1), grey(0.2, "b", blend="add", visible=False), grey(0.3, "c")), meta=meta)
    part = stack.only("c", "b")
    assert part.names == ("b", "c")
    assert part.meta is meta
    assert part["b"].visible
    assert part["b"].blend == "over"  # nothing lies below it any more
    assert float(stack.only("b").composite().mean()) == pytest.approx(0.2)
    with pytest.raises(KeyError, match="a, b, c"):
        stack.only("d")


def test_composite_of_transmission_and_reflection_is_the_mixture() -> None:
    stack = LayerStack((grey(0.5, "transmission"), grey(0.25, "reflection", blend="add")))
    assert stack.composite().shape == (3, 2, 4)
    assert float(stack.composite().mean()) == pytest.approx(0.75)


def test_hidden_layers_are_left_out() -> None:
    stack = LayerStack((grey(0.5), grey(0.25, "b", visible=False)))
    assert float(stack.composite().mean()) == pytest.approx(0.5)
    hidden = LayerStack((grey(0.5, visible=False),))
    with pytest.raises(InputError, match="hidden"):
        hidden.composite()
    assert hidden.composite(torch.tensor([0.1, 0.2, 0.3]))[:, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_transparency_reaches_the_composite() -> None:
    stack = LayerStack((grey(0.5, alpha=torch.full((1, 2, 4), 0.5)), grey(1.0, "b", opacity=0.5)))
    shown = stack.composite()
    assert shown.shape == (4, 2, 4)
    # as = 0.5, ab = 0.5: ao = 0.75; co = (0.5 * 1 + 0.25 * 0.5) / 0.75 = 5/6
    assert float(shown[3].mean()) == pytest.approx(0.75)
    assert float(shown[0].mean()) == pytest.approx(5 / 6)


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (3, 2, 4)])
def test_background(shape: tuple[int, ...]) -> None:
    stack = LayerStack((grey(1.0, alpha=torch.full((1, 2, 4), 0.25)),))
    shown = stack.composite(torch.full(shape, 0.2))
    assert shown.shape == (3, 2, 4)
    assert float(shown.mean()) == pytest.approx(0.25 + 0.75 * 0.2)


@pytest.mark.parametrize("shape", [(4,), (1, 2, 4), (3, 5, 5), (2, 3, 2, 4)])
def test_background_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="background"):
        LayerStack((grey(0.5),)).composite(torch.zeros(shape))


def test_stack_over_time() -> None:
    moving = Layer("a", torch.rand(5, 3, 2, 4), torch.rand(5, 1, 2, 4))
    stack = LayerStack((moving,), fps=Fraction(24))
    assert stack.frames == 5
    assert stack.composite().shape == (5, 4, 2, 4)
    assert stack.composite(torch.tensor([1.0, 1.0, 1.0])).shape == (5, 3, 2, 4)
    assert moving.rgba.shape == (5, 4, 2, 4)
