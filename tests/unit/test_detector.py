import io

import msgspec
import numpy as np
import pytest
from clip_deepfake.card import Card
from clip_deepfake.detector import LARGEST_PASS, Detector
from clip_deepfake.engines import Logits, Pixels
from clip_deepfake.verdicts import Verdict
from PIL import Image
from scipy.special import expit


class Engine:
    """Answers each image's mean red as its logits; notes the size of every pass."""

    name = "stand-in"
    exact = True

    def __init__(self, failure: Exception | None = None, value: float | None = None) -> None:
        self.passes: list[int] = []
        self.failure = failure
        self.value = value

    def __call__(self, pixels: Pixels) -> Logits:
        self.passes.append(len(pixels))
        if self.failure:
            raise self.failure
        red = pixels[..., 0].mean(axis=(1, 2)) / 255 if self.value is None else self.value
        return np.stack([np.zeros(len(pixels)), np.broadcast_to(red, len(pixels))], 1).astype("f4")


def image(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("threshold", "label"), [(0.5, "FAKE"), (0.8, "REAL")])
def test_the_label_follows_the_threshold_and_confidence_the_label(
    small_card: Card, threshold: float, label: str
) -> None:
    head = msgspec.structs.replace(small_card.head, threshold=threshold)
    card = msgspec.structs.replace(small_card, head=head)
    (verdict,) = Detector(card, Engine()).judge([image(255)])
    assert isinstance(verdict, Verdict)
    assert verdict.fake_probability == pytest.approx(expit(1.0))
    assert (verdict.label, verdict.prediction) == (label, int(label == "FAKE"))
    right = expit(1.0) if label == "FAKE" else 1 - expit(1.0)
    assert verdict.confidence == pytest.approx(right)


def test_a_whole_batch_is_one_pass_and_keeps_its_order(small_card: Card) -> None:
    engine = Engine()
    reds = [10, 200, 0, 255, 90]
    verdicts = Detector(small_card, engine).judge([image(red) for red in reds])
    assert engine.passes == [5]
    found = [verdict.logits[1] for verdict in verdicts if isinstance(verdict, Verdict)]
    assert found == pytest.approx([red / 255 for red in reds], abs=1e-6)


def test_more_images_than_a_pass_takes_are_split(small_card: Card) -> None:
    engine = Engine()
    verdicts = Detector(small_card, engine).judge([image(1)] * (LARGEST_PASS + 3))
    assert engine.passes == [LARGEST_PASS, 3]
    assert len(verdicts) == LARGEST_PASS + 3


def test_a_failing_engine_is_an_internal_error_for_each_image(small_card: Card) -> None:
    engine = Engine(failure=RuntimeError("device lost"))
    verdicts = Detector(small_card, engine).judge([image(1), b"no image", image(2)])
    assert [getattr(verdict, "code", None) for verdict in verdicts] == [
        "internal_error",
        "not_an_image",
        "internal_error",
    ]
    assert "device lost" not in str(verdicts[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_verdict(small_card: Card, value: float) -> None:
    (verdict,) = Detector(small_card, Engine(value=value)).judge([image(1)])
    assert getattr(verdict, "code", None) == "internal_error"
