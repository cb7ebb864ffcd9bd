"""Options of several commands: where the server is, the token, the time limit, whole numbers."""

import argparse
import math
import ssl
from collections.abc import Callable
from pathlib import Path

from deepfake_tools.connection import server_address
from deepfake_tools.tokens import KEY_FILE_NAME, KEY_FILE_VARIABLE, TOKEN_VARIABLE
from deepfake_tools.torchserve import INFERENCE_ADDRESS, MANAGEMENT_ADDRESS

LAST_PORT = 65535


def add_connection_options(parser: argparse.ArgumentParser, timeout: float) -> None:
    """Adds --server, --management, --token-file, --key-file and --timeout to a command.

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


def at_least(lowest: int) -> Callable[[str], int]:
    """Returns an argument's `type` that reads a whole number.

    Args:
        lowest: The smallest one to accept.
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} on")
        return number

    return read
