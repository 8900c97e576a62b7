"""The network as it learns: which of its parts do, and one call from noised clips and texts to their noise.

Only what learns is registered, so a checkpoint of Inter-Frame Attention is small even at the size of Stable Diffusion;
the frozen rest hangs on it unregistered.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.spatial import spatial_processors
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.recipe import Stage
from pellucid.layer_animate.text import ClipConditioner, WordConditioner

Words = WordConditioner | ClipConditioner


class Denoiser(nn.Module):
    """A model in training.

    Args:
        model: all networks; those that do not learn in this stage are frozen.
        words: reads the texts.
        stage: see `recipe.Recipe`.
        base_index: m, whose frame comes clean; None in the stages without.
        layers: in stage ``"ifa"``, beginnings of the attentions' names that learn; all when empty.

    Raises:
        ConfigError: there is nothing to learn.
    """

    def __init__(
        self, model: LayerAnimate, words: Words, stage: Stage, base_index: int | None, layers: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.stage, self.base_index = stage, base_index
        # In a tuple: registered, the frozen networks would be in every checkpoint.
        self._held = (model, words)
        model.requires_grad_(False)
        parts = _parts(model, words, stage, layers)
        if not parts:
            raise ConfigError(f"nothing is there to learn in stage {stage!r}", _missing(stage))
        self.parts = nn.ModuleDict({name.replace(".", "/"): part for name, part in parts.items()})
        self.parts.requires_grad_(True)
        if stage == "base":
            for name, parameter in model.unet.named_parameters():
                parameter.requires_grad_("motion_modules" not in name and "_ifa." not in name)

    @property
    def model(self) -> LayerAnimate:
        """All networks."""
        return self._held[0]

    @property
    def words(self) -> Words:
        """What reads the texts."""
        return self._held[1]

    def learning(self) -> list[nn.Parameter]:
        """The parameters that learn, each once."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, z_t: Tensor, timesteps: Tensor, texts: Sequence[str], scale: float = 1.0) -> Tensor:
        """Say what noise is in clips.

        Args:
            z_t: ``(B, C, F, h, w)``, the base frame clean in the stages with one.
            timesteps: ``(B,)``, shared by all frames of a clip, the base frame too (spec Sec. 7, A4).
            texts: B captions.
            scale: lambda; 1 in training.

        Returns:
            ``(B, C, F, h, w)``.
        """
        model, frames = self.model, z_t.shape[2]
        # Trained text encoders need gradients, frozen ones need no memory for them.
        with nullcontext() if "text" in self.parts else torch.no_grad():
            vectors = self.words.vectors(self.words.ids(texts))  # (B, L, D)
        vectors = vectors.repeat_interleave(frames, dim=0)  # (B * F, L, D)
        context = model.context
        context.num_frames, context.base_index, context.scale = frames, self.base_index or 0, scale
        context.enabled = self.stage in ("ifa", "all")
        if self.stage == "base":
            with model.base_unet() as unet:
                return unet(z_t, timesteps, encoder_hidden_states=vectors).sample
        return model.unet(z_t, timesteps, encoder_hidden_states=vectors).sample


def _parts(model: LayerAnimate, words: Words, stage: Stage, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that learn, by name."""
    if stage == "ifa":
        found: dict[str, nn.Module] = {}
        for name, processor in spatial_processors(model.unet).items():
            if layers and not name.startswith(tuple(layers)):
                continue
            if processor.to_q_ifa is not None and processor.to_out_ifa is not None:
                found[f"{name}.to_q_ifa"], found[f"{name}.to_out_ifa"] = processor.to_q_ifa, processor.to_out_ifa
        return found
    if stage == "motion":
        modules = model.unet.named_modules()
        return {name: module for name, module in modules if isinstance(module, AnimateDiffTransformer3D)}
    parts: dict[str, nn.Module] = {"unet": model.unet}
    if isinstance(words, WordConditioner):  # CLIP's own text tower stays what it is
        parts["text"] = model.text
    return parts


def _missing(stage: Stage) -> str:
    return {
        "ifa": "attach Inter-Frame Attention, and let model.layers name the beginnings of its attentions",
        "motion": "the model has no motion modules",
    }.get(stage, "")
