"""Reflection removal from picture to stack: depth, ranges, networks, and back to full size.

Sec. 3 of the paper; inference is one step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import resolve_device, resolve_dtype
from pellucid.errors import ConfigError, InputError
from pellucid.hub.pretrained import load_config, load_state, resolve_weights, save_pretrained, weights_id
from pellucid.io.image import as_stack
from pellucid.layers import Layer, LayerStack
from pellucid.multistep_sirr.depth import PROVIDERS, DepthProvider, Kind, make_provider
from pellucid.multistep_sirr.full_size import run_tiled
from pellucid.multistep_sirr.model import STRIDE, ReflectionPair, ReflectionPairConfig
from pellucid.multistep_sirr.ranged_depth import RangedDepthMap
from pellucid.nn.conv import pad_to_stride
from pellucid.nn.guided import apply_coefficients, enlarge_strips, guided_coefficients

log = logging.getLogger(__name__)

ROOM = "multistep_sirr"
DEFAULT_WEIGHTS = "small"
LONGEST = 1024  # longer side of the fast way's working size, in pixels
CUT = 0.12  # mean change between two frames, of [0, 1], that counts as a cut in a film
Progress = Callable[[int, int, str], None]


class ReflectionRemovalPipeline:
    """Take a photograph through glass apart into transmission, reflection and depth ranges.

    Args:
        pair: the networks.
        weights: identity of the weights, kept in the result's meta data.
        device: where to compute; noise-free, so every device gives the same picture within rounding.
        dtype: precision of the networks; the picture itself stays float32.
    """

    def __init__(
        self,
        pair: ReflectionPair,
        weights: str = "unnamed",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.pair = pair.eval().requires_grad_(False)
        self.config = pair.config
        self.weights = weights
        self._last_provider: tuple[Any, DepthProvider] | None = None
        self.ranged_depth = RangedDepthMap(self.config.ranges, self.config.range_mode, self.config.encoding)
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        offline: bool = False,
    ) -> ReflectionRemovalPipeline:
        """Load bundled weights (by default or by name), a folder, or a hub id.

        Raises:
            WeightsError: not found, damaged, or of another shape than their config says.
        """
        folder = resolve_weights(source, room=ROOM, default=DEFAULT_WEIGHTS, offline=offline, revision=revision)
        pair = ReflectionPair(load_config(folder, ReflectionPairConfig))
        load_state(pair, folder)
        return cls(pair, weights_id(folder), device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path, *, card: str, overwrite: bool = False) -> Path:
        """Write ``config.json``, ``model.safetensors`` and the card ``README.md``."""
        return save_pretrained(folder, method=ROOM, config=self.config, state=self.pair, card=card, overwrite=overwrite)

    def to(self, device: str | torch.device) -> ReflectionRemovalPipeline:
        """Move the networks to a device; returns the pipeline."""
        self.device = resolve_device(device)
        self.pair.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def __call__(
        self,
        image: Any,
        *,
        strength: float = 1.0,
        passes: int = 1,
        way: Literal["fast", "exact"] = "fast",
        tile: int = 512,
        overlap: int | None = None,
        depth: str | Path | DepthProvider = "auto",
        depth_weights: str | Path | None = None,
        depth_kind: Kind | None = None,
        ranges: bool = False,
        progress: Progress | None = None,
    ) -> LayerStack:
        """Take one picture apart.

        Args:
            image: path, PIL image, numpy ``(H, W, C)``, tensor ``(C, H, W)`` or a stack; any size from 1x1.
            strength: how much of the correction is applied, 0 to 1.5; 1 is what the network says.
            passes: how often the output is fed in again; the paper infers with 1.
            way: ``"fast"`` finds the correction at the network's size and enlarges it guided by the picture;
                ``"exact"`` runs the network at full size in tiles.
            tile: side of a tile in pixels, a multiple of 16 of at least 64.
            overlap: pixels shared by neighbouring tiles; None is 64, or half a small tile.
            depth: ``"auto"`` is what the weights were trained with; or a name of `depth.PROVIDERS`, the path of a
                depth map of this picture, or a provider.
            depth_weights: file or folder of a learned provider's weights.
            depth_kind: whether a depth map or network gives ``"inverse"`` or ``"metric"`` depth.
            ranges: add the hidden layers ``range_0`` (farthest) to ``range_{K-1}``, ``depth`` and ``confidence``.
            progress: called with (done, total, label).

        Returns:
            Layers ``transmission`` and ``reflection`` (add), of the input's size, with its alpha and meta data.

        Raises:
            InputError: the picture cannot be read, or is a film.
            ConfigError: an option is out of its range.
        """
        overlap = min(64, tile // 2) if overlap is None else overlap
        _check(strength, passes, way, tile, overlap)
        # 1. the picture
        stack = as_stack(image)
        if stack.fps is not None:
            raise InputError(f"a film of {stack.frames} frames is no picture", "take it apart with video()")
        # A single layer is taken as it is: compositing would lose the colour under its transparent pixels.
        single = stack.layers[0] if len(stack.layers) == 1 else None
        rgba = stack.composite() if single is None else single.rgba
        picture, alpha = rgba[:3], rgba[3:] if rgba.shape[0] == 4 else None
        x = picture[None].to(self.device)  # (1, 3, H, W)
        # 2. depth, once, from the whole picture (Sec. 3)
        provider = self._provider(depth, depth_weights, depth_kind)
        inverse_depth = provider(_within(self._working(x)))  # (1, 1, h, w)
        # 3. the networks
        if way == "fast":
            transmission, reflection = self._fast(x, inverse_depth, passes, progress)
        else:
            transmission, reflection = self._exact(x, inverse_depth, passes, tile, overlap, progress)
        # 4. strength and range: nothing leaves [0, 1] that the input had inside it
        if strength != 1.0:
            transmission = torch.lerp(x, transmission, strength)
            reflection = reflection.mul_(strength)
        transmission = _clamp_like(transmission, x)
        # 5. the stack
        # What the picture lost is what was reflected: only light, and never more than was there.
        layers = [
            Layer("transmission", transmission[0].cpu(), alpha),
            Layer("reflection", reflection.clamp_(0, 1)[0].cpu(), alpha, blend="add"),
        ]
        if ranges:
            layers += self._hidden_layers(layers, x, inverse_depth)
        meta = replace(
            stack.meta,
            method=ROOM,
            weights=self.weights,
            parameters={"strength": strength, "passes": passes, "way": way, "depth": provider.name},
        )
        return LayerStack(tuple(layers), meta=meta)

    def video(
        self,
        frames: Iterable[Tensor],
        *,
        strength: float = 1.0,
        smoothing: float = 0.6,
        depth: str | DepthProvider = "auto",
        depth_weights: str | Path | None = None,
        depth_kind: Kind | None = None,
    ) -> Iterator[Tensor]:
        """Take the reflection out of a film, frame by frame, without flicker.

        The correction T - I is blended with that of the frames before, ``smoothing`` of the old and the rest of the
        new, and starts anew at cuts.

        Args:
            frames: ``(3, H, W)`` or ``(4, H, W)`` in [0, 1], all of one size.
            strength: as in a call.
            smoothing: share of the past, in [0, 1).
            depth, depth_weights, depth_kind: as in a call; a depth map of one picture does not fit a film.

        Yields:
            Frames of the same shape with the transmission in place of the mixture.
        """
        _check(strength, 1, "fast", 512, 64)
        if not 0.0 <= smoothing < 1.0:
            raise ConfigError(f"smoothing must be in [0, 1), found {smoothing}")
        provider = self._provider(depth, depth_weights, depth_kind)
        before: Tensor | None = None
        smoothed: Tensor | None = None
        for frame in frames:
            x = frame[None, :3].to(self.device)
            small = self._working(x)
            estimate, _ = self._steps(small, provider(_within(small)), 1)
            correction = estimate - small
            if smoothed is None or before is None or (small - before).abs().mean() > CUT:
                smoothed = correction
            else:
                smoothed = torch.lerp(correction, smoothed, smoothing)
            before = small
            full = apply_coefficients(x, guided_coefficients(small, smoothed))
            cleared = _clamp_like(x + strength * full, x)[0].cpu()
            yield cleared if frame.shape[0] == 3 else torch.cat([cleared, frame[3:]])

    def export_onnx(self, path: str | Path) -> Path:
        """Write both networks as one ONNX graph: picture, ranged depth -> transmission, reflection.

        Batch, height and width are free; height and width must be multiples of 16.

        Raises:
            DependencyError: the extra ``export`` is not installed.
        """
        from pellucid.hub.onnx import export  # the extra is needed only here

        pair = ReflectionPair(self.config).eval()
        pair.load_state_dict({key: value.float().cpu() for key, value in self.pair.state_dict().items()})
        x = torch.rand(2, 3, 4 * STRIDE, 6 * STRIDE)
        condition = torch.zeros(2, self.config.depth_channels, *x.shape[-2:])
        return export(
            pair,
            (x, condition),
            path,
            inputs=("picture", "ranged_depth"),
            outputs=("transmission", "reflection"),
            stride=STRIDE,
        )

    def _provider(
        self, depth: str | Path | DepthProvider, weights: str | Path | None, kind: Kind | None
    ) -> DepthProvider:
        if not isinstance(depth, str | Path):
            if not callable(depth):
                raise ConfigError(f"depth must be a name, a path or a provider, found {depth!r}")
            return depth
        name = self.config.depth if depth == "auto" else depth
        if isinstance(name, Path) or name not in PROVIDERS:
            return make_provider("file", path=name, kind=kind)
        wanted = (name, weights, kind)
        if self._last_provider is None or self._last_provider[0] != wanted:  # a network is loaded once for a batch
            self._last_provider = (wanted, make_provider(name, weights=weights, kind=kind))
        return self._last_provider[1]

    def _working(self, x: Tensor) -> Tensor:
        """Shrink ``(1, 3, H, W)`` to the size the weights were trained at; smaller pictures stay as they are."""
        height, width = x.shape[-2:]
        scale = min(1.0, LONGEST / max(height, width))
        if self.config.working_side:
            scale = min(scale, self.config.working_side / min(height, width))
        if scale == 1.0:
            return x
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)

    @torch.no_grad()
    def _run(
        self, x: Tensor, condition: Tensor, gates: tuple[Tensor | None, Tensor | None] = (None, None)
    ) -> tuple[Tensor, Tensor]:
        """The networks once, any size: ``(B, 3, h, w)``, ``(B, D, h, w)`` -> two of ``(B, 3, h, w)``, float32."""
        height, width = x.shape[-2:]
        transmission, reflection = self.pair(*self._prepared(x, condition), gates)
        return transmission[..., :height, :width].float(), reflection[..., :height, :width].float()

    def _correction(
        self, x: Tensor, condition: Tensor, gates: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        transmission, reflection = self._run(x, condition, gates)
        return transmission - x, reflection

    def _prepared(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        together = pad_to_stride(torch.cat([x, condition], dim=1), STRIDE).to(
            self.dtype, memory_format=torch.channels_last
        )
        return together[:, :3], together[:, 3:]

    @torch.no_grad()
    def _gates(self, small: Tensor, inverse_depth: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What the networks conclude from the whole picture at their own size, so that all tiles agree on it."""
        condition = self.ranged_depth(_resize(inverse_depth, small.shape[-2:])).to(small)
        return self.pair.gates(*self._prepared(small, condition))

    def _steps(self, small: Tensor, inverse_depth: Tensor, passes: int) -> tuple[Tensor, Tensor]:
        condition = self.ranged_depth(_resize(inverse_depth, small.shape[-2:])).to(small)
        current, removed = small, torch.zeros_like(small)
        for _ in range(passes):
            current, reflection = self._run(current, condition)
            removed = removed + reflection
        return current, removed

    def _fast(self, x: Tensor, inverse_depth: Tensor, passes: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
        small = self._working(x)
        estimate, removed = self._steps(small, inverse_depth, passes)
        if progress is not None:
            progress(1, 2, "network")
        transmission, reflection = estimate, removed
        if small.shape != x.shape:
            transmission = apply_coefficients(x, guided_coefficients(small, estimate - small)).add_(x)
            reflection = apply_coefficients(x, guided_coefficients(small, removed))
        if progress is not None:
            progress(2, 2, "full size")
        return transmission, reflection

    def _exact(
        self, x: Tensor, inverse_depth: Tensor, passes: int, tile: int, overlap: int, progress: Progress | None
    ) -> tuple[Tensor, Tensor]:
        # The ranges are those of the whole picture; tiles are cut from them.
        ranged = self.ranged_depth(_enlarge(inverse_depth, x.shape[-2:])).to(x)

        current, removed = x, None
        for _ in range(passes):
            # Tiles of the correction, not of the picture: where there is none, rounding in the windows changes nothing.
            run = partial(self._correction, gates=self._gates(self._working(current), inverse_depth))
            correction, reflection = run_tiled(run, current, ranged, tile, overlap, progress)
            current = correction.add_(current)
            removed = reflection if removed is None else removed.add_(reflection)
        assert removed is not None
        return current, removed

    def _hidden_layers(self, shown: list[Layer], x: Tensor, inverse_depth: Tensor) -> list[Layer]:
        """Depth ranges as cut-outs of the transmission, depth and confidence as grey pictures; hidden in the file."""
        transmission, reflection = shown[0].pixels, shown[1].pixels
        size = x.shape[-2:]
        indices = self.ranged_depth.indices(inverse_depth)  # (1, 1, h, w)
        layers: list[Layer] = []
        for index in range(self.config.ranges):
            mask = _enlarge((indices == index).float(), size)[0].cpu()  # (1, H, W), soft at the seams
            covered = mask if shown[0].alpha is None else mask * shown[0].alpha
            layers.append(Layer(f"range_{index}", transmission, covered, visible=False))
        span = (inverse_depth.amax() - inverse_depth.amin()).clamp(min=1e-8)
        near = _enlarge((inverse_depth - inverse_depth.amin()) / span, size)[0].cpu()
        layers.append(Layer("depth", near.expand(3, -1, -1), visible=False))
        # Low where the two layers do not explain the picture: exp(-|I - (T + R)| / 0.1), smoothed.
        unexplained = torch.empty(1, 1, *size)
        for top in range(0, size[0], 512):
            rows = slice(top, top + 512)
            gap = x[0, :, rows].cpu() - transmission[:, rows] - reflection[:, rows]
            unexplained[0, 0, rows] = gap.abs_().mean(0)
        confidence = torch.exp(-F.avg_pool2d(unexplained, 9, 1, 4, count_include_pad=False) / 0.1)[0]
        layers.append(Layer("confidence", confidence.expand(3, -1, -1), visible=False))
        return layers


def _check(strength: float, passes: int, way: str, tile: int, overlap: int) -> None:
    if not 0.0 <= strength <= 1.5:
        raise ConfigError(f"strength must be in [0, 1.5], found {strength}")
    if passes < 1:
        raise ConfigError(f"passes must be at least 1, found {passes}")
    if way not in ("fast", "exact"):
        raise ConfigError(f"way must be 'fast' or 'exact', found {way!r}")
    if tile < 64 or tile % STRIDE:
        raise ConfigError(f"tile must be a multiple of {STRIDE} of at least 64, found {tile}")
    if not 0 <= overlap <= tile // 2:
        raise ConfigError(f"overlap must be between 0 and half a tile ({tile // 2}), found {overlap}")


def _within(x: Tensor) -> Tensor:
    """Depth providers take [0, 1]; colours outside sRGB are told to them as the nearest inside."""
    return x.clamp(0, 1)


def _clamp_like(result: Tensor, x: Tensor) -> Tensor:
    """Clamp to [0, 1] in place, widened where the input itself has colours outside sRGB."""
    low, high = x.aminmax()
    return result.clamp_(min(0.0, low.item()), max(1.0, high.item()))


def _resize(depth: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    if depth.shape[-2:] == tuple(size):
        return depth
    return F.interpolate(depth, tuple(size), mode="bilinear", align_corners=False)


def _enlarge(small: Tensor, size: torch.Size) -> Tensor:
    out = torch.empty(*small.shape[:2], *size)
    for rows, strip in enlarge_strips(small, size):
        out[..., rows, :] = strip
    return out
