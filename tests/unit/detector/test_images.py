import io
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from clip_deepfake.errors import (
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
)
from clip_deepfake.images import Orientation, Room, check_header, decode
from PIL import Image

LIMIT = 50_000_000


def photograph(side: int = 96) -> Image.Image:
    """Smooth colour with some detail, as a photograph has."""
    y, x = np.mgrid[0:side, 0 : side + 32].astype(np.float32)
    channels = [127 + 120 * np.sin(x / 9 + phase) * np.cos(y / (7 + phase)) for phase in (0, 1, 2)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_by_opencv(data: bytes, folder: Path) -> np.ndarray:
    """The research code's way: a file, cv2.imread, BGR turned to RGB."""
    path = folder / "image"
    path.write_bytes(data)
    return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def sixteen_bit(channels: int) -> bytes:
    ramp = np.linspace(0, 65535, 64 * 48 * channels).astype(np.uint16)
    ok, data = cv2.imencode(".png", ramp.reshape(48, 64, channels))
    assert ok
    return data.tobytes()


def with_alpha(image: Image.Image) -> Image.Image:
    faded = image.copy()
    faded.putalpha(Image.linear_gradient("L").resize(image.size))
    return faded


PHOTO = photograph()
KINDS = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "progressive jpeg": encoded(PHOTO, "JPEG", progressive=True),
    "grey jpeg": encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "png": encoded(PHOTO, "PNG"),
    "png with alpha": encoded(with_alpha(PHOTO), "PNG"),
    "grey png with alpha": encoded(with_alpha(PHOTO).convert("LA"), "PNG"),
    "palette png": encoded(PHOTO.quantize(32), "PNG"),
    "black and white png": encoded(PHOTO.convert("1"), "PNG"),
    "16-bit grey png": sixteen_bit(1),
    "16-bit colour png": sixteen_bit(3),
    "webp": encoded(PHOTO, "WEBP"),
    "lossless webp with alpha": encoded(with_alpha(PHOTO), "WEBP", lossless=True),
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF"),
    "lzw tiff": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
    "gif": encoded(PHOTO.quantize(64), "GIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_as_opencv_reads_it(kind: str, tmp_path: Path) -> None:
    image = decode(KINDS[kind], LIMIT)
    assert image.dtype == np.uint8
    expected = read_by_opencv(KINDS[kind], tmp_path)
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff", "gif", "palette png"])
def test_pillow_sees_the_same_colours(kind: str) -> None:
    expected = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    assert np.abs(decode(KINDS[kind], LIMIT).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, "JPEG", exif=exif, quality=95, subsampling=0)
    upright = {
        1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2,
    }[orientation]  # fmt: skip
    plain = Image.open(io.BytesIO(data)).convert("RGB")
    expected = plain if upright is None else plain.transpose(Image.Transpose(upright))
    image = decode(data, LIMIT)
    assert image.shape == np.asarray(expected).shape
    assert np.abs(image.astype(int) - np.asarray(expected)).max() <= 1


TURNED = {
    "opencv-4": {"JPEG", "PNG", "TIFF"},
    "opencv-5": {"JPEG", "PNG", "WEBP", "TIFF"},
    "pillow": {"TIFF"},
}


@pytest.mark.parametrize("reader", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_each_readers_formats_are_turned(reader: Orientation, kind: str) -> None:
    """opencv-5 against the installed OpenCV, pillow against Pillow; opencv-4 by the formats that
    4.6.0.66, 4.7.0.72, 4.11.0.86 and 4.12.0.88 turned when they were tried."""
    exif = Image.Exif()
    exif[0x0112] = 6
    settings = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    data = encoded(PHOTO, kind, exif=exif, **settings)
    by_opencv_5 = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = by_opencv_5 if kind in TURNED[reader] else by_pillow
    if reader == "pillow":
        assert np.array_equal(expected.shape, by_pillow.shape)
    image = decode(data, LIMIT, reader)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_gif_is_its_first_frame() -> None:
    other = Image.new("RGB", PHOTO.size, "red")
    data = encoded(PHOTO.quantize(64), "GIF", save_all=True, append_images=[other] * 3)
    single = decode(KINDS["gif"], LIMIT)
    assert np.abs(decode(data, LIMIT).astype(int) - single).max() <= 1


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff", "gif", "16-bit colour png"])
def test_a_file_cut_short_is_said_to_be(kind: str) -> None:
    data = KINDS[kind]
    with pytest.raises(TruncatedImageError, match="cut short or damaged"):
        decode(data[: len(data) * 2 // 3], LIMIT)


@pytest.mark.parametrize(
    "data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"\xff\xd8"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"the {len(data)} bytes are not a JPEG"):
        decode(data, LIMIT)


def test_nothing_is_refused() -> None:
    with pytest.raises(EmptyImageError):
        decode(b"", LIMIT)


def test_a_bomb_is_refused_from_its_header() -> None:
    width, height = 60_000, 60_000
    header = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    header[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    with pytest.raises(ImageTooLargeError):
        decode(bytes(header), LIMIT)


def test_the_limit_counts_pixels_and_allows_its_own_value() -> None:
    data = encoded(Image.new("RGB", (100, 50)), "PNG")
    assert decode(data, 5_000).shape == (50, 100, 3)
    with pytest.raises(ImageTooLargeError, match=r"100x50 pixels, over the limit of 4999"):
        decode(data, 4_999)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_known_without_the_pixels(kind: str) -> None:
    image = decode(KINDS[kind], LIMIT)
    header = check_header(KINDS[kind], LIMIT)
    assert (header.height, header.width) == image.shape[:2]
    assert header.cost >= header.width * header.height


def test_what_only_the_header_shows_is_refused_without_decoding() -> None:
    with pytest.raises(EmptyImageError):
        check_header(b"", LIMIT)
    with pytest.raises(ImageTooLargeError):
        check_header(KINDS["jpeg"], 100)
    with pytest.raises(TruncatedImageError):
        check_header(KINDS["jpeg"][:9], LIMIT)
    with pytest.raises(ImageError, match="the 5 bytes"):
        check_header(b"hello", LIMIT)


@pytest.mark.parametrize(("threads", "together"), [(1, 10), (4, 10), (8, 20), (32, 80)])
def test_threads_hold_no_more_pixels_than_there_is_room_for(threads: int, together: int) -> None:
    room, lock, held = Room(10, threads), threading.Lock(), [0]
    most, full = 0, threading.Event()

    def hold(pixels: int) -> None:
        nonlocal most
        with room.holding(pixels):
            with lock:
                held[0] += pixels
                most = max(most, held[0])
                if most >= together:
                    full.set()
            # All that there is room for is held at the same time at some moment.
            assert full.wait(10)
            with lock:
                held[0] -= pixels

    running = [threading.Thread(target=hold, args=(5,)) for _ in range(32)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(10)
    assert most == together


def test_an_image_larger_than_the_room_is_alone_in_it() -> None:
    room = Room(10, 1)
    with room.holding(99):
        entered = threading.Event()
        other = threading.Thread(target=lambda: room.holding(1).__enter__() or entered.set())
        other.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    other.join()


def test_a_failure_gives_the_room_back() -> None:
    room = Room(10, 1)
    with pytest.raises(MemoryError), room.holding(10):
        raise MemoryError
    with room.holding(10):
        pass
