"""Training and test pairs: the published layouts on disk, and mixtures blended on the device from plain photographs."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from pellucid.data.bank import PixelBank
from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.io import load_image
from pellucid.multistep_sirr.blending import BlendOptions, blend

log = logging.getLogger(__name__)

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Pair:
    """Files of one scene: mixture, transmission and, where the set has it, reflection."""

    name: str
    mixture: Path
    transmission: Path
    reflection: Path | None = None


@dataclass(frozen=True)
class Batch:
    """What one training step sees, all ``(B, 3, H, W)`` in [0, 1].

    Attributes:
        mixture: I.
        transmission: target T.
        reflection: target R; clamp(I - T, 0, 1) where the set has none.
        has_reflection: ``(B,)`` bool, false where R was derived.
    """

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    has_reflection: Tensor


# Name, mixture, transmission and reflection of a scene; the last two None where the set has no such file.
_Scene = tuple[str, Path, Path | None, Path | None]


def _flashrr(root: Path) -> Iterator[_Scene]:
    """flash-reflection-removal: ``NAME_ambient``, ``NAME_ambient_T``, ``NAME_ambient_R``; no flash files."""
    for path in _pictures(root, "**/*_ambient.*"):
        name = path.stem.removesuffix("_ambient")
        yield name, path, _beside(path.parent, f"{name}_ambient_T"), _beside(path.parent, f"{name}_ambient_R")


def _folders(root: Path) -> Iterator[_Scene]:
    """SIR2 as republished, real20, Nature, DSRNet: ``blended/``, ``transmission_layer/``, ``reflection_layer/``."""
    for blended in sorted(root.glob("**/blended")):
        for path in _pictures(blended, "*"):
            transmission = _beside(blended.parent / "transmission_layer", path.stem)
            reflection = _beside(blended.parent / "reflection_layer", path.stem)
            yield f"{blended.parent.name}/{path.stem}", path, transmission, reflection


def _ceilnet(root: Path) -> Iterator[_Scene]:
    """CEILNet: ``NAME-input``, ``NAME-label1`` (transmission), ``NAME-label2`` (reflection as blended)."""
    for path in _pictures(root, "**/*-input.*"):
        name = path.stem.removesuffix("-input")
        yield name, path, _beside(path.parent, f"{name}-label1"), _beside(path.parent, f"{name}-label2")


def _sir2(root: Path) -> Iterator[_Scene]:
    """SIR2 as released: in each scene's folder one file beginning with m (mixture), one with g, perhaps one with r."""
    for path in _pictures(root, "**/m*.*"):
        rest, name = path.stem[1:], path.relative_to(root).with_suffix("").as_posix()
        yield name, path, _beside(path.parent, f"g{rest}"), _beside(path.parent, f"r{rest}")


LAYOUTS: dict[str, Callable[[Path], Iterator[_Scene]]] = {
    "flashrr": _flashrr,
    "folders": _folders,
    "ceilnet": _ceilnet,
    "sir2": _sir2,
}


