"""The images that a decision is made by: each content and each video once, no fakes among reals."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeAlias

from clip_deepfake.archive_files import file_digest

from deepfake_tools.client.images import Collection, CollectionError, Image, collect
from deepfake_tools.client.videos import take_apart
from deepfake_tools.files import read_regular
from deepfake_tools.labels import FAKE, Label, name_labels
from deepfake_tools.videos.sampling import FrameChoice

OnePer: TypeAlias = Literal["auto", "image", "folder"]
WORDS = {0: "real", 1: "fake"}


class SelectionError(Exception):
    """The images cannot be decided by; the one-line message says why and what to do."""


@dataclass(frozen=True)
class Chosen:
    """One image that counts.

    Attributes:
        image: Where it lies.
        sha256: Of its file; of a frame, of its video's.
    """

    image: Image
    sha256: str


@dataclass(frozen=True)
class Selection:
    """The images of one kind.

    Attributes:
        label: 0 for real ones, 1 for fake ones.
        chosen: Those that count, each for itself.
        repeated: Left out, since their content is that of another.
        frames: Left out, since a frame of their video is there.
        videos: Folders that count as one image.
        unreadable: Left out, since their files cannot be read.
        shallow: Whether folders below are left out, since the folder itself holds images.
    """

    label: Label
    chosen: Sequence[Chosen]
    repeated: int = 0
    frames: int = 0
    videos: int = 0
    unreadable: int = 0
    shallow: bool = False

    def note(self) -> str:
        """Returns what is left out, in words; nothing where all count."""
        parts = []
        if self.repeated:
            parts.append(f"{self.repeated} repeat another")
        if self.videos:
            parts.append(
                f"{self.videos} folders hold a video's frames and count as one image each "
                f"({self.frames} more frames; --one-per image counts all)"
            )
        if self.unreadable:
            parts.append(f"{self.unreadable} cannot be read")
        if self.shallow:
            parts.append("those in folders below are left out, as there are some in the folder")
        return f"note: of the {WORDS[self.label]} images {'; '.join(parts)}" if parts else ""


def select(folder: Path, label: Label, one_per: OnePer) -> Selection:
    """Finds the images of one kind; of each video the frame in the middle is one.

    Args:
        folder: With images and videos, or folders of them.
        label: What they are said to be.
        one_per: Whether each image counts, or one of each folder; "auto" takes for videos the
            folders whose images have one name but for its digits, of several such folders.

    Raises:
        SelectionError: There is none, or a folder's name says that it holds the other kind.
        LabelError: Directories of one path disagree.
    """
    if not folder.exists():
        raise SelectionError(f"there is no {folder}: name a folder of {WORDS[label]} images")
    try:
        collection = collect([str(folder)], videos=True)
    except CollectionError as error:
        raise SelectionError(str(error)) from error
    _refuse_other_kind(folder, collection, label)
    collection, _ = take_apart(collection, FrameChoice(middle=True))
    unique: dict[str, Chosen] = {}
    unreadable = 0
    for image in collection.images:
        try:
            digest = _digest_of(image)
        except OSError:
            unreadable += 1
        else:
            unique.setdefault(digest, Chosen(image, digest))
    if not unique:
        raise SelectionError(f"no image in {folder} can be read")
    repeated = len(collection.images) - unreadable - len(unique)
    units = _units(unique.values(), one_per)
    # Any frame would do, but not one that its place in the video or its name speaks for.
    chosen = [min(unit, key=lambda one: one.sha256) for unit in units]
    return Selection(
        label,
        sorted(chosen, key=lambda one: one.image.path),
        repeated=repeated,
        frames=len(unique) - len(chosen),
        videos=sum(len(unit) > 1 for unit in units),
        unreadable=unreadable,
        shallow=bool(collection.shallow),
    )


def _digest_of(image: Image) -> str:
    """SHA-256 of an image's file, or of the video that it is of.

    Raises:
        OSError: It cannot be read.
    """
    if image.fault is not None:
        raise OSError(image.fault)
    if image.frame is not None:
        return file_digest(Path(image.frame.video))
    return hashlib.sha256(read_regular(image.path)).hexdigest()


def _refuse_other_kind(folder: Path, collection: Collection, label: Label) -> None:
    other = 1 - label
    own = name_labels(folder.resolve().name)
    places = sorted({image.folder for image in collection.images if image.label == other})
    count = sum(image.label == other for image in collection.images)
    if own == {other} and not any(image.label == label for image in collection.images):
        places, count = [folder.name], len(collection.images)
    if count:
        option = "--fakes" if other == FAKE else "--reals"
        raise SelectionError(
            f"{count} of the {len(collection.images)} images in {folder} lie in folders named for "
            f"{WORDS[other]} ones, {places[0]} the first: name the folders of {WORDS[label]} "
            f"images alone, and the others by {option}"
        )


def _units(images: Iterable[Chosen], one_per: OnePer) -> list[list[Chosen]]:
    folders: defaultdict[str, list[Chosen]] = defaultdict(list)
    for one in images:
        folders[one.image.folder].append(one)
    if one_per == "folder":
        return list(folders.values())
    videos = {name for name, own in folders.items() if one_per == "auto" and _looks_shot(name, own)}
    if len(videos) < 2:
        videos = set()
    return [
        unit
        for name, own in folders.items()
        for unit in ([own] if name in videos else [[one] for one in own])
    ]


def _looks_shot(folder: str, images: Sequence[Chosen]) -> bool:
    """Whether a folder's images are numbered as a video's frames are."""
    names = {re.sub(r"\d+", "#", PurePath(one.image.path).stem) for one in images}
    named_for_a_class = bool(name_labels(PurePath(folder).name))
    return (
        len(images) > 1
        and all(one.image.frame is None for one in images)
        and folder != ""
        and not named_for_a_class
        and len(names) == 1
        and "#" in names.pop()
    )


def refuse_both(reals: Selection, fakes: Selection) -> None:
    """Makes sure that no image is said to be real and fake.

    Raises:
        SelectionError: Naming the first that is.
    """
    known = {one.sha256: one.image.path for one in reals.chosen}
    for one in fakes.chosen:
        if one.sha256 in known:
            raise SelectionError(
                f"{known[one.sha256]} and {one.image.path} are the same image, once among the "
                "real and once among the fake ones: remove one of them"
            )


def digest(images: Iterable[Chosen]) -> str:
    """Returns the SHA-256 of the sorted SHA-256 of the files."""
    lines = "".join(f"{sha256}\n" for sha256 in sorted(one.sha256 for one in images))
    return hashlib.sha256(lines.encode()).hexdigest()
