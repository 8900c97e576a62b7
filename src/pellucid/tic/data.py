"""Captioned pictures as they lie on disk: birds, fruit, COCO, and folders of our own (Sec. 5, "Datasets").

Each reader takes a root folder and lists its pictures with caption and split; nothing is downloaded, nothing decoded.
Splits are a sorted list, shuffled with seed 0 and cut, because the paper gives only counts; `fixed_splits` keeps the
lists as files.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from pellucid.data.shards import Row, ShardIndex
from pellucid.errors import ConfigError, InputError
from pellucid.tic.text import tokenise
from pellucid.tic.vocabulary import COLOURS

log = logging.getLogger(__name__)

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
NCD_COLOURS = Path(__file__).with_name("ncd_colours.json")
BIRDS_TRAIN, BIRDS_TEST = 5032, 1000
NCD_TRAIN = 600
COCO_TRAIN, COCO_TEST = 39_000, 6_225

_UNSTATED = "terms of the data set"  # of published sets, whose rows name no licence of their own
_CERTAIN = 3  # "probably"; 4 is "definitely", 1 "not visible", 2 "guessing"

# Colour words that name a thing, a place or a person: taken out before colours are looked for.
_NAMES = re.compile(
    r"\borange (?:slices?|wedges?|segments?|peels?|juice|fruits?|trees?|halves|half|on a plate)\b"
    r"|\b(?:an|sliced|peeled|cut|fresh) orange (?=and\b|or\b|on\b|in\b|is\b|sitting\b|next\b|with\b)"
    r"|\b(?:gold|silver|bronze) medals?\b|\bgold(?:en)? gate\b|\bgoldfish\b"
    r"|\b(?:red|white) sox\b|\bgreen bay\b|\bwhite house\b|\bred cross\b|\borange county\b|\bblack ?berr(?:y|ies)\b"
    r"|\bgolden retrievers?\b",
    re.IGNORECASE,
)
_PERSON = re.compile(r"(?<=[a-z,] )(?:Brown|Green|White|Black|Gray|Grey)(?:'s)?\b")  # capital in mid-sentence: a name


@dataclass(frozen=True)
class Captioned:
    """One picture with its text.

    Attributes:
        index: the folder it lies in, which also decodes it.
        row: what the folder says of it; ``row["file"]`` names it.
        caption: its text; empty where nothing is said about colour.
        split: ``"train"``, ``"val"`` or ``"test"``.
        noun: what it shows, without a colour: ``"dress"``; empty when not known.
        more: other texts that fit as well; training draws among them.
    """

    index: ShardIndex = field(repr=False)
    row: Row
    caption: str
    split: str
    noun: str = ""
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Path of the picture inside its folder or shard."""
        return str(self.row["file"])

    def image(self, mode: str = "RGB") -> Tensor:
        """Decode it: ``(C, H, W)`` uint8, upright; see `ShardIndex.image` for what can go wrong."""
        return self.index.image(self.row, mode)


Reader = Callable[[Path], list[Captioned]]


