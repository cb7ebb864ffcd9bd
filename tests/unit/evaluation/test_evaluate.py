"""evaluate.py over saved runs: what the client tells of its own, by the same code."""

import csv
import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from deepfake_tools.evaluation.export import Files
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Totals
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.evaluation.videos import VideoScoring
from sklearn.metrics import roc_auc_score

from tests.unit.client_runs import Client
from tests.unit.evaluation.frames import clip, crowd, face, numbered, square
from tests.unit.evaluation.saved import (
    SCHEMA,
    Evaluate,
    broken,
    row,
    write_part,
)
from tests.unit.torchserve_stub import (
    Reply,
    Request,
    StubServer,
    answer_each,
    detector_error,
    json_reply,
    verdict,
)

SCORES = {
    "data/real/a.jpg": 0.1,
    "data/real/b.jpg": 0.625,
    "data/fake/gan/c.jpg": 0.5625,
    "data/fake/diffusion/d.jpg": 0.875,
    "data/fake/diffusion/e.jpg": 0.25,
}
LABELS = {path: int("fake" in path) for path in SCORES}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for path, score in SCORES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(str(score))
    (tmp_path / "data/real/broken.jpg").write_text("broken")
    return tmp_path


def answer(request: Request) -> Reply:
    def judge(image: bytes) -> Reply:
        if image == b"broken":
            return detector_error(400, "unreadable", "it is no image")
        return json_reply(verdict(float(image), "trained"))

    return answer_each(request, judge)


FILES = ("--output", "out.txt", "--json", "out.json", "--csv", "out.csv", "--report", "out.html")


def without_what_differs(folder: Path, name: str) -> list[str]:
    """A file's lines, but for the command and the time at which it was written."""
    lines = (folder / name).read_text().splitlines()
    return [line for line in lines if not any(w in line for w in ("scripts/", "<time", "time>"))]


def test_a_saved_run_is_told_as_the_client_told_it(client: Client, evaluate: Evaluate, data: Path):
    with StubServer(answer) as stub:
        asked = client("--image", "data", *FILES, server=stub.address)
    assert asked.code == 1  # one image is broken
    (data / "again").mkdir()
    again = [word if word.startswith("--") else f"again/{word}" for word in FILES]
    told = evaluate("out.json", *again)
    assert told.returncode == 0
    ours, theirs = told.stdout.splitlines(), asked.out.splitlines()
    assert ours[:-2] == theirs[:-2]
    assert ours[-1] == theirs[-1] == "FAKE above 0.5000"
    assert "AUC (Area Under ROC Curve): 0.6667" in ours
    for name in ("out.txt", "out.csv", "out.html"):
        assert without_what_differs(data / "again", name) == without_what_differs(data, name)
    first, second = (
        json.loads((data / name).read_text()) for name in ("out.json", "again/out.json")
    )
    assert "evaluate.py out.json" in second["run"].pop("command")
    assert first["run"].pop("command")
    assert first == second


def test_figures_of_a_data_set_with_labels_by_path(evaluate: Evaluate, tmp_path: Path):
    rows = [row(path, score) for path, score in SCORES.items()]
    write_part(tmp_path / "scores" / "0.parquet", rows[:3])
    write_part(tmp_path / "scores" / "1.parquet", [*rows[3:], broken("data/real/f.jpg")])
    told = evaluate("scores", "--json", "out.json", "--output", "out.txt", "--report", "out.html")
    assert told.returncode == 0, told.stderr
    auc = roc_auc_score(list(LABELS.values()), list(SCORES.values()))
    assert told.stdout.splitlines()[:2] == [
        "5 images (2 real, 3 fake, 0 without a label), 1 failed",
        f"AUC (Area Under ROC Curve): {auc:.4f}",
    ]
    found = json.loads((tmp_path / "out.json").read_text())
    assert [image["folder"] for image in found["images"]] == [
        "real",
        "real",
        "fake/gan",
        "fake/diffusion",
        "fake/diffusion",
        "real",
    ]
    assert found["metrics"]["failed"] == {"unreadable": 1}
    assert found["metrics"]["latency"] is None
    text = (tmp_path / "out.txt").read_text()
    assert "FAKE above: 0.5\n" in text
    assert not {"Server:", "Time:", "Latency"} & set(text.split())


