"""Runs manage.py against a test's own server."""

import subprocess
import sys
from pathlib import Path

from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.properties import read_settings

from tests import ROOT

MANAGE = ROOT / "scripts" / "manage.py"


class Manage:
    def __init__(self, server: LocalServer, store: Path) -> None:
        self.store = store
        self.server = server

    def command(self, *arguments: object, key_file: Path | None = None) -> list[str]:
        return [
            *(sys.executable, str(MANAGE), *map(str, arguments)),
            *("--model-store", str(self.store)),
            *("--key-file", str(key_file or self.server.key_file)),
            *("--server", self.server.inference_url),
            *("--management", self.server.management_url),
        ]

    def __call__(
        self, *arguments: object, key_file: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, key_file=key_file),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def served_properties(self) -> Path:
        return self.store.parent / "served.properties"

    def chosen(self) -> list[str]:
        return read_settings(self.served_properties.read_text())["load_models"].split(",")
