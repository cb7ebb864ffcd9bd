"""The actor, without Ray around it: rows of every kind, and faults that are no exceptions."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from clip_deepfake.detector import Detector
from clip_deepfake.errors import EngineLostError, LoadError, NoFaceError
from clip_deepfake.verdicts import FacePlace, JudgedFace, Verdict, to_fields
from deepfake_tools.bulk import scorer as module
from deepfake_tools.bulk.archive_copy import ArchiveCopy
from deepfake_tools.bulk.contents import Failed
from deepfake_tools.bulk.dataset import DataSet, Provenance, make_table
from deepfake_tools.bulk.digests import NameSet
from deepfake_tools.bulk.items import Item
from deepfake_tools.bulk.plan import Block, read_block, write_plan
from deepfake_tools.bulk.scorer import Job, ScoredBlock, ScoringActor, make_row
from deepfake_tools.inspection import ArchiveError
from deepfake_tools.storage import Location
from deepfake_tools.torchserve.answers import parse_verdict

from tests.unit.bulk.conftest import rows_of

ITEM = Item("a.png", "/data/a.png", 1)
JUDGED = {
    "label": "FAKE",
    "prediction": 1,
    "confidence": 0.75,
    "fake_probability": 0.75,
    "margin": 1.0986122886681098,
    "logits": (0.0, 1.0986123),
}
BLOCK = Block(0, 0, 0, 10)
BOX, OTHER_BOX = (1, 2, 30, 40), (-5, 0, 9, 9)


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(**JUDGED),
        Verdict(**JUDGED, decision="UNSURE", false_alarm_rate=0.03),
        Verdict(**JUDGED, face=FacePlace(False, 0)),
        Verdict(**JUDGED, face=FacePlace(True, 2, BOX, ())),
        Verdict(
            **JUDGED,
            face=FacePlace(True, 2, BOX, ()),
            faces=tuple(JudgedFace(**JUDGED, box=box, points=()) for box in (BOX, OTHER_BOX)),
        ),
    ],
)
def test_a_row_has_what_a_client_reads_off_the_served_answer(verdict: Verdict) -> None:
    short = ("model", "version", "head", "precision", "engine")
    answer = json.loads(json.dumps(to_fields(verdict)))
    served = parse_verdict(answer | {"detector": dict.fromkeys(short, "x")})
    (row,) = make_table([make_row(ITEM, verdict)], Provenance("0" * 64, {})).to_pylist()
    faces = served.faces
    assert row == {
        "path": "a.png",
        "margin": served.margin,
        "fake_probability": served.fake_probability,
        "label": served.label,
        "decision": served.decision,
        "faces": None
        if faces is None
        else [asdict(face) | {"box": list(face.box)} for face in faces],
        "error": None,
        "true_label": "FAKE",
    }


@pytest.mark.parametrize("result", [NoFaceError("none"), Failed("no_face")])
def test_an_error_is_a_row_with_its_code(result: NoFaceError | Failed) -> None:
    row = make_row(ITEM, result)
    assert {name: value for name, value in row.items() if value is not None} == {
        "path": "a.png",
        "true_label": "FAKE",
        "error": "no_face",
    }


@pytest.fixture
def job(archive: Path, tinted: Path, tmp_path: Path) -> Job:
    """Some images in one block of a plan."""
    paths = sorted((tinted / "real" / "clip_00").iterdir())
    items = [Item(path.name, str(path)) for path in paths]
    output = DataSet(Location(None, str(tmp_path / "scores")))
    write_plan(output.plan, items, NameSet(), may_repeat=False)
    copy = ArchiveCopy(str(archive), "0" * 64)
    return Job(copy, output.place.path, 1, (), None, 1, False)


def ask(scorer: ScoringActor) -> ScoredBlock:
    """Asks about the block, as Ray Data does."""
    block = asdict(BLOCK)
    (answer,) = zip(*scorer({n: np.array([v]) for n, v in block.items()}).values(), strict=True)
    return ScoredBlock(*answer)


@pytest.fixture
def scorer(
    job: Job, detector: Detector, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScoringActor:
    shutil.unpack_archive(archive, tmp_path / "unpacked", "zip")
    monkeypatch.setattr(ArchiveCopy, "unpacked", lambda self: tmp_path / "unpacked")
    monkeypatch.setattr(module, "load_detector", lambda *arguments: detector)
    return ScoringActor(job)


def test_a_block_becomes_a_part(scorer: ScoringActor, tmp_path: Path) -> None:
    assert ask(scorer) == ScoredBlock(0, images=10)
    assert (tmp_path / "scores" / "part-0001-000000.parquet").exists()


def test_no_space_for_a_part_is_a_fault_that_names_the_node(
    scorer: ScoringActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
        yield

    monkeypatch.setattr("deepfake_tools.storage.replacing_bytes", full)
    scored = ask(scorer)
    assert (scored.images, scored.exit_code) == (0, 14)
    assert scored.fault.startswith(f"cannot write {tmp_path / 'scores'}")
    assert ": No space left on device: make room" in scored.fault
    assert "(node " in scored.fault


def test_a_lost_device_and_a_mistake_of_ours_are_faults_too(
    scorer: ScoringActor, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, words in (
        (EngineLostError("it fell off the bus"), "was lost: it fell off the bus"),
        (ZeroDivisionError("ours"), "failed: ZeroDivisionError: ours"),
    ):

        def fail(images: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(detector, "judge", fail)
        scored = ask(scorer)
        assert (scored.images, scored.exit_code) == (0, 5)
        assert words in scored.fault


def test_an_archive_that_cannot_be_used_is_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: ArchiveCopy) -> Path:
        raise LoadError("its weights are others")

    monkeypatch.setattr(ArchiveCopy, "unpacked", damaged)
    scored = ask(ScoringActor(job))
    assert (scored.images, scored.exit_code) == (0, 15)
    assert scored.fault.startswith("the archive cannot be used on node ")
    assert scored.fault.endswith(": its weights are others")


class KilledError(BaseException):
    """Ends an attempt where it stands, as SIGKILL ends a process: nothing after it is written."""


def test_an_image_that_ends_its_process_each_time_is_given_up_and_no_other(
    job: Job, scorer: ScoringActor, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, eighth, _, _ = paths = sorted(job_images(job))
    right = detector.judge
    asked: list[int] = []

    def judge(images: list[bytes]) -> list[object]:
        asked.append(len(images))
        if eighth.read_bytes() in images:
            raise KilledError
        return list(right(images))

    monkeypatch.setattr(detector, "judge", judge)
    for _ in range(3):
        with pytest.raises(KilledError):
            ask(ScoringActor(job))
    scored = ask(ScoringActor(job))
    # Two attempts at all of them, one at one after the other, and then all but that one.
    assert asked == [10, 10, *[1] * 8, *[1] * 9]
    assert (scored.images, scored.failed, scored.passing) == (10, 1, 1)
    rows = rows_of(Path(job.output))
    assert rows.pop(eighth.name)["error"] == "worker_failed"
    verdicts = right([path.read_bytes() for path in paths if path != eighth])
    assert [row["margin"] for row in rows.values()] == pytest.approx(
        [verdict.margin for verdict in verdicts], abs=1e-5
    )


def job_images(job: Job) -> list[Path]:
    """The files of the job's only block."""
    return [
        Path(item.source) for item in read_block(DataSet(Location(None, job.output)).plan, BLOCK)
    ]


def test_an_archive_that_ends_each_process_that_opens_it_ends_the_run(
    job: Job, scorer: ScoringActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KilledError

    monkeypatch.setattr(module, "load_detector", killed)
    for _ in range(2):
        with pytest.raises(KilledError):
            ScoringActor(job)
    scored = ask(ScoringActor(job))
    assert scored.exit_code == ArchiveError.exit_code
    assert "has ended 2 times before it was done: is there memory enough?" in scored.fault
