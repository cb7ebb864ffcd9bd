"""A file in, the right to be the only process that works on it out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked(file: IO[Any]) -> Iterator[None]:
    """Waits until no other process holds the file's lock, and holds it for the block.

    The system gives the lock back when a process dies. On Windows there is none.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_UN)


def try_lock(file: IO[Any]) -> bool:
    """Takes the file's lock until the file is closed; False when another process holds it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
