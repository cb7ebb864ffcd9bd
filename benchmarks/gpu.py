"""Checks and measures this machine's GPU, in at most 8 minutes.

Float32 on the GPU against the CPU, both half precisions' deviation, images a second of our engine
beside plain transformers, compiled and not, whether decoding or the GPU is the bound, and a pass
that does not fit into the GPU's memory. It needs neither Java nor TorchServe, and no download: all
weights are random.
"""

import argparse
import platform
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from deepfake_tools.cli import CommandParser

from benchmarks import ROOT

PHOTOGRAPHS = sorted((ROOT / "examples").glob("*.jpg"))
IMAGES = 64
COMPILE_UNTIL_S = 300.0
"""After the start. What was being compiled then is finished, and measured."""

OK, UNEQUAL, NO_CUDA, NO_LIBRARY = 0, 1, 3, 4
LIBRARIES = {
    "cv2": "opencv-python-headless",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "torch": "torch",
    "transformers": "transformers",
}
EPILOG = f"""\
exit codes: {OK}, or {UNEQUAL} where something that must be equal is not, {NO_CUDA} without a CUDA \
device,
{NO_LIBRARY} without a library
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--seconds", type=_seconds, default=0.5, help="of each measurement (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 5")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    found = parse_arguments(arguments)
    missing = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    if missing:
        say(f"gpu.py needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        return NO_LIBRARY
    import torch

    if not torch.cuda.is_available():
        say(
            f"gpu.py: torch {torch.__version__} finds no CUDA device here; run it on a machine "
            "with an NVIDIA GPU and a torch built for CUDA"
        )
        return NO_CUDA
    return measure(found.seconds)


def measure(seconds: float) -> int:
    """Checks and measures everything, prints it, and returns the exit code."""
    import torch
    import transformers
    from clip_deepfake.system import available_cores

    from benchmarks.gpu_checks import compare, halve_on_cuda
    from benchmarks.gpu_models import B32, DINOV2, L14
    from benchmarks.gpu_report import GpuReport
    from benchmarks.gpu_speed import decoding_per_s, measure_speed
    from benchmarks.photographs import write_images

    device = torch.device("cuda", 0)
    deadline = time.monotonic() + COMPILE_UNTIL_S
    say("float32 and half precisions against the CPU")
    equalities = [one for model in (B32, DINOV2) for one in compare(model, device)]
    say("a pass without room for it")
    halving = halve_on_cuda(L14, device)
    speeds = []
    for model in (B32, L14):
        say(f"speed of {model.name}")
        speeds += measure_speed(model, device, seconds, deadline, say)
    say("decoding")
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        images = [path.read_bytes() for path in write_images(PHOTOGRAPHS, Path(scratch), IMAGES)]
    decoded = decoding_per_s(images, B32.side, 4 * seconds)
    machine = (
        f"{torch.cuda.get_device_name(device)}, {available_cores()} cores, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}; random weights, images of 640x480"
    )
    report = GpuReport(machine, equalities, halving, speeds, decoded, available_cores())
    print(report.text())
    return OK if report.holds else UNEQUAL


def say(text: str) -> None:
    """Prints how far the run is, or why there is none."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
