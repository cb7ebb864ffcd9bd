"""Videos under a real TorchServe: figures, people, bad files, a run that is killed and goes on."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from deepfake_tools.torchserve.local_server import LocalServer
from sklearn.metrics import roc_auc_score

from tests import ROOT
from tests.bad_videos import BAD
from tests.portraits import photograph
from tests.videos import B_FRAMES, MANIPULATED, RGB, SHARP, VPX, Form, constant, photographs, scene
from tests.videos import write_clip as write

pytestmark = pytest.mark.serving

SIDE = 32
"""What the small CLIP sees: the forger's grid would not survive being made smaller."""

EACH = 22
"""Clips of each class in the labelled folder."""

FRAMES = 9
CONTAINERS = [
    Form(".mp4", options=B_FRAMES | {"crf": "10"}),
    Form(".mkv", options=B_FRAMES | {"crf": "10"}),
    Form(".webm", "libvpx-vp9", VPX | {"crf": "10"}),
    Form(".avi", "mpeg4", {"bf": "2", "b": "3000000", "threads": "1"}),
]
TINT = np.array([45, -25, -45])
"""On a forged face: red, and less blue."""


@dataclass(frozen=True)
class Service:
    """Detectors that are up, and clips: ``forgeries`` sees a forger's grid, ``people`` a tint."""

    server: LocalServer
    folder: Path

    def command(self, model: str, *arguments: object) -> list[str]:
        place = ["--server", self.server.inference_url, "--management", self.server.management_url]
        keys = ["--key-file", self.server.key_file]
        command = [sys.executable, ROOT / "scripts/client.py", "--model", model, *place, *keys]
        return [str(word) for word in (*command, *arguments)]

    def run(self, model: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(model, *arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert "Traceback" not in done.stderr
        return done

    def ask(self, model: str, *arguments: object, code: int = 0) -> dict[str, Any]:
        """What a run writes as JSON."""
        done = self.run(model, *arguments, "--json", "results.json")
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return found


@pytest.fixture(scope="module")
def service(
    store: Path, start_server: Callable[..., LocalServer], small_clip: Path, landmarks: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Service:  # fmt: skip
    folder = tmp_path_factory.mktemp("videos")
    write_training_clips(folder / "learned")
    write_portraits(folder / "portraits")
    write_labelled(folder / "data")
    faces = ("--landmark-model", landmarks)
    for name, data, more in (("forgeries", "learned", ()), ("people", "portraits", faces)):
        head = folder / f"{name}.safetensors"
        learn = ["--model", small_clip, "--data", folder / data, "--output", head, *more]
        script("train.py", *learn, "--cache", folder / "cache", "--frames", 16)
        several = ("--faces", "all") if more else ()
        build = ["--model", small_clip, "--weights", head, "--served-name", name, *more, *several]
        script("build_mar.py", *build, "--export-path", store)
    server = start_server()
    for name in ("forgeries", "people"):
        server.wait_ready(name)
    return Service(server, folder)


def script(name: str, *arguments: object) -> None:
    """Runs one of the repository's commands."""
    command = [sys.executable, ROOT / "scripts" / name, *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def write_training_clips(folder: Path) -> None:
    """Clips of four photographs, each as it is and forged from end to end."""
    form = Form(".mp4", options=SHARP | {"crf": "10"}, clock=constant(8, 2))
    for name, image in photographs().items():
        if name == "astronaut":
            continue
        for mirrored in (False, True):
            shown = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
            for kind, when in (("real", None), ("fake", (0.0, 9.0))):
                frames = scene(shown, form.clock.times, (SIDE, SIDE), when)
                (folder / kind).mkdir(parents=True, exist_ok=True)
                write(folder / kind / f"{name}-{kind}-{mirrored}.mp4", frames, form)


def write_labelled(folder: Path) -> None:
    """Clips of parts of the astronaut, half of them with a forged stretch in the middle."""
    rng = np.random.default_rng(0)
    image = photographs()["astronaut"]
    for number in range(2 * EACH):
        kind = ("real", "fake")[number % 2]
        form = replace(CONTAINERS[number // 2 % 4], clock=constant(12, 2 + number % 3))
        top, left = rng.integers(0, 200, 2)
        part = image[top : top + 300, left : left + 300]
        seconds = 2 + number % 3
        when = (seconds / 3, seconds * 2 / 3) if kind == "fake" else None
        (folder / kind).mkdir(parents=True, exist_ok=True)
        frames = scene(part, form.clock.times, (SIDE, SIDE), when)
        write(folder / kind / f"clip-{number:02}{form.suffix}", frames, form)


def tinted(image: RGB, left: int, top: int, side: int) -> RGB:
    """A copy with the square's face forged."""
    copy = image.astype(int)
    copy[top : top + side, left : left + side] += TINT
    return np.clip(copy, 0, 255).astype(np.uint8)


def write_portraits(folder: Path) -> None:
    """Single people, each real in one picture; and as many others, forged."""
    for number in range(60):
        image = photograph(320, 320, [(number, 40, 40, 240)])
        kind = "fake" if number % 2 else "real"
        path = folder / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = tinted(image, 40, 40, 240) if kind == "fake" else image
        cv2.imwrite(str(path), cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))


def test_video_auc_and_frames_equal_those_of_frames_cut_by_hand(service: Service) -> None:
    found = service.ask("forgeries", "--image", "data", "--frames", FRAMES)
    expected: dict[str, list[float]] = {}
    names: dict[str, list[str]] = {}
    for video in sorted((service.folder / "data").rglob("clip-*")):
        own = service.folder / "cut" / video.relative_to(service.folder / "data")
        own.mkdir(parents=True)
        capture, frames = cv2.VideoCapture(str(video)), []
        while (read := capture.read())[0]:
            frames.append(read[1])
        numbers = np.linspace(0, len(frames) - 1, FRAMES, dtype=int)
        for number in numbers:
            cv2.imwrite(str(own / f"{number:03}.png"), frames[number])
        path = video.relative_to(service.folder).as_posix()
        # Twelve frames a second, in milliseconds.
        names[path] = [f"{path}@00:{number / 12:06.3f}" for number in numbers]
    by_hand = service.ask("forgeries", "--image", "cut")
    for image in by_hand["images"]:
        path = Path(image["path"]).parent.as_posix().replace("cut/", "data/", 1)
        expected.setdefault(path, []).append(image["fake_probability"])

    scores: dict[str, list[float]] = {}
    for image in found["images"]:
        scores.setdefault(image["path"].partition("@")[0], []).append(image["fake_probability"])
    assert [image["path"] for image in found["images"]] == list(chain(*names.values()))
    assert scores.keys() == expected.keys()
    assert len(scores) == 2 * EACH
    for path, own in scores.items():
        assert own == pytest.approx(expected[path], abs=1e-5), path

    labels = [int("fake" in path) for path in expected]
    means = [float(np.mean(own)) for own in expected.values()]
    judged = {video["path"]: video["fake_probability"] for video in found["videos"]}
    assert list(judged.values()) == pytest.approx(means, abs=1e-5)
    assert list(judged) == list(expected)
    assert found["metrics"]["videos"] == 2 * EACH
    assert found["metrics"]["video_auc"] == pytest.approx(roc_auc_score(labels, means), abs=1e-9)
    assert found["metrics"]["video_auc"] > 0.8


def test_the_forged_stretch_is_found_on_the_timeline(service: Service) -> None:
    form = Form(".mp4", options=B_FRAMES | {"crf": "10"}, clock=constant(8))
    frames = scene(photographs()["astronaut"], form.clock.times, (SIDE, SIDE))
    write(service.folder / "stretch.mp4", frames, form)
    done = service.run(
        "forgeries", "--image", "stretch.mp4", "--every", "0.25", "--timeline", "timeline.csv"
    )
    assert done.returncode == 0, done.stderr
    with (service.folder / "timeline.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = [(float(row["time"]), float(row["fake_probability"])) for row in table]
    assert [time for time, _ in rows] == pytest.approx([number / 4 for number in range(24)])
    within = [score for time, score in rows if MANIPULATED[0] <= time < MANIPULATED[1]]
    without = [score for time, score in rows if not MANIPULATED[0] <= time < MANIPULATED[1]]
    assert len(within) == 8
    assert np.mean(within) > np.mean(without) + 0.3
    most = next(line for line in done.stdout.splitlines() if line.startswith("Most fake: "))
    minutes, _, seconds = most.removeprefix("Most fake: ").partition(" ")[0].partition(":")
    assert MANIPULATED[0] <= int(minutes) * 60 + float(seconds) < MANIPULATED[1]


def test_of_two_people_the_forged_one_is_found(service: Service) -> None:
    form = Form(".mp4", options=B_FRAMES, clock=constant(4, 3))
    frames = []
    for tick in form.clock.ticks:
        # They sway, and the right one is forged.
        left, right = (30 + 3 * tick, 60, 240), (380 - 3 * tick, 70, 240)
        image = photograph(360, 660, [(61, *left), (63, *right)])
        frames.append(tinted(image, *right))
    write(service.folder / "couple.mp4", frames, form)
    asked = service.ask(
        "people", "--image", "couple.mp4", "--frames", 10, "--timeline", "people.csv"
    )
    (video,) = asked["videos"]
    with (service.folder / "people.csv").open() as file:
        rows = [(row["track"], float(row["left"])) for row in csv.DictReader(file) if row["track"]]
    lefts = {
        track["track"]: np.mean([left for number, left in rows if number == str(track["track"])])
        for track in video["tracks"]
    }
    assert len(lefts) == 2
    real, fake = sorted(video["tracks"], key=lambda track: lefts[track["track"]])
    assert lefts[real["track"]] < 330 < lefts[fake["track"]]
    assert fake["fake_probability"] > 0.5 > real["fake_probability"]
    assert min(fake["frames"], real["frames"]) > 7
    assert video["fake_probability"] == fake["fake_probability"]
    assert video["prediction"] == 1


def test_bad_files_lose_nothing_of_the_good_ones(service: Service) -> None:
    folder = service.folder / "mixed"
    folder.mkdir()
    bad = ["cut_mp4", "without_index", "audio_only", "no_frames", "unknown_codec", "encrypted"]
    bad += ["text", "playlist", "empty", "one_pixel", "changing_webm", "lying_avi"]
    makers = {name: BAD[name](folder).name for name in bad}
    for path in folder.glob("segment*"):
        path.unlink()
    good = sorted((service.folder / "data").rglob("clip-0*"))
    for path in good:
        shutil.copy(path, folder / path.name)
    found = service.ask("forgeries", "--image", "mixed", "--frames", 4, code=1)
    videos = {Path(video["path"]).name: video for video in found["videos"]}
    assert videos.keys() == {*makers.values(), *(path.name for path in good)}
    for path in good:
        assert (videos[path.name]["frames"], videos[path.name]["error"]) == (4, None)
    for name in ("cut_mp4", "one_pixel", "changing_webm", "lying_avi"):
        assert videos[makers[name]]["frames"] == 4
    reasons = {
        name: videos[makers[name]]["message"] for name in bad if videos[makers[name]]["error"]
    }
    assert reasons.keys() == {*bad} - {"cut_mp4", "one_pixel", "changing_webm", "lying_avi"}
    for name, word in (
        ("without_index", "moov"),
        ("audio_only", "no video stream"),
        ("no_frames", "no frame"),
        ("unknown_codec", "zz9z"),
        ("encrypted", "encrypted"),
        ("text", "no video"),
        ("playlist", "no video"),
        ("empty", "empty"),
    ):
        assert word in reasons[name]


def test_a_run_that_is_killed_goes_on_where_it_was(service: Service) -> None:
    arguments = ["--image", "data", "--frames", 16, "--concurrency", 2]
    journal = service.folder / "killed.txt.partial.jsonl"
    command = service.command("forgeries", *arguments, "--output", "killed.txt")
    client = subprocess.Popen(
        command, cwd=service.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def done() -> int:
        return journal.read_text().count('"place"') if journal.exists() else 0

    deadline = time.monotonic() + 120
    while done() < 100:
        assert time.monotonic() < deadline
        assert client.poll() is None
        time.sleep(0.01)
    decoders = psutil.Process(client.pid).children(recursive=True)
    client.send_signal(signal.SIGKILL)
    client.wait()
    _, alive = psutil.wait_procs(decoders, timeout=20)
    assert not alive
    kept = done()
    assert 100 <= kept < 2 * EACH * 16
    resumed = service.ask("forgeries", *arguments, "--output", "killed.txt", "--resume")
    assert not journal.exists()
    whole = service.ask("forgeries", *arguments, "--output", "whole.txt")
    for one, other in zip(resumed["images"], whole["images"], strict=True):
        assert one["path"] == other["path"]
        assert one["fake_probability"] == pytest.approx(other["fake_probability"], abs=1e-6)
    assert resumed["metrics"]["video_auc"] == pytest.approx(whole["metrics"]["video_auc"])
    assert [video["path"] for video in resumed["videos"]] == [
        video["path"] for video in whole["videos"]
    ]
