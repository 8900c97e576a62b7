"""`Layer`, `LayerStack` and `Meta`: what every verb returns and every file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layers.composite import composite

Blend = Literal["over", "add", "luminosity", "color"]
BLEND_MODES: tuple[str, ...] = get_args(Blend)


@dataclass(frozen=True)
class Meta:
    """What travels with a picture from file to file.

    Attributes:
        exif: EXIF block as bytes, orientation already reset to upright.
        icc_profile: ICC profile the source was encoded in; files are written back in it. None means sRGB.
        xmp: XMP packet as bytes.
        dpi: horizontal and vertical resolution in dots per inch.
        bit_depth: bits per channel of the source, 8 or 16; files are written with as many where they can.
        source: name of the file that was read.
        method: which method made the layers, for example ``"multistep_sirr"``.
        weights: identity of the weights that were used.
        seed: the seed, where one was used.
        parameters: settings of the method, as plain values.
    """

    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    bit_depth: int = 8
    source: str | None = None
    method: str | None = None
    weights: str | None = None
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Layer:
    """One layer: colour, coverage, and how it is laid over what is below.

    Attributes:
        name: unique within its stack.
        pixels: ``(3, H, W)`` or, over time, ``(T, 3, H, W)``; float32, sRGB-encoded, straight (not premultiplied), in
            [0, 1]. Values outside [0, 1] occur only for colours outside sRGB in a picture with a wider ICC profile.
        alpha: ``(1, H, W)`` or ``(T, 1, H, W)``; float32 in [0, 1]. None means opaque.
        blend: ``"over"``, ``"add"``, or CIELAB ``"luminosity"`` and ``"color"``.
        opacity: factor on alpha, in [0, 1].
        visible: hidden layers are kept in files and left out of `LayerStack.composite`.

    Raises:
        InputError: a shape, dtype, blend mode or opacity is not as above.
    """

    name: str
    pixels: Tensor
    alpha: Tensor | None = None
    blend: Blend = "over"
    opacity: float = 1.0
    visible: bool = True

    def __post_init__(self) -> None:
        found = f"{tuple(self.pixels.shape)} {self.pixels.dtype}"
        if self.pixels.ndim not in (3, 4) or self.pixels.shape[-3] != 3 or self.pixels.dtype != torch.float32:
            raise InputError(f"layer {self.name!r}: pixels must be (3, H, W) or (T, 3, H, W) float32, found {found}")
        if self.alpha is not None:
            wanted = (*self.pixels.shape[:-3], 1, *self.pixels.shape[-2:])
            if tuple(self.alpha.shape) != wanted or self.alpha.dtype != torch.float32:
                found = f"{tuple(self.alpha.shape)} {self.alpha.dtype}"
                raise InputError(f"layer {self.name!r}: alpha must be {wanted} float32, found {found}")
        if self.blend not in BLEND_MODES:
            raise InputError(f"layer {self.name!r}: blend {self.blend!r} is not one of {', '.join(BLEND_MODES)}")
        if not 0.0 <= self.opacity <= 1.0:
            raise InputError(f"layer {self.name!r}: opacity must be in [0, 1], found {self.opacity}")

    @property
    def rgba(self) -> Tensor:
        """Colour and alpha together: ``(..., 4, H, W)``, or ``(..., 3, H, W)`` when opaque."""
        return self.pixels if self.alpha is None else torch.cat([self.pixels, self.alpha], dim=-3)


@dataclass(frozen=True)
class LayerStack:
    """Layers from the bottom up, all of one size, with what belongs to the picture as a whole.

    Attributes:
        layers: bottom first; at least one.
        fps: frames per second, set exactly when the pixels have a time axis.
        meta: EXIF, ICC, bit depth and where the layers came from.

    Raises:
        InputError: no layer, two of one name, differing sizes, or a time axis without ``fps``.
    """

    layers: tuple[Layer, ...]
    fps: Fraction | None = None
    meta: Meta = field(default_factory=Meta)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("a stack needs at least one layer, found none")
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"layer names must differ, found {twice!r} twice")
        first = self.layers[0].pixels.shape
        for layer in self.layers[1:]:
            if layer.pixels.shape != first:
                raise InputError(
                    f"layer {layer.name!r} must have the size of {names[0]!r}, {tuple(first)}, "
                    f"found {tuple(layer.pixels.shape)}"
                )
        if (len(first) == 4) != (self.fps is not None):
            raise InputError("a stack has fps exactly when its pixels have a time axis (T, 3, H, W)")

    def __getitem__(self, name: str) -> Layer:
        """Return the layer of that name; a KeyError lists the names there are."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; there are {', '.join(self.names)}")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, bottom first."""
        return tuple(layer.name for layer in self.layers)

    @property
    def height(self) -> int:
        return self.layers[0].pixels.shape[-2]

    @property
    def width(self) -> int:
        return self.layers[0].pixels.shape[-1]

    @property
    def frames(self) -> int | None:
        """Number of frames, None for a still picture."""
        return self.layers[0].pixels.shape[0] if self.fps is not None else None

    def only(self, *names: str) -> LayerStack:
        """Keep the named layers, in the stack's order, visible, with all of the meta data.

        The bottom one becomes ``over``: a layer on its own has nothing to blend with.
        """
        for name in names:
            self[name]
        kept = [replace(layer, visible=True) for layer in self.layers if layer.name in names]
        kept[0] = replace(kept[0], blend="over")
        return replace(self, layers=tuple(kept))

    def composite(self, background: Tensor | None = None) -> Tensor:
        """Lay the visible layers over one another.

        Args:
            background: opaque colour below everything, ``(3,)``, ``(3, 1, 1)`` or ``(3, H, W)`` in [0, 1].

        Returns:
            ``(3, H, W)`` or ``(T, 3, H, W)`` when the result is opaque, else with a fourth channel, straight alpha.

        Raises:
            InputError: no layer is visible and no background is given, or the background does not fit.
        """
        shown = [(la.pixels, la.alpha, la.blend, la.opacity) for la in self.layers if la.visible]
        if background is not None:
            shape = self.layers[0].pixels.shape
            below = background.to(torch.float32)
            below = below[:, None, None] if below.ndim == 1 else below
            if below.ndim != 3 or below.shape[0] != 3:
                raise InputError(f"background must be (3,) or (3, H, W), found {tuple(background.shape)}")
            try:
                below = below.expand(shape)
            except RuntimeError as error:
                raise InputError(f"background {tuple(background.shape)} does not fit {tuple(shape)}") from error
            shown.insert(0, (below, None, "over", 1.0))
        if not shown:
            raise InputError("nothing to composite: every layer is hidden", "give a background, or use only(...)")
        colour, alpha = composite(shown)
        return colour if alpha is None else torch.cat([colour, alpha], dim=-3)  # (..., 3|4, H, W)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write a file whose format follows from the suffix; see `pellucid.io.save` for options.

        Raises:
            FormatError: the format cannot hold what the stack has; the message lists the ones that can.
        """
        from pellucid import io  # the one upward import: files are read and written through the stack

        return io.save(self, path, **options)

    @classmethod
    def load(cls, path: str | Path) -> LayerStack:
        """Read a picture, a layered file or a video; see `pellucid.io.load`."""
        from pellucid import io  # the one upward import, as in `save`

        return io.load(path)
