"""Finding the images of a run and their true labels: files, folders, patterns and lists of them."""

import codecs
import glob
import hashlib
import os
import random
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.files import read_regular
from deepfake_tools.image_files import SUFFIXES, LeftOut, is_video, walk_images
from deepfake_tools.labels import Label, LabelCounts, read_folder, read_labels

LIST_SUFFIX = ".txt"
URL_STARTS = ("http://", "https://")

BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Of UTF-16, which Windows' PowerShell writes."""

CONTROLS = frozenset(map(chr, [*range(32), 127])) - frozenset("\t\f\r\n")
"""Characters that no list holds."""


class CollectionError(Exception):
    """What was named holds no images; the one-line message says what to change."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame is.

    Attributes:
        video: The file, as it was given or found.
        number: 0-based, in the order in which the frames are shown.
        time: When it is shown, in seconds from the video's beginning.
    """

    video: str
    number: int
    time: float


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a run.

    Attributes:
        path: As it was given or found.
        label: The truth: 0 real, 1 fake, None where it is not known.
        folder: The directory that it lies in, relative to the run's root, with `/`; "" for the
            root itself.
        frame: Of a frame, where in its video it is; its path is then the video's with its time.
        fault: Why a video cannot be asked about; None where nothing is known against it.
    """

    path: str
    label: Label | None
    folder: str
    frame: Frame | None = None
    fault: str | None = None

    @property
    def in_video(self) -> dict[str, Any]:
        """What an outcome knows of the video that it is of, by the outcome's names."""
        if self.frame is None:
            return {} if self.fault is None else {"video": self.path}
        return {
            "video": self.frame.video,
            "time": self.frame.time,
            "frame": self.frame.number,
        }


