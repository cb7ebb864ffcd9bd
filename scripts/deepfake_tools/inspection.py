"""Inspects an archive before a server sees it; archive names, served names and versions."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from deepfake_tools.errors import ServiceError
from deepfake_tools.zip_form import Entry, FormError, read_form

MANIFEST_ENTRY = "MAR-INF/MANIFEST.json"
CARD_ENTRY = "detector.json"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,199}")
# As TorchServe's own archiver has them by default: 1.0. Without leading zeros, so that no two
# spellings are one number; at most 8 of 9 digits, so that it fits every table and log.
VERSION = re.compile(r"(?:[1-9][0-9]{0,8}|0(?=\.))(?:\.(?:0|[1-9][0-9]{0,8})){0,7}")
NUMBER = re.compile(r"[0-9]{1,18}")
MANIFEST_KEYS = frozenset(("modelName", "modelVersion", "handler", "configFile"))
MAX_JSON_BYTES = 1 << 20


class ArchiveError(ServiceError):
    """The archive is damaged, is none of this project's, or is not what its name says."""

    exit_code: ClassVar[int] = 15
    meaning: ClassVar[str] = "the archive is damaged, or not one of this project's"
    kind = "archive"


@dataclass(frozen=True)
class ArchiveName:
    """What NAME@VERSION.mar says: the served name, and a version such as 2 or 1.0."""

    name: str
    version: str

    @classmethod
    def parse(cls, file_name: str) -> Self:
        """Takes a file's name apart.

        Raises:
            ArchiveError: It is not of this form; names hold letters, digits, and . _ - in between.
        """
        name, _, version = file_name.removesuffix(".mar").rpartition("@")
        whole = file_name.endswith(".mar") and NAME.fullmatch(name) and VERSION.fullmatch(version)
        if not whole:
            raise ArchiveError(
                f"{file_name!r} is no name for an archive: scripts/build_mar.py writes "
                "NAME@VERSION.mar, such as openai--clip-vit-base-patch32@1.mar"
            )
        return cls(name, version)

    @property
    def file_name(self) -> str:
        """The file's name in the store, which is also what TorchServe registers it by."""
        return f"{self.name}@{self.version}.mar"

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def served_name(model: str) -> str:
    """Returns a model's name in TorchServe's URLs: the Hub name with / as --."""
    return model.replace("/", "--")


def version_order(version: str) -> tuple[tuple[int, str], ...]:
    """What versions are sorted by: 1.9 is before 1.10, and 1 before 1.0.

    Args:
        version: As ``VERSION``, or whatever else a server has been given: words before numbers.
    """
    parts = version.split(".")
    return tuple((int(part), "") if NUMBER.fullmatch(part) else (-1, part) for part in parts)


def inspect_archive(path: Path, *, contents: bool = True) -> ArchiveName:
    """Reads an archive as the server will, and compares it with its manifest and its card.

    Args:
        path: A file with its final name.
        contents: Whether to read the weights too; without, their digests are the worker's to check.

    Returns:
        The name and version on which file name, manifest and card agree.

    Raises:
        ArchiveError: What is wrong with it.
    """
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "no file"
        raise ArchiveError(f"{path} is {kind}: give a .mar file that build_mar.py has written")
    name = ArchiveName.parse(path.name)
    try:
        entries = read_form(path, contents=contents)
    except FormError as error:
        raise ArchiveError(
            f"{path} {error}; build it or copy it again (what torch-model-archiver packed by hand "
            "is for torchserve --start --models alone)"
        ) from error
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
    manifest = _read_json(path, entries, MANIFEST_ENTRY)
    card = _read_json(path, entries, CARD_ENTRY)
    _check_manifest(path, name, manifest, entries)
    _check_card(path, name, card, entries)
    return name


def _read_json(path: Path, entries: Mapping[str, Entry], name: str) -> dict[str, Any]:
    if name not in entries:
        raise ArchiveError(f"{path} has no {name}: scripts/build_mar.py makes archives")
    entry = entries[name]
    if entry.size > MAX_JSON_BYTES:
        raise ArchiveError(f"{path}: {name} has {entry.size} bytes, more than {MAX_JSON_BYTES}")
    with path.open("rb") as file:
        file.seek(entry.content)
        content = file.read(entry.size)
    try:
        value = json.loads(content, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path}: {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArchiveError(f"{path}: {name} is not a JSON object")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object; of two values for one key, readers take the first or the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _check_manifest(
    path: Path, name: ArchiveName, manifest: dict[str, Any], entries: Mapping[str, Entry]
) -> None:
    """Refuses a manifest by which TorchServe would serve something else, or fail to."""
    model = manifest.get("model")
    if not isinstance(model, dict):
        raise ArchiveError(f"{path}: {MANIFEST_ENTRY} says nothing of a model")
    _check_agreement(path, name, MANIFEST_ENTRY, model.get("modelName"), model.get("modelVersion"))
    if others := model.keys() - MANIFEST_KEYS:
        raise ArchiveError(
            f"{path}: its manifest has {', '.join(sorted(others))}, which build_mar.py never writes"
        )
    for key in ("handler", "configFile"):
        if model.get(key) not in entries:
            raise ArchiveError(f"{path} lacks the {key} {model.get(key)!r} that its manifest names")


def _check_card(
    path: Path, name: ArchiveName, card: dict[str, Any], entries: Mapping[str, Entry]
) -> None:
    """Refuses a card of another archive, or other weights than the card's."""
    _check_agreement(path, name, CARD_ENTRY, card.get("name"), card.get("version"))
    files = card.get("files")
    if not isinstance(files, dict) or not files:
        raise ArchiveError(f"{path}: {CARD_ENTRY} lists no weight files")
    for entry, digest in files.items():
        if entry not in entries:
            raise ArchiveError(f"{path} lacks {entry}, which its card lists")
        found = entries[entry].sha256
        if found not in (None, digest):
            raise ArchiveError(
                f"{path}: {entry} is not the file that its card describes: its SHA-256 is "
                f"{found}, the card says {digest}; build it again"
            )


def _check_agreement(
    path: Path, name: ArchiveName, entry: str, found_name: object, found_version: object
) -> None:
    if (found_name, found_version) != (name.name, name.version):
        raise ArchiveError(
            f"{path} is named for {name}, but its {entry} says {found_name} version "
            f"{found_version}: give it back the name it was built with"
        )
