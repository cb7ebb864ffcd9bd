"""Archives that align faces: built by the command, loaded as a worker does, judged."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import build_mar
import cv2
import dlib
import numpy as np
import pytest
import torch
from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import (
    ENGINE_CONSTANTS,
    LANDMARKS_FILE,
    Card,
    DataHistory,
    HeadCard,
    Scores,
    TrainingHistory,
    read_card,
)
from clip_deepfake.detector import Detector
from clip_deepfake.errors import LoadError
from clip_deepfake.faces import Aligner, FaceAlignment
from clip_deepfake.loading import load_detector
from clip_deepfake.protocol import form_answer
from clip_deepfake.questions import Question
from clip_deepfake.verdicts import Verdict
from clip_deepfake.worker import open_worker
from deepfake_tools.packaging.heads import TrainedHead, write_head_file

from tests.portraits import encode, photograph
from tests.reference_alignment import reference_crop

Result = subprocess.CompletedProcess[str]
Build = Callable[..., Path]


@pytest.fixture
def run(
    small_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs build_mar.py on the small CLIP, into ``tmp_path/store``."""

    def call(*options: str | Path) -> Result:
        arguments = ["--model", small_clip, "--export-path", tmp_path / "store", *options]
        try:
            code = build_mar.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return subprocess.CompletedProcess([], code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def build(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds, once with the same options, and returns the unpacked archive."""

    @cache
    def call(*options: str | Path) -> Path:
        folder = tmp_path_factory.mktemp("built")
        arguments = ["--model", small_clip, "--export-path", folder, *options]
        assert build_mar.main([str(argument) for argument in arguments]) == 0
        (archive,) = folder.glob("*.mar")
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder / "unpacked")
        return folder / "unpacked"

    return call


def portrait(number: int) -> bytes:
    return encode(photograph(500, 600, [(number, 150, 100, 280)]))


def pixels(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


def verdicts(detector: Detector, *images: bytes) -> list[Verdict]:
    found = detector.judge(images)
    assert all(isinstance(verdict, Verdict) for verdict in found), found
    return found  # type: ignore[return-value]


def test_a_batch_of_8_mixed_images(build: Build, landmarks: Path, examples: list[Path]) -> None:
    """4 with a face, 2 without, 2 broken: each its own right answer."""
    aligning = load_detector(build("--landmark-model", landmarks, "--face-detection", "exact"))
    plain = load_detector(build())
    (astronaut,) = [path.read_bytes() for path in examples if path.stem == "astronaut"]
    cat, coffee = [path.read_bytes() for path in examples if path.stem in ("cat", "coffee")]
    with_face = [astronaut, portrait(0), portrait(21), portrait(42)]
    batch = [*with_face[:2], cat, b"no image", *with_face[2:], coffee, astronaut[:5000]]
    found = aligning.judge(batch)
    codes = {3: "not_an_image", 7: "truncated_image"}
    assert {i: v.code for i, v in enumerate(found) if not isinstance(v, Verdict)} == codes
    for data, verdict in zip(batch, found, strict=True):
        if not isinstance(verdict, Verdict):
            continue
        assert verdict.face is not None
        assert verdict.face.found == (data in with_face)
        # Without a face the whole image is judged.
        crop = reference_crop(pixels(data), str(landmarks))
        (expected,) = verdicts(plain, data if crop is None else encode(crop))
        assert verdict.fake_probability == pytest.approx(expected.fake_probability, abs=1e-5)


def test_the_answer_says_which_face_was_judged(build: Build, landmarks: Path) -> None:
    folder = build("--landmark-model", landmarks)
    detector, identity = load_detector(folder), read_card(folder).short() | {"engine": "stub"}
    image = portrait(21)
    box = dlib.get_frontal_face_detector()(pixels(image), 1)[0]
    answer = form_answer(detector.judge([image]), identity)
    body = json.loads(answer.body)
    assert body["face"]["found"] is True
    assert body["face"]["count"] == 1
    assert body["face"]["box"] == [box.left(), box.top(), box.right(), box.bottom()]
    assert np.shape(body["face"]["points"]) == (5, 2)
    assert "faces" not in body
    assert body["detector"]["faces"] == "largest"


def test_the_face_that_speaks_is_explained_where_it_lies(build: Build, landmarks: Path) -> None:
    """What lies between the corners, cut out again, is the crop of the highest face."""
    folder = build("--landmark-model", landmarks, "--faces", "all")
    worker = open_worker(folder, None, None)
    image = encode(photograph(500, 900, [(0, 60, 150, 280), (21, 520, 150, 280)]))
    (answer,) = worker.answer([Question({"data": image}, explain=True)]).answers
    told = json.loads(answer.body)
    assert told["face"]["count"] == 2
    assert told["explanation"]["margin"] == max(face["margin"] for face in told["faces"])
    corners = np.array(told["explanation"]["corners"], np.float32)
    size = read_card(folder).faces.size  # type: ignore[union-attr]
    corner = np.array([(0, 0), (size, 0), (size, size)], np.float32)
    # Both from the outer edges to the middles of pixels.
    matrix = cv2.getAffineTransform(corners[:3] - 0.5, corner - 0.5)
    again = cv2.warpAffine(pixels(image), matrix, (size, size))
    aligner = Aligner(folder / LANDMARKS_FILE, read_card(folder).faces)  # type: ignore[arg-type]
    crops = {face.box: face.crop for face in aligner.find(pixels(image)).judged}
    apart = {box: np.abs(crop.astype(int) - again).mean() for box, crop in crops.items()}
    spoke = tuple(told["face"]["box"])
    assert apart[spoke] < 2
    assert all(off > 10 for box, off in apart.items() if box != spoke)


def test_an_image_without_a_face_is_explained_as_a_whole(
    build: Build, landmarks: Path, examples: list[Path]
) -> None:
    (cat,) = [path.read_bytes() for path in examples if path.stem == "cat"]
    worker = open_worker(build("--landmark-model", landmarks), None, None)
    (answer,) = worker.answer([Question({"data": cat}, explain=True)]).answers
    height, width = pixels(cat).shape[:2]
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    assert json.loads(answer.body)["explanation"]["corners"] == corners


def test_an_answer_without_a_face_says_so(
    build: Build, landmarks: Path, examples: list[Path]
) -> None:
    (cat,) = [path.read_bytes() for path in examples if path.stem == "cat"]
    detector = load_detector(build("--landmark-model", landmarks))
    answer = form_answer(detector.judge([cat]), {})
    assert json.loads(answer.body)["face"] == {"found": False, "count": 0}


def test_an_archive_that_aligns_nothing_answers_as_before(
    build: Build, examples: list[Path]
) -> None:
    detector = load_detector(build())
    image = examples[0].read_bytes()
    body = json.loads(form_answer(detector.judge([image]), {}).body)
    assert not {"face", "faces"} & set(body)
    assert "faces" not in read_card(build()).short()


def test_where_a_face_is_required_an_image_without_is_an_error(
    build: Build, landmarks: Path, examples: list[Path]
) -> None:
    (cat,) = [path.read_bytes() for path in examples if path.stem == "cat"]
    detector = load_detector(build("--landmark-model", landmarks, "--on-no-face", "error"))
    refused, judged = detector.judge([cat, portrait(0)])
    assert (getattr(refused, "code", None), getattr(refused, "status", None)) == ("no_face", 422)
    assert isinstance(judged, Verdict)


def test_all_faces_of_a_group_are_judged_and_the_worst_speaks_for_it(
    build: Build, landmarks: Path
) -> None:
    every = load_detector(build("--landmark-model", landmarks, "--faces", "all"))
    plain = load_detector(build())
    placed = [(n, 30 + i * 300, 60, 200 + i * 20) for i, n in enumerate((0, 7, 21, 42))]
    group = photograph(420, 1300, placed)
    (verdict,) = verdicts(every, encode(group))
    assert verdict.faces is not None
    assert len(verdict.faces) == 4
    assert verdict.face is not None
    assert verdict.face.count == 4
    worst = max(verdict.faces, key=lambda face: face.fake_probability)
    assert verdict.fake_probability == worst.fake_probability
    assert (verdict.label, verdict.logits) == (worst.label, worst.logits)
    assert (verdict.face.box, verdict.face.points) == (worst.box, worst.points)
    # The largest one's own verdict is the one of the archive that judges the largest alone.
    largest = load_detector(build("--landmark-model", landmarks))
    (alone,) = verdicts(largest, encode(group))
    assert verdict.faces[0].fake_probability == pytest.approx(alone.fake_probability, abs=1e-6)
    assert len({face.fake_probability for face in verdict.faces}) == 4
    crop = reference_crop(group, str(landmarks))
    assert crop is not None
    (expected,) = verdicts(plain, encode(crop))
    assert verdict.faces[0].fake_probability == pytest.approx(expected.fake_probability, abs=1e-5)


def test_a_group_without_faces_is_judged_whole(
    build: Build, landmarks: Path, examples: list[Path]
) -> None:
    detector = load_detector(build("--landmark-model", landmarks, "--faces", "all"))
    (verdict,) = verdicts(detector, examples[1].read_bytes())
    (whole,) = verdicts(load_detector(build()), examples[1].read_bytes())
    assert verdict.faces == ()
    assert verdict.fake_probability == pytest.approx(whole.fake_probability, abs=1e-6)


def test_a_photograph_on_its_side_is_aligned_as_it_stands_upright(
    build: Build, landmarks: Path
) -> None:
    from PIL import Image

    upright = Image.open(io.BytesIO(portrait(0)))
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    detector = load_detector(build("--landmark-model", landmarks))
    turned, straight = verdicts(detector, stored.getvalue(), portrait(0))
    assert turned.face == straight.face
    assert turned.face is not None
    assert turned.face.found


def test_the_card_tells_of_the_predictor_and_the_worker_checks_it(
    build: Build, landmarks: Path, tmp_path: Path
) -> None:
    options = ("--faces", "all", "--on-no-face", "error")
    folder = tmp_path / "copy"
    shutil.copytree(build("--landmark-model", landmarks, *options), folder)
    card = read_card(folder)
    digest = file_digest(landmarks)
    assert card.faces == FaceAlignment(landmarks.name, digest, 81, "all", "error")
    assert card.files[LANDMARKS_FILE] == digest
    assert card.built_with["dlib"] == dlib.__version__
    assert str(landmarks.parent) not in card.to_json().decode()
    damaged = bytearray((folder / LANDMARKS_FILE).read_bytes())
    damaged[-5] ^= 1
    (folder / LANDMARKS_FILE).write_bytes(damaged)
    with pytest.raises(LoadError, match=r"landmarks.dat is damaged"):
        load_detector(folder)


def test_equal_inputs_give_equal_archives(
    run: Callable[..., Result], landmarks: Path, tmp_path: Path
) -> None:
    stores = [tmp_path / "a", tmp_path / "b"]
    for store in stores:
        assert run("--landmark-model", landmarks, "--export-path", store).returncode == 0
    one, other = (next(store.glob("*.mar")).read_bytes() for store in stores)
    assert one == other


def test_a_worker_without_dlib_says_what_to_install(
    build: Build, landmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligning, plain = build("--landmark-model", landmarks), build()
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(LoadError, match=r"pip install 'clip-deepfake\[faces\]'"):
        load_detector(aligning)
    load_detector(plain)


def test_a_builder_without_dlib_says_what_to_install(
    run: Callable[..., Result], landmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    result = run("--landmark-model", landmarks)
    assert result.returncode == 1
    assert "pip install 'clip-deepfake[faces]'" in result.stderr
    assert not (tmp_path / "store").exists()


def test_what_is_no_predictor_is_refused_before_anything_is_fetched(
    run: Callable[..., Result], tmp_path: Path, predictors: Callable[[int], Path]
) -> None:
    letter = tmp_path / "letter.dat"
    letter.write_text("Dear reader,")
    for path, reason in (
        (letter, "letter.dat is not a dlib shape predictor"),
        (predictors(5), "places 5 points on a face; alignment needs a predictor of 68 or 81"),
        (tmp_path / "none.dat", "none.dat cannot be read: No such file or directory"),
    ):
        result = run("--landmark-model", path)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("build_mar.py: ")
        assert reason in line
        assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "options", [["--faces", "all"], ["--on-no-face", "whole"], ["--face-detection", "exact"]]
)
def test_options_about_faces_need_a_predictor(
    run: Callable[..., Result], options: list[str]
) -> None:
    result = run(*options)
    assert result.returncode == 2
    assert f"{options[0]} says how faces are aligned: give --landmark-model too" in result.stderr


def test_it_prints_how_faces_are_aligned(run: Callable[..., Result], landmarks: Path) -> None:
    assert "faces " not in run().stdout
    assert f"largest, aligned by {landmarks.name}" in run("--landmark-model", landmarks).stdout


@pytest.fixture
def head_file(build: Build, tmp_path: Path) -> Callable[[FaceAlignment | None], Path]:
    """Writes a head as train.py would, trained on the small CLIP."""
    from deepfake_tools.packaging.heads import tower_digest
    from safetensors.torch import load_file

    folder = build()
    card = read_card(folder)
    tower = load_file(folder / "encoder.safetensors")
    del tower[ENGINE_CONSTANTS]  # of the graph, not of the encoder

    def write(faces: FaceAlignment | None) -> Path:
        path = tmp_path / "trained.safetensors"
        head = HeadCard("trained", "for tests", "pooler_output", False, 1, (0,), 0.5)
        trained = TrainedHead(
            1, card.model, tower_digest(tower), card.preprocessing, head, history(card), faces
        )
        weight = torch.ones(1, card.encoder.features["pooler_output"])
        write_head_file(path, trained, weight, torch.zeros(1))
        return path

    return write


def history(card: Card) -> TrainingHistory:
    return TrainingHistory(
        data=DataHistory(2, 2, 0, 0, 2, card.files["encoder.safetensors"]),
        kept_together="image",
        seed=0,
        strength=1.0,
        folds=2,
        cross_validated_auc=0.5,
        cross_validated_auc_std=0.0,
        held_out=Scores(1, 1, 0.5, 0.5, 0.5),
        balanced_threshold=0.5,
        target_fpr=None,
        target_fpr_threshold=None,
        made_with={},
    )


def test_a_head_trained_on_faces_is_packed_with_its_own_predictor_only(
    head_file: Callable[[FaceAlignment | None], Path],
    run: Callable[..., Result],
    predictors: Callable[[int], Path],
) -> None:
    landmarks = predictors(81)
    faces = FaceAlignment(landmarks.name, file_digest(landmarks), 81)
    on_faces = head_file(faces)
    missing = run("--weights", on_faces)
    assert missing.returncode == 1
    assert f"faces aligned by {landmarks.name}; give that file with --landmark-model" in (
        missing.stderr
    )
    other = run("--weights", on_faces, "--landmark-model", predictors(68))
    assert other.returncode == 1
    assert f"{predictors(68).name} is another file" in other.stderr
    built = run("--weights", on_faces, "--landmark-model", landmarks)
    assert built.returncode == 0, built.stderr


def test_a_head_trained_on_whole_images_is_not_packed_with_a_predictor(
    head_file: Callable[[FaceAlignment | None], Path], run: Callable[..., Result], landmarks: Path
) -> None:
    result = run("--weights", head_file(None), "--landmark-model", landmarks)
    assert result.returncode == 1
    assert "trained on images as they are, not on aligned faces" in result.stderr
