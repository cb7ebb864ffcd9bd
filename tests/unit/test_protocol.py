import base64
import json

import pytest
from clip_deepfake.errors import DetectorError, ImageError, ImageTooLargeError
from clip_deepfake.protocol import Answer, Request, form_answer, parse_request
from clip_deepfake.verdicts import Verdict

GOOD = Verdict("FAKE", 1, 0.75, 0.75, 1.0986123, (0.0, 1.0986123))
DETECTOR = {"model": "acme/clip", "head": "untrained"}


def parse(row: dict[str, object], **changes: object) -> Request:
    options = {"explain": False, "kserve": False, "max_images": 4} | changes
    return parse_request(row, **options)  # type: ignore[arg-type]


def codes(request: Request) -> list[str | None]:
    return [getattr(image, "code", None) for image in request.images]


def body(answer: Answer) -> object:
    return json.loads(answer.body)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def test_a_raw_body_is_one_image() -> None:
    assert parse({"body": bytearray(b"\xff\xd8")}).images == (bytearray(b"\xff\xd8"),)


def test_multipart_fields_are_images_in_their_order() -> None:
    assert parse({"b": b"1", "a": b"2", "data": b"3"}).images == (b"1", b"2", b"3")


def test_instances_are_decoded() -> None:
    row = {"body": {"instances": [b64(b"one"), b64(b"two")]}}
    assert parse(row).images == (b"one", b"two")


def test_json_that_arrives_as_bytes_is_read_too() -> None:
    text = json.dumps({"instances": [b64(b"one")]}).encode()
    assert parse({"body": bytearray(text)}).images == (b"one",)


@pytest.mark.parametrize(
    "row",
    [
        {"body": b"{not json"},
        {"body": b"[" * 100_000},
        {"body": {}},
        {"body": {"instances": []}},
        {"body": {"instances": "text"}},
        {"body": {"instances": [17]}},
        {"body": {"instances": [{"b64": 17}]}},
        {"body": {"instances": [{"url": "http://127.0.0.1/a.jpg"}]}},
        {"body": [b64(b"one")]},
        {"body": "text"},
    ],
)
def test_other_json_is_refused_with_the_remedy(row: dict[str, object]) -> None:
    request = parse(row)
    assert codes(request) == ["unsupported_json"]
    assert '"instances"' in str(request.images[0])


@pytest.mark.parametrize("text", ["!!!!", "a", "äöü", "aGk=\n="])
def test_what_is_not_base64_spoils_its_own_instance_only(text: str) -> None:
    request = parse({"body": {"instances": [{"b64": text}, b64(b"fine")]}})
    assert codes(request) == ["invalid_base64", None]


def test_no_part_at_all_names_the_content_type() -> None:
    request = parse({})
    assert codes(request) == ["empty_image"]
    assert "application/octet-stream" in str(request.images[0])


def test_too_many_images_are_refused() -> None:
    assert codes(parse({str(i): b"x" for i in range(5)})) == ["too_many_images"]
    assert codes(parse({str(i): b"x" for i in range(4)})) == [None] * 4


@pytest.mark.parametrize(
    ("row", "explain"), [({"body": b"x"}, True), ({"body": {"inputs": []}}, False)]
)
def test_other_protocols_get_no_verdict(row: dict[str, object], explain: bool) -> None:
    assert codes(parse(row, explain=explain)) == ["not_implemented"]


def answer(*verdicts: Verdict | DetectorError, kserve: bool = False) -> Answer:
    return form_answer(Request((b"",) * len(verdicts), kserve), verdicts, DETECTOR)


def test_one_image_gets_one_verdict() -> None:
    result = answer(GOOD)
    assert (result.status, result.phrase) == (200, "OK")
    assert body(result) == {
        "label": "FAKE",
        "prediction": 1,
        "confidence": 0.75,
        "fake_probability": 0.75,
        "margin": 1.0986123,
        "logits": [0.0, 1.0986123],
        "detector": DETECTOR,
    }


def test_one_broken_image_gets_its_error_and_status() -> None:
    result = answer(ImageTooLargeError("too big"))
    assert result.status == 413
    assert body(result) == {"error": {"code": "image_too_large", "message": "too big"}}


def test_several_get_a_list_with_each_errors_own_status() -> None:
    result = answer(GOOD, ImageError("no image"))
    assert result.status == 200
    listed = body(result)
    assert isinstance(listed, list)
    assert listed[0]["label"] == "FAKE"
    assert listed[1] == {"error": {"code": "not_an_image", "message": "no image"}, "status": 400}


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([ImageError("a"), ImageError("b")], 400),
        ([ImageTooLargeError("a"), ImageTooLargeError("b")], 413),
        ([ImageError("a"), ImageTooLargeError("b")], 400),
    ],
)
def test_a_list_fails_only_when_all_of_it_does(errors: list[DetectorError], status: int) -> None:
    assert answer(*errors).status == status
    assert answer(*errors, GOOD).status == 200


def test_kserve_answers_stand_in_predictions() -> None:
    single = body(answer(GOOD, kserve=True))
    assert isinstance(single, dict)
    assert [entry["label"] for entry in single["predictions"]] == ["FAKE"]
    refused = answer(ImageError("no image"), kserve=True)
    assert refused.status == 400
    assert body(refused)["predictions"][0]["error"]["code"] == "not_an_image"  # type: ignore[index]
