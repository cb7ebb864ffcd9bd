"""TorchServe's side of the worker, against a stand-in for its context."""

import json
import logging
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import deepfake_handler
import numpy as np
import pytest
from clip_deepfake import worker as worker_module
from clip_deepfake.card import Card
from clip_deepfake.errors import LoadError
from clip_deepfake.metrics import COUNTERS
from clip_deepfake.worker import Worker
from deepfake_handler import DeepfakeHandler
from tritonclient.http import InferenceServerClient, InferInput
from ts.protocol.otf_message_handler import _retrieve_input_data

from tests import ROOT
from tests.unit.stand_in_engine import StandInEngine, image, worker_of
from tests.waiting import wait_until

PREDICTION = {"url_path": "", "explain": "False"}
"""What TorchServe adds to the headers of a request for a verdict."""


@dataclass
class Metric:
    """A counter of TorchServe's: the sum by values of its labels."""

    sums: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add_or_update(self, value: float, labels: list[str]) -> None:
        self.sums[tuple(labels)] = self.sums.get(tuple(labels), 0) + value


class Context:
    """What the handler uses of TorchServe's context."""

    model_name = "small"
    manifest = {"model": {"modelVersion": "3"}}  # noqa: RUF012
    model_yaml_config = None
    system_properties = {"model_dir": str(ROOT), "gpu_id": None}  # noqa: RUF012

    def __init__(self) -> None:
        self.metrics = self
        self.counters: dict[str, Metric] = {}
        self.headers: list[dict[str, object]] = []
        self.answered: dict[int, dict[str, str]] = {}
        self.statuses: dict[int, int] = {}

    def add_metric_to_cache(self, name: str, unit: str, labels: list[str]) -> Metric:
        assert labels[1:] == ["model_name", "model_version"]
        return self.counters.setdefault(name, Metric())

    def get_request_id(self, index: int) -> str:
        return f"id-{index}"

    def get_all_request_header(self, index: int) -> dict[str, object]:
        return dict(self.headers[index]) if index < len(self.headers) else PREDICTION

    def set_response_status(self, status: int, phrase: str, index: int) -> None:
        self.statuses[index] = status

    def set_response_header(self, index: int, name: str, value: str) -> None:
        self.answered.setdefault(index, {})[name] = value


@pytest.fixture
def handler(small_card: Card, monkeypatch: pytest.MonkeyPatch) -> DeepfakeHandler:
    worker = worker_of(small_card, StandInEngine())
    monkeypatch.setattr(worker_module, "open_worker", lambda *_: worker)
    monkeypatch.setattr(deepfake_handler, "COUNT_EVERY_S", 0.01)
    return DeepfakeHandler()


def test_each_row_has_its_status_and_the_counters_arrive(handler: DeepfakeHandler) -> None:
    context = Context()
    handler.initialize(context)
    wait_until(lambda: len(context.counters) == len(COUNTERS))
    answers = handler.handle([{"body": image(0)}, {"body": b"no"}, {"body": image(1)}], context)
    assert [json.loads(answer).get("label") for answer in answers] == ["REAL", None, "FAKE"]
    assert context.statuses == {0: 200, 1: 400, 2: 200}
    verdicts = context.counters["clip_deepfake_verdicts_total"].sums
    wait_until(lambda: verdicts.get(("FAKE", "small", "3")) == 1)


def test_a_description_is_answered_after_the_counters_are_reported(
    handler: DeepfakeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeepfakeHandler, "_keep_counting", lambda *_: None)
    context = Context()
    handler.initialize(context)
    handler.handle([{"body": image(0)}], context)
    assert context.counters == {}
    context.headers = [{"describe": "True"}]
    (answer,) = handler.handle([{}], context)
    assert json.loads(answer)["detector"]["engine"] == "stand-in"
    sums = context.counters["clip_deepfake_batches_total"].sums
    assert sums[("1", "small", "3")] == 1


FORM = {"Content-Type": "multipart/form-data; boundary=b", "content-length": "7"}


