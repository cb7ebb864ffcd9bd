"""Whether the addresses and ports that a server is to listen on are free, before it is started."""

import socket
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from deepfake_tools.errors import ServiceError
from deepfake_tools.torchserve.properties import read_settings

URLS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
}
GRPC = {
    ("grpc_inference_address", "grpc_inference_port"): ("127.0.0.1", "7070"),
    ("grpc_management_address", "grpc_management_port"): ("127.0.0.1", "7071"),
}
"""TorchServe's settings for where it listens, and what it takes where they are missing."""


class AddressTakenError(ServiceError):
    """A server cannot listen where its settings say."""

    exit_code: ClassVar[int] = 23
    meaning: ClassVar[str] = "an address that the server is to listen on is taken"
    kind = "address_taken"


def check_free(config: Path) -> None:
    """Makes sure that a server can listen on every address of its settings.

    TorchServe itself prints a Java trace for each of its threads, and its launcher ends with 0.

    Args:
        config: A config.properties.

    Raises:
        AddressTakenError: It cannot on one of them.
    """
    settings = read_settings(config.read_text(encoding="utf-8"))
    places = [(key, settings.get(key, url)) for key, url in URLS.items()]
    places += [
        (port_key, f"grpc://{settings.get(key, host)}:{settings.get(port_key, port)}")
        for (key, port_key), (host, port) in GRPC.items()
    ]
    for key, url in places:
        parts = urlsplit(url)
        if parts.hostname is not None and parts.port is not None:
            _check(key, parts.hostname, parts.port, config)


def _check(key: str, host: str, port: int, config: Path) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as one:
            # As Java does: connections of a server that has just ended are no obstacle.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        raise AddressTakenError(
            f"{host}:{port} ({key}): {error.strerror}. If a server of yours runs there, end it by "
            f"`python scripts/manage.py stop`; else give this one another address in {config}"
        ) from error
