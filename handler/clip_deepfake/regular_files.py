"""A path in, the bytes of a regular file out: a FIFO, a device or a socket is never opened.

It imports nothing beyond Python's own library.
"""

import errno
import os
import stat
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


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
