"""Whether a server can start: its addresses are free, and no other server has its pid file."""

from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from deepfake_tools.errors import ServiceError
from deepfake_tools.operations.shutdown import MAIN_CLASS, default_pid_file
from deepfake_tools.ports import try_to_listen
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
    """A server cannot listen where its settings say, or leave its pid where it leaves it."""

    exit_code: ClassVar[int] = 23
    meaning: ClassVar[str] = "an address or the pid file of the server that is to start is taken"
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


def check_alone() -> None:
    """Makes sure that no server runs that was started with the same folder for temporary files.

    TorchServe keeps its pid there, starts no second server beside it, and advises
    `torchserve --stop`, which loses what the first one has in flight.

    Raises:
        AddressTakenError: One does.
    """
    try:
        import psutil
    except ModuleNotFoundError:
        return  # torchserve brings it, so it is not here either
    pid_file = default_pid_file()
    try:
        process = psutil.Process(int(pid_file.read_text(encoding="ascii")))
        runs = MAIN_CLASS in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return  # TorchServe removes what is left of a server that is gone
    if runs:
        raise AddressTakenError(
            f"{pid_file}: process {process.pid} is a TorchServe that runs. End it by `python "
            "scripts/manage.py stop` where it was started, or give this one a TMPDIR of its own"
        )


def _check(key: str, host: str, port: int, config: Path) -> None:
    try:
        try_to_listen(host, port)
    except OSError as error:
        raise AddressTakenError(
            f"{host}:{port} ({key}): {error.strerror}. If a server of yours runs there, end it by "
            f"`python scripts/manage.py stop`; else give this one another address in {config}"
        ) from error
