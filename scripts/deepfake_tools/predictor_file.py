"""Checks a dlib landmark predictor's file, in a process of its own.

dlib believes what a file says of its own size: a damaged one of a few bytes takes all memory there
is. So it is read first by a process that may take little memory and time, and may crash.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import clip_deepfake
from clip_deepfake.errors import LoadError
from clip_deepfake.face_detector import import_dlib
from clip_deepfake.faces import PointCount, load_predictor

MAX_BYTES = 512 * 1024 * 1024
"""The known predictor of 68 points has 100 MB, that of 81 points 20 MB."""

LIMIT_S = 60.0


def count_points(path: Path) -> PointCount:
    """Reads a landmark predictor in a process of its own.

    Args:
        path: of the file.

    Returns:
        68 or 81.

    Raises:
        LoadError: when dlib is not installed, or the file cannot be used.
    """
    import_dlib()
    _check_size(path)
    # The client runs from a checkout too, where nothing is installed.
    packages = str(Path(clip_deepfake.__path__[0]).parent)
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__, path],
            env=os.environ | {"PYTHONPATH": packages, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{path.name}: dlib did not read it within {LIMIT_S:g} s") from error
    if done.returncode < 0:
        raise LoadError(f"{path.name} is damaged: dlib crashed on it (signal {-done.returncode})")
    if done.returncode:
        raise LoadError((done.stderr.strip().splitlines() or ["no reason was given"])[-1])
    return cast(PointCount, int(done.stdout))


def _check_size(path: Path) -> None:
    # Here, since the process that reads the predictor has this file and the handler's alone.
    from deepfake_tools.untrusted_files import START_BYTES, what_instead

    try:
        # Opened, since a folder has a size as well.
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            meaning = what_instead(file.read(START_BYTES))
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from error
    if meaning:
        raise LoadError(f"{path.name} is not the landmark predictor, but {meaning}")
    if size > MAX_BYTES:
        raise LoadError(
            f"{path.name} has {size} bytes: a landmark predictor has no more than {MAX_BYTES}"
        )


def _limit_memory(path: Path) -> None:
    # macOS knows no such limit; there only the time is bounded.
    if sys.platform == "linux":
        import resource

        # Python and its libraries take under 1 GiB of addresses, a predictor about its file's size.
        most = 2 * 1024**3 + 4 * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(path: Path) -> int:
    """Prints how many points a predictor places, or why it cannot be used."""
    _limit_memory(path)
    try:
        print(load_predictor(path)[1])
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
