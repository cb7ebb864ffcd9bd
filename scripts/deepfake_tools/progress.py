"""How far a long piece of work is -> a line on the terminal, rewritten in place."""

import time
from typing import TextIO


class Progress:
    """Says how many of a number of things are done, how fast, and how long the rest takes.

    On a terminal one line is rewritten; in a file or a pipe there is a line for every tenth part.
    """

    def __init__(self, what: str, total: int, stream: TextIO) -> None:
        """Starts the clock.

        Args:
            what: is being done, as the line's first words.
            total: of the things to do.
            stream: usually standard error.
        """
        self._what = what
        self._total = total
        self._stream = stream
        self._rewrite = stream.isatty()
        self._interval = 0.2 if self._rewrite else 0.0
        self._started = self._shown = time.monotonic()
        self._tenths = 0

    def show(self, done: int, worked: int) -> None:
        """Tells the state, unless it was told a moment ago.

        Args:
            done: things that need no more work.
            worked: of these, the ones that took work now; the rate is theirs.
        """
        now = time.monotonic()
        tenths = 10 * done // max(self._total, 1)
        is_news = now - self._shown >= self._interval if self._rewrite else tenths > self._tenths
        if not is_news and done < self._total:
            return
        self._shown, self._tenths = now, tenths
        rate = worked / max(now - self._started, 1e-9)
        line = f"{self._what} {done}/{self._total}"
        if worked:
            line += f", {rate:.3g}/s, {_duration((self._total - done) / rate)} left"
        last = "\n" if done >= self._total else ""
        self._stream.write(f"\r\033[K{line}{last}" if self._rewrite else f"{line}\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
