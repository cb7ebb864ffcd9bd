"""int8 archives of a small encoder: what their card says, and which are refused."""

import hashlib
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import build_mar
import numpy as np
import pytest
from clip_deepfake import system as cores
from clip_deepfake.card import Deviation, Quantization, read_card
from clip_deepfake.detector import Detector, Submission
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.image_files import find_images
from deepfake_tools.packaging import quantization
from deepfake_tools.packaging.hub import BuildError
from sklearn.metrics import roc_auc_score

from tests import ROOT
from tests.building import Builder, unpack
from tests.forking import Fork
from tests.portraits import encode, photograph
from tests.unit.conftest import Pair

INT8 = ("--precision", "int8", "--calibration")


def halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files that calibrate, and those that do not."""
    paths = list(find_images(folder))
    random.Random(0).shuffle(paths)
    return paths[: len(paths) // 2], paths[len(paths) // 2 :]


def probabilities(detector: Detector, paths: list[Path]) -> np.ndarray:
    verdicts = detector.judge([path.read_bytes() for path in paths])
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    return np.array([verdict.fake_probability for verdict in verdicts])


def digest_of(paths: list[Path]) -> str:
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def some(source: Path, folder: Path, images: int) -> Path:
    """Copies so many images, of either label in turn, into a flat folder."""
    kinds = [sorted((source / kind).rglob("*.png")) for kind in ("real", "fake")]
    folder.mkdir()
    for number in range(images):
        shutil.copy(kinds[number % 2][number // 2], folder / f"{number}.png")
    return folder


@pytest.fixture
def refused(
    small_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a build of int8 that must fail; returns its last line on stderr."""

    def call(folder: Path, *options: str, code: int = 1) -> str:
        store = tmp_path / "store"
        words = ["--model", small_clip, "--export-path", store, *INT8, folder, *options]
        try:
            found = build_mar.main([str(word) for word in words])
        except SystemExit as end:
            found = end.code
        said, errors = capfd.readouterr()
        assert (found, said) == (code, "")
        assert not list(store.glob("**/*"))
        return errors.splitlines()[-1]

    return call


def test_the_cards_figures_are_those_of_two_detectors_asked_from_outside(
    pair: Pair, tinted: Path
) -> None:
    calibrated, measured = halves(tinted)
    float32, int8 = map(load_detector, (pair.float32_folder, pair.int8_folder))
    before, after = (probabilities(detector, measured) for detector in (float32, int8))
    truth = ["fake" in path.relative_to(tinted).parts for path in measured]
    card = read_card(pair.int8_folder)
    done, found = card.quantization, card.deviation
    assert isinstance(done, Quantization)
    assert isinstance(found, Deviation)
    assert (done.calibrated, found.images) == (len(calibrated), len(measured)) == (60, 60)
    assert found.mean_change == pytest.approx(np.abs(after - before).mean(), abs=2e-6)
    assert found.largest_change == pytest.approx(np.abs(after - before).max(), abs=2e-6)
    assert found.agreement == pytest.approx(((before > 0.5) == (after > 0.5)).mean(), abs=1e-6)
    assert found.float32_auc == pytest.approx(roc_auc_score(truth, before), abs=1e-6)
    assert found.auc == pytest.approx(roc_auc_score(truth, after), abs=1e-6)
    assert (done.sha256, found.sha256) == (digest_of(calibrated), digest_of(measured))
    assert (found.source, found.measured_on) == ("calibration", int8.engine.name)
    assert 0 < found.mean_change < found.largest_change
    assert 0.02 < abs(found.auc - 0.5) < 0.5, "an AUC that says something"


