"""Clips that something is wrong with, each made on the spot: cut off, lying, foreign, locked."""

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.videos import (
    FORMS,
    RGB,
    SHARP,
    VPX,
    Form,
    constant,
    photographs,
    scene,
    write_clip,
)

SHORT = Form(".mp4", options=SHARP, clock=constant(12, seconds=2))
FAST_START = {"movflags": "+faststart"}
ELSEWHERE = "http://127.0.0.1:9/elsewhere.ts"
"""What a playlist names; nobody answers there."""


def _frames(form: Form) -> list[RGB]:
    return scene(photographs()["astronaut"], form.clock.times, form.size, manipulated=None)


def _write(path: Path, form: Form) -> Path:
    return write_clip(path, _frames(form), form)


def _cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def _replace(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data, (path, old)
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def _patch(path: Path, box: bytes, offset: int, value: bytes) -> Path:
    """Overwrites bytes so far behind the name of a file's first box or chunk of this name."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def cut_mp4(folder: Path) -> Path:
    """60 % of an mp4 whose index comes first, as an interrupted download leaves it."""
    form = replace(FORMS["mp4"], muxer=FAST_START)
    return _cut(_write(folder / "cut.mp4", form), 0.6)


def cut_mkv(folder: Path) -> Path:
    """60 % of a Matroska file."""
    return _cut(_write(folder / "cut.mkv", FORMS["mkv"]), 0.6)


def cut_webm(folder: Path) -> Path:
    """60 % of a WebM file."""
    return _cut(_write(folder / "cut.webm", FORMS["webm-vp9"]), 0.6)


def cut_avi(folder: Path) -> Path:
    """60 % of an AVI file, whose index is at its end."""
    return _cut(_write(folder / "cut.avi", FORMS["avi"]), 0.6)


def without_index(folder: Path) -> Path:
    """An mp4 without its moov box, as a recorder leaves it that lost its power."""
    path = _write(folder / "without-index.mp4", SHORT)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    return path


def damaged(folder: Path) -> Path:
    """An mp4 with noise over a tenth of its pictures."""
    path = _write(folder / "damaged.mp4", FORMS["mp4"])
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + len(data) // 3
    noise = np.random.default_rng(0).integers(0, 256, len(data) // 10, np.uint8)
    data[start : start + len(noise)] = noise.tobytes()
    path.write_bytes(data)
    return path


def audio_only(folder: Path) -> Path:
    """An mp4 with a second of sound and no picture."""
    path = folder / "audio-only.mp4"
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        tone = np.sin(np.arange(44100, dtype=np.float32) / 16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        for part in (frame, None):
            container.mux(stream.encode(part))
    return path


def no_frames(folder: Path) -> Path:
    """An mp4 with a video track and nothing in it."""
    path = folder / "no-frames.mp4"
    # Its index is written before the first frame, which never comes.
    with av.open(path, "w", options={"movflags": "+empty_moov"}) as container:
        stream: Any = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        container.start_encoding()
    return path


def lying_mp4(folder: Path) -> Path:
    """An mp4 whose table of times speaks of 100,000 frames; 24 are there."""
    path = _write(folder / "lying.mp4", SHORT)
    return _patch(path, b"stts", 8, struct.pack(">I", 100_000))


def lying_sizes(folder: Path) -> Path:
    """An mp4 whose table of sizes speaks of four thousand million frames; 24 are there."""
    path = _write(folder / "lying-sizes.mp4", SHORT)
    return _patch(path, b"stsz", 8, struct.pack(">I", 0xFFFFFFF0))


def lying_avi(folder: Path) -> Path:
    """An AVI file whose headers speak of 100,000 frames; 50 are there."""
    path = _write(folder / "lying.avi", replace(FORMS["avi"], clock=constant(25, seconds=2)))
    _patch(path, b"avih", 4 + 16, struct.pack("<I", 100_000))
    return _patch(path, b"strh", 4 + 32, struct.pack("<I", 100_000))


def one_pixel(folder: Path) -> Path:
    """A WebM file of one pixel."""
    form = Form(".webm", "libvpx-vp9", VPX, clock=constant(12, seconds=1))
    grey = [np.full((1, 1, 3), 100 + tick, np.uint8) for tick in form.clock.ticks]
    return write_clip(folder / "one-pixel.webm", grey, form)


def huge(folder: Path) -> Path:
    """Three frames of 8K."""
    form = Form(
        ".mp4",
        options=SHARP | {"preset": "ultrafast", "crf": "30"},
        clock=constant(12, seconds=0.25),
        size=(4320, 7680),
    )
    return _write(folder / "huge.mp4", form)


def monstrous(folder: Path) -> Path:
    """A QuickTime file of a few kilobytes whose one frame has 16,000 by 16,000 pixels."""
    path, side = folder / "monstrous.mov", 16_000
    rows = zlib.compress(bytes(side * (1 + side // 8)), 1)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("png", rate=12)
        stream.width, stream.height, stream.pix_fmt = side, side, "monob"
        container.start_encoding()
        packet = av.Packet(picture)
        packet.pts = packet.dts = 0
        packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 12), True, stream
        container.mux(packet)
    return path


def changing_size(folder: Path) -> Path:
    """A transport stream of h264 that is small for a second and then large, as broadcasts are."""
    parts = []
    for number, size in enumerate([(240, 320), (360, 480)]):
        form = Form(".ts", options=SHARP, clock=constant(12, 1, start=12 * number), size=size)
        parts.append(_write(folder / f"part-{number}.ts", form))
    path = folder / "changing-size.mp4"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


def changing_webm(folder: Path) -> Path:
    """A WebM file of VP9 that is small for a second and then large, as video calls are."""
    path = folder / "changing-size.webm"
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=12)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        container.start_encoding()
        for number, size in enumerate([(240, 320), (360, 480)]):
            form = Form(".webm", "libvpx-vp9", VPX, constant(12, 1, start=12 * number), size=size)
            for packet in _packets(_frames(form), form):
                packet.stream = stream
                container.mux(packet)
    return path


def _packets(frames: Iterable[RGB], form: Form) -> Iterable[Any]:
    encoder: Any = av.CodecContext.create(form.codec, "w")
    encoder.height, encoder.width = form.size
    encoder.pix_fmt, encoder.time_base = "yuv420p", form.clock.unit
    encoder.framerate, encoder.options = 1 / form.clock.unit, dict(form.options)
    for tick, pixels in zip(form.clock.ticks, frames, strict=True):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = tick, form.clock.unit
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def unknown_codec(folder: Path) -> Path:
    """An mp4 whose pictures are in a codec that nobody has heard of."""
    return _replace(_write(folder / "unknown-codec.mp4", SHORT), b"avc1", b"zz9z")


def unknown_mkv(folder: Path) -> Path:
    """A Matroska file in a codec that nobody has heard of."""
    path = _write(folder / "unknown-codec.mkv", replace(SHORT, suffix=".mkv"))
    return _replace(path, b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ")


def unknown_avi(folder: Path) -> Path:
    """An AVI file in a codec that nobody has heard of."""
    path = _write(folder / "unknown-codec.avi", replace(FORMS["avi"], clock=constant(25, 2)))
    return _replace(path, b"FMP4", b"ZZ9Z")


def renamed_encrypted(folder: Path) -> Path:
    """An mp4 whose sample entry says that it is encrypted, and not how."""
    return _replace(_write(folder / "renamed-encrypted.mp4", SHORT), b"avc1", b"encv")


def encrypted(folder: Path) -> Path:
    """An mp4 under Common Encryption (ISO/IEC 23001-7), as film services send it."""
    lock = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "00112233445566778899aabbccddeeff",
        "encryption_kid": "ffeeddccbbaa99887766554433221100",
    }
    return _write(folder / "encrypted.mp4", replace(SHORT, muxer=lock))


def text(folder: Path) -> Path:
    """A text file under a clip's name."""
    path = folder / "text.mp4"
    path.write_text("This is no video.\n" * 100)
    return path


def playlist(folder: Path) -> Path:
    """A playlist under a clip's name that names a clip beside it and an address."""
    segment = _write(folder / "segment.ts", replace(SHORT, suffix=".ts"))
    path = folder / "playlist.mp4"
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"
        f"#EXTINF:2,\n{segment.name}\n#EXTINF:2,\n{ELSEWHERE}\n#EXT-X-ENDLIST\n"
    )
    return path


def concat_script(folder: Path) -> Path:
    """A script of FFmpeg's that names a clip beside it, under a clip's name."""
    _write(folder / "segment.mp4", SHORT)
    path = folder / "script.mp4"
    path.write_text("ffconcat version 1.0\nfile segment.mp4\n")
    return path


def empty(folder: Path) -> Path:
    """A file of no bytes."""
    path = folder / "empty.mp4"
    path.touch()
    return path


BAD: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        cut_mp4,
        cut_mkv,
        cut_webm,
        cut_avi,
        without_index,
        damaged,
        audio_only,
        no_frames,
        lying_mp4,
        lying_sizes,
        lying_avi,
        one_pixel,
        huge,
        monstrous,
        changing_size,
        changing_webm,
        unknown_codec,
        unknown_mkv,
        unknown_avi,
        renamed_encrypted,
        encrypted,
        text,
        playlist,
        concat_script,
        empty,
    )
}
"""Makers by name."""