@pytest.mark.parametrize(
    ("row", "headers"),
    [
        ({"body": image(0)}, PREDICTION),
        ({"body": b""}, PREDICTION),
        ({}, PREDICTION | FORM),
        ({"body": image(0)}, {"explain": "False"}),
        ({}, {"explain": "False"} | FORM),
        ({"body": image(0)}, {}),
        ({"body": b""}, {}),
        ({}, FORM),
        ({}, {"CONTENT-TYPE": "text/plain"}),
        ({"explain": b""}, {"explain": {"content-type": ""}}),
    ],
    ids=[
        "image", "nothing", "empty form", "KServe", "KServe, empty form", "oldest path",
        "oldest path, nothing", "oldest path, empty form", "two types", "parts named as headers",
    ],
)  # fmt: skip
def test_a_clients_describe_is_a_header_like_any_other(
    handler: DeepfakeHandler, row: dict[str, bytes], headers: dict[str, object]
) -> None:
    context = Context()
    handler.initialize(context)
    context.headers = [headers | {"describe": "True"}]
    (answer,) = handler.handle([row], context)
    assert "pid" not in answer
    read = json.loads(answer)
    verdict = read["predictions"][0] if "predictions" in read else read
    expected = "REAL" if row.get("body") else None
    assert verdict.get("label") == expected
    assert (context.statuses[0] == 200) == (expected is not None)


@pytest.mark.parametrize(
    ("headers", "wrapped"),
    [
        (PREDICTION, False),
        ({"explain": "False"}, True),
        ({}, False),
        ({"explain": "False", "body": {"content-type": "image/png"}}, True),
        ({"explain": "False", "url_path": {"content-type": "image/png"}}, True),
    ],
)
def test_only_kserves_path_has_its_answer_wrapped(
    handler: DeepfakeHandler, headers: dict[str, object], wrapped: bool
) -> None:
    context = Context()
    handler.initialize(context)
    context.headers = [headers]
    (answer,) = handler.handle([{"body": image(0)}], context)
    assert ("predictions" in json.loads(answer)) == wrapped


def test_tensors_in_binary_form_are_read_and_written_beside_other_rows(
    handler: DeepfakeHandler,
) -> None:
    content = np.array([image(9)], object)
    sent = InferInput("image", [1], "BYTES").set_data_from_numpy(content, binary_data=True)
    body, length = InferenceServerClient.generate_request_body([sent])
    context = Context()
    handler.initialize(context)
    context.headers = [{"explain": "False", "inference-header-content-LENGTH": str(length)}]
    answers = handler.handle([{"body": bytearray(body)}, {"body": image(9)}], context)
    told = context.answered[0]
    assert told["content-type"] == "application/octet-stream"
    read = InferenceServerClient.parse_response_body(
        answers[0], header_length=int(told["Inference-Header-Content-Length"])
    )
    expected = json.loads(answers[1])["fake_probability"]
    assert read.as_numpy("fake_probability").tolist() == [expected]
    assert context.answered[1] == {"content-type": "application/json"}


def test_what_is_explained_is_decided_row_by_row(handler: DeepfakeHandler) -> None:
    context = Context()
    handler.initialize(context)
    explained = {"url_path": "", "explain": "True"}
    context.headers = [
        PREDICTION,
        explained,
        explained | {"X-Explain-Overlay": "png"},
        explained | {"x-explain-method": "decomposition"},
        PREDICTION | {"x-explain-method": "nonsense"},
        {"explain": "True"},
    ]
    bodies = [json.loads(body) for body in handler.handle([{"body": image(9)}] * 6, context)]
    assert list(context.statuses.values()) == [200, 200, 200, 501, 200, 200]
    assert ["explanation" in body for body in bodies[:5]] == [False, True, True, False, False]
    assert ["overlay" in body["explanation"] for body in bodies[1:3]] == [False, True]
    (listed,) = bodies[5]["explanations"]
    assert listed["explanation"]["method"] == "occlusion"


def test_a_form_that_lost_a_part_gets_no_verdict(handler: DeepfakeHandler) -> None:
    context = Context()
    handler.initialize(context)
    context.headers = [PREDICTION | FORM | {"content-length": "9000"}]
    (answer,) = handler.handle([{"image": image(0)}], context)
    assert json.loads(answer)["error"]["code"] == "lost_parts"
    assert context.statuses == {0: 400}


