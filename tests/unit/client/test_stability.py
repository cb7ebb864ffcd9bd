"""client.py --stability against a stand-in for the server: what it asks, and what it says."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from tests.unit.client_runs import Client
from tests.unit.torchserve_stub import (
    SERVED,
    Reply,
    Request,
    StubServer,
    answer_each,
    description,
    images_of,
    json_reply,
    verdict,
)


class Sharpness:
    """Calls an image FAKE by how much its neighbouring pixels differ; notes the requests."""

    def __init__(self) -> None:
        self.requests: list[int] = []

    def __call__(self, request: Request) -> Reply:
        if request.path.startswith("/models"):
            return json_reply([description(SERVED, "1", "READY")])
        self.requests.append(len(images_of(request)))
        return answer_each(request, lambda data: json_reply(decided(data)))


def probability(data: bytes) -> float:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
    return min(float(np.abs(np.diff(image, axis=1)).mean()) / 100, 1.0)


def decided(data: bytes) -> dict[str, object]:
    found = probability(data)
    ruling = "FAKE" if found > 0.5 else "UNSURE" if found > 0.4 else "REAL"
    return verdict(found, "head.pth") | {"decision": ruling, "false_alarm_rate": 1 - found}


def write(folder: Path) -> tuple[Path, Path]:
    """Writes a noisy image, which averaging makes smooth, and one that is smooth already."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    folder.mkdir()
    cv2.imwrite(str(folder / "noisy.png"), noise)
    cv2.imwrite(str(folder / "smooth.png"), np.full((64, 64, 3), 99))
    return folder / "noisy.png", folder / "smooth.png"


def test_an_image_and_its_changes_are_asked_about_at_once(client: Client, tmp_path: Path) -> None:
    noisy, _ = write(tmp_path / "pictures")
    detector = Sharpness()
    with StubServer(detector) as stub:
        run = client("--image", str(noisy), "--stability", server=stub.address)
    assert run.code == 0, run.err
    # The first is the client's own image, by which it learns how this detector turns images.
    assert detector.requests == [1, 6]
    assert "; FAKE: as fake as" in run.out
    assert "UNSTABLE under small changes: fake_probability" in run.out


def test_of_a_folder_the_share_of_unstable_images_is_told(client: Client, tmp_path: Path) -> None:
    write(tmp_path / "pictures")
    for number in range(8):
        shutil.copy(tmp_path / "pictures/smooth.png", tmp_path / f"pictures/smooth {number}.png")
    words = ("--stability", "--json", "out.json", "--csv", "out.csv", "--report", "out.html")
    detector = Sharpness()
    with StubServer(detector) as stub:
        run = client("--image", "pictures", *words, server=stub.address)
    assert run.code == 0, run.err
    assert "Unstable under small changes: 10.00% (1 of 10 images)" in run.out
    assert all(count % 6 == 0 for count in detector.requests[1:])
    written = json.loads((tmp_path / "out.json").read_text())
    assert {Path(i["path"]).name for i in written["images"] if i["unstable"]} == {"noisy.png"}
    (image,) = [image for image in written["images"] if image["unstable"]]
    assert image["lowest"] < 0.5 < image["highest"]
    assert written["metrics"]["stability"] == {"images": 10, "unstable": 1}
    assert written["perturbed"]["resize=0.5"]["held"] == 0.9
    results = (tmp_path / "inference_results_huggingface.txt").read_text()
    assert "STABILITY\n  1 of 10 images" in results
    assert "1 of 10 images" in " ".join((tmp_path / "out.html").read_text().split())
