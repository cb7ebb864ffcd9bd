"""Reads one video by FFmpeg's libraries (PyAV): which frames it has, when, and their pictures.

It runs in a process of its own (`decoder.py`): FFmpeg reads whatever a stranger has sent.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from deepfake_tools.videos.sampling import clock

RGB = npt.NDArray[np.uint8]
"""uint8 (height, width, 3)."""

FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf"
"""Containers that are read; playlists and the like, which lead to other files, are not."""

MAX_PIXELS = 50_000_000
"""Width times height of a frame that is decoded, as of an image that a worker takes."""

MISSING_SECONDS = 1.0
"""Between the last frame and the end that the file tells, from which it is taken to be cut off."""

FAR = 3
"""Frames to a key frame from which seeking there is cheaper than to decode them."""

CODEC_TAG = re.compile(r"Video: none \((.{4}) / 0x")
MATROSKA_CODEC = re.compile(rb"V_[A-Z0-9_/]{2,32}")
HEAD_BYTES = 1 << 16
ENCRYPTED = frozenset({"encv", "drmi"})
"""Of ISO/IEC 14496-12 and of Apple: what stands for the codec where the frames are encrypted."""

UNTIMED = frozenset({"avi"})
"""Containers that do not say when a frame is shown. FFmpeg guesses, for H.264 in a wrong order."""

LOCKED = "it is encrypted: its frames cannot be decoded without the key"

HIDDEN_VP8 = 0x10
"""The bit of a VP8 packet's first byte that says that it is shown (RFC 6386, section 9.1)."""


class VideoError(Exception):
    """A video, or one of its frames, cannot be read; the message says why."""


@dataclass(frozen=True)
class Index:
    """The frames of a video, in the order in which they are shown.

    Attributes:
        stamps: Of each, in the stream's unit of time; None where the file has none, or twice.
        times: Of each, in seconds from the beginning.
        keys: The positions of those that are decoded without any other, rising.
        note: What a person should know of the file.
    """

    stamps: Sequence[int] | None
    times: Sequence[float]
    keys: Sequence[int]
    note: str | None


