import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from deepfake_tools.client.images import Frame, Image
from deepfake_tools.client.journal import Identity, Journal, JournalError, open_journal
from deepfake_tools.errors import OutputError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.torchserve.answers import ServedFace, parse_verdict

from tests.unit.torchserve_stub import verdict

IMAGES = [Image(f"data/{index}.png", index % 2, "data") for index in range(4)]  # type: ignore[arg-type]
RUN = Identity("acme--clip", len(IMAGES), "digest")
DETECTOR = parse_verdict(verdict()).detector
LOST = replace(
    Outcome(3, "data/3.png", 1, "data", None, None, 1.0, "time_limit", "late"),
    retries=6,
    exit_code=7,
    is_passing=True,
)
REFUSED = replace(
    Outcome(1, "data/1.png", 1, "data", None, None, 0.1, "not_an_image", "no"), exit_code=1
)


def judged(index: int, probability: float = 0.0, variant: int = 0) -> Outcome:
    path, label, prediction = f"data/{index}.png", index % 2, int(probability > 0.5)
    outcome = Outcome(index, path, label, "data", prediction, probability, 0.25)
    return replace(outcome, variant=variant, retries=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.txt.partial.jsonl"


def opened(path: Path | None, *, resume: bool = False, run: Identity = RUN) -> Journal:
    return open_journal(path, run, IMAGES, resume=resume)


def test_what_comes_in_any_order_goes_out_in_that_of_the_images():
    journal = opened(None)
    journal.add([judged(2, 0.75), REFUSED], DETECTOR)
    journal.add([judged(0)], DETECTOR)
    assert [outcome.index for outcome in journal.outcomes()] == [0, 1, 2]
    first, refused, last = journal.outcomes()
    assert (first.path, first.label, first.folder) == ("data/0.png", 0, "data")
    assert (first.prediction, first.fake_probability, first.seconds) == (0, 0.0, 0.25)
    assert (refused.prediction, refused.error, refused.message) == (None, "not_an_image", "no")
    assert last.fake_probability == 0.75
    assert list(journal.missing()) == [3]
    assert not journal.is_complete


def test_a_second_session_knows_what_the_first_has_written(path: Path):
    first = opened(path)
    first.add([judged(2, 0.75)], DETECTOR)
    first.add([REFUSED, LOST], DETECTOR)
    first.close(remove=False)
    second = opened(path, resume=True)
    assert list(second.missing()) == [0, 3], "what was lost is asked again"
    assert second.detector == DETECTOR
    assert second.retries == 7
    assert second.seconds == pytest.approx(first.seconds, abs=1e-3)
    second.add([judged(0), judged(3, 0.5)], DETECTOR)
    assert second.is_complete
    assert [outcome.index for outcome in second.outcomes()] == [0, 1, 2, 3]
    assert list(second.outcomes())[:2] == [judged(0), REFUSED]


def test_faces_and_frames_outlast_a_session(path: Path):
    frames = [
        Image(f"a.mp4@00:0{number}.000", 1, "data", Frame("a.mp4", 25 * number, float(number)))
        for number in range(3)
    ]
    run = Identity("acme--clip", len(frames), "digest")
    faces = (
        ServedFace((-3, 4, 50, 60), 0.75, 1, 1.0986122886681098),
        ServedFace((7, 8, 9, 10), 0.125, 0, None),
    )
    outcomes = [
        Outcome(
            index=number,
            path=image.path,
            label=1,
            folder="data",
            prediction=1,
            fake_probability=0.75,
            seconds=0.25,
            video="a.mp4",
            time=float(number),
            frame=25 * number,
            faces=seen,
        )
        for number, (image, seen) in enumerate(zip(frames, (faces, (), None), strict=True))
    ]
    first = open_journal(path, run, frames, resume=False)
    first.add(outcomes, DETECTOR)
    assert list(first.outcomes()) == outcomes
    first.close(remove=False)
    assert list(open_journal(path, run, frames, resume=True).outcomes()) == outcomes
    *_, whole, unknown = path.read_text().splitlines()[:5]
    assert '"faces": []' in whole
    assert "faces" not in unknown, "a detector without faces fills no disk with them"


def test_a_journal_of_before_there_were_faces_is_gone_on_with(path: Path):
    first = opened(path)
    first.add([judged(0, 0.75)], DETECTOR)
    first.close(remove=False)
    assert "faces" not in path.read_text().splitlines()[2]
    (again,) = opened(path, resume=True).outcomes()
    assert (again.faces, again.video, again.time, again.frame) == (None, None, None, None)


@pytest.mark.parametrize("faces", [7, [7], [[1, 2]], [[1] * 8], {"a": 1}])
def test_damaged_faces_are_a_damaged_line(path: Path, faces: object):
    first = opened(path)
    first.add([judged(0, 0.75)], DETECTOR)
    first.close(remove=False)
    line = json.loads(path.read_text().splitlines()[2]) | {"place": 1, "faces": faces}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(JournalError, match="line 4 is damaged"):
        opened(path, resume=True)


def test_the_first_sessions_time_is_not_lost_when_a_third_one_begins(path: Path):
    for place in range(3):
        journal = opened(path, resume=True)
        before = journal.seconds
        journal.add([judged(place)], DETECTOR)
        assert journal.seconds > before
        journal.close(remove=False)


@pytest.mark.parametrize("torn", [b'{"place": 0, "sec', b'{"place": 0}', b"\xff"])
def test_a_torn_last_line_is_forgotten(path: Path, torn: bytes):
    journal = opened(path)
    journal.add([judged(1), judged(2)], DETECTOR)
    journal.close(remove=False)
    with path.open("ab") as file:
        file.write(torn)
    again = opened(path, resume=True)
    assert list(again.missing()) == [0, 3]
    again.add([judged(0)], DETECTOR)
    again.close(remove=False)
    assert list(opened(path, resume=True).missing()) == [3]


@pytest.mark.parametrize("line", ["no json", "[]", '{"place": 4}', '{"place": 99, "at": 1}', "7"])
def test_a_damaged_line_is_named(path: Path, line: str):
    journal = opened(path)
    journal.add([judged(1)], DETECTOR)
    journal.close(remove=False)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(JournalError, match=r"partial\.jsonl, line 4 is damaged"):
        opened(path, resume=True)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": "acme--other"}, "asked acme--clip, this one acme--other"),
        ({"images": 5}, "was over 4 images, this one is over 5"),
        ({"sha256": "x"}, "other images or labels"),
        ({"variants": ("", "jpeg=90")}, "another --perturb"),
    ],
)
def test_another_run_is_not_gone_on_with(path: Path, other: dict[str, object], words: str):
    journal = opened(path)
    journal.add([judged(1)], DETECTOR)
    journal.close(remove=False)
    with pytest.raises(JournalError, match=words):
        opened(path, resume=True, run=replace(RUN, **other))  # type: ignore[arg-type]


