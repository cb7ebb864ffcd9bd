"""True labels: by the directories that an image lies in, or by a CSV file; and what was counted.

Training and the client share it, so that a detector is judged by the rule that it was trained by.
It imports nothing beyond Python's own library.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from deepfake_tools.files import read_regular
from deepfake_tools.text_table import table

Label = Literal[0, 1]
"""0 for real, 1 for fake."""

REAL: Label = 0
FAKE: Label = 1

WORDS: Mapping[str, Label] = {
    "real": REAL,
    "reals": REAL,
    "original": REAL,
    "originals": REAL,
    "fake": FAKE,
    "fakes": FAKE,
    "synthesis": FAKE,
    "synthetic": FAKE,
    "synthesized": FAKE,
    "synthesised": FAKE,
    "manipulated": FAKE,
}
"""What a word of a directory's name stands for."""

WHOLE_NAMES: Mapping[str, Label] = {"nature": REAL, "ai": FAKE}
"""GenImage's two. Only where a name has no other word: its ``imagenet_ai_0419_sdv4`` holds both."""

COMPOUNDS: Mapping[str, Label | None] = {
    "deepfake": FAKE,
    "deepfakes": FAKE,
    "face2face": FAKE,
    "faceswap": FAKE,
    "faceshifter": FAKE,
    "neuraltextures": FAKE,
    # Proper names of generators and datasets, which stand for neither.
    "realvis": None,
    "realvisxl": None,
    "realesrgan": None,
    "fakeavceleb": None,
    "deepfakebench": None,
}
"""What words in a row stand for, written together."""

LONGEST_COMPOUND = 3

MOST_ROWS = 20
NONE = "none"
AMBIGUOUS = "none: the name says both"

SPELLINGS: Mapping[str, Label] = {"0": REAL, "real": REAL, "1": FAKE, "fake": FAKE}
COLUMNS = ["path", "label"]

RUN = re.compile(r"[^\W\d_]+|\d+")
CASED = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class LabelError(Exception):
    """A label that cannot be known; the one-line message says where and what to do."""


@dataclass(frozen=True)
class Reading:
    """What the directories between an image and a root say of it.

    Attributes:
        label: None where they say nothing, or one of them both.
        source: the directory that says so, relative to the root; None where none says anything.
    """

    label: Label | None
    source: Path | None

    @property
    def is_ambiguous(self) -> bool:
        """Whether the name of ``source`` stands for real and for fake."""
        return self.source is not None and self.label is None


def folder_label(image: Path, root: Path) -> Label | None:
    """Reads a label off the names of the directories between an image and a root.

    >>> folder_label(Path("data/1_fake/RealVisXL_V4/7.png"), Path("data"))
    1
    >>> folder_label(Path("my_real_fakes/7.png"), Path("my_real_fakes")) is None
    True

    Args:
        image: a path that begins with ``root``; nothing is looked up on the disk.
        root: its own name and those above it say nothing.

    Returns:
        ``read_folder``'s label of the image's directory.

    Raises:
        LabelError: when one directory stands for real, and another for fake.
        ValueError: when the image does not lie below the root.
    """
    return read_folder(image.parent, root).label


@lru_cache(maxsize=1024)
def read_folder(folder: Path, root: Path) -> Reading:
    """Reads what the names of a directory and of those above it, up to a root, stand for.

    A name is read as words, split at case, digits and punctuation: see ``WORDS``,
    ``WHOLE_NAMES`` and ``COMPOUNDS``. One that stands for both counts only where no other says
    anything.

    Raises:
        LabelError: when one directory stands for real, and another for fake.
        ValueError: when the directory does not lie below the root.
    """
    found: dict[Label, Path] = {}
    ambiguous = None
    parts = folder.relative_to(root).parts
    for depth in range(len(parts), 0, -1):
        said = name_labels(parts[depth - 1])
        if len(said) > 1:
            ambiguous = ambiguous or Path(*parts[:depth])
        for label in said if len(said) == 1 else ():
            found.setdefault(label, Path(*parts[:depth]))
    if len(found) > 1:
        raise LabelError(
            f"{root / found[REAL]} stands for real, and {root / found[FAKE]} for fake: rename "
            "one of the directories, or give the labels in a CSV file"
        )
    for label, source in found.items():
        return Reading(label, source)
    return Reading(None, ambiguous)


