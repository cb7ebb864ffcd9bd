import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from deepfake_tools.metrics import measure
from deepfake_tools.outcomes import Outcome, Totals
from deepfake_tools.perturbations import Perturbation, PerturbedRun
from deepfake_tools.results import Run, format_results, write_results
from deepfake_tools.tables import write_csv, write_json

# The line as a parser of the research script's own file has it.
LINE = re.compile(
    r"\[(?P<i>\d+)/(?P<n>\d+)\] (?P<name>.{30,}) \| True: (?P<true>REAL|FAKE| N/A) \| "
    r"Pred: (?P<pred>[01]) \(0=Real, 1=Fake\) \| Prob: (?P<prob>[01]\.\d{4}) \| Path: (?P<path>.+)"
)


def judged(path: str, fake_probability: float, label: int | None = None) -> Outcome:
    prediction = int(fake_probability > 0.5)
    return Outcome(0, path, label, "", prediction, fake_probability, 0.25)


def failed(path: str) -> Outcome:
    return Outcome(0, path, None, "", None, None, 0.25, "unreadable", "the file is empty")


LABELLED = [
    judged("real/a.jpg", 0.1, 0),
    judged("real/b.jpg", 0.6, 0),
    judged("fake/c.jpg", 0.55, 1),
    judged("fake/d.jpg", 0.9, 1),
]


def run_of(*outcomes: Outcome, missing: int = 0, head: str = "head.pth") -> Run:
    numbered = [replace(outcome, index=index) for index, outcome in enumerate(outcomes)]
    totals = Totals(2.0, 1.5, 3, "python client.py", "http://s", "acme--clip", {"head": head})
    return Run(len(numbered) + missing, lambda: numbered, measure(numbered), totals, missing)


def text_of(*outcomes: Outcome, missing: int = 0, head: str = "head.pth") -> str:
    return "\n".join(format_results(run_of(*outcomes, missing=missing, head=head))) + "\n"


def predictions(text: str) -> list[re.Match[str]]:
    return [match for line in text.splitlines() if (match := LINE.fullmatch(line))]


def test_the_head_of_the_file():
    lines = text_of(judged("a.jpg", 0.75)).splitlines()
    assert lines[:3] == ["Deepfake Detection Results (HuggingFace Model)", "=" * 80, ""]
    assert lines[3] == (
        "[1/1]                          a.jpg | True:  N/A | Pred: 1 (0=Real, 1=Fake) | "
        "Prob: 0.7500 | Path: a.jpg"
    )


def test_prob_is_the_probability_of_fake_of_a_real_image_too():
    text = text_of(judged("in/a.jpg", 0.75), judged("in/b.jpg", 0.12344))
    assert [line.group("i", "n", "pred", "prob", "path") for line in predictions(text)] == [
        ("1", "2", "1", "0.7500", "in/a.jpg"),
        ("2", "2", "0", "0.1234", "in/b.jpg"),
    ]


def test_a_long_name_is_not_cut():
    name = "x" * 40 + ".jpg"
    (line,) = predictions(text_of(judged(name, 0.5)))
    assert line["name"] == name


def test_a_failed_image_is_listed_and_not_counted():
    text = text_of(judged("a.jpg", 0.75), failed("b.jpg"), judged("c.jpg", 0.25))
    assert [line["i"] for line in predictions(text)] == ["1", "3"]
    assert "Total images processed: 2\n" in text
    listed = text.split("FAILED IMAGES: 1\n")[1]
    assert listed == f"[2/3] {'b.jpg':>30} | Failed: the file is empty | Path: b.jpg\n"


def test_the_metrics_stand_between_rules():
    rule = "=" * 80
    text = text_of(judged("a.jpg", 0.75), judged("b.jpg", 0.75))
    section = text.split(f"\n\n{rule}\nPERFORMANCE METRICS\n{rule}\n\n")[1]
    assert section.startswith(
        "Total images processed: 2\nReal images: 0\nFake images: 0\n"
        "AUC and PR-AUC do not apply: no image has a true label, real or fake, to compare with.\n"
        f"{rule}\n"
    )


def test_one_image_has_no_auc():
    assert "AUC and PR-AUC do not apply to one image" in text_of(judged("a.jpg", 0.75))


def test_one_class_has_no_auc_but_an_accuracy():
    text = text_of(*LABELLED[:2])
    assert "every labelled image is real" in text
    assert "AUC (Area" not in text
    assert "Accuracy at the detector's threshold: 0.5000\n" in text


