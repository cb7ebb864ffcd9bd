"""Files: read if they are regular ones, written whole or not at all, and locked.

Links are followed, a file keeps its mode and its owner, and what is no regular file (a FIFO, a
device, this command's own standard output) is written into and never replaced.

It imports nothing beyond Python's own library.
"""

import errno
import fcntl
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO

from deepfake_tools.errors import OutputError

Named = tuple[str, Path]
"""An option, or what else a file is known by to the user, and the file."""

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class SameFileError(Exception):
    """One file is named twice; the one-line message says by what."""


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Opens a text file to write in UTF-8, as `replacing_bytes` does.

    A file name that is not UTF-8 keeps its bytes.

    Raises:
        OSError: It cannot be written.
    """
    with (
        replacing_bytes(path) as binary,
        io.TextIOWrapper(binary, "utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


@contextmanager
def replacing_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write, which appears whole at the end of the block, or not at all.

    Args:
        path: Of the file. Behind a link it is the link's target that is replaced. A file with
            several names keeps them, and what is no regular file is written into as it comes.

    Raises:
        OSError: It cannot be written.
    """
    found = _stat(path)
    if (descriptor := _opened(path, found)) is not None:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    # Of two commands that write one file each has its own; a file's name may be as long as can be.
    with partial_file(target, f"{target.name[:40]}.{os.getpid()}") as partial:
        with partial.open("wb") as file:
            if found is not None:
                _make_like(file.fileno(), found)
            yield file
        if found is not None and found.st_nlink > 1:
            shutil.copyfile(partial, target)
        else:
            partial.replace(target)


@contextmanager
def partial_file(target: Path, name: str | None = None) -> Iterator[Path]:
    """Yields where to write what is to replace a file; what is left there at the end is removed.

    Args:
        target: Of the file.
        name: For the hidden file beside it, if several processes may write it at a time.
    """
    partial = target.with_name(f".{name or target.name}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def check_outputs(outputs: Iterable[Named], inputs: Iterable[Named] = ()) -> None:
    """Finds out before a run that a file cannot be written after it, or would be overwritten.

    Args:
        outputs: What the run will write.
        inputs: What it reads and must not replace.

    Raises:
        SameFileError: Two of them are one file, be it by two names.
        OutputError: One cannot be written.
    """
    known = {_identity(path): name for name, path in inputs}
    for name, path in outputs:
        try:
            _check_writable(path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; see {name}") from error
        other = known.setdefault(_identity(path), name)
        if other != name:
            raise SameFileError(
                f"{other} and {name} are one file, {path}: give each a file of its own"
            )


def is_kept(path: Path) -> bool:
    """Whether what is written to this path can be read there afterwards: whether it is a file."""
    found = _stat(path)
    return found is None or (_opened_already(found) is None and stat.S_ISREG(found.st_mode))


def _check_writable(path: Path) -> None:
    """Raises OSError where a file cannot be written."""
    parent = Path(os.path.realpath(path)).parent
    found = _stat(path)
    if found is None and not parent.is_dir():
        # Of a link it is the target's folder that is missing.
        raise OSError(0, f"there is no folder {parent if path.is_symlink() else path.parent}")
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OSError(0, "it is a folder")
    if found is not None and not os.access(path, os.W_OK):
        raise OSError(0, "permission denied")
    if is_kept(path) and not os.access(parent, os.W_OK | os.X_OK):
        raise OSError(0, f"no file may be made in {parent}")


def _stat(path: Path) -> os.stat_result | None:
    """What is behind the path and all links, or None where there is nothing yet."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(path: Path) -> object:
    try:
        found = _stat(path)
    except OSError:
        found = None
    return os.path.realpath(path) if found is None else (found.st_dev, found.st_ino)


def _opened(path: Path, found: os.stat_result | None) -> int | None:
    """Opens what must not be replaced; None for a regular file and for one that is yet to be."""
    if found is None:
        return None
    own = _opened_already(found)
    if own is not None:
        own.flush()
        # A file that is opened anew would be written from its beginning, over what stands there.
        return os.dup(own.fileno())
    if stat.S_ISREG(found.st_mode):
        return None
    return os.open(path, os.O_WRONLY | os.O_NOCTTY)


def _opened_already(found: os.stat_result) -> TextIO | None:
    """Returns the one of this command's own two streams that goes there, as to /dev/stdout."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(os.fstat(stream.fileno()), found):
                return stream
    return None


def _make_like(descriptor: int, found: os.stat_result) -> None:
    """Gives a new file the owner and the mode of the one that it replaces."""
    # Nobody but root may give a file away; the mode is what protects it.
    with suppress(PermissionError):
        os.fchown(descriptor, found.st_uid, found.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))


def read_regular(path: str | Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        OSError: it is not there, cannot be read, or is no regular file; ``strerror`` says which.
    """
    with open(path, "rb", opener=_open) as file:
        return file.read()


def _open(path: str, flags: int) -> int:
    _check(os.stat(path).st_mode, path)  # noqa: PTH116 - as it is given
    # What stands there may have changed since; a FIFO then must not hold us up.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind} and no regular file", path)


@contextmanager
def locked(file: IO[Any]) -> Iterator[None]:
    """Waits until no other process holds the file's lock, and holds it for the block.

    The system gives the lock back when a process dies.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def try_lock(file: IO[Any]) -> bool:
    """Takes the file's lock until the file is closed; False when another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
