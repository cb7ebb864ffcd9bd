"""KServe's v2 protocol, its bodies written and read by Triton's own client."""

import base64
import json
import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from clip_deepfake.card import Card
from clip_deepfake.questions import Answer, Question
from clip_deepfake.tensors import OUTPUTS
from clip_deepfake.worker import Worker
from tritonclient.http import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    InferResult,
)

from tests.unit.stand_in_engine import StandInEngine, image, worker_of

IMAGES = [image(red) for red in (0, 120, 255)]
MOST = 32


@pytest.fixture
def worker(small_card: Card) -> Worker:
    return worker_of(small_card, StandInEngine())


def tensor(contents: Sequence[bytes], shape: Sequence[int], binary: bool) -> InferInput:
    """An input of images, in binary form or as base64 in JSON."""
    values = contents if binary else [base64.b64encode(content) for content in contents]
    made = InferInput("image", shape, "BYTES")
    return made.set_data_from_numpy(np.array(values, object).reshape(shape), binary_data=binary)


def written(
    inputs: InferInput, outputs: Sequence[InferRequestedOutput] | None = None, **words: object
) -> Question:
    """A question as Triton's client writes it."""
    body, json_length = InferenceServerClient.generate_request_body(
        [inputs], outputs=outputs, **words
    )
    told = None if json_length is None else str(json_length)
    return Question({"body": bytes(body)}, kserve=True, json_length=told)


def sent(body: object, **changes: object) -> Question:
    """A question with a body of one's own making."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Question({"body": content}, kserve=True, **changes)  # type: ignore[arg-type]


def ask(worker: Worker, question: Question) -> Answer:
    (answer,) = worker.answer([question]).answers
    return answer


def read(answer: Answer) -> InferResult:
    """An answer as Triton's client reads it."""
    assert answer.status == 200, answer.body
    body = answer.body if isinstance(answer.body, bytes) else answer.body.encode()
    length = answer.headers.get("Inference-Header-Content-Length")
    return InferenceServerClient.parse_response_body(
        body, header_length=None if length is None else int(length)
    )


def texts(result: InferResult, name: str) -> list[str]:
    return [
        value.decode() if isinstance(value, bytes) else value for value in result.as_numpy(name)
    ]


def verdicts(worker: Worker, contents: Sequence[bytes]) -> list[dict[str, object]]:
    """The same images asked about one by one, as they are."""
    questions = [Question({"body": content}) for content in contents]
    return [json.loads(answer.body) for answer in worker.answer(questions).answers]


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_tritons_client_gets_the_verdicts_of_raw_images(
    worker: Worker, shape: list[int], binary_in: bool, binary_out: bool
) -> None:
    outputs = [InferRequestedOutput(output.name, binary_data=binary_out) for output in OUTPUTS]
    question = written(tensor(IMAGES, shape, binary_in), outputs, request_id="mine")
    result = read(ask(worker, question))
    expected = verdicts(worker, IMAGES)
    probabilities = result.as_numpy("fake_probability")
    assert probabilities.dtype == np.float64
    assert probabilities.tolist() == [verdict["fake_probability"] for verdict in expected]
    assert texts(result, "label") == [verdict["label"] for verdict in expected]
    assert texts(result, "error") == ["", "", ""]
    for text, verdict in zip(texts(result, "verdict"), expected, strict=True):
        assert json.loads(text) | {"detector": worker.identity} == verdict
    head = result.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("mine", "small", "1")
    assert head["parameters"] == {k: v for k, v in worker.identity.items() if v is not None}


@pytest.mark.parametrize("binary", [True, False])
def test_a_broken_image_has_its_error_and_no_number(worker: Worker, binary: bool) -> None:
    contents = [IMAGES[0], b"no image", IMAGES[2]]
    outputs = [InferRequestedOutput(output.name, binary_data=binary) for output in OUTPUTS]
    result = read(ask(worker, written(tensor(contents, [3], True), outputs)))
    probabilities = result.as_numpy("fake_probability")
    assert [math.isnan(value) for value in probabilities] == [False, True, False]
    assert texts(result, "label") == ["REAL", "", "FAKE"]
    errors = texts(result, "error")
    assert (errors[0], errors[2]) == ("", "")
    assert errors[1].startswith("not_an_image: ")
    assert texts(result, "verdict")[1] == ""


