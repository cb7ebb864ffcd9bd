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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake_tools.cli import CommandParser, say, seconds

from benchmarks import PHOTOGRAPHS

if TYPE_CHECKING:
    from benchmarks.gpu_checks import Equality, Halving
    from benchmarks.gpu_speed import Speed

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
        "--seconds",
        type=partial(seconds, most=5),
        default=0.5,
        help="how long each measurement takes (default: %(default)s)",
    )
    return parser.parse_args(arguments)


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


@dataclass(frozen=True)
class GpuReport:
    """What was found on a GPU.

    Attributes:
        machine: What it ran on, in a line.
        equalities: Of every model and precision.
        halving: What became of a pass without room.
        speeds: Of every model, contender and size.
        decoded_per_s: Images a second that all cores decode and resize.
        cores: How many they are.
    """

    machine: str
    equalities: Sequence["Equality"]
    halving: "Halving"
    speeds: Sequence["Speed"]
    decoded_per_s: float
    cores: int

    @property
    def holds(self) -> bool:
        """Whether everything that must be equal is."""
        return self.halving.holds and all(one.holds for one in self.equalities)

    def text(self) -> str:
        """Everything, as Markdown."""
        from benchmarks.gpu_checks import equality_table
        from benchmarks.gpu_speed import bounds_text, speed_table

        return "\n\n".join(
            [
                self.machine,
                equality_table(self.equalities),
                str(self.halving),
                speed_table(self.speeds),
                bounds_text(self.speeds, self.decoded_per_s, self.cores),
            ]
        )


def measure(seconds_each: float) -> int:
    """Checks and measures everything, prints it, and returns the exit code."""
    import torch
    import transformers
    from clip_deepfake.system import available_cores

    from benchmarks.gpu_checks import compare, halve_on_cuda
    from benchmarks.gpu_models import B32, DINOV2, L14
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
        speeds += measure_speed(model, device, seconds_each, deadline, say)
    say("decoding")
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        images = [path.read_bytes() for path in write_images(PHOTOGRAPHS, Path(scratch), IMAGES)]
    decoded = decoding_per_s(images, B32.side, 4 * seconds_each)
    machine = (
        f"{torch.cuda.get_device_name(device)}, {available_cores()} cores, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}; random weights, images of 640x480"
    )
    report = GpuReport(machine, equalities, halving, speeds, decoded, available_cores())
    print(report.text())
    return OK if report.holds else UNEQUAL


if __name__ == "__main__":
    sys.exit(main())
