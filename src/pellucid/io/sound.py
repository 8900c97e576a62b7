"""Sound of one film copied into another, packet by packet, without decoding it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from pellucid.errors import InputError

logger = logging.getLogger(__name__)

_PRIMING = Fraction(1, 5)  # seconds: decoders of AAC and Opus need a few packets from before the first sound


class Sound:
    """The audio tracks of ``source``, on their way into the film ``label``."""

    def __init__(self, source: Path, label: Path, container: InputContainer) -> None:
        self._source, self._label, self._container = source, label, container
        self._tracks: dict[int, Any] = {}
        video = container.streams.video
        begin = video[0].start_time if video else None
        self._begin = (begin or 0) * (video[0].time_base or 0) if video else Fraction(0)
        self._packets: Iterator[Packet] = iter(())
        self._held: Packet | None = None
        self._output: OutputContainer | None = None

    @classmethod
    def open(cls, source: Path, label: Path) -> Sound | None:
        """Open the sound of a film; None, with a log line, when it has none.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            container = av.open(f"file:{source}", options={"protocol_whitelist": "file"})
        except FFmpegError as error:
            raise InputError(f"{source}: its sound cannot be read: {error.strerror}") from error
        if not container.streams.audio:
            logger.info("%s: has no sound to copy into %s", source, label)
            container.close()
            return None
        return cls(source, label, container)

    def attach(self, output: OutputContainer) -> None:
        """Add a track to ``output`` for each that its container takes, and say which it does not take."""
        for stream in self._container.streams.audio:
            try:
                self._tracks[stream.index] = output.add_stream_from_template(stream)
            except (FFmpegError, ValueError):
                logger.warning(
                    "%s: its sound (%s) is left out: %s cannot hold it; .mov and .mp4 hold AAC, .webm holds Opus",
                    self._source,
                    stream.codec_context.name,
                    self._label.suffix,
                )
        self._output = output
        if self._tracks:
            self._packets = self._demux()
            self._held = next(self._packets, None)

    def copy_until(self, time: Fraction) -> None:
        """Copy what begins before ``time``, in seconds since the first frame."""
        while self._held is not None and self._time(self._held) < time:
            packet, track = self._held, self._tracks[self._held.stream.index]
            self._held = next(self._packets, None)
            if self._time(packet) < -_PRIMING:
                continue  # sounds before the first frame
            shift = round(self._begin / packet.time_base)
            packet.stream = track
            packet.pts = packet.pts - shift if packet.pts is not None else None
            packet.dts = packet.dts - shift if packet.dts is not None else None
            assert self._output is not None
            self._output.mux(packet)

    def finish(self, end: Fraction) -> None:
        """Copy up to the end of the last frame, and say when there was more."""
        self.copy_until(end)
        if self._held is not None:
            last = max((stream.duration or 0) * (stream.time_base or 0) for stream in self._container.streams.audio)
            if last - end > Fraction(1, 2):
                logger.warning("%s: its sound is longer than the film and ends at %.2f s", self._source, float(end))

    def close(self) -> None:
        """Close the source."""
        self._container.close()

    def _time(self, packet: Packet) -> Fraction:
        stamp = packet.pts if packet.pts is not None else packet.dts
        return Fraction(stamp or 0) * packet.time_base - self._begin

    def _demux(self) -> Iterator[Packet]:
        wanted = [stream for stream in self._container.streams.audio if stream.index in self._tracks]
        try:
            yield from (packet for packet in self._container.demux(wanted) if packet.size)
        except FFmpegError as error:
            logger.warning("%s: its sound is damaged and ends early: %s", self._source, error.strerror)