def read_cub(root: str | Path) -> list[Captioned]:
    """Read Caltech-UCSD Birds: the release of 2011, or that of 2010 which the paper counts (6,033 pictures).

    The caption joins phrases as Fig. 4 shows them, ``"wing_color white, breast_pattern spotted"``: every attribute that
    ends in ``_color`` or ``_pattern`` and that a worker called present with certainty 3 or 4. Several workers' answers
    stay, so a colour said twice weighs twice. `head_pattern` holds no colour and is left out.

    Args:
        root: ``CUB_200_2011/`` or the folder around it. Of 2010: ``images/``, ``attributes/`` with ``images-dirs.txt``
            (or ``images.txt``), ``attributes.txt`` and ``labels.txt``; names from memory, as the set was not at hand.

    Returns:
        1,000 for testing, the rest for training.

    Raises:
        InputError: a file of the layout or a picture is missing, or a line cannot be read.
    """
    folder = _inside(Path(root), "CUB_200_2011", "images.txt")
    released_2011 = (folder / "images.txt").is_file()
    if released_2011:
        listed, labels = folder / "images.txt", folder / "attributes" / "image_attribute_labels.txt"
    else:
        listed = _first(folder / "attributes" / "images-dirs.txt", folder / "attributes" / "images.txt")
        labels = folder / "attributes" / "labels.txt"
    # attributes.txt lies beside the folder or in it, depending on the archive.
    attributes = _first(
        folder / "attributes.txt", folder.parent / "attributes.txt", folder / "attributes/attributes.txt"
    )
    phrases = {
        number: phrase for number, text in _numbered(attributes) if (phrase := attribute_phrase(text)) is not None
    }
    said: dict[int, list[str]] = defaultdict(list)
    for number, line in enumerate(_lines(labels), start=1):
        values = line.split()[:4]  # some lines of the public file hold one or two fields more
        if len(values) < 4 or not all(value.isdecimal() for value in values):
            raise InputError(f"{labels} line {number}: expected four numbers, found {line[:40]!r}")
        picture, attribute, present, certainty = (int(value) for value in values)
        if present == 1 and certainty >= _CERTAIN and attribute in phrases:
            said[picture].append(phrases[attribute])
    index = ShardIndex(folder, ())
    credit = {"source": "Caltech-UCSD Birds 200", "licence": _UNSTATED}
    found = [
        Captioned(index, {"file": f"images/{name}", **credit}, ", ".join(said[number]), "train", "bird")
        for number, name in _numbered(listed)
    ]
    return _divided(_present(found), train=None, test=BIRDS_TEST, of=BIRDS_TRAIN + BIRDS_TEST)


def attribute_phrase(attribute: str) -> str | None:
    """``"has_wing_color::blue"`` -> ``"wing_color blue"`` (Fig. 4); None for what says nothing about colour."""
    group, separator, value = attribute.removeprefix("has_").partition("::")
    if not separator or group == "head_pattern" or not group.endswith(("_color", "_pattern")):
        return None
    return f"{group} {value.replace('_', ' ')}"


def read_ncd(root: str | Path, colours: str | Path = NCD_COLOURS) -> list[Captioned]:
    """Read the Natural-Color Dataset: ``<Class>/<file>.jpg``; the class becomes one colour word (Sec. 5).

    Args:
        root: the folder of the colour ground truth; the grey archive is not used.
        colours: JSON of class -> colour word, to edit.

    Returns:
        600 for training, the rest for testing.

    Raises:
        InputError: a class has no colour word, or there is no picture.
    """
    folder = Path(root)
    table: dict[str, str] = json.loads(Path(colours).read_text(encoding="utf-8"))
    known = {_class_name(name): colour for name, colour in table.items()}
    index = ShardIndex(folder, ())
    found: list[Captioned] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = _pictures(place)
        name = _class_name(place.name)
        colour = next((known[form] for form in _singulars(name) if form in known), None)
        if files and colour is None:
            raise InputError(f"{folder}: class {place.name!r} has no colour word", f"add it to {colours}")
        for path in files:
            row = {"file": f"{place.name}/{path.name}", "source": "Natural-Color Dataset", "licence": _UNSTATED}
            found.append(Captioned(index, row, str(colour), "train", name))
    return _divided(found, train=NCD_TRAIN, test=None, of=730)


