"""Image bytes in, verdicts out."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_deepfake.card import ENCODER_FILE, HEAD_FILE, Card, HeadCard, read_card
from clip_deepfake.encoder import build_module
from clip_deepfake.engines import Engine, Pixels, TorchEngine, worker_device
from clip_deepfake.errors import DetectorError, InternalError, LoadError
from clip_deepfake.images import decode

logger = logging.getLogger(__name__)

FLOAT32_TOLERANCE = 1e-3
"""Largest absolute difference of logits between float32 on two machines, libraries or devices."""

LARGEST_PASS = 64
"""Images in one forward pass; more are computed in several, which bounds memory."""

ImageBytes = bytes | bytearray


@dataclass(frozen=True)
class Verdict:
    """One image's answer.

    Attributes:
        label: ``FAKE`` when ``fake_probability`` is above the card's threshold.
        prediction: 1 for FAKE, 0 for REAL.
        confidence: probability of the label given, in [0, 1].
        fake_probability: in [0, 1].
        logits: the head's output, one or two numbers.
    """

    label: Literal["REAL", "FAKE"]
    prediction: Literal[0, 1]
    confidence: float
    fake_probability: float
    logits: tuple[float, ...]


class Detector:
    """A card, its preprocessing and an engine."""

    def __init__(self, card: Card, engine: Engine) -> None:
        """Puts the parts in a row; ``load_detector`` makes them from an unpacked archive."""
        self.card = card
        self.engine = engine
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="preprocess")

    def judge(self, images: Sequence[ImageBytes]) -> list[Verdict | DetectorError]:
        """Judges images; a broken one does not touch the others.

        Args:
            images: contents of image files.

        Returns:
            A verdict or the reason for its absence for each, in order.
        """
        prepared = self.prepare(images)
        pixels = [item for item in prepared if not isinstance(item, DetectorError)]
        verdicts = self._judge_pixels(pixels)
        return [item if isinstance(item, DetectorError) else next(verdicts) for item in prepared]

    def prepare(self, images: Sequence[ImageBytes]) -> list[Pixels | DetectorError]:
        """Decodes and preprocesses images, several at a time.

        Args:
            images: contents of image files.

        Returns:
            For each, in order, uint8 (side, side, 3), or the reason for its absence.
        """
        return list(self._pool.map(self._prepare, images))

    def _judge_pixels(self, pixels: Sequence[Pixels]) -> Iterator[Verdict | DetectorError]:
        for start in range(0, len(pixels), LARGEST_PASS):
            yield from self._judge_batch(np.stack(pixels[start : start + LARGEST_PASS]))

    def _prepare(self, data: ImageBytes) -> Pixels | DetectorError:
        try:
            return self.card.preprocessing.apply(decode(data, self.card.limits.max_pixels))
        except DetectorError as error:
            return error
        except Exception:
            logger.exception("an image of %d bytes could not be prepared", len(data))
            return InternalError("the image could not be prepared; the server's log says why")

    def _judge_batch(self, pixels: Pixels) -> Sequence[Verdict | DetectorError]:
        try:
            logits = self.engine(pixels)
        except Exception:
            logger.exception("a pass over %d images failed", len(pixels))
            failure = InternalError("the model could not be run; the server's log says why")
            return [failure] * len(pixels)
        return [self._verdict(row) for row in logits]

    def _verdict(self, logits: npt.NDArray[np.float32]) -> Verdict | DetectorError:
        if not np.isfinite(logits).all():
            return InternalError(f"the model answered {logits.tolist()}, which are no numbers")
        probability = fake_probability(logits, self.card.head)
        fake = probability > self.card.head.threshold
        return Verdict(
            label="FAKE" if fake else "REAL",
            prediction=1 if fake else 0,
            confidence=probability if fake else 1 - probability,
            fake_probability=probability,
            logits=tuple(logits.tolist()),
        )


def fake_probability(logits: npt.NDArray[np.float32], head: HeadCard) -> float:
    """Reads a head's output.

    Args:
        logits: float32 (outputs,).
        head: says whether they are one logit for a sigmoid or two for a softmax.

    Returns:
        The probability of FAKE in [0, 1], computed in float64. A softmax over two logits is the
        sigmoid of their difference.
    """
    values = logits.astype(np.float64)
    margin = (
        values[0] if head.outputs == 1 else values[head.fake_index] - values[1 - head.fake_index]
    )
    return float(0.5 * (1 + np.tanh(margin / 2)))


def load_detector(directory: Path, gpu_id: int | None = None) -> Detector:
    """Makes a detector of an unpacked archive and tests it; the test is the warm-up too.

    Args:
        directory: holds the card and the weight files that it names.
        gpu_id: the CUDA device to use, or None.

    Raises:
        LoadError: when a file is missing or damaged, or the logits are not the card's.
    """
    card = read_card(directory)
    for name, sha256 in card.files.items():
        _check_digest(directory / name, sha256)
    module = build_module(
        card, _load_tensors(directory / ENCODER_FILE), _load_tensors(directory / HEAD_FILE)
    )
    engine = TorchEngine(module, worker_device(gpu_id))
    check_logits(card, engine)
    return Detector(card, engine)


def _check_digest(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise LoadError(
            f"{path.name} is damaged: its SHA-256 is {found}, the card says {sha256}; "
            "build the archive again"
        )


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error


def check_logits(card: Card, engine: Engine) -> None:
    """Repeats the card's self-test.

    Raises:
        LoadError: when the engine's logits differ from the card's by more than its tolerance.
    """
    found = engine(self_test_pixels(card.encoder.image_size))[0]
    wanted = np.array(card.self_test.logits)
    tolerance = FLOAT32_TOLERANCE if engine.exact else card.self_test.tolerance
    if found.shape != wanted.shape or not np.all(np.abs(found - wanted) <= tolerance):
        raise LoadError(
            f"self-test failed on {engine.name}: logits {found.tolist()}, the card says "
            f"{card.self_test.logits} within {tolerance}; torch is {torch.__version__}, the "
            f"archive was built with {card.built_with.get('torch')}"
        )


def self_test_pixels(side: int) -> Pixels:
    """The fixed array of the self-test.

    Made of integers alone, so that it is the same on every machine: the upper byte of
    multiples of Knuth's 2654435761 (The Art of Computer Programming, volume 3, 6.4) modulo 2**32.

    Args:
        side: of the encoder's input, in pixels.

    Returns:
        uint8 (1, side, side, 3).
    """
    index = np.arange(side * side * 3, dtype=np.uint64)
    hashed = (index * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    return (hashed >> np.uint64(24)).astype(np.uint8).reshape(1, side, side, 3)
