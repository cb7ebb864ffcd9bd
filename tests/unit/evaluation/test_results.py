import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from deepfake_tools.evaluation.export import write_csv, write_json
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.perturbations import Perturbation, PerturbedRun
from deepfake_tools.evaluation.results_file import Run, format_results, write_results
from deepfake_tools.evaluation.videos import VideoScoring
from deepfake_tools.torchserve.answers import DetectorInfo

from tests.unit.evaluation.frames import crowd, face, numbered, square, unreadable
from tests.unit.evaluation.frames import failed as failed_frame

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
    detector = DetectorInfo("m", None, "1", head, "float32", "openvino")
    totals = Totals(2.0, 1.5, 3, "python client.py", "http://s", "acme--clip", detector)
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
    assert "Images judged: 2 (0 real, 0 fake)\n" in text
    listed = text.split("FAILED IMAGES: 1\n")[1]
    assert listed == f"[2/3] {'b.jpg':>30} | Failed: the file is empty | Path: b.jpg\n"


RULE = "=" * 80


def section(text: str) -> str:
    """What the research script writes below its predictions."""
    return text.split(f"\n\n{RULE}\nPERFORMANCE METRICS\n{RULE}\n")[1].partition(f"\n{RULE}\n")[0]


# The sections below are as the script's own `f.write` calls give them.
def test_the_section_of_both_classes_is_the_research_scripts_to_the_letter():
    assert section(text_of(*LABELLED, failed("f.jpg"))) == (
        "\nTRUE LABELS (for verification):\n"
        "[1]                          a.jpg -> REAL\n"
        "[2]                          b.jpg -> REAL\n"
        "[3]                          c.jpg -> FAKE\n"
        "[4]                          d.jpg -> FAKE\n"
        "\nUnique true labels found: {0, 1}\n"
        "\nTotal images processed: 4\n"
        "Real images: 2\n"
        "Fake images: 2\n"
        "AUC (Area Under ROC Curve): 0.7500\n"
        "PR-AUC (Area Under Precision-Recall Curve): 0.8333"
    )


def test_the_section_of_one_class_is_the_research_scripts_to_the_letter():
    fakes = [replace(one, label=1) for one in (*LABELLED, *LABELLED)]
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] * 2
    truths = "".join(f"[{n}] {name:>30} -> FAKE\n" for n, name in enumerate(names, start=1))
    assert section(text_of(*fakes)) == (
        f"\nTRUE LABELS (for verification):\n{truths}"
        "\nUnique true labels found: {1}\n"
        "\n[WARNING] Cannot calculate AUC - only one class present in true labels\n"
        "Classes found: [1]\n"
        "This means the dataset appears to contain only FAKE images\n"
        "\nFor AUC calculation, the dataset should contain both:\n"
        "- Images with 'real' or 'fake' in directory names\n"
        "\nSample filenames from your dataset:\n"
        "  a.jpg\n  b.jpg\n  c.jpg\n  d.jpg\n  a.jpg"
    )
    reals = section(text_of(*LABELLED[:2]))
    assert "found: {0}\n" in reals
    assert "Classes found: [0]\nThis means the dataset appears to contain only REAL images" in reals


@pytest.mark.parametrize("label", [None, 0, 1])
def test_the_section_of_one_image_is_the_research_scripts_to_the_letter(label: int | None):
    text = text_of(judged("a.jpg", 0.75, label), failed("b.jpg"))
    assert section(text) == "\nSingle image processed - AUC calculation not applicable."


def test_without_a_label_the_script_finds_no_class_and_the_summary_says_why():
    text = text_of(judged("a.jpg", 0.75), judged("b.jpg", 0.25))
    assert "\nUnique true labels found: set()\n" in section(text)
    assert "\nClasses found: []\n" in section(text)
    assert "Images judged: 2 (0 real, 0 fake)\nAUC and PR-AUC do not apply: no image has" in text


def test_without_a_verdict_the_section_is_empty():
    assert section(text_of(failed("a.jpg"), failed("b.jpg"))) == ""


def test_images_without_a_label_are_not_among_the_true_ones():
    text = section(text_of(judged("x.jpg", 0.5), *LABELLED))
    truths = re.findall(r"^\[(\d+)\] +(\S+) -> (REAL|FAKE)$", text, re.MULTILINE)
    assert truths == [
        ("1", "a.jpg", "REAL"),
        ("2", "b.jpg", "REAL"),
        ("3", "c.jpg", "FAKE"),
        ("4", "d.jpg", "FAKE"),
    ]
    assert "Total images processed: 5\n" in text


