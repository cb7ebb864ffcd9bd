"""A model's name in, the archives to measure out: of the Hub's weights, or of random ones."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from deepfake_tools.benchmarking.cells import BenchmarkError
from deepfake_tools.benchmarking.child import SCRIPTS
from deepfake_tools.sources import DEFAULT_MODEL
from deepfake_tools.standin import VISION_SHAPES, clip_config, tower_shape, write_clip
from deepfake_tools.torchserve import served_name

# What each archive is built with, further options of build_mar.py.
BUILDS: tuple[tuple[str, ...], ...] = (("--precision", "float32"),)

# Nobody reads the text tower, so it is as small as it can be.
TEXT = tower_shape(64, layers=1, heads=1, vocab_size=16)


def build_archives(model: str | None, scratch: Path, say: Callable[[str], None]) -> list[Path]:
    """Builds the archives of `BUILDS`.

    Args:
        model: Hub name or local folder; None is the default model's architecture with random
            weights, for which nothing is downloaded.
        scratch: Gets the archives, and the random weights where there are some.
        say: Told whose weights they are.

    Raises:
        BenchmarkError: There is no such model, nor a known architecture of that name.
    """
    if model is None:
        return _build_random(DEFAULT_MODEL, scratch, say)
    try:
        return _build(model, scratch)
    except BenchmarkError as error:
        if model not in VISION_SHAPES:
            raise
        say(f"{error}\n{model} cannot be had from the Hub, so:")
        return _build_random(model, scratch, say)


def _build_random(name: str, scratch: Path, say: Callable[[str], None]) -> list[Path]:
    say(f"RANDOM WEIGHTS in the architecture of {name}: as fast as the real ones, no detector")
    vision = VISION_SHAPES[name]
    with tempfile.TemporaryDirectory(dir=scratch) as parent:
        # The card names the model by its folder.
        folder = Path(parent, f"{served_name(name)}-random-weights")
        write_clip(folder, clip_config(vision.tower, TEXT, vision.projection))
        return _build(str(folder), scratch, "--served-name", served_name(name))


def _build(model: str, scratch: Path, *naming: str) -> list[Path]:
    store = scratch / "store"
    for options in BUILDS:
        command = [sys.executable, str(SCRIPTS / "build_mar.py"), "--model", model]
        command += ["--export-path", str(store), *naming, *options]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            raise BenchmarkError(f"no archive of {model}: {built.stderr.strip()}")
    return sorted(store.glob("*.mar"))
