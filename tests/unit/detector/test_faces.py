"""Faces found, brought onto the template and cut out."""

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import dlib
import msgspec
import numpy as np
import pytest
import skimage.data
from clip_deepfake.archive_files import file_digest
from clip_deepfake.errors import LoadError
from clip_deepfake.face_detector import Box
from clip_deepfake.faces import Aligner, Face, FaceAlignment, load_predictor, similarity, template
from skimage.transform import SimilarityTransform

from tests.portraits import RGB, photograph
from tests.reference_alignment import DETECT, reference_crop, reference_matrix, reference_points


def alignment(predictor: Path, **changes: object) -> FaceAlignment:
    _, points = load_predictor(predictor)
    found = FaceAlignment(predictor.name, file_digest(predictor), points)
    return msgspec.structs.replace(found, **changes)


@pytest.fixture(scope="module")
def aligner(landmarks: Path) -> Callable[..., Aligner]:
    """Makes an aligner with the trained predictor, by default as the builder does."""
    return cache(lambda **changes: Aligner(landmarks, alignment(landmarks, **changes)))


def portrait(number: int, side: int = 300) -> RGB:
    """One face of about half that width on a ground of its own width again."""
    return photograph(2 * side, 2 * side, [(number, side // 2, side // 2, side)])


@pytest.fixture(scope="module")
def photographs(examples: list[Path]) -> list[tuple[RGB, "dlib.rectangle"]]:
    """The portrait in examples/ and six others, three of these larger than the bound.

    With each the largest face's box in it, found by dlib alone.
    """
    (astronaut,) = [path for path in examples if path.stem == "astronaut"]
    example = cv2.cvtColor(cv2.imread(str(astronaut)), cv2.COLOR_BGR2RGB)
    turned = cv2.rotate(portrait(8), cv2.ROTATE_180)[::-1].copy()
    people = [portrait(number, side) for number, side in ((0, 160), (7, 250), (21, 300), (42, 420))]
    large = photograph(800, 1200, [(60, 350, 80, 640)])
    images = [example, turned, *people, large]
    return [(image, max(DETECT(image, 1), key=lambda box: box.area())) for image in images]


def test_in_exact_mode_every_pixel_is_the_independent_scripts(
    photographs: list[tuple[RGB, "dlib.rectangle"]], any_landmarks: Path
) -> None:
    aligner = Aligner(any_landmarks, alignment(any_landmarks, scan_pixels=None))
    for image, box in photographs:
        expected = reference_crop(image, str(any_landmarks), box)
        (face,) = aligner.find(image).judged
        assert np.array_equal(face.crop, expected)


def test_by_default_the_landmarks_are_the_same_within_a_pixel_of_the_crop(
    photographs: list[tuple[RGB, "dlib.rectangle"]], any_landmarks: Path
) -> None:
    aligner = Aligner(any_landmarks, alignment(any_landmarks))
    for image, box in photographs:
        expected = reference_points(image, str(any_landmarks), box)
        assert expected is not None
        (face,) = aligner.find(image).judged
        to_crop = reference_matrix(expected)[:, :2]
        assert np.linalg.norm((face.points - expected) @ to_crop.T, axis=1).max() < 1


def test_a_face_says_where_it_is(aligner: Callable[..., Aligner], landmarks: Path) -> None:
    image = skimage.data.astronaut()
    faces = aligner(scan_pixels=None).find(image)
    found = DETECT(image, 1)
    largest = max(found, key=lambda box: box.area())
    (face,) = faces.judged
    assert faces.count == len(found)
    assert face.box == (largest.left(), largest.top(), largest.right(), largest.bottom())
    points = reference_points(image, str(landmarks))
    assert np.array_equal(face.points, points)


def test_the_crop_has_the_size_and_margin_of_the_card(aligner: Callable[..., Aligner]) -> None:
    image = skimage.data.astronaut()
    (tight,) = aligner(size=112, margin=1.0).find(image).judged
    (wide,) = aligner(size=112, margin=2.0).find(image).judged
    assert tight.crop.shape == wide.crop.shape == (112, 112, 3)
    inner = cv2.resize(wide.crop[28:84, 28:84], (112, 112))
    difference = np.abs(inner.astype(int) - tight.crop).mean()
    assert difference < 8, "the middle half of the wide crop is the tight one"


def test_beyond_the_images_edge_a_crop_is_black(aligner: Callable[..., Aligner]) -> None:
    image = photograph(400, 400, [(0, -70, 100, 260)])
    (face,) = aligner().find(image).judged
    assert face.box.left < 20
    assert (face.crop[:, 0] == 0).all()
    assert (face.crop[112, 112] > 0).all()


@pytest.mark.parametrize("quarter", [cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE])
def test_a_face_that_lies_on_its_side_is_none(
    aligner: Callable[..., Aligner], quarter: int
) -> None:
    lying = cv2.rotate(portrait(21), quarter)
    assert reference_crop(lying, "never read") is None
    faces = aligner().find(lying)
    assert (faces.count, faces.judged) == (0, [])


def test_a_face_of_20_pixels_is_too_small(aligner: Callable[..., Aligner]) -> None:
    assert aligner().find(photograph(300, 300, [(21, 140, 140, 24)])).count == 0


def test_40_faces_are_found_and_cut_out_largest_first(aligner: Callable[..., Aligner]) -> None:
    numbers = [n for n in range(100) if n % 6 != 4][:48]
    placed = [
        (n, 10 + i % 8 * 190, 10 + i // 8 * 190, 150 + i % 8 * 5) for i, n in enumerate(numbers)
    ]
    crowd = photograph(1160, 1540, placed)
    faces = aligner(judged="all").find(crowd)
    assert faces.count >= 40
    assert len(faces.judged) == faces.count
    areas = [face.box.area for face in faces.judged]
    assert areas == sorted(areas, reverse=True)
    crops = np.stack([face.crop for face in faces.judged])
    assert len(np.unique(crops.reshape(len(crops), -1), axis=0)) == len(crops)
    few = aligner(judged="all", most=3).find(crowd)
    assert few.count == faces.count
    assert [face.box for face in few.judged] == [face.box for face in faces.judged[:3]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (36, 36)])
@pytest.mark.parametrize("value", [0, 255])
def test_plain_images_have_no_face(
    aligner: Callable[..., Aligner], shape: tuple[int, int], value: int
) -> None:
    assert aligner().find(np.full((*shape, 3), value, np.uint8)).count == 0


def test_a_view_of_an_image_is_read_as_it_looks(aligner: Callable[..., Aligner]) -> None:
    image = skimage.data.astronaut()
    mirrored = image[:, ::-1]
    (expected,) = aligner().find(mirrored.copy()).judged
    (found,) = aligner().find(mirrored).judged
    assert np.array_equal(found.crop, expected.crop)


@pytest.mark.parametrize("points", [68, 81])
def test_both_kinds_of_predictor_are_taken(predictors: Callable[[int], Path], points: int) -> None:
    path = predictors(points)
    assert load_predictor(path)[1] == points
    with pytest.raises(LoadError, match=f"places {points} points, not {149 - points}"):
        Aligner(path, alignment(path, points=149 - points))


def unusable(folder: Path, good: Path, five: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no predictor, each with what the refusal says."""
    contents = {
        "text": b"not a model at all, but a sentence\n" * 50,
        "empty": b"",
        "cut": good.read_bytes()[:-1000],
        "noise": np.random.default_rng(0).bytes(50_000),
        # Version 1, and a matrix of 2**40 rows.
        "bomb": b"\x01\x01" + b"\x06" + (1 << 40).to_bytes(6, "little") + b"\x01\x01" * 50,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    dlib.get_frontal_face_detector().save(str(folder / "detector"))
    dlib.shape_predictor().save(str(folder / "untrained"))
    no_predictor = "is not a dlib shape predictor, or is damaged"
    return {
        **{name: (folder / name, no_predictor) for name in (*contents, "detector")},
        "untrained": (folder / "untrained", "places 0 points on a face"),
        "five": (five, "places 5 points on a face; alignment needs .* 68 or 81"),
        "missing": (folder / "missing", "missing cannot be read: No such file"),
        "folder": (folder, "cannot be read: Is a directory"),
    }


def test_what_is_no_predictor_is_refused(tmp_path: Path, predictors: Callable[[int], Path]) -> None:
    for path, reason in unusable(tmp_path, predictors(81), predictors(5)).values():
        with pytest.raises(LoadError, match=reason) as refusal:
            load_predictor(path)
        assert "\n" not in str(refusal.value)
        assert re.search(re.escape(path.name), str(refusal.value))


def test_without_dlib_an_aligner_says_what_to_install(
    landmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = alignment(landmarks)
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(LoadError, match=r"pip install 'clip-deepfake\[faces\]'"):
        Aligner(landmarks, settings)


class Search:
    """Stands for the detector: finds two faces, the other one larger when all is searched."""

    def __init__(self, smaller: int) -> None:
        self.smaller = smaller
        self.whole: list[bool] = []

    def find(self, image: RGB, *, whole: bool = False) -> list[Box]:
        self.whole.append(whole)
        one, other = Box(0, 0, 99, 99), Box(200, 0, 199 + self.smaller, 99)
        return [one, Box(200, 0, 300, 99)] if whole else [one, other]


@pytest.mark.parametrize(
    ("shape", "smaller", "judged", "searches", "left"),
    [
        ((1000, 1000), 99, "largest", [True], 200),  # a small image
        ((1000, 1001), 99, "largest", [False, True], 200),  # in doubt
        ((2000, 2000), 99, "largest", [False, True], 200),
        ((2000, 2001), 99, "largest", [False], 0),  # a large one
        ((2000, 2000), 60, "largest", [False], 0),  # no doubt
        ((2000, 2000), 99, "all", [False], 0),  # no choice
    ],
)
def test_images_are_searched_whole_where_that_costs_little(
    aligner: Callable[..., Aligner],
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    smaller: int,
    judged: str,
    searches: list[bool],
    left: int,
) -> None:
    found, search = aligner(judged=judged), Search(smaller)
    monkeypatch.setattr(found, "_detector", search)
    first = found.find(np.zeros((*shape, 3), np.uint8)).judged[0]
    assert search.whole == searches
    assert first.box.left == left


def test_of_two_faces_of_one_size_the_default_search_takes_that_of_the_exact_one(
    aligner: Callable[..., Aligner],
) -> None:
    small = photograph(800, 1250, [(0, 30, 60, 400), (42, 700, 40, 398)])
    large = cv2.resize(small, (1600, 1024), interpolation=cv2.INTER_CUBIC)
    for image in (small, large):
        (face,) = aligner().find(image).judged
        expected = max(DETECT(image, 1), key=lambda box: box.area())
        assert face.box[:2] == (expected.left(), expected.top())


FIVE = np.array([[203, 101], [247, 103], [226, 125], [206, 141], [244, 142]], np.float32)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_matrix_is_scikit_images_to_the_bit(seed: int, mirrored: bool) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 4000, (5, 2)).astype(np.float32)
    target = template(224, 1.3)
    if mirrored:
        source = FIVE * np.float32([-1, 1]) + rng.integers(0, 9, (5, 2)).astype(np.float32)
    expected = SimilarityTransform.from_estimate(source, target).params[:2]
    assert np.array_equal(similarity(source, target), expected)


def test_the_template_is_the_published_one() -> None:
    found = similarity(FIVE, template(224, 1.3))
    assert np.array_equal(found, reference_matrix(FIVE))


def test_points_that_are_one_have_no_matrix() -> None:
    assert similarity(np.full((5, 2), 7, np.float32), template(224, 1.3)) is None


def test_points_on_a_line_have_one() -> None:
    line = np.array([[0, 0], [10, 10], [20, 20], [30, 30], [40, 40]], np.float32)
    matrix = similarity(line, template(224, 1.3))
    assert matrix is not None
    assert np.isfinite(matrix).all()
    scale = np.linalg.det(matrix[:, :2])
    assert scale > 0, "the face is turned, not mirrored"


def test_a_crops_points_are_placed_where_it_was_cut_out(landmarks: Path) -> None:
    aligner = Aligner(landmarks, FaceAlignment("p", "0" * 64, 81, size=224))
    points = np.array([[100, 100], [150, 110], [120, 140], [95, 170], [140, 178]], np.float32)
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    photo = cv2.resize(small, (300, 300), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    face = Face(Box(0, 0, 1, 1), points, photo)
    matrix = similarity(points, template(224, 1.3))
    assert matrix is not None
    crop = cv2.warpAffine(photo, matrix, (224, 224))
    there = np.array([(60.5, 70.5), (110.5, 100.5), (150.5, 160.5)], np.float32)
    placed = aligner.place(face, there)
    for (x, y), (px, py) in zip(there, placed, strict=True):
        expected = crop[int(y), int(x)].astype(float)
        assert np.abs(photo[int(py), int(px)] - expected).max() < 25
    assert len({tuple(row) for row in placed.round().tolist()}) == 3
