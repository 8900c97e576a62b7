"""What a clip is laid over: a colour, squares, a picture, or another film."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.io.formats import FORMATS
from pellucid.io.image import count_frames, load_image
from pellucid.io.video import VideoReader

logger = logging.getLogger(__name__)

CHECKERBOARD = "checkerboard"
_SQUARE = 16  # pixels, where no other size is given
_LIGHT, _DARK = 0.80, 0.60
_FILM_SUFFIXES = {suffix for row in FORMATS if row.time and row.reader for suffix in row.suffixes}


class Backdrop(Protocol):
    """What lies below a clip.

    Attributes:
        name: as it was asked for.
    """

    name: str

    def frames(self, height: int, width: int, fps: Fraction) -> Iterator[Tensor]:
        """Yield the opaque picture ``(3, H, W)`` in [0, 1] below each frame, without end."""
        ...


def parse_color(text: str) -> Tensor:
    """Turn ``"white"``, ``"#rgb"``, ``"#rrggbb"`` or ``"rgb(1, 2, 3)"`` into ``(3,)`` in [0, 1].

    Raises:
        ConfigError: not an opaque colour.
    """
    try:
        rgb = ImageColor.getrgb(text)
    except ValueError as error:
        raise ConfigError(f"colour {text!r} is not known", "use a name like white, or #rrggbb") from error
    if len(rgb) != 3:
        raise ConfigError(f"colour {text!r} must be opaque", "use a name like white, or #rrggbb")
    return torch.tensor(rgb, dtype=torch.float32) / 255


def open_backdrop(text: str) -> Backdrop:
    """Find what ``text`` names.

    Args:
        text: ``"checkerboard"``, ``"checkerboard:8"`` with the side of a square in pixels, a picture or film file, a
            folder of PNG frames, or a colour. A file wins over a colour of the same name.

    Raises:
        ConfigError: none of these.
        InputError: the file is there and cannot be read.
    """
    path = Path(text)
    kind, _, side = text.partition(":")
    if kind == CHECKERBOARD:
        if side and (not side.isdecimal() or not int(side)):
            raise ConfigError(f"squares must have a side of whole pixels above 0, found {side!r}", "checkerboard:16")
        return _Still(text, squares=int(side or _SQUARE))
    if path.exists():
        films = path.is_dir() or path.suffix.lower() not in (".png", ".webp", ".gif")
        if path.is_dir() or (path.suffix.lower() in _FILM_SUFFIXES and (films or count_frames(path) > 1)):
            VideoReader(path).close()
            return _Film(text, path)
        picture = load_image(path).layers[0]
        if picture.alpha is not None:
            logger.warning("%s: what is transparent in it becomes black below the clip", path)
            return _Still(text, picture=picture.pixels * picture.alpha)
        return _Still(text, picture=picture.pixels.clamp(0, 1))
    try:
        return _Still(text, picture=parse_color(text).reshape(3, 1, 1))
    except ConfigError as error:
        hint = f"give a colour, {CHECKERBOARD}, or a picture or film that is there"
        raise ConfigError(f"{text!r} is neither a colour nor a file", hint) from error


class _Still:
    """A colour ``(3, 1, 1)``, a picture ``(3, H, W)`` or squares, the same below all frames."""

    def __init__(self, name: str, *, picture: Tensor | None = None, squares: int = _SQUARE) -> None:
        self.name, self._picture, self._squares = name, picture, squares

    def frames(self, height: int, width: int, fps: Fraction) -> Iterator[Tensor]:
        if self._picture is None:
            rows, columns = torch.arange(height) // self._squares, torch.arange(width) // self._squares
            light = (rows[:, None] + columns) % 2 == 0
            below = torch.where(light, _LIGHT, _DARK).expand(3, -1, -1)
        elif self._picture.shape[-2:] == (1, 1):
            below = self._picture.expand(3, height, width)
        else:
            below = covering(self._picture, height, width)
            _tell_fit(self.name, self._picture, height, width)
        while True:
            yield below


class _Film:
    """A film at its own pace: of each moment the frame that is shown then; from the start again when it ends."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self._path = name, path

    def frames(self, height: int, width: int, fps: Fraction) -> Iterator[Tensor]:
        clock, passed = Fraction(0), Fraction(0)  # moments of the clip, and of the film where this round began
        last, shown = passed, 0
        while True:
            with VideoReader(self._path, variable="hold") as reader:
                for index, frame in enumerate(reader):
                    end = passed + Fraction(index + 1) / reader.fps
                    below: Tensor | None = None
                    while clock < end:
                        if below is None:
                            if shown == 0:
                                _tell_fit(self.name, frame, height, width)
                            below = covering(_opaque(frame), height, width)
                        yield below
                        clock, shown = clock + 1 / fps, shown + 1
                    last = end
            passed = last
            logger.info("%s: is shorter than the clip and begins again", self.name)


def _opaque(frame: Tensor) -> Tensor:
    return frame[:3] * frame[3:] if frame.shape[0] == 4 else frame


def _tell_fit(name: str, picture: Tensor, height: int, width: int) -> None:
    if picture.shape[-2:] != (height, width):
        found = f"{picture.shape[-1]}x{picture.shape[-2]}"
        logger.warning("%s: is %s and is scaled and cropped to the clip's %dx%d", name, found, width, height)


def covering(picture: Tensor, height: int, width: int) -> Tensor:
    """Scale ``(3, h, w)`` so that it covers ``H x W``, and cut the middle out: ``(3, H, W)`` in [0, 1]."""
    old_height, old_width = picture.shape[-2:]
    factor = max(height / old_height, width / old_width)
    size = max(height, round(old_height * factor)), max(width, round(old_width * factor))
    if size != (old_height, old_width):
        picture = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return picture[:, top : top + height, left : left + width]


def lay_over(rgba: Tensor, below: Tensor, *, linear: bool = False) -> Tensor:
    """Lay a frame over an opaque picture.

    Args:
        rgba: ``(4, H, W)``, straight alpha, sRGB-encoded, in [0, 1].
        below: ``(3, H, W)``, sRGB-encoded, in [0, 1].
        linear: mix light, as film programs do, instead of the encoded values that browsers mix.

    Returns:
        ``(3, H, W)`` in [0, 1], sRGB-encoded.

    Raises:
        InputError: the sizes differ.
    """
    if rgba.shape[-2:] != below.shape[-2:]:
        raise InputError(f"what lies below must be {tuple(rgba.shape[-2:])}, found {tuple(below.shape[-2:])}")
    colour, alpha = rgba[:3], rgba[3:]
    if linear:
        colour, below = rgb_to_linear_rgb(colour.clamp(0, 1)), rgb_to_linear_rgb(below)
    mixed = torch.lerp(below, colour, alpha)
    return linear_rgb_to_rgb(mixed).clamp(0, 1) if linear else mixed
