"""From a photograph to a mask, through a parser that the user gives: a network of the transformers library.

We ship none: the data sets that face parsers learn from are not for every use. The library is imported only when a
parser is opened.
"""

import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import resolve_device
from pellucid.errors import DependencyError, WeightsError
from pellucid.io.image import as_stack as open_picture
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.label_geometry import resize_labels
from pellucid.semantic_vae.masks.label_orders import IGNORE, Beard, find_order, sides_look_swapped
from pellucid.semantic_vae.masks.mask_files import Mask
from pellucid.semantic_vae.masks.mask_stack import fill_ignored

logger = logging.getLogger(__name__)

_LONGEST = (
    1024  # the answer is enlarged to this and then to the photograph's size: scores of 12 megapixels are gigabytes
)

_NEEDED = (
    "give the folder (--parser DIR) of a face parser that transformers' save_pretrained wrote: config.json with the "
    "names of its classes in id2label, model.safetensors, preprocessor_config.json; for example a SegFormer trained on "
    "CelebAMask-HQ"
)

# Other names of the same things, without case, blanks and marks; a name of the class set itself always counts.
_SYNONYMS = {
    "background": "bg other none void",
    "skin": "face faceskin facialskin",
    "nose": "nose",
    "eye_g": "eyeg glasses eyeglass eyeglasses spectacles",
    "l_eye": "leye le lefteye eyeleft",
    "r_eye": "reye re righteye eyeright",
    "l_brow": "lbrow lb leftbrow lefteyebrow browleft eyebrowleft",
    "r_brow": "rbrow rb rightbrow righteyebrow browright eyebrowright",
    "l_ear": "lear lr leftear earleft",
    "r_ear": "rear rr rightear earright",
    "mouth": "imouth innermouth insidemouth mouthinterior teeth",
    "u_lip": "ulip upperlip toplip upplip",
    "l_lip": "llip lowerlip bottomlip lowlip",
    "hair": "hairs",
    "hat": "headwear headcover cap",
    "ear_r": "earr earring earrings",
    "neck_l": "neckl necklace",
    "neck": "neckskin",
    "cloth": "clothes clothing garment",
}
_HOMELESS = ("beard", "moustache", "mustache", "facialhair", "facewear")  # what `Beard` decides on