def test_without_the_libraries_the_script_could_not_calculate():
    run = run_of(*LABELLED)
    run = replace(run, metrics=replace(run.metrics, auc=None, pr_auc=None, why="no scikit-learn."))
    assert section("\n".join(format_results(run)) + "\n").endswith(
        "\n\nUnique true labels found: {0, 1}\n"
        "\n[Warning] Could not calculate AUC: no scikit-learn.\n"
        "AUC calculation may require:\n"
        "- Images with 'real' or 'fake' in directory names"
    )


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
    # The ROC is (0, 0.5), (0.5, 0.5), (0.5, 1): both ways meet FPR = 1 - TPR at its second point.
    assert "Equal error rate (EER), interpolated: 0.5000\n" in text
    assert "Equal error rate (EER), nearest point of the ROC as in DeepfakeBench: 0.5000\n" in text
    assert "left out of the figures: 1\nFailed images: 1 (unreadable 1)\n" in text
    assert "Accuracy at the detector's threshold: 0.7500\n" in text
    assert re.search(r"^AUC, 95% interval \(.*\): 0\.\d{4} to 1\.0000$", text, re.MULTILINE)
    assert "Latency of a request: p50 0.250 s" in text
    assert "Time: 2.0 s, 1.5 images a second" in text
    assert "Repeated requests: 3" in text


def test_folders_have_a_table():
    outcomes = [replace(outcome, folder=outcome.path[:4]) for outcome in LABELLED]
    rows = [line.split() for line in text_of(*outcomes).split("FOLDERS\n")[1].splitlines()]
    assert ["real", "2", "2", "0", "-", "0.5000", "0.3500", "-", "-", "-"] in rows
    (fake,) = (row for row in rows if row[:1] == ["fake"])
    assert fake[:7] == ["fake", "2", "0", "2", "0.7500", "1.0000", "0.7250"]
    low, to, high, *rates = fake[7:]
    assert float(low) <= 0.75 <= float(high)
    # Of two real images one is more than 1 % of them: c and a lower threshold find b too.
    assert [to, *rates] == ["to", "0.5000", "0.5000"]


def test_the_mean_over_generators_stands_below_them():
    folders = {"real/a.jpg": "real", "real/b.jpg": "real", "fake/c.jpg": "x", "fake/d.jpg": "y"}
    outcomes = [replace(outcome, folder=folders[outcome.path]) for outcome in LABELLED]
    last = text_of(*outcomes).split("FOLDERS\n")[1].split("\n\n")[0].splitlines()[-1].split()
    # Of c the one real image above it is half of all; of d there is none above.
    assert last[:6] == ["Macro", "average", "-", "-", "-", "0.7500"]
    assert last[-2:] == ["0.5000", "0.5000"]


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


def videos_run() -> Run:
    """A detector of all faces on four videos and an image."""
    box, other = square(100, 100, 80), square(400, 100, 80)
    fake = crowd("in/fake.mp4", [[face(box, 0.2), face(other, 0.75)] for _ in range(4)], 1)
    real = crowd("in/real.mp4", [[face(box, 0.25)] for _ in range(3)], 0)
    real[1] = failed_frame(real[1], "no_face", "refused as no_face: there is none")
    real[2] = failed_frame(real[2], "timeout", "late", exit_code=7)
    nobody = [failed_frame(one, "no_face", "none") for one in crowd("in/no.mp4", [[], []], 0)]
    image = [judged("in/a.jpg", 0.9, 1)]
    outcomes = numbered(image, fake, real, nobody, [unreadable("in/text.mp4")])
    scoring = VideoScoring("median", all_faces=True)
    totals = Totals(2.0, 1.5, 3, "python client.py", "http://s", "acme--clip", None)
    metrics = measure(outcomes, scoring)
    return Run(len(outcomes), lambda: outcomes, metrics, totals, scoring=scoring)