def test_torchserve_is_told_to_leave_json_alone(
    handler: DeepfakeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TS_DECODE_INPUT_REQUEST", raising=False)
    context = Context()
    handler.initialize(context)
    # What TorchServe's own code makes of a part that its frontend sends it.
    fields = [b"body", b"application/json", b'{"instances": [1]}']
    sent = b"".join(struct.pack("!i", len(field)) + field for field in fields)
    own, other = socket.socketpair()
    with own, other:
        other.sendall(sent)
        assert _retrieve_input_data(own)["value"] == fields[2]


def test_a_description_waits_for_the_thread_that_reports(
    handler: DeepfakeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for it ends this worker next, and the thread with it."""
    begun, go_on = Event(), Event()

    def add(metric: Metric, value: float, labels: list[str]) -> None:
        if value:
            begun.set()
            assert go_on.wait(10)
        metric.sums[tuple(labels)] = metric.sums.get(tuple(labels), 0) + value

    monkeypatch.setattr(Metric, "add_or_update", add)
    context = Context()
    handler.initialize(context)
    handler.handle([{"body": image(0)}], context)
    assert begun.wait(10)
    asked = Context()
    asked.headers = [{"describe": "True"}]
    description = Thread(target=handler.handle, args=([{}], asked))
    description.start()
    description.join(0.05)
    assert description.is_alive()
    go_on.set()
    description.join(10)
    assert context.counters["clip_deepfake_verdicts_total"].sums["REAL", "small", "3"] == 1
    assert context.counters["clip_deepfake_batches_total"].sums["1", "small", "3"] == 1


def test_counters_that_cannot_be_reported_stop_nothing(
    handler: DeepfakeHandler, caplog: pytest.LogCaptureFixture
) -> None:
    context = Context()
    context.metrics = SimpleNamespace()  # type: ignore[assignment]
    handler.initialize(context)
    wait_until(lambda: "could not be reported" in caplog.text)
    context.headers = [{"describe": "True"}]
    handler.handle([{}], context)
    assert context.statuses == {0: 200}
    context.headers = []
    handler.handle([{"body": image(0)}], context)
    assert context.statuses == {0: 200}


def test_one_line_a_batch_goes_to_the_log(
    handler: DeepfakeHandler, caplog: pytest.LogCaptureFixture
) -> None:
    context = Context()
    handler.initialize(context)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        handler.handle([{"body": image(0)}, {"body": b"no"}], context)
    (line,) = [text for text in caplog.messages if "clip_deepfake batch: " in text]
    assert json.loads(line.partition(": ")[2])["ids"] == ["id-0", "id-1"]


def test_whatever_is_raised_is_an_answer(
    handler: DeepfakeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context()
    handler.initialize(context)
    monkeypatch.setattr(Worker, "answer", lambda *_: 1 / 0)
    answers = handler.handle([{"body": image(0)}] * 2, context)
    assert [json.loads(answer)["error"]["code"] for answer in answers] == ["internal_error"] * 2
    assert context.statuses == {0: 500, 1: 500}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LoadError("encoder.safetensors is damaged"), "encoder.safetensors is damaged"),
        (MemoryError("bad allocation"), "out of memory (bad allocation): the machine, or its"),
        (ImportError("No module named 'cv2'"), "No module named 'cv2': install what"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
        (KeyError("weight"), "KeyError: 'weight'"),
    ],
)
def test_why_a_worker_does_not_come_up_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    def fail(*_: object) -> Worker:
        raise error

    monkeypatch.setattr(worker_module, "open_worker", fail)
    with pytest.raises(RuntimeError):
        DeepfakeHandler().initialize(Context())
    (line,) = [text for text in caplog.messages if "load failed" in text]
    assert line.startswith(f"clip_deepfake load failed: small 3: {reason}")


def test_a_package_from_elsewhere_does_not_serve(tmp_path: Path) -> None:
    context = Context()
    context.system_properties = {"model_dir": str(tmp_path), "gpu_id": None}
    with pytest.raises(RuntimeError, match="start TorchServe without PYTHONPATH"):
        DeepfakeHandler().initialize(context)


LOST = """
import sys
from types import SimpleNamespace
from deepfake_handler import DeepfakeHandler
from clip_deepfake.errors import EngineLostError

class Worker:
    def answer(self, questions):
        raise EngineLostError("CUDA error: device-side assert triggered")

handler = DeepfakeHandler()
handler.worker = Worker()
handler.handle([], SimpleNamespace(metrics=None))
print("came back")
"""


def test_a_worker_with_a_lost_device_ends_its_process() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOST], cwd=ROOT / "handler", capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert result.returncode == deepfake_handler.LOST
    assert "its device is lost: CUDA error: device-side assert" in result.stderr
    assert "came back" not in result.stdout


@pytest.mark.parametrize("library", ["numpy", "cv2", "msgspec"])
def test_a_missing_library_is_named_where_an_operator_looks(library: str) -> None:
    code = f"""
import sys
sys.modules[{library!r}] = None
from deepfake_handler import DeepfakeHandler
from types import SimpleNamespace
DeepfakeHandler().initialize(SimpleNamespace(
    system_properties={{"model_dir": "."}}, model_name="small",
    manifest={{"model": {{"modelVersion": "3"}}}}, model_yaml_config=None,
))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "handler", capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert f"clip_deepfake load failed: small 3: import of {library} halted" in result.stderr