def test_a_run_of_videos_is_told_as_it_was(evaluate: Evaluate, tmp_path: Path):
    video = [clip(f"in/{label}{n}.mp4", [0.2 + 0.2 * n + 0.1 * label] * 3, label)
             for label in (0, 1) for n in range(2)]  # fmt: skip
    faces = crowd("in/people.mp4", [[face(square(90, 90, 40), 0.75)] for _ in range(4)], 1)
    outcomes = numbered(*video, faces)
    scoring = VideoScoring("top10")
    totals = Totals(2.0, 6.0, 3, "python scripts/client.py", "http://s", "acme--clip", None)
    run = Run(len(outcomes), lambda: outcomes, measure(outcomes, scoring), totals, scoring=scoring)
    Files(tmp_path / "a.txt", tmp_path / "a.json", None, None, tmp_path / "a.csv").write(run)
    told = evaluate(
        *("a.json", "--output", "b.txt", "--json", "b.json", "--timeline", "b.csv"),
    )
    assert told.returncode == 0, told.stderr
    for ending in ("txt", "json", "csv"):
        first, second = (without_what_differs(tmp_path, f"{n}.{ending}") for n in "ab")
        assert first == second
    assert "VIDEOS: 5" in (tmp_path / "b.txt").read_text()


def test_faces_of_a_data_set_are_kept_and_its_plan_is_no_part(evaluate: Evaluate, tmp_path: Path):
    seen = {"box": [1, 2, 3, 4], "fake_probability": 0.75, "prediction": 1, "margin": 1.1}
    rows = [row("real/a.jpg", 0.1), row("fake/b.jpg", 0.75, faces=[seen])]
    write_part(tmp_path / "s" / "part-0001-000001.parquet", rows)
    write_part(tmp_path / "s" / "_plan" / "0.parquet", rows)
    assert evaluate("s", "--json", "out.json").returncode == 0
    images = json.loads((tmp_path / "out.json").read_text())["images"]
    assert [image["faces"] for image in images] == [None, [seen]]


def test_a_run_over_parquet_can_be_read_back(evaluate: Evaluate, tmp_path: Path):
    write_part(tmp_path / "s.parquet", [row(path, score) for path, score in SCORES.items()])
    first = evaluate("s.parquet", "--json", "a.json")
    second = evaluate("a.json", "--json", "b.json")
    assert first.stdout.splitlines() == second.stdout.splitlines()


def test_margins_rank_where_probabilities_round_to_one(evaluate: Evaluate, tmp_path: Path):
    margins = {"real/a.jpg": 40.0, "real/b.jpg": 50.0, "fake/c.jpg": 45.0, "fake/d.jpg": 60.0}
    rows = [row(path, 1.0, margin=margin) for path, margin in margins.items()]
    write_part(tmp_path / "s.parquet", rows)
    assert "AUC (Area Under ROC Curve): 0.7500" in evaluate("s.parquet").stdout


def test_stored_labels_go_before_names_and_null_is_not_known(evaluate: Evaluate, tmp_path: Path):
    rows = [row("fake/a.jpg", 0.1, "REAL"), row("real/b.jpg", 0.9, "1"), row("fake/c.jpg", 0.9)]
    write_part(tmp_path / "s.parquet", rows)
    told = evaluate("s.parquet")
    assert "3 images (1 real, 1 fake, 1 without a label)" in told.stdout
    assert "AUC (Area Under ROC Curve): 1.0000" in told.stdout


