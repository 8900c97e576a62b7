"""A label map made ready to be drawn: soft coverages, a coarse grid for light and shadow, and where the face lies.

Lengths are fractions of the picture's longer side unless they are said to be pixels. The canvas is larger than the
label map by a whole number, so that the picture is anti-aliased when it is brought back to size.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.semantic_vae.preview.roles import Role

COARSE = 128  # longest side of the grid of light and shadow
_EDGE = 1.0  # standard deviation of the blur of an edge, in pixels of the label map at 256
FACE = (
    *(Role.SKIN, Role.NOSE, Role.EYE, Role.BROW, Role.MOUTH),
    *(Role.UPPER_LIP, Role.LOWER_LIP, Role.LIPS, Role.BEARD),
)
# What lies in the picture side by side; the rest of the face is drawn on the skin.
GROUPS: dict[Role, Role] = dict.fromkeys(FACE, Role.SKIN)


@dataclass(frozen=True)
class Box:
    """Rows and columns of the canvas, the end not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)


@dataclass(frozen=True)
class Feature:
    """One connected kind of part, such as an eye, on a piece of the canvas.

    Attributes:
        box: the piece of the canvas.
        cover: ``(h, w)`` in [0, 1] on it.
        x: column of the middle, in pixels of the canvas; y: its row.
        width: of the part in pixels of the canvas; height: likewise.
    """

    box: Box
    cover: Tensor
    x: float
    y: float
    width: float
    height: float

    def grid(self) -> tuple[Tensor, Tensor]:
        """Columns ``(1, w)`` and rows ``(h, 1)`` from the middle of the part, in pixels of the canvas."""
        columns = torch.arange(self.box.left, self.box.right) + 0.5 - self.x
        rows = torch.arange(self.box.top, self.box.bottom) + 0.5 - self.y
        return columns[None, :], rows[:, None]


@dataclass(frozen=True)
class Face:
    """An upright ellipse of the face: middle and half-axes."""

    x: float
    y: float
    rx: float
    ry: float


