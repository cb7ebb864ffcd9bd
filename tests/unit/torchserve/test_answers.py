from typing import Any

import pytest
from deepfake_tools.errors import UnexpectedAnswerError
from deepfake_tools.torchserve.answers import (
    parse_customized,
    parse_json,
    parse_model_page,
    parse_verdict,
    parse_versions,
)

from tests.unit.torchserve_stub import description, verdict


@pytest.mark.parametrize(("probability", "label"), [(0.0, "REAL"), (0.25, "REAL"), (1.0, "FAKE")])
def test_a_verdict_keeps_its_numbers(probability: float, label: str):
    parsed = parse_verdict(verdict(probability))
    assert (parsed.label, parsed.fake_probability) == (label, probability)
    assert parsed.confidence == max(probability, 1 - probability)
    assert parsed.detector.commit is None


def test_an_untrained_head_is_handed_on_as_one():
    assert parse_verdict(verdict(head="untrained")).detector.head == "untrained"
    assert parse_verdict(verdict(head="head.pth")).detector.head == "head.pth"


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
