"""HEIC: decoded as Pillow does, bounded by what the file says anywhere of its size."""

import io
import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
from clip_deepfake.card import Card
from clip_deepfake.errors import (
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
    UnsupportedImageError,
)
from clip_deepfake.formats import heif
from clip_deepfake.formats.headers import read_header
from clip_deepfake.images import check_header, decode
from clip_deepfake.verdicts import Verdict
from PIL import Image, ImageCms
from pillow_heif import register_heif_opener

from tests.unit.stand_in_engine import StandInEngine, detector_of

register_heif_opener()

MOST = 1_000_000


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width)
    small = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 4), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height)).convert(mode)


def heic(image: Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "HEIF", quality=80, **settings)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return heic(noise(120, 80), exif=exif.tobytes())


def with_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return heic(noise(96, 64), icc_profile=profile)


def several() -> bytes:
    file = io.BytesIO()
    pages = [noise(64, 64), noise(96, 128)]
    noise(80, 48).save(file, "HEIF", save_all=True, append_images=pages, primary_index=1)
    return file.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: heic(noise(128, 96)),
    "odd": lambda: heic(noise(101, 75)),
    "one pixel": lambda: heic(noise(1, 1)),
    "alpha": lambda: heic(noise(90, 60, "RGBA")),
    "grey": lambda: heic(noise(90, 60, "L")),
    "grid": lambda: heic(noise(300, 200), tile_size=128),
    "444": lambda: heic(noise(90, 60), chroma=444),
    "16 bits": lambda: heic(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)),
    "profile": with_profile,
    "several": several,
    **{f"turned {n}": (lambda n=n: turned(n)) for n in range(1, 9)},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("orientation", ["opencv-4", "pillow"])
def test_pixels_are_pillows(name: str, orientation: str):
    data = FILES[name]()
    image = decode(data, MOST, orientation)
    expected = by_pillow(data)
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


def test_a_verdict_is_that_on_pillows_pixels(small_card: Card):
    data = turned(6)
    lossless = io.BytesIO()
    Image.fromarray(by_pillow(data)).save(lossless, "PNG")
    first, second = detector_of(small_card, StandInEngine()).judge([data, lossless.getvalue()])
    assert isinstance(first, Verdict)
    assert first == second


def test_a_photograph_with_its_profile_and_orientation_is_not_changed_more_than_by_the_encoder():
    data = turned(6)
    assert decode(data, MOST).shape == (120, 80, 3)
    original = np.asarray(noise(120, 80).transpose(Image.Transpose.ROTATE_270), np.int16)
    assert np.abs(decode(data, MOST).astype(np.int16) - original).mean() < 8


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heif, "is_readable", lambda: False)
    with pytest.raises(UnsupportedImageError) as refused:
        decode(FILES["plain"](), MOST)
    assert "pip install 'clip-deepfake[heic]'" in str(refused.value)
    assert (refused.value.code, refused.value.status) == ("unsupported_image", 400)


def test_too_many_pixels_are_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("clip_deepfake.images._by_pillow", lambda data: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match="128x96 pixels, over the limit of 10000"):
        decode(FILES["plain"](), 10_000)


def patched(data: bytes, kind: bytes, content: bytes, nth: int = 0, offset: int = 4) -> bytes:
    """Replaces a part of a box's content, past version and flags."""
    place = -1
    for _ in range(nth + 1):
        place = data.index(kind, place + 1)
    begin = place + 4 + offset
    return data[:begin] + content + data[begin + len(content) :]


def sides(width: int, height: int) -> bytes:
    return struct.pack(">II", width, height)


def test_a_stream_larger_than_its_item_is_refused():
    lying = patched(FILES["plain"](), b"ispe", sides(16, 16))
    with pytest.raises(TruncatedImageError, match="16x16 pixels is coded as 128x96"):
        decode(lying, MOST)


def test_a_stream_s_own_parameters_within_its_pixels_are_looked_at_too():
    large, small = heic(noise(640, 480)), heic(noise(64, 64))
    # The large picture's sequence parameters, put where the small one's pixels begin.
    header = large[large.index(b"hvcC") :]
    begin = next(i for i in range(len(header)) if header[i : i + 2] == b"\x42\x01")
    unit = header[begin : begin + struct.unpack(">H", header[begin - 2 : begin])[0]]
    place = small.index(b"mdat") + 4
    lying = small[:place] + struct.pack(">I", len(unit)) + unit
    lying += struct.pack(">I", len(small) - len(lying) - 4)
    lying += small[len(lying) :]
    with pytest.raises(TruncatedImageError, match="64x64 pixels is coded as 640x480"):
        decode(lying, MOST)


def test_a_grid_that_is_larger_than_its_item_is_refused():
    data = FILES["grid"]()
    place = data.index(b"idat") + 4
    assert data[place : place + 4] == b"\0\0\1\2"
    lying = data[: place + 4] + struct.pack(">HH", 30_000, 30_000) + data[place + 8 :]
    with pytest.raises(TruncatedImageError, match="grid is of 30000x30000 pixels"):
        decode(lying, MOST)


def test_tiles_that_are_more_than_cover_their_grid_are_refused():
    lying = patched(FILES["grid"](), b"ispe", sides(40_000, 40_000), nth=1)
    with pytest.raises(TruncatedImageError, match="tiles of 40000x40000 pixels are more than"):
        decode(lying, 10**10)


def test_a_grid_without_all_of_its_tiles_is_refused():
    data = FILES["grid"]()
    place = data.index(b"idat") + 4
    with pytest.raises(TruncatedImageError, match="9 rows and 3 columns has 6 tiles"):
        decode(data[: place + 2] + b"\x08" + data[place + 3 :], MOST)


def test_other_kinds_than_hevc_are_refused_with_a_remedy():
    data = FILES["plain"]()
    with pytest.raises(UnsupportedImageError, match=r"kind 'av01', .* save it as JPEG"):
        decode(data.replace(b"hvc1", b"av01"), MOST)


def test_a_cost_counts_all_that_is_coded():
    header = check_header(FILES["grid"](), MOST)
    assert (header.width, header.height) == (300, 200)
    assert header.work == 6 * 128 * 128


@pytest.mark.parametrize("name", ["plain", "odd", "grid", "alpha"])
def test_a_file_that_is_cut_short_anywhere_is_refused(name: str):
    data = FILES[name]()
    for length in [*range(12, 900, 7), *range(900, len(data), 997), len(data) - 200]:
        with pytest.raises(ImageError):
            decode(data[:length], MOST)


@pytest.mark.parametrize("name", ["plain", "grid", "alpha", "turned 6"])
def test_damage_anywhere_in_the_header_is_an_image_or_one_of_our_errors(name: str):
    data = FILES[name]()
    chance = random.Random(1)
    end = min(len(data), data.index(b"mdat") + 200)
    for _ in range(250):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            damaged[chance.randrange(12, end)] = chance.choice(
                (0, 1, 127, 255, chance.randrange(256))
            )
        try:
            image = decode(damaged, MOST)
        except ImageError:
            continue
        assert image.shape[0] * image.shape[1] <= MOST


def test_a_table_of_four_thousand_million_entries_costs_nothing():
    data = FILES["plain"]()
    with pytest.raises(TruncatedImageError, match="a table of its header has 4294967295 entries"):
        decode(patched(data, b"ipma", b"\xff" * 4), MOST)


def test_every_telephone_s_mark_is_known():
    data = FILES["plain"]()
    for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"):
        assert read_header(data[:8] + brand + data[12:], MOST) is not None
    assert read_header(data[:8] + b"qt  " + data[12:], MOST) is None
