"""calibrate.py by an archive, as a person runs it: what it prints, writes, counts and refuses."""

import json
import shutil
import zipfile
from pathlib import Path

import calibrate
import cv2
import numpy as np
import pytest
from clip_deepfake import detector as detector_module
from clip_deepfake.card import CARD_FILE, parse_card
from clip_deepfake.decision import parse_decision
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.client.images import Image
from deepfake_tools.deciding.calibrating import DecidingError, Judged, Rates, decide
from deepfake_tools.deciding.selection import Chosen
from deepfake_tools.packaging.hub import BuildError

from tests.building import Builder, unpack

HALF = ("--false-alarms", "0.5")


@pytest.fixture(scope="session")
def archive(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small CLIP under an untrained head."""
    return Builder(tmp_path_factory.mktemp("decided") / "store")("--model", small_clip).path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twenty different images in a folder of no meaning."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(20):
        cv2.imwrite(str(folder / f"IMG_{number:04}.png"), rng.integers(0, 256, (60, 60, 3)))
    return folder


def run(archive: Path, reals: Path, *words: object) -> int:
    output = reals.parent / "decision.json"
    command = ["--archive", archive, "--reals", reals, "--output", output, *words]
    return calibrate.main([str(word) for word in command])


def margins_of(archive: Path, folder: Path, paths: list[Path]) -> list[float]:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    verdicts = load_detector(folder).judge([path.read_bytes() for path in paths])
    return [verdict.margin for verdict in verdicts if isinstance(verdict, Verdict)]


def test_a_decision_goes_from_photographs_to_a_card(
    archive: Path, photographs: Path, small_clip: Path, builder: Builder, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(archive, photographs, "--false-alarms", "0.1", "--unsure", "0.3") == 0
    said = capsys.readouterr().out
    decision = parse_decision((tmp_path / "decision.json").read_bytes())
    margins = sorted(margins_of(archive, tmp_path / "x", sorted(photographs.iterdir())))
    # ceil(21 * 0.9) and ceil(21 * 0.7)
    assert (decision.fake_above, decision.real_up_to) == (margins[18], margins[14])
    assert decision.margins == margins
    assert "9.52 % of such real images on average" in said
    assert "head is untrained" in said

    built = builder("--model", small_clip, "--decision", tmp_path / "decision.json")
    card = parse_card((unpack(built, tmp_path / "built") / CARD_FILE).read_bytes())
    assert card.decision == decision
    assert card.decision.detector == card.fingerprint()
    fewer = ("--model", small_clip, "--preprocess", "own")
    with pytest.raises(BuildError, match="made for another detector"):
        builder(*fewer, "--decision", tmp_path / "decision.json")
    (tmp_path / "decision.json").write_bytes(decision.to_json().replace(b'": 20', b'": 200'))
    with pytest.raises(BuildError, match="contradicts itself"):
        builder("--model", small_clip, "--decision", tmp_path / "decision.json")
    with pytest.raises(BuildError, match="No such file"):
        builder("--model", small_clip, "--decision", tmp_path / "none.json")


def test_with_fakes_it_says_what_is_missed(
    archive: Path, tinted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reals = tmp_path / "reals"
    shutil.copytree(tinted / "real", reals)
    words = ("--fakes", tinted / "fake", "--one-per", "image", "--unsure", "0.1", *HALF)
    assert run(archive, reals, *words) == 0
    decision = parse_decision((tmp_path / "decision.json").read_bytes())
    fakes = sorted((tinted / "fake").rglob("*.png"))
    margins = np.array(margins_of(archive, tmp_path / "x", fakes))
    assert decision.fakes is not None
    assert decision.fakes.missed == (margins <= decision.fake_above).sum()
    assert (margins <= decision.real_up_to).mean() <= 0.1
    assert f"missed       {100 * decision.fakes.missed / 60:.3g} % of the fakes" in (
        capsys.readouterr().out
    )


def test_copies_and_frames_of_a_video_count_as_one(
    archive: Path, photographs: Path, tinted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        shutil.copy(photographs / "IMG_0000.png", photographs / f"copy {number}.png")
    assert run(archive, photographs, *HALF) == 0
    said = capsys.readouterr()
    assert "20 real" in said.out
    assert "5 repeat another" in said.err
    # Six folders of ten frames each, with one name but for its digits.
    videos = photographs.parent / "videos"
    shutil.copytree(tinted / "real", videos)
    assert run(archive, videos, *HALF) == 0
    said = capsys.readouterr()
    assert "6 real" in said.out
    assert "6 folders hold a video's frames and count as one image each (54 more" in said.err
    assert run(archive, videos, *HALF, "--one-per", "image") == 0
    assert "60 real" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(*words) == 1  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


def test_what_cannot_be_is_refused(
    archive: Path, photographs: Path, tinted: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert "takes 99 at least" in refused(capsys, archive, photographs)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no image" in refused(capsys, archive, empty)
    assert f"there is no {empty / 'x'}: name" in refused(capsys, archive, empty / "x")
    assert "60 of the 120 images" in refused(capsys, archive, tinted)
    assert "by --fakes" in refused(capsys, archive, tinted / "fake", *HALF)
    both = ("--fakes", photographs)
    assert "are the same image" in refused(capsys, archive, photographs, *both, *HALF)
    narrow = ("--unsure", "0.4")
    assert "leaves no band" in refused(capsys, archive, photographs, *narrow, *HALF)
    for path in photographs.iterdir():
        path.write_bytes(b"no image " + path.name.encode())
    assert "on none of the real images" in refused(capsys, archive, photographs, *HALF)
    assert not (tmp_path / "decision.json").exists()


def test_equal_scores_are_calibrated_and_said_to_be_equal(
    archive: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        detector_module, "run_pass", lambda _, pixels: np.zeros((len(pixels), 2), np.float32)
    )
    assert run(archive, photographs, *HALF) == 0
    assert "all margins are equal" in capsys.readouterr().out
    decision = json.loads((photographs.parent / "decision.json").read_text())
    assert set(decision["margins"]) == {0.0}


def test_margins_that_are_no_numbers_are_no_verdicts(
    archive: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        detector_module, "run_pass", lambda _, pixels: np.full((len(pixels), 2), np.nan, "f4")
    )
    assert "on none of the real images" in refused(capsys, archive, photographs, *HALF)


@pytest.mark.parametrize("margin", [float("nan"), float("inf")])
def test_a_margin_that_is_no_number_makes_no_decision(margin: float) -> None:
    images = [Chosen(Image(f"{number}.png", 0, ""), f"{number:064x}") for number in range(9)]
    judged = Judged(images, [0.5] * 8 + [margin])
    with pytest.raises(DecidingError, match=r"8\.png"):
        decide("0" * 64, Rates(0.1), judged, None)