def test_an_unfinished_run_is_not_overwritten(path: Path):
    opened(path).close(remove=False)
    journal = opened(path)  # nothing was answered, nothing is lost
    journal.add([judged(1)], DETECTOR)
    journal.close(remove=False)
    with pytest.raises(JournalError, match="holds an unfinished run: go on with --resume"):
        opened(path)


def test_two_runs_do_not_write_one_journal(path: Path):
    journal = opened(path)
    with pytest.raises(JournalError, match="another run is writing"):
        opened(path, resume=True)
    journal.close(remove=True)
    assert not path.exists()


def test_perturbed_answers_lie_behind_the_plain_ones():
    journal = opened(None, run=replace(RUN, variants=("", "jpeg=90")))
    journal.add([judged(0), judged(0, 0.75, variant=1), judged(3, variant=1)], DETECTOR)
    assert [outcome.index for outcome in journal.outcomes()] == [0]
    assert [(o.index, o.path) for o in journal.outcomes(1)] == [
        (0, "data/0.png"),
        (3, "data/3.png"),
    ]
    assert (journal.places, journal.done) == (8, 3)


class FullDisk(io.BytesIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_an_error_of_one_line(path: Path):
    with pytest.raises(OutputError, match="cannot write the journal: No space left on device"):
        Journal(FullDisk(), RUN, IMAGES).add([judged(0)], DETECTOR)


def test_a_folder_that_is_not_there_is_an_error_of_one_line(path: Path):
    with pytest.raises(OutputError, match="No such file or directory; see --output"):
        opened(path.parent / "gone" / "x.jsonl")
