import io
import struct
from pathlib import Path

import numpy as np
import pytest
from clip_deepfake.errors import (
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
    UnsupportedImageError,
)
from clip_deepfake.formats.jpeg import MOST_SCANS
from clip_deepfake.images import check_header, decode
from PIL import Image

from tests import ROOT
from tests.drills.hostile import arithmetic_jpeg
from tests.unit.detector.test_images import LIMIT, encoded, photograph

PHOTO = photograph(80)
END = b"\xff\xd9"
FILM = b"\0\0\0\x18ftypmp42" + b"\xff\xda\xff\xd9\xff\xd8" * 5000


def one_by_one(image: Image.Image) -> bytes:
    """A sequential JPEG whose components come in a scan each; Pillow writes none."""
    data = encoded(image, "JPEG", subsampling=0)
    parts = [encoded(channel, "JPEG") for channel in image.convert("YCbCr").split()]
    begin = data.index(b"\xff\xda")
    scans = b""
    for component, part in enumerate(parts, start=1):
        at = part.index(b"\xff\xda")
        # The tables are Pillow's own, the same for each grey image; the first component's fit.
        scans += struct.pack(">HHBBB3B", 0xFFDA, 8, 1, component, 0, 0, 63, 0) + part[at + 10 : -2]
    quantised = parts[0][parts[0].index(b"\xff\xdb") :][:69]
    frame = data.index(b"\xff\xc0")
    head = bytearray(data[:2] + quantised + data[frame:begin])
    place = head.index(b"\xff\xc0") + 10
    head[place : place + 9] = bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    return bytes(head) + scans + END


WHOLE = {
    "baseline": encoded(PHOTO, "JPEG"),
    "without subsampling": encoded(PHOTO, "JPEG", subsampling=0, quality=95),
    "progressive": encoded(PHOTO, "JPEG", progressive=True),
    "grey": encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "with restarts": encoded(PHOTO, "JPEG", restart_marker_blocks=3),
    "progressive with restarts": encoded(PHOTO, "JPEG", progressive=True, restart_marker_blocks=3),
    "of odd sides": encoded(PHOTO.crop((0, 0, 93, 61)), "JPEG", optimize=True),
    "of one colour": encoded(Image.new("RGB", (300, 200), (9, 9, 200)), "JPEG", optimize=True),
    "of a channel a scan": one_by_one(PHOTO),
    "from a camera": (ROOT / "examples/astronaut.jpg").read_bytes(),
}
IDS = list(WHOLE)


@pytest.mark.parametrize("name", IDS)
def test_a_picture_without_its_end_marker_is_whole(name: str) -> None:
    expected = decode(WHOLE[name], LIMIT)
    for cut in (1, 2):
        assert np.array_equal(decode(WHOLE[name][:-cut], LIMIT), expected)


@pytest.mark.parametrize("name", IDS)
def test_the_colours_are_those_that_pillow_reads(name: str) -> None:
    expected = np.asarray(Image.open(io.BytesIO(WHOLE[name])).convert("RGB"))
    if name != "cmyk":  # the two turn CMYK to RGB by different formulas
        assert np.abs(decode(WHOLE[name], LIMIT).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("behind", [FILM, bytes(999), WHOLE["baseline"]], ids=["film", "0", "two"])
def test_what_stands_behind_a_picture_is_nobodys_business(name: str, behind: bytes) -> None:
    assert np.array_equal(decode(WHOLE[name] + behind, LIMIT), decode(WHOLE[name], LIMIT))


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_picture_cut_within_its_pixels_is_refused(name: str, share: float) -> None:
    data = WHOLE[name]
    begin = data.index(b"\xff\xda") + 14
    cut = data[: begin + int((len(data) - begin) * share)]
    with pytest.raises(TruncatedImageError, match="cut short or damaged"):
        decode(cut, LIMIT)


@pytest.mark.parametrize("name", IDS)
def test_a_cut_of_its_last_bytes_is_found(name: str) -> None:
    for cut in range(5, 60):
        with pytest.raises(TruncatedImageError):
            decode(WHOLE[name][:-cut], LIMIT)


@pytest.mark.parametrize("name", sorted(set(IDS) - {"of one colour"}))
def test_an_end_marker_makes_no_cut_picture_whole(name: str) -> None:
    data = WHOLE[name]
    begin = data.index(b"\xff\xda")
    for share in (0.0, 0.1, 0.5, 0.8):
        cut = data[: begin + int((len(data) - begin) * share)].rstrip(b"\xff")
        with pytest.raises(TruncatedImageError):
            decode(cut + END, LIMIT)


def test_a_row_of_blocks_that_is_missing_is_found_before_an_end_marker() -> None:
    data = WHOLE["from a camera"]
    upper = Image.open(io.BytesIO(data))
    upper.draft("RGB", upper.size)
    height = upper.size[1]
    row = (len(data) - data.index(b"\xff\xda")) * 16 // height
    with pytest.raises(TruncatedImageError):
        decode(data[: -2 - row // 4].rstrip(b"\xff") + END, LIMIT)


def test_a_header_alone_is_no_picture() -> None:
    data = WHOLE["baseline"]
    scan = data.index(b"\xff\xda")
    for end in (scan, scan + 14):
        with pytest.raises(TruncatedImageError):
            decode(data[:end] + END, LIMIT)


def frame(marker: int, width: int, height: int, *, precision: int = 8, channels: int = 3) -> bytes:
    components = b"".join(bytes([one, 0x11, 0]) for one in range(1, channels + 1))
    return (
        struct.pack(">BBHBHHB", 0xFF, marker, 8 + 3 * channels, precision, height, width, channels)
        + components
    )


def scan(component: int, *, first: int = 0, last: int = 63) -> bytes:
    return struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, component, 0, first, last, 0)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (frame(0xC9, 64, 64), "arithmetic coding"),
        (frame(0xCA, 64, 64), "arithmetic coding"),
        (frame(0xC3, 64, 64), "lossless or hierarchical"),
        (frame(0xC5, 64, 64), "lossless or hierarchical"),
        (frame(0xC1, 64, 64, precision=12), "12 bits"),
        (frame(0xC0, 64, 64, channels=2), "2 channels"),
        (frame(0xC0, 64, 0, channels=1) + scan(1) + b"ab\xff\xdc\0\4\0\x40", "stands behind"),
    ],
)
def test_kinds_that_no_camera_writes_are_named(head: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedImageError, match=f"a JPEG .*{kind}.*not supported"):
        decode(b"\xff\xd8" + head + END, LIMIT)


