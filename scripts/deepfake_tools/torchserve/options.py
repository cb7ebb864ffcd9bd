"""The options by which a command is told where its server is and what token it takes."""

import argparse
import ssl
from pathlib import Path

from deepfake_tools.cli import seconds
from deepfake_tools.torchserve.api import INFERENCE_ADDRESS, MANAGEMENT_ADDRESS
from deepfake_tools.torchserve.connection import KEY_FILE_NAME, server_address
from deepfake_tools.torchserve.tokens import KEY_FILE_VARIABLE, TOKEN_VARIABLE


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
    add_address_options(group)
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


def add_address_options(group: argparse._ArgumentGroup) -> None:
    """Adds --server and --management to a command's group of options."""
    group.add_argument(
        "--server", type=address, default=INFERENCE_ADDRESS, help="ask this address (%(default)s)"
    )
    group.add_argument(
        "--management",
        type=address,
        default=MANAGEMENT_ADDRESS,
        help="address of the management API (%(default)s)",
    )


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


def certificates(text: str) -> Path:
    """Reads the name of a file of certificates, as an argument's `type`."""
    try:
        ssl.create_default_context(cafile=text)
    except ssl.SSLError as error:
        raise argparse.ArgumentTypeError(f"{text} holds no certificate in PEM form") from error
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error
    return Path(text)
