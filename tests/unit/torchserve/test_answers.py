from typing import Any

import pytest
from deepfake_tools.errors import UnexpectedAnswerError
from deepfake_tools.torchserve.answers import (
    ServedFace,
    parse_customized,
    parse_json,
    parse_model_page,
    parse_verdict,
    parse_versions,
)

from tests.unit.torchserve_stub import description, explanation, verdict


@pytest.mark.parametrize(("probability", "label"), [(0.0, "REAL"), (0.25, "REAL"), (1.0, "FAKE")])
def test_a_verdict_keeps_its_numbers(probability: float, label: str):
    parsed = parse_verdict(verdict(probability))
    assert (parsed.label, parsed.fake_probability) == (label, probability)
    assert parsed.confidence == max(probability, 1 - probability)
    assert parsed.detector.commit is None


def test_an_untrained_head_is_handed_on_as_one():
    assert parse_verdict(verdict(head="untrained")).detector.head == "untrained"
    assert parse_verdict(verdict(head="head.pth")).detector.head == "head.pth"


FACE = {"found": True, "count": 2, "box": [-5, 4, 90, 100], "points": [[1, 2]]}
JUDGED = {
    "label": "FAKE",
    "prediction": 1,
    "confidence": 0.75,
    "fake_probability": 0.75,
    "margin": 1.0986,
    "logits": [1.0986],
    "box": [100, 4, 200, 110],
    "points": [[1, 2]],
}


def test_a_detector_that_looks_for_no_faces_tells_of_none():
    assert parse_verdict(verdict()).faces is None


@pytest.mark.parametrize("more", [{}, {"faces": []}])
def test_an_image_without_a_face_has_none(more: dict[str, object]):
    answer = verdict() | {"face": {"found": False, "count": 0}} | more
    assert parse_verdict(answer).faces == ()


def test_of_the_largest_face_the_verdict_is_its_own():
    (face,) = parse_verdict(verdict(0.25) | {"face": FACE, "margin": -1.0986}).faces or ()
    assert face == ServedFace((-5, 4, 90, 100), 0.25, 0, -1.0986)


def test_of_all_faces_each_has_its_own_verdict():
    other = JUDGED | {"label": "REAL", "prediction": 0, "fake_probability": 0.125, "margin": None}
    parsed = parse_verdict(verdict(0.75) | {"face": FACE, "faces": [JUDGED, other]})
    box = (100, 4, 200, 110)
    assert parsed.faces == (ServedFace(box, 0.75, 1, 1.0986), ServedFace(box, 0.125, 0, None))


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("face", {"face": [1]}),
        ("found", {"face": {"count": 0}}),
        ("found", {"face": FACE | {"found": 1}}),
        ("box", {"face": FACE | {"box": None}}),
        ("box", {"face": FACE | {"box": [1, 2, 3]}}),
        ("box", {"face": FACE | {"box": [1, 2, 3, True]}}),
        ("box", {"face": FACE | {"box": [1, 2, 3, 4.5]}}),
        ("box", {"face": FACE | {"box": [9, 2, 3, 4]}}),
        ("box", {"face": FACE | {"box": [1, 9, 3, 4]}}),
        ("box", {"face": FACE | {"box": [1, 2, 3, 10**400]}}),
        ("faces", {"face": FACE, "faces": {}}),
        ("number of faces", {"face": FACE, "faces": []}),
        ("number of faces", {"face": FACE, "faces": [JUDGED] * 1025}),
        ("face", {"face": FACE, "faces": ["x"]}),
        ("label", {"face": FACE, "faces": [JUDGED | {"label": "REAL"}]}),
        ("fake_probability", {"face": FACE, "faces": [JUDGED | {"fake_probability": 2}]}),
        ("margin", {"face": FACE, "faces": [JUDGED | {"margin": 10**400}]}),
        ("box", {"face": FACE, "faces": [JUDGED | {"box": []}]}),
    ],
)
def test_a_face_out_of_range_is_named(named: str, wrong: dict[str, object]):
    with pytest.raises(UnexpectedAnswerError, match=f"answer's {named} cannot be used"):
        parse_verdict(verdict() | wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label", "MAYBE"),
        ("label", "REAL"),
        ("label", None),
        ("prediction", True),
        ("prediction", 2),
        ("confidence", float("nan")),
        ("confidence", "0.8"),
        ("fake_probability", 1.5),
        ("fake_probability", True),
        ("fake_probability", 10**400),
        ("margin", 10**400),
        ("margin", float("inf")),
        ("detector", "clip"),
    ],
)
def test_a_field_out_of_range_is_named(key: str, value: object):
    named = "label" if key == "prediction" and value == 2 else key
    with pytest.raises(UnexpectedAnswerError, match=f"answer's {named} cannot be used"):
        parse_verdict(verdict() | {key: value})


