"""Depth from networks of the transformers library, which is imported only when one is asked for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import DependencyError, WeightsError
from pellucid.multistep_sirr.depth import Kind, check_pictures, follow
from pellucid.multistep_sirr.midas import postprocess

_LONGEST = 2048  # bounds the cost of very long pictures, whose shorter side the networks want at 384 to 518


class TransformersDepth:
    """A depth network of the transformers library, such as DPT or Depth Anything, from a local folder.

    The pictures are prepared here by the folder's ``preprocessor_config.json``, because the library's own code for it
    needs torchvision.

    Args:
        folder: what ``save_pretrained`` wrote: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``.
        kind: what the network answers; None to ask its config (inverse unless that says "metric").

    Raises:
        WeightsError: the folder is missing or holds no depth network.
        DependencyError: transformers is not installed.
    """

    name = "transformers"
    is_learned = True

    def __init__(self, folder: str | Path, kind: Kind | None = None) -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise WeightsError(f"depth network: no config.json in {self.folder}", "name the folder of a saved network")
        try:
            import transformers  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise DependencyError(
                "depth provider 'transformers' needs transformers", "pip install transformers"
            ) from error
        auto: Any = transformers.AutoModelForDepthEstimation
        try:
            self.model = auto.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"depth network in {self.folder} cannot be loaded: {reason}") from error
        self.model.eval().requires_grad_(False)
        says = getattr(self.model.config, "depth_estimation_type", "relative")
        self.kind: Kind = kind or ("metric" if says == "metric" else "inverse")
        self._prepare = _Preparation.read(self.folder / "preprocessor_config.json")

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Estimate the depth of ``(B, 3, H, W)`` at the network's size, as ``(B, 1, H, W)``; see `DepthProvider`."""
        check_pictures(rgb01)
        follow(self.model, rgb01)
        with torch.no_grad(), torch.autocast(rgb01.device.type, enabled=False):
            depth = self.model(pixel_values=self._prepare(rgb01)).predicted_depth.float()  # (B, h, w)
            if self.kind == "metric":
                depth = 1 / depth.clamp_min(1e-3)
            return postprocess(depth, (rgb01.shape[-2], rgb01.shape[-1]))


@dataclass(frozen=True)
class _Preparation:
    """What ``preprocessor_config.json`` asks for: size, multiples, mean and deviation."""

    height: int
    width: int
    keep_aspect: bool
    multiple: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, file: Path) -> "_Preparation":
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            size = found["size"]
            return cls(
                height=int(size["height"]),
                width=int(size["width"]),
                keep_aspect=bool(found.get("keep_aspect_ratio", False)),
                multiple=int(found.get("ensure_multiple_of", 1)),
                mean=tuple(found["image_mean"]),
                std=tuple(found["image_std"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"depth network: {file} does not say how to prepare pictures: {error!r}") from error

    def __call__(self, rgb01: Tensor) -> Tensor:
        size = self.size(rgb01.shape[-2], rgb01.shape[-1])
        shrinks = size[0] < rgb01.shape[-2] or size[1] < rgb01.shape[-1]
        small = F.interpolate(rgb01.float(), size, mode="bicubic", align_corners=False, antialias=shrinks)
        mean, std = (small.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (small - mean) / std

    def size(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.height / height, self.width / width
        if self.keep_aspect:  # the factor that changes the picture least, as the library does
            rows = columns = min(rows, columns, key=lambda factor: abs(1 - factor))
            rows = columns = min(rows, _LONGEST / max(height, width))
        return self._fit(height * rows), self._fit(width * columns)

    def _fit(self, length: float) -> int:
        return max(self.multiple, round(length / self.multiple) * self.multiple)
