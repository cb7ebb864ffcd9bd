import msgspec
import numpy as np
import pytest
from clip_deepfake.card import Card
from clip_deepfake.verdicts import fake_probability
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