def test_labels_by_a_file_and_by_a_column(evaluate: Evaluate, tmp_path: Path):
    schema = SCHEMA.append(pa.field("truth", pa.int64()))
    rows = [row("a.jpg", 0.1, truth=1), row("s3://bucket/b.jpg", 0.9, truth=0), row("c.jpg", 0.7)]
    write_part(tmp_path / "s.parquet", rows, schema=schema)
    (tmp_path / "labels.csv").write_text(
        "path,label\na.jpg,real\ns3://bucket/b.jpg,fake\nz.jpg,1\n"
    )
    by_file = evaluate("s.parquet", "--labels", "labels.csv")
    assert "AUC (Area Under ROC Curve): 1.0000" in by_file.stdout
    assert by_file.stderr == "note: labels.csv lists 1 images that are not in s.parquet\n"
    by_column = evaluate("s.parquet", "--label-column", "truth")
    assert "AUC (Area Under ROC Curve): 0.0000" in by_column.stdout
    assert "1 without a label" in by_column.stdout


def test_directories_that_disagree_are_an_error(evaluate: Evaluate, tmp_path: Path):
    write_part(
        tmp_path / "s.parquet",
        [row("real/fake/a.jpg", 0.1), row("real/b.jpg", 0.2), row("c.jpg", 0.1)],
    )
    refused = evaluate("s.parquet")
    assert refused.returncode == 2
    assert "real stands for real, and real/fake for fake" in refused.stderr


def test_an_image_that_is_there_twice_is_refused(evaluate: Evaluate, tmp_path: Path):
    write_part(tmp_path / "s" / "0.parquet", [row("real/a.jpg", 0.1)])
    write_part(tmp_path / "s" / "1.parquet", [row("fake/b.jpg", 0.1), row("real/a.jpg", 0.1)])
    refused = evaluate("s")
    assert refused.returncode == 2
    assert "s has real/a.jpg twice, which would count twice" in refused.stderr


def test_parts_of_two_archives_are_refused(evaluate: Evaluate, tmp_path: Path):
    write_part(tmp_path / "s" / "0.parquet", [row("real/a.jpg", 0.1)])
    write_part(tmp_path / "s" / "1.parquet", [row("fake/b.jpg", 0.1)], archive="b" * 64)
    refused = evaluate("s")
    assert refused.returncode == 2
    assert "0.parquet was scored by archive aaaaaaaaaaaaaaaa and" in refused.stderr
    assert "1.parquet by bbbbbbbbbbbbbbbb" in refused.stderr


