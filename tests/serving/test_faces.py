"""Faces under a real TorchServe: aligned by the worker, or by the client, or by hand."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
import torch
from deepfake_tools.packaging.archive import plain_entry
from deepfake_tools.torchserve.local_server import LocalServer
from safetensors.torch import load_file
from transformers import CLIPModel

from tests import ROOT
from tests.portraits import encode, photograph
from tests.reference_alignment import reference_crop

pytestmark = pytest.mark.serving

OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True)
class Served:
    """Detectors of the same weights that are up: ``aligned``, ``plain``, ``group``, ``strict``."""

    server: LocalServer
    store: Path

    def post(self, name: str, **options: object) -> requests.Response:
        token = json.loads(self.server.key_file.read_text())["inference"]["key"]
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}  # type: ignore[dict-item]
        url = f"{self.server.inference_url}/predictions/{name}"
        return requests.post(url, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def ask(self, name: str, image: bytes) -> requests.Response:
        return self.post(name, data=image, headers=OCTETS)


def build(store: Path, *options: object) -> None:
    command = [sys.executable, ROOT / "scripts/build_mar.py", "--export-path", store, *options]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def served(
    store: Path, start_server: Callable[..., LocalServer], small_clip: Path, landmarks: Path
) -> Served:
    aligned = ("--landmark-model", landmarks, "--face-detection", "exact")
    detectors: dict[str, tuple[object, ...]] = {
        "plain": (),
        "aligned": aligned,
        "group": (*aligned, "--faces", "all"),
        "strict": (*aligned, "--on-no-face", "error"),
    }
    for name, options in detectors.items():
        build(store, "--model", small_clip, "--served-name", name, *options)
    server = start_server()
    for name in detectors:
        server.wait_ready(name)
    return Served(server, store)


@pytest.fixture(scope="module")
def portraits(examples: list[Path]) -> list[bytes]:
    """The portrait of examples/, and three other people."""
    (astronaut,) = [path.read_bytes() for path in examples if path.stem == "astronaut"]
    people = [photograph(450, 520, [(number, 120, 80, 280)]) for number in (0, 21, 42)]
    return [astronaut, *map(encode, people)]


@pytest.fixture(scope="module")
def expected(served: Served, small_clip: Path, landmarks: Path) -> Callable[[bytes], float]:
    """fake_probability by dlib, scikit-image, OpenCV and transformers, nothing of ours."""
    clip = CLIPModel.from_pretrained(small_clip).eval()
    side = clip.config.vision_config.image_size
    with zipfile.ZipFile(served.store / "plain@1.mar") as archive:
        head = load_file(archive.extract("head.safetensors", served.store.parent))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def compute(image: bytes) -> float:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        crop = reference_crop(pixels, str(landmarks))
        pixels = pixels if crop is None else crop
        pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR) / 255
        values = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits = clip.vision_model(values).pooler_output @ head["weight"].T + head["bias"]
        return float(logits.softmax(1)[0, 1])

    return compute


def test_a_batch_of_8_mixed_images_at_once(
    served: Served,
    expected: Callable[[bytes], float],
    portraits: list[bytes],
    examples: list[Path],
) -> None:
    """4 with a face, 2 without, 2 broken: each its own right answer, in both forms of request."""
    faceless = [path.read_bytes() for path in examples if path.stem in ("cat", "rocket")]
    faults = {b"no image": "not_an_image", portraits[0][:6000]: "truncated_image"}
    images = [*portraits[:2], *faceless[:1], *faults, *portraits[2:], *faceless[1:]]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: served.ask("aligned", image), images))
    parts = {f"image{index}": image for index, image in enumerate(images)}
    entries = served.post("aligned", files=parts).json()
    for image, answer, entry in zip(images, answers, entries, strict=True):
        if image in faults:
            assert answer.status_code == entry["status"] == 400
            assert answer.json()["error"]["code"] == entry["error"]["code"] == faults[image]
            continue
        for verdict in (answer.json(), entry):
            assert verdict["face"]["found"] == (image in portraits)
            assert verdict["fake_probability"] == pytest.approx(expected(image), abs=1e-5)
            assert verdict["detector"]["faces"] == "largest"


def test_client_and_worker_align_alike(
    served: Served, portraits: list[bytes], examples: list[Path], landmarks: Path, tmp_path: Path
) -> None:
    images = [*portraits, *(path.read_bytes() for path in examples if path.stem == "cat")]
    for index, image in enumerate(images):
        (tmp_path / f"{index}.img.jpg").write_bytes(image)
    command = [
        sys.executable,
        ROOT / "scripts/client.py",
        "--image",
        *sorted(tmp_path.glob("*.jpg")),
    ]
    options = ["--server", served.server.inference_url, "--key-file", served.server.key_file]
    aligning = ["--landmark_model", landmarks, "--face-detection", "exact"]
    written = ["--output", tmp_path / "out.txt", "--json", tmp_path / "out.json"]
    result = subprocess.run(
        [*map(str, [*command, "--model", "plain", *options, *aligning, *written])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "1 images had no face: sent whole" in result.stderr
    by_client = [
        image["fake_probability"]
        for image in json.loads((tmp_path / "out.json").read_text())["images"]
    ]
    by_worker = [served.ask("aligned", image).json()["fake_probability"] for image in images]
    assert by_client == pytest.approx(by_worker, abs=1e-5)
    not_aligned = [served.ask("plain", image).json()["fake_probability"] for image in portraits]
    for one, other in zip(by_client, not_aligned, strict=False):
        assert abs(one - other) > 1e-4, "what is aligned makes a difference"
    twice = subprocess.run(
        [*map(str, [*command, "--model", "aligned", *options, *aligning, *written])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert twice.returncode == 19
    assert "aligned aligns faces itself" in twice.stderr


def test_40_faces_have_a_verdict_each(served: Served) -> None:
    numbers = [number for number in range(100) if number % 6 != 4][:48]
    placed = [(n, 10 + i % 8 * 190, 10 + i // 8 * 190, 180) for i, n in enumerate(numbers)]
    crowd = encode(photograph(1160, 1540, placed), ".jpg")
    verdict = served.ask("group", crowd).json()
    assert verdict["face"]["count"] == len(verdict["faces"]) >= 40
    probabilities = [face["fake_probability"] for face in verdict["faces"]]
    assert verdict["fake_probability"] == max(probabilities)
    worst = verdict["faces"][probabilities.index(max(probabilities))]
    assert verdict["face"]["box"] == worst["box"]


def renamed(store: Path, source: str, name: str, version: str = "1", **more: bytes) -> Path:
    """A copy of an archive under another name and version, with more files in it."""
    with zipfile.ZipFile(store / f"{source}@1.mar") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    manifest, card = (
        json.loads(entries[key]) for key in ("MAR-INF/MANIFEST.json", "detector.json")
    )
    manifest["model"] |= {"modelName": name, "modelVersion": version}
    card |= {"name": name, "version": version}
    entries["MAR-INF/MANIFEST.json"] = json.dumps(manifest).encode()
    entries["detector.json"] = json.dumps(card).encode()
    target = store / f"{name}@{version}.mar"
    with zipfile.ZipFile(target, "w") as archive:
        for path, content in sorted((entries | {f"{key}.py": more[key] for key in more}).items()):
            archive.writestr(plain_entry(path), content)
    return target


def manage(served: Served, *arguments: object) -> subprocess.CompletedProcess[str]:
    server = served.server
    options = ["--model-store", served.store, "--key-file", server.key_file]
    options += ["--server", server.inference_url, "--management", server.management_url]
    command = [sys.executable, ROOT / "scripts/manage.py", *arguments, *options]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)


def test_a_detector_of_faces_alone_refuses_other_images_and_can_be_swapped(
    served: Served, portraits: list[bytes], examples: list[Path]
) -> None:
    swapped = manage(served, "swap", renamed(served.store, "strict", "strict", "2"))
    assert swapped.returncode == 0, swapped.stderr
    assert "strict version 2 answers: no face in the image" in swapped.stdout
    (cat,) = [path.read_bytes() for path in examples if path.stem == "cat"]
    answer = served.ask("strict", cat)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "no_face"
    judged = served.ask("strict", portraits[0])
    assert judged.status_code == 200
    assert judged.json()["detector"]["version"] == "2"


def test_without_dlib_a_worker_does_not_come_up_and_manage_says_why(served: Served) -> None:
    """The archive's own folder comes first on a worker's path, so a false dlib hides the true."""
    no_dlib = b"raise ModuleNotFoundError(\"No module named 'dlib'\")\n"
    refused = manage(served, "register", renamed(served.store, "aligned", "bare", dlib=no_dlib))
    assert refused.returncode != 0
    assert "aligning faces needs dlib" in refused.stderr
    assert "pip install 'clip-deepfake[faces]'" in refused.stderr
    assert "bare" not in [model.name for model in served.server.management().models()]
