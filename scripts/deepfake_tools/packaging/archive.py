"""Writes a detector's parts as one reproducible ``.mar``."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import clip_deepfake
from clip_deepfake.card import CARD_FILE, Card
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import ModelExportUtils

from deepfake_tools.packaging.serving_options import ServingOptions

HANDLER = "deepfake_handler.py"
CONFIG = "model-config.yaml"

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The zip format's first moment: an archive says nothing of when it was made."""

BLOCK = 1 << 20


def write_archive(
    target: Path, card: Card, weights: Mapping[str, Path], options: ServingOptions
) -> None:
    """Packs a detector with torch-model-archiver, reproducibly.

    Everything is stored as it is: weights do not compress, and TorchServe unpacks on every start.

    Args:
        target: file to write.
        card: with the digests of the weights.
        weights: each file that the card lists, by its name in the archive.
        options: for TorchServe's model configuration.
    """
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=target.parent) as scratch:
        content = Path(scratch, "content")
        _lay_out(content, card, weights, options)
        ModelExportUtils.archive(scratch, "packed", str(content), _manifest(card), "zip-store")
        _write_reproducibly(Path(scratch, "packed.mar"), target)


def _lay_out(
    content: Path, card: Card, weights: Mapping[str, Path], options: ServingOptions
) -> None:
    package = Path(clip_deepfake.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, content / package.name, ignore=ignored)
    shutil.copyfile(package.parent / HANDLER, content / HANDLER)
    (content / CONFIG).write_text(options.to_yaml(), encoding="utf-8")
    (content / CARD_FILE).write_bytes(card.to_json())
    for name, path in weights.items():
        (content / name).symlink_to(path.resolve())


def _manifest(card: Card) -> str:
    """torch-model-archiver's, without the moment of its making."""
    settings = ModelArchiverConfig(
        model_name=card.name, version=card.version, handler=HANDLER, config_file=CONFIG
    )
    manifest = json.loads(ModelExportUtils.generate_manifest_json(settings))
    del manifest["createdOn"]
    return json.dumps(manifest, indent=2) + "\n"


def _write_reproducibly(packed: Path, target: Path) -> None:
    """Copies an archive: entries sorted, times fixed, nothing of this machine in it."""
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(target, "w") as archive:
        for name in sorted(source.namelist()):
            entry = plain_entry(name)
            # Lets the header be written before the content.
            entry.file_size = source.getinfo(name).file_size
            with source.open(name) as reader, archive.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, BLOCK)


def plain_entry(name: str) -> zipfile.ZipInfo:
    """An entry of an archive, the same on every machine; ``zip_form`` takes no other."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 3  # Unix, so that the mode below counts
    entry.external_attr = 0o644 << 16
    return entry
