"""Frames out of a film file through FFmpeg's libraries (PyAV), with alpha kept.

Colour is converted with the matrix the film is tagged with. Alpha does not pass through the colour converter, which
cuts bits off instead of rounding: it is read from its own plane.
"""

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from torch import Tensor

from pellucid.errors import InputError
from pellucid.io.arrays import from_array
from pellucid.io.containers import apng_delays, even_rate, gif_delays, matroska_end

logger = logging.getLogger(__name__)

# A playlist would make FFmpeg open other files and addresses, so only formats that hold the pictures themselves.
_DEMUXERS = "apng,asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,wav,mp3,flac"
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own VP8 and VP9 decoders drop alpha
SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
SCALER |= Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# The numbers of ITU-T H.273 that FFmpeg gives frames -> the matrices its converter knows.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
BT709, _HDR_CURVES = 1, {16: "PQ", 18: "HLG"}
_PACKED_8 = {"bgra": "rgba", "argb": "rgba", "abgr": "rgba", "bgr24": "rgb24", "pal8": "rgba", "ya8": "rgba"}
_EXACT = {"rgb24", "rgba", "rgb48le", "rgb48be", "rgba64le", "rgba64be"}


def open_film(path: Path, demuxer: str | None = None) -> InputContainer:
    """Open a film file for reading: only this file, and no address.

    Raises:
        InputError: the file cannot be opened, or is no film.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
    try:
        return av.open(f"file:{path}", format=demuxer, options=options)
    except FFmpegError as error:
        reason = error.strerror or "unknown format"
        if not isinstance(error, OSError):
            reason = "no film in a format that is known, or cut off before its index"
        raise InputError(f"{path}: cannot be read as a film: {reason}") from error


class FilmSource:
    """Frames of a film file, in order, as tensors.

    Attributes:
        width: of the frames as shown, in pixels.
        height: of the frames as shown, in pixels.
        fps: frames per second.
        frames: how many there are, None when the file does not say.
        has_alpha: the frames have a fourth channel.
        bit_depth: 8, or 16 for anything deeper than 8.
        has_sound: there is at least one audio track.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        apng, gif = apng_delays(path), gif_delays(path)
        if apng == [] or (gif is not None and len(gif) < 2):
            raise InputError(f"{path}: expected a film, found a still picture")
        self._container = open_film(path, None if apng is None else "apng")
        try:
            self._open(apng, gif)
        except BaseException:
            self._container.close()
            raise

    def _open(self, delays: list[Fraction] | None, gif: list[int] | None) -> None:
        streams = self._container.streams
        # The cover picture of a song is a video stream too.
        shown = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
        if not shown:
            held = "only sound" if streams.audio else "no pictures"
            raise InputError(f"{self._path}: expected a film, found {held}")
        self._stream = shown[0]
        self.has_sound = bool(streams.audio)
        self.fps = (even_rate(gif, 100) if gif else None) or _rate(self._path, self._stream, delays)
        self.frames = len(delays or gif or []) or self._stream.frames or _tagged_frames(self._stream, self.fps)
        self._refuse_cut_off()
        self._decoder = self._make_decoder()
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise InputError(f"{self._path}: holds no frame that can be decoded")
        self._first: VideoFrame = first
        self._tell_about(first)
        # Once for the film: a frame whose side data was asked for refers to itself, and its buffers stay until Python
        # looks for cycles.
        self._matrix = _display_matrix(first)
        picture = _to_tensor(first, self._matrix)
        self.has_alpha = picture.shape[0] == 4
        self.height, self.width = picture.shape[-2:]
        self.bit_depth = 16 if _deep(first) else 8

    def __iter__(self) -> Iterator[tuple[Fraction | None, Tensor]]:
        """Yield the time since the first frame in seconds (None when unknown) and ``(3|4, H, W)`` in [0, 1]."""
        start: int | None = self._first.pts
        count = 0
        frame: VideoFrame | None = self._first
        while frame is not None:
            picture = _to_tensor(frame, self._matrix)
            if picture.shape[-2:] != (self.height, self.width):
                found = f"{picture.shape[2]}x{picture.shape[1]} at frame {count}"
                raise InputError(f"{self._path}: frames must be {self.width}x{self.height} throughout, found {found}")
            known = frame.pts is not None and start is not None and self._stream.time_base is not None
            yield (frame.pts - start) * self._stream.time_base if known else None, picture  # type: ignore[operator]
            count += 1
            frame = next(self._frames, None)
        # Edit lists leave frames out on purpose, and then fewer come than the index of a .mov has; those of other
        # formats can be counted, with one frame of doubt where the number follows from a length in milliseconds.
        if self.frames and count < self.frames - 1 and not self._stream.frames:
            raise InputError(f"{self._path}: cut off: it should have {self.frames} frames, found {count}")

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _make_decoder(self) -> Any:
        name = _ALPHA_DECODERS.get(self._stream.codec_context.name)
        if name and self._stream.metadata.get("alpha_mode") == "1":
            decoder = av.CodecContext.create(name, "r")
            decoder.extradata = self._stream.codec_context.extradata
            return decoder
        self._stream.thread_type = "AUTO"  # type: ignore[attr-defined]
        return self._stream.codec_context

    def _decode(self) -> Iterator[VideoFrame]:
        count = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise InputError(f"{self._path}: cut off or damaged after frame {count}")
                for frame in self._decoder.decode(packet):
                    yield frame
                    count += 1
        except FFmpegError as error:
            raise InputError(f"{self._path}: damaged after frame {count}: {error.strerror}") from error

    def _refuse_cut_off(self) -> None:
        size, end = self._path.stat().st_size, 0
        if self._stream.frames and len(self._stream.index_entries):
            # Only a .mov or .mp4 has its whole index at the start; elsewhere it grows while the file is read.
            entries = self._stream.index_entries
            end = max(entry.pos + entry.size for entry in (entries[0], entries[-1]))
        elif "matroska" in self._container.format.name:
            end = matroska_end(self._path)
        if end > size:
            raise InputError(f"{self._path}: cut off: it should reach to byte {end}, found {size} bytes")

    def _tell_about(self, frame: VideoFrame) -> None:
        if frame.color_trc in _HDR_CURVES:
            curve = _HDR_CURVES[frame.color_trc]
            logger.warning("%s: is HDR (%s); its values are read as if they were sRGB", self._path, curve)
        aspect = self._stream.sample_aspect_ratio
        if aspect and aspect != 1:
            logger.warning("%s: its pixels are not square (%s); they are kept as they are", self._path, aspect)
        if frame.interlaced_frame:
            logger.warning("%s: is interlaced; its lines are kept as they are", self._path)


