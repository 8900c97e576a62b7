"""Frames, and the sound of another film, into a film file through FFmpeg's libraries (PyAV), with alpha kept.

Colour is converted to BT.709 and tagged so. Alpha is written to its own plane, rounded, as in `film_read`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import av
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from torch import Tensor

from pellucid.errors import ConfigError, FormatError
from pellucid.io.arrays import to_uint8, to_uint16
from pellucid.io.film_read import BT709, SCALER, plane
from pellucid.io.settings import tag_png, to_text, to_xmp
from pellucid.io.sound import Sound

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder:
    """How one kind of film file is written.

    Attributes:
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoder.
        opaque: pixel format without alpha.
        alpha: pixel format with alpha, None when it cannot hold any.
        options: encoder settings, as FFmpeg knows them.
        container_options: container settings.
        tunable: settings a caller may give, by our name -> FFmpeg's name.
    """

    container: str
    codec: str
    opaque: str
    alpha: str | None
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    container_options: Mapping[str, str] = field(default_factory=dict[str, str])
    tunable: tuple[str, ...] = ()


ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        # alpha_bits=16: with 8 the encoder would drop the two lowest of the ten bits it takes.
        ".mov": Encoder(
            "mov",
            "prores_ks",
            "yuv444p10le",
            "yuva444p10le",
            {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
            tunable=("bits_per_mb",),
        ),
        # auto-alt-ref=0: libvpx cannot make hidden reference frames for colour and alpha alike.
        ".webm": Encoder(
            "webm",
            "libvpx-vp9",
            "yuv420p",
            "yuva420p",
            {"crf": "10", "b": "0", "auto-alt-ref": "0", "row-mt": "1", "speed": "2"},
            tunable=("crf", "lossless", "speed"),
        ),
        ".mp4": Encoder(
            "mp4",
            "libx264",
            "yuv420p",
            None,
            {"crf": "16", "preset": "medium"},
            {"movflags": "+faststart"},
            tunable=("crf", "preset"),
        ),
        ".apng": Encoder("apng", "apng", "rgb24", "rgba", {"pred": "mixed"}, {"plays": "0"}),
    }
)
_DEEP_FORMATS = {"rgb24": "rgb48be", "rgba": "rgba64be"}


class FilmSink:
    """Frames into a film file.

    Args:
        path: the file, which is made or emptied.
        label: what messages call the file.
        encoder: one of `ENCODERS`.
        size: width and height in pixels.
        fps: frames per second.
        alpha: frames have a fourth channel.
        bit_depth: 16 for deep APNG; the others have the one depth they have.
        audio_from: a film whose sound is copied, as far as this container takes it.
        settings: how the film was made, kept as the comment of a film and as the XMP packet of an APNG.
        options: encoder settings among ``encoder.tunable``.

    Raises:
        ConfigError: an option that this encoder does not have.
        FormatError: the size or rate is more than the encoder takes.
    """

    def __init__(
        self,
        path: Path,
        label: Path,
        encoder: Encoder,
        size: tuple[int, int],
        fps: Fraction,
        *,
        alpha: bool,
        bit_depth: int,
        audio_from: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        unknown = sorted(set(options) - set(encoder.tunable))
        if unknown:
            able = f"{label.suffix} has {', '.join(encoder.tunable) or 'none'}"
            raise ConfigError(f"{label}: option {unknown[0]!r} is not known", able)
        self._label, self._encoder, self._size, self._fps, self._alpha = label, encoder, size, fps, alpha
        self._path, self._count, self._settings = path, 0, settings
        self._format = encoder.alpha if alpha and encoder.alpha else encoder.opaque
        if self._format in _DEEP_FORMATS and bit_depth > 8:
            self._format = _DEEP_FORMATS[self._format]
        if encoder.codec == "libx264" and (size[0] % 2 or size[1] % 2):
            # yuv420p stores one colour for two by two pixels; to cut or stretch the picture instead would be silent.
            self._format = "yuv444p"
            logger.warning(
                "%s: %dx%d is odd, so colour is kept at full size (yuv444p), which some players cannot show; "
                ".webm takes any size",
                label,
                *size,
            )
        self._options = {name: str(int(value) if isinstance(value, bool) else value) for name, value in options.items()}
        self._sound = Sound.open(audio_from, label) if audio_from else None
        self._start()

    def _start(self) -> None:
        try:
            self._open()
        except (FFmpegError, ValueError) as error:
            self.close()
            if self._sound:  # some containers take a track and refuse it only with the header
                logger.warning("%s: the sound is left out: %s cannot hold it", self._label, self._label.suffix)
                self._sound = None
                return self._start()
            tuned = {**self._encoder.options, **self._options}
            found = f"{self._size[0]}x{self._size[1]} at {self._fps} frames per second"
            reason = f"{self._encoder.codec} does not take {found} with {tuned or 'no options'}"
            raise FormatError(f"{self._label}: cannot be written: {reason}") from error

    def _open(self) -> None:
        encoder = self._encoder
        self._container = av.open(
            f"file:{self._path}", "w", format=encoder.container, container_options=dict(encoder.container_options)
        )
        if self._settings is not None and encoder.codec != "apng":
            self._container.metadata["comment"] = to_text(self._settings)
        tuned = {**encoder.options, **self._options}
        if tuned.get("lossless") == "1":
            tuned.pop("crf", None)  # libvpx refuses both together
        self._stream = cast(VideoStream, self._container.add_stream(encoder.codec, rate=self._fps, options=tuned))
        self._stream.width, self._stream.height, self._stream.pix_fmt = *self._size, self._format
        if not self._format.startswith("rgb"):
            context = self._stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = ColorRange.MPEG
        if self._sound:
            self._sound.attach(self._container)
        self._container.start_encoding()

    def write(self, picture: Tensor) -> None:
        """Append ``(3|4, H, W)`` in [0, 1]."""
        frame = self._to_frame(picture)
        frame.pts, frame.time_base = self._count, 1 / self._fps
        self._container.mux(self._stream.encode(frame))
        self._count += 1
        if self._sound:
            self._sound.copy_until(self._count / self._fps)

    def finish(self) -> None:
        """Write what the encoder still holds, and the index."""
        self._container.mux(self._stream.encode())
        if self._sound:
            self._sound.finish(self._count / self._fps)
        self.close()
        if self._settings is not None and self._encoder.codec == "apng":
            tag_png(self._path, to_xmp(self._settings))

    def close(self) -> None:
        """Close the files."""
        if self._sound:
            self._sound.close()
        if hasattr(self, "_container"):
            self._container.close()

    def _to_frame(self, picture: Tensor) -> VideoFrame:
        if self._format in ("rgb24", "rgba"):
            return VideoFrame.from_ndarray(to_uint8(picture), format=self._format)
        array = to_uint16(picture)
        if self._format in ("rgb48be", "rgba64be"):
            return VideoFrame.from_ndarray(array, format=self._format)
        frame = VideoFrame.from_ndarray(array, format="rgba64le" if self._alpha else "rgb48le").reformat(
            format=self._format,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_color_trc=BT709,
            dst_color_primaries=BT709,
            interpolation=SCALER,
        )
        if self._alpha:
            component = frame.format.components[-1]
            levels = 2**component.bits - 1
            plane(frame, component.plane, component.bits)[:] = (picture[3] * levels).round().clamp(0, levels).numpy()
        return frame
