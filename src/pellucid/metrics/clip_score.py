"""Text score: how well frames fit their prompt, by a CLIP that the user gives (Hessel et al. 2021, without its 2.5).

``100 max(cos(image, text), 0)``, mean over frames and clips. The paper's values near 30 are the range of ViT-B/32;
another CLIP has another range, so its name goes beside the figure. A frame with alpha is laid over grey 127; white and
black beside it tell how much the figure owes to the background.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import DependencyError, InputError, WeightsError
from pellucid.metrics.dynamic_degree import GREY, on_colour

log = logging.getLogger(__name__)

BACKGROUNDS: Mapping[str, float] = {"grey": GREY, "white": 1.0, "black": 0.0}
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI's CLIP, where the folder does not say
_STD = (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16


class Scorer(Protocol):
    """Features of pictures and texts in one space. ``label`` names it in tables."""

    @property
    def label(self) -> str: ...

    def images(self, frames: Tensor) -> Tensor:
        """``(N, 3, H, W)``, sRGB in [0, 1] -> ``(N, D)``."""
        ...

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """N texts -> ``(N, D)``."""
        ...


class CLIPScorer:
    """Both towers of a CLIP from a local folder; transformers is imported when one is made, and nothing is fetched.

    Args:
        folder: what ``save_pretrained`` wrote for a CLIP model and its tokeniser, as hub ids of CLIP hold it. Its
            ``config.json`` may say a ``scorer_label`` for tables; the folder's name stands there else.
        device: where to compute.

    Raises:
        WeightsError: the folder is missing or holds no such model.
        DependencyError: transformers is not installed.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise WeightsError(f"CLIP: no config.json in {self.folder}", "name the folder of a saved CLIP")
        try:
            import transformers
        except ImportError as error:
            raise DependencyError("CLIP needs transformers", "pip install transformers") from error
        model: Any = transformers.CLIPModel
        try:
            tokeniser: Any = getattr(transformers, _tokeniser(self.folder))
            self._tokens = tokeniser.from_pretrained(self.folder, local_files_only=True)
            self._model, loaded = model.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            self._pictures = _preprocessing(self.folder)
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"CLIP in {self.folder} cannot be loaded: {reason}") from error
        if missing := sorted(loaded["missing_keys"]):
            # transformers would fill them with random values, whose features look like some and are none.
            raise WeightsError(f"CLIP in {self.folder} lacks {len(missing)} tensors, first {missing[0]}")
        self._model.float().to(device).eval().requires_grad_(False)  # weights are stored as float16, too
        self.label = str(getattr(self._model.config, "scorer_label", self.folder.name))
        self._device = device
        self._size = int(self._model.config.vision_config.image_size)
        self._longest = int(self._model.config.text_config.max_position_embeddings)

    def images(self, frames: Tensor) -> Tensor:
        """See `Scorer`. As in CLIP's own code a frame is resized to its short side by Pillow's bicubic and cropped."""
        found = []
        for start in range(0, len(frames), _BATCH):
            pixels = torch.stack([self._prepared(frame) for frame in frames[start : start + _BATCH]])
            with torch.no_grad():
                found.append(_features(self._model.get_image_features(pixel_values=pixels.to(self._device))))
        return torch.cat(found)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """See `Scorer`. What goes beyond CLIP's longest sentence is left out, and that is logged.

        A tokeniser of whole words does not know all: those that it does not know are logged, too.
        """
        whole = self._tokens(list(prompts))["input_ids"]
        if lost := self.unknown(prompts):
            log.warning("%s does not know %s", self.label, ", ".join(map(repr, lost)))
        if cut := sum(len(ids) > self._longest for ids in whole):
            log.warning(
                "%d of %d prompts are longer than CLIP's %d tokens: the rest is left out",
                cut,
                len(whole),
                self._longest,
            )
        said = self._tokens(list(prompts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt")
        with torch.no_grad():
            tokens = {name: said[name].to(self._device) for name in ("input_ids", "attention_mask")}
            return _features(self._model.get_text_features(**tokens))

    def unknown(self, prompts: Sequence[str]) -> list[str]:
        """Words that the tokeniser does not know, each once; CLIP's own spells words in pieces and knows all."""
        nothing = self._tokens.unk_token_id
        if nothing is None or nothing == self._tokens.eos_token_id:  # CLIP's own has one in name only
            return []
        lost: dict[str, None] = {}
        for prompt in prompts:
            read = self._tokens(prompt, return_offsets_mapping=True)
            places = zip(read["input_ids"], read["offset_mapping"], strict=True)
            lost |= dict.fromkeys(prompt[start:end].lower() for number, (start, end) in places if number == nothing)
        return list(lost)

    def _prepared(self, frame: Tensor) -> Tensor:
        from PIL import Image

        pixels = (frame.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        picture = Image.fromarray(pixels)
        scale = self._size / min(picture.size)
        sides = [max(self._size, int(side * scale)) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        left, top = (sides[0] - self._size) // 2, (sides[1] - self._size) // 2
        picture = picture.crop((left, top, left + self._size, top + self._size))
        values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(self._size, self._size, 3)
        mean, std = (torch.tensor(each)[:, None, None] for each in self._pictures)
        return (values.permute(2, 0, 1).float() / 255.0 - mean) / std


def text_score(images: Tensor, text: Tensor) -> float:
    """Mean of ``100 max(cos, 0)`` between features of frames and of their text.

    Args:
        images: ``(F, D)``.
        text: ``(D,)`` or, one for each frame, ``(F, D)``.

    Returns:
        A figure in [0, 100].

    Raises:
        InputError: there are no frames, or the features are of different sizes.
    """
    if images.ndim != 2 or not len(images) or text.shape not in ((images.shape[1],), tuple(images.shape)):
        raise InputError(f"features are (F, D) and (D,), found {tuple(images.shape)} and {tuple(text.shape)}")
    cosine = F.cosine_similarity(images.double(), text.double().expand_as(images), dim=-1)
    return 100.0 * float(cosine.clamp_min(0.0).mean())


def clip_text_scores(clip: Tensor, prompt: str, scorer: Scorer) -> dict[str, float]:
    """Text score of a clip over each of `BACKGROUNDS`.

    Args:
        clip: ``(F, 4, H, W)``, straight alpha, sRGB in [0, 1].
        prompt: its text.
        scorer: for example a `CLIPScorer`.
    """
    text = scorer.texts([prompt])[0]
    return {name: text_score(scorer.images(on_colour(clip, grey)), text) for name, grey in BACKGROUNDS.items()}


def frame_similarity(clip: Tensor, base: Tensor, scorer: Scorer) -> float:
    """Mean of ``100 max(cos, 0)`` between the frames of a clip and its base frame ``(4, H, W)``, on grey."""
    return text_score(scorer.images(on_colour(clip)), scorer.images(on_colour(base)[None])[0])


def _features(found: Any) -> Tensor:
    """A tower's projected features; transformers wraps them since version 5."""
    return (found if isinstance(found, Tensor) else found.pooler_output).float().cpu()


def _tokeniser(folder: Path) -> str:
    """Name of the class that reads the folder's tokeniser: CLIP's own, unless the folder asks for the general one."""
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    general = said.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    return "PreTrainedTokenizerFast" if general else "CLIPTokenizer"


def _preprocessing(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that pictures are normalised by."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        log.info("%s has no preprocessor_config.json: pictures are normalised as for OpenAI's CLIP", folder)
        return _MEAN, _STD
    said = json.loads(path.read_text(encoding="utf-8"))
    mean, std = tuple(said.get("image_mean", _MEAN)), tuple(said.get("image_std", _STD))
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise ValueError(f"{path.name}: expected three means and deviations, found {mean} and {std}")
    return mean, std