def _rate(path: Path, stream: VideoStream, delays: list[Fraction] | None) -> Fraction:
    if delays:
        whole = sum(delays)
        rate = len(delays) / whole if whole else None
    else:
        rate = stream.guessed_rate or stream.average_rate
    if not rate or rate <= 0 or rate > 1000:
        raise InputError(f"{path}: expected a frame rate, found {rate or 'none'}", "give it one: ffmpeg -r 25 -i FILE")
    return nearest_rate(Fraction(rate))


def nearest_rate(rate: Fraction) -> Fraction:
    """Undo the rounding of containers: the usual rate within a hundred-thousandth of ``rate``, else ``rate``."""
    usual = [Fraction(round(rate) * 1000, 1001), Fraction(round(rate))]
    return next((each for each in usual if each and abs(rate / each - 1) < Fraction(1, 100_000)), rate)


def _tagged_frames(stream: VideoStream, fps: Fraction) -> int | None:
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")  # Matroska and WebM
        return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * fps) or None
    except (KeyError, ValueError):
        return None


def _deep(frame: VideoFrame) -> bool:
    return max(component.bits for component in frame.format.components) > 8


def _to_tensor(frame: VideoFrame, matrix: np.ndarray | None) -> Tensor:
    name = _PACKED_8.get(frame.format.name, frame.format.name)
    alpha: Tensor | None = None
    if name in _EXACT:
        converted = frame if name == frame.format.name else frame.reformat(format=name)
    elif name.startswith("gray16"):
        converted = frame
    elif name.startswith("ya16"):
        whole = ColorRange.JPEG
        converted = frame.reformat(format="rgba64le", src_color_range=whole, dst_color_range=whole)
    else:
        component = frame.format.components[-1]
        if component.is_alpha:
            levels = 2**component.bits - 1
            alpha_plane = plane(frame, component.plane, component.bits)
            alpha = torch.from_numpy(alpha_plane.astype(np.float32) / levels)[None]  # (1, H, W)
        converted = frame.reformat(
            format="rgb48le" if _deep(frame) else "rgb24",
            src_colorspace=_matrix(frame),
            dst_colorspace=Colorspace.ITU709,
            src_color_range=_range(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALER,
        )
    picture = from_array(converted.to_ndarray())
    if picture.shape[0] == 1:
        picture = picture.expand(3, -1, -1).contiguous()
    if alpha is not None:
        picture = torch.cat([picture, alpha])  # (4, H, W)
    return picture if matrix is None else _upright(picture, matrix)


def plane(frame: VideoFrame, index: int, bits: int) -> np.ndarray:
    """View one plane of a frame, without its padding: ``(H, W)`` uint8 or uint16."""
    held: Any = frame.planes[index]
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    if frame.format.is_big_endian:
        dtype = dtype.newbyteorder(">")
    return np.frombuffer(held, dtype).reshape(-1, held.line_size // dtype.itemsize)[: held.height, : held.width]


def _matrix(frame: VideoFrame) -> Colorspace:
    # An untagged film: players take BT.709 from 720 lines on and BT.601 below, and so must we.
    return _MATRICES.get(frame.colorspace, Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601)


def _range(frame: VideoFrame) -> ColorRange:
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        return ColorRange.JPEG
    return ColorRange.JPEG if frame.color_range == ColorRange.JPEG else ColorRange.MPEG


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """How the frame is to be turned and mirrored: nine int32, or None."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(matrix, np.int32).copy()


def _upright(picture: Tensor, matrix: np.ndarray) -> Tensor:
    a, b, _, c, d = matrix[:5] / 65536  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        picture = picture.transpose(-2, -1)
        flips = [dim for dim, sign in ((-1, c), (-2, b)) if sign < 0]
    else:
        flips = [dim for dim, sign in ((-1, a), (-2, d)) if sign < 0]
    return picture.flip(flips).contiguous()
