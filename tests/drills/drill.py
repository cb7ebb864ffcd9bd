"""What a drill is given, what it finds, and the load that it puts on a server."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TypeAlias

import yaml
from deepfake_tools.demonstration.random_clip import (
    SMALLEST_TEXT,
    VISION_SHAPES,
    clip_config,
    tower_shape,
    write_clip,
)
from deepfake_tools.inspection import ArchiveName, inspect_archive, served_name
from deepfake_tools.packaging.archive import CONFIG
from deepfake_tools.packaging.hub import DEFAULT_MODEL
from deepfake_tools.torchserve.local_server import LocalServer

from benchmarks.load import Exchange, Load, prediction
from tests.drills.commands import SCRIPTS

READY_LIMIT_S = 180.0
SMALL = tower_shape(64, layers=2, heads=4, image_size=32, patch_size=8)
SMALL_PROJECTION = 40
SHORT_TIMEOUT_S = 3

VersionExchange: TypeAlias = Exchange[None, str]
"""Its answer is the version that gave it."""


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


def prepare(
    archives: Sequence[Path] | None,
    photographs: Sequence[Path],
    config: Path,
    scratch: Path,
    say: Callable[[str], None],
    *,
    short: bool,
) -> Ground:
    """Puts two versions of a model into a store of their own.

    Args:
        archives: Both; None builds them, with random weights.
        photographs: To make images of.
        config: TorchServe's settings.
        scratch: Gets the store.
        say: Told whose weights they are.
        short: Whether a small encoder will do, and a worker counts as hung soon.
    """
    store = scratch / "model_store"
    store.mkdir()
    if archives is None:
        _build(store, scratch / "random-weights", say, short=short)
        paths = sorted(store.glob("*.mar"))
    else:
        paths = [Path(shutil.copy(archive, store)) for archive in archives]
    for path in paths:
        inspect_archive(path)
    first, second = paths
    return Ground((first, second), tuple(photographs), config, scratch, short, say)


def _build(store: Path, model: Path, say: Callable[[str], None], *, short: bool) -> None:
    vision = VISION_SHAPES[DEFAULT_MODEL]
    if short:
        write_clip(model, clip_config(SMALL, SMALLEST_TEXT, SMALL_PROJECTION))
    else:
        say(f"RANDOM WEIGHTS in the architecture of {DEFAULT_MODEL}: as busy as the real ones")
        write_clip(model, clip_config(vision.tower, SMALLEST_TEXT, vision.projection))
    command = [
        sys.executable,
        str(SCRIPTS / "build_mar.py"),
        "--model",
        str(model),
        "--export-path",
        str(store),
    ]
    command += ["--served-name", "small" if short else served_name(DEFAULT_MODEL)]
    command += ["--response-timeout", str(SHORT_TIMEOUT_S)] if short else []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)


def version_load(
    server: LocalServer,
    name: str,
    image: bytes,
    clients: int,
    may_send: Callable[[], bool] = lambda: True,
) -> Load[None, str]:
    """Returns clients that ask about an image without pause, and note which version answers.

    Args:
        server: Whom they ask.
        name: The served name; without a version.
        image: What they ask about.
        clients: How many.
        may_send: See `Load`.
    """
    asked = repeat((None, image))
    return Load(prediction(server, name), asked, clients, _read_version, may_send=may_send)


def _read_version(_: None, status: int, body: bytes) -> str:
    if status != 200:
        raise ValueError(f"status {status}: {body[:300]!r}")
    return str(json.loads(body)["detector"]["version"])