def test_what_is_no_data_set_of_ours_is_refused(evaluate: Evaluate, tmp_path: Path):
    whole = [row("real/a.jpg", 0.1)]
    strange = {
        "no file": ("empty", "there is no .parquet file in"),
        "junk": ("junk.parquet", "cannot be read as Parquet"),
        "version": ("version.parquet", "columns' version 2, and this reads version 1"),
        "columns": ("columns.parquet", "has no column margin, fake_probability"),
        "anonymous": ("anonymous.parquet", "does not say which archive judged its images"),
        "number": ("number.parquet", "row 0: it has no error, and is called 'REAL' at nan"),
        "label": ("label.parquet", "column true_label: 'perhaps' is no label"),
        "called": ("called.parquet", "row 0: it has no error, and is called ['FAKE'] at 0.1"),
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.parquet").write_bytes(b"PAR1junk")
    write_part(tmp_path / "version.parquet", whole, version=2)
    short = pa.schema([field for field in SCHEMA if field.name == "path"])
    write_part(tmp_path / "columns.parquet", [{"path": "a"}], schema=short)
    write_part(tmp_path / "anonymous.parquet", whole, detector={"model": 3})
    lists = SCHEMA.set(SCHEMA.get_field_index("label"), pa.field("label", pa.list_(pa.string())))
    called = [row("real/a.jpg", 0.125, label=["FAKE"])]
    write_part(tmp_path / "called.parquet", called, schema=lists)
    write_part(tmp_path / "number.parquet", [row("real/a.jpg", math.nan)])
    write_part(tmp_path / "label.parquet", [row("real/a.jpg", 0.1, "perhaps")])
    for name, words in strange.values():
        refused = evaluate(name)
        assert refused.returncode == 2, name
        assert words in refused.stderr


def test_a_column_that_is_not_there_is_named_with_those_that_are(
    evaluate: Evaluate, tmp_path: Path
):
    write_part(tmp_path / "s.parquet", [row("real/a.jpg", 0.1)])
    refused = evaluate("s.parquet", "--label-column", "truth")
    assert "has no column truth; it has path, margin, fake_probability" in refused.stderr
    (tmp_path / "s.json").write_text("{}")
    assert (
        "has no column 'truth': use --labels"
        in evaluate("s.json", "--label-column", "truth").stderr
    )


@pytest.fixture
def saved(evaluate: Evaluate, tmp_path: Path) -> dict[str, object]:
    """What JSON holds of a run of two images."""
    write_part(tmp_path / "s.parquet", [row("real/a.jpg", 0.1), row("fake/b.jpg", 0.9)])
    assert evaluate("s.parquet", "--json", "s.json").returncode == 0
    return json.loads((tmp_path / "s.json").read_text())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("fake_probability", 2, "image 0: fake_probability is 2"),
        ("fake_probability", None, "image 0: it has a verdict and an error, or neither"),
        ("path", 3, "image 0: path is 3"),
        ("label", True, "image 0: label is True"),
        ("margin", "x", "image 0: margin is 'x'"),
        ("decision", "MAYBE", "image 0: decision is 'MAYBE'"),
        ("faces", [{"box": [1, 2]}], "image 0: box is [1, 2]"),
        ("path", "fake/b.jpg", "has fake/b.jpg twice"),
    ],
)
def test_json_that_somebody_has_changed_is_refused(
    saved: dict[str, object],
    evaluate: Evaluate,
    tmp_path: Path,
    field: str,
    value: object,
    words: str,
):
    saved["images"][0][field] = value
    (tmp_path / "s.json").write_text(json.dumps(saved))
    refused = evaluate("s.json")
    assert refused.returncode == 2
    assert words in refused.stderr


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": {}, "metrics": {}}', "[" * 100_000])
def test_what_is_no_run_is_refused(evaluate: Evaluate, tmp_path: Path, content: str):
    (tmp_path / "s.json").write_text(content)
    refused = evaluate("s.json")
    assert refused.returncode == 2
    assert "s.json is no" in refused.stderr


def test_an_unfinished_run_says_so(saved: dict[str, object], evaluate: Evaluate, tmp_path: Path):
    (tmp_path / "s.json").write_text(json.dumps(saved | {"missing": 3}))
    told = evaluate("s.json", "--output", "out.txt")
    assert told.stderr == "note: s.json is not finished: 3 images were not asked about\n"
    assert "[1/5]" in (tmp_path / "out.txt").read_text()


def test_a_run_is_not_written_over(saved: dict[str, object], evaluate: Evaluate, tmp_path: Path):
    refused = evaluate("s.json", "--json", "s.json")
    assert refused.returncode == 2
    assert "RUN and --json are one file" in refused.stderr
    assert json.loads((tmp_path / "s.json").read_text()) == saved


def test_csv_has_what_the_data_set_has(evaluate: Evaluate, tmp_path: Path):
    rows = [row("real/a.jpg", 0.25, decision="UNSURE", margin=-1.5), broken("fake/b.jpg")]
    write_part(tmp_path / "s.parquet", rows)
    assert evaluate("s.parquet", "--csv", "out.csv").returncode == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["fake_probability"], first["margin"]) == ("0.25", "-1.5")
    assert (first["decision"], first["label"]) == ("UNSURE", "0")
    assert (second["error"], second["label"]) == ("unreadable", "1")
