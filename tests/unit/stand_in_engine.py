"""An engine that computes nothing, and detectors around one, for tests of what stands around it."""

import io

import numpy as np
from clip_deepfake.card import Card
from clip_deepfake.detector import Detector, Preparer
from clip_deepfake.engines import Engine, Features, Logits, Pixels
from clip_deepfake.explaining import Explainer
from clip_deepfake.worker import Worker
from PIL import Image


class StandInEngine:
    """Answers each image's mean red, in [0, 1], as its second logit; notes the size of every pass.

    Attributes:
        largest_pass: pictures that it wants at once.
        passes: pictures in each call.
        failures: raised by the next calls, one by one.
        value: answered instead, when given.
    """

    name = "stand-in"
    exact = True
    largest_pass = 6
    decompose = None

    def __init__(self, *failures: Exception, value: float | None = None) -> None:
        self.passes: list[int] = []
        self.failures = list(failures)
        self.value = value

    def __call__(self, pixels: Pixels) -> Logits:
        self.passes.append(len(pixels))
        if self.failures:
            raise self.failures.pop(0)
        red = pixels[..., 0].mean(axis=(1, 2)) / 255 if self.value is None else self.value
        return np.stack([np.zeros(len(pixels)), np.broadcast_to(red, len(pixels))], 1).astype("f4")

    def features(self, pixels: Pixels) -> Features:
        return self(pixels)


def detector_of(card: Card, engine: Engine, threads: int | None = None) -> Detector:
    """A detector as a card tells of it, but for the engine; it aligns no faces."""
    preparer = Preparer(card.preprocessing, card.limits.max_pixels, threads=threads)
    explainer = Explainer(engine, card.head, card.encoder)
    return Detector(preparer, engine, card.head, card.decision, explainer)


def worker_of(card: Card, engine: Engine) -> Worker:
    """A worker of such a detector."""
    return Worker(detector_of(card, engine), card)


def image(red: int) -> bytes:
    """A small PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()
