"""The archives to measure: built, of the Hub's weights or of random ones, and unpacked."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from clip_deepfake.card import Card, read_card
from deepfake_tools.demonstration.random_clip import (
    SMALLEST_TEXT,
    VISION_SHAPES,
    clip_config,
    write_clip,
)
from deepfake_tools.inspection import ArchiveName, inspect_archive, served_name
from deepfake_tools.packaging.archive import CONFIG
from deepfake_tools.packaging.hub import DEFAULT_MODEL

from benchmarks import SCRIPTS
from benchmarks.measurements import BenchmarkError

# What each archive is built with, further options of build_mar.py.
# CALIBRATION stands for a folder of images.
CALIBRATION = "CALIBRATION"
BUILDS: tuple[tuple[str, ...], ...] = (
    ("--precision", "float32"),
    ("--precision", "int8", "--calibration", CALIBRATION),
)
BFLOAT16_BUILD = ("--precision", "bfloat16")
"""One more where the processor computes so."""

Builds = Sequence[tuple[str, ...]]


def build_archives(
    model: str | None,
    builds: Builds,
    calibration: Path,
    scratch: Path,
    say: Callable[[str], None],
) -> list[Path]:
    """Builds archives.

    Args:
        model: Hub name or local folder; None is the default model's architecture with random
            weights, for which nothing is downloaded.
        builds: Options of build_mar.py for each.
        calibration: Folder of images that int8 is calibrated with.
        scratch: Gets the archives, and the random weights where there are some.
        say: Told whose weights they are.

    Raises:
        BenchmarkError: There is no such model, nor a known architecture of that name.
    """
    if model is None:
        return _build_random(DEFAULT_MODEL, builds, calibration, scratch, say)
    try:
        return _build(model, builds, calibration, scratch)
    except BenchmarkError as error:
        if model not in VISION_SHAPES:
            raise
        say(f"{error}\n{model} cannot be had from the Hub, so:")
        return _build_random(model, builds, calibration, scratch, say)


def _build_random(
    name: str, builds: Builds, calibration: Path, scratch: Path, say: Callable[[str], None]
) -> list[Path]:
    say(f"RANDOM WEIGHTS in the architecture of {name}: as fast as the real ones, no detector")
    vision = VISION_SHAPES[name]
    with tempfile.TemporaryDirectory(dir=scratch) as parent:
        # The card names the model by its folder.
        folder = Path(parent, f"{served_name(name)}-random-weights")
        write_clip(folder, clip_config(vision.tower, SMALLEST_TEXT, vision.projection))
        naming = ("--served-name", served_name(name))
        return _build(str(folder), builds, calibration, scratch, *naming)


def _build(
    model: str, builds: Builds, calibration: Path, scratch: Path, *naming: str
) -> list[Path]:
    store = scratch / "store"
    for options in builds:
        command = [sys.executable, str(SCRIPTS / "build_mar.py"), "--model", model]
        command += ["--export-path", str(store), *naming]
        command += [str(calibration) if word == CALIBRATION else word for word in options]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            raise BenchmarkError(f"no archive of {model}: {built.stderr.strip()}")
    return sorted(store.glob("*.mar"))


@dataclass(frozen=True)
class Unpacked:
    """An archive and its content.

    Attributes:
        path: Of the file.
        name: Served name and version.
        folder: Its content.
        card: The detector's.
        batch_size: Requests that a worker takes at once.
        label: What the figures are listed under.
    """

    path: Path
    name: ArchiveName
    folder: Path
    card: Card
    batch_size: int
    label: str


def unpack(paths: Sequence[Path], scratch: Path) -> list[Unpacked]:
    """Checks and unpacks archives.

    Args:
        paths: Of files as build_mar.py names them.
        scratch: Gets a folder for each.

    Returns:
        They, labelled by their precision, or by their file names where that would be the same.

    Raises:
        ArchiveError: One is damaged.
    """
    archives = [_unpack(path, scratch / str(number)) for number, path in enumerate(paths)]
    labels = [archive.label for archive in archives]
    return [
        archive
        if labels.count(archive.label) == 1
        else replace(archive, label=f"{archive.label} ({archive.path.stem})")
        for archive in archives
    ]


def _unpack(path: Path, folder: Path) -> Unpacked:
    name = inspect_archive(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    card = read_card(folder)
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    return Unpacked(path.resolve(), name, folder, card, int(config["batchSize"]), card.precision)