def test_what_is_no_base64_spoils_its_own_image_only(worker: Worker) -> None:
    data = ["!", base64.b64encode(IMAGES[2]).decode(), 17, ["a", "b"]]
    answer = ask(worker, sent({"inputs": [entry(data)]}))
    found = [error.partition(":")[0] for error in texts(read(answer), "error")]
    assert found == ["invalid_base64", "", "unsupported_json", "unsupported_json"]


def test_a_request_without_a_verdict_has_one_error_as_the_protocol_wants_it(
    worker: Worker,
) -> None:
    one = ask(worker, written(tensor([b"no image"], [1], True)))
    assert one.status == 400
    (message,) = json.loads(one.body).values()
    assert message.startswith("not_an_image: ")
    several = ask(worker, written(tensor([b"no image", b""], [2], True)))
    assert several.status == 400
    body = json.loads(several.body)
    assert set(body) == {"error"}
    assert body["error"].startswith("image 0: not_an_image: ")
    assert "; image 1: empty_image: " in body["error"]
    alike = ask(worker, written(tensor([b"no image"] * 2, [2], True)))
    assert json.loads(alike.body)["error"] == message


def test_only_the_outputs_that_are_wanted_come_in_their_order(worker: Worker) -> None:
    outputs = [
        InferRequestedOutput("label", binary_data=False),
        InferRequestedOutput("fake_probability", binary_data=True),
    ]
    head = read(ask(worker, written(tensor(IMAGES, [3], False), outputs))).get_response()
    assert [output["name"] for output in head["outputs"]] == ["label", "fake_probability"]
    assert head["outputs"][0]["data"] == ["REAL", "FAKE", "FAKE"]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 3 * 8}
    assert "id" not in head


def test_all_outputs_come_in_the_form_that_the_request_wants(worker: Worker) -> None:
    for body, binary in (
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"parameters": {"binary_data_output": False, "other": [1]}}, False),
        ({"id": None, "parameters": None, "outputs": None}, False),
    ):
        answer = ask(worker, sent({"inputs": [entry([GOOD])]} | body))
        outputs = read(answer).get_response()["outputs"]
        assert [output["name"] for output in outputs] == [output.name for output in OUTPUTS]
        assert {"data" in output for output in outputs} == {not binary}
        kind = "application/octet-stream" if binary else "application/json"
        assert answer.headers["content-type"] == kind


def test_requests_of_all_protocols_share_a_batch(worker: Worker) -> None:
    b64 = base64.b64encode(IMAGES[1]).decode()
    batch = worker.answer(
        [
            Question({"body": IMAGES[1]}),
            written(tensor([IMAGES[1], b"no image"], [2], True)),
            sent({"instances": [{"b64": b64}]}),
            sent({"inputs": [entry([b64])]}),
            Question({"body": IMAGES[1]}, explain=True),
            sent({"inputs": [entry([b64])]}, explain=True),
            sent({"inputs": [entry([b64], name="other")]}),
            Question({"a": IMAGES[1], "b": IMAGES[1]}),
        ]
    )
    assert [answer.status for answer in batch.answers] == [200] * 6 + [400, 200]
    raw, tensors, listed, in_json, explained, explained_tensors, _, form = batch.answers
    wanted = json.loads(raw.body)["fake_probability"]
    assert json.loads(listed.body)["predictions"][0]["fake_probability"] == wanted
    assert read(tensors).as_numpy("fake_probability")[0] == wanted
    assert read(in_json).as_numpy("fake_probability").tolist() == [wanted]
    assert [entry["fake_probability"] for entry in json.loads(form.body)] == [wanted] * 2
    explanation = json.loads(explained.body)["explanation"]
    (verdict,) = texts(read(explained_tensors), "verdict")
    assert json.loads(verdict)["explanation"] == explanation
    assert "explanation" not in texts(read(in_json), "verdict")[0]


def test_options_of_an_explanation_are_parameters(worker: Worker) -> None:
    b64 = base64.b64encode(IMAGES[1]).decode()

    def explain(**parameters: str) -> Answer:
        body = {"inputs": [entry([b64])], "parameters": parameters}
        return ask(worker, sent(body, explain=True, options={"method": "decomposition"}))

    # The stand-in cannot be taken apart, and says so; what the body says is nearer than a header.
    assert explain().status == 501
    (verdict,) = texts(read(explain(method="occlusion", overlay="png")), "verdict")
    explanation = json.loads(verdict)["explanation"]
    assert explanation["method"] == "occlusion"
    assert base64.b64decode(explanation["overlay"]).startswith(b"\x89PNG")
    refused = explain(method="magic")
    assert json.loads(refused.body)["error"].startswith("unknown_option: method 'magic'")


