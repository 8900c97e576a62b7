"""Face parts, mask to stack: encode once, replay a history of edits on the codes, decode, keep what nobody edited."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import generator_of, resolve_device, resolve_dtype
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import load_config, load_state, resolve_weights, save_pretrained, weights_id
from pellucid.io.image import as_stack as read_picture
from pellucid.layers import LayerStack
from pellucid.semantic_vae.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.editing import (
    DRAWING,
    Codes,
    History,
    Operation,
    allowed_classes,
    apply,
    edited_parts,
    edited_region,
    presence,
    seeded,
)
from pellucid.semantic_vae.editing import stray_guard as strays_forbidden
from pellucid.semantic_vae.fitting import Editing, load_editing, save_editing
from pellucid.semantic_vae.generators import Generator, complete_style, open_generator
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.priors import generate_all

if TYPE_CHECKING:
    from pellucid.semantic_vae.mask_files import Frame, Mask

log = logging.getLogger(__name__)

ROOM = "semantic_vae"
DEFAULT_WEIGHTS = "small"
CLASSES = "classes.json"  # beside the weights
RADIUS = 12.0  # pixels at REFERENCE
REFERENCE = 256  # the side at which a radius is given
_CHUNK = 16  # masks through the network at once
_SEEDS = 2**31


class FacePartsPipeline:
    """Generate, change, swap and move the parts of face masks.

    Args:
        model: the network, as it was trained.
        classes: what its channels are.
        weights: identity of the weights, kept in the result's meta data.
        editing: fitted priors and attributes, where there are some.
        device: where to compute.
        dtype: precision of the network.

    Raises:
        WeightsError: network and class set are of different numbers of classes or have another background.
    """

    def __init__(
        self,
        model: SemanticVAE,
        classes: ClassSet = CELEBAMASK_HQ,
        weights: str = "unnamed",
        *,
        editing: Editing | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = model.config
        if self.config.classes != len(classes) or self.config.background != classes.background:
            raise WeightsError(
                f"these weights are for {self.config.classes} classes with background {self.config.background}, the "
                f"class set {classes.name!r} has {len(classes)} with background {classes.background}"
            )
        self.classes = classes
        self.weights = weights
        self.priors = editing.priors if editing else None
        self.directions = editing.directions if editing else None
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._generators: dict[str, Generator] = {}
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
    ) -> FacePartsPipeline:
        """Load bundled weights (by default or by name), a folder, or a hub id.

        Args:
            source: see `hub.pretrained.resolve_weights`.
            device, dtype: as above.
            revision, offline: of a hub id.

        Raises:
            WeightsError: not found, damaged, or of another shape than their config says.
        """
        folder = resolve_weights(source, room=ROOM, default=DEFAULT_WEIGHTS, offline=offline, revision=revision)
        model = SemanticVAE(load_config(folder, SemanticVAEConfig))
        load_state(model, folder)
        own = folder / CLASSES
        classes = ClassSet.load(own) if own.is_file() else CELEBAMASK_HQ
        return cls(model, classes, weights_id(folder), editing=load_editing(folder), device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path, *, card: str, overwrite: bool = False) -> Path:
        """Write ``config.json``, ``model.safetensors``, the card, ``classes.json``, and what was fitted."""
        written = save_pretrained(
            folder, method=ROOM, config=self.config, state=self.model, card=card, overwrite=overwrite
        )
        self.classes.save(written / CLASSES)
        if self.priors is not None or self.directions is not None:
            save_editing(written, self.priors, self.directions)
        return written

    def to(self, device: str | torch.device) -> FacePartsPipeline:
        """Move the network to a device; returns the pipeline."""
        self.device = resolve_device(device)
        self.model.to(self.device, self.dtype)
        return self

    def __call__(
        self,
        mask: Any,
        operations: Iterable[Operation] = (),
        *,
        references: Mapping[str, Any] | None = None,
        seed: int | None = None,
        keep_unedited: bool = True,
        radius: float = RADIUS,
        stray_guard: bool = True,
        render: str | Generator | None = None,
        photo: Any | None = None,
        style: Any | None = None,
        order: str | None = None,
    ) -> LayerStack:
        """Edit one mask.

        Args:
            mask: whatever `mask_files.read_mask` takes; any size.
            operations: the edits in order, a history to replay.
            references: the other masks of ``swap`` and ``interpolate``, by the names that edits use. A name that is
                not among them is read as a file.
            seed: of the edits that have none of their own; None is 0.
            keep_unedited: copy what lies farther than ``radius`` from the edited parts from the mask.
            radius: in pixels of a mask of side 256.
            stray_guard: let no class appear that is neither in the mask nor put there by an edit.
            render: ``"preview"``, the path of a generator's weights, or a generator: the layers show the face as
                rendered. None leaves them in the colours of their classes.
            photo: the picture the mask belongs to, whose style the rendering takes; as `io.load_image` takes it.
            style: a style of the generator, instead of a photo's; the generator's mean style when both are None.
            order: name of the label order the mask's ids are in, see `label_orders`.

        Returns:
            One layer a class, the background lowest, of the mask's size. ``meta.parameters`` replay the edit.

        Raises:
            InputError: the mask or a reference cannot be read or is of another class set.
            ConfigError: an edit names an unknown part, the background, or something these weights do not have.
        """
        asked = _Asked(seeded(operations, seed or 0), seed or 0, keep_unedited, radius, stray_guard)
        seen = self._see(mask, asked.history, references, order)
        return self._stack(seen, asked, self._look(seen, render, photo, style))

    def variants(
        self,
        mask: Any,
        operations: Iterable[Operation],
        n: int = 4,
        seed: int = 0,
        *,
        references: Mapping[str, Any] | None = None,
        keep_unedited: bool = True,
        radius: float = RADIUS,
        stray_guard: bool = True,
        render: str | Generator | None = None,
        photo: Any | None = None,
        style: Any | None = None,
        order: str | None = None,
    ) -> Iterator[LayerStack]:
        """Edit one mask in ``n`` ways that differ in their noise; variant k does not depend on ``n``.

        Seeds of the edits themselves are set aside. Everything else is as in a call.

        Raises:
            ConfigError: ``n`` is below 1, or no edit draws anything.
        """
        wanted = tuple(operations)
        if n < 1:
            raise ConfigError(f"variants must be at least 1, found {n}")
        if not any(operation.kind in DRAWING for operation in wanted):
            raise ConfigError(
                "variants need an edit that draws, found none",
                f"use one of {', '.join(DRAWING)}, or ask for one result",
            )
        seen = self._see(mask, wanted, references, order)
        look = self._look(seen, render, photo, style)
        for index in range(n):
            own = int(torch.randint(_SEEDS, (1,), generator=generator_of(seed, index)))
            history = seeded((replace(operation, seed=None) for operation in wanted), own)
            yield self._stack(seen, _Asked(history, own, keep_unedited, radius, stray_guard), look)

    @torch.no_grad()
    def encode(self, labels: Tensor) -> Codes:
        """Encode label maps.

        Args:
            labels: ids ``(H, H)`` or ``(N, H, H)``, square; another side than the network's is brought to it first by
                `mask_files.resize_labels`.

        Returns:
            Codes ``(P, L)`` or ``(N, P, L)``.

        Raises:
            InputError: not square, or an id is not of the class set.
        """
        batch = self._batch(labels)
        codes = [self.model.encode(chunk) for chunk in batch.split(_CHUNK)]
        present = torch.stack([(batch == part).flatten(1).any(dim=1) for part in self.classes.parts], dim=1)
        found = Codes(torch.cat([one.mu for one in codes]), torch.cat([one.logvar for one in codes]), present)
        return found if labels.ndim == 3 else found[0]

    @torch.no_grad()
    def decode(self, z: Tensor, allowed: Tensor | None = None, seed: int = 0) -> Tensor:
        """Decode codes.

        Args:
            z: ``(P, L)`` or ``(N, P, L)``.
            allowed: ``(C,)`` or ``(N, C)`` bool, see `editing.stray_guard`.
            seed: of the LSTM's first state, for weights with ``init_state="noise"``; the same for every mask.

        Returns:
            Label maps ``(S, S)`` or ``(N, S, S)`` uint8.
        """
        batch = (z if z.ndim == 3 else z[None]).to(self.device, self.dtype)
        maps = []
        for start in range(0, len(batch), _CHUNK):
            chunk = batch[start : start + _CHUNK]
            state = self.model.first_state(chunk[:1], generator_of(seed))
            if state is not None:
                h, c = (one.expand(-1, len(chunk), -1).contiguous() for one in state)
                state = h, c
            logits = self.model.decode(chunk, state).float()
            if allowed is not None:
                which = allowed if allowed.ndim == 1 else allowed[start : start + _CHUNK]
                logits = strays_forbidden(logits, which.to(logits.device).expand(len(chunk), -1))
            maps.append(logits.argmax(dim=1).to(torch.uint8))
        found = torch.cat(maps)
        return found if z.ndim == 3 else found[0]

    def edit(
        self,
        labels: Tensor,
        operations: Iterable[Operation],
        *,
        references: Mapping[str, Tensor | Codes] | None = None,
        codes: Codes | None = None,
        seed: int = 0,
        keep_unedited: bool = True,
        radius: float = RADIUS,
        stray_guard: bool = True,
    ) -> Tensor:
        """Edit label maps at the network's size.

        Args:
            labels: ids ``(H, H)`` or ``(N, H, H)``; the same edits and the same noise for each.
            operations, seed, keep_unedited, radius, stray_guard: as in a call.
            references: label maps, or codes of one, by the names that edits use.
            codes: of ``labels``, where they are known already: a slider encodes once.

        Returns:
            Label maps ``(S, S)`` or ``(N, S, S)`` uint8.
        """
        asked = _Asked(seeded(operations, seed), seed, keep_unedited, radius, stray_guard)
        others = {name: one if isinstance(one, Codes) else self.encode(one) for name, one in (references or {}).items()}
        batch = self._batch(labels)
        source = batch if labels.ndim == 3 else batch[0]
        edited, region = self._edit(source, self.encode(source) if codes is None else codes, others, asked)
        return edited if region is None else torch.where(region, edited, source)

    def sample(
        self, count: int, seed: int = 0, prior: str | None = None, temperature: float = 1.0, fit: float = 0.0
    ) -> Tensor:
        """Draw new masks; mask k of a seed does not depend on ``count``. See `priors.generate_all`.

        Returns:
            Label maps ``(count, S, S)`` uint8.
        """
        z, present = generate_all(
            count,
            seed,
            self.classes.parts,
            self.model.absent_code()[0],
            self.priors,
            prior=prior,
            temperature=temperature,
            fit=fit,
        )
        return self.decode(z, allowed_classes(present, self.classes), seed)

    def render(
        self,
        labels: Tensor,
        *,
        style: Any | None = None,
        photo: Tensor | None = None,
        source: Tensor | None = None,
        backend: str | Generator = "preview",
        seed: int = 0,
    ) -> Tensor:
        """Render a mask.

        Args:
            labels: ids ``(H, W)``.
            style: made by the same generator.
            photo: sRGB ``(3, H, W)`` in [0, 1] to take the style from, instead.
            source: the mask of the photo, before any edit; ``labels`` when None.
            backend: see `generators.open_generator`; or a generator.
            seed: of the generator's own noise.

        Returns:
            sRGB ``(3, H, W)`` in [0, 1].
        """
        generator = self.generator(backend)
        if style is None:
            known = labels if source is None else source
            style = generator.mean_style() if photo is None else generator.style(photo.cpu(), known.cpu())
        return generator.render(labels.cpu(), complete_style(generator, style, labels.cpu()), seed)

    def generator(self, backend: str | Generator) -> Generator:
        """Open a generator, once.

        Raises:
            WeightsError, ConfigError: see `generators.open_generator`.
        """
        if not isinstance(backend, str):
            return backend
        if backend not in self._generators:
            self._generators[backend] = open_generator(backend, classes=self.classes, device=str(self.device))
        return self._generators[backend]

    def export_onnx(self, folder: str | Path) -> Any:
        """Write encoder and decoder as ONNX; see `graphs.export_onnx`."""
        from pellucid.semantic_vae.graphs import export_onnx  # the extra is needed only here

        return export_onnx(self.model, folder)

    def _batch(self, labels: Tensor) -> Tensor:
        """Label maps at the network's size on its device: ``(H, H)`` or ``(N, H, H) -> (N, S, S)``."""
        from pellucid.semantic_vae.mask_files import resize_labels

        if labels.ndim not in (2, 3) or labels.is_floating_point() or labels.shape[-1] != labels.shape[-2]:
            found = f"{tuple(labels.shape)} {labels.dtype}"
            raise InputError(f"a label map must be square and whole numbers, (H, H) or (N, H, H), found {found}")
        if labels.numel() and int(labels.max()) >= len(self.classes):
            raise InputError(
                f"label maps hold ids 0 to {len(self.classes) - 1} of {self.classes.name!r}, found {int(labels.max())}"
            )
        if labels.shape[-1] != self.config.size:
            log.info("masks of side %d are edited at %d", labels.shape[-1], self.config.size)
            labels = resize_labels(labels, self.config.size)
        return (labels if labels.ndim == 3 else labels[None]).to(self.device, torch.uint8)

    def _edit(
        self, source: Tensor, codes: Codes, references: Mapping[str, Codes], asked: _Asked
    ) -> tuple[Tensor, Tensor | None]:
        """Edited label maps of the source's shape, and the region they count in; None is everywhere."""
        there = {"references": references, "directions": self.directions}
        z = apply(
            codes,
            asked.history,
            self.classes,
            prior=self.priors,
            absent_code=self.model.absent_code()[0],
            **there,
        )
        allowed = None
        if asked.stray_guard:
            allowed = allowed_classes(presence(codes, asked.history, self.classes, **there), self.classes)
        edited = self.decode(z, allowed, asked.seed)
        if not asked.keep_unedited:
            return edited, None
        parts = edited_parts(asked.history, self.classes, self.directions)
        return edited, edited_region(source, edited, parts, asked.radius * self.config.size / REFERENCE)

    def _see(
        self, mask: Any, history: Iterable[Operation], references: Mapping[str, Any] | None, order: str | None
    ) -> _Seen:
        from pellucid.semantic_vae.mask_files import square

        read = self._read(mask, order, "the mask")
        squared, frame = square(read.labels)
        small = self._batch(squared)[0]
        given = dict(references or {})
        for name in {operation.reference for operation in history if operation.reference} - given.keys():
            if Path(name).expanduser().is_file():
                given[name] = name
        others: dict[str, Codes] = {}
        for name, other in given.items():
            found = self._read(other, order, f"reference {name!r}")
            others[name] = self.encode(square(found.labels)[0])
        return _Seen(read, squared, frame, small, self.encode(small), others)

    def _read(self, mask: Any, order: str | None, what: str) -> Mask:
        from pellucid.semantic_vae.mask_files import Mask, read_mask

        found = mask if isinstance(mask, Mask) else read_mask(mask, self.classes, order=order)
        if found.classes.fingerprint() != self.classes.fingerprint():
            raise InputError(
                f"{what} is of the class set {found.classes.name!r}, these weights are for {self.classes.name!r}",
                "remap it first, or use weights of its class set",
            )
        return found

    def _look(self, seen: _Seen, render: str | Generator | None, photo: Any | None, style: Any | None) -> _Look | None:
        if render is None:
            if photo is not None or style is not None:
                raise ConfigError("a photo or style is for rendering, and no renderer is named", "use render='preview'")
            return None
        generator = self.generator(render)
        if style is None and photo is not None:
            picture = read_picture(photo).composite()[:3]
            size = seen.read.labels.shape
            if picture.shape[-2:] != size:
                log.info("the photo of %s is brought to the mask's %s", tuple(picture.shape[-2:]), tuple(size))
                picture = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
            style = generator.style(picture, seen.read.labels.cpu())
        elif style is None:
            style = generator.mean_style()
        return _Look(generator, style, render if isinstance(render, str) else type(render).__name__)

    def _stack(self, seen: _Seen, asked: _Asked, look: _Look | None) -> LayerStack:
        from pellucid.semantic_vae.mask_files import as_stack, resize_labels

        edited, region = self._edit(seen.small, seen.codes, seen.references, asked)
        side = seen.squared.shape[-1]
        full = resize_labels(edited.cpu(), side)
        if region is not None:
            # At the mask's own size, so that what nobody edited comes back to the pixel.
            inside = resize_labels(region.to(torch.uint8).cpu(), side).bool()
            full = torch.where(inside, full, seen.squared.to(full))
        labels = seen.frame.restore(full)
        picture = None
        if look is not None:
            picture = look.generator.render(labels, complete_style(look.generator, look.style, labels), asked.seed)
            if picture.shape[-2:] != labels.shape:
                log.info("rendered at %s, shown at %s", tuple(picture.shape[-2:]), tuple(labels.shape))
                picture = F.interpolate(picture[None], labels.shape, mode="bilinear", antialias=True)[0].clamp(0, 1)
        parameters = asked.parameters() | {"render": look.name if look else None, "classes": self.classes.name}
        meta = replace(seen.read.meta, method=ROOM, weights=self.weights, seed=asked.seed, parameters=parameters)
        return as_stack(labels, self.classes, picture, meta)


@dataclass(frozen=True)
class _Asked:
    """What the user asks for; every edit that draws has its seed.

    Raises:
        ConfigError: a value is out of its range.
    """

    history: History
    seed: int
    keep_unedited: bool
    radius: float
    stray_guard: bool

    def __post_init__(self) -> None:
        if not 0.0 <= self.radius < float("inf"):
            raise ConfigError(f"radius must be at least 0, found {self.radius}")

    def parameters(self) -> dict[str, Any]:
        """As plain values, for the meta data."""
        return {
            "history": [operation.plain() for operation in self.history],
            "keep_unedited": self.keep_unedited,
            "radius": self.radius,
            "stray_guard": self.stray_guard,
        }


@dataclass(frozen=True)
class _Seen:
    """A mask as read, as a square, at the network's size ``(S, S)``, and encoded, with the codes of the references."""

    read: Mask
    squared: Tensor
    frame: Frame
    small: Tensor
    codes: Codes
    references: Mapping[str, Codes]


@dataclass(frozen=True)
class _Look:
    """How a mask is rendered."""

    generator: Generator
    style: Any
    name: str