@dataclass(frozen=True)
class Collection:
    """The images of a run.

    Attributes:
        images: Those named by themselves as they were given, those of a folder, a list or a
            pattern sorted.
        named: Whether every image was named by itself.
        repeated: How many were named more than once; each is here once.
        not_found: How many the file of labels lists that are not among them.
        shallow: Folders that hold images and folders, of which only the images are here.
        left_out: Files that were met where images were looked for.
        labelled: How many images have which label, by the folder that says so.
    """

    images: Sequence[Image]
    named: bool
    repeated: int = 0
    not_found: int = 0
    shallow: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    labelled: LabelCounts = field(default_factory=LabelCounts)

    @property
    def digest(self) -> str:
        """SHA-256 over all paths and labels in their order."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(os.fsencode(image.path) + f"\0{image.label}\0".encode())
        return digest.hexdigest()


def collect(
    arguments: Sequence[str],
    labels: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    videos: bool = False,
) -> Collection:
    """Finds the images of a run, and its videos, of which each is one image here.

    A label comes from the directories between an image and the run's root: the deepest folder that
    holds everything that was named. Hence `data` and `data/real data/fake` give the same labels,
    and a single folder's own name says nothing.

    Args:
        arguments: Image files, folders (the images in them, else those below), patterns, and
            `.txt` files with one of these a line, relative to the file's folder.
        labels: A CSV file with the labels, instead of the directories' names.
        limit: Takes a random sample of this many.
        seed: Of the sample.
        videos: Whether videos are taken too.

    Raises:
        CollectionError: Something that was named holds no images.
        LabelError: A label cannot be known.
        MissingExtraError: A video was named, and what reads videos is not installed.
    """
    left_out = videos_if_readable(arguments) if videos else LeftOut()
    found = [entry for argument in arguments for entry in expand(argument, left_out)]
    unique: dict[str, str] = {}
    for path in (path for entry in found for path in entry.paths):
        unique.setdefault(_absolute(path), path)
    paths = list(unique.items())
    repeated = sum(len(entry.paths) for entry in found) - len(paths)
    named = all(entry.named for entry in found)
    root = os.path.commonpath([entry.base for entry in found])
    known = None if labels is None else read_labels(labels)
    not_found = 0 if known is None else sum(str(path) not in unique for path in known)
    if limit is not None and limit < len(paths):
        chosen = sorted(random.Random(seed).sample(range(len(paths)), limit))
        paths = [paths[index] for index in chosen]
    folders = _Folders(Path(root), known)
    images = [Image(path, *folders.read(absolute)) for absolute, path in paths]
    shallow = tuple(folder for entry in found for folder in entry.shallow)
    return Collection(images, named, repeated, not_found, shallow, left_out, folders.counts)


def videos_if_readable(arguments: Sequence[str]) -> LeftOut:
    """Takes videos where they can be read; where they cannot, those of folders are left out.

    Raises:
        MissingExtraError: They cannot, and one was named.
    """
    try:
        require_extra("reading videos", extra="videos")
    except MissingExtraError as error:
        if any(is_video(argument) for argument in arguments):
            raise
        return LeftOut(without_videos=str(error))
    return LeftOut(videos=True)


class ListError(Exception):
    """The file is no list; the message says why and what to do."""


@dataclass(frozen=True)
class Expansion:
    """What one argument stands for.

    Attributes:
        paths: Of its images.
        base: The absolute folder that counts for the run's root.
        named: Whether it is one image, named by itself.
        shallow: Folders that hold images and folders, of which only the images are taken.
    """

    paths: Sequence[str]
    base: str
    named: bool = False
    shallow: tuple[str, ...] = ()


def expand(argument: str, left_out: LeftOut, *, within_list: bool = False) -> Iterator[Expansion]:
    """Yields what an argument stands for.

    Args:
        argument: An image, a folder, a pattern or a list.
        left_out: Says whether videos are taken too, and counts what is not taken.
        within_list: Whether it stands in a list, where no further lists are read.

    Raises:
        CollectionError: It holds no images.
    """
    if argument.lower().startswith(URL_STARTS):
        raise CollectionError(
            f"{argument} is a URL, and images are read from files: download it first, as in "
            f"{shlex.join(['curl', '-O', argument])}"
        )
    if Path(argument).is_dir():
        paths, shallow = _images_of(argument, left_out)
        yield Expansion(paths, _absolute(argument), shallow=(argument,) if shallow else ())
    elif argument.lower().endswith(LIST_SUFFIX) and not within_list:
        yield _listed(argument, left_out)
    elif glob.has_magic(argument) and not Path(argument).exists():
        yield _matched(argument, left_out)
    else:
        yield Expansion([argument], _folder_of(_absolute(argument)), named=True)


def _images_of(folder: str, left_out: LeftOut) -> tuple[list[str], bool]:
    """Finds the images in a folder, or those below it where it holds none itself.

    Returns:
        The images, and whether folders below were left out.

    Raises:
        CollectionError: There are none, or a folder cannot be read.
    """
    paths: list[str] = []
    shallow = False
    try:
        for number, (folders, images) in enumerate(walk_images(folder, left_out)):
            paths += images
            if number == 0 and images:
                shallow = bool(folders)
                break
    except OSError as error:
        raise CollectionError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not paths:
        raise CollectionError(
            f"there is no image ({', '.join(SUFFIXES)}) in {folder} or below it{_other(left_out)}"
        )
    return sorted(paths), shallow


def _listed(file: str, left_out: LeftOut) -> Expansion:
    """Reads a list: one image, folder or pattern a line."""
    folder = Path(file).parent
    try:
        names = [str(folder / name) for name in read_list(file)]
    except (OSError, ListError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CollectionError(f"the list {file} cannot be read: {reason}") from error
    if not names:
        raise CollectionError(f"the list {file} names no image")
    entries = [entry for name in names for entry in expand(name, left_out, within_list=True)]
    paths = sorted(path for entry in entries for path in entry.paths)
    base = os.path.commonpath([_absolute(str(folder)), *(entry.base for entry in entries)])
    return Expansion(
        paths, base, shallow=tuple(name for entry in entries for name in entry.shallow)
    )


def read_list(file: str | Path) -> list[str]:
    """Reads the names in a list: one a line, or, as ``find -print0`` has it, NULs between them.

    Args:
        file: In UTF-8, with or without a byte-order mark, or in UTF-16 with one. A name that is not
            UTF-8 keeps its bytes.

    Raises:
        ListError: It is a binary file, or UTF-16 that ends within a character.
        OSError: It cannot be read, or is no regular file.
    """
    text = _decoded_list(read_regular(file))
    if "\0" in text:
        # Names between NULs may hold line breaks, and blanks at their ends.
        found = text.removesuffix("\0").split("\0")
    else:
        found = [line.strip() for line in text.split("\n") if line.strip()]
    if not all(found) or any(char in CONTROLS for name in found for char in name):
        raise ListError(
            "it holds control characters, as a binary file does: a list is text in UTF-8, one "
            "image, folder or pattern a line"
        )
    return found


def _decoded_list(data: bytes) -> str:
    if not data.startswith(BYTE_ORDER_MARKS):
        if data.count(b"\0") * 3 > len(data):
            raise ListError("it is in UTF-16 or UTF-32, or a binary file: save it as UTF-8")
        return data.decode("utf-8-sig", errors="surrogateescape")
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise ListError(
            f"it begins as UTF-16 and is none ({error.reason}): save it as UTF-8"
        ) from error


def _matched(pattern: str, left_out: LeftOut) -> Expansion:
    """Finds what a pattern stands for; a folder among it stands for its images."""
    paths: list[str] = []
    for match in glob.glob(pattern, recursive=True):  # noqa: PTH207 - knows absolute ones
        if Path(match).is_dir():
            paths += [] if "**" in pattern else _images_of(match, left_out)[0]
        elif not left_out.takes(Path(match).name):
            left_out.add(match)
        elif Path(match).is_file():
            paths.append(match)
        else:
            left_out.irregular += 1
    if not paths:
        raise CollectionError(
            f"the pattern {pattern} matches no image ({', '.join(SUFFIXES)}){_other(left_out)}"
        )
    fixed = Path(*_until_magic(Path(pattern).parts))
    return Expansion(sorted(set(paths)), _absolute(str(fixed)))


def _other(left_out: LeftOut) -> str:
    return "".join(f"; {note}" for note in left_out.notes())


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links stay as they are, as in files of labels


def _folder_of(path: str) -> str:
    return os.path.dirname(path)  # noqa: PTH120 - 100,000 paths are cheaper as strings


class _Folders:
    """What a directory stands for, found out once for all the images in it.

    Args:
        root: Of the run.
        listed: Labels by absolute path, instead of the directories' names.

    Attributes:
        counts: Of the images that were read.
    """

    def __init__(self, root: Path, listed: Mapping[Path, Label] | None) -> None:
        self._root = root
        self._listed = listed
        self._names: dict[str, str] = {}
        self.counts = LabelCounts()

    def read(self, path: str) -> tuple[Label | None, str]:
        """Returns the label of an image by its absolute path, and its folder within the root."""
        folder = _folder_of(path)
        if folder not in self._names:
            name = Path(folder).relative_to(self._root).as_posix()
            self._names[folder] = "" if name == "." else name
        name = self._names[folder]
        if self._listed is not None:
            label = self._listed.get(Path(path))
            self.counts.add_listed(name, label)
            return label, name
        reading = read_folder(Path(folder), self._root)
        self.counts.add(reading, name)
        return reading.label, name
