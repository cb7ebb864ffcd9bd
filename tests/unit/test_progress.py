import io

from deepfake_tools.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_line_for_every_tenth_part() -> None:
    stream = io.StringIO()
    progress = Progress("features", 1000, stream)
    for done in range(0, 1001, 5):
        progress.show(done, done)
    lines = stream.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"features {done}/1000" for done in range(100, 1001, 100)
    ]
    assert all("/s, " in line and line.endswith(" left") for line in lines)


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    stream = Terminal()
    progress = Progress("features", 50, stream)
    for done in range(1, 51):
        progress.show(done, 0)
    assert stream.getvalue().endswith("\r\033[Kfeatures 50/50\n")
    assert stream.getvalue().count("\n") == 1


def test_nothing_is_said_of_a_rate_while_all_came_from_the_cache() -> None:
    stream = io.StringIO()
    Progress("features", 10, stream).show(10, 0)
    assert stream.getvalue() == "features 10/10\n"
