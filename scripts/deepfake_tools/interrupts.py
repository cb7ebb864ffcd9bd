"""Ctrl-C in, KeyboardInterrupt out, whatever a library made of it on its way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def reliable_interrupts() -> Iterator[None]:
    """Makes sure that Ctrl-C leaves the block as KeyboardInterrupt.

    Inside torch's C++ the exception may be swallowed and another one come out in its place.
    """
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
