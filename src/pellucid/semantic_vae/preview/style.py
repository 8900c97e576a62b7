"""The style of a drawn face: colours, light and curl; plain values, so a style is JSON (spec of the room, section 6.2).

A style has a value for every kind of part, whether a mask has that part or not. So a style of one face can be laid over
any other mask, and a part that an edit adds has a colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.preview.roles import Role, roles_of

Color = tuple[float, float, float]

# Skin from little to much melanin.
_SKIN = "F3D7C6 EFCBB2 E9BC9D E0AA86 D69B74 C98B63 B97850 A56742 8E5637 77462F 643A2A 543126"
# Hair with how often each is drawn: the dark ones, browns, reds, blonds, greys, and dyed.
_HAIR = (
    ("211D22", 2.5),
    ("35261F", 2.5),
    ("4F3424", 3.0),
    ("6E4429", 2.5),
    ("84442A", 1.2),
    ("A8532E", 1.6),
    ("94693F", 2.0),
    ("C0935A", 2.2),
    ("DDBD86", 1.6),
    ("8E8C92", 0.7),
    ("C9C8CE", 0.5),
    ("A65A78", 0.25),
    ("3F7F86", 0.25),
)
_IRIS = "4A2E1E 5E3C25 7A5530 84683A 6B8150 5B8FA8 5C7FB5 7C8D99"
_METALS = "E2B95B D9DBE0 E0A58C"  # gold, silver, rose gold
_ROSE: Color = (0.72, 0.22, 0.28)


@dataclass(frozen=True)
class PreviewStyle:
    """Everything that the drawing takes from elsewhere than the mask. Colours are sRGB in [0, 1].

    Attributes:
        skin: of the face in even light; neck, ears and nose follow from it.
        hair: of the locks in even light.
        brows: of the eyebrows.
        iris: of the eyes.
        lips: of the lower lip; the upper one is darker.
        cloth: of the garment.
        hat: of the hat.
        frame: of the frame of glasses.
        lens: of sunglasses; clear glasses are only tinted with it.
        metal: of earrings and necklace.
        background: its colour above and below.
        light: where the light comes from: right, down, towards the viewer. Any length.
        curl: how much strands of hair wave, from 0 (straight) to 1.
        parting: where the hair is parted, in half widths of the face right of its middle; None for no parting.
        blush: how red the cheeks are, from 0 to 1.
        others: colours of the classes that the drawing has no shape for, by their names.

    Raises:
        ConfigError: a value is outside its range.
    """

    skin: Color = (0.894, 0.690, 0.549)
    hair: Color = (0.310, 0.204, 0.141)
    brows: Color = (0.250, 0.165, 0.120)
    iris: Color = (0.369, 0.235, 0.145)
    lips: Color = (0.790, 0.420, 0.400)
    cloth: Color = (0.290, 0.430, 0.560)
    hat: Color = (0.620, 0.300, 0.270)
    frame: Color = (0.140, 0.120, 0.130)
    lens: Color = (0.160, 0.150, 0.190)
    metal: Color = (0.886, 0.725, 0.357)
    background: tuple[Color, Color] = ((0.880, 0.860, 0.820), (0.640, 0.680, 0.700))
    light: Color = (-0.45, -0.65, 0.75)
    curl: float = 0.25
    parting: float | None = None
    blush: float = 0.4
    others: tuple[tuple[str, Color], ...] = ()

    def __post_init__(self) -> None:
        for name, color in (*_colors_of(self), *self.others):
            if len(color) != 3 or not all(0.0 <= value <= 1.0 for value in color):
                raise ConfigError(f"style: {name} must be three numbers in [0, 1], found {color}")
        if len(self.light) != 3 or not 0.0 < math.hypot(*self.light) < math.inf:
            raise ConfigError(f"style: light must be three numbers that are not all 0, found {self.light}")
        if self.parting is not None and not -1.0 <= self.parting <= 1.0:
            raise ConfigError(f"style: parting must be in [-1, 1] or None, found {self.parting}")
        for name in ("curl", "blush"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"style: {name} must be in [0, 1], found {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` makes an equal style of them."""
        return {**asdict(self), "others": dict(self.others)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> PreviewStyle:
        """Make a style from `to_dict`'s values; what is missing stays as in the plain style.

        Raises:
            ConfigError: a key is unknown or a value is of another form.
        """
        known = [field.name for field in fields(cls)]
        for key in found:
            if key not in known:
                raise ConfigError(f"style: unknown key {key!r}", f"there are {', '.join(known)}")
        given = dict(found)
        try:
            values: dict[str, Any] = {
                key: float(value) if key in ("curl", "blush") else _triple(value)
                for key, value in given.items()
                if key not in ("background", "others", "parting")
            }
            if "background" in given:
                above, below = given["background"]
                values["background"] = (_triple(above), _triple(below))
            if given.get("parting") is not None:
                values["parting"] = float(given["parting"])
            if "others" in given:
                values["others"] = tuple((str(name), _triple(color)) for name, color in dict(given["others"]).items())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"style: a value has another form than expected: {error}", "see PreviewStyle") from error
        return cls(**values)


