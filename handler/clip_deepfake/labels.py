"""An image's path in, its true label out: by the directories that it lies in, or by a CSV file.

Training and the client share it, so that a detector is judged by the rule that it was trained by.
It imports nothing beyond Python's own library.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Label = Literal[0, 1]
"""0 for real, 1 for fake."""

REAL: Label = 0
FAKE: Label = 1

REAL_PARTS = ("real", "original", "nature")
FAKE_PARTS = ("fake", "synthe", "faceswap", "manipulated")
FAKE_NAMES = ("ai",)  # as a whole, since it is a part of too many words

SPELLINGS: Mapping[str, Label] = {"0": REAL, "real": REAL, "1": FAKE, "fake": FAKE}
COLUMNS = ["path", "label"]


class LabelError(Exception):
    """A label that cannot be known; the one-line message says where and what to do."""


def folder_label(image: Path, root: Path) -> Label | None:
    """Reads a label off the names of the directories between an image and a root.

    The nearest directory with a telling name wins, in upper or lower case: one that contains
    ``real``, ``original`` or ``nature`` stands for real, one that contains ``fake``, ``synthe``,
    ``faceswap`` or ``manipulated``, or is named ``ai``, for fake.

    >>> folder_label(Path("data/FAKE/original_size/7.png"), Path("data"))
    0
    >>> folder_label(Path("my_real_fakes/7.png"), Path("my_real_fakes")) is None
    True

    Args:
        image: a path that begins with ``root``; nothing is looked up on the disk.
        root: its own name and those above it say nothing.

    Returns:
        The label, or None where no directory has a telling name.

    Raises:
        LabelError: when the nearest telling name stands for both.
        ValueError: when the image does not lie below the root.
    """
    directory = image.parent
    for part in reversed(image.relative_to(root).parts[:-1]):
        name = part.lower()
        real = any(word in name for word in REAL_PARTS)
        fake = name in FAKE_NAMES or any(word in name for word in FAKE_PARTS)
        if real and fake:
            raise LabelError(
                f"{directory}: the name stands for real and for fake; rename the directory, or "
                "give the labels in a CSV file"
            )
        if real or fake:
            return FAKE if fake else REAL
        directory = directory.parent
    return None


def read_labels(file: Path) -> dict[Path, Label]:
    """Reads a CSV file with the header ``path,label`` and the labels 0, 1, real and fake.

    Args:
        file: in UTF-8; paths in it are relative to its own folder.

    Returns:
        Labels by absolute path (``os.path.abspath``, so that links stay as they are), in the
        order of the file. Whether the images exist is not looked at.

    Raises:
        LabelError: when the file cannot be read, or a line is off, naming the line.
    """
    labels: dict[Path, Label] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            if reader.fieldnames != COLUMNS:
                found = ",".join(reader.fieldnames or [])
                raise LabelError(f"{file}: the header is {found!r}; it must be 'path,label'")
            for row in reader:
                path, label = _entry(row, f"{file}, line {reader.line_num}", file.parent)
                if labels.setdefault(path, label) != label:
                    raise LabelError(
                        f"{file}, line {reader.line_num}: {row['path']!r} has the other label in "
                        "an earlier line; keep one of them"
                    )
    except OSError as error:
        raise LabelError(f"{file} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise LabelError(f"{file} is no CSV file in UTF-8: {error}") from error
    return labels


def _entry(row: Mapping[str | None, str | None], place: str, folder: Path) -> tuple[Path, Label]:
    path, label = row.get("path"), row.get("label")
    if None in row or not path or label is None:
        raise LabelError(f"{place}: there must be a path and a label, as in 'faces/1.png,fake'")
    known = SPELLINGS.get(label.strip().lower())
    if known is None:
        raise LabelError(f"{place}: {label!r} is no label; use {', '.join(SPELLINGS)}")
    return Path(os.path.abspath(folder / path)), known  # noqa: PTH100 - resolve() follows links
