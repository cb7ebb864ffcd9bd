import io

import pytest
from deepfake_tools import progress as module
from deepfake_tools.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "80")
    return now


def test_a_terminal_gets_a_bar_in_one_line(clock: list[float]):
    terminal = Terminal()
    progress = Progress(terminal, "images", total=1000)
    clock[0] = 0.1
    progress.update(10, 0)
    assert terminal.getvalue() == "", "too soon"
    clock[0] = 10
    progress.update(500, 3)
    shown = terminal.getvalue()
    assert shown.startswith("\r\x1b[K[####")
    assert shown.endswith(" 500/1000 images, 50.0 a second, 0:10 left, 3 failed")
    assert "\n" not in shown
    assert len(shown.removeprefix("\r\x1b[K")) < 80
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_elsewhere_there_is_a_line_now_and_then(clock: list[float]):
    file = io.StringIO()
    progress = Progress(file, "images", total=10_000, done=1000)
    for second in range(21):
        clock[0] = float(second)
        progress.update(1000 + second, 0)
    progress.clear()
    assert file.getvalue().splitlines() == [
        "1010/10000 images, 1.0 a second, 2:29:50 left",
        "1020/10000 images, 1.0 a second, 2:29:40 left",
    ]


def test_the_rate_is_that_of_the_last_half_minute(clock: list[float]):
    file = io.StringIO()
    progress = Progress(file, "images", total=10_000)
    for second in range(0, 100, 10):
        clock[0] = float(second)
        progress.update(1000 if second else 0, 0)
    assert file.getvalue().splitlines()[-1] == "1000/10000 images, 0.0 a second, ? left"