class Video:
    """An open video file.

    Args:
        path: Of the file.
        threads: To decode with.
        alive: Is called now and then while something takes long.

    Raises:
        VideoError: It is none, or there is nothing in it that can be decoded.
    """

    def __init__(self, path: str, threads: int = 1, alive: Callable[[], None] = lambda: None):
        self._path = path
        self._threads = threads
        self._alive = alive
        self._container, self._stream = self._open()

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    @cached_property
    def index(self) -> Index:
        """Finds the frames, without decoding any: a packet is a frame.

        Raises:
            VideoError: There is none.
        """
        packets, ends_early = self._packets()
        if not packets:
            raise VideoError("it has no frame in it")
        known = sorted((p.shown, p.is_key) for p in packets if p.shown is not None)
        if len({stamp for stamp, _ in known}) < len(packets):
            return self._counted(packets, ends_early)
        origin, unit = self._origin(known[0][0]), self._unit
        times = [float(stamp * unit - origin) for stamp, _ in known]
        keys = [place for place, (_, is_key) in enumerate(known) if is_key]
        note = self._note(times, ends_early=ends_early)
        return Index([stamp for stamp, _ in known], times, keys, note)

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, RGB | VideoError]]:
        """Decodes frames.

        A key frame on the way is gone to where that spares decoding, and every frame is known by
        its time stamp: one that a seek misses is decoded from the beginning.

        Args:
            numbers: Positions in the order of showing, rising.

        Yields:
            Each with its picture, turned as the file says, or why there is none.

        Raises:
            MemoryError: It takes more than this process may have.
        """
        index = self.index
        self._reopen()
        rest = numbers
        if index.stamps is not None:
            for place, (number, picture) in enumerate(self._sought(index, numbers)):
                if picture is None:
                    rest = numbers[place:]
                    break
                yield number, picture
            else:
                return
            self._reopen()
        yield from _faulted(self._in_order(index, rest), rest, index)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        with _heard() as logs:
            try:
                # As a file that is open already: no protocol of FFmpeg's has a part in it.
                self._file = Path(self._path).open("rb")  # noqa: SIM115 - closed with the container
                options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
                container = av.open(self._file, options=options)
            except (av.FFmpegError, OSError, ValueError) as error:
                raise VideoError(_reason(self._path, error, logs)) from error
        assert isinstance(container, InputContainer)  # it was opened to be read
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise VideoError("it has no video stream")
        if stream.codec_context is None:
            raise VideoError(self._codec(logs))
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise VideoError(
                f"its frames are {stream.codec_context.width} x {stream.codec_context.height}, "
                f"over {MAX_PIXELS / 1e6:g} million pixels"
            )
        stream.codec_context.thread_count = self._threads
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return container, stream

    def _close(self) -> None:
        self._container.close()
        self._file.close()

    def _reopen(self) -> None:
        self._close()
        self._container, self._stream = self._open()

    def _codec(self, logs: Sequence[tuple[int, str, str]]) -> str:
        found = next((m[1] for *_, text in logs if (m := CODEC_TAG.search(text))), None)
        if found in ENCRYPTED:
            return LOCKED
        if found is None:
            with Path(self._path).open("rb") as file:
                named = MATROSKA_CODEC.search(file.read(HEAD_BYTES))
            found = named[0].decode() if named else "unknown"
        return f"there is no decoder for its codec, {found}"

    @property
    def _unit(self) -> Fraction:
        assert self._stream.time_base is not None  # of every stream that was opened
        return self._stream.time_base

    def _origin(self, first: int) -> Fraction:
        """When the video begins, in seconds of its own time."""
        start = self._container.start_time
        return first * self._unit if start is None else Fraction(start, av.time_base)

    def _packets(self) -> tuple[list["_Packet"], bool]:
        """Returns the packets of frames that are shown, and whether the file ended within one."""
        found: list[_Packet] = []
        ends_early = is_shown = False
        is_timed = self._container.format.name not in UNTIMED
        with _heard() as logs:
            for packet in self._demuxed():
                if packet.has_sidedata("encryption_info"):
                    raise VideoError(LOCKED)
                # Where a broadcast changes there are damaged ones in the middle, too.
                ends_early = packet.is_corrupt
                is_shown = _is_shown(packet, self._stream.codec_context.name)
                if is_shown:
                    shown = packet.pts if is_timed else None
                    found.append(_Packet(shown, packet.dts, packet.is_keyframe))
            said = " ".join(text for *_, text in logs)
        if ends_early and is_shown:
            found.pop()
        return found, ends_early or "partial file" in said or "ended prematurely" in said

    def _demuxed(self) -> Iterator["Packet[VideoStream]"]:
        try:
            for packet in self._container.demux(self._stream):
                self._alive()
                if packet.size:
                    yield packet
        except av.FFmpegError:
            return  # what came before is there

    def _counted(self, packets: Sequence["_Packet"], ends_early: bool) -> Index:
        """The index of a file without time stamps, whose frames are known by their numbers.

        They are shown as they are decoded, one after another, and as regularly.
        """
        decoded = sorted({p.decoded for p in packets if p.decoded is not None})
        if len(decoded) == len(packets):
            times = [float((stamp - decoded[0]) * self._unit) for stamp in decoded]
        else:
            rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
            times = [float(place / rate) for place in range(len(packets))]
        return Index(None, times, [0], self._note(times, ends_early=ends_early))

    def _note(self, times: Sequence[float], *, ends_early: bool) -> str | None:
        said = self._stream.frames
        until = f"it ends at {clock(times[-1])}"
        if said and said != len(times):
            return f"its header says {said} frames, and there are {len(times)}: {until}"
        whole = self._told_seconds()
        longest = max((b - a for a, b in pairwise(times)), default=0.0)
        if ends_early or whole - times[-1] > max(MISSING_SECONDS, 2 * longest):
            of = f" of {clock(whole)}" if whole else ""
            return f"the file is cut off: {until}{of}"
        return None

    def _told_seconds(self) -> float:
        """How long the video is by the file's own account; 0 where it does not say.

        A file's duration is that of its longest stream, and sound often goes on for longer.
        """
        if self._stream.duration:
            return float(self._stream.duration * self._unit)
        alone = len(self._container.streams) == 1
        return (self._container.duration or 0) / av.time_base if alone else 0.0

    def _sought(
        self, index: Index, numbers: Sequence[int]
    ) -> Iterator[tuple[int, RGB | VideoError | None]]:
        """Yields frames, or None for one that is not where a key frame should lead to."""
        assert index.stamps is not None  # the caller looked
        frames, position = self._frames(), 0
        for number in numbers:
            key = index.keys[bisect_right(index.keys, number) - 1] if index.keys else 0
            if key > position + FAR:
                self._container.seek(index.stamps[key], stream=self._stream)
                frames, position = self._frames(), key
            wanted = index.stamps[number]
            picture = None
            for frame in frames:
                position += 1
                if frame.pts is not None and frame.pts >= wanted:
                    picture = _picture(frame) if frame.pts == wanted else None
                    break
            yield number, picture
            if picture is None:
                return

    def _in_order(
        self, index: Index, numbers: Sequence[int]
    ) -> Iterator[tuple[int, RGB | VideoError]]:
        """Yields those of the frames that are there, decoded from the first one on."""
        stamps = index.stamps
        wanted = {n if stamps is None else stamps[n]: n for n in numbers}
        for count, frame in enumerate(self._frames()):
            stamp = count if stamps is None else frame.pts
            if stamp is not None and (number := wanted.pop(stamp, None)) is not None:
                yield number, _picture(frame)
            if not wanted:
                return

    def _frames(self) -> Iterator[VideoFrame]:
        """Decodes on from where the file is read; what cannot be decoded is left out."""
        for packet in chain(self._demuxed(), [None]):  # the last one fetches what is still inside
            try:
                yield from self._stream.codec_context.decode(packet)
            except MemoryError:  # one of FFmpeg's errors too
                raise
            except av.FFmpegError:
                continue


