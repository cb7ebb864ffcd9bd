import json
from decimal import Context, Decimal, localcontext

import msgspec
import numpy as np
import pytest
from clip_deepfake.card import Card
from clip_deepfake.errors import InternalError
from clip_deepfake.face_detector import Box
from clip_deepfake.faces import Face, Faces
from clip_deepfake.verdicts import (
    Judgement,
    Verdict,
    fake_margin,
    form_judgement,
    form_verdict,
    sigmoid,
    to_fields,
)
from scipy.special import expit, logit, softmax

EDGES = [0.0, 1e-45, 1e-7, 0.3, 7.0, 16.9, 36.0, 37.0, 38.0, 100.0, 700.0, 740.0, 1e9, 3.4e38]
"""Of what float32 can hold, the far ends of the sigmoid and of the type included."""


@pytest.mark.parametrize("logits", [[0.3, -1.2], [40.0, -40.0], [-800.0, 800.0], [0.0, 0.0]])
@pytest.mark.parametrize("fake_index", [0, 1])
def test_two_logits_are_read_by_a_softmax(
    small_card: Card, logits: list[float], fake_index: int
) -> None:
    head = msgspec.structs.replace(small_card.head, fake_indices=(fake_index,))
    found = sigmoid(fake_margin(np.array(logits, "f4"), head))
    expected = softmax(np.array(logits, "f4").astype(float))[fake_index]
    assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("margin", [sign * edge for edge in EDGES for sign in (-1, 1)])
def test_the_probability_is_exact_on_both_tails(margin: float) -> None:
    """Against 60 digits; below 1e-308 float64 itself keeps fewer of them."""
    with localcontext(Context(prec=60)):
        exact = 1 / (1 + (-Decimal(margin)).exp()) if margin > -1e4 else Decimal(0)
    assert sigmoid(margin) == pytest.approx(float(exact), rel=1e-15, abs=1e-322)


@pytest.mark.parametrize("outputs", [1, 2])
def test_no_margin_that_float32_can_hold_loses_its_rank(small_card: Card, outputs: int) -> None:
    values = sorted({sign * np.float32(edge) for edge in EDGES for sign in (-1, 1)})
    neighbours = {value for v in values for value in (v, np.nextafter(v, np.float32(0)))}
    margins = sorted(neighbours)
    head = msgspec.structs.replace(small_card.head, outputs=outputs, fake_indices=(outputs - 1,))
    verdicts = [form_judgement(np.array([0, margin][-outputs:], "f4"), head) for margin in margins]
    found = [verdict.margin for verdict in verdicts if isinstance(verdict, Judgement)]
    assert found == [float(margin) for margin in margins]
    told = [json.loads(json.dumps(to_fields(Verdict(**vars(v)))))["margin"] for v in verdicts]
    assert told == found


def test_what_two_far_logits_differ_by_stays_finite(small_card: Card) -> None:
    verdict = form_judgement(np.array([-3.4e38, 3.4e38], "f4"), small_card.head)
    assert isinstance(verdict, Judgement)
    assert verdict.margin == pytest.approx(6.8e38)
    assert (verdict.fake_probability, verdict.confidence) == (1.0, 1.0)


def test_a_confident_real_has_its_confidence_to_the_last_digits(small_card: Card) -> None:
    """Under a threshold of 1 a sure fake is called REAL, with what is left of the probability."""
    head = msgspec.structs.replace(small_card.head, outputs=1, fake_indices=(0,), threshold=1.0)
    verdict = form_judgement(np.array([50.0], "f4"), head)
    assert isinstance(verdict, Judgement)
    assert verdict.label == "REAL"
    assert verdict.confidence == pytest.approx(expit(-50.0), rel=1e-15)


def judgement(probability: float, margin: float | None = None) -> Judgement:
    fake = probability > 0.5
    return Judgement(
        "FAKE" if fake else "REAL",
        1 if fake else 0,
        probability if fake else 1 - probability,
        probability,
        float(logit(probability)) if margin is None else margin,
        (0.0, 1.0),
    )


def face(left: int) -> Face:
    points = np.full((5, 2), left, np.float32)
    return Face(Box(left, 0, left + 9, 9), points, np.zeros((4, 4, 3), np.uint8))


def test_of_several_faces_the_one_that_is_fake_with_the_highest_probability_speaks() -> None:
    found = Faces(3, [face(0), face(10), face(20)])
    judged = [judgement(0.2), judgement(0.9), judgement(0.6)]
    verdict = form_verdict(judged, found, all_faces=True)
    assert isinstance(verdict, Verdict)
    assert (verdict.label, verdict.fake_probability) == ("FAKE", 0.9)
    fields = json.loads(json.dumps(to_fields(verdict)))
    assert fields["face"] == {
        "found": True,
        "count": 3,
        "box": [10, 0, 19, 9],
        "points": [[10, 10]] * 5,
    }
    assert [entry["fake_probability"] for entry in fields["faces"]] == [0.2, 0.9, 0.6]
    assert [entry["label"] for entry in fields["faces"]] == ["REAL", "FAKE", "FAKE"]
    assert [entry["box"][0] for entry in fields["faces"]] == [0, 10, 20]


def test_of_several_certain_faces_the_most_certain_one_speaks() -> None:
    found = Faces(2, [face(0), face(10)])
    verdict = form_verdict([judgement(1.0, 41.0), judgement(1.0, 90.0)], found, all_faces=True)
    assert isinstance(verdict, Verdict)
    assert verdict.face is not None
    assert verdict.face.box == Box(10, 0, 19, 9)


def test_with_one_face_unjudged_there_is_no_verdict() -> None:
    error = InternalError("the model answered [nan], which are no numbers")
    found = Faces(2, [face(0), face(10)])
    assert form_verdict([judgement(0.2), error], found, all_faces=True) is error


def test_where_no_faces_are_looked_for_none_are_spoken_of() -> None:
    verdict = form_verdict([judgement(0.2)], None, all_faces=False)
    assert isinstance(verdict, Verdict)
    assert set(to_fields(verdict)) == set(vars(judgement(0.2)))
