"""What a face mask says about the face: nose length, smile, hair volume and the rest (spec of the room, section 4.2).

Lengths are in **face heights**, so that a face near the camera and a far one compare. Draughtsmen put the eyes half-way
Lengths are in **face heights**, so that a face near the camera and a far one compare. Draughtsmen put the eyes half way
the visible face it does not change when a fringe, a hat or hair falls over the forehead.

Everything is read from counts along rows and columns, at fractions of a pixel where the shape allows it: the ends of a
part are where 2 % of its pixels remain on either side, stretched to what they would be for an even spread. A few stray
pixels of a class therefore move nothing, and a rectangle measures exactly its sides.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.masks.profiles import blur, cover, ends, gradient, hull, mean_position, position, window

_TRIM = 0.02  # share of a part's pixels beyond each of its ends
_TRIM_FACE = 0.005  # the same for the whole face, whose ends are round and blunt
_CHUNK = 64  # masks measured at once, which bounds the memory
_FINE, _TREND, _NEAR = 1 / 256, 1 / 52, 1 / 32  # blur of the outline, of its trend, and of the hair near it, in sides

_LEAST_HAIR = 0.02  # share of the picture; less hair has no outline to speak of

_FACE = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
_LIPS = ("mouth", "u_lip", "l_lip")


@dataclass(frozen=True)
class Attribute:
    """One measurable quality of a face.

    Attributes:
        name: what commands and sliders call it.
        parts: names of the classes whose codes are moved to change it, of those that a mask has.
        needs: those of them that a mask must have for that.
        unit: ``"face heights"``, ``"face heights²"``, ``"sides"`` (of the picture) or ``"ratio"``.
        description: what is measured, one line.
    """

    name: str
    parts: tuple[str, ...]
    needs: tuple[str, ...]
    unit: str
    description: str


def _attribute(name: str, parts: tuple[str, ...], unit: str, description: str) -> Attribute:
    needs = ("u_lip", "l_lip") if parts == _LIPS else parts  # a closed mouth has lips only
    return Attribute(name, parts, ("mouth", *needs) if name == "mouth_openness" else needs, unit, description)


# A hairline is as much where the skin ends as where the hair begins: networks tell it by the skin's code.
_EYES, _BROWS, _EARS = ("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")
_LENGTH, _AREA = "face heights", "face heights²"

ATTRIBUTES: dict[str, Attribute] = {
    one.name: one
    for one in (
        _attribute("nose_length", ("nose",), _LENGTH, "from the top of the nose to its lower end"),
        _attribute("nose_width", ("nose",), _LENGTH, "widest extent of the nose"),
        _attribute("mouth_width", _LIPS, _LENGTH, "from corner to corner"),
        _attribute("mouth_openness", _LIPS, _LENGTH, "mean opening between the lips in the middle third"),
        _attribute("smile", _LIPS, _LENGTH, "how far the corners lie above the middle of the mouth"),
        _attribute("lip_thickness", _LIPS, _LENGTH, "both lips together, mean over the middle third"),
        _attribute("eye_width", _EYES, _LENGTH, "mean width of the eyes"),
        _attribute("eye_height", _EYES, _LENGTH, "mean opening of the eyes in their middle third"),
        _attribute("eye_spacing", _EYES, _LENGTH, "between the middles of the eyes"),
        _attribute("brow_height", _BROWS, _LENGTH, "from the middle of the eyes up to the middle of the brows"),
        _attribute("brow_thickness", _BROWS, _LENGTH, "area of a brow over its width"),
        _attribute("brow_arch", _BROWS, _LENGTH, "how far the middle of a brow lies above its ends"),
        _attribute("face_width", ("skin",), _LENGTH, "widest row of the face, ears and hair left out"),
        _attribute("face_height", ("skin",), "sides", "twice the way from the eyes to the chin"),
        _attribute("jaw_squareness", ("skin",), "ratio", "width of the face three quarters down over its widest row"),
        _attribute("hair_length", ("hair",), _LENGTH, "lowest hair below the line of the eyes"),
        _attribute("hair_volume", ("hair",), _AREA, "area of the hair outside the convex hull of the skin"),
        _attribute("hair_curliness", ("hair",), "ratio", "perimeter² over that of the smoothed outline, less 1"),
        _attribute(
            "hairline_height", ("hair", "skin"), _LENGTH, "bare forehead above the eyes; a fringe makes it small"
        ),
        _attribute("ear_visibility", _EARS, _AREA, "visible area of both ears"),
        _attribute("neck_width", ("neck",), _LENGTH, "mean width of the neck just below the chin"),
    )
}


def measure(labels: Tensor, classes: ClassSet, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Measure attributes of label maps (section 4.2).

    Args:
        labels: uint8 ids ``(N, H, W)`` or ``(H, W)``.
        classes: what the ids mean; classes are found by their names in `CELEBAMASK_HQ`.
        names: the attributes wanted, all of `ATTRIBUTES` by default.

    Returns:
        For each attribute float32 ``(N,)`` on the device of the labels, in the unit of `ATTRIBUTES`. NaN where a mask
        does not show what is measured, for example a mouth without lips, or a set that has no such class.

    Raises:
        ConfigError: an attribute is unknown.
        InputError: the labels have another shape.
    """
    wanted = tuple(ATTRIBUTES) if names is None else tuple(names)
    for name in wanted:
        if name not in ATTRIBUTES:
            raise ConfigError(f"attribute {name!r} is not known", f"there are {', '.join(ATTRIBUTES)}")
    labels = labels[None] if labels.ndim == 2 else labels
    if labels.ndim != 3:
        raise InputError(f"label maps must be (N, H, W), found {tuple(labels.shape)}")
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for chunk in labels.split(_CHUNK):
        face = _Face(chunk, classes)
        for name in wanted:
            found[name].append(face.value(name))
    empty = labels.new_zeros(0, dtype=torch.float32)
    return {name: torch.cat(values) if values else empty for name, values in found.items()}


