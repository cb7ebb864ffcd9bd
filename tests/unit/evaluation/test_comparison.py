"""evaluate.py --compare: two runs over one folder, image by image."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from tests.unit.evaluation.saved import Evaluate, Row, broken, row, write_part


def runs(seed: int = 4, images: int = 60) -> tuple[list[Row], list[Row]]:
    """Two detectors over the same images, of which the second is better."""
    rng = np.random.default_rng(seed)
    rows: tuple[list[Row], list[Row]] = [], []
    for i in range(images):
        label = i % 2
        path = f"data/{'fake' if label else 'real'}/{i:03}.png"
        shared = rng.normal()
        for ours, worth in zip(rows, (0.5, 1.5), strict=True):
            margin = shared + rng.normal() + worth * (label - 0.5)
            ours.append(row(path, 1 / (1 + math.exp(-margin)), margin=margin))
    return rows


@pytest.fixture
def pair(tmp_path: Path) -> tuple[list[Row], list[Row]]:
    first, second = runs()
    write_part(tmp_path / "old.parquet", first)
    write_part(tmp_path / "new.parquet", second, archive="b" * 64)
    return first, second


def numbers(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, margins as they are stored, and whether each is called rightly."""
    labels = np.array(["fake" in str(one["path"]) for one in rows])
    margins = np.array([one["margin"] for one in rows], np.float32)
    return labels, margins, (margins > 0) == labels


