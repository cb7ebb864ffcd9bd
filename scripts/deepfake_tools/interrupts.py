"""Signals: lets Ctrl-C and its like end a command in order, or not just now."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


def interrupt_on_stops() -> None:
    """Lets a polite kill and a lost terminal end the command as Ctrl-C does, unless ignored."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def interrupt_once() -> None:
    """Lets the first signal raise KeyboardInterrupt, and none after it disturb the tidying up."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOPS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in STOPS:
        signal.signal(number, stop)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignores Ctrl-C and its like for as long as the block takes."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Interruption:
    """Notes the first request to stop, so that what is under way can be brought to an end.

    A second one raises KeyboardInterrupt. Requests that are ignored, by nohup say, stay ignored.

    Attributes:
        number: The signal; None while there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
