"""Scores images by a detector that is served, as the client asks, or by an archive here."""

import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from deepfake_tools.client.console import Console
from deepfake_tools.client.images import Collection, Image
from deepfake_tools.client.journal import Identity, open_journal
from deepfake_tools.client.run import ask_all
from deepfake_tools.client.target import Target
from deepfake_tools.client.videos import FrameFeed
from deepfake_tools.errors import ServiceError, UnexpectedAnswerError
from deepfake_tools.files import read_regular
from deepfake_tools.inspection import inspect_archive
from deepfake_tools.interrupts import Interruption
from deepfake_tools.progress import Progress
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.tokens import fresh_key
from deepfake_tools.videos.processes import Picture

CHUNK = 32
"""Images in memory at a time."""


class ScoringError(Exception):
    """The images cannot be scored; the one-line message says why and what to do."""


@dataclass(frozen=True)
class Scored:
    """Images and their margins.

    Attributes:
        detector: Its fingerprint.
        is_untrained: Whether its head was never trained.
        margins: By the position of the image; one that failed is missing.
        failed: How many failed, by kind.
    """

    detector: str
    is_untrained: bool
    margins: dict[int, float]
    failed: Counter[str] = field(default_factory=Counter)


def score_served(target: Target, images: Sequence[Image]) -> Scored:
    """Asks a server about images, as the client does.

    Raises:
        ServiceError: It does not answer.
        ScoringError: The answers say too little.
        KeyboardInterrupt: The user stopped it.
    """
    identity = Identity(target.model, len(images), "")
    journal = open_journal(None, identity, images, resume=False)
    with Interruption() as interruption:
        console = Console(Collection(images, named=False), journal, "mean", 1, together=False)
        ending = ask_all(target, images, [None], journal, interruption, console)
    if ending.failure is not None:
        raise ending.failure
    if ending.signal is not None:
        raise KeyboardInterrupt
    margins: dict[int, float] = {}
    failed: Counter[str] = Counter()
    for outcome in journal.outcomes():
        if outcome.error is not None:
            failed[outcome.error] += 1
        elif outcome.margin is None:
            raise ScoringError(_too_old(target.model))
        else:
            margins[outcome.index] = outcome.margin
    if journal.detector is None:
        return Scored("", False, margins, failed)
    fingerprint = _ask_fingerprint(target, journal.detector.version)
    return Scored(fingerprint, journal.detector.is_untrained, margins, failed)


def _ask_fingerprint(target: Target, version: str) -> str:
    try:
        token = fresh_key(Purpose.MANAGEMENT, target.key_file, target.management, target.ca)
        management = ManagementAPI(target.management, token, target.seconds, target.ca)
        said = management.ask_handler(target.model, version)
    except ServiceError as error:
        raise ScoringError(
            f"{error}; the management port says which weights answered: name it by --management, "
            "or score the archive itself by --archive FILE.mar"
        ) from error
    if not isinstance(said, dict):
        raise UnexpectedAnswerError(f"{target.model} version {version} does not describe itself")
    fingerprint = said.get("fingerprint")
    if not isinstance(fingerprint, str):
        raise ScoringError(_too_old(target.model))
    return fingerprint


def _too_old(model: str) -> str:
    return (
        f"{model} is served from an archive of an earlier version, which does not say all that a "
        "decision needs: build it again, or score the archive itself by --archive FILE.mar"
    )


def score_archive(path: Path, images: Sequence[Image]) -> Scored:
    """Scores images by an archive, in this process.

    Raises:
        ArchiveError: It is damaged.
        ScoringError: It cannot be loaded here.
    """
    # What a worker imports takes seconds.
    from clip_deepfake.card import read_card
    from clip_deepfake.errors import LoadError
    from clip_deepfake.loading import load_detector

    inspect_archive(path, contents=False)
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        try:
            card = read_card(Path(folder))
            detector = load_detector(Path(folder))
        except LoadError as error:
            raise ScoringError(f"{path}: {error}") from error
        margins: dict[int, float] = {}
        failed: Counter[str] = Counter()
        progress = Progress(sys.stderr, "images", len(images))
        with FrameFeed(images, [n for n, image in enumerate(images) if image.frame]) as frames:
            contents = chain(_read_stills(images), frames)
            while some := list(islice(contents, CHUNK)):
                readable = [(n, data) for n, data in some if isinstance(data, bytes)]
                failed.update(data.kind for _, data in some if not isinstance(data, bytes))
                results = detector.judge([data for _, data in readable])
                for (index, _), result in zip(readable, results, strict=True):
                    if isinstance(result, Exception):
                        failed[result.code] += 1
                    else:
                        margins[index] = result.margin
                progress.update(len(margins) + failed.total(), failed.total())
        progress.clear()
    return Scored(card.fingerprint(), card.head.source == "untrained", margins, failed)


def _read_stills(images: Sequence[Image]) -> Iterator[tuple[int, Picture]]:
    """Yields the positions and the contents of the images that lie in files."""
    for index, image in enumerate(images):
        if image.frame is None:
            yield index, read_regular(image.path)