def test_a_height_of_nothing_is_empty() -> None:
    with pytest.raises(EmptyImageError):
        decode(b"\xff\xd8" + frame(0xC0, 64, 0, channels=1) + scan(1) + b"ab" + END, LIMIT)


def test_scans_are_counted_where_a_decoder_goes_through_all() -> None:
    data = WHOLE["progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(TruncatedImageError, match="more than 100 scans"):
        decode(data[:-2] + last * (MOST_SCANS + 1) + END, LIMIT)
    # One scan holds all components, and a decoder stops after it.
    data = WHOLE["baseline"]
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode(data[:-2] + last * (MOST_SCANS + 1) + END, LIMIT).shape == (80, 112, 3)


def empty_scans(side: int, count: int) -> bytes:
    """A progressive JPEG: means of one bit each, then scans that change nothing."""
    mean = scan(1, last=0) + bytes((side + 7) ** 2 // 64 // 8 + 1)
    rest = scan(1, first=1) + b"ab"
    return b"\xff\xd8" + frame(0xC2, side, side, channels=1) + mean + rest * count + END


def test_scans_cost_as_much_as_they_have_pixels() -> None:
    assert check_header(empty_scans(64, 5), LIMIT).cost == 64 * 64
    assert check_header(empty_scans(2000, 79), LIMIT).cost == 8 * 2000 * 2000
    with pytest.raises(TruncatedImageError, match="scans of 49000000 pixels"):
        check_header(empty_scans(7000, 30), LIMIT)


def test_a_few_bytes_hold_no_megapixels() -> None:
    with pytest.raises(TruncatedImageError, match="needs 95703 or more"):
        check_header(b"\xff\xd8" + frame(0xC2, 7000, 7000, channels=1) + scan(1) + END, LIMIT)


def test_arithmetic_coding_of_1300_bytes_is_refused_from_its_header() -> None:
    data = arithmetic_jpeg()
    assert len(data) < 1300
    with pytest.raises(UnsupportedImageError):
        check_header(data, LIMIT)


def test_more_pixels_than_allowed_are_told_from_the_size_alone() -> None:
    with pytest.raises(ImageTooLargeError):
        decode(b"\xff\xd8" + frame(0xC0, 60_000, 60_000) + scan(1) + END, LIMIT)


@pytest.mark.parametrize("name", IDS)
def test_whatever_is_cut_off_raises_an_image_error(name: str) -> None:
    data = WHOLE[name]
    for end in range(3, min(len(data) - 5, 1500), 7):
        with pytest.raises(ImageError):
            decode(data[:end], LIMIT)


def test_scans_inside_an_exif_thumbnail_do_not_count() -> None:
    exif = b"Exif\0\0" + b"\xff\xc0\0\x11\x08\0\x05\0\x05" + b"\xff\xda" * 200
    assert decode(encoded(PHOTO, "JPEG", exif=exif), LIMIT).shape == (80, 112, 3)


def test_files_are_read_as_they_were_before(tmp_path: Path) -> None:
    import cv2

    for path in sorted((ROOT / "examples").glob("*.jpg")):
        expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert np.array_equal(decode(path.read_bytes(), LIMIT), expected)
