"""Image bytes in, verdicts out."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_deepfake.card import ENCODER_FILE, HEAD_FILE, LANDMARKS_FILE, Card, read_card
from clip_deepfake.digests import check_digest
from clip_deepfake.encoder import build_module
from clip_deepfake.engines import Engine, Pixels, TorchEngine, worker_device
from clip_deepfake.errors import DetectorError, InternalError, LoadError, NoFaceError
from clip_deepfake.faces import Aligner, Faces
from clip_deepfake.images import RGB, decode
from clip_deepfake.verdicts import Judgement, Verdict, form_judgement, form_verdict

logger = logging.getLogger(__name__)

FLOAT32_TOLERANCE = 1e-3
"""Largest absolute difference of logits between float32 on two machines, libraries or devices."""

LARGEST_PASS = 64
"""Images in one forward pass; more are computed in several, which bounds memory."""

ImageBytes = bytes | bytearray


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the engine.

    Attributes:
        pixels: uint8 (side, side, 3) for each face to be judged, or for the whole image.
        faces: what was found; None where the card aligns no faces.
    """

    pixels: tuple[Pixels, ...]
    faces: Faces | None = None


class Detector:
    """A card, its preprocessing and an engine, and an aligner where the card wants faces."""

    def __init__(self, card: Card, engine: Engine, aligner: Aligner | None = None) -> None:
        """Puts the parts in a row; ``load_detector`` makes them from an unpacked archive."""
        self.card = card
        self.engine = engine
        self._aligner = aligner
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="preprocess")

    def judge(self, images: Sequence[ImageBytes]) -> list[Verdict | DetectorError]:
        """Judges images; a broken one does not touch the others.

        Args:
            images: contents of image files.

        Returns:
            A verdict or the reason for its absence for each, in order.
        """
        prepared = self.prepare(images)
        judgements = self._judge_pixels(
            [pixels for item in prepared if isinstance(item, Prepared) for pixels in item.pixels]
        )
        return [
            self._verdict(item, judgements) if isinstance(item, Prepared) else item
            for item in prepared
        ]

    def prepare(self, images: Sequence[ImageBytes]) -> list[Prepared | DetectorError]:
        """Decodes, aligns and preprocesses images, several at a time.

        Args:
            images: contents of image files.

        Returns:
            What the engine takes, or the reason for its absence, for each in order.
        """
        return list(self._pool.map(self._prepare, images))

    def _prepare(self, data: ImageBytes) -> Prepared | DetectorError:
        try:
            return self._prepare_image(decode(data, self.card.limits.max_pixels))
        except DetectorError as error:
            return error
        except Exception:
            logger.exception("an image of %d bytes could not be prepared", len(data))
            return InternalError("the image could not be prepared; the server's log says why")

    def _prepare_image(self, image: RGB) -> Prepared:
        found = None if self._aligner is None else self._aligner.find(image)
        if found is None or not found.judged:
            if found is not None and self.card.refuses_faceless:
                raise NoFaceError("no face was found, and only faces are judged")
            return Prepared((self.card.preprocessing.apply(image),), found)
        crops = (face.crop for face in found.judged)
        return Prepared(tuple(self.card.preprocessing.apply(crop) for crop in crops), found)

    def _judge_pixels(self, pixels: Sequence[Pixels]) -> Iterator[Judgement | DetectorError]:
        for start in range(0, len(pixels), LARGEST_PASS):
            yield from self._judge_batch(np.stack(pixels[start : start + LARGEST_PASS]))

    def _judge_batch(self, pixels: Pixels) -> Sequence[Judgement | DetectorError]:
        try:
            logits = self.engine(pixels)
        except Exception:
            logger.exception("a pass over %d images failed", len(pixels))
            failure = InternalError("the model could not be run; the server's log says why")
            return [failure] * len(pixels)
        return [form_judgement(row, self.card.head) for row in logits]

    def _verdict(
        self, prepared: Prepared, judgements: Iterator[Judgement | DetectorError]
    ) -> Verdict | DetectorError:
        """Takes as many judgements as the image has pictures."""
        own = list(islice(judgements, len(prepared.pixels)))
        return form_verdict(own, prepared.faces, all_faces=self.card.judges_all_faces)


def load_detector(directory: Path, gpu_id: int | None = None) -> Detector:
    """Makes a detector of an unpacked archive and tests it; the test is the warm-up too.

    Args:
        directory: holds the card and the files that it names.
        gpu_id: the CUDA device to use, or None.

    Raises:
        LoadError: when a file is missing or damaged, the logits are not the card's, or dlib is
            missing and the card aligns faces.
    """
    card = read_card(directory)
    for name, sha256 in card.files.items():
        check_digest(directory / name, sha256)
    module = build_module(
        card, _load_tensors(directory / ENCODER_FILE), _load_tensors(directory / HEAD_FILE)
    )
    aligner = Aligner(directory / LANDMARKS_FILE, card.faces) if card.faces else None
    engine = TorchEngine(module, worker_device(gpu_id))
    check_logits(card, engine)
    return Detector(card, engine, aligner)


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
