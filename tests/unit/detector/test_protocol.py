import base64
import json
import textwrap
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote

import pytest
import requests
from clip_deepfake.detector import Submission
from clip_deepfake.errors import DetectorError, ImageError, ImageTooLargeError
from clip_deepfake.explaining import Wish
from clip_deepfake.protocol import form_answer, read_task
from clip_deepfake.questions import Answer, Form, Question, read_form
from clip_deepfake.verdicts import Verdict

GOOD = Verdict("FAKE", 1, 0.75, 0.75, 1.0986123, (0.0, 1.0986123))
DETECTOR = {"model": "acme/clip", "head": "untrained"}


def parse(row: dict[str, object], **changes: object) -> list[Submission]:
    """The images of a row whose parts are bytes, or objects that are sent as JSON."""
    parts = {
        name: part if isinstance(part, bytes | bytearray) else json.dumps(part).encode()
        for name, part in row.items()
    }
    return list(read_task(Question(parts, **changes), 4, "small").images)  # type: ignore[arg-type]


def contents(images: list[Submission]) -> list[object]:
    return [image.result or image.data for image in images]


def codes(images: list[Submission]) -> list[str | None]:
    return [getattr(image.result, "code", None) for image in images]


def body(answer: Answer) -> object:
    return json.loads(answer.body)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def test_a_raw_body_is_one_image() -> None:
    assert contents(parse({"body": bytearray(b"\xff\xd8")})) == [bytearray(b"\xff\xd8")]


def test_multipart_fields_are_images_in_their_order() -> None:
    assert contents(parse({"b": b"1", "a": b"2", "data": b"3"})) == [b"1", b"2", b"3"]


def test_instances_are_decoded() -> None:
    row = {"body": {"instances": [b64(b"one"), b64(b"two")]}}
    assert contents(parse(row)) == [b"one", b"two"]


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: b" \r\n\t" + text.encode(),
        lambda text: b"\xef\xbb\xbf\n\n" + text.encode(),
        lambda text: bytearray(json.dumps(json.loads(text), indent=4).encode()),
        lambda text: text.replace("b64", "\\u00626\\u0034").encode(),
    ],
    ids=["plain", "mark", "UTF-16", "UTF-16 BE", "blanks", "mark, blanks", "indented", "escapes"],
)
def test_json_is_read_however_it_was_written(encode: Callable[[str], bytes]) -> None:
    text = json.dumps({"instances": [b64(b"one"), b64(b"two")], "signature_name": "serving"})
    assert contents(parse({"body": encode(text)})) == [b"one", b"two"]


def test_a_form_may_hold_json_beside_files() -> None:
    row = {"a": b"\xff\xd8", "b": {"instances": [b64(b"one"), b64(b"two")]}}
    assert contents(parse(row)) == [b"\xff\xd8", b"one", b"two"]
    assert codes(parse(row | {"c": {"instances": [b64(b"one")] * 2}})) == ["too_many_images"]


def test_what_only_looks_like_utf_16_is_an_image() -> None:
    assert contents(parse({"body": b"\xff\xfe\x00"})) == [b"\xff\xfe\x00"]


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
        {"body": {"instances": [b64(b"one")]} | {"instances": None}},
        {"body": b'{"instances": [1]} and more'},
        {"body": b'{"instances": [{"b64": "\xff"}]}'},
        {"body": b'{"instances": [{"b64": "\\ud800"}]}'},
        {"body": b'{"instances": [' + b"[" * 100_000},
        {"body": b'{"deep": ' + b"[" * 100_000},
    ],
)
def test_other_json_is_refused_with_the_remedy(row: dict[str, object]) -> None:
    images = parse(row)
    assert codes(images) == ["unsupported_json"]
    assert '"instances"' in str(images[0].result)


