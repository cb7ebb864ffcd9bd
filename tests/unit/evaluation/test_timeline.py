import argparse
import csv
from pathlib import Path

import numpy as np
import pytest
from deepfake_tools.errors import OutputError
from deepfake_tools.evaluation.export import Files
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.evaluation.timeline import (
    COLUMNS,
    MOST_PANELS,
    is_picture,
    timeline_file,
    write_timeline,
)
from deepfake_tools.evaluation.videos import VideoScoring
from PIL import Image

from tests.unit.evaluation.frames import clip, crowd, face, failed, numbered, square, unreadable

TOTALS = Totals(2.0, 1.5, 3, "python client.py", "http://s", "acme--clip", None)


def run_of(outcomes: list[Outcome], *, all_faces: bool = False) -> Run:
    scoring = VideoScoring(all_faces=all_faces)
    metrics = measure(outcomes, scoring)
    return Run(len(outcomes), lambda: outcomes, metrics, TOTALS, scoring=scoring)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_frame_and_face_by_time(tmp_path: Path):
    left, right = square(100, 100, 80), square(400, 100, 80)
    seen = [
        [face(left, 0.1), face(right, 0.9)],
        [face(right, 0.8), face(left, 0.2)],
        [],
        [face(right, 0.7)],
    ]
    frames = crowd('a,"b".mp4', [*seen, []])
    frames[-1] = failed(frames[-1], "timeout")
    run = numbered(frames, clip("plain.mp4", [0.25]), [unreadable("no.mp4")])
    path = tmp_path / "t.csv"
    write_timeline(path, run_of(run, all_faces=True))
    rows = rows_of(path)
    assert tuple(rows[0]) == COLUMNS
    assert [
        (row["video"], row["time"], row["fake_probability"], row["track"], row["error"])
        for row in rows
    ] == [
        ('a,"b".mp4', "0.0", "0.1", "1", ""),
        ('a,"b".mp4', "0.0", "0.9", "2", ""),
        ('a,"b".mp4', "0.5", "0.2", "1", ""),
        ('a,"b".mp4', "0.5", "0.8", "2", ""),
        ('a,"b".mp4', "1.0", "", "", "no_face"),
        ('a,"b".mp4', "1.5", "0.7", "2", ""),
        ('a,"b".mp4', "2.0", "", "", "timeout"),
        ("plain.mp4", "0.0", "0.25", "1", ""),
        ("no.mp4", "", "", "", "not_a_video"),
    ]
    sides = ("left", "top", "right", "bottom")
    assert [tuple(int(row[side]) for side in sides) for row in rows[:4]] == [
        left,
        right,
        left,
        right,
    ]
    assert [float(row["margin"]) for row in rows[:2]] == pytest.approx([-np.log(9), np.log(9)])


def test_of_a_detector_without_faces_there_are_neither_tracks_nor_boxes(tmp_path: Path):
    write_timeline(tmp_path / "t.CSV", run_of(clip("a.mp4", [0.25, 0.5])))
    rows = rows_of(tmp_path / "t.CSV")
    assert [(row["time"], row["fake_probability"]) for row in rows] == [
        ("0.0", "0.25"),
        ("0.5", "0.5"),
    ]
    assert {row[name] for row in rows for name in ("track", "left", "bottom", "error")} == {""}


def heights_of(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.height


def test_a_picture_has_a_panel_for_each_video(tmp_path: Path):
    sizes = []
    for count in (0, 1, 3):
        path = tmp_path / f"{count}.png"
        clips = [clip(f"$x_{i}^{{\n.mp4", [0.1, 0.6, 0.3]) for i in range(count)]
        write_timeline(path, run_of(numbered(*clips)))
        sizes.append(heights_of(path))
    assert sizes[0] == sizes[1] < sizes[2] / 2


def test_a_thousand_videos_do_not_make_a_picture_that_nothing_opens(tmp_path: Path):
    clips = [clip(f"{i}.mp4", [0.2, 0.4]) for i in range(MOST_PANELS + 30)]
    write_timeline(tmp_path / "t.png", run_of(numbered(*clips)))
    assert heights_of(tmp_path / "t.png") < 120 * (1 + 3 * MOST_PANELS)


def test_the_curve_is_where_the_scores_are(tmp_path: Path):
    """The ink of the first person's colour is low, and that of the second one's high."""
    seen = [[face(square(100, 100, 80), 0.2), face(square(400, 100, 80), 0.9)] for _ in range(20)]
    write_timeline(tmp_path / "t.png", run_of(crowd("a.mp4", seen), all_faces=True))
    with Image.open(tmp_path / "t.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    pixels = pixels[:, : pixels.shape[1] * 3 // 4]  # without the legend
    rows = []
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        found = np.flatnonzero((np.abs(pixels - colour).sum(axis=2) < 30).any(axis=1))
        assert len(found)
        rows.append(found.mean())
    low, high = rows
    # The axis has 1.06 in height; 0.7 lie between the two.
    assert 0.3 < (low - high) / pixels.shape[0] < 0.7


def test_two_drawings_of_one_run_are_the_same_bytes(tmp_path: Path):
    run = run_of(clip("a.mp4", [0.25, 0.5]))
    for name in ("a.png", "b.png"):
        write_timeline(tmp_path / name, run)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["t.csv", "out/t.PNG"])
def test_a_timeline_is_a_table_or_a_picture(name: str):
    assert timeline_file(name) == Path(name)
    assert is_picture(timeline_file(name)) == name.endswith("PNG")


@pytest.mark.parametrize("name", ["t.pdf", "t", "csv", ""])
def test_another_ending_is_refused_with_what_to_type(name: str):
    with pytest.raises(argparse.ArgumentTypeError, match=r"neither \.csv \(a table\) nor \.png"):
        timeline_file(name)


def test_it_is_written_with_the_other_files_and_checked_as_they_are(tmp_path: Path):
    files = Files(tmp_path / "o.txt", None, None, None, tmp_path / "t.csv")
    files.check()
    files.write(run_of(clip("a.mp4", [0.25, 0.5])))
    assert len(rows_of(tmp_path / "t.csv")) == 2
    missing = Files(tmp_path / "o.txt", None, None, None, tmp_path / "gone" / "t.csv")
    with pytest.raises(OutputError, match="see --timeline"):
        missing.check()
