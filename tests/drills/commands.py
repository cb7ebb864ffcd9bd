"""A script and a server in, the command line by which the script asks that server out."""

import sys
from pathlib import Path

from deepfake_tools.torchserve.local_server import LocalServer

from tests import ROOT

SCRIPTS = ROOT / "scripts"
CLIENT = SCRIPTS / "client.py"
MANAGE = SCRIPTS / "manage.py"


def command_line(
    script: Path, server: LocalServer, *arguments: object, key_file: Path | None = None
) -> list[str]:
    """Returns the words of a command.

    Args:
        script: `client.py` or `manage.py`.
        server: Whom it asks.
        arguments: What it is to do, as its user would type it.
        key_file: Another than the server's own.
    """
    words: list[object] = [sys.executable, script, *arguments]
    words += ["--server", server.inference_url, "--management", server.management_url]
    words += ["--key-file", key_file or server.key_file]
    return [str(word) for word in words]