def test_frames_have_lines_as_images_do_and_videos_a_section():
    text = "\n".join(format_results(videos_run())) + "\n"
    assert [line.group("i", "prob", "path") for line in predictions(text)] == [
        ("1", "0.9000", "in/a.jpg"),
        *((str(i + 2), "0.7500", f"in/fake.mp4@00:0{i // 2}.{i % 2 * 5}00") for i in range(4)),
        ("6", "0.2500", "in/real.mp4@00:00.000"),
    ]
    section = text.split("\nVIDEOS: 4, 2 without a verdict (no_face 1, not_a_video 1)\n")[1]
    assert section.split("\n\n")[0].splitlines() == [
        f"[1/4] {'fake.mp4':>30} | True: FAKE | Pred: 1 (0=Real, 1=Fake) | Prob: 0.7500 | "
        "Frames: 4 judged, none left out | Most fake: 00:00.000 (0.7500), 00:01.000 (0.7500) | "
        "Face 1: 0.2000 in 4 frames, 00:00.000 to 00:01.500; "
        "face 2: 0.7500 in 4 frames, 00:00.000 to 00:01.500 | Path: in/fake.mp4",
        f"[2/4] {'real.mp4':>30} | True: REAL | Pred: 0 (0=Real, 1=Fake) | Prob: 0.2500 | "
        "Frames: 1 judged, 2 left out (no_face 1, timeout 1) | Most fake: 00:00.000 (0.2500) | "
        "Faces: 1 seen, each in too few frames to count | Path: in/real.mp4",
        f"[3/4] {'no.mp4':>30} | Failed: no face in any of its 2 frames | Path: in/no.mp4",
        f"[4/4] {'text.mp4':>30} | Failed: it holds no video | Path: in/text.mp4",
    ]
    assert "Video-level AUC (2 videos): 1.0000\n  A video's score is the median" in text
    assert "Video-level accuracy at the detector's threshold: 1.0000\n" in text


def test_frames_without_a_face_are_listed_apart_from_failures():
    text = "\n".join(format_results(videos_run())) + "\n"
    assert "Failed images: 2 (timeout 1, not_a_video 1)\n" in text
    assert "Frames without a face, left out: 3\n" in text
    failures, faceless = text.split("\nFAILED IMAGES: 2\n")[1].split(
        "\n\nFRAMES WITHOUT A FACE: 3\n"
    )
    assert [line.split("Failed: ")[1] for line in failures.splitlines()] == [
        "late | Path: in/real.mp4@00:01.000",
        "it holds no video | Path: in/text.mp4",
    ]
    assert [line.split("] ")[0] for line in faceless.splitlines()] == ["[7/11", "[9/11", "[10/11"]


def test_without_videos_nothing_is_said_of_them():
    text = text_of(*LABELLED)
    assert "VIDEOS" not in text
    assert "Video-level" not in text


def test_json_has_videos_tracks_and_faces(tmp_path: Path):
    run = videos_run()
    write_json(tmp_path / "out.json", run)
    whole = json.loads((tmp_path / "out.json").read_text())
    assert list(whole)[-2:] == ["images", "videos"]
    fake, real, nobody, text = whole["videos"]
    assert [video["path"] for video in whole["videos"]] == [
        "in/fake.mp4",
        "in/real.mp4",
        "in/no.mp4",
        "in/text.mp4",
    ]
    assert (fake["label"], fake["prediction"], fake["fake_probability"]) == (1, 1, 0.75)
    assert fake["tracks"] == [
        {
            "track": number,
            "fake_probability": score,
            "from": 0.0,
            "to": 1.5,
            "frames": 4,
            "speaks": True,
        }
        for number, score in ((1, 0.2), (2, 0.75))
    ]
    assert fake["most_fake"][0] == {"time": 0.0, "fake_probability": 0.75}
    assert (real["frames"], real["left_out"]) == (1, {"no_face": 1, "timeout": 1})
    assert (nobody["prediction"], nobody["error"]) == (None, "no_face")
    assert (text["error"], text["message"]) == ("not_a_video", "it holds no video")
    first, frame = whole["images"][:2]
    assert (first["video"], first["time"], first["faces"]) == (None, None, None)
    assert (frame["video"], frame["time"]) == ("in/fake.mp4", 0.0)
    assert [one["box"] for one in frame["faces"]] == [[60, 60, 140, 140], [360, 60, 440, 140]]
    assert [one["fake_probability"] for one in frame["faces"]] == [0.2, 0.75]
    assert whole["metrics"]["video_auc"] == 1.0
    assert whole["metrics"]["faceless"] == 3


def test_csv_gains_three_columns_at_its_end_and_the_totals_no_list_of_videos(tmp_path: Path):
    write_csv(tmp_path / "out.csv", videos_run())
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-4:] == ["unstable", "video", "time", "frame"]
    assert [(row["video"], row["time"]) for row in rows[:3]] == [
        ("", ""),
        ("in/fake.mp4", "0.0"),
        ("in/fake.mp4", "0.5"),
    ]
    with (tmp_path / "out.totals.csv").open(newline="") as file:
        names = {row["name"]: row["value"] for row in csv.DictReader(file)}
    assert names["metrics.videos"] == "2"
    assert names["metrics.video_failed.no_face"] == "1"
    assert not [name for name in names if "mistakes" in name or "tracks" in name]
