"""Class sets: what the values of a label map mean (spec of the room, sections 1.1 and 1.4).

A label map is a uint8 tensor ``(H, W)`` or ``(N, H, W)`` whose values are ids of a `ClassSet`. Nothing in the room
counts on 18 or 19 classes; `CELEBAMASK_HQ` is only the set of the paper. ``l_*`` lies on the image's right, as that
data set has it: the person's own left.
"""

import colorsys
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.io.files import atomic_path
from pellucid.semantic_vae.masks.class_set_files import parse, read_table

MAX_CLASSES = 255  # ids are bytes, and 255 says "ignore" in many label files

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Band:
    """Where a class usually lies, as a rough check and never as a target.

    Attributes:
        area: least and largest usual share of the picture, in [0, 1], where the class is there.
        x: usual range of the centroid, 0 left, 1 right.
        y: usual range of the centroid, 0 top, 1 bottom.
    """

    area: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True)
class ClassSet:
    """An ordered list of classes, with at most one background.

    Attributes:
        name: what messages and files call the set.
        names: names in the order of the ids; the order of the LSTM's steps too.
        colors: RGB in 0..255 of each class, all different; empty for colours chosen here.
        background: id of the background, None when there is none. It has no code, so it cannot be edited.
        mirror: pairs of ids that change places when a picture is mirrored, such as the two eyes.
        optional: ids of the classes that a complete example may lack.
        groups: names for several parts at once, such as ``"eyes"``, and other words for one.
        bands: usual places of classes, see `Band`.

    Raises:
        ConfigError: names or colours repeat, an id is outside the set, or there are too many or too few classes.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
    background: int | None = 0
    mirror: tuple[tuple[int, int], ...] = ()
    optional: tuple[int, ...] = ()
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]], hash=False)
    bands: Mapping[int, Band] = field(default_factory=dict[int, Band], hash=False)

    def __post_init__(self) -> None:
        if not self.colors:
            object.__setattr__(self, "colors", _colors(len(self.names), self.background))
        if not 2 <= len(self.names) <= MAX_CLASSES:
            raise ConfigError(f"class set {self.name!r}: expected 2 to {MAX_CLASSES} classes, found {len(self.names)}")
        self._check_names()
        self._check_colors()
        used: dict[str, Iterable[int]] = {
            "background": () if self.background is None else (self.background,),
            "mirror": [one for pair in self.mirror for one in pair],
            "optional": self.optional,
            "bands": self.bands,
            **{f"group {name!r}": ids for name, ids in self.groups.items()},
        }
        for what, ids in used.items():
            if outside := [one for one in ids if not 0 <= one < len(self.names)]:
                last = len(self.names) - 1
                raise ConfigError(f"class set {self.name!r}: {what} names id {outside[0]}, expected 0 to {last}")
        mirrored = [one for pair in self.mirror for one in pair]
        if len(set(mirrored)) < len(mirrored):
            raise ConfigError(f"class set {self.name!r}: mirror has a class in two pairs or paired with itself")
        if any(self.background in ids for ids in self.groups.values()):
            raise ConfigError(f"class set {self.name!r}: a group holds the background, which has no code")

    def _check_names(self) -> None:
        twice = [one for one in self.names if self.names.count(one) > 1]
        if twice:
            raise ConfigError(f"class set {self.name!r}: two classes are called {twice[0]!r}")
        if odd := [one for one in self.names if not one.strip() or one.strip().isdecimal()]:
            raise ConfigError(
                f"class set {self.name!r}: {odd[0]!r} is no name for a class", "a number is read as an id"
            )
        if both := [one for one in self.groups if one in self.names or one.isdecimal() or one == "all"]:
            raise ConfigError(f"class set {self.name!r}: a group cannot be called {both[0]!r}, which means a class")

    def _check_colors(self) -> None:
        if len(self.colors) != len(self.names):
            raise ConfigError(
                f"class set {self.name!r}: expected {len(self.names)} colours, one a class, found {len(self.colors)}"
            )
        for index, color in enumerate(self.colors):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ConfigError(
                    f"class set {self.name!r}: colour of {self.names[index]!r} is {color}, not RGB in 0..255"
                )
            if color in self.colors[:index]:
                other = self.names[self.colors.index(color)]
                raise ConfigError(
                    f"class set {self.name!r}: {other!r} and {self.names[index]!r} have one colour, {color}"
                )

    def __len__(self) -> int:
        """Number of classes C, the background among them."""
        return len(self.names)

    @property
    def parts(self) -> tuple[int, ...]:
        """Ids of the classes without the background, in order: the P channels of the network."""
        return tuple(one for one in range(len(self.names)) if one != self.background)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of `parts`."""
        return tuple(self.names[one] for one in self.parts)

    def id_of(self, name: str) -> int:
        """Id of the class of that name.

        Raises:
            ConfigError: there is none; the hint names the nearest.
        """
        if name not in self.names:
            raise self._unknown(name)
        return self.names.index(name)

    def ids(self, parts: Iterable[str | int] | str | int) -> tuple[int, ...]:
        """Turn what a user calls parts into ids (section 4).

        Args:
            parts: names, ids (numbers or text), groups, ``"all"`` for every part; text may join several with commas.

        Returns:
            The ids without repetition, in the order of the set.

        Raises:
            ConfigError: a name is unknown (the hint gives the nearest), nothing is named, or the background is.
        """
        given = [parts] if isinstance(parts, str | int) else list(parts)
        words = [word.strip() for one in given for word in str(one).split(",") if word.strip()]
        found: set[int] = set()
        for word in words:
            found.update(self._ids_of(word))
        if not found:
            raise ConfigError("parts: nothing is named", f"name one of {', '.join((*self.part_names, *self.groups))}")
        return tuple(sorted(found))

    def _ids_of(self, word: str) -> tuple[int, ...]:
        key = word.casefold().replace(" ", "_").replace("-", "_")
        if key == "all":
            return self.parts
        groups = {name.casefold(): ids for name, ids in self.groups.items()}
        if key in groups:
            return groups[key]
        names = [name.casefold() for name in self.names]
        if key in names:
            one = names.index(key)
        elif word.isdecimal() and int(word) < len(self.names):
            one = int(word)
        else:
            raise self._unknown(word)
        if one == self.background:
            raise ConfigError(
                f"part {word!r}: the background has no code, so it cannot be edited",
                f"name a part: {', '.join(self.part_names)}",
            )
        return (one,)

    def _unknown(self, word: str) -> ConfigError:
        known = (*self.part_names, *self.groups)
        near = get_close_matches(word.casefold(), known, 4, 0.5)
        if word.lstrip("-").isdecimal():
            hint = f"ids go from 0 to {len(self.names) - 1}"
        else:
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        return ConfigError(f"part {word!r} is not in the class set {self.name!r}", hint)

    def mirrored(self, labels: Tensor) -> Tensor:
        """Mirror label maps ``(..., H, W)`` left to right; left parts become right parts (section 1.3)."""
        table = torch.arange(256, device=labels.device)
        for one, other in self.mirror:
            table[one], table[other] = other, one
        return table.to(labels.dtype)[labels.flip(-1).long()]

    def colored(self, labels: Tensor) -> Tensor:
        """Paint label maps ``(..., H, W)`` in the palette: ``(..., 3, H, W)`` float32 in [0, 1].

        Values that are no id of the set become white.
        """
        palette = torch.ones(256, 3, device=labels.device)
        palette[: len(self.names)] = torch.tensor(self.colors, device=labels.device) / 255
        return palette[labels.long()].movedim(-1, -3)

    def fingerprint(self) -> tuple[tuple[str, ...], int | None]:
        """What must agree for two label maps to speak of the same things: names in order, and the background."""
        return self.names, self.background

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `save` writes them: pairs, groups and bands by name, colours as hexadecimal text."""
        named: dict[str, Any] = {
            "name": self.name,
            "names": list(self.names),
            "colors": ["{:02X}{:02X}{:02X}".format(*color) for color in self.colors],
            "background": None if self.background is None else self.names[self.background],
            "mirror": [[self.names[one] for one in pair] for pair in self.mirror],
            "optional": [self.names[one] for one in self.optional],
            "groups": {name: [self.names[one] for one in ids] for name, ids in self.groups.items()},
        }
        if self.bands:
            named["bands"] = {
                self.names[one]: {"area": list(band.area), "x": list(band.x), "y": list(band.y)}
                for one, band in self.bands.items()
            }
        return named

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], source: str = "class set") -> "ClassSet":
        """Build a set from plain values; classes by name or id, colours as ``"CC0000"`` or ``[204, 0, 0]``.

        Args:
            found: the keys of `to_dict`; all but ``names`` may be missing. A missing ``background`` is the class called
                ``"background"``, or none.
            source: what messages call it.

        Raises:
            ConfigError: a key is unknown or a value is of another form.
        """
        values = read_table(found, source)
        bands = {one: Band(*band) for one, band in values.pop("bands").items()}
        return cls(**values, bands=bands)

    def save(self, path: str | Path, overwrite: bool = True) -> Path:
        """Write the set as JSON, from which `load` makes an equal one.

        Raises:
            InputError: the file cannot be written.
        """
        with atomic_path(path, overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "ClassSet":
        """Read a class set from a ``.json``, ``.toml`` or ``.yaml`` file, see `from_dict`.

        Raises:
            InputError: there is no such file.
            ConfigError: the file is damaged or does not describe a class set.
        """
        file = Path(path).expanduser()
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise InputError(f"class set {file}: {reason}", "name a .json, .toml or .yaml file") from error
        found = parse(text, file)
        if not isinstance(found, dict):
            raise ConfigError(f"class set {file}: expected a table with names, found {type(found).__name__}")
        return cls.from_dict({"name": file.stem, **found}, str(file))


def present_ids(labels: Tensor) -> list[int]:
    """List the values that occur in label maps of any shape, ascending; they must be 0 or above."""
    return torch.bincount(labels.flatten()).nonzero().flatten().tolist()


def class_set(source: "str | Path | ClassSet | None") -> ClassSet:
    """Find a class set: one that is given, a built-in one by name, or a file's; None is `CELEBAMASK_HQ`.

    Raises:
        InputError: there is no such file.
        ConfigError: the file does not describe a class set.
    """
    if isinstance(source, ClassSet):
        return source
    if source is None or str(source).casefold() == CELEBAMASK_HQ.name:
        return CELEBAMASK_HQ
    return ClassSet.load(source)


def _colors(count: int, background: int | None) -> tuple[Color, ...]:
    """Colours far from one another: hues by the golden ratio in three brightnesses, black for the background."""
    found: list[Color] = []
    for index in range(count):
        hue, value = (0.02 + index * 0.61803398875) % 1, (1.0, 0.75, 0.5)[index % 3]
        red, green, blue = (round(255 * one) for one in colorsys.hsv_to_rgb(hue, 1 - 0.35 * (index % 2), value))
        found.append((0, 0, 0) if index == background else (red, green, blue))
    return tuple(found)


def _hex(colors: str) -> tuple[Color, ...]:
    return tuple((one[0], one[1], one[2]) for one in map(bytes.fromhex, colors.split()))


_PAIR = {"l": (0.53, 0.80), "r": (0.20, 0.47)}  # x of what comes in pairs: l_* on the image's right

CELEBAMASK_HQ = ClassSet(
    name="celebamask-hq",
    names=(
        *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
        *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
    ),
    # MaskGAN's g_color; the official code of the paper has 33FFFF for id 7, which mask files may have too.
    colors=_hex(
        "000000 CC0000 4C9900 CCCC00 3333FF CC00CC 00FFFF FFCCCC 663300 FF0000 "
        "66CC00 FFFF00 000099 0000CC FF3399 00CCCC 003300 FF9933 00CC00"
    ),
    background=0,
    mirror=((4, 5), (6, 7), (8, 9)),
    optional=(3, 8, 9, 10, 13, 14, 15, 16, 17, 18),
    groups={
        "eyes": (4, 5),
        "brows": (6, 7),
        "ears": (8, 9),
        "lips": (11, 12),
        "mouth_group": (10, 11, 12),
        "glasses": (3,),
        "earring": (15,),
        "necklace": (16,),
    },
    # From the geometry of section 6.1, made wide enough for yaw, roll and off-centre crops.
    bands={
        1: Band((0.10, 0.45), (0.35, 0.65), (0.42, 0.68)),
        2: Band((0.008, 0.04), (0.38, 0.62), (0.48, 0.66)),
        4: Band((0.0004, 0.006), _PAIR["l"], (0.40, 0.56)),
        5: Band((0.0004, 0.006), _PAIR["r"], (0.40, 0.56)),
        6: Band((0.001, 0.009), _PAIR["l"], (0.33, 0.49)),
        7: Band((0.001, 0.009), _PAIR["r"], (0.33, 0.49)),
        8: Band((0.0005, 0.02), (0.62, 0.95), (0.45, 0.66)),
        9: Band((0.0005, 0.02), (0.05, 0.38), (0.45, 0.66)),
        10: Band((0.0002, 0.015), (0.38, 0.62), (0.66, 0.82)),
        11: Band((0.001, 0.012), (0.38, 0.62), (0.64, 0.80)),
        12: Band((0.002, 0.016), (0.38, 0.62), (0.68, 0.86)),
        13: Band((0.03, 0.65), (0.25, 0.75), (0.10, 0.60)),
        14: Band((0.02, 0.45), (0.25, 0.75), (0.00, 0.35)),
        17: Band((0.005, 0.12), (0.30, 0.70), (0.78, 0.98)),
        18: Band((0.002, 0.20), (0.05, 0.95), (0.85, 1.00)),
    },
)