@dataclass
class Scene:
    """What the parts of the drawing look at.

    Attributes:
        labels: ``(H, W)`` int64, at the size of the label map.
        ids: ids of each role that the class set has.
        scale: pixels of the canvas for one of the label map, along each axis.
        covers: ``(H', W')`` on the canvas for each group of roles that is there; they sum to 1.
        coarse: ``(h, w)`` share of each role in the cells of the coarse grid.
        face: where the face is.
        extents: of each class that is there: first row, row after the last, and the same of columns.
        seed: of what is random.
    """

    labels: Tensor
    ids: dict[Role, tuple[int, ...]]
    scale: int
    covers: dict[Role, Tensor]
    coarse: dict[Role, Tensor]
    face: Face
    extents: dict[int, tuple[int, int, int, int]]
    seed: int

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the coarse grid."""
        return coarse_size(*self.labels.shape)

    @property
    def side(self) -> int:
        """Longer side of the canvas in pixels."""
        return max(self.labels.shape) * self.scale

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        return self.labels.shape[0] * self.scale, self.labels.shape[1] * self.scale

    def has(self, role: Role) -> bool:
        return role in self.coarse

    def has_any(self, *roles: Role) -> bool:
        return any(role in self.coarse for role in roles)

    def share(self, *roles: Role) -> Tensor:
        """Coarse share of roles together: ``(h, w)``, zeros where none is there."""
        found = [self.coarse[role] for role in roles if role in self.coarse]
        return torch.stack(found).sum(dim=0) if found else torch.zeros(self.cells)

    def grid(self, box: Box | None = None) -> tuple[Tensor, Tensor]:
        """Coordinates ``x (1, W')`` and ``y (H', 1)`` of the canvas's pixels, or of a piece of it."""
        height, width = self.size
        box = box or Box(0, height, 0, width)
        x = (torch.arange(box.left, box.right) + 0.5) / self.side
        y = (torch.arange(box.top, box.bottom) + 0.5) / self.side
        return x[None, :], y[:, None]

    def coarse_grid(self) -> tuple[Tensor, Tensor]:
        """Coordinates ``x (1, w)`` and ``y (h, 1)`` of the coarse cells."""
        rows, columns = self.cells
        height, width = self.size
        x = (torch.arange(columns) + 0.5) / columns * (width / self.side)
        y = (torch.arange(rows) + 0.5) / rows * (height / self.side)
        return x[None, :], y[:, None]

    def blur(self, plane: Tensor, sigma: float, dx: float = 0.0, dy: float = 0.0) -> Tensor:
        """Blur coarse planes ``(..., h, w)`` and move them right and down; the outside continues the edge."""
        rows, columns = self.cells
        cells = max(rows, columns)
        down = _blur_matrix(rows, round(sigma * cells, 3), round(dy * cells, 3))
        across = _blur_matrix(columns, round(sigma * cells, 3), round(dx * cells, 3))
        return down @ plane @ across.T

    def up(self, planes: Tensor, box: Box | None = None) -> Tensor:
        """Bring coarse planes ``(..., h, w)`` to the canvas or a piece of it."""
        height, width = self.size
        box = box or Box(0, height, 0, width)
        rows, columns = planes.shape[-2:]
        top, bottom, first_row, last_row = _cells(box.top, box.bottom, height, rows)
        left, right, first, last = _cells(box.left, box.right, width, columns)
        piece = planes[..., top:bottom, left:right].reshape(1, -1, bottom - top, right - left)
        size = ((bottom - top) * height // rows, (right - left) * width // columns)
        large = F.interpolate(piece, size, mode="bilinear", align_corners=False)
        return large.reshape(*planes.shape[:-2], *size)[..., first_row:last_row, first:last]

    def extent(self, ids: tuple[int, ...]) -> tuple[int, int, int, int] | None:
        """Rows and columns of the label map, the ends not included, that hold some classes; None without them."""
        found = [self.extents[one] for one in ids if one in self.extents]
        if not found:
            return None
        tops, bottoms, lefts, rights = zip(*found, strict=True)
        return min(tops), max(bottoms), min(lefts), max(rights)

    def boxes_of(self, group: Role) -> list[Box]:
        """Pieces of the canvas that hold a group, apart from one another where they can be: ears are far apart."""
        roles = [role for role in self.ids if GROUPS.get(role, role) is group]
        found = [self._box((one,)) for role in roles for one in self.ids[role] if one in self.extents]
        whole = self.box_of(*roles)
        apart = all(
            one.right <= two.left or two.right <= one.left or one.bottom <= two.top or two.bottom <= one.top
            for index, one in enumerate(found)
            for two in found[:index]
        )
        return found if apart else [whole]

    def box_of(self, *roles: Role) -> Box:
        """The piece of the canvas that the soft covers of some roles reach; all of it without them."""
        return self._box(tuple(one for role in roles for one in self.ids.get(role, ())))

    def _box(self, ids: tuple[int, ...]) -> Box:
        height, width = self.labels.shape
        top, bottom, left, right = self.extent(ids) or (0, height, 0, width)
        room, scale = 2 + math.ceil(3.0 * self.edge), self.scale
        upper, lower, first, last = top - room, bottom + room, left - room, right + room
        return Box(max(0, upper) * scale, min(height, lower) * scale, max(0, first) * scale, min(width, last) * scale)

    def features(self, role: Role, margin: float = 0.4) -> list[Feature]:
        """The parts of a role, one for each class that is in the picture.

        Args:
            role: such as `Role.EYE`.
            margin: room around the part on each side, as a share of its larger extent.
        """
        found = [self.feature((one,), margin) for one in self.ids.get(role, ())]
        return [one for one in found if one is not None]

    def feature(
        self, ids: tuple[int, ...], margin: float = 0.4, edge: float = 0.8, box: Box | None = None
    ) -> Feature | None:
        """Some classes as one part; None when they are nowhere. With ``box`` on that piece of the canvas."""
        extent = self.extent(ids)
        if extent is None:
            return None
        scale, (height, width) = self.scale, self.labels.shape
        top, bottom, left, right = extent
        room = int(margin * max(bottom - top, right - left)) + 4
        if box is None:
            upper, lower = max(0, top - room), min(height, bottom + room)
            first, last = max(0, left - room), min(width, right + room)
        else:
            upper, lower, first, last = box.top // scale, box.bottom // scale, box.left // scale, box.right // scale
        piece = _among(self.labels[upper:lower, first:last], ids).float()
        # A product with two band matrices: convolutions of ever new sizes would each be set up anew.
        down = _enlarging_matrix(height, scale, edge * self.edge)[upper * scale : lower * scale, upper:lower]
        across = _enlarging_matrix(width, scale, edge * self.edge)[first * scale : last * scale, first:last]
        cover = sharpened((down @ piece @ across.T).clamp_(0.0, 1.0))
        weights = piece / piece.sum().clamp(min=1.0)
        y = float((weights.sum(dim=1) * (torch.arange(upper, lower) + 0.5)).sum())
        x = float((weights.sum(dim=0) * (torch.arange(first, last) + 0.5)).sum())
        return Feature(
            Box(upper * scale, lower * scale, first * scale, last * scale),
            cover,
            x * scale,
            y * scale,
            float(right - left) * scale,
            float(bottom - top) * scale,
        )

    @property
    def edge(self) -> float:
        """Standard deviation of the blur of edges, in pixels of the label map."""
        return edge_of(*self.labels.shape)


def _cells(begin: int, end: int, pixels: int, cells: int) -> tuple[int, int, int, int]:
    """Cells that a piece of the canvas needs, with one beside them, and where in those the piece lies, in pixels.

    Pixels that are no multiple of the cells need all of them.
    """
    if pixels % cells:
        return 0, cells, begin, end
    one = pixels // cells
    first, last = max(0, begin // one - 1), min(cells, -(-end // one) + 1)
    return first, last, begin - first * one, end - first * one


def edge_of(height: int, width: int) -> float:
    """Blur of edges in pixels of the label map: enough to round its steps, less than a pixel for small maps."""
    return _EDGE * min(2.0, max(0.6, (max(height, width) / 256) ** 0.5))


def coarse_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the coarse grid of a label map."""
    share = min(1.0, COARSE / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def make_scene(labels: Tensor, roles: tuple[Role, ...], scale: int, seed: int) -> Scene:
    """Look at a label map ``(H, W)`` whose values index ``roles``."""
    labels = labels.to(torch.uint8)
    height, width = labels.shape
    extents = _extents(labels)
    ids: dict[Role, tuple[int, ...]] = {}
    for index, role in enumerate(roles):
        ids[role] = (*ids.get(role, ()), index)
    present = {role: there for role, ones in ids.items() if (there := tuple(one for one in ones if one in extents))}
    planes = torch.stack([_among(labels, ones) for ones in present.values()]).float()  # (R, H, W)
    rows, columns = coarse_size(height, width)
    if height % rows or width % columns:
        shares = F.adaptive_avg_pool2d(planes, (rows, columns))
    else:
        shares = block_means(planes, height // rows, width // columns)
    coarse = dict(zip(present, shares.unbind(), strict=True))
    groups: dict[Role, Tensor] = {}
    for role, plane in zip(present, planes.unbind(), strict=True):
        group = GROUPS.get(role, role)
        groups[group] = groups[group] + plane if group in groups else plane
    soft = enlarged(torch.stack(list(groups.values())), scale, edge_of(height, width))
    soft = (soft * soft).mul_(soft)
    soft.div_(soft.sum(dim=0).clamp_(min=1e-6))
    covers = dict(zip(groups, soft.unbind(), strict=True))
    return Scene(labels, ids, scale, covers, coarse, _face(coarse, height, width), extents, seed)


def _face(coarse: dict[Role, Tensor], height: int, width: int) -> Face:
    """The ellipse with the face's mean and spread; the middle of the picture without a face."""
    side = max(height, width)
    found = [coarse[role] for role in (*FACE, Role.GLASSES) if role in coarse]
    if not found:
        return Face(0.5 * width / side, 0.55 * height / side, 0.28, 0.36)
    mass = torch.stack(found).sum(dim=0)
    rows, columns = mass.shape
    total = mass.sum()
    y = (torch.arange(rows) + 0.5) / rows * (height / side)
    x = (torch.arange(columns) + 0.5) / columns * (width / side)
    down, across = mass.sum(dim=1) / total, mass.sum(dim=0) / total
    my, mx = float((down * y).sum()), float((across * x).sum())
    sy, sx = float((down * (y - my) ** 2).sum()) ** 0.5, float((across * (x - mx) ** 2).sum()) ** 0.5
    return Face(mx, my, max(0.03, 2.0 * sx), max(0.04, 2.0 * sy))


def enlarged(planes: Tensor, scale: int, sigma: float) -> Tensor:
    """Blur planes ``(n, h, w)`` by ``sigma`` pixels and enlarge them ``scale`` times."""
    taps = max(1, round(2.5 * sigma))
    at = torch.arange(-taps, taps + 1)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(planes[None], (taps, taps, taps, taps), mode="replicate")
    kernel = kernel.expand(planes.shape[0], 1, 1, -1)
    soft = F.conv2d(F.conv2d(padded, kernel, groups=len(planes)), kernel.transpose(2, 3), groups=len(planes))
    size = (planes.shape[1] * scale, planes.shape[2] * scale)
    return F.interpolate(soft, size, mode="bilinear", align_corners=False)[0]


def block_means(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Means of blocks of ``rows`` x ``columns`` pixels: ``(n, H, W)`` -> ``(n, H / rows, W / columns)``."""
    # Adding strided views is several times faster than pooling on a CPU.
    total = planes[:, ::rows]
    for row in range(1, rows):
        total = total + planes[:, row::rows]
    result = total[:, :, ::columns]
    for column in range(1, columns):
        result = result + total[:, :, column::columns]
    return result / (rows * columns)


def _extents(labels: Tensor) -> dict[int, tuple[int, int, int, int]]:
    """Of each value: first row, row after the last, first column, column after the last."""
    height, width = labels.shape
    index = labels.long()
    rows = torch.zeros(height, 256, dtype=torch.bool).scatter_(1, index, True)
    columns = torch.zeros(256, width, dtype=torch.bool).scatter_(0, index, True)
    found: dict[int, tuple[int, int, int, int]] = {}
    for one in rows.any(dim=0).nonzero()[:, 0].tolist():
        down, across = rows[:, one].nonzero()[:, 0], columns[one].nonzero()[:, 0]
        found[one] = (int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1)
    return found


def sharpened(cover: Tensor) -> Tensor:
    """Make a blurred edge about two pixels of the label map wide again."""
    own, rest = cover**3, (1.0 - cover) ** 3
    return own / (own + rest)


def smoothstep(low: float, high: float, value: Tensor) -> Tensor:
    """0 below ``low``, 1 above ``high``, smooth between; the other way round when ``low`` is above ``high``."""
    t = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _among(labels: Tensor, ids: tuple[int, ...]) -> Tensor:
    inside = labels == ids[0]
    for one in ids[1:]:
        inside = inside | (labels == one)
    return inside


@functools.lru_cache(maxsize=32)
def _enlarging_matrix(count: int, scale: int, sigma: float) -> Tensor:
    """``(scale * count, count)``: blur along one axis by ``sigma`` pixels and linear enlargement."""
    columns = _blur_matrix(count, sigma, 0.0).T[None]  # (1, from, to)
    return F.interpolate(columns, scale_factor=scale, mode="linear", align_corners=False)[0].T.contiguous()


@functools.lru_cache(maxsize=64)
def _blur_matrix(count: int, sigma: float, shift: float) -> Tensor:
    """``(count, count)``: a Gaussian blur along one axis, moved by ``shift`` cells; each row sums to 1."""
    at = torch.arange(count, dtype=torch.float32)
    # What lies outside is taken from the edge, so the weights of all outer cells go there.
    reach = int(3.5 * sigma + abs(shift)) + 2
    source = torch.arange(-reach, count + reach, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((source[None, :] - (at[:, None] - shift)) / max(sigma, 0.3)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    matrix = torch.zeros(count, count)
    return matrix.index_add_(1, source.clamp(0, count - 1).long(), weights)
