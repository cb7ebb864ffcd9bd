"""Files by path or by URI: whatever pyarrow's own file systems or fsspec's open."""

import errno
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from deepfake_tools.errors import OutputError, ServiceError, one_line
from deepfake_tools.files import read_regular, replacing_bytes

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")

LARGEST_FILE = 256 << 20
"""Bytes of an image's file; photographs of 100 megapixels have 50 million."""

REMEDIES = (
    (
        ("access_denied", "access denied", "forbidden", "credential", "http response code 403"),
        "credentials are taken from where the library of this storage looks for them: for S3 "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role",
    ),
    (
        ("network", "connect", "resolve", "curlcode"),
        "is the address right, and reached from here? One of your own is named by "
        "?endpoint_override=http://HOST:PORT",
    ),
    (("does not exist", "no_such", "no such", "not found", "not_found"), "is it spelled right?"),
)
"""What to do, by what a storage's message says."""


class StorageError(ServiceError):
    """What was named cannot be reached or read."""

    exit_code: ClassVar[int] = 25
    meaning: ClassVar[str] = "a path or URI cannot be read"
    kind = "storage"
    is_general = True


def is_uri(text: str) -> bool:
    """Whether this names something by a scheme, as s3://bucket/prefix does, and not by a path."""
    return SCHEME.match(text) is not None


@dataclass(frozen=True)
class Location:
    """A path within a file system.

    Attributes:
        files: The file system; None for this machine's own.
        path: As the file system has it.
        shown: How a person reads the root of the file system; without password or options.
    """

    files: Any = field(compare=False)
    path: str
    shown: str = ""

    def __str__(self) -> str:
        return self.shown + self.path

    def __truediv__(self, name: str) -> "Location":
        return self.at(f"{self.path.rstrip('/')}/{name}" if self.path else name)

    def at(self, path: str) -> "Location":
        """Returns another path of the same file system."""
        return Location(self.files, path, self.shown)

    @property
    def arrow(self) -> Any:
        """The file system as pyarrow takes it."""
        return fs.LocalFileSystem() if self.files is None else self.files

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def entries(self) -> Iterator[tuple[str, bool]]:
        """Yields the path of each file and folder in this folder, sorted, and whether it is one.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            found = self.arrow.get_file_info(fs.FileSelector(self.path))
        except OSError as error:
            raise unreadable(self, error) from error
        for info in sorted(found, key=lambda info: info.path):
            if info.path.rstrip("/") != self.path.rstrip("/"):
                yield info.path, info.type == fs.FileType.Directory

    def kind(self) -> Any:
        """Returns pyarrow's word for what is there.

        Raises:
            StorageError: It cannot be found out.
        """
        try:
            return self.arrow.get_file_info([self.path])[0].type
        except OSError as error:
            raise unreadable(self, error) from error

    def read(self, most: int = LARGEST_FILE) -> bytes:
        """Returns a file's content.

        Raises:
            OSError: It cannot be read.
            OverflowError: It has more bytes than `most`.
        """
        if self.files is None:
            return _read_local(self.path, most)
        with self.files.open_input_file(self.path) as file:
            if file.size() > most:
                raise OverflowError(file.size())
            data: bytes = file.read()
        return data

    def write(self, data: bytes) -> None:
        """Writes a file, which appears whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            if self.files is None:
                with replacing_bytes(Path(self.path)) as file:
                    file.write(data)
            else:
                # A put of an object store is atomic: what is read is the old one, or the new one.
                with self.files.open_output_stream(self.path) as stream:
                    stream.write(data)
        except OSError as error:
            raise unwritable(self, error) from error

    def make_folder(self) -> None:
        """Makes a folder, and those above it, where there is none.

        Raises:
            OutputError: It cannot be made.
        """
        try:
            self.arrow.create_dir(self.path, recursive=True)
        except OSError as error:
            raise unwritable(self, error) from error

    def remove_folder(self) -> None:
        """Removes a folder and what is in it; that there is none is no error."""
        try:
            self.arrow.delete_dir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise unwritable(self, error) from error


def _read_local(path: str, most: int) -> bytes:
    found = Path(path).stat()
    if stat.S_ISREG(found.st_mode) and found.st_size > most:
        raise OverflowError(found.st_size)
    return read_regular(path)


@lru_cache(maxsize=64)
def open_place(text: str) -> Location:
    """Returns the place that a path or URI names.

    Raises:
        StorageError: No file system opens it.
    """
    if not is_uri(text):
        return Location(None, text)
    try:
        files, path = fs.FileSystem.from_uri(text)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise StorageError(f"{_without_secrets(text)}: {one_line(error)}") from error
        files, path = _open_by_fsspec(text)
    except (OSError, ValueError) as error:
        raise StorageError(f"{_without_secrets(text)} cannot be opened: {_said(error)}") from error
    if isinstance(files, fs.LocalFileSystem):
        return Location(None, path)
    return Location(files, path.rstrip("/"), f"{urlsplit(text).scheme}://")


def _open_by_fsspec(text: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError, OSError) as error:
        raise StorageError(
            f"{_without_secrets(text)}: neither pyarrow nor fsspec opens this: {one_line(error)}"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(files)), path


def walk_store(folder: Location) -> Iterator[str]:
    """Yields the paths of the files in a folder and below it, without hidden folders.

    Raises:
        StorageError: A folder cannot be read.
    """
    waiting = [folder.path]
    while waiting:
        below = []
        for path, is_folder in folder.at(waiting.pop()).entries():
            if not is_folder:
                yield path
            elif not posixpath.basename(path.rstrip("/")).startswith((".", "_")):
                below.append(path)
        waiting += reversed(below)


def parquet_files(place: Location) -> list[Location]:
    """Returns the Parquet files that a place is, or holds, in the order of their names.

    Raises:
        StorageError: It cannot be read.
    """
    if place.kind() == fs.FileType.File:
        return [place]
    paths = (path for path in walk_store(place) if is_parquet(posixpath.basename(path)))
    return [place.at(path) for path in sorted(paths)]


@contextmanager
def opened_parquet(file: Location) -> Iterator[Any]:
    """Gives a Parquet file, as pyarrow has it, and says what is wrong with it within the block.

    Raises:
        StorageError: It cannot be read, is none, or lacks what is asked of it.
    """
    try:
        with file.arrow.open_input_file(file.path) as source:
            yield pq.ParquetFile(source)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, OSError(one_line(error))) from error


def is_parquet(name: str) -> bool:
    """Whether a file of this name is taken for Parquet."""
    return name.lower().endswith(PARQUET_SUFFIXES) and name[:1] not in ("_", ".")


def _without_secrets(text: str) -> str:
    """A URI without user, password and options."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def unreadable(place: Location, error: OSError) -> StorageError:
    """Says that a place cannot be read, and what to do."""
    return StorageError(f"{place} cannot be read: {_said(error)}")


def unwritable(place: Location, error: OSError) -> OutputError:
    """Says that a place cannot be written, and what to do."""
    return OutputError(f"cannot write {place}: {_said(error)}")


def _said(error: Exception) -> str:
    text = one_line(getattr(error, "strerror", None) or error)
    if getattr(error, "errno", None) == errno.ENOSPC:
        return f"{text}: make room"
    low = str(error).lower()
    for signs, remedy in REMEDIES:
        if any(sign in low for sign in signs):
            return f"{text}; {remedy}"
    return text