def name_labels(name: str, words: Mapping[str, Label] = WORDS) -> frozenset[Label]:
    """Returns what a directory's name stands for: nothing, one label, or both.

    >>> sorted(name_labels("RealVideo-FakeAudio"))
    [0, 1]

    Args:
        name: of a directory, or of whatever else stands for real or fake.
        words: and what each stands for.
    """
    parts = list(name_words(name))
    letters = [part for part in parts if not part.isdigit()]
    if len(letters) == 1 and letters[0] in WHOLE_NAMES:
        return frozenset({WHOLE_NAMES[letters[0]]})
    return frozenset(_said(parts, words))


def name_words(name: str) -> Iterator[str]:
    """Yields a name's words, lower case, split at case, digits and punctuation."""
    for run in RUN.findall(name):
        parts = CASED.findall(run) if run.isascii() and run.isalpha() else [run]
        yield from (part.lower() for part in parts)


def _said(parts: list[str], words: Mapping[str, Label]) -> Iterator[Label]:
    """Yields a label for each word or compound that stands for one, the longest compound first."""
    place = 0
    while place < len(parts):
        for length in range(LONGEST_COMPOUND, 0, -1):
            compound = "".join(parts[place : place + length])
            if compound in COMPOUNDS:
                label, step = COMPOUNDS[compound], length
                break
        else:
            label, step = words.get(parts[place]), 1
        if label is not None:
            yield label
        place += step


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
        text = io.StringIO(read_regular(file).decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text, strict=True)
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
    if None in row or not path or label is None or "\0" in path:
        raise LabelError(f"{place}: there must be a path and a label, as in 'faces/1.png,fake'")
    known = SPELLINGS.get(label.strip().lower())
    if known is None:
        raise LabelError(f"{place}: {label!r} is no label; use {', '.join(SPELLINGS)}")
    return listed_path(path, folder), known


def listed_path(path: str, folder: Path) -> Path:
    """Returns how a file of labels and a run name one image alike.

    Args:
        path: As it stands in either; a URI, such as ``s3://bucket/1.png``, stays as it is.
        folder: That a relative path is relative to.
    """
    if "://" in path:
        return Path(path)
    return Path(os.path.abspath(folder / path))  # noqa: PTH100 - resolve() follows links


class LabelCounts:
    """How many images have which label, by the folder that says so."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, reading: Reading, folder: str) -> None:
        """Counts an image whose label the directories tell.

        Args:
            reading: What they say.
            folder: The image's, relative to the root. Where no name says anything, its first part
                stands for it.
        """
        if reading.source is None:
            self.add_listed(folder.partition("/")[0], None)
        elif reading.is_ambiguous:
            self._counts[reading.source.as_posix(), AMBIGUOUS] += 1
        else:
            self.add_listed(reading.source.as_posix(), reading.label)

    def add_listed(self, folder: str, label: Label | None) -> None:
        """Counts an image whose label something else tells, by its own folder."""
        word = NONE if label is None else "FAKE" if label == FAKE else "REAL"
        self._counts[folder or ".", word] += 1

    @property
    def tells_something(self) -> bool:
        """Whether an image has a label, or lacks one since a name says both."""
        return any(label != NONE for _, label in self._counts)

    def lines(self) -> list[str]:
        """Returns the table; of many folders those with the most images, and the others' sums."""
        largest = sorted(self._counts.items(), key=lambda item: -item[1])
        shown, rest = sorted(largest[:MOST_ROWS]), largest[MOST_ROWS:]
        rows = [(_one_line(folder), label, f"{count:,}") for (folder, label), count in shown]
        others: Counter[str] = Counter()
        for (_, label), count in rest:
            others[label] += count
        rows += [
            (f"({len(rest)} more rows)", label, f"{n:,}") for label, n in sorted(others.items())
        ]
        return table([("FOLDER", "LABEL", "IMAGES"), *rows]).splitlines()


def _one_line(folder: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in folder)
