"""A text and a picture with alpha become a clip with alpha: stage 1, stage 2 and the way back to pixels (Sec. III)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.device import generator_of, resolve_device, resolve_dtype
from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.pretrained import (
    bundled,
    resolve_weights,
    save_pretrained,
    weights_id,
)
from pellucid.io.image import as_stack
from pellucid.layer_animate.attention.sharing import SharingUnit
from pellucid.layer_animate.base_image import Fit, draw_latents, fit_base
from pellucid.layer_animate.model import METHOD, PRESETS, LayerAnimate, build, preset
from pellucid.layer_animate.sampling.loops import play_order
from pellucid.layer_animate.sampling.sampler import DRAFT_FRAMES, Progress, Sampling, sample_clip
from pellucid.layer_animate.text import Conditioner, Vocabulary, WordConditioner
from pellucid.layer_animate.transparency.coding import check_offset_scale, round_trip_error
from pellucid.layer_animate.transparency.networks import DECODER_WIDTHS
from pellucid.layer_animate.weights_folder import load_model
from pellucid.layer_animate.working_memory import WorkingMemory
from pellucid.layers import Layer, LayerStack, Meta

log = logging.getLogger(__name__)

ROOM = METHOD
DEFAULT_WEIGHTS = "small"
RANDOM = "random:"  # "random:tiny" names a preset with random weights
LAYER = "foreground"
STEPS = 25
_SEEDS = 2**31
_DECODED = 4  # frames decoded at once
_LOW_DECODED, _LOW_CHUNK = 1, 2  # frames at once where memory is short
_DOUBTFUL = 0.02  # alpha error of a round trip from which other offset scales are tried


@dataclass(frozen=True, eq=False)
class _Base:
    """The base picture: ``rgba (4, H, W)``, its model latents ``(1, C, h, w)``, and where it came from."""

    rgba: Tensor
    latents: Tensor
    meta: Meta
    own: bool


class TransparentVideoPipeline:
    """Make clips with alpha.

    Args:
        model: the networks.
        conditioner: turns prompts into vectors for them.
        weights: identity of the weights, kept in the result's meta data.
        random_weights: the weights were never trained; said wherever a clip is made.
        device: where to compute.
        dtype: precision of text encoder and UNet. VAE and transparency networks stay float32, because bfloat16 cannot
            tell neighbouring levels of an 8-bit alpha apart.
    """

    def __init__(
        self,
        model: LayerAnimate,
        conditioner: Conditioner,
        weights: str = "unnamed",
        *,
        random_weights: bool = False,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = model.config
        self.conditioner = conditioner
        self.weights = weights
        self.random_weights = random_weights
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._offset_checked = random_weights
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
    ) -> TransparentVideoPipeline:
        """Load weights of our own, published components, or none at all.

        Args:
            source: a folder of weights, a bundled name or a hub id, see `hub.pretrained.resolve_weights`; a
                components file ``*.toml``, see `checkpoints.open_components`; or ``"random:tiny"`` for a preset with
                random weights, to try the machinery.
            device, dtype: as above.
            revision, offline: of a hub id; ``offline`` also keeps a components file from fetching.

        Raises:
            WeightsError: not found, damaged, or of another shape than their config says.
        """
        name = "" if source is None else str(source)
        if name.startswith(RANDOM):
            return cls.random(name.removeprefix(RANDOM), device=device, dtype=dtype)
        if name.endswith(".toml"):
            from pellucid.layer_animate.published.checkpoints import open_components  # published files only

            opened = open_components(name, download=False if offline else None)
            return cls(opened.model, opened.conditioner, opened.weights, device=device, dtype=dtype)
        if source is None and DEFAULT_WEIGHTS not in (entry.name for entry in bundled(ROOM)):
            raise WeightsError(
                "no weights that animate ship with this package yet",
                "name a folder of weights or a components file with --model, or train some with pellucid train "
                "recipes/layer_animate/tiny.toml",
            )
        folder = resolve_weights(source, room=ROOM, default=DEFAULT_WEIGHTS, offline=offline, revision=revision)
        model, conditioner = load_model(folder)
        return cls(model, conditioner, weights_id(folder), device=device, dtype=dtype)

    @classmethod
    def random(
        cls,
        name: str = "tiny",
        seed: int = 0,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> TransparentVideoPipeline:
        """Make one of `model.PRESETS` with random weights: everything runs, and nothing that is seen means anything.

        Raises:
            ConfigError: no preset has that name.
        """
        if name not in PRESETS:
            raise ConfigError(
                f"preset {name!r} is not known", f"use one of {', '.join(RANDOM + key for key in PRESETS)}"
            )
        model = build(preset(name), generator_seed=seed)
        words = WordConditioner(Vocabulary.basic(), model.text)
        return cls(model, words, f"{RANDOM}{name}@{seed}", random_weights=True, device=device, dtype=dtype)

    def save_pretrained(
        self, folder: str | Path, *, card: str, dtype: str = "float32", overwrite: bool = False
    ) -> Path:
        """Write ``config.json``, ``model.safetensors``, the card and ``vocabulary.json``.

        Raises:
            ConfigError: the networks came from published files: keep the components file, and save what was trained
                with `attach.save_ifa`.
        """
        if not isinstance(self.conditioner, WordConditioner) or any(
            isinstance(module, SharingUnit) for module in self.model.unet.modules()
        ):
            raise ConfigError(
                "published components are not saved again as one folder", "keep the components file, and save_ifa"
            )
        written = save_pretrained(
            folder, method=ROOM, config=self.config, state=self.model, card=card, dtype=dtype, overwrite=overwrite
        )
        self.conditioner.vocabulary.save(written)
        return written

    def to(self, device: str | torch.device) -> TransparentVideoPipeline:
        """Move the networks to a device; returns the pipeline."""
        self.device = resolve_device(device)
        self._room = WorkingMemory(self.model, self.device, self.dtype)
        self._room.move_in()
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        base_image: Any | None = None,
        fit: Fit = "contain",
        key_color: Sequence[float] | Tensor | None = None,
        matte: Any | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = STEPS,
        guidance_scale: float = 7.5,
        reference_strength: float = 1.0,
        base_index: int | None = None,
        loop: str = "none",
        reference: Literal["parallel", "isolated"] = "parallel",
        scheduler: str = "ddim",
        similarity: float | None = None,
        context_length: int = 16,
        keep_base_exact: bool | None = None,
        base_latent: Literal["encode", "direct"] = "encode",
        draft: bool = False,
        tta: int | None = None,
        fps: float | Fraction | None = None,
        seed: int | None = None,
        low_memory: bool = False,
        progress: Progress | None = None,
    ) -> LayerStack:
        """Make one clip.

        Args:
            prompt: what is to be seen and how it moves; empty leaves it to the picture.
            negative_prompt: what guidance leads away from.
            base_image: the picture that is animated: whatever `io.image.as_stack` takes. None draws one from the words.
            fit, key_color, matte: how a given picture becomes the base picture, see `base_image.fit_base`.
            frames: F; what the networks were made for by default. Clips longer than ``context_length`` are windowed.
            height, width: in pixels; what the networks were made for by default.
            num_inference_steps: of the solver, for the picture and for the clip alike.
            guidance_scale, reference_strength, base_index, loop, reference, scheduler, similarity, context_length: see
                `sampling.Sampling`. ``loop="pingpong"`` shows the clip forward and back: 2F - 2 frames.
            keep_base_exact: frame m is the base picture itself and not its way through the latents; by default when the
                picture was given.
            base_latent: ``"direct"`` keeps the latents that a picture was drawn with, ``"encode"`` treats it like a
                given one.
            draft: eight frames (unless ``frames`` says otherwise), six steps, no guidance.
            tta: views averaged when decoding the clip, 1, 2, 4 or 8; 1 by default.
            fps: frames per second of the result.
            seed: one seed, one clip, on every device; drawn and written down when None.
            low_memory: half precision, networks on the device only while they run, frames in pieces.
            progress: called with (steps done, steps).

        Returns:
            One layer, ``"foreground"``, over time; straight alpha. ``parameters`` holds what was asked for, what was
            made of it, and the words that these weights do not know.

        Raises:
            InputError: the picture cannot be read, or shows nothing.
            ConfigError: an option is out of its range, or the motion modules know too few frames.
        """
        count = frames if frames is not None else DRAFT_FRAMES if draft else self.config.frames
        size = (self._side("height", height), self._side("width", width))
        rate = _rate(self.config.fps if fps is None else fps)
        if base_latent not in ("encode", "direct"):
            raise ConfigError(f"base latent {base_latent!r} is not known", "use encode or direct")
        sampling = Sampling(
            steps=num_inference_steps,
            guidance=guidance_scale,
            scheduler=scheduler,
            betas=self.config.betas,
            base_index=base_index,
            reference_strength=reference_strength,
            similarity=similarity,
            reference=reference,
            loop=loop,
            context_length=context_length,
            context_stride=min(4, context_length),
            guidance_branches="apart" if low_memory else "together",
            chunk=_LOW_CHUNK if low_memory else 0,
            query_chunk=_LOW_CHUNK if low_memory else 0,
        )
        sampling = sampling.draft() if draft else sampling
        m = sampling.frame_of_base(count)
        _views("tta", tta)
        seed = int(torch.randint(_SEEDS, ())) if seed is None else seed
        given = None if base_image is None else as_stack(base_image)
        fitted = None if given is None else fit_base(given, size, fit, key_color, matte)
        if self.random_weights:
            log.warning("%s: random weights, so what is seen means nothing", self.weights)
        unknown, dropped = self.conditioner.unknown(prompt), self.conditioner.dropped(prompt)

        with self._room.low(low_memory):
            text, null = self._vectors(prompt, negative_prompt, sampling.guidance != 1)
            counter = _Counter(progress, sampling.steps * ((fitted is None) + (count > 1)))
            if fitted is None:
                base = self._drawn(text, null, size, sampling, seed, counter, base_latent == "direct")
            else:
                meta = given.meta if given is not None else Meta()
                base = self._given(fitted, meta)
            with self._room.at_work(self.model.unet):
                latents = sample_clip(
                    self.model.unet, self.model.context, base.latents, text, null, count, sampling, seed, counter.next()
                )
            chunk = _LOW_DECODED if low_memory else _DECODED
            with self._room.at_work(self.model.vae, self.model.decoder):
                rgba = self.model.decode(latents[0].transpose(0, 1), tta or 1, chunk, size).cpu()  # (F, 4, H, W)
        exact = base.own if keep_base_exact is None else keep_base_exact
        if exact:
            rgba[m] = base.rgba
        shown = rgba[play_order(count, loop)]
        parameters: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "base": (base.meta.source or "given") if base.own else "drawn",
            "fit": fit if base.own else None,
            "frames": count,
            "height": size[0],
            "width": size[1],
            "fps": str(rate),
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "scheduler": scheduler,
            "reference": reference,
            "reference_strength": reference_strength,
            "base_index": m,
            "similarity": similarity,
            "loop": loop,
            "context_length": context_length,
            "keep_base_exact": exact,
            "base_latent": base_latent,
            "draft": draft,
            "tta": tta or 1,
            "low_memory": low_memory,
            "random_weights": self.random_weights,
            "padded": True,  # asks `io.video.save_video` to fill the colour below alpha 0
            "unknown": list(unknown),
            "dropped": len(dropped),
        }
        meta = Meta(
            bit_depth=base.meta.bit_depth,
            source=base.meta.source,
            method=ROOM,
            weights=self.weights,
            seed=seed,
            parameters=parameters,
        )
        layer = Layer(LAYER, shown[:, :3].contiguous(), shown[:, 3:].contiguous())
        return LayerStack((layer,), fps=rate, meta=meta)

    @torch.no_grad()
    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """Text vectors ``(B, L, D)`` of prompts, for `sampling.sample_clip`."""
        with self._room.at_work(self.model.text):
            return self.conditioner.encode(prompts)

    def _vectors(self, prompt: str, negative: str, guided: bool) -> tuple[Tensor, Tensor]:
        if not prompt.strip():
            log.warning("the prompt is empty: the picture alone, and chance, say what moves")
        text = self.vectors([prompt])
        return text, self.vectors([negative]) if guided else torch.zeros_like(text)

    def _given(self, rgba: Tensor, meta: Meta) -> _Base:
        with self._room.at_work(self.model.vae, self.model.encoder, self.model.decoder):
            self._check_offset(rgba)
            return _Base(rgba, self.model.encode(rgba), meta, own=True)

    def _drawn(
        self,
        text: Tensor,
        null: Tensor,
        size: tuple[int, int],
        sampling: Sampling,
        seed: int,
        counter: _Counter,
        direct: bool,
    ) -> _Base:
        # Another stream than the clip's, or its first frame would start from the picture's own noise.
        generator = generator_of(seed, 1)
        with self._room.at_work(self.model.unet):
            latents = draw_latents(self.model, text, null, size, sampling, generator, counter.next())
        views = 8 if tuple(self.config.decoder_widths) == DECODER_WIDTHS else 1
        with self._room.at_work(self.model.vae, self.model.encoder, self.model.decoder):
            rgba = self.model.decode(latents, views, size=size)[0].cpu()
            if not direct:
                self._check_offset(rgba)
                latents = self.model.encode(rgba)
        return _Base(rgba, latents, Meta(), own=False)

    def _check_offset(self, rgba: Tensor) -> None:
        """Say once when the base picture's alpha does not survive latents: the offset scale may be of other weights."""
        if self._offset_checked or float(rgba[3].min()) > 1 - _DOUBTFUL:  # an opaque picture tells nothing
            return
        self._offset_checked = True
        model, scale = self.model, self.config.offset_scale
        error = round_trip_error(rgba, model.vae, model.encoder, model.decoder, scale).alpha
        if error <= _DOUBTFUL:
            return
        check = check_offset_scale(rgba, model.vae, model.encoder, model.decoder, scale)
        if not check.wrong:
            log.warning("alpha of the base picture changes by %.3f on its way through the latents", error)

    def _side(self, name: str, given: int | None) -> int:
        side = self.config.size if given is None else given
        if side < self.config.factor:
            raise ConfigError(f"{name} must be at least {self.config.factor} pixels, found {side}")
        return side


class _Counter:
    """Steps of several samplings as one count."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._steps = 0

    def next(self) -> Progress | None:
        """What the next sampling calls with (steps done, steps)."""
        if self._progress is None:
            return None
        begun, report, total = self._steps, self._progress, self._total

        def tell(done: int, steps: int) -> None:
            self._steps = begun + done
            report(begun + done, total)

        return tell


def _rate(fps: float | Fraction) -> Fraction:
    try:
        rate = Fraction(fps).limit_denominator(1001)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"fps must be a number, found {fps!r}") from error
    if not 0 < rate <= 240:
        raise ConfigError(f"fps must be above 0 and at most 240, found {float(rate):g}")
    return rate


def _views(name: str, views: int | None) -> None:
    if views not in (None, 1, 2, 4, 8):
        raise ConfigError(f"{name} must be 1, 2, 4 or 8, found {views}")