JPEG = bytes(range(250, 256)) + bytes(range(250))
STANDARD = base64.b64encode(JPEG).decode()
URL_SAFE = base64.urlsafe_b64encode(JPEG).decode()


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(JPEG).decode(),
        "\r\n".join(textwrap.wrap(STANDARD, 64)),
        f" {STANDARD}\n",
        URL_SAFE,
        URL_SAFE.rstrip("="),
        STANDARD.rstrip("="),
        f"data:image/jpeg;base64,{STANDARD}",
        f"DATA:image/jpeg;name=a.jpg;Base64,{STANDARD}",
        f"data:;base64,{URL_SAFE}",
        f"data:image/jpeg;base64,{quote(STANDARD)}",
    ],
)
def test_base64_is_read_as_it_is_met_with(text: str) -> None:
    assert contents(parse({"body": {"instances": [{"b64": text}]}})) == [JPEG]


@pytest.mark.parametrize(
    "text",
    ["!!!!", "a", "äöü", "aGk=\n=", "aGk=aGk=", "data:image/jpeg,aGk=", "data:", "aGk%3D"],
)
def test_what_is_not_base64_spoils_its_own_instance_only(text: str) -> None:
    images = parse({"body": {"instances": [{"b64": text}, b64(b"fine")]}})
    assert codes(images) == ["invalid_base64", None]


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances":[' + b"1," * 4_000_000 + b"1]}",
        b'{"instances":[' + b"{}," * 3_000_000 + b"1]}",
        b'{"instances":[[' + b"1," * 4_000_000 + b"1]]}",
        b'{"other":[' + b"[]," * 3_000_000 + b'1],"instances":[1]}',
        b"{" + b",".join(b'"%d":1' % index for index in range(500_000)) + b"}",
        b"[" + b"[]," * 3_000_000 + b"1]",
    ],
    ids=["numbers", "objects", "numbers in one", "elsewhere", "names", "no object"],
)
def test_what_is_refused_becomes_no_objects(body: bytes) -> None:
    tracemalloc.start()
    images = parse({"body": body})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == 1
    assert peak < 1 << 17


def test_too_many_instances_are_refused_before_they_are_decoded() -> None:
    assert codes(parse({"body": {"instances": [b64(b"one")] * 5}})) == ["too_many_images"]
    assert len(parse({"body": {"instances": [b64(b"one")] * 4}})) == 4


BOUNDARY = "0123456789abcdef0123456789abcdef"


def form(*parts: tuple[str, str, bytes]) -> Form:
    """As the headers tell of a form of fields, each with a file's name and content."""
    fields = [(name, (file, content, "image/jpeg")) for name, file, content in parts]
    request = requests.Request("POST", "http://host", files=fields).prepare()
    read = read_form({name.lower(): value for name, value in request.headers.items()})
    assert read is not None
    return read


def test_a_lost_part_of_a_form_is_told_with_the_remedy() -> None:
    sent = form(("image", "a.jpg", b"1" * 900), ("image", "b.jpg", b"2" * 900))
    images = parse({"image": b"2" * 900}, form=sent)
    assert codes(images) == ["lost_parts"]
    assert "a name of its own" in str(images[0].result)


def test_a_lost_part_among_many_is_told() -> None:
    parts = [(f"image{index % 31}", "a.jpg", b"1" * 40_000) for index in range(32)]
    row = {name: content for name, _, content in parts}
    assert codes(parse_all(row, form(*parts))) == ["lost_parts"]


@pytest.mark.parametrize("length", [0, 1, 5_000])
@pytest.mark.parametrize("file", ["a.jpg", "a" * 251 + ".jpg", "ü" * 60 + ".jpg"])
def test_a_whole_form_is_no_lost_part(length: int, file: str) -> None:
    parts = [(f"Bild {index} ä", file, b"1" * length) for index in range(32)]
    row = {name: content for name, _, content in parts}
    assert len(parse_all(row, form(*parts))) == 32


def parse_all(row: dict[str, bytes], sent: Form) -> list[Submission]:
    return list(read_task(Question(row, form=sent), 32, "small").images)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-length": "9000", "content-type": "image/jpeg"},
        {"content-type": f"multipart/form-data; boundary={BOUNDARY}"},
        {"content-type": f"multipart/form-data; boundary={BOUNDARY}", "content-length": "9" * 5000},
        {"content-type": f"multipart/form-data; boundary={BOUNDARY}", "content-length": "-1"},
        {"content-type": "multipart/form-data", "content-length": "9000"},
    ],
)
def test_what_is_no_form_of_a_known_length_is_not_compared(headers: dict[str, str]) -> None:
    assert read_form(headers) is None


