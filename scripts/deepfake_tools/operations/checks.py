"""Checks of a server that strangers may have made as often as they like."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from deepfake_tools.errors import ServiceError, one_line

T = TypeVar("T")

# A look at the server holds for this long, so that many balancers cost it no more than one.
REMEMBER_S = 0.5


class UnwellError(Exception):
    """A check failed; the line says why."""


def outcome(check: Callable[[], T]) -> T:
    """Returns what a check says.

    Whatever goes wrong in one, a file that cannot be read say, the answer is no: to a balancer, a
    connection that breaks off says nothing of the server.

    Raises:
        UnwellError: It failed.
    """
    try:
        return check()
    except ServiceError as error:
        raise UnwellError(str(error)) from error
    except Exception as error:
        raise UnwellError(one_line(f"{type(error).__name__}: {error}")) from error


class Remembered(Generic[T]):
    """A check whose outcome holds for a moment; of several threads one makes it."""

    def __init__(self, check: Callable[[], T]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._until = 0.0
        self._outcome: T | UnwellError = UnwellError("not looked yet")

    def __call__(self) -> T:
        """Returns what the check says, or said a moment ago; raises UnwellError likewise."""
        with self._lock:
            if time.monotonic() > self._until:
                try:
                    self._outcome = outcome(self._check)
                except UnwellError as error:
                    self._outcome = error
                self._until = time.monotonic() + REMEMBER_S
            found = self._outcome
        if isinstance(found, UnwellError):
            raise found
        return found