def entry(data: object, **changes: object) -> dict[str, object]:
    """An input tensor in JSON."""
    size = len(data) if isinstance(data, list) else 1
    return {"name": "image", "datatype": "BYTES", "shape": [size], "data": data} | changes


GOOD = base64.b64encode(IMAGES[0]).decode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": []}, "no input tensors"),
        ({"inputs": None, "instances": []}, "no input tensors"),
        ({"inputs": {}}, "Expected `array`"),
        ({"inputs": [entry([GOOD])] * 2}, "several input tensors"),
        ({"inputs": [{"b64": GOOD}]}, "missing required field `name`"),
        ({"inputs": [entry([GOOD], name="x" * 9000)]}, f"no input '{'x' * 40}…'"),
        ({"inputs": [entry([GOOD], datatype="FP32")]}, "the datatype 'FP32' is not read here"),
        ({"inputs": [entry([GOOD], shape=[2])]}, "the shape says 2 images, the data holds 1"),
        ({"inputs": [entry([GOOD] * 3, shape=[2])]}, "the data holds more than 2"),
        ({"inputs": [entry([GOOD], shape=[1, 2])]}, "no shape is read here like '[1, 2]'"),
        ({"inputs": [entry([GOOD], shape=[-1])]}, "no shape is read here like '[-1]'"),
        ({"inputs": [entry([], shape=[0])]}, "no shape is read here like '[0]'"),
        ({"inputs": [entry([GOOD], shape=[])]}, "the shape is [N] or [N, 1]"),
        ({"inputs": [entry([GOOD], shape=[1, 1, 1])]}, "the shape is [N] or [N, 1]"),
        ({"inputs": [entry([GOOD], shape=["1"])]}, "the shape is [N] or [N, 1]"),
        ({"inputs": [entry([GOOD], shape=1)]}, "the shape is [N] or [N, 1]"),
        ({"inputs": [entry(GOOD)]}, "Expected `array`"),
        ({"inputs": [entry(None)]}, "the data holds 0"),
        ({"inputs": [entry([GOOD])], "id": 5}, 'send the "id" as a text'),
        ({"inputs": [entry([GOOD])], "id": "x" * 1001}, "the id has 1001 characters"),
        ({"inputs": [entry([GOOD])], "outputs": [{"name": "logits"}]}, "no output 'logits'"),
        ({"inputs": [entry([GOOD])], "outputs": [{}]}, "missing required field `name`"),
        ({"inputs": [entry([GOOD])], "outputs": [{"name": "label"}] * 5}, "more outputs than"),
        (
            {
                "inputs": [entry([GOOD])],
                "outputs": [{"name": "label", "parameters": {"classification": 1}}],
            },
            "unknown field `classification`",
        ),
        ({"inputs": [entry([GOOD])], "parameters": {"binary_data_output": 1}}, "Expected `bool`"),
        (
            {"inputs": [entry(None, parameters={"binary_data_size": 9})]},
            "tritonclient: binary_data=False",
        ),
    ],
)
def test_what_is_no_request_is_refused_with_the_value_and_the_remedy(
    worker: Worker, body: dict[str, object], words: str
) -> None:
    answer = ask(worker, sent(body))
    assert answer.status == 400
    read_back = json.loads(answer.body)
    assert set(read_back) == {"error"}
    assert read_back["error"].startswith("unsupported_json: ")
    assert words in read_back["error"]
    assert len(read_back["error"]) < 700


def test_tensors_in_a_form_with_others_are_refused(worker: Worker) -> None:
    body = json.dumps({"inputs": [entry([GOOD])]}).encode()
    answer = ask(worker, Question({"a": body, "b": IMAGES[0]}))
    assert answer.status == 400
    assert "as the whole body" in json.loads(answer.body)["error"]


BINARY_HEAD = {"name": "image", "datatype": "BYTES", "shape": [1]}


