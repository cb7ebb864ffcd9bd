import re
from pathlib import Path

import pytest
from deepfake_tools.answers import parse_verdict
from deepfake_tools.failures import ImageError
from deepfake_tools.results import Outcome, format_results, write_results

from tests.unit.torchserve_stub import verdict

# The line as a parser of the research script's own file has it.
LINE = re.compile(
    r"\[(?P<i>\d+)/(?P<n>\d+)\] (?P<name>.{30,}) \| True: (?P<true>REAL|FAKE| N/A) \| "
    r"Pred: (?P<pred>[01]) \(0=Real, 1=Fake\) \| Prob: (?P<prob>[01]\.\d{4}) \| Path: (?P<path>.+)"
)


def judged(path: str, fake_probability: float) -> Outcome:
    return Outcome(Path(path), parse_verdict(verdict(fake_probability)))


def failed(path: str) -> Outcome:
    return Outcome(Path(path), ImageError("the file is empty"))


def predictions(text: str) -> list[re.Match[str]]:
    return [match for line in text.splitlines() if (match := LINE.fullmatch(line))]


def test_the_head_of_the_file():
    lines = format_results([judged("a.jpg", 0.75)]).splitlines()
    assert lines[:2] == ["Deepfake Detection Results (HuggingFace Model)", "=" * 80]
    assert lines[2] == (
        "[1/1]                          a.jpg | True:  N/A | Pred: 1 (0=Real, 1=Fake) | "
        "Prob: 0.7500 | Path: a.jpg"
    )


def test_prob_is_the_probability_of_fake_of_a_real_image_too():
    text = format_results([judged("in/a.jpg", 0.75), judged("in/b.jpg", 0.12344)])
    assert [line.group("i", "n", "pred", "prob", "path") for line in predictions(text)] == [
        ("1", "2", "1", "0.7500", "in/a.jpg"),
        ("2", "2", "0", "0.1234", "in/b.jpg"),
    ]


def test_a_long_name_is_not_cut():
    name = "x" * 40 + ".jpg"
    (line,) = predictions(format_results([judged(name, 0.5)]))
    assert line["name"] == name


def test_a_failed_image_is_listed_and_not_counted():
    text = format_results([judged("a.jpg", 0.75), failed("b.jpg"), judged("c.jpg", 0.25)])
    assert [line["i"] for line in predictions(text)] == ["1", "3"]
    assert "Total images processed: 2\n" in text
    listed = text.split("FAILED IMAGES: 1\n")[1]
    assert listed == f"[2/3] {'b.jpg':>30} | Failed: the file is empty | Path: b.jpg\n"


def test_the_metrics_stand_between_rules():
    rule = "=" * 80
    text = format_results([judged("a.jpg", 0.75), judged("b.jpg", 0.75)])
    section = text.split(f"{rule}\nPERFORMANCE METRICS\n{rule}\n")[1]
    assert section.startswith(
        "Total images processed: 2\nReal images: 0\nFake images: 0\n"
        "AUC and PR-AUC do not apply: no image has a true label"
    )
    assert section.endswith(f"\n{rule}\n")


def test_one_image_has_no_auc():
    assert "AUC and PR-AUC do not apply to one image" in format_results([judged("a.jpg", 0.75)])


def test_a_line_break_in_a_name_breaks_no_line():
    (line,) = predictions(format_results([judged("d/a\nb\x85c.jpg", 0.75)]))
    assert line["name"].strip() == "a?b?c.jpg"
    assert line["path"] == "d/a?b?c.jpg"


def test_the_file_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "results.txt"
    path.write_text("old")
    outcomes = [judged("a.jpg", 0.75)]
    write_results(path, outcomes)
    assert path.read_text(encoding="utf-8") == format_results(outcomes)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_name_that_is_not_utf8_keeps_its_bytes(tmp_path: Path):
    write_results(tmp_path / "results.txt", [judged("n\udcffa.jpg", 0.75)])
    assert b"Path: n\xffa.jpg\n" in (tmp_path / "results.txt").read_bytes()


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "results.txt"
    path.write_text("old")

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_results(path, [judged("a.jpg", 0.75)])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
