"""What a drill is given, and what it finds."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.packaging.archive import CONFIG
from deepfake_tools.torchserve.local_server import LocalServer

READY_LIMIT_S = 180.0


@dataclass(frozen=True)
class Ground:
    """Where damage is done.

    Attributes:
        archives: Versions 1 and 2 of one model, alone in a store of this run's own.
        photographs: To make images of.
        config: TorchServe's settings.
        scratch: A folder of this run's own.
        short: Whether seconds are enough, as in the test suite, or it is to be thorough.
        say: Told how far a drill is, a line each.
    """

    archives: tuple[Path, Path]
    photographs: tuple[Path, ...]
    config: Path
    scratch: Path
    short: bool
    say: Callable[[str], None]

    @property
    def store(self) -> Path:
        """The folder of the archives."""
        return self.archives[0].parent

    @property
    def name(self) -> str:
        """The served name of both versions."""
        return ArchiveName.parse(self.archives[0].name).name

    @property
    def response_timeout_s(self) -> int:
        """After which a worker of version 1 counts as hung."""
        with zipfile.ZipFile(self.archives[0]) as archive:
            return int(yaml.safe_load(archive.read(CONFIG))["responseTimeout"])

    @contextmanager
    def serving(self) -> Iterator[LocalServer]:
        """Serves version 1 until the end of the block."""
        first = {"load_models": self.archives[0].name}
        with LocalServer(self.store, self.config, settings=first) as server:
            server.wait_ready(self.name, limit_s=READY_LIMIT_S)
            yield server


@dataclass(frozen=True)
class Finding:
    """What came of a drill.

    Attributes:
        figures: Lines to print.
        faults: What went otherwise than it must; none when it passed.
    """

    figures: tuple[str, ...]
    faults: tuple[str, ...]


Drill: TypeAlias = Callable[[Ground], Finding]