def random_style(seed: int) -> PreviewStyle:
    """Draw a style: colours that occur together, a light from above on either side. One seed, one style."""
    random = _Random(seed)
    tones = _palette(_SKIN)
    skin_at = random.between(0.0, len(tones) - 1.001)
    skin = mixed(tones[int(skin_at)], tones[int(skin_at) + 1], skin_at % 1.0)
    # The darker the skin, the rarer light hair and light eyes.
    melanin = skin_at / (len(tones) - 1)
    fair = [1.0 if _luma(_hex(color)) < 0.3 else (1.0 - melanin) ** 2 for color, _ in _HAIR]
    hair = _hex(_HAIR[random.choose([weight * share for (_, weight), share in zip(_HAIR, fair, strict=True)])][0])
    irises = _palette(_IRIS)
    iris = irises[random.choose([1.0 if at < 3 else (1.0 - melanin) ** 2 for at in range(len(irises))])]
    hue = random.between(0.0, 360.0)
    cloth = oklch(random.between(0.38, 0.80), random.between(0.03, 0.13), hue)
    # The background answers the cloth: near its hue or across the wheel, pale, so that the head stands out.
    behind = hue + (random.between(-35.0, 35.0) if random.between(0.0, 1.0) < 0.4 else random.between(150.0, 210.0))
    lightness, chroma = random.between(0.74, 0.92), random.between(0.02, 0.075)
    side = -1.0 if random.between(0.0, 1.0) < 0.5 else 1.0
    return PreviewStyle(
        skin=skin,
        hair=hair,
        brows=mixed(scaled(hair, 0.7), (0.16, 0.11, 0.09), 0.35),
        iris=iris,
        lips=mixed(scaled(skin, 0.9), mixed(_ROSE, skin, 0.15), random.between(0.35, 0.85)),
        cloth=cloth,
        hat=oklch(random.between(0.30, 0.75), random.between(0.02, 0.12), hue + random.between(-60.0, 60.0)),
        frame=(0.13, 0.11, 0.12) if random.between(0.0, 1.0) < 0.6 else _hex("6B4226"),
        lens=oklch(random.between(0.22, 0.34), 0.04, random.between(0.0, 360.0)),
        metal=_palette(_METALS)[random.choose([1.0, 1.0, 0.5])],
        background=(
            oklch(lightness, chroma, behind),
            oklch(lightness - random.between(0.12, 0.24), chroma + 0.02, behind + random.between(-30.0, 30.0)),
        ),
        light=(side * random.between(0.30, 0.60), random.between(-0.80, -0.50), 0.75),
        curl=random.between(0.0, 1.0) ** 2,
        parting=random.between(-0.45, 0.45) if random.between(0.0, 1.0) < 0.5 else None,
        blush=random.between(0.2, 0.6),
    )


def style_from(picture: Tensor, labels: Tensor, classes: ClassSet = CELEBAMASK_HQ) -> PreviewStyle:
    """Take a style from a picture: the mean colour of each class, what is missing from the plain style.

    Eyes and brows give the mean of their darker half, for the white and the skin between hairs are not theirs; skin and
    hair that of their middle range, so that shine and shadow count less.

    Args:
        picture: ``(3, H, W)`` sRGB in [0, 1].
        labels: ``(H, W)`` uint8 of the same size.
        classes: what the labels mean.

    Raises:
        InputError: the two differ in size or form.
    """
    if picture.ndim != 3 or picture.shape[0] != 3 or labels.shape != picture.shape[1:]:
        raise InputError(
            f"style: expected a picture (3, H, W) and labels (H, W), found {tuple(picture.shape)} "
            f"and {tuple(labels.shape)}"
        )
    pixels = picture.detach().cpu().float().clamp(0.0, 1.0)
    where = labels.detach().cpu()
    taken: dict[Role, list[Tensor]] = {}
    others: list[tuple[str, Color]] = []
    for index, role in enumerate(roles_of(classes)):
        inside = pixels[:, where == index]  # (3, n)
        if inside.shape[1] == 0:
            continue
        if role is Role.OTHER:
            others.append((classes.names[index], _trimmed_mean(inside, 0.0, 1.0)))
        taken.setdefault(role, []).append(inside)
    mean = {
        role: _trimmed_mean(torch.cat(found, dim=1), *_RANGES.get(role, (0.15, 0.85))) for role, found in taken.items()
    }
    found = {name: mean[role] for name, role in _FIELDS.items() if role in mean}
    if "skin" in found and "lips" not in found:
        found["lips"] = mixed(found["skin"], _ROSE, 0.35)
    if "hair" in found and "brows" not in found:
        found["brows"] = scaled(found["hair"], 0.7)
    style = replace(PreviewStyle(), **found, others=tuple(others))
    if Role.BACKGROUND in mean:
        style = replace(style, background=_background(pixels, where, classes, mean[Role.BACKGROUND]))
    return style