@pytest.mark.parametrize("boundary", [BOUNDARY, f'"{BOUNDARY}"', f"{BOUNDARY}; charset=utf-8"])
def test_a_forms_boundary_is_read_with_and_without_quotes(boundary: str) -> None:
    kind = f"Multipart/form-data; Boundary={boundary}"
    assert read_form({"content-type": kind, "content-length": "9000"}) == Form(9000, 32)


def test_no_part_at_all_names_the_content_type() -> None:
    images = parse({})
    assert codes(images) == ["empty_image"]
    assert "application/octet-stream" in str(images[0].result)


def test_too_many_images_are_refused() -> None:
    assert codes(parse({str(i): b"x" for i in range(5)})) == ["too_many_images"]
    assert codes(parse({str(i): b"x" for i in range(4)})) == [None] * 4


def test_options_of_an_explanation_come_in_headers_in_fields_or_in_json() -> None:
    occlusion = Wish("occlusion", overlay=True)
    headers = {"method": "occlusion", "overlay": "png"}
    assert [i.wish for i in parse({"body": b"x"}, explain=True, options=headers)] == [occlusion]
    form = parse({"a": b"x", "method": b"occlusion", "overlay": b"png"}, explain=True)
    assert [(image.data, image.wish) for image in form] == [(b"x", occlusion)]
    instances = {"instances": [b64(b"x"), b64(b"y")]}
    images = parse({"body": instances | headers}, explain=True)
    assert [image.wish for image in images] == [occlusion, occlusion]
    # What the body says is nearer than what a header does.
    images = parse({"body": instances | {"method": "decomposition"}}, explain=True, options=headers)
    assert images[0].wish == Wish("decomposition", overlay=True)
    assert parse({"body": instances}, explain=True)[0].wish == Wish()


def test_options_are_none_to_a_prediction() -> None:
    images = parse({"a": b"x", "method": b"y"}, options={"overlay": "png"})
    assert [(image.data, image.wish) for image in images] == [(b"x", None), (b"y", None)]
    assert codes(parse({"body": {"instances": [b64(b"x")], "method": 5}})) == [None]


@pytest.mark.parametrize(
    "row",
    [
        {"a": b"x", "method": b"magic"},
        {"a": b"x", "method": b"\xff" * 10_000},
        {"a": b"x", "overlay": b"jpeg"},
        {"body": {"instances": [{"b64": "eA=="}], "overlay": "svg"}},
    ],
)
def test_an_unknown_option_is_refused_in_few_words(row: dict[str, object]) -> None:
    (image,) = parse(row, explain=True)
    assert codes([image]) == ["unknown_option"]
    assert len(str(image.result)) < 250


def test_an_explanation_without_an_image_is_refused() -> None:
    assert codes(parse({"method": b"occlusion"}, explain=True)) == ["empty_image"]
    wrong_type = {"instances": [{"b64": "eA=="}], "overlay": 5}
    assert codes(parse({"body": wrong_type}, explain=True)) == ["unsupported_json"]


def answer(*verdicts: Verdict | DetectorError, listed_as: str | None = None) -> Answer:
    return form_answer(verdicts, DETECTOR, listed_as=listed_as)


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
    single = body(answer(GOOD, listed_as="predictions"))
    assert isinstance(single, dict)
    assert [entry["label"] for entry in single["predictions"]] == ["FAKE"]
    explained = body(answer(GOOD, listed_as="explanations"))
    assert [entry["label"] for entry in explained["explanations"]] == ["FAKE"]  # type: ignore[index]
    refused = answer(ImageError("no image"), listed_as="predictions")
    assert refused.status == 400
    assert body(refused)["predictions"][0]["error"]["code"] == "not_an_image"  # type: ignore[index]