def test_calibration_sees_its_own_half_alone(
    small_clip: Path, tinted: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    seen = []

    def stop(graph: object, pixels: np.ndarray, **options: object) -> None:
        seen.append(pixels)
        raise BuildError("enough")

    monkeypatch.setattr(quantization, "_calibrate", stop)
    with pytest.raises(BuildError, match="enough"):
        builder("--model", small_clip, *INT8, tinted)
    calibrated, _ = halves(tinted)
    images = [Submission(path.read_bytes()) for path in calibrated]
    prepared = load_detector(pair.float32_folder).preparer.prepare(images)
    assert np.array_equal(
        np.concatenate(seen), np.concatenate([image.pictures for image in prepared])
    )


def test_the_archive_holds_one_copy_of_the_encoder(pair: Pair) -> None:
    with zipfile.ZipFile(pair.int8.path) as archive:
        names = [name for name in archive.namelist() if not name.endswith((".py", ".yaml"))]
    weights = ["encoder.bin", "encoder.xml", "head.safetensors"]
    assert names == ["MAR-INF/MANIFEST.json", "detector.json", *weights]
    card = read_card(pair.int8_folder)
    assert sorted(card.files) == weights
    assert (card.precision, card.version) == ("int8", "2")
    assert {"nncf", "openvino"} <= set(card.built_with)
    # A byte a weight instead of four; the small encoder's biases and graph weigh more than usual.
    sizes = [
        (folder / name).stat().st_size
        for folder, name in (
            (pair.int8_folder, "encoder.bin"),
            (pair.float32_folder, "encoder.safetensors"),
        )
    ]
    assert sizes[0] < 0.5 * sizes[1]


def test_what_it_did_is_said(pair: Pair) -> None:
    assert "calibrating on 60 images, measuring on 60 others ..." in pair.notes
    assert pair.int8.card.deviation is not None
    (line,) = [note for note in pair.notes if note.startswith("int8 changes")]
    assert f"{pair.int8.card.deviation.mean_change:.4f} on average" in line
    assert "of 60 labels are the same; AUC 0." in line


def test_equal_builds_give_equal_archives(
    small_clip: Path, tinted: Path, pair: Pair, commands: Fork, tmp_path: Path
) -> None:
    """The second in this process, and one in its own."""
    words = ["--model", str(small_clip), "--version", "2", *INT8, str(tinted)]
    assert Builder(tmp_path / "again")(*words).sha256 == pair.int8.sha256
    child = commands.run(
        *(ROOT / "scripts" / "build_mar.py", *words, "--export-path", tmp_path / "apart"),
        env={"HOME": str(tmp_path / "home"), "PATH": ""},
    )
    assert child.returncode == 0, child.stderr
    assert f"sha256       {pair.int8.sha256}" in child.stdout
    # NNCF's progress is no result, and it has nobody to report to.
    assert all(line.split()[0].isidentifier() for line in child.stdout.splitlines())
    assert not (tmp_path / "home").exists()
    assert not commands.home.exists()


def test_broken_and_repeated_images_are_left_out(
    small_clip: Path, tinted: Path, builder: Builder, tmp_path: Path
) -> None:
    folder = some(tinted, tmp_path / "images", 24)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "empty.png").touch()
    shutil.copy(folder / "0.png", folder / "again.png")
    card = builder("--model", small_clip, *INT8, folder).card
    assert card.quantization is not None
    assert card.deviation is not None
    assert (card.quantization.calibrated, card.deviation.images) == (12, 12)
    assert card.deviation.float32_auc is None, "a flat folder tells no labels"
    assert card.deviation.auc is None
    assert "3 of its images are left out: broken or repeated" in builder.notes


def test_labels_that_change_are_too_much(
    tinted: Path, pair: Pair, refused: Callable[..., str]
) -> None:
    _, measured = halves(tinted)
    before, after = (
        probabilities(load_detector(folder), measured)
        for folder in (pair.float32_folder, pair.int8_folder)
    )
    # Between the two probabilities of one image, whose label it changes.
    widest = int(np.abs(after - before).argmax())
    threshold = (before[widest] + after[widest]) / 2
    same = ((before > threshold) == (after > threshold)).mean()
    assert same < 0.99
    line = refused(tinted, "--threshold", str(threshold))
    assert f"{same:.2%} of labels agree, fewer than 99%" in line
    assert "--max-deviation" not in line
    assert "--calibration more images" in line
    assert "--precision float32" in line


