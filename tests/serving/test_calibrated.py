"""The demo's detector: trained, calibrated over a server, served with its decision, and asked."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import demo
import numpy as np
import pytest
import requests
from clip_deepfake.images import decode
from deepfake_tools.demonstration.blending import manipulate
from deepfake_tools.demonstration.crops import SIDE, TRAINED_ON
from deepfake_tools.evaluation.perturbations import perturb
from deepfake_tools.evaluation.stability import CHANGES
from deepfake_tools.image_files import encode
from deepfake_tools.torchserve.local_server import LocalServer
from scipy.stats import beta, betabinom

from tests import ROOT
from tests.serving.manage_runs import Manage

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

CALIBRATED_BY, OTHERS, MANY = 399, 300, 2000
ALPHA, UNSURE = 0.05, 0.3
NAME = "stand-in-clip"


def held_out_crops(seed: int, count: int) -> Iterator[np.ndarray]:
    """Crops of what the demo holds out, of all photographs alike, uint8 (SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    photographs = [decode(path.read_bytes(), 50_000_000) for path in demo.PHOTOGRAPHS]
    for _ in range(count):
        image = photographs[rng.integers(len(photographs))]
        height, width = image.shape[:2]
        left = rng.integers(int(width * TRAINED_ON), width - SIDE + 1)
        top = rng.integers(height - SIDE + 1)
        yield image[top : top + SIDE, left : left + SIDE]


def write_crops(folder: Path) -> None:
    """Crops in one random order: some to calibrate by, the others."""
    rng = np.random.default_rng(7)
    for number, crop in enumerate(held_out_crops(7, CALIBRATED_BY + OTHERS)):
        kind = "mine" if number < CALIBRATED_BY else "others"
        for label, pixels in (("real", crop), ("fake", manipulate(crop, rng))):
            path = folder / kind / label / f"{label} {number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels))


@dataclass(frozen=True)
class Service:
    """The detector with its decision, served.

    Attributes:
        said: what calibrate.py printed.
        before: answers to the other real images without the decision, as text.
    """

    server: LocalServer
    folder: Path
    said: str
    before: dict[Path, bytes]

    def run(self, script: str, *words: object) -> str:
        return run(script, *words, *place(self.server), cwd=self.folder)

    def ask(self, data: bytes) -> bytes:
        return ask(self.server, data)

    def verdict(self, data: bytes) -> dict:
        return json.loads(self.ask(data))

    def images(self, kind: str, label: str) -> list[Path]:
        return sorted((self.folder / kind / label).iterdir())


def run(script: str, *words: object, cwd: Path | None = None) -> str:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def place(server: LocalServer) -> list[object]:
    addresses = ["--server", server.inference_url, "--management", server.management_url]
    return [*addresses, "--key-file", server.key_file]


def ask(server: LocalServer, data: bytes) -> bytes:
    token = json.loads(server.key_file.read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    url = f"{server.inference_url}/predictions/{NAME}"
    answer = requests.post(url, data=data, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.fixture(scope="module")
def service(
    store: Path, start_server: Callable[..., LocalServer], tmp_path_factory: pytest.TempPathFactory
) -> Service:
    folder = tmp_path_factory.mktemp("calibrated")
    write_crops(folder)
    demo.make_crops(folder)
    model = demo.stand_in(folder)
    head = demo.train(model, folder)
    build = ["--model", model, "--weights", head, "--served-name", NAME, "--export-path", store]
    run("build_mar.py", *build)
    server = start_server()
    server.wait_ready(NAME)
    before = {
        path: ask(server, path.read_bytes()) for path in (folder / "others" / "real").iterdir()
    }
    rates = ["--false-alarms", ALPHA, "--unsure", UNSURE, "--output", folder / "decision.json"]
    reals = ["--model", NAME, "--reals", folder / "mine" / "real"]
    said = run("calibrate.py", *reals, *rates, *place(server))
    built = run("build_mar.py", *build, "--decision", folder / "decision.json")
    assert f"by {CALIBRATED_BY} real images" in built
    swapped = Manage(server, store)("swap", store / f"{NAME}@2.mar")
    assert swapped.returncode == 0, swapped.stderr
    return Service(server, folder, said, before)


def test_the_rate_on_other_real_images_is_as_was_printed(service: Service) -> None:
    """The printed range holds the rate in 19 calibrations of 20, and this is one of them."""
    low, high = map(float, re.search(r"([\d.]+) % to ([\d.]+) % with this", service.said).groups())
    # Above the order statistic lie as many as a beta distribution says, and of these a count.
    above = int(np.floor((CALIBRATED_BY + 1) * ALPHA))
    rate = beta(above, CALIBRATED_BY + 1 - above)
    assert [low, high] == pytest.approx([100 * rate.ppf(q) for q in (0.025, 0.975)], abs=0.01)
    verdicts = (service.verdict(encode(crop)) for crop in held_out_crops(8, MANY))
    found = sum(verdict["decision"] == "FAKE" for verdict in verdicts)
    print(f"{100 * found / MANY:.2f} % FAKE of others, printed {low} to {high} %")
    count = betabinom(MANY, above, CALIBRATED_BY + 1 - above)
    assert count.ppf(0.0005) <= found <= count.ppf(0.9995)


def test_false_alarm_rates_are_those_of_the_margins(service: Service) -> None:
    mine = service.images("mine", "real")
    reals = np.array([service.verdict(path.read_bytes())["margin"] for path in mine])
    threshold = np.sort(reals)[int(np.ceil((CALIBRATED_BY + 1) * (1 - ALPHA))) - 1]
    for path in [*service.images("others", "real"), *service.images("others", "fake")[:50]]:
        verdict = service.verdict(path.read_bytes())
        margin = verdict["margin"]
        exact = (1 + (reals >= margin).sum()) / (CALIBRATED_BY + 1)
        assert exact <= verdict["false_alarm_rate"] <= 1.02 * exact
        if margin != threshold:
            assert (verdict["decision"] == "FAKE") == (margin > threshold)
        assert (verdict["decision"] == "REAL") == (exact > UNSURE)


def test_without_a_decision_answers_are_the_same_to_the_byte(service: Service) -> None:
    for path, before in service.before.items():
        after = json.loads(service.ask(path.read_bytes()))
        del after["decision"], after["false_alarm_rate"]
        del after["detector"]["false_alarms"], after["detector"]["calibrated_by"]
        after["detector"]["version"] = "1"
        assert json.dumps(after).encode() == before


def test_the_client_says_it_in_words_and_in_its_files(service: Service) -> None:
    image = service.images("others", "fake")[0]
    verdict = service.verdict(image.read_bytes())
    said = service.run("client.py", "--model", NAME, "--image", image)
    share = f"{100 * verdict['false_alarm_rate']:.3g} %"
    assert f"; {verdict['decision']}: as fake as {share} of your real images" in said
    files = ["--json", "out.json", "--csv", "out.csv", "--report", "out.html"]
    changed = ["--perturb", "jpeg=70"]
    others = service.folder / "others"
    service.run("client.py", "--model", NAME, "--image", others, "--output", "o", *files, *changed)
    written = json.loads((service.folder / "out.json").read_text())
    assert written["run"]["false_alarms"] == ALPHA
    by_label = {row["label"]: row for row in written["metrics"]["decisions"]}
    assert by_label["real"]["images"] == by_label["fake"]["images"] == OTHERS
    assert 0 <= written["perturbed"]["jpeg=70"]["held"] <= 1
    assert "DECISIONS" in (service.folder / "o").read_text()
    assert "decision,false_alarm_rate" in (service.folder / "out.csv").read_text()
    assert "Decisions</h2>" in (service.folder / "out.html").read_text()


def called(service: Service, data: bytes) -> str:
    return service.verdict(data)["decision"]


def test_an_image_that_flips_as_a_jpeg_is_unstable_and_another_is_not(service: Service) -> None:
    flipping = steady = None
    kinds = (("others", "real"), ("mine", "real"), ("others", "fake"))
    for path in (path for kind in kinds for path in service.images(*kind)):
        data = path.read_bytes()
        plain = called(service, data)
        _, encoded = cv2.imencode(".jpg", cv2.imread(str(path)), (cv2.IMWRITE_JPEG_QUALITY, 70))
        if called(service, encoded.tobytes()) != plain:
            flipping = flipping or path
        elif all(called(service, perturb(data, change)) == plain for change in CHANGES):
            steady = steady or path
        if flipping and steady:
            break
    assert flipping
    assert steady
    words = ["--model", NAME, "--stability", "--image", flipping, steady, "--json", "stable.json"]
    said = service.run("client.py", *words).splitlines()
    assert "UNSTABLE under small changes: fake_probability" in said[0]
    assert "; stable under small changes: fake_probability" in said[1]
    images = json.loads((service.folder / "stable.json").read_text())["images"]
    assert [image["unstable"] for image in images] == [True, False]
    for image, path in zip(images, (flipping, steady), strict=True):
        data = path.read_bytes()
        every = [data, *(perturb(data, change) for change in CHANGES)]
        found = [service.verdict(one)["fake_probability"] for one in every]
        assert image["lowest"] == pytest.approx(min(found), abs=1e-5)
        assert image["highest"] == pytest.approx(max(found), abs=1e-5)


def test_the_decision_of_another_detector_is_refused(service: Service, store: Path) -> None:
    other = [sys.executable, ROOT / "scripts/build_mar.py", "--model", service.folder / NAME]
    options = ["--export-path", store, "--decision", service.folder / "decision.json"]
    done = subprocess.run([*other, *options], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "made for another detector" in done.stderr


def test_shares_are_counted(service: Service) -> None:
    page = requests.get(f"{service.server.metrics_url}/metrics", timeout=20).text
    for bound in ("0.01", "0.05", "0.1", "1"):
        assert re.search(rf'clip_deepfake_false_alarm_rates_total\{{up_to="{bound}"', page)
