"""The parts of a detector in, one reproducible ``.mar`` out."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import clip_deepfake
from clip_deepfake.card import CARD_FILE, Card

HANDLER = "deepfake_handler.py"
CONFIG = "model-config.yaml"
MANIFEST = "MAR-INF/MANIFEST.json"

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The zip format's first moment: an archive says nothing of when it was made."""

BLOCK = 1 << 20


@dataclass(frozen=True)
class ServingOptions:
    """TorchServe's settings for one model.

    Attributes:
        workers: processes, each with the weights in its memory.
        batch_size: requests that a worker takes at once.
        batch_delay_ms: how long a worker waits for a batch to fill. Requests that wait in this
            window are lost when the worker dies, and under load the queue fills a batch anyway.
        response_timeout_s: after this a worker that does not answer is replaced; None lets the
            builder estimate it.
        startup_timeout_s: after this a worker that does not come up is given up.
    """

    workers: int = 1
    batch_size: int = 8
    batch_delay_ms: int = 1
    response_timeout_s: int | None = None
    startup_timeout_s: int = 120

    def to_yaml(self) -> str:
        """The settings as TorchServe reads them out of the archive."""
        return (
            f"minWorkers: {self.workers}\n"
            f"maxWorkers: {self.workers}\n"
            f"batchSize: {self.batch_size}\n"
            f"maxBatchDelay: {self.batch_delay_ms}\n"
            f"responseTimeout: {self.response_timeout_s}\n"
            f"startupTimeout: {self.startup_timeout_s}\n"
        )


def write_archive(
    target: Path, card: Card, weights: Mapping[str, Path], options: ServingOptions
) -> None:
    """Packs a detector.

    Everything is stored as it is: weights do not compress, and TorchServe unpacks on every start.

    Args:
        target: file to write.
        card: with the digests of the weights.
        weights: each file that the card lists, by its name in the archive.
        options: for TorchServe's model configuration.
    """
    texts = {
        MANIFEST: _manifest(card),
        CONFIG: options.to_yaml().encode(),
        CARD_FILE: card.to_json(),
        **_code(),
    }
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted([*texts, *weights]):
            entry = plain_entry(name)
            if name in texts:
                archive.writestr(entry, texts[name])
            else:
                _store(archive, entry, weights[name])


def plain_entry(name: str) -> zipfile.ZipInfo:
    """An entry of an archive, the same on every machine; ``zip_form`` takes no other."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 3  # Unix, so that the mode below counts
    entry.external_attr = 0o644 << 16
    return entry


def _manifest(card: Card) -> bytes:
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": card.name,
            "modelVersion": card.version,
            "handler": HANDLER,
            "configFile": CONFIG,
        },
        "archiverVersion": "0.12.0",
    }
    return json.dumps(manifest, indent=2).encode() + b"\n"


def _code() -> dict[str, bytes]:
    """The handler and the package that it serves, by their names in the archive."""
    package = Path(clip_deepfake.__file__).parent
    root = package.parent
    files = [root / HANDLER, *package.rglob("*.py")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def _store(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, source: Path) -> None:
    entry.file_size = source.stat().st_size  # lets the header be written before the content
    with source.open("rb") as reader, archive.open(entry, "w") as writer:
        while block := reader.read(BLOCK):
            writer.write(block)
