from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from deepfake_tools.errors import (
    ImageRefusedError,
    NoWorkerError,
    UnexpectedAnswerError,
    WorkerFailedError,
)
from deepfake_tools.inspection import served_name
from deepfake_tools.torchserve.answers import ServedVerdict
from deepfake_tools.torchserve.api import InferenceAPI, ManagementAPI
from deepfake_tools.torchserve.connection import Token

from tests.unit.torchserve_stub import (
    Reply,
    Request,
    StubServer,
    answer_each,
    description,
    detector_error,
    explanation,
    json_reply,
    torchserve_error,
    verdict,
)

TOKEN = Token("secret", "key_file.json")


def test_served_name_follows_the_hub_caches_convention():
    assert served_name("openai/clip-vit-base-patch32") == "openai--clip-vit-base-patch32"
    assert served_name("openai--clip-vit-base-patch32") == "openai--clip-vit-base-patch32"


@pytest.mark.parametrize(
    ("version", "path"),
    [(None, "/predictions/a--b"), ("2", "/predictions/a--b/2")],
)
def test_predict_sends_the_image_as_bytes(version: str | None, path: str):
    with StubServer(lambda _: json_reply(verdict(0.25))) as stub:
        answer = InferenceAPI(stub.address, TOKEN).predict("a--b", b"image", version=version)
    (request,) = stub.requests
    assert (request.method, request.path, request.body) == ("POST", path, b"image")
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert (answer.label, answer.fake_probability) == ("REAL", 0.25)


@pytest.mark.parametrize(
    ("version", "path"),
    [(None, "/explanations/a--b"), ("2", "/explanations/a--b/2")],
)
def test_an_explanation_is_asked_for_as_a_prediction_is(version: str | None, path: str):
    with StubServer(lambda _: json_reply(verdict(0.75) | explanation())) as stub:
        answer = InferenceAPI(stub.address, TOKEN).explain("a--b", b"image", version=version)
    (request,) = stub.requests
    assert (request.method, request.path, request.body) == ("POST", path, b"image")
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert answer.label == "FAKE"
    assert answer.explanation is not None
    assert (answer.explanation.rest, answer.explanation.margin) == (0.25, 1.25)


def test_an_archive_without_explanations_says_so_in_its_own_code():
    reply = detector_error(501, "not_implemented", "explanations are not offered")
    with (
        StubServer(lambda _: reply) as stub,
        pytest.raises(WorkerFailedError) as raised,
    ):
        InferenceAPI(stub.address, TOKEN).explain("m", b"image")
    assert raised.value.kind == "not_implemented"


def test_a_verdict_alone_is_no_explanation():
    with (
        StubServer(lambda _: json_reply(verdict())) as stub,
        pytest.raises(UnexpectedAnswerError, match="no explanation"),
    ):
        InferenceAPI(stub.address, TOKEN).explain("m", b"image")


def test_several_images_go_in_one_request_and_keep_their_places():
    def answer(request: Request) -> Reply:
        return answer_each(
            request,
            lambda image: (
                detector_error(400, "not_an_image", "no")
                if image == b"broken"
                else json_reply(verdict(len(image) / 10))
            ),
        )

    with StubServer(answer) as stub:
        api = InferenceAPI(stub.address, TOKEN)
        first, broken, last = api.predict_several("m", [b"1", b"broken", b"333"])
        all_broken = api.predict_several("m", [b"broken", b"broken"])
    assert len(stub.requests) == 2
    assert isinstance(first, ServedVerdict)
    assert isinstance(last, ServedVerdict)
    assert (first.fake_probability, last.fake_probability) == (0.1, 0.3)
    assert isinstance(broken, ImageRefusedError)
    assert (str(broken), broken.kind) == ("refused as not_an_image: no", "not_an_image")
    assert [type(answer) for answer in all_broken] == [ImageRefusedError, ImageRefusedError]