class _Face:
    """Counts of a few masks along rows and columns, each made once, and the attributes as methods ``_<name>``."""

    def __init__(self, labels: Tensor, classes: ClassSet) -> None:
        self.labels = labels
        self.ids = {name: index for index, name in enumerate(classes.names)}
        self.count, self.height, self.width = labels.shape
        self._masks: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}
        self._columns: dict[str, Tensor] = {}
        self._moments: dict[str, Tensor] = {}
        self.eye_line = self._eye_line()
        self.chin = ends(self.rows(*_FACE), _TRIM_FACE)[1]
        unit = 2 * (self.chin - self.eye_line)  # (N,) pixels in a face height
        self.unit = torch.where(unit > 0.1 * self.height, unit, torch.nan)

    def value(self, name: str) -> Tensor:
        """The attribute of that name, ``(N,)``; infinities, which an empty part may give, become NaN."""
        value: Tensor = getattr(self, f"_{name}")()
        return torch.where(value.isfinite(), value, torch.nan).float()

    # Counts

    def mask(self, name: str) -> Tensor:
        if name not in self._masks:
            # 255 is no id of any set, so a class that the set lacks is nowhere.
            self._masks[name] = self.labels == self.ids.get(name, 255)
        return self._masks[name]

    def rows(self, *names: str) -> Tensor:
        """Pixels of the classes in each row ``(N, H)``; classes do not overlap, so counts add up."""
        for name in names:
            if name not in self._rows:
                self._rows[name] = self.mask(name).sum(2, dtype=torch.float32)
        return torch.stack([self._rows[name] for name in names]).sum(0)

    def columns(self, *names: str) -> Tensor:
        """Pixels of the classes in each column ``(N, W)``."""
        for name in names:
            if name not in self._columns:
                self._columns[name] = self.mask(name).sum(1, dtype=torch.float32)
        return torch.stack([self._columns[name] for name in names]).sum(0)

    def moments(self, *names: str) -> Tensor:
        """Sum of the row positions of the classes' pixels in each column ``(N, W)``."""
        for name in names:
            if name not in self._moments:
                row = torch.arange(self.height, device=self.labels.device, dtype=torch.float32) + 0.5
                self._moments[name] = torch.einsum("nhw,h->nw", self.mask(name).float(), row)
        return torch.stack([self._moments[name] for name in names]).sum(0)

    def area(self, *names: str) -> Tensor:
        return self.rows(*names).sum(1)

    def row_of(self, *names: str) -> Tensor:
        """Mean row of the classes ``(N,)``, NaN where they are absent."""
        return mean_position(self.rows(*names))

    def column_of(self, *names: str) -> Tensor:
        return mean_position(self.columns(*names))

    def row_within(self, low: Tensor, high: Tensor, *names: str) -> Tensor:
        """Mean row of the classes' pixels between two columns ``(N,)``."""
        share = cover(low, high, self.width)
        return (self.moments(*names) * share).sum(1) / (self.columns(*names) * share).sum(1)

    def thickness(self, low: Tensor, high: Tensor, *names: str) -> Tensor:
        """Mean number of the classes' pixels in a column, between two columns ``(N,)``."""
        share = cover(low, high, self.width)
        return (self.columns(*names) * share).sum(1) / share.sum(1)

    # The face

    def _eye_line(self) -> Tensor:
        """Row of the eyes; of the glasses where they hide the eyes; else the top of the nose."""
        sides = torch.stack([self.row_of(name) for name in _EYES])
        line = torch.nanmean(sides, 0)
        line = torch.where(line.isnan(), self.row_of("eye_g"), line)
        return torch.where(line.isnan(), ends(self.rows("nose"), _TRIM)[0], line)

    def _row_length(self, *names: str) -> Tensor:
        low, high = ends(self.rows(*names), _TRIM)
        return high - low

    def _column_length(self, *names: str) -> Tensor:
        low, high = ends(self.columns(*names), _TRIM)
        return high - low

    def _nose_length(self) -> Tensor:
        return self._row_length("nose") / self.unit

    def _nose_width(self) -> Tensor:
        return self._column_length("nose") / self.unit

    # The mouth: windows are shares of its width

    def _mouth_ends(self) -> tuple[Tensor, Tensor]:
        low, high = ends(self.columns(*_LIPS), _TRIM)
        has_lips = self.area("u_lip", "l_lip") > 0
        return torch.where(has_lips, low, torch.nan), torch.where(has_lips, high, torch.nan)

    def _mouth_width(self) -> Tensor:
        low, high = self._mouth_ends()
        return (high - low) / self.unit

    def _mouth_openness(self) -> Tensor:
        low, high = window(*self._mouth_ends(), 1 / 3, 2 / 3)
        return self.thickness(low, high, "mouth") / self.unit

    def _lip_thickness(self) -> Tensor:
        low, high = window(*self._mouth_ends(), 1 / 3, 2 / 3)
        return self.thickness(low, high, "u_lip", "l_lip") / self.unit

    def _smile(self) -> Tensor:
        # The middle lies between the lips, or in the middle of the opening.
        corner = self._mouth_ends()
        middle = window(*corner, 0.4, 0.6)
        edges = [
            self.row_within(*middle, name) + sign * self.thickness(*middle, name) / 2
            for name, sign in (("u_lip", 1), ("l_lip", -1))
        ]
        corners = [self.row_within(*window(*corner, *share), *_LIPS) for share in ((0.0, 0.08), (0.92, 1.0))]
        return (torch.nanmean(torch.stack(edges), 0) - torch.nanmean(torch.stack(corners), 0)) / self.unit

    # Eyes and brows: means over the sides that are there

    def _of_eyes(self, share: tuple[float, float] | None) -> Tensor:
        values: list[Tensor] = []
        for name in _EYES:
            low, high = ends(self.columns(name), _TRIM)
            values.append(high - low if share is None else self.thickness(*window(low, high, *share), name))
        return torch.nanmean(torch.stack(values), 0) / self.unit

    def _eye_width(self) -> Tensor:
        return self._of_eyes(None)

    def _eye_height(self) -> Tensor:
        return self._of_eyes((1 / 3, 2 / 3))

    def _eye_spacing(self) -> Tensor:
        across = self.column_of("l_eye") - self.column_of("r_eye")
        down = self.row_of("l_eye") - self.row_of("r_eye")
        return torch.hypot(across, down) / self.unit

    def _brow_height(self) -> Tensor:
        sides = [self.row_of(eye) - self.row_of(brow) for eye, brow in zip(_EYES, _BROWS, strict=True)]
        return torch.nanmean(torch.stack(sides), 0) / self.unit

    def _brow_thickness(self) -> Tensor:
        sides = [self.area(name) / self._column_length(name) for name in _BROWS]
        return torch.nanmean(torch.stack(sides), 0) / self.unit

    def _brow_arch(self) -> Tensor:
        sides: list[Tensor] = []
        for name in _BROWS:
            both = ends(self.columns(name), _TRIM)
            low, middle, high = (
                self.row_within(*window(*both, *share), name) for share in ((0, 1 / 6), (1 / 3, 2 / 3), (5 / 6, 1))
            )
            sides.append((low + high) / 2 - middle)
        return torch.nanmean(torch.stack(sides), 0) / self.unit

    # Skin, neck and ears

    def _face_rows(self) -> Tensor:
        """Width of the face in each row ``(N, H)``, smoothed over a fiftieth of the picture."""
        reach = max(1, self.height // 100)
        return F.avg_pool1d(self.rows(*_FACE)[:, None], 2 * reach + 1, 1, reach, count_include_pad=False)[:, 0]

    def _face_width(self) -> Tensor:
        return self._face_rows().amax(1) / self.unit

    def _face_height(self) -> Tensor:
        return self.unit / self.height

    def _jaw_squareness(self) -> Tensor:
        rows = self._face_rows()
        place = self.chin - self.unit / 4
        share = cover(place - 0.02 * self.unit, place + 0.02 * self.unit, self.height)
        return (rows * share).sum(1) / share.sum(1) / rows.amax(1)

    def _neck_width(self) -> Tensor:
        low, high = self.chin + 0.03 * self.unit, self.chin + 0.12 * self.unit
        # Cut off by the picture's edge, a few rows still tell.
        share = cover(low.clamp(max=self.height - 1), high, self.height)
        width = (self.rows("neck") * share).sum(1) / share.sum(1)
        return torch.where(self.area("neck") > 0, width, torch.nan) / self.unit

    def _ear_visibility(self) -> Tensor:
        if not set(_EARS) & self.ids.keys():
            return torch.full_like(self.unit, torch.nan)
        return self.area(*_EARS) / self.unit**2

    # Hair

    def _with_hair(self, value: Tensor) -> Tensor:
        return torch.where(self.area("hair") > 0, value, torch.nan)

    def _hair_length(self) -> Tensor:
        return (position(self.rows("hair"), 0.99) - self.eye_line) / self.unit

    def _hairline_height(self) -> Tensor:
        rows = torch.arange(self.height, device=self.labels.device) + 0.5
        above = rows < self.eye_line[:, None]  # (N, H)
        face = torch.zeros_like(self.labels, dtype=torch.float32)
        for name in _FACE:
            face += self.mask(name)
        columns = torch.einsum("nhw,nh->nw", face, above.float())
        middle = torch.nanmean(torch.stack([self.column_of("nose"), self.column_of(*_FACE)]), 0)
        share = cover(middle - 0.1 * self.unit, middle + 0.1 * self.unit, self.width)
        return (columns * share).sum(1) / share.sum(1) / self.unit

    def _hair_volume(self) -> Tensor:
        low, high = hull(self.mask("skin"))  # (N, H) each
        x = torch.arange(self.width, device=self.labels.device) + 0.5
        inside = (x > low[..., None]) & (x < high[..., None])  # (N, H, W)
        area = (self.mask("hair") & ~inside).sum((1, 2)).float()
        return self._with_hair(area / self.unit**2)

    def _hair_curliness(self) -> Tensor:
        # The outline of head and hair together: where the hair meets the face it shows no curls. Its length is the sum
        # of the gradient of the slightly blurred silhouette; blurred more, curls are gone and the trend is left. The
        # area is the same in both, so perimeter²/area over the trend's is the square of the ratio of the two lengths.
        ground = self.mask("background") | self.mask("cloth")
        silhouette = (~ground).float()[:, None]  # (N, 1, H, W)
        small = max(1, self.height // 64)  # that hair is near needs no fine grid
        near = F.avg_pool2d(self.mask("hair").float()[:, None], small, ceil_mode=True)
        near = blur(near, self.height * _NEAR / small).repeat_interleave(small, 2).repeat_interleave(small, 3)
        near = near[:, :, : self.height, : self.width]
        fine = gradient(blur(silhouette, max(0.8, self.height * _FINE)))
        trend = gradient(blur(silhouette, self.height * _TREND))
        ratio = (fine * near).sum((1, 2, 3)) / (trend * near).sum((1, 2, 3))
        enough = self.area("hair") > _LEAST_HAIR * self.height * self.width
        return torch.where(enough, ratio**2 - 1, torch.nan)