class FaceParser:
    """A semantic-segmentation network of the transformers library, from a local folder, and its classes in ours.

    The pictures are prepared here by the folder's ``preprocessor_config.json``, because the library's own code for it
    needs torchvision.

    Args:
        folder: what ``save_pretrained`` wrote; None says what is needed.
        order: label order of its classes, when ``id2label`` does not name them; see `label_orders`.
        classes: the class set of the masks.
        beard: what becomes of a beard and the like: ``"skin"``, or ``"ignore"`` (background).
        device: where to compute.

    Raises:
        WeightsError: the folder is missing, holds no such network, or has classes that cannot be mapped (all are
            listed).
        ConfigError: the label order is not known, or does not fit the class set.
        DependencyError: transformers is not installed.
    """

    def __init__(
        self,
        folder: str | Path | None,
        order: str | None = None,
        classes: ClassSet = CELEBAMASK_HQ,
        beard: Beard = "skin",
        device: str | torch.device = "auto",
    ) -> None:
        if folder is None:
            raise WeightsError("a photograph needs a face parser, and none is given", _NEEDED)
        self.folder = Path(folder).expanduser()
        self.classes = classes
        if not (self.folder / "config.json").is_file():
            state = (
                "is a file" if self.folder.is_file() else "no config.json" if self.folder.is_dir() else "no such folder"
            )
            raise WeightsError(f"face parser {self.folder}: {state}", _NEEDED)
        names = _read_names(self.folder / "config.json")
        self.table = map_classes(names, classes, order, beard, f"face parser {self.folder}")
        self._prepare = _Preparation.read(self.folder / "preprocessor_config.json")
        self.device = resolve_device(device)
        self.model = _open(self.folder).to(self.device)

    def parse(self, picture: Any) -> Mask:
        """Find the parts of the face in a photograph.

        Args:
            picture: whatever `io.image.as_stack` takes; one face, upright and cropped about as the parser's training
                pictures were (for CelebAMask-HQ from above the hair to below the chin, the eyes at half height).

        Returns:
            The mask at the size of the photograph, with its meta data.

        Raises:
            InputError: the picture cannot be read.
            WeightsError: the network answers with another number of classes than its config names.
        """
        stack = open_picture(picture)
        shown = stack.composite()
        pixels = shown[:3].clamp(0, 1)
        if len(shown) == 4:
            logger.info("the transparent parts of the photograph are seen as black by the parser")
            pixels = pixels * shown[3:]
        logits = self._logits(pixels)  # (K, h, w)
        height, width = pixels.shape[-2:]
        shrink = min(1.0, _LONGEST / max(height, width))
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        if shrink < 1:
            logger.info("the mask was found at %dx%d and enlarged to %dx%d", size[1], size[0], width, height)
        found = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0).cpu()
        name = stack.meta.source or "photograph"
        labels = resize_labels(self.table[found], (height, width))
        labels = fill_ignored(labels, self.classes, name)
        if sides_look_swapped(labels, self.classes):
            logger.warning(
                "%s: left and right parts lie the wrong way round; the parser may name sides otherwise", name
            )
        meta = replace(stack.meta, parameters={**stack.meta.parameters, "parser": self.folder.name})
        return Mask(labels, self.classes, meta)

    def _logits(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            answer = self.model(pixel_values=self._prepare(pixels[None].to(self.device)))
        logits = answer.logits[0].float()
        if logits.ndim != 3 or len(logits) != len(self.table):
            raise WeightsError(
                f"face parser {self.folder}: answers {tuple(logits.shape)}, expected {len(self.table)} classes"
            )
        return logits


def map_classes(
    names: list[str], classes: ClassSet, order: str | None = None, beard: Beard = "skin", source: str = "face parser"
) -> Tensor:
    """Find our class for every class of a parser: ``(K,)`` uint8, 255 for "ignore".

    Args:
        names: what the parser calls its classes, in order.
        classes: our set.
        order: label order to use instead of the names.
        beard: for classes that have none here, such as a beard.
        source: what messages call the parser.

    Raises:
        WeightsError: some classes cannot be mapped, or two sides would be one (all are listed), or the order has
            another number of classes.
        ConfigError: the order is not known, or does not fit the class set.
    """
    if order is not None:
        foreign = None if order.casefold() == classes.name.casefold() else find_order(order)
        count = len(classes) if foreign is None else len(foreign.targets)
        if count != len(names):
            raise WeightsError(
                f"{source}: has {len(names)} classes, label order {order!r} has {count}",
                "name the order it was trained in",
            )
        table = torch.arange(count) if foreign is None else foreign.table(classes, beard)[:count]
        return table.to(torch.uint8)
    known = {_plain(word): name for name, words in _SYNONYMS.items() for word in words.split() if name in classes.names}
    known |= {_plain(name): name for name in classes.names}  # the set's own names win
    ids, lost = [], []
    for name in names:
        plain = _plain(name)
        if plain in known:
            ids.append(classes.id_of(known[plain]))
        elif plain in _HOMELESS and (beard == "ignore" or "skin" in classes.names):
            ids.append(IGNORE if beard == "ignore" else classes.id_of("skin"))
        else:
            lost.append(name)
    if lost:
        share = f"{len(lost)} of its {len(names)} classes"
        raise WeightsError(
            f"{source}: {share} have no counterpart in {classes.name!r}: {', '.join(lost)}",
            "name its label order (--label-order), or give names in id2label of its config.json",
        )
    return torch.tensor(ids, dtype=torch.uint8)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _read_names(file: Path) -> list[str]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found = {int(key): str(value) for key, value in config["id2label"].items()}
        return [found[index] for index in range(len(found))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"face parser: {file} has no classes in id2label: {error!r}", _NEEDED) from error


def _open(folder: Path) -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DependencyError("a face parser needs transformers", "pip install transformers") from error
    auto: Any = transformers.AutoModelForSemanticSegmentation
    try:
        model, report = auto.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"face parser {folder}: cannot be loaded: {reason}", _NEEDED) from error
    if missing := sorted(report["missing_keys"]):  # the library would go on with random numbers
        raise WeightsError(
            f"face parser {folder}: model.safetensors lacks {len(missing)} tensors, such as {missing[0]}", _NEEDED
        )
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Preparation:
    """What ``preprocessor_config.json`` asks for: the size that a picture is stretched to, mean and deviation."""

    size: tuple[int, int] | None
    shortest: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, file: Path) -> "_Preparation":
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            size: tuple[int, int] | None = None
            shortest: int | None = None
            if found.get("do_resize", True):
                asked = found["size"]
                if isinstance(asked, int):
                    size = (asked, asked)
                elif "shortest_edge" in asked:
                    shortest = int(asked["shortest_edge"])
                else:
                    size = (int(asked["height"]), int(asked["width"]))
            normalise = found.get("do_normalize", True)
            mean, std = (found["image_mean"], found["image_std"]) if normalise else ((0.0,) * 3, (1.0,) * 3)
            return cls(size, shortest, tuple(mean), tuple(std))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"face parser: {file} does not say how to prepare pictures: {error!r}", _NEEDED
            ) from error

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Take ``(B, 3, H, W)`` in [0, 1] to what the network wants."""
        height, width = rgb01.shape[-2:]
        size = self.size
        if self.shortest is not None:
            factor = self.shortest / min(height, width)
            size = (max(1, round(height * factor)), max(1, round(width * factor)))
        if size is not None and size != (height, width):
            rgb01 = F.interpolate(rgb01, size, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (rgb01.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (rgb01 - mean) / std