def find_pairs(root: str | Path, layout: str = "auto") -> list[Pair]:
    """List the pairs of a published data set.

    Args:
        root: its folder.
        layout: a key of `LAYOUTS`, or ``"auto"`` for the first one that finds a pair.

    Raises:
        InputError: the folder is not there or holds no pair of that layout.
        ConfigError: the layout is not known.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"data folder {folder} is not there")
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r} is not known", f"use auto, {', '.join(LAYOUTS)}")
    for name, reader in LAYOUTS.items():
        if layout in ("auto", name):
            scenes = list(reader(folder))
            pairs = [Pair(scene, mixture, truth, light) for scene, mixture, truth, light in scenes if truth is not None]
            if pairs:
                if alone := [str(mixture) for _, mixture, truth, _ in scenes if truth is None]:
                    log.warning("%d mixtures without a transmission are left out, first %s", len(alone), alone[0])
                log.info("%s: %d pairs, layout %s", folder, len(pairs), name)
                return pairs
    raise InputError(f"{folder} holds no pairs", "known layouts: " + "; ".join(_describe(name) for name in LAYOUTS))


def read_pair(pair: Pair) -> Batch:
    """Read one pair as a batch of one, at its own size.

    Raises:
        InputError: a file cannot be read, or the sizes differ.
    """
    mixture, transmission = _read(pair.mixture), _read(pair.transmission)
    _same_size(pair, mixture, transmission, "transmission")
    known = pair.reflection is not None
    reflection = _read(pair.reflection) if pair.reflection else (mixture - transmission).clamp(0, 1)
    _same_size(pair, mixture, reflection, "reflection")
    return Batch(mixture, transmission, reflection, torch.tensor([known]))


class PairBatches:
    """Random crops of real pairs, epoch after epoch; a pure function of the seed, the process and the index.

    Args:
        pairs: what to draw from; every epoch sees each once, in a new order.
        batch: crops in a batch.
        crop: side of the square in pixels, cut to the picture's shorter side when that is smaller.
        seed: of the whole run.
        process: this process and how many there are.
        device: where the batch is put.
    """

    def __init__(
        self, pairs: list[Pair], batch: int, crop: int, seed: int, process: tuple[int, int], device: torch.device
    ) -> None:
        self.pairs, self.batch, self.crop, self.seed = pairs, batch, crop, seed
        self.process, self.device = process, device

    def __call__(self, index: int) -> Batch:
        rank, world = self.process
        drawn = []
        for offset in range(self.batch):
            position = (index * world + rank) * self.batch + offset
            epoch, place = divmod(position, len(self.pairs))
            order = torch.randperm(len(self.pairs), generator=generator_of(self.seed, epoch))
            drawn.append(self._augmented(self.pairs[int(order[place])], generator_of(self.seed, 1 << 40, position)))
        side = min(piece.shape[-1] for piece, _ in drawn)
        stacked = torch.stack([piece[..., :side, :side] for piece, _ in drawn]).to(self.device)  # (B, 3, 3, s, s)
        known = torch.tensor([flag for _, flag in drawn], device=self.device)
        return Batch(stacked[:, 0], stacked[:, 1], stacked[:, 2], known)

    def _augmented(self, pair: Pair, generator: Generator) -> tuple[Tensor, bool]:
        """One random square of a pair: ``(3, 3, s, s)``, the three pictures alike; flipped and turned by quarters."""
        whole = read_pair(pair)
        pictures = torch.cat([whole.mixture, whole.transmission, whole.reflection])  # (3, 3, H, W)
        height, width = pictures.shape[-2:]
        if min(height, width) < 16:
            raise InputError(f"{pair.name}: training needs sides of at least 16 pixels, found {width} x {height}")
        side = min(self.crop, height, width) // 16 * 16
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        pictures = pictures[..., top : top + side, left : left + side]
        if torch.rand((), generator=generator) < 0.5:
            pictures = pictures.flip(-1)
        if torch.rand((), generator=generator) < 0.5:
            quarter = int(torch.randint(1, 4, (), generator=generator))
            pictures = torch.rot90(pictures, quarter, (-2, -1))
        return pictures.contiguous(), bool(whole.has_reflection)


class BlendBatches:
    """Mixtures made on the device from banks of photographs; a pure function of the seed, the process and the index.

    Args:
        banks: sets of pictures with their shares: which part of the draws each gets.
        batch: mixtures in a batch.
        crop: side of a crop in pixels.
        scale: side of the square that is cut, as a fraction of the stored picture's short side, from and to.
        options: of `blend`.
        seed: of the whole run.
        process: this process and how many there are.
        relit: share of transmissions whose light is changed, see `relight`.
        reference: crop side in stored pixels that the blends' constants were stated for.
    """

    def __init__(
        self,
        banks: list[tuple[PixelBank, float]],
        batch: int,
        crop: int,
        scale: tuple[float, float],
        options: BlendOptions,
        seed: int,
        process: tuple[int, int] = (0, 1),
        relit: float = 0.3,
        reference: float = 256.0,
    ) -> None:
        if sum(len(bank) for bank, _ in banks) < 3:
            raise InputError("blending needs at least 3 pictures")
        self.banks, self.batch, self.crop, self.scale = banks, batch, crop, scale
        self.options, self.seed, self.process = options, seed, process
        self.relit, self.reference = relit, reference

    def __call__(self, index: int) -> Batch:
        rank, world = self.process
        generator = generator_of(self.seed, index * world + rank)
        pictures = self._draw(3 * self.batch, generator)  # (3B, 3, s, s)
        T, R, V = pictures.chunk(3)
        T = relight(T, generator, self.relit)
        made = blend(T, R, V, generator, self.options, scale=self.crop / self.reference)
        known = torch.ones(self.batch, dtype=torch.bool, device=T.device)
        return Batch(made.mixture, made.transmission, made.reflection, known)

    def _draw(self, count: int, generator: Generator) -> Tensor:
        shares = torch.tensor([share for _, share in self.banks])
        chosen = torch.multinomial(shares, count, replacement=True, generator=generator)
        out: Tensor | None = None
        for number, (bank, _) in enumerate(self.banks):
            here = (chosen == number).nonzero().flatten()
            if len(here) == 0:
                continue
            crops = bank.crops(bank.sample(len(here), generator), self.crop, generator, scale=self.scale)
            if out is None:
                out = torch.empty(count, *crops.shape[1:], device=crops.device)
            out[here.to(crops.device)] = crops
        assert out is not None
        return out


def relight(pictures: Tensor, generator: Generator, share: float = 0.3) -> Tensor:
    """Vary the light of pictures ``(B, 3, H, W)``: dim rooms, other contrast, other saturation.

    Rooms behind glass are darker than the photographs people publish, so training should see dark scenes too.

    Args:
        pictures: in [0, 1].
        generator: CPU generator.
        share: of pictures that are dimmed, by up to a factor of 2 in linear light.
    """
    count = pictures.shape[0]

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return (low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)).to(pictures)

    dimmed = (torch.rand(count, 1, 1, 1, generator=generator) < share).to(pictures)
    gain = torch.exp(uniform(math.log(0.5), 0) * dimmed) * uniform(0.9, 1.0, 3)
    lit = (pictures.clamp(min=1e-4) ** 2.2 * gain) ** (1 / 2.2)
    lit = lit ** torch.exp(uniform(-0.25, 0.25))
    grey = lit.mean(1, keepdim=True)
    return (grey + (lit - grey) * uniform(0.5, 1.3)).clamp(0, 1)


def error_statistics(mixture: Tensor, transmission: Tensor) -> dict[str, float]:
    """What glass did to a picture, in the numbers by which blends are compared with real pairs (one pair).

    Returns:
        ``psnr`` of doing nothing, ``mean`` of I - T, ``smooth`` the share of the error's energy below a Gaussian of
        5 % of the shorter side, ``constant`` the share of a plain offset, ``contrast`` and ``offset`` of the best
        I ~ contrast T + offset, ``affine_psnr`` of the best per-channel affine map from I to T.
    """
    from pellucid.multistep_sirr.blending import blur

    error = (mixture - transmission)[None] if mixture.ndim == 3 else mixture - transmission
    energy = error.square().mean().clamp(min=1e-12)
    sigma = torch.tensor([min(error.shape[-2:]) / 20])
    smooth = blur(error, sigma, 2 * math.ceil(2.5 * float(sigma)) + 1)
    I, T = mixture.reshape(3, -1).double(), transmission.reshape(3, -1).double()  # noqa: E741
    spread_t = (T - T.mean(1, keepdim=True)).square().mean(1).clamp(min=1e-9)
    spread_i = (I - I.mean(1, keepdim=True)).square().mean(1).clamp(min=1e-9)
    shared = ((T - T.mean(1, keepdim=True)) * (I - I.mean(1, keepdim=True))).mean(1)
    unexplained = (spread_t - shared.square() / spread_i).mean().clamp(min=1e-12)
    contrast = shared / spread_t
    return {
        "psnr": float(-10 * energy.log10()),
        "mean": float(error.mean()),
        "smooth": float(smooth.square().mean() / energy),
        "constant": float(error.mean((-2, -1)).square().mean() / energy),
        "contrast": float(contrast.mean()),
        "offset": float((I.mean(1) - contrast * T.mean(1)).mean()),
        "affine_psnr": float(-10 * unexplained.log10()),
    }


def _read(path: Path) -> Tensor:
    pixels = load_image(path).layers[0].pixels[None]  # (1, 3, H, W)
    if pixels.min() < 0 or pixels.max() > 1:
        log.info("%s: colours outside sRGB are clipped", path)
    return pixels.clamp(0, 1)


def _same_size(pair: Pair, mixture: Tensor, other: Tensor, role: str) -> None:
    if mixture.shape != other.shape:
        sizes = " and ".join(f"{picture.shape[-1]} x {picture.shape[-2]}" for picture in (mixture, other))
        raise InputError(f"{pair.name}: mixture and {role} must be of one size, found {sizes} pixels")


def _pictures(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in PICTURES)


def _beside(folder: Path, stem: str) -> Path | None:
    for suffix in sorted(PICTURES):
        for candidate in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix.upper()}"):
            if candidate.is_file():
                return candidate
    return None


def _describe(name: str) -> str:
    return f"{name}: {(LAYOUTS[name].__doc__ or '').splitlines()[0].split(': ', 1)[-1]}"
