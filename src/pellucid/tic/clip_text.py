"""Phrases to vectors by the text tower of CLIP, which the user gives; an option beside the paper's word vectors.

A checkpoint trained with it has ``vector_dim`` of the tower's projection, 512 for ViT-B. transformers is imported when
an encoder is made, and nothing is ever fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import DependencyError, WeightsError
from pellucid.tic.text import LENGTH, EncodedText, TextNorm, colour_words, tokenise

log = logging.getLogger(__name__)

_BATCH = 64  # phrases in one pass


class ClipTextEncoder:
    """CLIP's text tower with its projection, from a local folder; called like `text.TextEncoder`.

    Unlike a mean of words it keeps their order. It reads every script, so it knows no unknown words.

    Args:
        folder: what ``save_pretrained`` wrote for a CLIP model and its tokeniser.
        norm: ``"unit4"`` brings a vector to length 4, ``"none"`` leaves the projection.

    Raises:
        WeightsError: the folder is missing or holds no such model.
        DependencyError: transformers is not installed.
    """

    def __init__(self, folder: str | Path, norm: TextNorm = "unit4") -> None:
        self.folder = Path(folder).expanduser()
        self.norm: TextNorm = norm
        if not (self.folder / "config.json").is_file():
            raise WeightsError(f"CLIP text tower: no config.json in {self.folder}", "name the folder of a saved CLIP")
        try:
            import transformers  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise DependencyError("a CLIP text tower needs transformers", "pip install transformers") from error
        tokeniser: Any = transformers.CLIPTokenizer
        tower: Any = transformers.CLIPTextModelWithProjection
        try:
            self._tokens = tokeniser.from_pretrained(self.folder, local_files_only=True)
            self._tower, loaded = tower.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"CLIP text tower in {self.folder} cannot be loaded: {reason}") from error
        if missing := sorted(loaded["missing_keys"]):
            # transformers would fill them with random values, whose vectors look like some and are none.
            raise WeightsError(f"CLIP text tower in {self.folder} lacks {len(missing)} tensors, first {missing[0]}")
        self._tower.eval().requires_grad_(False)

    @property
    def dimension(self) -> int:
        """D, the size of the projection."""
        return int(self._tower.config.projection_dim)

    def encode(self, text: str) -> EncodedText:
        """Encode one phrase; words beyond the tower's longest sentence are left out, and that is logged."""
        return EncodedText(self.encode_all([text])[0], tuple(dict.fromkeys(tokenise(text))), (), colour_words(text))

    def encode_all(self, texts: Sequence[str]) -> Tensor:
        """Encode phrases to ``(N, D)`` float32; blank text is the zero vector, as with word vectors."""
        found = torch.zeros(len(texts), self.dimension)
        said = [place for place, text in enumerate(texts) if text.strip()]
        longest = int(self._tower.config.max_position_embeddings)
        for start in range(0, len(said), _BATCH):
            places = said[start : start + _BATCH]
            phrases = [texts[place] for place in places]
            whole = self._tokens(phrases)["input_ids"]
            if cut := sum(len(ids) > longest for ids in whole):
                log.warning(
                    "%d of %d phrases are longer than CLIP's %d tokens: the rest is left out",
                    cut,
                    len(phrases),
                    longest,
                )
            tokens = self._tokens(phrases, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            with torch.no_grad():
                found[places] = self._tower(**tokens).text_embeds.float()
        return F.normalize(found, dim=1) * LENGTH if self.norm == "unit4" else found
