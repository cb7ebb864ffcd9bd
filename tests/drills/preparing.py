"""What the command line asks for in, the ground of all drills out."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deepfake_tools.demonstration.random_clip import (
    SMALLEST_TEXT,
    VISION_SHAPES,
    clip_config,
    tower_shape,
    write_clip,
)
from deepfake_tools.inspection import inspect_archive, served_name
from deepfake_tools.packaging.hub import DEFAULT_MODEL

from tests import ROOT
from tests.drills.drill import Ground

BUILD = ROOT / "scripts" / "build_mar.py"

SMALL = tower_shape(64, layers=2, heads=4, image_size=32, patch_size=8)
SMALL_PROJECTION = 40
SHORT_TIMEOUT_S = 3


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
    command = [sys.executable, str(BUILD), "--model", str(model), "--export-path", str(store)]
    command += ["--served-name", "small" if short else served_name(DEFAULT_MODEL)]
    command += ["--response-timeout", str(SHORT_TIMEOUT_S)] if short else []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
