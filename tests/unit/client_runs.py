"""client.py as a person runs it, against a stand-in for the server."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT
from tests.forking import Fork

CLIENT = ROOT / "scripts" / "client.py"


@dataclass
class Run:
    code: int
    out: str
    err: str


Client = Callable[..., Run]


def client_in(folder: Path, clients: Fork) -> Client:
    """Runs client.py in a folder, with a key file there."""
    keys = folder / "key_file.json"
    keys.write_text(
        '{"inference": {"key": "inference-token"}, "management": {"key": "management-token"}}'
    )
    keys.chmod(0o600)

    def run(*arguments: str, server: str = "http://127.0.0.1:9", **environment: str) -> Run:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TORCHSERVE_")}
        addresses = ("--server", server, "--management", server)
        env = inherited | environment
        done = clients.run(CLIENT, *addresses, *arguments, cwd=folder, env=env)
        assert "Traceback" not in done.stderr
        return Run(done.returncode, done.stdout, done.stderr)

    return run
