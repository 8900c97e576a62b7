"""Stands in for the pipeline of clips with alpha: draws a ball without a network, and remembers what it was asked."""

from fractions import Fraction
from typing import Any

import torch

from pellucid.layers import Layer, LayerStack, Meta


class FakeClips:
    """A pipeline whose clip follows from frames, size and seed alone."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012 - emptied by the tests
    opened: list[tuple[Any, ...]] = []  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, source: str | None, **options: Any) -> "FakeClips":
        cls.opened.append((source, options))
        return cls()

    def __call__(self, prompt: str, *, progress: Any = None, **options: Any) -> LayerStack:
        type(self).calls.append({"prompt": prompt, **options})
        frames, height, width = options.get("frames", 3), options.get("height", 24), options.get("width", 32)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        rims = [(8 - torch.hypot(x - 10.0 - t, y - 12.0)) / 4 for t in range(frames)]
        alpha = torch.stack(rims)[:, None].clamp(0, 1)
        for step in range(2):
            progress(step + 1, 2)
        pixels = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1).expand(frames, 3, height, width).clone()
        meta = Meta(method="layer_animate", weights="fake", seed=options.get("seed", 5), parameters={"prompt": prompt})
        return LayerStack((Layer("foreground", pixels, alpha),), fps=Fraction(options.get("fps", 8)), meta=meta)
