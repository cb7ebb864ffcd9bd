"""A progress bar on a terminal, a line now and then elsewhere: rate, time left, errors."""

import shutil
import time
from collections import deque
from typing import TextIO

REDRAW_SECONDS = 0.2
LINE_SECONDS = 10.0
WINDOW_SECONDS = 30.0
LONGEST_BAR = 30


class Progress:
    """How far a long piece of work is.

    Args:
        stream: Where it is shown.
        what: Is counted, in the plural.
        total: How many there are.
        done: How many were done before.
    """

    def __init__(self, stream: TextIO, what: str, total: int, done: int = 0) -> None:
        self._stream = stream
        self._what = what
        self._total = total
        self._is_terminal = stream.isatty()
        self._shown = time.monotonic()
        self._drawn = False
        # Of some moments in the last half minute: when, and how many were done.
        self._samples = deque([(self._shown, done)])

    def update(self, done: int, errors: int = 0, note: str = "") -> None:
        """Shows how far the work is, if it is time to, with a note of how it goes."""
        now = time.monotonic()
        if now - self._shown < (REDRAW_SECONDS if self._is_terminal else LINE_SECONDS):
            return
        self._shown = now
        self._samples.append((now, done))
        while now - self._samples[0][0] > WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        text = self._text(done, errors) + (f", {note}" if note else "")
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            bar = _bar(done / self._total, width - len(text) - 2)
            self._stream.write("\r\x1b[K" + (bar + text)[: width - 1])
            self._drawn = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Removes the bar, so that something else can be printed."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def _text(self, done: int, errors: int) -> str:
        (start, before), (now, _) = self._samples[0], self._samples[-1]
        rate = (done - before) / max(now - start, 1e-3)
        left = _clock((self._total - done) / rate) if rate > 0 else "?"
        failed = f", {errors} failed" if errors else ""
        return f"{done}/{self._total} {self._what}, {rate:.1f} a second, {left} left{failed}"


def _bar(share: float, width: int) -> str:
    width = min(width - 3, LONGEST_BAR)
    if width < 5:
        return ""
    return f"[{'#' * int(share * width):<{width}}] "


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
