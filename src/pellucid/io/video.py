"""Video with and without alpha: whole into a `LayerStack`, or frame by frame for films that do not fit in memory.

with VideoReader("in.mp4") as film, VideoWriter("out.webm", film.width, film.height, film.fps, False) as out:
    for frame in film:
        out.write(frame)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from av.error import FFmpegError
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.animation import FolderSink, FolderSource, WebPSink, WebPSource
from pellucid.io.files import atomic_path, write_error
from pellucid.io.film_read import FilmSource
from pellucid.io.film_write import ENCODERS, FilmSink
from pellucid.io.formats import suffixes_that
from pellucid.io.gif import GifSink
from pellucid.layers import Layer, LayerStack, Meta
from pellucid.layers.composite import composite
from pellucid.layers.padding import fill_invisible

logger = logging.getLogger(__name__)

_OWN_SINKS = {".webp": (), ".gif": ("threshold", "matte"), "": ()}  # what is not FFmpeg's -> its options


class _Source(Protocol):
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def fps(self) -> Fraction: ...
    @property
    def frames(self) -> int | None: ...
    @property
    def has_alpha(self) -> bool: ...
    @property
    def bit_depth(self) -> int: ...
    @property
    def has_sound(self) -> bool: ...
    def __iter__(self) -> Iterator[tuple[Fraction | None, Tensor]]: ...
    def close(self) -> None: ...


class _Sink(Protocol):
    def write(self, picture: Tensor) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class VideoReader:
    """Frames of a film, one at a time.

    Args:
        source: a film file (.mov .mp4 .webm .mkv .avi ...), an animated PNG, WebP or GIF, or a folder of PNG files.
        variable: what to do with a film whose frames do not follow each other evenly: ``"refuse"`` it, or ``"hold"``
            its mean rate by repeating and leaving out frames, which a log line counts.

    Attributes:
        width: in pixels, as shown (rotation applied).
        height: in pixels, as shown.
        fps: frames per second.
        frames: how many there are, None when the file does not say.
        has_alpha: frames have four channels, straight alpha.
        bit_depth: 8, or 16 for anything deeper.
        has_sound: `VideoWriter` can copy sound from here with ``audio_from``.

    Raises:
        InputError: no such file, no film, no frame, no frame rate, or cut off.
    """

    def __init__(self, source: str | Path, *, variable: str = "refuse") -> None:
        if variable not in ("refuse", "hold"):
            raise ConfigError(f"variable {variable!r} is not known", "use refuse or hold")
        self._path, self._hold = Path(source), variable == "hold"
        self._source = _open_source(self._path)
        self.width, self.height, self.fps = self._source.width, self._source.height, self._source.fps
        self.frames, self.has_alpha = self._source.frames, self._source.has_alpha
        self.bit_depth, self.has_sound = self._source.bit_depth, self._source.has_sound

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each frame, ``(3|4, H, W)`` float32 in [0, 1], sRGB-encoded; a reader can be gone through once.

        Raises:
            InputError: the film is damaged, cut off, or its frames do not follow each other evenly.
        """
        return self._held() if self._hold else self._even()

    def _even(self) -> Iterator[Tensor]:
        for index, (time, frame) in enumerate(self._source):
            # Phones are late by part of a frame now and then; a whole frame is another rhythm.
            if time is not None and abs(time * self.fps - index) > 1:
                found = f"frame {index} at {float(time):.3f} s instead of {float(index / self.fps):.3f} s"
                hint = f"make it even: ffmpeg -i IN -vf fps={self.fps} OUT"
                raise InputError(f"{self._path}: frame rate varies ({float(self.fps):.2f} on average): {found}", hint)
            yield frame

    def _held(self) -> Iterator[Tensor]:
        shown, repeated, dropped = 0, 0, 0
        last: Tensor | None = None
        for index, (time, frame) in enumerate(self._source):
            slot = index if time is None else round(time * self.fps)
            while last is not None and shown < slot:
                yield last
                shown, repeated = shown + 1, repeated + 1
            last = frame
            if slot < shown:
                dropped += 1
                continue
            yield frame
            shown += 1
        if repeated or dropped:
            logger.warning("%s: frame rate varies: %d repeated, %d left out", self._path, repeated, dropped)


def read_frames(source: str | Path) -> VideoReader:
    """Open a film for reading frame by frame; see `VideoReader`."""
    return VideoReader(source)


def _open_source(path: Path) -> _Source:
    if path.is_dir():
        return FolderSource(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path}: expected a film, found an empty file")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPSource(path)
    return FilmSource(path.resolve())


def load_video(source: str | Path, *, max_frames: int | None = None, variable: str = "refuse") -> LayerStack:
    """Read a whole film into memory, as one layer ``"video"``.

    Args:
        source: as for `VideoReader`.
        max_frames: read no more than so many frames.
        variable: as for `VideoReader`.

    Returns:
        A stack with pixels ``(T, 3, H, W)``, alpha ``(T, 1, H, W)`` or None, and the frame rate.

    Raises:
        InputError: the file is no film, or is damaged.
    """
    with VideoReader(source, variable=variable) as reader:
        frames = list(islice(reader, max_frames))
        if not frames:
            raise ConfigError(f"max_frames must be at least 1, found {max_frames}")
        whole = torch.stack(frames)  # (T, 3|4, H, W)
        alpha = whole[:, 3:] if reader.has_alpha else None
        meta = Meta(bit_depth=reader.bit_depth, source=Path(source).name)
        return LayerStack((Layer("video", whole[:, :3], alpha),), fps=reader.fps, meta=meta)