# Which part of a class's pixels, from dark to light, its colour is the mean of, where it is not the middle.
_RANGES: dict[Role, tuple[float, float]] = {
    Role.EYE: (0.05, 0.5),
    Role.BROW: (0.0, 0.5),
    Role.SKIN: (0.3, 0.9),
    Role.HAIR: (0.2, 0.9),
    Role.BACKGROUND: (0.0, 1.0),
    Role.JEWEL: (0.4, 1.0),
    Role.GLASSES: (0.0, 0.5),
}
_FIELDS: dict[str, Role] = {
    "skin": Role.SKIN,
    "hair": Role.HAIR,
    "brows": Role.BROW,
    "iris": Role.EYE,
    "lips": Role.LOWER_LIP,
    "cloth": Role.CLOTH,
    "hat": Role.HAT,
    "metal": Role.JEWEL,
    "lens": Role.GLASSES,
}


def _background(pixels: Tensor, where: Tensor, classes: ClassSet, mean: Color) -> tuple[Color, Color]:
    """Mean colour of the background's upper and lower half."""
    half = pixels.shape[1] // 2
    found: list[Color] = []
    for rows in (slice(0, half), slice(half, None)):
        inside = pixels[:, rows][:, where[rows] == (classes.background or 0)]
        found.append(_trimmed_mean(inside, 0.0, 1.0) if inside.shape[1] else mean)
    return found[0], found[1]


def _trimmed_mean(colors: Tensor, low: float, high: float) -> Color:
    """Mean of the pixels ``(3, n)`` whose brightness is between two quantiles."""
    order = colors.mean(dim=0).argsort()
    count = order.numel()
    kept = order[int(low * count) : max(int(low * count) + 1, math.ceil(high * count))]
    red, green, blue = colors[:, kept].mean(dim=1).tolist()
    return red, green, blue


class _Random:
    """Numbers of a seed, one after the other."""

    def __init__(self, seed: int) -> None:
        self._numbers = iter(torch.rand(64, generator=generator_of(seed, 0x57), dtype=torch.float64).tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def choose(self, weights: Iterable[float]) -> int:
        given = list(weights)
        left = next(self._numbers) * sum(given)
        for index, weight in enumerate(given):
            left -= weight
            if left < 0.0:
                return index
        return len(given) - 1


def oklch(lightness: float, chroma: float, hue: float) -> Color:
    """Turn a colour of Oklch (hue in degrees) into sRGB, less colourful where sRGB has no such colour."""
    for share in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0):
        a, b = (share * chroma * turn(math.radians(hue)) for turn in (math.cos, math.sin))
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        linear = (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        )
        if all(-1e-3 <= value <= 1.001 for value in linear):
            break
    red, green, blue = (
        1.055 * value ** (1 / 2.4) - 0.055 if value > 0.0031308 else 12.92 * value
        for value in (min(max(value, 0.0), 1.0) for value in linear)
    )
    return red, green, blue


def mixed(first: Color, second: Color, share: float) -> Color:
    """The colour ``share`` of the way from the first to the second."""
    red, green, blue = (one + (two - one) * share for one, two in zip(first, second, strict=True))
    return red, green, blue


def scaled(color: Color, factor: float) -> Color:
    """A colour with each value times a factor, at most 1."""
    red, green, blue = (min(1.0, value * factor) for value in color)
    return red, green, blue


def _luma(color: Color) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _hex(color: str) -> Color:
    red, green, blue = bytes.fromhex(color)
    return red / 255, green / 255, blue / 255


def _palette(colors: str) -> list[Color]:
    return [_hex(color) for color in colors.split()]


def _triple(values: Any) -> Color:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _colors_of(style: PreviewStyle) -> list[tuple[str, Color]]:
    single = ("skin", "hair", "brows", "iris", "lips", "cloth", "hat", "frame", "lens", "metal")
    above, below = style.background
    return [*((name, getattr(style, name)) for name in single), ("background", above), ("background", below)]
