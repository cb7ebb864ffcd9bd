"""What command lines have in common: parser, numbers and addresses, and word of progress."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence

LAST_PORT = 65535


class CommandParser(argparse.ArgumentParser):
    """A command's parser: options in full alone, - and _ in their names alike.

    Args:
        description: What the command does.
        epilog: What --help ends with.
        prog: The command's name; the file's if None.
        formatter_class: How both are shown: as they are written, or wrapped.
    """

    def __init__(
        self,
        *,
        description: str | None = None,
        epilog: str | None = None,
        prog: str | None = None,
        formatter_class: type[argparse.HelpFormatter] = argparse.RawDescriptionHelpFormatter,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=formatter_class,
            # A later option that begins alike would turn an abbreviation into an error.
            allow_abbrev=False,
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses a command line; of a command with subcommands, each parser does its part."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        words[:end] = [self._own_spelling(word) for word in words[:end]]
        return super().parse_known_args(words, namespace)

    def _own_spelling(self, word: str) -> str:
        option, separator, value = word.partition("=")
        if option.startswith("--"):
            for known in self._option_string_actions:
                if known.replace("_", "-") == option.replace("_", "-"):
                    return known + separator + value
        return word


def given(args: argparse.Namespace, *names: str) -> list[str]:
    """Returns those options that were given, whose default is None or False, as they are typed."""
    values = ((name, getattr(args, name)) for name in names)
    return [
        "--" + name.replace("_", "-")
        for name, value in values
        if value is not None and value is not False
    ]


def say(text: str) -> None:
    """Prints how far a run is, or why there is none, beside its result on standard output."""
    print(text, file=sys.stderr, flush=True)


def seconds(text: str, most: float = math.inf) -> float:
    """Reads a time limit in seconds, as an argument's `type`."""
    limit = _number(text)
    if not (0 < limit <= most and limit < math.inf):
        span = "above 0" if most == math.inf else f"from 0 to {most:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds {span}")
    return limit


def not_negative(text: str) -> float:
    """Reads a number from 0 on, such as seconds to wait, as an argument's `type`."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


def rate(text: str) -> float:
    """Reads a share that is less than all, as an argument's `type`."""
    share = _number(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 0 to below 1")
    return share


def positive_rate(text: str) -> float:
    """Reads a share between nothing and all, as an argument's `type`."""
    share = rate(text)
    if share == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0 and below 1")
    return share


def fraction(text: str) -> float:
    """Reads a share from 0 to 1, as an argument's `type`."""
    share = not_negative(text)
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return share


def seed(text: str) -> int:
    """Reads what NumPy and scikit-learn take as a seed, as an argument's `type`."""
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**32 - 1")
    return int(text)


def listen_address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT to listen on, as an argument's `type`."""
    host, separator, port = text.rpartition(":")
    if not (separator and host and port.isdecimal() and int(port) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as 127.0.0.1:8083")
    return host, int(port)


def at_least(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Returns an argument's `type` that reads a whole number.

    Args:
        lowest: The smallest one to accept.
        highest: The largest one to accept; None for no bound.
    """
    span = f"from {lowest} on" if highest is None else f"from {lowest} to {highest}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest or (highest is not None and number > highest):
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number {span}")
        return number

    return read


def script_command(script: str, *words: object) -> str:
    """Returns the command that runs one of the project's scripts, as a shell reads it.

    Args:
        script: The file's name in `scripts/`.
        words: Its arguments.
    """
    return shlex.join(["python", f"scripts/{script}", *map(str, words)])


def _number(text: str) -> float:
    """Not a number where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
