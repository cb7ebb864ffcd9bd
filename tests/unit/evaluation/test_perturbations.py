import argparse
import io
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.evaluation.perturbations import KINDS, Perturbation, perturb, perturbations
from PIL import Image, ImageFilter

RGB = npt.NDArray[np.uint8]


def photograph(height: int = 90, width: int = 120) -> RGB:
    """Smooth shapes with some texture."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=-1)
    texture = np.random.default_rng(0).normal(0, 6, waves.shape)
    return np.clip(128 + 90 * waves + texture, 0, 255).astype(np.uint8)


def png(image: RGB) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def opened(data: bytes) -> tuple[str | None, RGB]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, np.asarray(image.convert("RGB"))


def distance(one: RGB, other: RGB) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_words_are_read():
    assert perturbations("jpeg=90,70") == (Perturbation("jpeg", 90), Perturbation("jpeg", 70))
    assert [str(p) for p in perturbations("resize=0.5,.25")] == ["resize=0.5", "resize=0.25"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "jpeg",
            "'jpeg' is not a perturbation: name one of jpeg, blur, resize, noise, shift and",
        ),
        ("sharpen=1", "'sharpen=1' is not a perturbation"),
        ("=1", "'=1' is not a perturbation"),
        ("jpeg=", "'jpeg=': '' is not a whole number from 1 to 100 (JPEG quality)"),
        ("jpeg=90,,50", "'' is not a whole number"),
        ("jpeg=0", "'0' is not a whole number from 1 to 100"),
        ("jpeg=89.5", "'89.5' is not a whole number"),
        ("blur=nan", "'nan' is not a number from 0.1 to 100"),
        ("blur=-1", "'-1' is not a number"),
        ("resize=2", "'2' is not a number from 0.01 to 1 (factor of width and height)"),
        ("noise=inf", "'inf' is not a number from 0.1 to 255"),
        ("noise=5,5.0", "names a strength twice"),
    ],
)
def test_a_wrong_word_is_named(text: str, message: str):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        perturbations(text)
    assert message in str(caught.value)


def test_reading_the_words_imports_no_heavy_library():
    code = (
        "import sys; sys.path[:0] = ['scripts', 'handler'];"
        "import deepfake_tools.evaluation.perturbations;"
        "assert not {'cv2', 'jinja2', 'numpy', 'PIL', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("quality", [90, 50])
def test_jpeg_is_that_of_pillow_at_the_same_quality(quality: int):
    image = photograph()
    kind, result = opened(perturb(png(image), Perturbation("jpeg", quality)))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    expected = opened(stream.getvalue())[1]
    assert kind == "JPEG"
    assert distance(result, expected) < 0.5
    assert distance(result, image) > 1


@pytest.mark.parametrize("deviation", [1, 2.5])
def test_blur_is_that_of_pillow_away_from_the_edges(deviation: float):
    image = photograph()
    kind, result = opened(perturb(png(image), Perturbation("blur", deviation)))
    # Pillow approximates the Gaussian by boxes.
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(deviation)))
    inside = (slice(12, -12), slice(12, -12))
    assert kind == "PNG"
    assert distance(result[inside], expected[inside]) < 1
    assert distance(result[inside], image[inside]) > 3


def test_resize_averages_areas():
    image = photograph(90, 120)
    _, result = opened(perturb(png(image), Perturbation("resize", 0.5)))
    expected = image.reshape(45, 2, 60, 2, 3).mean(axis=(1, 3))
    assert result.shape == (45, 60, 3)
    assert np.abs(result - expected).max() <= 0.5


def test_a_resized_image_keeps_a_pixel():
    _, result = opened(perturb(png(photograph(3, 200)), Perturbation("resize", 0.01)))
    assert result.shape == (1, 2, 3)


def test_a_shifted_image_keeps_its_size_and_its_edge():
    image = photograph()
    kind, shifted = opened(perturb(png(image), Perturbation("shift", 3)))
    assert (kind, shifted.shape) == ("PNG", image.shape)
    assert (shifted[3:, 3:] == image[:-3, :-3]).all()
    assert (shifted[:3, 3:] == image[0, :-3]).all()
    assert (shifted[3:, :3] == image[:-3, :1]).all()


def test_noise_has_the_deviation_asked_for():
    image = np.full((200, 300, 3), 128, np.uint8)
    _, result = opened(perturb(png(image), Perturbation("noise", 5)))
    noise = result.astype(float) - 128
    assert noise.std() == pytest.approx(5, rel=0.01)
    assert abs(noise.mean()) < 0.05
    # Neither repeated over the channels nor over the pixels.
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:, 1:, 0].ravel(), noise[:, :-1, 0].ravel())[0, 1]) < 0.02


def test_noise_stays_within_the_greys():
    _, result = opened(
        perturb(png(np.full((200, 300, 3), 255, np.uint8)), Perturbation("noise", 50))
    )
    # Above 255 it would have come round to black; half of a Gaussian's mean is 0.4 deviations.
    assert 255 - result.mean() == pytest.approx(50 * 0.399, rel=0.02)


def test_each_image_has_noise_of_its_own():
    grey = [np.full((40, 40, 3), level, np.uint8) for level in (127, 128)]
    noises = [
        opened(perturb(png(image), Perturbation("noise", 5)))[1].astype(int) - level
        for image, level in zip(grey, (127, 128), strict=True)
    ]
    assert np.mean(noises[0] == noises[1]) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_each_time(kind: str):
    perturbation = Perturbation(kind, KINDS[kind].highest / 2)
    data = png(photograph())
    assert perturb(data, perturbation) == perturb(data, perturbation)


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_a_larger_strength_does_more(kind: str):
    image = photograph()
    changes = [
        distance(opened(perturb(png(image), Perturbation(kind, strength)))[1], image)
        for strength in (1, 2, 4)
    ]
    assert changes == sorted(changes)


def test_an_image_is_turned_where_the_detector_turns_it():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(photograph(90, 120)).save(stream, "JPEG", exif=exif)
    _, result = opened(perturb(stream.getvalue(), Perturbation("blur", 1)))
    assert result.shape == (120, 90, 3)
    _, result = opened(perturb(stream.getvalue(), Perturbation("blur", 1), "pillow"))
    assert result.shape == (90, 120, 3)


def test_grey_and_transparent_images_are_taken():
    grey = photograph()[..., 0]
    rgba = np.dstack([photograph(), grey])
    for image in (grey, rgba):
        _, result = opened(perturb(png(image), Perturbation("noise", 1)))
        assert result.shape == (90, 120, 3)


def test_png_results_are_lossless():
    image = photograph()
    _, result = opened(perturb(png(image), Perturbation("resize", 1)))
    assert np.array_equal(result, image)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"not an image at all", "are not a JPEG"),
        (png(photograph())[:200], "cut short or damaged"),
    ],
)
def test_what_is_no_image_is_an_image_s_own_failure(data: bytes, message: str):
    with pytest.raises(ImageRefusedError, match=message):
        perturb(data, Perturbation("blur", 1))
