"""Boxes of faces: dlib's own, and the same ones on smaller copies of large images."""

import sys
from concurrent.futures import ThreadPoolExecutor

import dlib
import numpy as np
import pytest
import skimage.data
from clip_deepfake import face_detector
from clip_deepfake.errors import LoadError
from clip_deepfake.face_detector import Box, FrontalDetector

from tests.portraits import RGB, photograph

DETECT = dlib.get_frontal_face_detector()


def by_dlib(image: RGB) -> list[Box]:
    found = DETECT(image, 1)
    return [Box(box.left(), box.top(), box.right(), box.bottom()) for box in found]


@pytest.fixture(scope="module")
def group() -> RGB:
    """Nine faces of 90 to 330 pixels in 1.9 megapixels."""
    sides = (180, 220, 260, 300, 350, 400, 450, 500, 560)
    places = [(0, 0), (300, 0), (600, 0), (0, 300), (350, 300), (750, 250), (0, 700), (500, 700)]
    placed = [
        (number * 7, left, top, side)
        for number, ((left, top), side) in enumerate(
            zip([*places, (1010, 640)], sides, strict=True)
        )
    ]
    return photograph(1200, 1600, placed)


@pytest.mark.parametrize("scan_pixels", [None, 2_500_000])
def test_an_image_within_the_bound_is_searched_as_dlib_searches_it(
    scan_pixels: int | None,
) -> None:
    image = skimage.data.astronaut()
    boxes = FrontalDetector(scan_pixels).find(image)
    assert boxes == by_dlib(image)
    assert boxes


def test_a_bounded_search_finds_the_same_boxes_to_the_pixel(group: RGB) -> None:
    expected = by_dlib(group)
    assert len(expected) >= 8
    found = FrontalDetector(1_500_000).find(group)
    assert len(set(found) & set(expected)) >= len(expected) - 1


def test_a_bounded_search_searches_no_more_than_the_bound(
    group: RGB, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    class Detector:
        def __call__(self, image: RGB, upsamplings: int) -> list[object]:
            searched.append(image.shape[0] * image.shape[1] * 4**upsamplings)
            return []

    monkeypatch.setattr(face_detector, "_dlibs_detector", Detector)
    for bound in (2_500_000, 1_000_000, 50_000):
        FrontalDetector(bound).find(group)
    FrontalDetector(None).find(group)
    assert searched[-1] == 4 * 1200 * 1600
    for pixels, bound in zip(searched, (2_500_000, 1_000_000, 50_000), strict=False):
        assert 0.69 * bound < pixels <= bound


@pytest.mark.parametrize("scan_pixels", [None, 100_000])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (1, 700_000), (700_000, 1), (30, 30)])
def test_images_of_any_shape_are_searched(shape: tuple[int, int], scan_pixels: int | None) -> None:
    assert FrontalDetector(scan_pixels).find(np.zeros((*shape, 3), np.uint8)) == []


def test_threads_share_a_detector() -> None:
    images = [photograph(300, 300, [(number, 40, 40, 220)]) for number in range(12)]
    expected = [by_dlib(image) for image in images]
    detector = FrontalDetector(2_500_000)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(detector.find, images)) == expected


def test_without_dlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(LoadError, match=r"pip install 'clip-deepfake\[faces\]'"):
        FrontalDetector(None)
