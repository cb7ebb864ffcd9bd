"""The client's files about videos: real clips in, a detector of all faces that measures redness."""

import base64
import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.forking import Fork
from tests.unit.client_runs import Run, client_in
from tests.unit.torchserve_stub import Reply, Request, StubServer, answer_each, json_reply, verdict
from tests.videos import FORMS, write_clip

RESULTS = "inference_results_huggingface.txt"
SIZE = (120, 160)
FORM = FORMS["mp4"]
CALM, RED = 30, 230
"""Of 255, in a face's half of the picture."""

BOXES = ([10, 30, 70, 90], [90, 30, 150, 90])


def faces_of(image: bytes) -> Reply:
    """Two faces, side by side, each as fake as its half of the picture is red."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    scores = [float(half[..., 0].mean() / 255) for half in np.split(pixels, 2, axis=1)]
    faces = [verdict(score) | {"box": box} for score, box in zip(scores, BOXES, strict=True)]
    worst = int(np.argmax(scores))
    told: dict[str, Any] = verdict(scores[worst])
    told |= {"face": {"found": True, "count": 2, "box": BOXES[worst]}, "faces": faces}
    if pixels[..., 2].mean() > 128:
        # Too blue for a face: judged as a whole.
        told |= {"face": {"found": False, "count": 0}, "faces": []}
    told["detector"]["faces"] = "all"
    return json_reply(told)


def answer(request: Request) -> Reply:
    return Reply(404) if request.method == "GET" else answer_each(request, faces_of)


def write(path: Path, red_from: float, red_to: float, *, blue: bool = False) -> None:
    """A clip whose right half is red for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for time in FORM.clock.times:
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[..., 0] = CALM
        frame[..., 2] = 200 * blue
        if red_from <= time < red_to:
            frame[:, SIZE[1] // 2 :, 0] = RED
        frames.append(frame)
    write_clip(path, frames, FORM)


SPANS = {
    "real/a.mp4": (0.0, 0.0),
    "real/b.mp4": (0.0, 1.0),
    "fake/a.mp4": (1.0, 3.0),
    "fake/b.mp4": (0.0, 9.0),
}


@dataclass
class Asked:
    """A run that is over, and the folder with its files."""

    folder: Path
    run: Run

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, clients: Fork) -> Asked:
    folder = tmp_path_factory.mktemp("videos")
    for name, span in SPANS.items():
        write(folder / "data" / name, *span)
    write(folder / "data" / "real" / "nobody.mp4", 0, 0, blue=True)
    with StubServer(answer) as stub:
        run = client_in(folder, clients)(
            *("--image", "data", "--json", "o.json", "--csv", "o.csv", "--report", "o.html"),
            *("--timeline", "t.csv"),
            server=stub.address,
        )
    return Asked(folder, run)


def expected_scores() -> dict[str, float]:
    """The mean of the right half's redness over DeepfakeBench's 32 frames, by arithmetic."""
    times = np.asarray(FORM.clock.times)
    chosen = times[np.linspace(0, len(times) - 1, 32, dtype=int)]
    return {
        name: float(np.where((chosen >= start) & (chosen < end), RED, CALM).mean() / 255)
        for name, (start, end) in SPANS.items()
    }


def test_every_file_tells_of_the_same_videos(asked: Asked):
    assert asked.run.code == 1, "one video shows no face"
    whole = json.loads(asked.read("o.json"))
    found = {video["path"].removeprefix("data/"): video for video in whole["videos"]}
    scores = expected_scores()
    for name, score in scores.items():
        video = found[name]
        assert video["fake_probability"] == pytest.approx(score, abs=0.02)
        left, right = video["tracks"]
        assert left["fake_probability"] == pytest.approx(CALM / 255, abs=0.02)
        assert right["fake_probability"] == video["fake_probability"] or name == "real/a.mp4"
        assert (left["frames"], right["frames"], video["frames"]) == (32, 32, 32)
    assert found["real/nobody.mp4"]["error"] == "no_face"
    assert found["real/nobody.mp4"]["prediction"] is None
    labels = [int(name.startswith("fake")) for name in scores]
    assert whole["metrics"]["video_auc"] == roc_auc_score(labels, list(scores.values()))
    assert "VIDEOS: 5, 1 without a verdict (no_face 1)\n" in asked.read(RESULTS)


def test_the_manipulated_stretch_and_the_right_face_are_on_the_timeline(asked: Asked):
    table = csv.DictReader(io.StringIO(asked.read("t.csv")))
    rows = [row for row in table if row["video"] == "data/fake/a.mp4"]
    assert len(rows) == 64
    start, end = SPANS["fake/a.mp4"]
    for row in rows:
        box = [int(row[side]) for side in ("left", "top", "right", "bottom")]
        manipulated = start <= float(row["time"]) < end and box == BOXES[1]
        assert float(row["fake_probability"]) == pytest.approx(
            (RED if manipulated else CALM) / 255, abs=0.05
        )
        assert row["track"] == str(1 + BOXES.index(box))


def test_the_report_shows_the_frames_themselves(asked: Asked):
    page = asked.read("o.html")
    part = page.split("Most confident mistakes among videos")[1].split("</section>")[0]
    # A third of its frames is red, and so it is called REAL.
    assert "data/fake/a.mp4" in part
    strip = re.findall(r'base64,([^"]+)" alt="frame at 00:0([\d.]+)"', part)
    assert len(strip) == 6
    start, end = SPANS["fake/a.mp4"]
    for data, time in strip:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        red = RED if start <= float(time) < end else CALM
        right = picture[:, picture.shape[1] * 3 // 5 :, 0]
        assert right.mean() == pytest.approx(red, abs=12)
