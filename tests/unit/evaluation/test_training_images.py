"""The warning that a run is over the images that its detector was trained on."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.training_images import are_training_images
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.training.dataset import read_dataset
from deepfake_tools.training.features import FeatureTable
from deepfake_tools.training.training_set import make_training_set

from tests.unit.client_runs import Client
from tests.unit.evaluation.saved import DETECTOR, Evaluate, row, write_part
from tests.unit.torchserve_stub import StubServer, answer_each, json_reply, verdict

EACH = 12


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Images of which one is there twice."""
    for label in ("real", "fake"):
        (tmp_path / "faces" / label).mkdir(parents=True)
        for number in range(EACH):
            (tmp_path / "faces" / label / f"{number}.png").write_text(f"{label} {number}")
    (tmp_path / "faces" / "real" / "again.png").write_text("real 0")
    return tmp_path / "faces"


def trained_on(folder: Path) -> dict[str, object]:
    """What training says of a folder, by its own code, as a card has it."""
    images = read_dataset(folder, None).images
    digests = [hashlib.sha256(image.path.read_bytes()).digest() for image in images]
    features = np.zeros((len(images), 2), np.float32)
    data = make_training_set(FeatureTable(list(images), digests, features, [], 0)).history
    assert data.repeated == 1
    return {"trained_on": data.sha256, "trained_images": data.real + data.fake + data.repeated}


def outcomes_of(folder: Path) -> list[Outcome]:
    return [
        Outcome(i, str(path), int(path.parent.name == "fake"), path.parent.name, 0, 0.25, 0.1)
        for i, path in enumerate(sorted(folder.rglob("*.png")))
    ]


def found(outcomes: list[Outcome], said: dict[str, object]) -> bool:
    detector = DetectorInfo("m", None, "1", "trained", "float32", "openvino", **said)
    return are_training_images(outcomes, measure(outcomes), detector)


def test_the_images_of_training_are_known_whatever_they_are_called(faces: Path, tmp_path: Path):
    said = trained_on(faces)
    faces.rename(tmp_path / "others")
    assert found(outcomes_of(tmp_path / "others"), said)


def test_other_images_are_not(faces: Path):
    said = trained_on(faces)
    (faces / "real" / "3.png").write_text("another")
    assert not found(outcomes_of(faces), said)


def test_other_labels_are_not(faces: Path):
    said = trained_on(faces)
    (faces / "real" / "3.png").rename(faces / "fake" / "x.png")
    (faces / "fake" / "3.png").rename(faces / "real" / "x.png")
    assert not found(outcomes_of(faces), said)


def test_no_file_is_read_of_more_or_fewer_images(faces: Path, monkeypatch: pytest.MonkeyPatch):
    said = trained_on(faces)
    read: Counter[str] = Counter()
    module = "deepfake_tools.evaluation.training_images.read_regular"
    monkeypatch.setattr(module, lambda path: read.update([path]) or b"")
    assert not found(outcomes_of(faces)[1:], said)
    assert not found(outcomes_of(faces), {})
    assert not read


def test_images_that_are_gone_are_no_error(faces: Path):
    said = trained_on(faces)
    outcomes = outcomes_of(faces)
    (faces / "real" / "3.png").unlink()
    assert not found(outcomes, said)


def test_client_and_evaluate_both_warn(
    client: Client, evaluate: Evaluate, faces: Path, tmp_path: Path
):
    said = trained_on(faces)
    answer = verdict(0.75, "trained")
    answer["detector"] |= said
    with StubServer(lambda request: answer_each(request, lambda _: json_reply(answer))) as stub:
        asked = client(*("--image", "faces", "--json", "run.json"), server=stub.address)
        part = client(*("--image", "faces", "--limit", "20"), server=stub.address)
    warning = "warning: these are the images that the detector was trained on"
    assert warning in asked.err
    assert warning not in part.err
    assert warning in evaluate("run.json", "--output", "out.txt", "--report", "out.html").stderr
    assert "WARNING: these are the images that" in (tmp_path / "out.txt").read_text()
    assert "<strong>Warning: </strong>these are the images" in (tmp_path / "out.html").read_text()
    paths = sorted(path.relative_to(tmp_path) for path in faces.rglob("*.png"))
    rows = [row(str(path), 0.75) for path in paths]
    write_part(tmp_path / "s.parquet", rows, detector={**DETECTOR, **said})
    assert warning in evaluate("s.parquet").stderr
    # What the remedy names takes the warning away.
    listed = "".join(f"{path},{path.parent.name}\n" for path in paths[::3])
    (tmp_path / "head.held_out.csv").write_text(f"path,label\n{listed}")
    again = evaluate("run.json", "--labels", "head.held_out.csv")
    assert warning not in again.stderr
    assert f"{len(paths)} images (" in again.stdout
    assert f"{len(paths) - len(paths[::3])} without a label" in again.stdout
