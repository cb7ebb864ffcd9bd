"""--help of every command: each option and argument says in words what it does."""

import argparse
import importlib
import re
from collections.abc import Iterator

import pytest

from tests import ROOT

COMMANDS = [
    *(f"scripts.{path.stem}" for path in sorted((ROOT / "scripts").glob("*.py"))),
    "benchmarks.__main__",
    "benchmarks.costs",
    "benchmarks.explanations",
    "benchmarks.gpu",
    "tests.drills.__main__",
]
LEANING = re.compile(r"(of|on|in|at most|that|by|the same|as|for|from)\b", re.IGNORECASE)
"""What a fragment begins with that leans on an option's name to be understood."""


class BuiltError(Exception):
    """The command line's parser, caught before it parsed anything."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def built(module: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser | None:
    """The parser of a command; None of a script that takes no options."""

    def parse(parser: argparse.ArgumentParser, *_: object) -> None:
        raise BuiltError(parser)

    for method in ("parse_args", "parse_known_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, parse)
    main = importlib.import_module(module).main
    monkeypatch.setattr("sys.argv", [module])
    try:
        main()
    except BuiltError as caught:
        return caught.parser
    return None


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
        else:
            yield action


@pytest.mark.parametrize("module", COMMANDS)
def test_every_option_says_what_it_does(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if module == "scripts.find_java":
        pytest.skip("hands its arguments on to pip")
    parser = built(module, monkeypatch)
    assert parser is not None
    assert parser.description
    for action in actions(parser):
        name = action.option_strings or action.dest
        if action.help == argparse.SUPPRESS:
            continue
        assert action.help, f"{module} {name} says nothing"
        words = re.sub(r"\(.*?\)", "", action.help).strip()
        assert len(words.split()) > 1, f"{module} {name}: {action.help!r}"
        assert not LEANING.match(words), f"{module} {name}: {action.help!r}"
