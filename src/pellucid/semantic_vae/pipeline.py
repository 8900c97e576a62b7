"""Face parts, mask to stack: encode once, replay a history of edits on the codes, decode, keep what nobody edited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.device import generator_of, resolve_device, resolve_dtype
from pellucid.errors import ConfigError
from pellucid.hub.pretrained import load_config, load_state, resolve_weights, save_pretrained, weights_id
from pellucid.layers import LayerStack
from pellucid.semantic_vae.coding import MaskCoder, SeenMask
from pellucid.semantic_vae.editing import (
    DRAWING,
    Codes,
    Operation,
    allowed_classes,
    apply,
    edited_parts,
    edited_region,
    presence,
    seeded,
)
from pellucid.semantic_vae.faces.generators import Generator, open_generator
from pellucid.semantic_vae.fitting import Editing, load_editing, save_editing
from pellucid.semantic_vae.look import Look
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.label_geometry import resize_labels
from pellucid.semantic_vae.masks.mask_files import Mask, as_stack, read_mask
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.operations import Asked, as_history
from pellucid.semantic_vae.priors import generate_all

ROOM = "semantic_vae"
DEFAULT_WEIGHTS = "small"
CLASSES = "classes.json"  # beside the weights
RADIUS = 12.0  # pixels at REFERENCE
REFERENCE = 256  # the side at which a radius is given
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
        self.classes = classes
        self.weights = weights
        self.priors = editing.priors if editing else None
        self.directions = editing.directions if editing else None
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._coder = MaskCoder(self.model, classes, self.device, self.dtype)
        self._generators: dict[str, Generator] = {}

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
        self._coder = MaskCoder(self.model, self.classes, self.device, self.dtype)
        return self

    def __call__(
        self,
        mask: Any,
        operations: Iterable[Operation | Mapping[str, Any]] = (),
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
            operations: the edits in order, a history to replay; or what `Operation.plain` writes.
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
        asked = Asked(seeded(operations, seed or 0), seed or 0, keep_unedited, radius, stray_guard)
        read = read_mask(mask, self.classes, order=order)
        source = self._coder.see(read.labels)
        others = self._references(references, asked.history, order)
        return self._stack(read, source, others, asked, self._look(read, render, photo, style, asked.seed))

    def variants(
        self,
        mask: Any,
        operations: Iterable[Operation | Mapping[str, Any]],
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
        wanted = as_history(operations)
        if n < 1:
            raise ConfigError(f"variants must be at least 1, found {n}")
        if not any(operation.kind in DRAWING for operation in wanted):
            raise ConfigError(
                "variants need an edit that draws, found none",
                f"use one of {', '.join(DRAWING)}, or ask for one result",
            )
        read = read_mask(mask, self.classes, order=order)
        source = self._coder.see(read.labels)
        others = self._references(references, wanted, order)
        look = self._look(read, render, photo, style, seed)
        for index in range(n):
            own = int(torch.randint(_SEEDS, (1,), generator=generator_of(seed, index)))
            history = seeded((replace(operation, seed=None) for operation in wanted), own)
            asked = Asked(history, own, keep_unedited, radius, stray_guard)
            yield self._stack(read, source, others, asked, look)

    def encode(self, labels: Tensor) -> Codes:
        """Encode label maps.

        Args:
            labels: ids ``(H, W)`` or ``(N, H, W)``, any size; padded to a square, and brought to the network's side
                by `label_geometry.resize_labels`.

        Returns:
            Codes ``(P, L)`` or ``(N, P, L)``.

        Raises:
            InputError: no label map, or an id is not of the class set.
        """
        return self._coder.see(labels).codes

    def decode(self, z: Tensor, allowed: Tensor | None = None, seed: int = 0) -> Tensor:
        """Decode codes; see `coding.MaskCoder.decode`.

        Args:
            z: ``(P, L)`` or ``(N, P, L)``.
            allowed: ``(C,)`` or ``(N, C)`` bool, see `editing.stray_guard`.
            seed: of the LSTM's first state, for weights with ``init_state="noise"``.

        Returns:
            Label maps ``(S, S)`` or ``(N, S, S)`` uint8.
        """
        return self._coder.decode(z, allowed, seed)

    def edit(
        self,
        labels: Tensor,
        operations: Iterable[Operation | Mapping[str, Any]],
        *,
        references: Mapping[str, Tensor | Codes] | None = None,
        codes: Codes | None = None,
        seed: int = 0,
        keep_unedited: bool = True,
        radius: float = RADIUS,
        stray_guard: bool = True,
    ) -> Tensor:
        """Edit label maps.

        Args:
            labels: ids ``(H, W)`` or ``(N, H, W)``, any size; the same edits and the same noise for each.
            operations, keep_unedited, radius, stray_guard: as in a call.
            seed: of the edits that have none of their own.
            references: label maps, or codes of one, by the names that edits use.
            codes: of ``labels``, where they are known already: a slider encodes once.

        Returns:
            Label maps of the shape of ``labels``, uint8.
        """
        asked = Asked(seeded(operations, seed), seed, keep_unedited, radius, stray_guard)
        others = {
            name: one if isinstance(one, Codes) else self._coder.see(one).codes
            for name, one in (references or {}).items()
        }
        return self._edited(self._coder.see(labels, codes), others, asked)

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
        photo: Any | None = None,
        source: Tensor | None = None,
        backend: str | Generator = "preview",
        seed: int = 0,
    ) -> Tensor:
        """Render a mask.

        Args:
            labels: ids ``(H, W)``.
            style: made by the same generator.
            photo: the picture to take the style from, instead; as `io.load_image` takes it.
            source: the mask of the photo, before any edit; ``labels`` when None.
            backend: see `generators.open_generator`; or a generator.
            seed: of the generator's own noise.

        Returns:
            sRGB ``(3, H, W)`` in [0, 1].
        """
        look = Look.make(self.generator(backend), labels if source is None else source, photo, style, seed=seed)
        return look.picture(labels)

    def generator(self, backend: str | Generator) -> Generator:
        """Open a generator, once.

        Raises:
            WeightsError: see `generators.open_generator`.
        """
        if not isinstance(backend, str):
            return backend
        if backend not in self._generators:
            self._generators[backend] = open_generator(backend, classes=self.classes, device=str(self.device))
        return self._generators[backend]

    def export_onnx(self, folder: str | Path, *, overwrite: bool = False) -> tuple[Path, Path]:
        """Write ``encoder.onnx`` and ``decoder.onnx``; see `graphs.export_onnx`.

        Raises:
            DependencyError: the extra ``export`` is not installed.
        """
        from pellucid.semantic_vae.graphs import export_onnx  # the extra is needed only here

        return export_onnx(deepcopy(self.model).float().cpu(), folder, overwrite=overwrite)

    def _edited(self, source: SeenMask, references: Mapping[str, Codes], asked: Asked) -> Tensor:
        """Replay the history; label maps of the size they came in."""
        z = apply(
            source.codes,
            asked.history,
            self.classes,
            references=references,
            prior=self.priors,
            directions=self.directions,
            absent_code=self.model.absent_code()[0],
        )
        allowed = None
        if asked.stray_guard:
            there = presence(
                source.codes, asked.history, self.classes, references=references, directions=self.directions
            )
            allowed = allowed_classes(there, self.classes)
        edited = self.decode(z, allowed, asked.seed)
        side = source.squared.shape[-1]
        full = resize_labels(edited, side).to(source.squared.device)
        if asked.keep_unedited:
            parts = edited_parts(asked.history, self.classes, self.directions)
            near = edited_region(source.small, edited, parts, asked.radius * self.config.size / REFERENCE)
            # Put together at the mask's own size, so that what nobody edited comes back to the pixel.
            near = resize_labels(near, side).to(full.device)
            full = torch.where(near, full, source.squared.to(full.dtype))
        return source.frame.restore(full)

    def _references(
        self, given: Mapping[str, Any] | None, history: Iterable[Operation], order: str | None
    ) -> dict[str, Codes]:
        """Codes of the other masks; a name that was not given and is a path's is read from there."""
        masks = dict(given or {})
        for operation in history:
            name = operation.reference
            if name and name not in masks and Path(name).expanduser().exists():
                masks[name] = name
        return {
            name: self._coder.see(read_mask(mask, self.classes, order=order).labels).codes
            for name, mask in masks.items()
        }

    def _look(
        self, read: Mask, render: str | Generator | None, photo: Any | None, style: Any | None, seed: int
    ) -> Look | None:
        if render is not None:
            name = render if isinstance(render, str) else type(render).__name__
            return Look.make(self.generator(render), read.labels, photo, style, seed=seed, name=name)
        if photo is not None or style is not None:
            raise ConfigError("a photo or style is for rendering, and no renderer is named", "use render='preview'")
        return None

    def _stack(
        self, read: Mask, source: SeenMask, references: Mapping[str, Codes], asked: Asked, look: Look | None
    ) -> LayerStack:
        labels = self._edited(source, references, asked)
        picture = None if look is None else look.picture(labels)
        parameters = asked.parameters() | {"render": look.name if look else None, "classes": self.classes.name}
        meta = replace(read.meta, method=ROOM, weights=self.weights, seed=asked.seed, parameters=parameters)
        return as_stack(labels, self.classes, picture, meta)
