"""The client over videos, as a person runs it: frames asked about, one verdict, what is resumed."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.forking import Fork
from tests.unit.client.test_client_folders import JOURNAL, RESULTS, Detector, without_timings
from tests.unit.client_runs import CLIENT, Client
from tests.unit.torchserve_stub import NO_ANSWER, Reply, Request, StubServer, json_reply, verdict
from tests.videos import SHARP, Form, constant, write_clip

FORM = Form(".mp4", options=SHARP, clock=constant(10, 4))
LEVELS = np.linspace(30, 220, 40)


class GreyDetector(Detector):
    """Scores an image by its mean brightness."""

    def judge(self, image: bytes) -> Reply:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        return json_reply(verdict(round(float(pixels.mean()) / 255, 4), "head.pth"))


def write_grey(path: Path, levels: Sequence[float]) -> Path:
    """A clip of plain grey frames, ten a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [np.full((32, 48, 3), round(level), np.uint8) for level in levels]
    form = Form(".mp4", options=SHARP, clock=constant(10, len(levels) / 10))
    return write_clip(path, frames, form)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two real and two fake clips, a photograph beside them, and a text that is called a clip."""
    data = tmp_path / "data"
    for number, base in enumerate((10, 40)):
        write_grey(data / "real" / f"{number}.mp4", base + LEVELS / 4)
        write_grey(data / "fake" / f"{number}.mkv", 120 + base + LEVELS / 4)
    cv2.imwrite(str(data / "real" / "photo.png"), np.full((8, 8, 3), 51, np.uint8))
    (data / "fake" / "text.mp4").write_text("no clip")
    return data


def test_a_video_has_one_verdict_and_a_line_for_each_frame(client: Client, tmp_path: Path) -> None:
    write_grey(tmp_path / "clip.mp4", LEVELS)
    with StubServer(GreyDetector()) as stub:
        run = client(
            "--image", "clip.mp4", "--frames", "8", "--json", "o.json", server=stub.address
        )
    assert run.code == 0, run.err
    numbers = np.linspace(0, 39, 8, dtype=int)
    scores = LEVELS.round()[numbers] / 255
    found = json.loads((tmp_path / "o.json").read_text())
    assert [image["fake_probability"] for image in found["images"]] == pytest.approx(
        scores, abs=0.01
    )
    assert [image["time"] for image in found["images"]] == pytest.approx(numbers / 10)
    (video,) = found["videos"]
    mean = np.mean([image["fake_probability"] for image in found["images"]])
    assert video["fake_probability"] == pytest.approx(mean, abs=1e-12)
    assert run.out.splitlines()[:2] == [
        f"Prediction: REAL (confidence: {1 - mean:.4f})",
        "Frames: 8 judged, none left out",
    ]
    assert run.out.splitlines()[2].startswith("Most fake: 00:03.900 (0.86")
    paths = re.findall(r"Path: (clip\.mp4@\S+)$", (tmp_path / RESULTS).read_text(), re.MULTILINE)
    assert paths == [f"clip.mp4@00:{number / 10:06.3f}" for number in numbers]


def test_clips_and_images_of_a_folder_are_judged_and_what_is_broken_is_named(
    client: Client, clips: Path, tmp_path: Path
) -> None:
    with StubServer(GreyDetector()) as stub:
        run = client("--image", "data", "--every", "1", "--json", "o.json", server=stub.address)
    assert run.code == 1
    assert "error: data/fake/text.mp4: it is no video that can be read" in run.err
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["metrics"]["video_auc"] == 1
    assert found["metrics"]["videos"] == 4
    verdicts = {video["path"]: video for video in found["videos"]}
    assert [verdicts[f"data/real/{n}.mp4"]["label"] for n in (0, 1)] == [0, 0]
    assert {video["frames"] for path, video in verdicts.items() if "text" not in path} == {4}
    assert verdicts["data/fake/text.mp4"]["error"] == "broken_video"
    images = {image["path"]: image for image in found["images"]}
    assert images["data/real/photo.png"]["fake_probability"] == 0.2
    assert "Video-level AUC (4 videos): 1.0000" in run.out


def test_named_clips_are_told_of_in_their_order(client: Client, clips: Path) -> None:
    named = ["data/fake/1.mkv", "data/real/photo.png", "data/fake/text.mp4", "data/real/0.mp4"]
    with StubServer(GreyDetector()) as stub:
        run = client("--image", *named, "--frames", "4", server=stub.address)
    assert run.code == 1
    told = [line.partition(": Prediction: ")[0] for line in run.out.splitlines() if "Pred" in line]
    assert told == ["1.mkv", "photo.png", "0.mp4"]
    assert "error: data/fake/text.mp4: it is no video" in run.err


def test_a_run_over_videos_goes_on_where_it_ended(
    client: Client, clips: Path, tmp_path: Path
) -> None:
    detector = GreyDetector()
    arguments = ["--image", "data", "--frames", "20", "--retries", "0"]
    with StubServer(detector) as stub:

        def leave(request: Request) -> Reply | None:
            return None if len(detector.answered) < 30 else NO_ANSWER

        detector.fault = leave
        first = client(*arguments, "--timeout", "2", server=stub.address)
        assert first.code not in (0, 1), "the server has left"
        lines = (tmp_path / JOURNAL).read_text().splitlines()
        done = sum('"place"' in line for line in lines)
        assert 30 <= done < 82
        detector.fault = lambda request: None
        detector.asked.clear()
        second = client(*arguments, "--resume", server=stub.address)
        whole = (tmp_path / RESULTS).read_text()
        client(*arguments, "--output", "fresh.txt", server=stub.address)
    assert second.code == 1
    assert without_timings(whole) == without_timings((tmp_path / "fresh.txt").read_text())


def test_other_frames_are_another_run(client: Client, clips: Path, tmp_path: Path) -> None:
    detector = GreyDetector()
    with StubServer(detector) as stub:
        detector.fault = lambda request: None if len(detector.answered) < 10 else NO_ANSWER
        arguments = ["--image", "data", "--retries", "0", "--timeout", "2"]
        client(*arguments, "--frames", "20", server=stub.address)
        assert (tmp_path / JOURNAL).exists()
        run = client(*arguments, "--frames", "30", "--resume", server=stub.address)
    assert run.code == 17
    assert "images, this one is over" in run.err


def test_frames_are_asked_about_under_perturbations(client: Client, tmp_path: Path) -> None:
    write_grey(tmp_path / "clip.mp4", LEVELS)
    ask = ["--image", "clip.mp4", "--frames", "5"]
    with StubServer(GreyDetector()) as stub:
        worse = ["--perturb", "blur=2", "jpeg=50", "--json", "o.json"]
        run = client(*ask, *worse, server=stub.address)
        stable = client(*ask, "--stability", "--json", "s.json", server=stub.address)
    assert (run.code, stable.code) == (0, 0), run.err + stable.err
    perturbed = json.loads((tmp_path / "o.json").read_text())["perturbed"]
    assert {name: one["images"] for name, one in perturbed.items()} == {"blur=2": 5, "jpeg=50": 5}
    images = json.loads((tmp_path / "s.json").read_text())["images"]
    assert [image["unstable"] for image in images] == [False] * 5


WITHOUT_AV = f"""
import runpy
from deepfake_tools import extras
found = extras.find_spec
extras.find_spec = lambda name: None if name == "av" else found(name)
runpy.run_path({str(CLIENT)!r}, run_name="__main__")
"""


def test_without_what_reads_videos_a_folder_s_images_are_judged(
    clients: Fork, client: Client, clips: Path, tmp_path: Path
) -> None:
    with StubServer(GreyDetector()) as stub:

        def run(image: str) -> tuple[int, str, str]:
            addresses = ["--server", stub.address, "--management", stub.address]
            done = clients.run("-c", WITHOUT_AV, *addresses, "--image", image, cwd=tmp_path)
            return done.returncode, done.stdout, done.stderr

        code, _, said = run("data/real/0.mp4")
        assert code == 2
        assert "reading videos needs av: pip install 'clip-deepfake[videos]'" in said
        code, out, said = run("data/real")
    assert code == 0, said
    assert "note: 2 files have another ending than an image and are left out (.mp4 2)" in said
    assert "note: reading videos needs av: pip install 'clip-deepfake[videos]'" in said
    assert out.startswith("1 images (")