@dataclass(frozen=True)
class _Packet:
    """What a packet tells of its frame, in the stream's unit of time.

    Attributes:
        shown: When it is shown; None where the file does not say.
        decoded: When it is decoded.
        is_key: Whether it needs no other.
    """

    shown: int | None
    decoded: int | None
    is_key: bool


@contextmanager
def _heard() -> Iterator[list[tuple[int, str, str]]]:
    """Takes down FFmpeg's warnings while nothing is decoded; afterwards it says nothing.

    A thread that decodes would wait for Python's lock to say something, and who holds that may be
    waiting for the thread: closing or seeking would hang.
    """
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_level(None)


def _is_shown(packet: "Packet[VideoStream]", codec: str) -> bool:
    if packet.is_discard:
        return False
    # Of the codecs that hide frames, only VP8 has them in packets of their own.
    return codec != "vp8" or bool(bytes(packet)[0] & HIDDEN_VP8)


def _faulted(
    found: Iterator[tuple[int, RGB | VideoError]], numbers: Sequence[int], index: Index
) -> Iterator[tuple[int, RGB | VideoError]]:
    """Yields what was found, and then what was not."""
    left = dict.fromkeys(numbers)
    for number, picture in found:
        left.pop(number)
        yield number, picture
    for number in left:
        yield number, VideoError(f"no picture can be decoded at {clock(index.times[number])}")


def _picture(frame: VideoFrame) -> RGB | VideoError:
    """Returns the picture as OpenCV has it, to the bit, turned as the file says."""
    if frame.width * frame.height > MAX_PIXELS:
        return VideoError(f"the frame is {frame.width} x {frame.height} pixels, which is too many")
    try:
        pixels = frame.to_ndarray(format="bgr24", interpolation="BICUBIC")[..., ::-1]
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        return VideoError(f"its pixels cannot be converted: {error}")
    # The angle is counted against the clock, as numpy turns.
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90), dtype=np.uint8)


def _reason(path: str, error: Exception, logs: Sequence[tuple[int, str, str]]) -> str:
    """Returns why a file cannot be opened, in words for who does not know FFmpeg's."""
    if not isinstance(error, av.FFmpegError):
        with suppress(OSError):
            if Path(path).stat().st_size == 0:
                return "the file is empty"
        return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
    with Path(path).open("rb") as file:
        is_mp4 = file.read(12)[4:8] == b"ftyp"
    said = " ".join(text.strip() for *_, text in logs)
    if is_mp4 and "moov atom not found" in said:
        return "its index (moov) is missing, as of a file that is cut off: none of it can be read"
    return f"it is no video that can be read: {error.strerror}"
