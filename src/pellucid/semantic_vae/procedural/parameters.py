"""What a drawn face mask is made of: the numbers, and the laws that they are drawn from.

The laws come from geometry and from published figures (mean areas of the classes), never from a fit to real masks.
Every number of a face follows from one row of uniform numbers through the inverse of its law, so face ``k`` of a seed
is the same face however many are drawn with it, and the numbers are exact labels of what the mask shows.

Lengths are parts of the picture's side, x to the right, y down, the eyes' middle near (0.5, 0.48); angles are radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, get_type_hints

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError

BALD, SHORT, MEDIUM, LONG = range(4)  # hair_style
NO_GLASSES, RIMS, CLEAR, SUNGLASSES = range(4)  # glasses
NO_EARRING, STUD, DROP, HOOP = range(4)  # earring
NO_HAT, BEANIE, BRIM = range(3)  # hat

_CLIP = 2.5  # normal laws end at so many deviations


class _Law(NamedTuple):
    """How a number is drawn: ``inverse`` maps uniform numbers in [0, 1), float64, to values."""

    inverse: Callable[[Tensor], Tensor]
    whole: bool = False


def _uniform(low: float, high: float) -> _Law:
    """Any value between ``low`` and ``high``."""
    return _Law(lambda u: low + (high - low) * u)


def _normal(mean: float, deviation: float) -> _Law:
    """A normal value, clipped at 2.5 deviations."""

    def inverse(u: Tensor) -> Tensor:
        normal = math.sqrt(2.0) * torch.erfinv((2.0 * u - 1.0).clamp(-0.999999, 0.999999))
        return mean + deviation * normal.clamp(-_CLIP, _CLIP)

    return _Law(inverse)


def _choice(*chances: float) -> _Law:
    """Whole number ``k`` with the ``k``-th chance; the chances sum to 1."""
    steps = torch.tensor(chances, dtype=torch.float64).cumsum(0)[:-1]
    return _Law(lambda u: torch.bucketize(u.contiguous(), steps, right=True), whole=True)


def _seldom(chance: float, low: float, high: float) -> _Law:
    """0 mostly; with ``chance`` a value between ``low`` and ``high``."""
    return _Law(lambda u: torch.where(u < chance, low + (high - low) * (u / chance).clamp(max=1.0), 0.0))


def _texture() -> _Law:
    """A whole number below 2**53, which JSON holds exactly."""
    return _Law(lambda u: (u * 2.0**53).long(), whole=True)


@dataclass(frozen=True)
class FaceParameters:
    """The numbers of ``N`` drawn faces: one ``(N,)`` tensor a field, float32, whole numbers int64.

    ``left`` and ``right`` are those of the picture, not of the person.
    """

    # What no other field tells: phases of curls, strands, the elastic warp.
    texture: Annotated[Tensor, _texture()]

    # How the head is held and how the picture is cut.
    turn: Annotated[Tensor, _normal(0.0, 0.11)]  # to the right, about the upright axis
    strong_turn: Annotated[Tensor, _seldom(0.1, -0.62, 0.62)]  # a three-quarter view; it takes the place of `turn`
    roll: Annotated[Tensor, _normal(0.0, 0.035)]
    shift_x: Annotated[Tensor, _normal(0.0, 0.012)]
    shift_y: Annotated[Tensor, _normal(0.0, 0.010)]
    cut: Annotated[Tensor, _seldom(0.12, 1.5, 4.0)]  # so many times farther off the centre than usual
    zoom: Annotated[Tensor, _normal(0.0, 0.03)]  # natural logarithm of the magnification
    warp: Annotated[Tensor, _uniform(0.004, 0.010)]  # deviation of the 3 x 3 control points
    jitter: Annotated[Tensor, _uniform(0.5, 1.6)]  # pixels of 256 by which edges tremble

    # Face.
    face_width: Annotated[Tensor, _normal(0.307, 0.020)]  # half
    face_top: Annotated[Tensor, _normal(0.140, 0.025)]
    chin: Annotated[Tensor, _normal(0.880, 0.020)]
    jaw: Annotated[Tensor, _uniform(1.75, 2.4)]  # exponent of the lower half: high is square

    # Ears and earrings.
    ear_chance: Annotated[Tensor, _uniform(0.0, 1.0)]  # low shows ears
    ear_y: Annotated[Tensor, _normal(0.565, 0.012)]
    ear_width: Annotated[Tensor, _uniform(0.024, 0.042)]
    ear_height: Annotated[Tensor, _uniform(0.065, 0.095)]
    earring: Annotated[Tensor, _choice(0.82, 0.06, 0.07, 0.05)]
    earring_width: Annotated[Tensor, _uniform(0.5, 1.0)]
    earring_height: Annotated[Tensor, _uniform(0.5, 1.0)]

    # Eyes and brows.
    eye_y: Annotated[Tensor, _normal(0.478, 0.004)]
    eye_spacing: Annotated[Tensor, _normal(0.122, 0.004)]  # half the distance of the eyes
    eye_width: Annotated[Tensor, _normal(0.047, 0.004)]  # half
    eye_height: Annotated[Tensor, _normal(0.0145, 0.0032)]  # half
    eye_tilt: Annotated[Tensor, _normal(0.002, 0.003)]  # the outer corner stands so much higher
    brow_gap: Annotated[Tensor, _normal(0.066, 0.008)]
    brow_length: Annotated[Tensor, _normal(0.068, 0.008)]  # half
    brow_thickness: Annotated[Tensor, _normal(0.0165, 0.0030)]  # half
    brow_arch: Annotated[Tensor, _uniform(0.0, 0.020)]
    brow_tilt: Annotated[Tensor, _normal(0.003, 0.005)]
    brow_shift: Annotated[Tensor, _normal(0.004, 0.006)]
    glasses: Annotated[Tensor, _choice(0.90, 0.03, 0.045, 0.025)]
    glasses_width: Annotated[Tensor, _uniform(0.085, 0.100)]  # half, of one glass
    glasses_height: Annotated[Tensor, _uniform(0.050, 0.075)]  # half
    glasses_rim: Annotated[Tensor, _uniform(0.006, 0.020)]

    # Nose and mouth.
    nose_top: Annotated[Tensor, _normal(-0.020, 0.010)]  # beside the eyes' line
    nose_tip: Annotated[Tensor, _normal(0.655, 0.010)]
    nose_width: Annotated[Tensor, _normal(0.086, 0.008)]  # half
    nose_bridge: Annotated[Tensor, _uniform(0.34, 0.50)]  # width above, part of the width below
    nose_flare: Annotated[Tensor, _uniform(1.3, 3.0)]  # exponent: high widens late
    mouth_y: Annotated[Tensor, _normal(0.745, 0.010)]
    mouth_width: Annotated[Tensor, _normal(0.106, 0.012)]  # half
    mouth_open: Annotated[Tensor, _normal(0.009, 0.023)]  # below 0 is shut
    smile: Annotated[Tensor, _uniform(-0.004, 0.024)]  # the corners stand so much higher
    upper_lip: Annotated[Tensor, _normal(0.026, 0.005)]
    lower_lip: Annotated[Tensor, _normal(0.043, 0.006)]
    lip_notch: Annotated[Tensor, _uniform(0.05, 0.35)]

    # Neck, necklace and clothes.
    neck_width: Annotated[Tensor, _normal(0.150, 0.018)]  # half
    neck_flare: Annotated[Tensor, _uniform(0.0, 1.4)]  # widening below the chin, length per length
    neck_end: Annotated[Tensor, _uniform(0.93, 1.12)]
    collar: Annotated[Tensor, _uniform(0.0, 0.10)]  # the collar stands so much higher at the sides
    necklace: Annotated[Tensor, _seldom(0.05, 0.004, 0.013)]  # thickness
    necklace_y: Annotated[Tensor, _normal(0.945, 0.012)]
    cloth: Annotated[Tensor, _seldom(0.62, 0.88, 0.985)]  # where it begins beside the neck
    cloth_slope: Annotated[Tensor, _uniform(0.06, 0.27)]

    # Hair and hat.
    hair_style: Annotated[Tensor, _choice(0.03, 0.42, 0.20, 0.35)]
    hair_width: Annotated[Tensor, _normal(0.0, 1.0)]  # half of the cap
    hair_lean: Annotated[Tensor, _normal(0.0, 0.05)]  # volume on the right more than on the left, as a part
    hair_top: Annotated[Tensor, _normal(-0.030, 0.045)]
    hair_bottom: Annotated[Tensor, _normal(0.50, 0.040)]  # where a short cap ends
    hair_end: Annotated[Tensor, _uniform(0.0, 1.0)]  # where locks end
    hair_end_lean: Annotated[Tensor, _normal(0.0, 0.05)]  # the right one ends so much lower than the left
    curl: Annotated[Tensor, _uniform(0.0, 0.030)]
    lock_width: Annotated[Tensor, _uniform(0.08, 0.16)]
    lock_drift: Annotated[Tensor, _uniform(-0.03, 0.07)]
    lock_tips: Annotated[Tensor, _uniform(0.0, 0.08)]
    lock_place: Annotated[
        Tensor, _choice(0.35, 0.40, 0.25)
    ]  # behind neck and clothes; before them; one before, one behind
    hair_gap: Annotated[Tensor, _choice(0.75, 0.25)]  # 1: the ground shows between neck and locks
    fringe: Annotated[Tensor, _choice(0.82, 0.18)]
    hairline: Annotated[Tensor, _uniform(0.0, 1.0)]
    hairline_sag: Annotated[Tensor, _uniform(0.3, 2.6)]
    hairline_rough: Annotated[Tensor, _uniform(0.0, 1.0)]
    parting: Annotated[Tensor, _uniform(-0.12, 0.12)]
    sweep: Annotated[
        Tensor, _seldom(0.22, -0.23, 0.23)
    ]  # swept to one side, hair comes so far down; the sign tells which
    strip_left: Annotated[Tensor, _uniform(0.0, 0.06)]  # hair over the side of the face
    strip_right: Annotated[Tensor, _uniform(0.0, 0.06)]
    strip_end: Annotated[Tensor, _uniform(0.55, 0.90)]
    strands: Annotated[Tensor, _choice(0.7, 0.1, 0.08, 0.06, 0.06)]  # how many fall over the face
    hat: Annotated[Tensor, _choice(0.975, 0.0125, 0.0125)]
    hat_line: Annotated[Tensor, _uniform(0.24, 0.34)]
    hat_brim: Annotated[Tensor, _uniform(0.32, 0.55)]  # half its width

    def __len__(self) -> int:
        return len(self.texture)

    def __getitem__(self, which: slice) -> FaceParameters:
        return FaceParameters(**{name: getattr(self, name)[which] for name in _NAMES})


_LAWS: dict[str, _Law] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(FaceParameters, include_extras=True).items()
}
_NAMES = tuple(_LAWS)


def draw_parameters(count: int, generator: torch.Generator) -> FaceParameters:
    """Draw the numbers of ``count`` faces; the first of them do not depend on ``count``."""
    return _from_uniform(torch.rand(count, len(_LAWS), generator=generator, dtype=torch.float64))


def parameters_of(seed: int, indices: Iterable[int]) -> FaceParameters:
    """The numbers of faces ``indices`` of a seed; each follows from the seed and its own index alone."""
    rows = [torch.rand(len(_LAWS), generator=generator_of(seed, k), dtype=torch.float64) for k in indices]
    return _from_uniform(torch.stack(rows) if rows else torch.empty(0, len(_LAWS), dtype=torch.float64))


def _from_uniform(uniform: Tensor) -> FaceParameters:
    """``(N, fields)`` float64 in [0, 1) -> parameters, after the rules that tie some to others."""
    raw = {name: law.inverse(uniform[:, k]) for k, (name, law) in enumerate(_LAWS.items())}
    raw["turn"] = torch.where(raw["strong_turn"] != 0, _away_from_zero(raw["strong_turn"], 0.32, 0.62), raw["turn"])
    raw["sweep"] = torch.where(raw["sweep"] != 0, _away_from_zero(raw["sweep"], 0.07, 0.23), 0.0)
    raw["mouth_open"] = raw["mouth_open"].clamp(min=0.0)

    style = raw["hair_style"]
    mean = torch.tensor([0.0, 0.395, 0.472, 0.503], dtype=torch.float64)[style]
    deviation = torch.tensor([0.0, 0.030, 0.045, 0.045], dtype=torch.float64)[style]
    raw["hair_width"] = mean + deviation * raw["hair_width"]
    low = torch.tensor([0.0, 0.0, 0.62, 0.95], dtype=torch.float64)[style]
    high = torch.tensor([0.0, 0.0, 0.85, 1.15], dtype=torch.float64)[style]
    raw["hair_end"] = low + (high - low) * raw["hair_end"]
    # A bare skull shows more of itself than the forehead below hair.
    raw["face_top"] = raw["face_top"] - torch.where(style == BALD, 0.08, 0.0)
    raw["hairline"] = torch.where(raw["fringe"] == 1, 0.32 + 0.07 * raw["hairline"], 0.165 + 0.10 * raw["hairline"])
    loose = style >= MEDIUM
    for side in ("strip_left", "strip_right"):
        raw[side] = torch.where(loose, raw[side], 0.5 * raw[side])
    raw["strip_end"] = torch.where(loose, raw["strip_end"], 0.30 + 0.35 * raw["strip_end"])

    big = raw["earring"] == DROP
    hoop = raw["earring"] == HOOP
    raw["earring_width"] *= torch.where(big, 0.040, torch.where(hoop, 0.050, 0.022))
    raw["earring_height"] *= torch.where(big, 0.090, torch.where(hoop, 0.058, 0.028))
    # Rounded, so that the last bit of a processor's own erfinv is no part of a face.
    return FaceParameters(
        **{name: raw[name] if law.whole else (raw[name] * 1e6).round().div(1e6).float() for name, law in _LAWS.items()}
    )


def _away_from_zero(value: Tensor, least: float, most: float) -> Tensor:
    """Values in ``(-most, most)`` pressed outward, so that none is nearer to 0 than ``least``."""
    return value.sign() * (least + value.abs() * (1.0 - least / most))


def to_dicts(parameters: FaceParameters) -> list[dict[str, float | int]]:
    """One plain dict a face, ready for JSON."""
    columns = {name: getattr(parameters, name).tolist() for name in _NAMES}
    return [{name: columns[name][k] for name in _NAMES} for k in range(len(parameters))]


def from_dicts(rows: Sequence[Mapping[str, float | int]]) -> FaceParameters:
    """The inverse of `to_dicts`.

    Raises:
        ConfigError: a row lacks a field or has one that is not known.
    """
    for k, row in enumerate(rows):
        if set(row) != set(_NAMES):
            missing, extra = sorted(set(_NAMES) - set(row)), sorted(set(row) - set(_NAMES))
            raise ConfigError(
                f"face parameters {k}: {len(_NAMES)} fields expected, missing {missing}, not known {extra}",
                "write them with to_dicts",
            )
    return FaceParameters(
        **{
            name: torch.tensor([row[name] for row in rows], dtype=torch.int64 if law.whole else torch.float32)
            for name, law in _LAWS.items()
        }
    )