def test_a_comparison_is_printed_and_written(
    pair: tuple[list[Row], list[Row]], evaluate: Evaluate, tmp_path: Path
):
    told = evaluate(
        *("old.parquet", "--compare", "new.parquet", "--json", "out.json"),
        *("--output", "out.txt", "--report", "out.html", "--table", "out.md"),
    )
    assert told.returncode == 0, told.stderr
    (found,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    labels, one, right = numbers(pair[0])
    _, other, also_right = numbers(pair[1])
    areas = [roc_auc_score(labels, margins) for margins in (one, other)]
    assert [found["auc"]["first"], found["auc"]["second"]] == pytest.approx(areas)
    alone = int((right & ~also_right).sum()), int((also_right & ~right).sum())
    assert (found["first_alone"], found["second_alone"], found["exact"]) == (*alone, True)
    p = binomtest(alone[0], sum(alone)).pvalue
    assert found["accuracy"]["p"] == pytest.approx(p)
    low, high = found["auc"]["interval"]
    assert low < areas[1] - areas[0] < high
    words = [
        "new.parquet against old.parquet",
        "60 images that both have judged (30 real, 30 fake); left out: 0 in the first alone",
        f"AUC: {areas[0]:.4f} and {areas[1]:.4f}, difference {areas[1] - areas[0]:+.4f}",
        f"exact McNemar's test p = {p:.4f} (right alone: the first {alone[0]} times",
    ]
    for text in (told.stdout, (tmp_path / "out.txt").read_text()):
        assert all(word in text for word in words)
    page = (tmp_path / "out.html").read_text()
    assert "<h2>Comparisons</h2>" in page
    assert f"{areas[1]:.4f}" in page
    assert "new.parquet against old.parquet: 60 images that both have judged" in page
    assert "| new.parquet against old.parquet | 60 | AUC |" in (tmp_path / "out.md").read_text()


def test_what_one_side_lacks_is_counted_and_left_out(evaluate: Evaluate, tmp_path: Path):
    first, second = runs()
    write_part(
        tmp_path / "old.parquet", [*first[:50], broken("data/fake/broken.png"), row("x.png", 0.4)]
    )
    # The same images by their full paths, as another command line has them.
    second = [one | {"path": str(tmp_path / str(one["path"]))} for one in second]
    more = [row(str(tmp_path / "data/fake/broken.png"), 0.9), row(str(tmp_path / "x.png"), 0.2)]
    write_part(tmp_path / "new.parquet", [*second[3:], *more])
    told = evaluate("old.parquet", "--compare", "new.parquet")
    assert told.returncode == 0, told.stderr
    assert (
        "47 images that both have judged (23 real, 24 fake); left out: 3 in the first alone, "
        "10 in the second alone, 1 without one of the verdicts, 1 without a label" in told.stdout
    )


def test_runs_without_a_common_image_are_refused(evaluate: Evaluate, tmp_path: Path):
    write_part(tmp_path / "a.parquet", [row("real/a.png", 0.1), row("fake/b.png", 0.1)])
    write_part(tmp_path / "b.parquet", [row("real/c.png", 0.1), row("fake/d.png", 0.1)])
    refused = evaluate("a.parquet", "--compare", "b.parquet")
    assert refused.returncode == 2
    assert (
        "a.parquet and b.parquet have no image in common by path: the one has real/a.png, the "
        "other real/c.png" in refused.stderr
    )


def test_runs_that_disagree_about_a_label_are_refused(evaluate: Evaluate, tmp_path: Path):
    write_part(tmp_path / "a.parquet", [row("a.png", 0.1, "real")])
    write_part(tmp_path / "b.parquet", [row("a.png", 0.1, "fake")])
    refused = evaluate("a.parquet", "--compare", "b.parquet")
    assert refused.returncode == 2
    assert "a.png is REAL in a.parquet and FAKE in b.parquet" in refused.stderr
    (tmp_path / "labels.csv").write_text("path,label\na.png,fake\n")
    told = evaluate("a.parquet", "--compare", "b.parquet", "--labels", "labels.csv")
    assert told.returncode == 0
    assert "Accuracy, each at its own threshold: 0.0000 and 0.0000" in told.stdout
    assert "AUC: " not in told.stdout


def test_images_without_labels_cannot_be_compared(evaluate: Evaluate, tmp_path: Path):
    for name in ("a", "b"):
        write_part(tmp_path / f"{name}.parquet", [row("a.png", 0.1)])
    refused = evaluate("a.parquet", "--compare", "b.parquet")
    assert refused.returncode == 2
    assert "of the 1 images that a.parquet and b.parquet have in common none" in refused.stderr


def test_a_run_of_the_client_against_a_data_set_and_several_at_once(
    pair: tuple[list[Row], list[Row]], evaluate: Evaluate, tmp_path: Path
):
    assert evaluate("old.parquet", "--json", "old.json").returncode == 0
    told = evaluate("old.json", "--compare", "new.parquet", "old.parquet")
    assert told.returncode == 0, told.stderr
    assert "new.parquet against old.json" in told.stdout
    same = told.stdout.split("old.parquet against old.json")[1]
    assert "difference +0.0000 (95% interval +0.0000 to +0.0000), DeLong's test p = 1.0000" in same


def test_a_threshold_s_matrix_is_told_and_the_answers_stay(evaluate: Evaluate, tmp_path: Path):
    scores = {"real/a": 0.1, "real/b": 0.6, "fake/c": 0.55, "fake/d": 0.9}
    write_part(tmp_path / "s.parquet", [row(path, score) for path, score in scores.items()])
    told = evaluate(
        *("s.parquet", "--threshold", "0.7", "--json", "out.json"),
        *("--output", "out.txt", "--report", "out.html"),
    )
    table = [
        "At a threshold of 0.7:",
        "  True       REAL     FAKE",
        "  real          2        0",
        "  fake          1        1",
        "  FPR 0.0000, TPR 0.5000, precision 1.0000, accuracy 0.7500",
    ]
    for text in (told.stdout, (tmp_path / "out.txt").read_text()):
        assert "\n".join(table) in text
    found = json.loads((tmp_path / "out.json").read_text())
    assert [image["prediction"] for image in found["images"]] == [0, 1, 1, 1]
    assert found["metrics"]["accuracy"] == 0.75
    assert found["metrics"]["confusion"]["fake_as_real"] == 1
    assert "<h2>Confusion matrix</h2>" in (tmp_path / "out.html").read_text()
    assert evaluate("s.parquet", "--threshold", "1.5").returncode == 2
