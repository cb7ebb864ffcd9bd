import json

import msgspec
import numpy as np
import pytest
from clip_deepfake.card import Card
from clip_deepfake.errors import InternalError
from clip_deepfake.faces import Face, Faces
from clip_deepfake.frontal import Box
from clip_deepfake.verdicts import (
    Judgement,
    Verdict,
    fake_probability,
    form_verdict,
    to_fields,
)
from scipy.special import expit, softmax


@pytest.mark.parametrize("logits", [[0.3, -1.2], [40.0, -40.0], [-800.0, 800.0], [0.0, 0.0]])
@pytest.mark.parametrize("fake_index", [0, 1])
def test_two_logits_are_read_by_a_softmax(
    small_card: Card, logits: list[float], fake_index: int
) -> None:
    head = msgspec.structs.replace(small_card.head, fake_index=fake_index)
    found = fake_probability(np.array(logits, "f4"), head)
    expected = softmax(np.array(logits, "f4").astype(float))[fake_index]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("logit", [-900.0, -2.5, 0.0, 7.0, 900.0])
def test_one_logit_is_read_by_a_sigmoid(small_card: Card, logit: float) -> None:
    head = msgspec.structs.replace(small_card.head, outputs=1, fake_index=0)
    assert fake_probability(np.array([logit], "f4"), head) == pytest.approx(expit(logit), abs=1e-12)


def judgement(probability: float) -> Judgement:
    fake = probability > 0.5
    return Judgement(
        "FAKE" if fake else "REAL",
        1 if fake else 0,
        probability if fake else 1 - probability,
        probability,
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


def test_with_one_face_unjudged_there_is_no_verdict() -> None:
    error = InternalError("the model answered [nan], which are no numbers")
    found = Faces(2, [face(0), face(10)])
    assert form_verdict([judgement(0.2), error], found, all_faces=True) is error


def test_where_no_faces_are_looked_for_none_are_spoken_of() -> None:
    verdict = form_verdict([judgement(0.2)], None, all_faces=False)
    assert isinstance(verdict, Verdict)
    assert set(to_fields(verdict)) == set(vars(judgement(0.2)))