def read_coco(root: str | Path, train: int = COCO_TRAIN, test: int = COCO_TEST) -> list[Captioned]:
    """Read COCO 2017: ``annotations/captions_{train,val}2017.json``, ``train2017/``, ``val2017/``.

    A picture's text is its captions with a colour word, joined by a space; a picture without any is dropped (Sec. 5).
    Both parts are pooled, because val2017 has fewer pictures than the paper tests on.

    Raises:
        InputError: an annotation file cannot be read, or a picture is missing.
    """
    folder = Path(root)
    index = ShardIndex(folder, ())
    found: list[Captioned] = []
    seen = 0
    for part in ("train2017", "val2017"):
        path = folder / "annotations" / f"captions_{part}.json"
        if not path.is_file():
            log.warning("%s is not there: read without %s", path, part)
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            names = {entry["id"]: entry["file_name"] for entry in document["images"]}
            texts: dict[int, list[str]] = defaultdict(list)
            for entry in sorted(document["annotations"], key=lambda entry: entry["id"]):
                texts[entry["image_id"]].append(" ".join(entry["caption"].split()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not COCO's captions: {error!r}") from error
        seen += len(names)
        for number, name in names.items():
            told = [text for text in texts[number] if stated_colours(text)]
            if told:
                row = {"file": f"{part}/{name}", "source": "MS COCO", "licence": _UNSTATED}
                found.append(Captioned(index, row, " ".join(told), "train", more=tuple(told)))
    if seen == 0:
        raise InputError(f"{folder} holds no COCO captions", "expected annotations/captions_train2017.json")
    log.info("%s: %d of %d pictures have a caption with a colour", folder, len(found), seen)
    return _present(_divided(found, train=train, test=test, of=train + test))


def read_captioned(root: str | Path, name: str | None = None) -> list[Captioned]:
    """Read a captioned folder: ``metadata.jsonl`` or another ``NAME.jsonl``, its pictures as files or in tar shards.

    A row has ``file`` and ``caption``, perhaps ``split``. Without ``split`` a ``source_path`` that begins with
    ``validation/`` is held out, and all else is for training.

    Raises:
        ConfigError: the folder is not there, or it holds several tables and none is named.
        InputError: a line is not a row.
    """
    index = ShardIndex.open(root, name)
    if all("caption" not in row for row in index):
        raise InputError(f"{index.root}: no row has a caption")
    return [_captioned(index, row) for row in index]


def _captioned(index: ShardIndex, row: Row) -> Captioned:
    held_out = str(row.get("source_path", "")).startswith("validation/")
    split = str(row.get("split") or ("val" if held_out else "train"))
    caption = str(row.get("caption") or "")
    noun = str(row.get("name") or row.get("label") or "")
    measured = row.get("caption_with_measured_colours")
    noun = "" if noun == "photo" else noun
    return Captioned(index, row, caption, split, noun, (str(measured),) if measured else ())


LAYOUTS: dict[str, Reader] = {
    "cub": read_cub,
    "ncd": read_ncd,
    "coco": read_coco,
    "captioned": read_captioned,
}


def find_reader(root: str | Path) -> Reader:
    """Find out which layout a folder has.

    Raises:
        InputError: the folder is not there, or has none of the known layouts.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"data folder {folder} is not there")
    if (
        any((folder / inner / "images.txt").is_file() for inner in ("", "CUB_200_2011", "attributes"))
        or (folder / "attributes" / "images-dirs.txt").is_file()
    ):
        return read_cub
    if any(folder.glob("annotations/captions_*.json")):
        return read_coco
    if any(folder.glob("*.jsonl")):
        return read_captioned
    if any(_pictures(place) for place in folder.iterdir() if place.is_dir()):
        return read_ncd
    raise InputError(
        f"{folder} holds no captioned pictures",
        "known: CUB_200_2011/images.txt, annotations/captions_*.json, NAME.jsonl, or one folder for each fruit",
    )


def read_pictures(root: str | Path, layout: str = "auto", name: str | None = None) -> list[Captioned]:
    """List the pictures of a set.

    Args:
        root: its folder.
        layout: a key of `LAYOUTS`, or ``"auto"``.
        name: which ``NAME.jsonl`` of a captioned folder.

    Raises:
        ConfigError: the layout is not known.
        InputError: the folder is not there or holds no picture of that layout.
    """
    folder = Path(root).expanduser()
    if layout not in ("auto", *LAYOUTS):
        raise ConfigError(f"layout {layout!r} is not known", f"use auto, {', '.join(LAYOUTS)}")
    reader = find_reader(folder)
    reader = reader if layout == "auto" else LAYOUTS[layout]
    found = read_captioned(folder, name) if reader is read_captioned else reader(folder)
    if not found:
        raise InputError(f"{folder} holds no pictures")
    counts = Counter(item.split for item in found)
    log.info("%s: %s", folder, ", ".join(f"{count} {split}" for split, count in counts.items()))
    return found


def fixed_splits(pictures: Sequence[Captioned], folder: str | Path) -> list[Captioned]:
    """Take the splits from ``train.txt``, ``val.txt`` and ``test.txt`` in a folder, or write these lists there.

    A picture that is in no list is left out.

    Raises:
        InputError: a list names a picture that the set does not have.
    """
    place = Path(folder)
    lists = {path.stem: list(_lines(path)) for path in sorted(place.glob("*.txt")) if path.stem in _SPLITS}
    if not lists:
        place.mkdir(parents=True, exist_ok=True)
        for split in _SPLITS:
            if names := [item.name for item in pictures if item.split == split]:
                (place / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        return list(pictures)
    by_name = {item.name: item for item in pictures}
    if gone := [name for names in lists.values() for name in names if name not in by_name]:
        raise InputError(f"{place} lists {len(gone)} pictures that are not in the set, first {gone[0]!r}")
    return [replace(by_name[name], split=split) for split, names in lists.items() for name in names]


_SPLITS = ("train", "val", "test")


def stated_colours(caption: str) -> tuple[str, ...]:
    """Whole words of a caption that are one of the 24 colours, in its order, without those of `_NAMES`.

    Stricter than `text.colour_words`: synonyms and endings do not count, as in the paper's choice of sentences.
    """
    plain = _PERSON.sub(" ", _NAMES.sub(" ", caption))
    return tuple(dict.fromkeys(token for token in tokenise(plain) if token in COLOURS))


def _divided(pictures: Sequence[Captioned], *, train: int | None, test: int | None, of: int) -> list[Captioned]:
    """Sort, shuffle with seed 0, and cut; None takes the rest. A smaller set than ``of`` is cut in proportion."""
    order = sorted(pictures, key=lambda item: item.name)
    random.Random(0).shuffle(order)
    total = len(order)
    if total < of:
        share = (test if test is not None else of - (train or 0)) / of
        test = round(total * share)
        train = total - test
        log.info("%d pictures where the paper has %d: cut in proportion, %d train and %d test", total, of, train, test)
    train = total - (test or 0) if train is None else train
    test = total - train if test is None else test
    if train + test < total:
        log.info("%d pictures beyond the paper's %d train and %d test are left out", total - train - test, train, test)
    held_out = [replace(item, split="test") for item in order[train : train + test]]
    return [replace(item, split="train") for item in order[:train]] + held_out


def _present(pictures: list[Captioned]) -> list[Captioned]:
    gone = [item for item in pictures if not (item.index.root / item.name).is_file()]
    if gone:
        raise InputError(f"{gone[0].index.root} lacks {len(gone)} of {len(pictures)} pictures, first {gone[0].name!r}")
    return pictures


def _inside(root: Path, inner: str, mark: str) -> Path:
    return root / inner if (root / inner / mark).is_file() else root


def _first(*paths: Path) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise InputError(f"{paths[0].name} is not there", f"looked for {', '.join(str(path) for path in paths)}")


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line for line in (raw.strip() for raw in file) if line)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _numbered(path: Path) -> Iterable[tuple[int, str]]:
    """Lines of a number and a name."""
    for line in _lines(path):
        number, _, name = line.partition(" ")
        if not number.isdecimal() or not name:
            raise InputError(f"{path}: expected a number and a name, found {line[:40]!r}")
        yield int(number), name.strip()


def _pictures(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURES)


def _class_name(name: str) -> str:
    return " ".join(re.sub(r"[_\-]", " ", name).lower().split())


def _singulars(name: str) -> tuple[str, ...]:
    """A class name as it is, and what it may be the plural of: tomatoes, carrots, cherries."""
    return name, name.removesuffix("s"), name.removesuffix("es"), f"{name.removesuffix('ies')}y"
