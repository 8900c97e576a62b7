"""A label map as layers, and back."""

import logging
from dataclasses import replace

import pytest
import torch

from pellucid.errors import InputError
from pellucid.layers.stack import Layer, LayerStack, Meta
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.mask_stack import as_stack, from_stack

from .drawn_face import drawn_face

FACE = drawn_face(32)


def test_one_layer_a_class_and_the_background_lowest() -> None:
    stack = as_stack(FACE, CELEBAMASK_HQ, meta=Meta(seed=3))
    assert stack.names == tuple(CELEBAMASK_HQ.names[one] for one in FACE.unique().tolist())
    assert stack.names[0] == "background"
    assert stack.meta.seed == 3
    last = ClassSet("last", ("skin", "hair", "rest"), background=2)
    assert as_stack(torch.tensor([[0, 1, 2]]), last).names == ("rest", "skin", "hair")


def test_composite_is_the_colored_map_or_the_picture() -> None:
    assert torch.allclose(as_stack(FACE, CELEBAMASK_HQ).composite()[:3], CELEBAMASK_HQ.colored(FACE))
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(as_stack(FACE, CELEBAMASK_HQ, picture).composite()[:3], picture)
    with pytest.raises(InputError, match="picture must be"):
        as_stack(FACE, CELEBAMASK_HQ, picture[:, :5])


def test_and_back() -> None:
    stack = as_stack(FACE, CELEBAMASK_HQ)
    assert torch.equal(from_stack(stack, CELEBAMASK_HQ), FACE)
    rendering = Layer("preview", torch.zeros(3, 32, 32))
    assert torch.equal(from_stack(replace(stack, layers=(*stack.layers, rendering)), CELEBAMASK_HQ), FACE)


def test_hidden_layers_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    stack = as_stack(FACE, CELEBAMASK_HQ)
    hidden = tuple(replace(layer, visible=layer.name != "hair") for layer in stack.layers)
    with caplog.at_level(logging.INFO, "pellucid"):
        labels = from_stack(replace(stack, layers=hidden), CELEBAMASK_HQ)
    assert not bool((labels == 13).any())
    assert torch.equal(labels[FACE != 13], FACE[FACE != 13])
    assert "hair" in caplog.text


def test_upper_layers_win_and_gaps_are_background() -> None:
    half = torch.zeros(1, 2, 2)
    half[:, 0] = 1
    stack = LayerStack((Layer("hair", torch.zeros(3, 2, 2), half), Layer("skin", torch.zeros(3, 2, 2), half * 0.6)))
    assert from_stack(stack, CELEBAMASK_HQ).tolist() == [[1, 1], [0, 0]]


def test_refusals() -> None:
    with pytest.raises(InputError, match="tail"):
        from_stack(LayerStack((Layer("tail", torch.zeros(3, 2, 2)),)), CELEBAMASK_HQ)
    with pytest.raises(InputError, match="19"):
        as_stack(torch.full((2, 2), 19), CELEBAMASK_HQ)
    with pytest.raises(InputError, match="integers"):
        as_stack(torch.zeros(2, 2), CELEBAMASK_HQ)
