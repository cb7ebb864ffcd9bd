"""An archive file in, its name and version out, or the reason why no server should see it."""

import hashlib
import json
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

from deepfake_tools.failures import ServiceError

MANIFEST_ENTRY = "MAR-INF/MANIFEST.json"
CARD_ENTRY = "detector.json"
FILE_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*)@(?P<version>[1-9][0-9]{0,8})\.mar"
)
MAX_ENTRIES = 1000
MAX_JSON_BYTES = 1 << 20
# Weights are stored as they are; only code and text are deflated, and those are small.
MAX_GROWTH = 2
GROWTH_ALLOWANCE_BYTES = 16 << 20
CHUNK_BYTES = 1 << 20


class ArchiveError(ServiceError):
    """The archive is damaged, is none of this project's, or is not what its name says."""

    exit_code: ClassVar[int] = 15
    meaning: ClassVar[str] = "the archive is damaged, or not one of this project's"
    kind = "archive"


@dataclass(frozen=True)
class ArchiveName:
    """What NAME@VERSION.mar says: the served name and a version that counts from 1."""

    name: str
    version: str

    @classmethod
    def parse(cls, file_name: str) -> Self:
        """Takes a file's name apart.

        Raises:
            ArchiveError: It is not of this form; names hold letters, digits, and . _ - in between.
        """
        match = FILE_NAME.fullmatch(file_name)
        if match is None:
            raise ArchiveError(
                f"{file_name!r} is no name for an archive: scripts/build_mar.py writes "
                "NAME@VERSION.mar, such as openai--clip-vit-base-patch32@1.mar"
            )
        return cls(match["name"], match["version"])

    @property
    def file_name(self) -> str:
        """The file's name in the store, which is also what TorchServe registers it by."""
        return f"{self.name}@{self.version}.mar"

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def inspect_archive(path: Path) -> ArchiveName:
    """Reads an archive to the last byte, as its own checksums and its card describe it.

    Args:
        path: A file with its final name.

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
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive)
            digests = {entry: _digest(archive, entry) for entry in archive.namelist()}
            manifest = _read_json(path, archive, MANIFEST_ENTRY)
            card = _read_json(path, archive, CARD_ENTRY)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{path} is damaged ({error}): build it or copy it again") from error
    _check_manifest(path, name, manifest, set(digests))
    _check_card(path, name, card, digests)
    return name


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses entries that would land outside the folder where a server unpacks, and bombs."""
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES:
        raise ArchiveError(f"{path} holds {len(entries)} entries, more than {MAX_ENTRIES}")
    if unpacked > MAX_GROWTH * path.stat().st_size + GROWTH_ALLOWANCE_BYTES:
        raise ArchiveError(f"{path} would unpack to {unpacked} bytes, far more than it holds")
    seen = set()
    for entry in entries:
        entry_path = PurePosixPath(entry.filename)
        unsafe = entry_path.is_absolute() or ".." in entry_path.parts or "\\" in entry.filename
        if unsafe or stat.S_ISLNK(entry.external_attr >> 16):
            raise ArchiveError(f"{path} holds {entry.filename!r}, a link or a path to elsewhere")
        if entry.filename in seen:
            raise ArchiveError(f"{path} holds {entry.filename!r} twice")
        seen.add(entry.filename)


def _digest(archive: zipfile.ZipFile, entry: str) -> str:
    """Returns an entry's SHA-256; zipfile compares its CRC at the end."""
    digest = hashlib.sha256()
    with archive.open(entry) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_json(path: Path, archive: zipfile.ZipFile, entry: str) -> dict[str, Any]:
    try:
        with archive.open(entry) as file:
            value = json.loads(file.read(MAX_JSON_BYTES))
    except KeyError as error:
        raise ArchiveError(f"{path} has no {entry}: scripts/build_mar.py makes archives") from error
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path}: {entry} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArchiveError(f"{path}: {entry} is not a JSON object")
    return value


def _check_manifest(
    path: Path, name: ArchiveName, manifest: dict[str, Any], entries: set[str]
) -> None:
    """Refuses a manifest by which TorchServe would serve something else, or fail to."""
    model = manifest.get("model")
    if not isinstance(model, dict):
        raise ArchiveError(f"{path}: {MANIFEST_ENTRY} says nothing of a model")
    _check_agreement(path, name, MANIFEST_ENTRY, model.get("modelName"), model.get("modelVersion"))
    for key in ("handler", "configFile"):
        if model.get(key) not in entries:
            raise ArchiveError(f"{path} lacks the {key} {model.get(key)!r} that its manifest names")


def _check_card(
    path: Path, name: ArchiveName, card: dict[str, Any], digests: dict[str, str]
) -> None:
    """Refuses a card of another archive, or other weights than the card's."""
    _check_agreement(path, name, CARD_ENTRY, card.get("name"), card.get("version"))
    files = card.get("files")
    if not isinstance(files, dict) or not files:
        raise ArchiveError(f"{path}: {CARD_ENTRY} lists no weight files")
    for entry, digest in files.items():
        if entry not in digests:
            raise ArchiveError(f"{path} lacks {entry}, which its card lists")
        if digests[entry] != digest:
            raise ArchiveError(
                f"{path}: {entry} is not the file that its card describes: its SHA-256 is "
                f"{digests[entry]}, the card says {digest}; build it again"
            )


def _check_agreement(
    path: Path, name: ArchiveName, entry: str, found_name: object, found_version: object
) -> None:
    if (found_name, found_version) != (name.name, name.version):
        raise ArchiveError(
            f"{path} is named for {name}, but its {entry} says {found_name} version "
            f"{found_version}: give it back the name it was built with"
        )
