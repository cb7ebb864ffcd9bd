"""Waiting for a condition, however slow the machine is."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    """Returns as soon as the condition holds; fails after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