def test_both_classes_have_their_figures():
    text = text_of(*LABELLED, judged("e.jpg", 0.5), failed("f.jpg"))
    truths = [line["true"].strip() for line in predictions(text)]
    assert truths == ["REAL", "REAL", "FAKE", "FAKE", "N/A"]
    # Of the four pairs of a fake and a real image three are in order.
    assert "Real images: 2\nFake images: 2\nAUC (Area Under ROC Curve): 0.7500\n" in text
    # Precision is 1/1 at the first fake image, and 2/3 at the second.
    assert "PR-AUC (Area Under Precision-Recall Curve): 0.8333\n" in text
    assert "left out of the figures: 1\nFailed images: 1 (unreadable 1)\n" in text
    assert "Accuracy at the detector's threshold: 0.7500\n" in text
    assert re.search(r"^AUC, 95% interval \(.*\): 0\.\d{4} to 1\.0000$", text, re.MULTILINE)
    assert "Latency of a request: p50 0.250 s" in text
    assert "Time: 2.0 s, 1.5 images a second" in text
    assert "Repeated requests: 3" in text


def test_folders_have_a_table():
    outcomes = [replace(outcome, folder=outcome.path[:4]) for outcome in LABELLED]
    rows = [line.split() for line in text_of(*outcomes).split("FOLDERS\n")[1].splitlines()]
    assert ["real", "2", "2", "0", "-", "0.5000", "0.3500"] in rows
    assert ["fake", "2", "0", "2", "0.7500", "1.0000", "0.7250"] in rows


def test_perturbations_have_a_table():
    worse = PerturbedRun(Perturbation("jpeg", 50), measure(LABELLED[1:3]))
    text = "\n".join(format_results(replace(run_of(*LABELLED), perturbed=[worse])))
    rows = [line.split() for line in text.split("PERTURBATIONS\n")[1].splitlines()]
    assert rows[1][:4] == ["none", "4", "0", "0.7500"]
    assert rows[2][:4] == ["jpeg=50", "2", "0", "0.0000"]


def test_what_is_missing_and_untrained_is_said():
    text = text_of(*LABELLED, missing=6, head="untrained")
    assert "[4/10]" in text
    assert "INCOMPLETE: 6 images were not asked" in text
    assert "head is untrained: these figures are chance" in text
    assert "INCOMPLETE" not in text_of(*LABELLED)


def test_a_line_break_in_a_name_breaks_no_line():
    (line,) = predictions(text_of(judged("d/a\nb\x85c.jpg", 0.75)))
    assert line["name"].strip() == "a?b?c.jpg"
    assert line["path"] == "d/a?b?c.jpg"


def test_the_file_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "results.txt"
    path.write_text("old")
    write_results(path, run_of(judged("a.jpg", 0.75)))
    assert path.read_text(encoding="utf-8") == text_of(judged("a.jpg", 0.75))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_name_that_is_not_utf8_keeps_its_bytes(tmp_path: Path):
    write_results(tmp_path / "results.txt", run_of(judged("n\udcffa.jpg", 0.75)))
    assert b"Path: n\xffa.jpg\n" in (tmp_path / "results.txt").read_bytes()


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "results.txt"
    path.write_text("old")

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_results(path, run_of(judged("a.jpg", 0.75)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_csv_hold_the_same(tmp_path: Path):
    run = run_of(*LABELLED, failed('f, "g"\n.jpg'), missing=1)
    write_json(tmp_path / "out.json", run)
    write_csv(tmp_path / "out.csv", run)
    whole = json.loads((tmp_path / "out.json").read_text())
    assert whole["complete"] is False
    assert whole["run"]["retries"] == 3
    assert whole["metrics"]["auc"] == 0.75
    assert [image["fake_probability"] for image in whole["images"]] == [0.1, 0.6, 0.55, 0.9, None]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [image["path"] for image in whole["images"]]
    assert rows[4]["error"] == "unreadable"
    assert [row["label"] for row in rows] == ["0", "0", "1", "1", ""]
    with (tmp_path / "out.totals.csv").open(newline="") as file:
        totals = {row["name"]: row["value"] for row in csv.DictReader(file)}
    assert totals["metrics.auc"] == "0.75"
    assert totals["metrics.failed.unreadable"] == "1"
    assert totals["run.detector.head"] == "head.pth"


def test_an_empty_run_is_valid_json(tmp_path: Path):
    write_json(tmp_path / "out.json", run_of())
    assert json.loads((tmp_path / "out.json").read_text())["images"] == []