def in_binary(rest: bytes, size: int, told: str | None = None, images: int = 1) -> Question:
    head = json.dumps(
        {"inputs": [BINARY_HEAD | {"shape": [images], "parameters": {"binary_data_size": size}}]}
    ).encode()
    return sent(head + rest, json_length=str(len(head)) if told is None else told)


ONE = len(IMAGES[0]).to_bytes(4, "little") + IMAGES[0]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (in_binary(ONE, len(ONE) + 1), f"and {len(ONE)} bytes follow the JSON"),
        (in_binary(ONE, -1), "binary_data_size is -1"),
        (in_binary(ONE, 10**30), "bytes follow the JSON"),
        (in_binary(ONE, len(ONE), images=2), "are not 2 images"),
        (in_binary(ONE * 2, 2 * len(ONE)), "are not 1 images"),
        (in_binary(ONE[:-1], len(ONE) - 1), "are not 1 images"),
        (in_binary(b"\xff\xff\xff\xff", 4), "are not 1 images"),
        (in_binary(b"", 0), "are not 1 images"),
        (in_binary(ONE, len(ONE), "-1"), "is '-1', which is no length"),
        (in_binary(ONE, len(ONE), "9" * 5000), f"is '{'9' * 40}', which is no length"),
        (in_binary(ONE, len(ONE), "99999"), "is '99999', which is no length"),
        (in_binary(ONE, len(ONE), "0"), "not the JSON that is read here"),
        (in_binary(ONE, len(ONE), "7"), "not the JSON that is read here"),
        (sent(IMAGES[0], json_length="0"), "not the JSON that is read here"),
        (sent(b"{}" + IMAGES[0], json_length="2"), "no input tensors"),
        (
            Question({"a": b"{}", "b": IMAGES[0]}, json_length="2"),
            "not the JSON that is read here",
        ),
    ],
)
def test_lies_about_binary_data_are_refused(worker: Worker, question: Question, words: str) -> None:
    answer = ask(worker, question)
    assert answer.status == 400
    read_back = json.loads(answer.body)
    assert set(read_back) == {"error"}
    assert words in read_back["error"]
    assert len(read_back["error"]) < 700


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":' + b"[" * 100_000,
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":' + b"[" * 100_000,
        b'{"inputs":[],"parameters":' + b'{"a":' * 100_000,
    ],
)
def test_deep_json_is_refused(worker: Worker, body: bytes) -> None:
    answer = ask(worker, sent(body))
    assert answer.status == 400
    assert "unsupported_json" in str(answer.body)


HEAD = b'{"inputs":[{"name":"image","datatype":"BYTES",'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"inputs":[' + b"{}," * 3_000_000 + b"1]}", "unsupported_json"),
        (HEAD + b'"shape":[' + b"1," * 4_000_000 + b"1]}]}", "unsupported_json"),
        (HEAD + b'"shape":[4000001],"data":[' + b"1," * 4_000_000 + b"1]}]}", "too_many_images"),
        (HEAD + b'"shape":[1],"data":[' + b"1," * 4_000_000 + b"1]}]}", "unsupported_json"),
        (HEAD + b'"shape":[1],"data":[[' + b"1," * 4_000_000 + b"1]]}]}", "unsupported_json"),
        (b'{"inputs":[],"outputs":[' + b"1," * 4_000_000 + b"1]}", "unsupported_json"),
        (HEAD + b'"shape":[' + b"9" * 5000 + b'],"data":[]}]}', "unsupported_json"),
        (HEAD + b'"shape":[' + b"9" * 4000 + b'],"data":[]}]}', "too_many_images"),
    ],
    ids=[
        "inputs", "dimensions", "images", "texts", "texts in one", "outputs", "digits",
        "fewer digits",
    ],
)  # fmt: skip
def test_what_is_refused_becomes_no_objects(worker: Worker, body: bytes, code: str) -> None:
    question = sent(body)
    tracemalloc.start()
    answer = ask(worker, question)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert json.loads(answer.body)["error"].startswith(f"{code}: ")
    assert peak < 1 << 18


def test_more_images_than_a_request_may_hold_are_refused(worker: Worker) -> None:
    assert ask(worker, written(tensor([IMAGES[0]] * MOST, [MOST], True))).status == 200
    answer = ask(worker, written(tensor([IMAGES[0]] * (MOST + 1), [MOST + 1], True)))
    assert answer.status == 413
    assert json.loads(answer.body)["error"].startswith(f"too_many_images: more than {MOST} ")
