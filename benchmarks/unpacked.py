"""An archive file in, the same unpacked out, with what a benchmark has to know of it."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from clip_deepfake.card import Card, read_card
from deepfake_tools.inspection import ArchiveName, inspect_archive
from deepfake_tools.packaging.archive import CONFIG


@dataclass(frozen=True)
class Unpacked:
    """An archive and its content.

    Attributes:
        path: Of the file.
        name: Served name and version.
        folder: Its content.
        card: The detector's.
        batch_size: Requests that a worker takes at once.
        label: What the figures are listed under.
    """

    path: Path
    name: ArchiveName
    folder: Path
    card: Card
    batch_size: int
    label: str


def unpack(paths: Sequence[Path], scratch: Path) -> list[Unpacked]:
    """Checks and unpacks archives.

    Args:
        paths: Of files as build_mar.py names them.
        scratch: Gets a folder for each.

    Returns:
        They, labelled by their precision, or by their file names where that would be the same.

    Raises:
        ArchiveError: One is damaged.
    """
    archives = [_unpack(path, scratch / str(number)) for number, path in enumerate(paths)]
    labels = [archive.label for archive in archives]
    return [
        archive
        if labels.count(archive.label) == 1
        else replace(archive, label=f"{archive.label} ({archive.path.stem})")
        for archive in archives
    ]


def _unpack(path: Path, folder: Path) -> Unpacked:
    name = inspect_archive(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    card = read_card(folder)
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    return Unpacked(path.resolve(), name, folder, card, int(config["batchSize"]), card.precision)
