"""The detector under a real TorchServe: full-size models from the Hub stand-in to verdicts."""

import base64
import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pillow_heif
import pytest
import requests
import torch
from clip_deepfake.card import parse_card
from clip_deepfake.loading import load_detector
from clip_deepfake.system import available_cores
from clip_deepfake.tensors import OUTPUTS
from clip_deepfake.verdicts import Verdict
from deepfake_tools.inspection import served_name
from deepfake_tools.torchserve.local_server import LocalServer
from PIL import Image
from safetensors.torch import load, load_file, save
from transformers import CLIPModel
from tritonclient.http import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    InferResult,
)
from tritonclient.utils import InferenceServerException

from tests import ROOT
from tests.clips import CONFIGS, write_repository
from tests.cut_off import judge_cut_off
from tests.drills.image_cases import COPIES
from tests.drills.memory import PeakMemory
from tests.hub_server import HubServer
from tests.tinted import write_images

pytestmark = pytest.mark.serving

MODEL = "openai/clip-vit-base-patch32"
# ViT-L/14 is what the published families are served on; `make equality` has all, of every side.
OTHER = "openai/clip-vit-base-patch16"
NAME = served_name(MODEL)
OCTETS = {"Content-Type": "application/octet-stream"}


def build(model: str, store: Path, *options: str) -> str:
    """Builds as a person does; returns what was printed."""
    command = [sys.executable, ROOT / "scripts/build_mar.py", "--model", model, *options]
    result = subprocess.run(
        [*command, "--export-path", store], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@dataclass(frozen=True)
class Served:
    """A detector that is up.

    Attributes:
        server: its TorchServe.
        home: HOME of that server, empty when it was started.
        repository: files of the model.
        archive: its unpacked archive.
    """

    server: LocalServer
    home: Path
    repository: Path
    archive: Path

    def post(self, path: str, **options: object) -> requests.Response:
        token = json.loads(self.server.key_file.read_text())["inference"]["key"]
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}  # type: ignore[dict-item]
        url = self.server.inference_url + path
        return requests.post(url, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def worker_pid(self) -> int:
        (worker,) = self.server.management().version(NAME).workers
        return worker.pid


@pytest.fixture(scope="module")
def served(
    store: Path,
    start_server: Callable[..., LocalServer],
    hub: HubServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The default model from the Hub stand-in, built and served with an empty HOME."""
    folder = tmp_path_factory.mktemp("base-patch32")
    repository = write_repository(folder / "repository", CONFIGS[MODEL])
    hub.add(MODEL, repository)
    build(MODEL, store)
    home = folder / "home"
    home.mkdir()
    archive = folder / "archive"
    shutil.unpack_archive(store / f"{NAME}@1.mar", archive, "zip")
    # A worker that asked the Hub after all would be seen by the stand-in.
    server = start_server(environment={"HOME": str(home), "HF_HOME": str(home / "hub")})
    hub.requests.clear()
    server.wait_ready(NAME)
    yield Served(server, home, repository, archive)
    assert hub.requests == []


@pytest.fixture(scope="module")
def expected(served: Served, examples: list[Path]) -> dict[Path, float]:
    """fake_probability by transformers, OpenCV and the archive's head, nothing of ours."""
    clip = CLIPModel.from_pretrained(served.repository).eval()
    head = load_file(served.archive / "head.safetensors")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    probabilities = {}
    for path in examples:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR) / 255
        values = torch.tensor((image - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits = clip.vision_model(values).pooler_output @ head["weight"].T + head["bias"]
        probabilities[path] = float(logits.softmax(1)[0, 1])
    return probabilities


def test_served_scores_are_those_of_transformers(
    served: Served, expected: dict[Path, float]
) -> None:
    for path, probability in expected.items():
        answer = served.post(f"/predictions/{NAME}", data=path.read_bytes(), headers=OCTETS)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"
        verdict = answer.json()
        assert verdict["fake_probability"] == pytest.approx(probability, abs=1e-5)
        assert verdict["label"] == ("FAKE" if probability > 0.5 else "REAL")
        assert verdict["detector"]["model"] == MODEL
        assert verdict["detector"]["head"] == "untrained"
        assert verdict["detector"]["engine"] == "openvino cpu float32"


def test_a_heic_is_judged_by_the_pixels_that_pillow_gives(
    served: Served, examples: list[Path]
) -> None:
    heic, png = io.BytesIO(), io.BytesIO()
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(examples[0]).convert("RGB").save(heic, "HEIF", exif=exif.tobytes(), tile_size=256)
    Image.open(heic).convert("RGB").save(png, "PNG")
    first, second = (
        served.post(f"/predictions/{NAME}", data=data.getvalue(), headers=OCTETS).json()
        for data in (heic, png)
    )
    assert first["logits"] == second["logits"]


def test_every_form_of_request_gets_the_same_verdicts(
    served: Served, expected: dict[Path, float], examples: list[Path]
) -> None:
    contents = [path.read_bytes() for path in examples]
    wanted = [pytest.approx(expected[path], abs=1e-5) for path in examples]
    instances = {"instances": [{"b64": base64.b64encode(data).decode()} for data in contents]}
    parts = {f"image{index}": data for index, data in enumerate(contents)}
    answers = [
        served.post(f"/predictions/{NAME}", files=parts).json(),
        served.post(f"/predictions/{NAME}", json=instances).json(),
        served.post(f"/v1/models/{NAME}:predict", json=instances).json()["predictions"],
    ]
    for answer in answers:
        assert [verdict["fake_probability"] for verdict in answer] == wanted


def test_a_part_that_torchserve_loses_is_told(served: Served, examples: list[Path]) -> None:
    photos = [path.read_bytes() for path in examples[:2]]
    files = [("image", (f"{index}.jpg", photo)) for index, photo in enumerate(photos)]
    answer = served.post(f"/predictions/{NAME}", files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "lost_parts")
    # The same without a length of its own: TorchServe counts what it has gathered.
    sent = requests.Request("POST", "http://host", files=files).prepare()
    assert isinstance(sent.body, bytes)
    kind = {"Content-Type": str(sent.headers["Content-Type"])}
    chunked = served.post(f"/predictions/{NAME}", data=iter([sent.body]), headers=kind)
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (400, "lost_parts")


@pytest.mark.parametrize(
    "kind",
    ["text/plain;charset=UTF-8", "text/json", "application/json", "application/octet-stream"],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b" \r\n"], ids=["", "mark", "blanks"])
def test_json_is_read_whatever_its_type(
    served: Served, examples: list[Path], kind: str, start: bytes
) -> None:
    text = json.dumps({"instances": [{"b64": base64.b64encode(examples[0].read_bytes()).decode()}]})
    data, headers = start + text.encode(), {"Content-Type": kind}
    answer = served.post(f"/predictions/{NAME}", data=data, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] in ("REAL", "FAKE")


def test_millions_of_instances_are_refused_before_they_become_objects(served: Served) -> None:
    pid, body = served.worker_pid(), b'{"instances":[' + b"1," * 15_000_000 + b"1]}"
    headers = {"Content-Type": "application/json"}
    memory = PeakMemory(pid)
    answer = served.post(f"/predictions/{NAME}", data=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_images")
    assert served.worker_pid() == pid
    memory.look()
    assert memory.peak_mb - memory.before_mb < COPIES * len(body) / 1e6


def flat_webp(side: int) -> bytes:
    """Some sixty bytes, whatever its size."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 199)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def test_eight_requests_of_the_largest_images_leave_the_worker_to_the_others(
    served: Served, expected: dict[Path, float], examples: list[Path]
) -> None:
    image, pid = flat_webp(7000), served.worker_pid()
    greedy = {"files": {f"image{index}": image for index in range(32)}}
    photos = [{"data": path.read_bytes(), "headers": OCTETS} for path in examples]
    memory = PeakMemory(pid)
    with ThreadPoolExecutor(32) as pool:
        sent = [
            pool.submit(served.post, f"/predictions/{NAME}", **options)
            for options in (*[greedy] * 8, *photos)
        ]
        answers = [future.result() for future in sent]
    memory.look()
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    for path, answer in zip(examples, answers[8:], strict=True):
        assert answer.json()["fake_probability"] == pytest.approx(expected[path], abs=1e-5)
    for answer in answers[:8]:
        codes = [entry.get("error", {}).get("code") for entry in answer.json()]
        assert 1 <= codes.count(None) <= 4
        assert set(codes[4:]) == {"image_too_large"}
    assert served.worker_pid() == pid
    # A quarter of such an image a core at a time, but one in any case; 12 bytes a pixel at most.
    assert memory.peak_mb - memory.before_mb < 12 * 49 * max(1, available_cores() / 4) * 1.5


def test_a_clients_describe_tells_nothing_of_the_worker(
    served: Served, store: Path, examples: list[Path]
) -> None:
    photo = examples[0].read_bytes()
    describe = {"describe": "True"}
    for path in (f"/predictions/{NAME}", f"/v1/models/{NAME}:predict", f"/models/{NAME}/invoke"):
        answer = served.post(path, data=photo, headers=OCTETS | describe)
        assert answer.status_code == 200, answer.text
        assert "label" in answer.text
        form = {"Content-Type": "multipart/form-data; boundary=b"} | describe
        for data in (b"", b"--b--\r\n"):
            empty = served.post(path, data=data, headers=form)
            assert empty.status_code >= 400
            assert "pid" not in answer.text + empty.text
    with zipfile.ZipFile(store / f"{NAME}@1.mar") as archive:
        card = parse_card(archive.read("detector.json"))
    assert served.server.management().ask_handler(NAME, "1") == {
        "pid": served.worker_pid(),
        "detector": answer.json()["detector"],
        "fingerprint": card.fingerprint(),
    }


def check_sum(verdict: dict[str, Any]) -> None:
    explained = verdict["explanation"]
    parts = [value for row in explained["grid"] for value in row]
    assert math.fsum([*parts, explained["rest"]]) == pytest.approx(verdict["margin"], abs=1e-12)


def test_16_mixed_requests_have_each_its_own_answer(
    served: Served, expected: dict[Path, float], examples: list[Path]
) -> None:
    """Half of them explanations, some broken, in whatever batches TorchServe makes of them."""
    photo = examples[0].read_bytes()
    good = {"data": photo, "headers": OCTETS}
    paths = (f"/predictions/{NAME}", f"/explanations/{NAME}")
    sent = [(path, good) for path in paths for _ in range(5)]
    sent += [(path, {"data": b"no image", "headers": OCTETS}) for path in paths]
    sent += [(path, {"data": photo[:2000], "headers": OCTETS}) for path in paths]
    occlusion = {"x-explain-method": "occlusion", "x-explain-overlay": "png"}
    sent += [(paths[1], good | {"headers": OCTETS | occlusion})]
    sent += [(paths[1], good | {"headers": OCTETS | {"x-explain-method": "magic"}})]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: served.post(one[0], **one[1]), sent))
    assert [a.status_code for a in answers] == [200] * 10 + [400] * 4 + [200, 400]
    for index, answer in enumerate(answers[:10]):
        verdict = answer.json()
        assert verdict["fake_probability"] == pytest.approx(expected[examples[0]], abs=1e-5)
        assert ("explanation" in verdict) == (index >= 5)
        if index >= 5:
            assert verdict["explanation"]["method"] == "decomposition"
            check_sum(verdict)
    codes = [answer.json()["error"]["code"] for answer in answers[10:14]]
    assert codes == ["not_an_image"] * 2 + ["truncated_image"] * 2
    check_sum(answers[14].json())
    found = answers[14].json()["explanation"]
    assert found["method"] == "occlusion"
    assert base64.b64decode(found["overlay"]).startswith(b"\x89PNG")
    assert answers[15].json()["error"]["code"] == "unknown_option"


def test_an_explanation_is_asked_for_in_json_or_in_a_form_too(
    served: Served, examples: list[Path]
) -> None:
    photo = examples[0].read_bytes()
    instances = {"instances": [{"b64": base64.b64encode(photo).decode()}], "overlay": "png"}
    listed = served.post(f"/v1/models/{NAME}:explain", json=instances).json()["explanations"]
    check_sum(listed[0])
    assert "overlay" in listed[0]["explanation"]
    form = {"files": {"a": photo}, "data": {"method": "occlusion"}}
    answer = served.post(f"/explanations/{NAME}", **form).json()
    assert answer["explanation"]["method"] == "occlusion"
    # TorchServe keeps a query to itself.
    path = f"/explanations/{NAME}?method=occlusion"
    answer = served.post(path, data=photo, headers=OCTETS).json()
    assert answer["explanation"]["method"] == "decomposition"


def infer(
    served: Served, contents: Sequence[bytes], *, binary: bool, outputs_binary: bool = True
) -> InferResult:
    """Asks as Triton's own client does, which wants both forms unless it is told otherwise."""
    values = contents if binary else [base64.b64encode(content) for content in contents]
    tensor = InferInput("image", [len(contents)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, object), binary_data=binary)
    outputs = [InferRequestedOutput(output.name, binary_data=outputs_binary) for output in OUTPUTS]
    token = json.loads(served.server.key_file.read_text())["inference"]["key"]
    address = served.server.inference_url.removeprefix("http://")
    # One for each thread, as its event loop wants it.
    with InferenceServerClient(address, network_timeout=60) as client:
        return client.infer(
            NAME,
            [tensor],
            outputs=outputs,
            request_id=f"{len(contents)} images",
            headers={"Authorization": f"Bearer {token}"},
        )


def check_inferred(result: InferResult, wanted: Sequence[float | None]) -> None:
    """Makes sure of every output, where None is an image that is broken."""
    found = result.as_numpy("fake_probability")
    labels, errors, verdicts = (result.as_numpy(n) for n in ("label", "error", "verdict"))
    assert result.get_response()["model_name"] == NAME
    assert result.get_response()["id"] == f"{len(wanted)} images"
    for index, expected in enumerate(wanted):
        texts = [os.fsdecode(row[index]) for row in (labels, errors, verdicts)]
        if expected is None:
            assert math.isnan(found[index])
            assert texts[1].startswith("truncated_image: ")
            assert (texts[0], texts[2]) == ("", "")
        else:
            assert found[index] == pytest.approx(expected, abs=1e-6)
            assert texts[:2] == ["FAKE" if expected > 0.5 else "REAL", ""]
            assert json.loads(texts[2])["fake_probability"] == found[index]


def test_a_v2_client_is_answered_beside_all_other_protocols(
    served: Served, examples: list[Path]
) -> None:
    """Some broken, in whatever batches TorchServe makes of them; values are the raw requests'."""
    photos = [path.read_bytes() for path in examples[:3]]
    alone = [
        served.post(f"/predictions/{NAME}", data=photo, headers=OCTETS).json()["fake_probability"]
        for photo in photos
    ]
    contents = [photos[0], photos[1][:2000], photos[2]]
    wanted = [alone[0], None, alone[2]]
    b64 = [base64.b64encode(photo).decode() for photo in photos]
    instances = {"instances": [{"b64": text} for text in b64]}
    tensors = {"name": "image", "shape": [3, 1], "datatype": "BYTES", "data": [[t] for t in b64]}
    asks: list[Callable[[], Any]] = [
        *(
            partial(infer, served, contents, binary=binary, outputs_binary=out)
            for binary in (True, False)
            for out in (True, False)
            for _ in range(2)
        ),
        *[partial(served.post, f"/predictions/{NAME}", data=photos[0], headers=OCTETS)] * 3,
        *[partial(served.post, f"/predictions/{NAME}", data=b"no image", headers=OCTETS)] * 2,
        *[partial(served.post, f"/v1/models/{NAME}:predict", json=instances)] * 3,
        *[partial(served.post, f"/explanations/{NAME}", data=photos[0], headers=OCTETS)] * 2,
        *[partial(served.post, f"/v2/models/{NAME}/explain", json={"inputs": [tensors]})] * 2,
        partial(served.post, f"/v2/models/{NAME}/infer", json={"inputs": []}),
        partial(served.post, f"/v2/models/{NAME}/infer", json={"inputs": [tensors | {"shape": 4}]}),
    ]
    with ThreadPoolExecutor(len(asks)) as pool:
        answers = [future.result() for future in [pool.submit(ask) for ask in asks]]
    for result in answers[:8]:
        check_inferred(result, wanted)
    statuses = [answer.status_code for answer in answers[8:]]
    assert statuses == [200] * 3 + [400] * 2 + [200] * 7 + [400] * 2
    for answer in answers[8:11]:
        assert answer.json()["fake_probability"] == pytest.approx(alone[0], abs=1e-6)
    for answer in answers[13:16]:
        found = [entry["fake_probability"] for entry in answer.json()["predictions"]]
        assert found == pytest.approx(alone, abs=1e-6)
    explained = [answer.json() for answer in answers[16:18]]
    for answer in answers[18:20]:
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        assert outputs["fake_probability"] == pytest.approx(alone, abs=1e-6)
        verdicts = [json.loads(text) for text in outputs["verdict"]]
        for verdict in verdicts:
            check_sum(verdict)
        grids = [np.array(one["explanation"]["grid"]) for one in (verdicts[0], explained[0])]
        assert grids[0] == pytest.approx(grids[1], abs=1e-5)
    for answer in answers[20:]:
        assert answer.json()["error"].startswith("unsupported_json: ")


def test_a_v2_client_reads_why_a_request_failed(served: Served, examples: list[Path]) -> None:
    with pytest.raises(InferenceServerException) as raised:
        infer(served, [b"no image"], binary=True)
    assert raised.value.status() == "400"
    assert raised.value.message().startswith("not_an_image: ")
    with pytest.raises(InferenceServerException) as raised:
        infer(served, [examples[0].read_bytes()] * 33, binary=True)
    assert raised.value.status() == "413"
    assert raised.value.message().startswith("too_many_images: ")


def broken(photo: bytes) -> list[tuple[str, int, dict[str, object]]]:
    """Eight ways to get it wrong: code, status and request of each."""
    bomb = bytearray(b"BM")
    bomb += (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    bomb += (40).to_bytes(4, "little") + (30_000).to_bytes(4, "little") * 2
    bomb += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    png = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(png, "PNG")
    return [
        ("not_an_image", 400, {"data": b"no image at all", "headers": OCTETS}),
        ("truncated_image", 400, {"data": photo[: len(photo) // 2], "headers": OCTETS}),
        ("truncated_image", 400, {"data": png.getvalue()[:-4000], "headers": OCTETS}),
        ("empty_image", 400, {"data": b"", "headers": OCTETS}),
        ("image_too_large", 413, {"data": bytes(bomb), "headers": OCTETS}),
        ("unsupported_json", 400, {"json": {"images": []}}),
        ("invalid_base64", 400, {"json": {"instances": [{"b64": "!"}]}}),
        ("too_many_images", 413, {"json": {"instances": [{"b64": ""}] * 257}}),
    ]


def test_24_right_and_8_broken_requests_at_once(
    served: Served, expected: dict[Path, float], examples: list[Path]
) -> None:
    faults = broken(examples[0].read_bytes())
    photos = [examples[index % len(examples)] for index in range(24)]
    right = [{"data": path.read_bytes(), "headers": OCTETS} for path in photos]
    pid = served.worker_pid()
    with ThreadPoolExecutor(32) as pool:
        sent = [
            pool.submit(served.post, f"/predictions/{NAME}", **options)
            for options in (*right, *(options for *_, options in faults))
        ]
        answers = [future.result() for future in sent]
    for path, answer in zip(photos, answers[:24], strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.json()["fake_probability"] == pytest.approx(expected[path], abs=1e-5)
    for (code, status, _), answer in zip(faults, answers[24:], strict=True):
        assert (answer.json()["error"]["code"], answer.status_code) == (code, status)
    assert served.worker_pid() == pid


def test_the_client_prints_the_served_verdict(
    served: Served, expected: dict[Path, float], examples: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "results.txt"
    command = [sys.executable, ROOT / "scripts/client.py", "--image", *examples]
    options = ["--server", served.server.inference_url, "--key-file", served.server.key_file]
    result = subprocess.run(
        [*command, *options, "--output", output], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for path in examples:
        probability = expected[path]
        label, confidence = (
            ("FAKE", probability) if probability > 0.5 else ("REAL", 1 - probability)
        )
        (line,) = [line for line in lines if path.name in line]
        assert f"Prediction: {label} (confidence: {confidence:.4f})" in line
        assert f"Prob: {probability:.4f}" in output.read_text()
    assert "untrained" in result.stdout + result.stderr


def test_the_worker_left_its_home_empty(served: Served) -> None:
    served.worker_pid()
    assert list(served.home.iterdir()) == []


def test_a_detector_cut_off_from_the_network_connects_nowhere_and_writes_nothing(
    served: Served, expected: dict[Path, float], examples: list[Path], tmp_path: Path
) -> None:
    found = judge_cut_off(examples[0], tmp_path, served.archive)
    assert found["forbidden"] == []
    ((engine, probability),) = found["answers"]
    assert engine == "openvino cpu float32"
    assert probability == pytest.approx(expected[examples[0]], abs=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_another_published_shape_is_built_tested_and_served(
    served: Served, hub: HubServer, store: Path, tmp_path: Path, examples: list[Path]
) -> None:
    repository = write_repository(tmp_path / "repository", CONFIGS[OTHER])
    hub.add(OTHER, repository)
    name = served_name(OTHER)
    build(OTHER, store)
    hub.requests.clear()
    management = served.server.management()
    management.register(f"{name}@1.mar", workers=1, timeout=120)
    served.server.wait_ready(name, limit_s=120)
    answer = served.post(f"/predictions/{name}", data=examples[0].read_bytes(), headers=OCTETS)
    management.unregister(name, "1")
    (store / f"{name}@1.mar").unlink()
    shutil.rmtree(repository)
    assert answer.status_code == 200, answer.text
    assert 0 < answer.json()["fake_probability"] < 1
    assert answer.json()["detector"]["model"] == OTHER


def refusal(served: Served, store: Path, name: str, reason: str) -> None:
    """Has an archive registered, sees its worker log the reason and not come up, and ends it."""
    management = served.server.management()
    management.register(f"{name}@1.mar", workers=1)
    log = served.server.logs / "model_log.log"
    line = f"clip_deepfake load failed: {name} 1: {reason}"
    served.server.wait_for(lambda: line in log.read_text(), "the worker's reason", 60)
    assert management.version(name).ready_workers == 0
    management.unregister(name, "1")
    (store / f"{name}@1.mar").unlink()


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Writes an archive anew, a valid zip, with its entries changed."""
    with zipfile.ZipFile(source) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_a_worker_refuses_weights_that_are_not_the_cards(
    served: Served, small_clip: Path, store: Path
) -> None:
    """Only TorchServe is asked, so that its worker has to find out."""

    def flip(entries: dict[str, bytes]) -> None:
        weights = bytearray(entries["encoder.safetensors"])
        weights[-5] ^= 1
        entries["encoder.safetensors"] = bytes(weights)

    build(str(small_clip), store, "--served-name", "flipped")
    path = store / "flipped@1.mar"
    rewrite(path, path, flip)
    refusal(served, store, "flipped", "encoder.safetensors is damaged")


def test_an_int8_archive_is_served_and_one_that_computes_otherwise_is_not(
    served: Served, small_clip: Path, store: Path, examples: list[Path], tmp_path: Path
) -> None:
    write_images(tmp_path / "images", folders=2)
    options = ("--precision", "int8", "--calibration", str(tmp_path / "images"))
    build(str(small_clip), store, "--served-name", "small8", *options)
    management = served.server.management()
    management.register("small8@1.mar", workers=1)
    served.server.wait_ready("small8")
    photo = examples[0].read_bytes()
    answer = served.post("/predictions/small8", data=photo, headers=OCTETS)
    management.unregister("small8", "1")
    assert answer.status_code == 200, answer.text
    detector = answer.json()["detector"]
    assert detector["precision"] == "int8"
    assert detector["engine"].startswith("openvino cpu int8 and ")
    shutil.unpack_archive(store / "small8@1.mar", tmp_path / "archive", "zip")
    (verdict,) = load_detector(tmp_path / "archive").judge([photo])
    assert isinstance(verdict, Verdict)
    assert answer.json()["fake_probability"] == pytest.approx(verdict.fake_probability, abs=1e-5)

    def negate(entries: dict[str, bytes]) -> None:
        """The head's weights, with a card that knows of it: its digests are right."""
        tensors = load(entries["head.safetensors"])
        head = save({name: -tensor for name, tensor in tensors.items()})
        card = parse_card(entries["detector.json"])
        files = card.files | {"head.safetensors": hashlib.sha256(head).hexdigest()}
        changed = msgspec.structs.replace(card, name="negated", files=files)
        manifest = entries["MAR-INF/MANIFEST.json"].replace(b'"small8"', b'"negated"')
        entries |= {
            "head.safetensors": head,
            "detector.json": changed.to_json(),
            "MAR-INF/MANIFEST.json": manifest,
        }

    rewrite(store / "small8@1.mar", store / "negated@1.mar", negate)
    (store / "small8@1.mar").unlink()
    refusal(served, store, "negated", "self-test failed on openvino cpu int8 and ")