def test_a_mean_change_above_the_limit_is_too_much(
    tinted: Path, pair: Pair, refused: Callable[..., str]
) -> None:
    line = refused(tinted, "--max-deviation", "0.0001")
    assert pair.int8.card.deviation is not None
    change = pair.int8.card.deviation.mean_change
    assert f"the mean change {change:.4f} is above --max-deviation 0.0001" in line
    assert "of labels agree" not in line


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "nowhere is no folder"),
        (0, "holds 0 images that can be used, and at least 20 are needed"),
        (19, "holds 19 images that can be used, and at least 20 are needed"),
    ],
)
def test_too_few_images_are_refused(
    tinted: Path, tmp_path: Path, refused: Callable[..., str], images: int | None, message: str
) -> None:
    folder = tmp_path / "nowhere"
    if images is not None:
        some(tinted, folder, images)
    assert message in refused(folder)


def test_a_file_is_no_folder(tinted: Path, refused: Callable[..., str]) -> None:
    assert "is no folder" in refused(next(tinted.rglob("*.png")))


def test_int8_is_not_torchs(tinted: Path, refused: Callable[..., str]) -> None:
    assert "leave out --engine torch" in refused(tinted, "--engine", "torch", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "--precision int8 needs --calibration DIR"),
        (["--calibration", "."], "--calibration is for --precision int8"),
        (["--max-deviation", "0.1"], "--max-deviation is for --precision int8"),
        (["--overflow-fix"], "--overflow-fix is for --precision int8"),
        (["--max-deviation", "2"], "'2' is not a share between 0 and 1"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_mar.parse_arguments(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("library", ["nncf", "openvino"])
def test_without_the_extra_it_says_what_to_install(
    tinted: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    line = refused(tinted)
    assert library in line
    assert "int8]'" in line


def test_a_processor_that_cannot_measure_is_refused(
    tinted: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse avx2\n")
    monkeypatch.setattr(cores, "CPU_FLAGS", tmp_path / "cpuinfo")
    assert "no int8 dot product (VNNI)" in refused(tinted)


def test_the_overflow_fix_builds_and_serves_without_vnni(
    small_clip: Path,
    tinted: Path,
    pair: Pair,
    builder: Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse avx2\n")
    monkeypatch.setattr(cores, "CPU_FLAGS", tmp_path / "cpuinfo")
    built = builder("--model", small_clip, *INT8, tinted, "--overflow-fix")
    folder = unpack(built, tmp_path / "unpacked")
    assert load_detector(folder).engine.name.startswith("openvino cpu int8 and ")
    assert built.card.quantization is not None
    assert built.card.quantization.overflow_fix
    weights = np.fromfile(folder / "encoder.bin", np.int8)
    wide = np.fromfile(pair.int8_folder / "encoder.bin", np.int8)
    assert weights.shape == wide.shape
    assert not np.array_equal(weights, wide)


def test_faces_are_calibrated_and_measured_as_crops(
    small_clip: Path, landmarks: Path, builder: Builder, tmp_path: Path
) -> None:
    folder = tmp_path / "portraits"
    folder.mkdir()
    for number in range(24):
        image = photograph(200, 200, [(number, 10, 10, 180)])
        (folder / f"{number}.png").write_bytes(encode(image))
    options = ("--model", small_clip, "--landmark-model", landmarks)
    int8 = builder(*options, *INT8, folder)
    float32 = builder(*options)
    assert int8.card.faces == float32.card.faces
    _, measured = halves(folder)
    before, after = (
        probabilities(load_detector(unpack(built, tmp_path / built.card.version)), measured)
        for built in (float32, int8)
    )
    assert int8.card.deviation is not None
    change = np.abs(after - before)
    assert int8.card.deviation.mean_change == pytest.approx(change.mean(), abs=2e-6)
    assert int8.card.deviation.largest_change == pytest.approx(change.max(), abs=2e-6)