@pytest.mark.parametrize(
    "answer", [{}, [], [verdict()], [verdict(), 7], [verdict(), {"error": {}}], [verdict()] * 3]
)
def test_answers_to_several_images_must_fit_them(answer: object):
    with StubServer(lambda _: json_reply(answer)) as stub:
        api = InferenceAPI(stub.address, TOKEN)
        with pytest.raises(UnexpectedAnswerError, match="cannot be used"):
            api.predict_several("m", [b"1", b"2"])


def test_a_name_cannot_leave_its_place_in_the_path():
    with StubServer(lambda _: json_reply(verdict())) as stub:
        InferenceAPI(stub.address, TOKEN).predict("../models?x=#", b"image")
    assert stub.requests[0].path == "/predictions/..%2Fmodels%3Fx%3D%23"


@pytest.mark.parametrize(
    ("call", "method", "path", "query"),
    [
        (
            lambda api: api.register("a--b@2.mar", 3),
            "POST",
            "/models",
            {"url": "a--b@2.mar", "initial_workers": "3", "synchronous": "false"},
        ),
        (
            lambda api: api.scale("m", "2", 4),
            "PUT",
            "/models/m/2",
            {"min_worker": "4", "max_worker": "4", "synchronous": "false"},
        ),
        (lambda api: api.set_default("m", "2"), "PUT", "/models/m/2/set-default", {}),
        (lambda api: api.unregister("m", "2"), "DELETE", "/models/m/2", {}),
    ],
)
def test_a_change_is_the_request_that_torchserve_documents(
    call: Callable[[ManagementAPI], None], method: str, path: str, query: dict[str, str]
):
    with StubServer(lambda _: json_reply({"status": "done"})) as stub:
        call(ManagementAPI(stub.address, TOKEN))
    (request,) = stub.requests
    url = urlsplit(request.path)
    assert (request.method, url.path) == (method, path)
    assert parse_qs(url.query) == {key: [value] for key, value in query.items()}
    assert request.headers["Authorization"] == "Bearer secret"


def test_models_reads_every_page():
    def answer(request: Request) -> Reply:
        start = int(parse_qs(urlsplit(request.path).query)["next_page_token"][0])
        entry = {"modelName": f"m{start}", "modelUrl": f"m{start}@1.mar"}
        following = {"nextPageToken": str(start + 1)} if start < 2 else {}
        return json_reply({"models": [entry], **following})

    with StubServer(answer) as stub:
        models = ManagementAPI(stub.address, TOKEN).models()
    assert [model.name for model in models] == ["m0", "m1", "m2"]


def test_descriptions():
    versions = {
        "/models/m/all": [description("m", "1", "READY"), description("m", "2")],
        "/models/m": [description("m", "1", "READY")],
        "/models/m/2": [description("m", "2")],
        "/models/m/2?customized=true": [description("m", "2") | {"customizedMetadata": {"pid": 7}}],
    }
    with StubServer(lambda request: json_reply(versions[request.path])) as stub:
        api = ManagementAPI(stub.address, TOKEN)
        assert [version.version for version in api.versions("m")] == ["1", "2"]
        assert api.version("m").ready_workers == 1
        assert api.version("m", "2").ready_workers == 0
        assert api.ask_handler("m", "2") == {"pid": 7}


def test_one_version_is_one():
    with (
        StubServer(lambda _: json_reply([])) as stub,
        pytest.raises(UnexpectedAnswerError, match="described 0 versions of m"),
    ):
        ManagementAPI(stub.address, TOKEN).version("m")


def test_a_registration_whose_workers_do_not_start():
    message = "Failed to start workers for model m version: 1"
    reply = torchserve_error(500, "InternalServerException", message)
    with (
        StubServer(lambda _: reply) as stub,
        pytest.raises(NoWorkerError, match="Failed to start workers for model m"),
    ):
        ManagementAPI(stub.address, TOKEN).register("m@1.mar", 1)
