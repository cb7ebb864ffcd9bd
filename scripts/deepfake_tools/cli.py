"""What command lines have in common: their parser, where the server is, the token, numbers."""

import argparse
import math
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deepfake_tools.torchserve.api import INFERENCE_ADDRESS, MANAGEMENT_ADDRESS
from deepfake_tools.torchserve.connection import server_address
from deepfake_tools.torchserve.tokens import KEY_FILE_NAME, KEY_FILE_VARIABLE, TOKEN_VARIABLE

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


def add_connection_options(parser: argparse.ArgumentParser, timeout: float) -> None:
    """Adds where the server is, where the token is, --timeout and --ca to a command.

    Args:
        parser: The command's parser.
        timeout: The default time limit in seconds.
    """
    group = parser.add_argument_group(
        "server",
        "where the token is looked for, in this order:\n"
        f"  --token-file or --key-file, {TOKEN_VARIABLE} (the token itself),\n"
        f"  {KEY_FILE_VARIABLE} (a key file's path), ./{KEY_FILE_NAME}",
    )
    group.add_argument(
        "--server", type=address, default=INFERENCE_ADDRESS, help="inference (%(default)s)"
    )
    group.add_argument(
        "--management", type=address, default=MANAGEMENT_ADDRESS, help="management (%(default)s)"
    )
    places = group.add_mutually_exclusive_group()
    places.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token alone")
    places.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"TorchServe's own {KEY_FILE_NAME}"
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        default=timeout,
        metavar="SECONDS",
        help="longest time for one image, all attempts together (%(default)g)",
    )
    add_ca_option(group)


def add_ca_option(group: argparse._ArgumentGroup) -> None:
    """Adds --ca to a command's group of options."""
    group.add_argument(
        "--ca",
        type=certificates,
        metavar="FILE",
        help="over https, trust this certificate, or authority, alone (the public authorities)",
    )


def address(text: str) -> str:
    """Reads a server's address, as an argument's `type`."""
    try:
        return server_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seconds(text: str) -> float:
    """Reads a time limit in seconds, as an argument's `type`."""
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return limit


def certificates(text: str) -> Path:
    """Reads the name of a file of certificates, as an argument's `type`."""
    try:
        ssl.create_default_context(cafile=text)
    except ssl.SSLError as error:
        raise argparse.ArgumentTypeError(f"{text} holds no certificate in PEM form") from error
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    return Path(text)


def not_negative(text: str) -> float:
    """Reads a number from 0 on, such as seconds to wait, as an argument's `type`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


def fraction(text: str) -> float:
    """Reads a share from 0 to 1, as an argument's `type`."""
    share = not_negative(text)
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return share


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
