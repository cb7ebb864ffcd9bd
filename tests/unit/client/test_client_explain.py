"""client.py --explain: a map and its numbers for each image, and what cannot be explained."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.client.test_client_videos import LEVELS, GreyDetector, write_grey
from tests.unit.client_runs import Client
from tests.unit.torchserve_stub import (
    Reply,
    Request,
    StubServer,
    detector_error,
    explanation,
    images_of,
    json_reply,
)


class Explaining(GreyDetector):
    """Explains what it judges; refuses to explain what is nearly white."""

    def __call__(self, request: Request) -> Reply:
        if not request.path.startswith("/explanations/"):
            return super().__call__(request)
        (image,) = images_of(request)
        judged = json.loads(self.judge(image).body)
        if judged["fake_probability"] > 0.95:
            return detector_error(400, "too_bright", "this is too bright")
        return json_reply(judged | explanation())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, level in {"real/a.png": 180, "fake/a.png": 200, "fake/white.png": 250}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((48, 64, 3), level, np.uint8))
    return folder


def test_each_image_has_its_map_and_numbers(client: Client, pictures: Path, tmp_path: Path) -> None:
    with StubServer(Explaining()) as stub:
        write = ["--explain", "why", "--report", "report.html"]
        run = client("--image", "data", *write, server=stub.address)
    assert run.code == 1, "one is not explained"
    assert "error: data/fake/white.png: not explained: " in run.err
    found = {str(path.relative_to(tmp_path / "why")) for path in (tmp_path / "why").rglob("*.*")}
    assert found == {f"{kind}/a.png.{end}" for kind in ("real", "fake") for end in ("png", "json")}
    for kind in ("real", "fake"):
        numbers = json.loads((tmp_path / "why" / kind / "a.png.json").read_text())
        assert numbers["path"] == f"data/{kind}/a.png"
        grid = numbers["explanation"]["grid"]
        total = sum(map(sum, grid)) + numbers["explanation"]["rest"]
        assert total == pytest.approx(numbers["explanation"]["margin"])
        assert cv2.imread(str(tmp_path / "why" / kind / "a.png.png")) is not None
    # The real one is taken for a fake, and shown with its map.
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'alt="(real|fake) image (\S+)"', page) == [("real", "data/real/a.png")]
    assert page.count("What spoke for fake in it") == 1
    assert "no proof of a forgery" in page


def test_of_a_video_the_most_fake_frames_are_explained(client: Client, tmp_path: Path) -> None:
    write_grey(tmp_path / "clip.mp4", LEVELS)
    with StubServer(Explaining()) as stub:
        run = client("--image", "clip.mp4", "--explain", "why", server=stub.address)
    assert run.code == 0, run.err
    assert "Explanations written to why" in run.out
    (most_fake,) = (line for line in run.out.splitlines() if line.startswith("Most fake: "))
    times = [one.split()[0] for one in most_fake.removeprefix("Most fake: ").split(", ")]
    assert {path.name for path in (tmp_path / "why").iterdir()} == {
        f"clip.mp4@{time}.{end}" for time in times for end in ("png", "json")
    }


def test_an_archive_that_explains_nothing_is_named_once(
    client: Client, pictures: Path, tmp_path: Path
) -> None:
    class Silent(GreyDetector):
        def __call__(self, request: Request) -> Reply:
            if request.path.startswith("/explanations/"):
                return detector_error(501, "not_implemented", "explanations are not offered")
            return super().__call__(request)

    with StubServer(Silent()) as stub:
        run = client("--image", "data", "--explain", "why", server=stub.address)
    assert run.code == 24
    assert run.err.count("explanations are not offered") == 1
    assert not (tmp_path / "why").exists()
