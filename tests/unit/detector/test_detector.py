import threading
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from clip_deepfake import detector as detector_module
from clip_deepfake import loading
from clip_deepfake.card import CARD_FILE, Card
from clip_deepfake.detector import Submission
from clip_deepfake.formats import Header
from clip_deepfake.images import RGB, Orientation
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from scipy.special import expit

from tests.unit.stand_in_engine import StandInEngine, detector_of, image


@pytest.mark.parametrize(("threshold", "label"), [(0.5, "FAKE"), (0.8, "REAL")])
def test_the_label_follows_the_threshold_and_confidence_the_label(
    small_card: Card, threshold: float, label: str
) -> None:
    head = msgspec.structs.replace(small_card.head, threshold=threshold)
    card = msgspec.structs.replace(small_card, head=head)
    (verdict,) = detector_of(card, StandInEngine()).judge([image(255)])
    assert isinstance(verdict, Verdict)
    assert verdict.fake_probability == pytest.approx(expit(1.0))
    assert (verdict.label, verdict.prediction) == (label, int(label == "FAKE"))
    right = expit(1.0) if label == "FAKE" else 1 - expit(1.0)
    assert verdict.confidence == pytest.approx(right)


def test_a_whole_batch_is_one_pass_and_keeps_its_order(small_card: Card) -> None:
    engine = StandInEngine()
    reds = [10, 200, 0, 255, 90]
    verdicts = detector_of(small_card, engine).judge([image(red) for red in reds])
    assert engine.passes == [5]
    found = [verdict.logits[1] for verdict in verdicts if isinstance(verdict, Verdict)]
    assert found == pytest.approx([red / 255 for red in reds], abs=1e-6)


def test_more_images_than_a_pass_takes_are_split(small_card: Card) -> None:
    engine = StandInEngine()
    most = engine.largest_pass
    pictures = [image(red) for red in range(most + 1)] + [b"no image"] + [image(255)] * most
    verdicts = detector_of(small_card, engine).judge(pictures)
    assert engine.passes == [most, most, 1]
    found = [verdict.logits[1] if isinstance(verdict, Verdict) else None for verdict in verdicts]
    expected = [red / 255 for red in range(most + 1)] + [None] + [1.0] * most
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_failing_engine_is_an_internal_error_for_each_image(small_card: Card) -> None:
    engine = StandInEngine(RuntimeError("device lost"))
    verdicts = detector_of(small_card, engine).judge([image(1), b"no image", image(2)])
    assert [getattr(verdict, "code", None) for verdict in verdicts] == [
        "internal_error",
        "not_an_image",
        "internal_error",
    ]
    assert "device lost" not in str(verdicts[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_verdict(small_card: Card, value: float) -> None:
    (verdict,) = detector_of(small_card, StandInEngine(value=value)).judge([image(1)])
    assert getattr(verdict, "code", None) == "internal_error"


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (3, 3)])
def test_no_more_threads_prepare_images_than_it_is_given(
    small_card: Card, monkeypatch: pytest.MonkeyPatch, threads: int, most: int
) -> None:
    seen: set[int] = set()
    # Passed only by as many at once as there are threads, which is how each of them is met.
    together = threading.Barrier(most)

    def decode(header: Header, data: bytes, orientation: Orientation) -> RGB:
        seen.add(threading.get_ident())
        together.wait(10)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(detector_module, "decode_behind", decode)
    detector = detector_of(small_card, StandInEngine(), threads)
    images = [Submission(image(0)) for _ in range(3 * most)]
    assert len(list(detector.preparer.prepare(images))) == 3 * most
    assert len(seen) == most


def test_a_workers_share_is_that_of_every_library(
    small_card: Card, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[object] = []

    def open_engine(*arguments: object) -> StandInEngine:
        given.append(arguments[-1])
        return StandInEngine()

    monkeypatch.setattr(cv2, "setNumThreads", given.append)
    monkeypatch.setattr(loading, "open_engine", open_engine)
    monkeypatch.setattr(loading, "check_logits", lambda *_: None)
    card = msgspec.structs.replace(small_card, files={})
    (tmp_path / CARD_FILE).write_bytes(card.to_json())
    assert load_detector(tmp_path, threads=3).preparer._pool._max_workers == 3
    assert given == [3, 3]
    load_detector(tmp_path)
    assert given == [3, 3, None]