def test_the_threshold_is_the_answers_and_not_known_of_an_earlier_archive():
    answer: dict[str, Any] = verdict()
    assert parse_verdict(answer).detector.threshold == 0.5
    answer["detector"]["threshold"] = 0
    assert parse_verdict(answer).detector.threshold == 0
    del answer["detector"]["threshold"]
    assert parse_verdict(answer).detector.threshold is None


@pytest.mark.parametrize("value", ["0.5", 1.5, -0.1, float("nan"), True, []])
def test_a_threshold_out_of_range_is_refused(value: object):
    answer: dict[str, Any] = verdict()
    answer["detector"]["threshold"] = value
    with pytest.raises(UnexpectedAnswerError, match="answer's threshold cannot be used"):
        parse_verdict(answer)


@pytest.mark.parametrize("value", [[], None, "FAKE", {}])
def test_what_is_no_verdict_is_refused(value: object):
    with pytest.raises(UnexpectedAnswerError):
        parse_verdict(value)


def test_a_server_cannot_steer_the_terminal():
    answer: dict[str, Any] = verdict()
    answer["detector"]["model"] = "a\x1b[2Jb\n"
    assert parse_verdict(answer).detector.model == "a [2Jb"


@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(body: bytes):
    with pytest.raises(UnexpectedAnswerError, match="not JSON"):
        parse_json(body)


def test_ready_workers_are_counted():
    (version,) = parse_versions([description("m", "3", "READY", "UNLOADING", "READY")])
    assert (version.name, version.version, version.archive) == ("m", "3", "m@3.mar")
    assert (version.ready_workers, len(version.workers)) == (2, 3)
    assert version.pending_requests == 3


def test_a_description_with_a_field_missing_is_refused():
    broken = description("m")
    del broken["jobQueueStatus"]
    with pytest.raises(UnexpectedAnswerError, match="jobQueueStatus"):
        parse_versions([broken])


def test_a_page_names_the_next():
    entry = {"modelName": "m", "modelUrl": "m@1.mar"}
    models, following = parse_model_page({"models": [entry], "nextPageToken": "1"})
    assert ([model.name for model in models], following) == (["m"], "1")
    assert parse_model_page({"models": []}) == ([], None)


def test_the_handlers_own_description_is_passed_on():
    said = {"pid": 7}
    assert parse_customized([description("m") | {"customizedMetadata": said}]) == said
    with pytest.raises(UnexpectedAnswerError):
        parse_customized([])


def test_an_explanation_keeps_its_numbers():
    parsed = parse_verdict(verdict() | explanation(side=3)).explanation
    assert parsed is not None
    assert parsed.grid == ((2.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, -1.0))
    assert (parsed.rest, parsed.margin, parsed.passes) == (0.25, 1.25, 1)
    assert parsed.corners is None


def test_an_explanation_of_a_face_says_where_it_lies():
    corners = [[-3.5, 0], [90, 1], [89.25, 95], [-4, 96]]
    parsed = parse_verdict(verdict() | explanation(corners=corners)).explanation
    assert parsed is not None
    assert parsed.corners == tuple(map(tuple, corners))


def test_a_verdict_that_was_not_to_be_explained_has_no_explanation():
    assert parse_verdict(verdict()).explanation is None


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": []},
        {"grid": [[]]},
        {"grid": [[1.0], [0.0, 0.0]]},
        {"grid": [["1.0"]]},
        {"grid": [[float("nan")]]},
        {"grid": [[10**400]]},
        {"grid": [[1.7e308, 1.7e308]]},
        {"grid": [[1.0]] * 129},
        {"grid": {"0": [1.0]}},
        {"rest": None},
        {"rest": 0.5},
        {"margin": float("inf")},
        {"passes": 0},
        {"method": 7},
        {"corners": [[0, 0], [1, 0], [1, 1]]},
        {"corners": [[0, 0], [1, 0], [1, 1], [0]]},
        {"corners": [[0, 0], [1, 0], [1, 1], [0, 2_000_000]]},
    ],
    ids=str,
)
def test_an_explanation_that_cannot_be_is_refused(changed: dict[str, object]):
    with pytest.raises(UnexpectedAnswerError, match="cannot be used"):
        parse_verdict(verdict() | explanation(**changed))
