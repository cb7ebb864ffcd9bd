"""Makes a detector of an unpacked archive, and tests it on this machine."""

import logging
from pathlib import Path

import cv2
import numpy as np
import torch

from clip_deepfake.archive_files import check_digest
from clip_deepfake.card import LANDMARKS_FILE, Card, read_card
from clip_deepfake.detector import Detector, Preparer
from clip_deepfake.engines import Engine, Pixels
from clip_deepfake.errors import LoadError
from clip_deepfake.explaining import Explainer
from clip_deepfake.faces import Aligner

logger = logging.getLogger(__name__)

FLOAT32_TOLERANCE = 1e-3
"""Largest absolute difference of logits between float32 on two machines, libraries or devices."""


def load_detector(
    directory: Path, gpu_id: int | None = None, threads: int | None = None
) -> Detector:
    """Makes a detector of an unpacked archive and tests it; the test is the warm-up too.

    Args:
        directory: holds the card and the files that it names.
        gpu_id: the CUDA device to use, or None.
        threads: that prepare images, and that a CPU engine computes with; None takes every core
            that this process may use.

    Raises:
        LoadError: when a file is missing or damaged, the logits are not the card's, or a library
            that the card calls for is missing.
    """
    card = read_card(directory)
    for name, sha256 in card.files.items():
        check_digest(directory / name, sha256)
    aligner = Aligner(directory / LANDMARKS_FILE, card.faces) if card.faces else None
    engine = open_engine(card, directory, gpu_id, threads)
    check_logits(card, engine)
    if threads is not None:
        # OpenCV's own threads work for whichever of the pool's calls it.
        cv2.setNumThreads(threads)
    preparer = Preparer(card.preprocessing, card.limits.max_pixels, aligner, threads)
    explainer = Explainer(engine, card.head, card.encoder)
    return Detector(preparer, engine, card.head, card.decision, explainer)


def worker_device(gpu_id: int | None) -> torch.device:
    """Chooses where a worker computes.

    Args:
        gpu_id: the CUDA device that the server assigned, or None when it assigned none.

    Returns:
        That CUDA device, else Apple's MPS where it is available, else the CPU.
    """
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def open_engine(
    card: Card, directory: Path, gpu_id: int | None = None, threads: int | None = None
) -> Engine:
    """Makes the engine of an unpacked archive.

    A card's ``auto`` is PyTorch where the worker has a CUDA or MPS device, else OpenVINO, else,
    where that is not installed, PyTorch on the CPU; of a quantised graph it is OpenVINO. Answers
    name the engine that ran.

    Args:
        card: says which engine is wanted, and what the files hold.
        directory: holds the weight files.
        gpu_id: the CUDA device to use, or None.
        threads: that a CPU computes with; None takes every core that this process may use.

    Raises:
        LoadError: when a file does not fit the card, or a library is missing.
    """
    wanted = "openvino" if card.quantization else card.engine
    device = worker_device(gpu_id)
    if wanted == "torch":
        return _open_torch_engine(card, directory, device, threads)
    if device.type != "cpu":
        if wanted == "auto":
            return _open_torch_engine(card, directory, device, threads)
        logger.warning("this archive computes on the CPU; the worker's %s stays unused", device)
    try:
        # Each library is imported by the worker that computes with it, and by no other.
        from clip_deepfake.openvino_engine import open_openvino_engine
    except ImportError as error:
        if wanted == "openvino":
            raise LoadError(
                f"this archive needs OpenVINO, which cannot be imported ({error}): "
                "pip install openvino"
            ) from error
        logger.warning(
            "OpenVINO cannot be imported (%s): PyTorch computes, at about half the speed; "
            "pip install openvino",
            error,
        )
        return _open_torch_engine(card, directory, device, threads)
    return open_openvino_engine(card, directory, threads)


def _open_torch_engine(
    card: Card, directory: Path, device: torch.device, threads: int | None
) -> Engine:
    built_with = card.built_with.get("transformers", "of the builder")
    try:
        # It brings transformers, which takes seconds and 150 MB.
        from clip_deepfake.torch_engine import open_torch_engine
    except ImportError as error:
        raise LoadError(
            f"a worker that computes with PyTorch needs transformers, which cannot be imported "
            f"({error}): pip install 'transformers>={built_with}'"
        ) from error
    try:
        return open_torch_engine(card, directory, device, threads)
    except LoadError as error:
        raise LoadError(
            f"{error}; this archive was built with transformers {built_with}"
        ) from error


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
            f"{card.self_test.logits} within {tolerance}; compare this machine's libraries with "
            f"those that the archive was built with: {card.built_with}"
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