class VideoWriter:
    """Write a film frame by frame; the file appears when the block ends, and not at all when the block raises.

    Args:
        path: ``.mov`` (ProRes 4444), ``.webm`` (VP9), ``.mp4`` (H.264, opaque), ``.apng`` or ``.png`` (animated PNG),
            ``.webp`` (lossless), ``.gif`` (256 colours, alpha of one bit), or a name without suffix: a folder of PNG
            files.
        width: in pixels.
        height: in pixels.
        fps: frames per second.
        alpha: frames have four channels, straight alpha.
        overwrite: replace what is at ``path``.
        background: opaque colour ``(3,)`` or ``(3, H, W)`` that frames with alpha are laid over.
        bit_depth: 16 for deep animated PNG and folders; the other formats have the depth they have.
        audio_from: a film whose sound is copied, as far as the container holds it; what is left out is logged.
        padded: colour below alpha 0 becomes a smooth continuation of what is beside it, so that codecs with subsampled
            colour and players that scale bring no fringe into the edge.
        premultiplied: write colour times alpha; the file cannot tell, so its name should.
        settings: how the film was made, kept inside the file; see `pellucid.io.settings`.
        options: encoder settings: ``bits_per_mb`` for .mov (up to 8192, more is finer); ``crf``, ``lossless``,
            ``speed`` for .webm; ``crf``, ``preset`` for .mp4; ``threshold``, ``matte`` for .gif.

    Raises:
        FormatError: the format cannot hold alpha, this size or this rate; the message lists those that can.
        ConfigError: an option that the encoder does not have.
        InputError: the path exists or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction | float,
        alpha: bool,
        *,
        overwrite: bool = False,
        background: Tensor | None = None,
        bit_depth: int = 8,
        audio_from: str | Path | None = None,
        padded: bool = False,
        premultiplied: bool = False,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.path, self.width, self.height = Path(path), width, height
        self.fps = Fraction(fps).limit_denominator(10_000)
        self._alpha, self._background = alpha, background.float().cpu() if background is not None else None
        if self._background is not None and self._background.ndim == 1:
            self._background = self._background.reshape(3, 1, 1)
        if self.fps <= 0:
            raise ConfigError(f"fps must be above 0, found {fps}")
        keeps_alpha = alpha and background is None
        self._padded, self._premultiplied = padded and keeps_alpha, premultiplied and keeps_alpha
        self._levels = 65535 if bit_depth > 8 else 1023 if self.path.suffix.lower() == ".mov" else 255
        if self.path.suffix.lower() == ".mp4" and keeps_alpha:
            able = suffixes_that("time", "alpha")
            raise FormatError(f"{path}: MP4 cannot hold alpha", f"give a background, or use one of {able}")
        self._count, self._clipped = 0, 0
        self._exit = ExitStack()
        try:
            self._sink = self._open_sink(keeps_alpha, overwrite, bit_depth, audio_from, settings, options)
        except BaseException as error:
            self._exit.__exit__(type(error), error, error.__traceback__)
            raise

    def _open_sink(
        self,
        alpha: bool,
        overwrite: bool,
        bit_depth: int,
        audio_from: str | Path | None,
        settings: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> _Sink:
        suffix = self.path.suffix.lower()
        size = self.width, self.height
        encoder = ENCODERS.get(".apng" if suffix == ".png" else suffix)
        if encoder is None and suffix not in _OWN_SINKS:
            able = suffixes_that("time")
            raise FormatError(f"{self.path}: format {suffix!r} cannot hold frames over time", f"use one of {able}")
        sound = Path(audio_from) if audio_from is not None else None
        if sound and (encoder is None or encoder.codec == "apng"):
            logger.warning("%s: the sound of %s is left out: use .mov, .mp4 or .webm to keep it", self.path, sound)
            sound = None
        unknown = sorted(set(options) - set(_OWN_SINKS[suffix])) if encoder is None else []
        if unknown:
            able = ", ".join(_OWN_SINKS[suffix]) or "none"
            raise ConfigError(f"{self.path}: option {unknown[0]!r} is not known", f"{suffix or 'a folder'} has {able}")
        if suffix == "":
            sink: _Sink = FolderSink(self.path, self.fps, bit_depth=bit_depth, overwrite=overwrite, settings=settings)
        else:
            temporary = self._exit.enter_context(atomic_path(self.path, overwrite))
            if suffix == ".gif":
                sink = GifSink(temporary, self.path, size, self.fps, alpha=alpha, **options)
            elif encoder is None:
                sink = WebPSink(temporary, self.path, size, self.fps, alpha=alpha, settings=settings)
            else:
                sink = FilmSink(
                    temporary,
                    self.path,
                    encoder,
                    size,
                    self.fps,
                    alpha=alpha,
                    bit_depth=bit_depth,
                    audio_from=sound,
                    settings=settings,
                    options=options,
                )
        if bit_depth > 8 and suffix in (".webp", ".webm", ".mp4", ".gif"):
            logger.info("%s: %s holds 8 bits per channel, %d are rounded to that", self.path, suffix, bit_depth)
        self._exit.callback(sink.close)
        return sink

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._exit.__exit__(kind, error, trace)
        else:
            self.close()

    def write(self, frame: Tensor) -> None:
        """Append a frame.

        Args:
            frame: ``(3, H, W)``, or ``(4, H, W)`` when the writer has alpha; in [0, 1], sRGB-encoded.

        Raises:
            InputError: the frame has another shape, or the disk is full.
        """
        wanted = (4 if self._alpha else 3, self.height, self.width)
        if tuple(frame.shape) != wanted:
            raise InputError(f"{self.path}: frame {self._count} must be {wanted}, found {tuple(frame.shape)}")
        frame = frame.detach().float().cpu()
        if self._alpha and self._background is not None:
            below = self._background.expand(3, self.height, self.width)
            frame, _ = composite([(below, None, "over", 1.0), (frame[:3], frame[3:], "over", 1.0)])
        if float(frame.min()) < 0 or float(frame.max()) > 1:
            self._clipped += 1
            frame = frame.clamp(0, 1)
        if self._padded:
            frame = pad_hidden(frame, self._levels)
        if self._premultiplied:
            frame = torch.cat([frame[:3] * frame[3:], frame[3:]])
        try:
            self._sink.write(frame)
        except (FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self._count += 1

    def close(self) -> None:
        """Finish the file and put it in its place.

        Raises:
            InputError: no frame was written, or the disk is full.
        """
        with self._exit:
            if not self._count:
                raise InputError(f"{self.path}: a film needs at least one frame, found none")
            try:
                self._sink.finish()
            except (FFmpegError, OSError) as error:
                raise self._failure(error) from error
        if self._clipped:
            logger.warning("%s: %d frames had values outside [0, 1], which were clipped", self.path, self._clipped)
        if self._count == 1 and (suffix := self.path.suffix.lower()) in (".png", ".apng", ".webp", ".gif"):
            logger.warning("%s: a single frame is a still picture in %s, without a frame rate", self.path, suffix)

    def _failure(self, error: FFmpegError | OSError) -> InputError:
        return write_error(self.path, error if isinstance(error, OSError) else OSError(error.errno, error.strerror))


def pad_hidden(rgba: Tensor, levels: int = 255) -> Tensor:
    """Continue the visible colour where a file will hold alpha 0.

    Args:
        rgba: ``(..., 4, H, W)``, straight alpha, in [0, 1].
        levels: the largest number that the file has for alpha; below half a step of it alpha is written as 0.

    Returns:
        The same shape; alpha that is written as 0 is 0.
    """
    alpha = F.threshold(rgba[..., 3:, :, :], 0.5 / levels, 0.0)
    return fill_invisible(torch.cat([rgba[..., :3, :, :], alpha], dim=-3))


def save_video(
    stack: LayerStack,
    path: str | Path,
    *,
    overwrite: bool = False,
    background: Tensor | None = None,
    audio_from: str | Path | None = None,
    padded: bool | None = None,
    **options: Any,
) -> Path:
    """Write the composite of a stack over time, frame by frame; arguments as for `VideoWriter`.

    With ``padded`` None the stack tells, by the entry ``padded`` of ``meta.parameters``: a clip that was made with
    alpha has no colour of its own where it is transparent, a film that was read has.

    Raises:
        FormatError: the stack has no time axis, or the format cannot hold it.
        InputError: the path exists or cannot be written.
    """
    if stack.fps is None or stack.frames is None:
        raise FormatError(f"{path}: a film needs frames over time, found a still picture", "use save_image")
    alpha = _shown(stack, 0, background).shape[0] == 4
    writer = VideoWriter(
        path,
        stack.width,
        stack.height,
        stack.fps,
        alpha,
        overwrite=overwrite,
        bit_depth=stack.meta.bit_depth,
        audio_from=audio_from,
        padded=bool(stack.meta.parameters.get("padded")) if padded is None else padded,
        **options,
    )
    with writer:
        for index in range(stack.frames):
            writer.write(_shown(stack, index, background))
    return Path(path)


def _shown(stack: LayerStack, index: int, background: Tensor | None) -> Tensor:
    visible = [layer for layer in stack.layers if layer.visible]
    if background is None and len(visible) == 1 and visible[0].opacity == 1.0:
        return visible[0].rgba[index]  # as it is: a composite has no colour where alpha is 0
    layers = [
        replace(layer, pixels=layer.pixels[index], alpha=None if layer.alpha is None else layer.alpha[index])
        for layer in stack.layers
    ]
    return LayerStack(tuple(layers), meta=stack.meta).composite(background)
