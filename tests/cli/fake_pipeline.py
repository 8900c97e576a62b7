"""Pipelines that answer at once: one halves a picture, one tints it; workers find them by the name of their module."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pellucid.errors import WeightsError
from pellucid.layers import Layer, LayerStack


class FakePipeline:
    @classmethod
    def from_pretrained(cls, source, *, device="auto", dtype="auto", offline=False):
        if source == "missing":
            raise WeightsError("no weights 'missing'", "use small")
        return cls()

    def __call__(
        self, image, *, strength=1.0, passes=1, way="fast", tile=512, depth="auto", ranges=False, depth_kind=None
    ):
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        (layer,) = image.layers
        pixels = layer.pixels * (1 - 0.5 * strength)
        layers = [
            replace(layer, name="transmission", pixels=pixels),
            Layer("reflection", layer.pixels - pixels, layer.alpha, blend="add"),
        ]
        if ranges:
            half = torch.full_like(pixels[:1], 0.5)
            layers += [Layer(f"range_{index}", pixels, half, visible=False) for index in range(2)]
            layers.append(Layer("confidence", torch.full_like(pixels, 1 / 3), visible=False))
        settings = {"strength": strength, "passes": passes, "way": way, "tile": tile, "depth": depth}
        meta = replace(image.meta, method="fake", parameters=settings | {"kind": depth_kind})
        return LayerStack(tuple(layers), meta=meta)

    def video(self, frames: Iterable[Tensor], *, strength=1.0, depth="auto") -> Iterator[Tensor]:
        for frame in frames:
            yield torch.cat([frame[:3] * (1 - 0.5 * strength), frame[3:]])


class FakeColors:
    @classmethod
    def from_pretrained(cls, source, *, device="auto", dtype="auto", offline=False):
        return cls()

    def __call__(self, image, text="", *, regions=()):
        (layer,) = image.layers
        pixels = layer.pixels.clone()
        for where, phrase in (("all", text), *regions):
            tint = torch.tensor([float(colour in phrase) for colour in ("red", "green", "blue")])
            part = pixels if where == "all" else pixels[:, pixels.shape[1] // 2 :]
            part.copy_(part * tint[:, None, None])
        layers = (replace(layer, name="color", pixels=pixels), replace(layer, name="luminance", blend="luminosity"))
        return LayerStack(layers, meta=image.meta)


class FakeParts:
    """A mask is grey; edits make it darker by the number of their parts, and drawn it is red."""

    @classmethod
    def from_pretrained(cls, source, *, device="auto", dtype="auto", offline=False):
        return cls()

    def generator(self, backend):
        return self

    def random_style(self, seed):
        return (1.0, 0.2, 0.2)

    def __call__(self, mask, operations=(), *, references, render=None, style=None):
        level = 0.9 - 0.1 * len(operations) - (0.2 if mask == references["other"] else 0.0)
        pixels = torch.full((3, 40, 40), level)
        if render == "preview":
            pixels = pixels * torch.tensor(style)[:, None, None]
        return LayerStack((Layer("background", pixels), Layer("hair", pixels, torch.ones(1, 40, 40))))


class NoWeights:
    @classmethod
    def from_pretrained(cls, source, *, device="auto", dtype="auto", offline=False):
        raise WeightsError("no weights here", "get some")
