import re
from importlib import import_module

from deepfake_tools.errors import FAILURES, ServiceError, exit_code_table, one_line


def test_every_failure_has_an_exit_code_of_its_own():
    codes = [failure.exit_code for failure in FAILURES]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 130} & set(codes)


def test_every_failure_says_what_it_is_counted_by_and_what_it_means():
    for name in ("manage", "client"):
        import_module(name)  # defines the rest of them
    failures = [one for one in ServiceError.__subclasses__() if one.__module__ != __name__]
    assert len(failures) > len(FAILURES) + 5
    for failure in failures:
        assert failure.kind, failure
        assert failure.meaning, failure
    assert len({failure.kind for failure in failures}) == len(failures)
    assert len({failure.exit_code for failure in failures}) == len(failures)


def test_every_failure_is_in_the_table_of_exit_codes():
    in_this_module = {
        failure
        for failure in ServiceError.__subclasses__()
        if failure.__module__ == ServiceError.__module__
    }
    assert set(FAILURES) == in_this_module
    rows = dict(re.findall(r"^ +(\d+)  (.+)$", exit_code_table(), re.MULTILINE))
    assert {str(failure.exit_code): failure.meaning for failure in FAILURES}.items() <= rows.items()


def test_what_concerns_every_request_has_the_higher_codes():
    # So that the highest of several codes names the failure that stopped the command.
    general = [failure.exit_code for failure in FAILURES if failure.is_general]
    single = [failure.exit_code for failure in FAILURES if failure.exit_code < min(general)]
    assert all(not failure.is_general for failure in FAILURES if failure.exit_code in single)
    assert max(single) < min(general)


def test_one_line_cannot_steer_a_terminal():
    assert one_line("a\x1b[31m\r\nb\t c") == "a [31m b c"


def test_one_line_is_bounded():
    assert one_line("x" * 1000, limit=10) == "xxxxxxx..."
