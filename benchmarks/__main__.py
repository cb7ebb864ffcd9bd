"""Measures how fast archives are, and how much faster than what one would do without this project.

Each archive's engine alone, from bytes to verdicts in one process, and served by a TorchServe of
its own, asked by a separate load process; with --versus the same weights behind LitServe, with
transformers and with OpenVINO, and in a new process per image. All in interleaved rounds, one at a
time; every answer is compared, and a wrong one voids the run.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from deepfake_tools.cli import CommandParser, at_least, say, seconds
from deepfake_tools.errors import ServiceError
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.torchserve.local_server import LocalServerError

from benchmarks import PHOTOGRAPHS, ROOT
from benchmarks.measurements import BenchmarkError

IMAGES = 16
CALIBRATION_IMAGES = 80
WARM_UP_S = 1.0

EPILOG = """\
examples:
  make benchmark                        archives made on the spot, random weights, and rivals
  %(prog)s --archive model_store/a@1.mar model_store/b@1.mar --plot speed.png
  %(prog)s --model openai/clip-vit-large-patch14 --clients 1,8 --rounds 1 --versus

The exit code says whether there are figures, not whether they reach the goals.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(prog="python -m benchmarks", description=__doc__, epilog=EPILOG)
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument(
        "--archive", type=Path, nargs="+", metavar="FILE.mar", help="measure these archives"
    )
    subject.add_argument(
        "--model",
        metavar="NAME",
        help="build archives of this one first; random weights where one of openai's four cannot "
        "be had from the Hub (default: ViT-B/32 with random weights)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="ask about these JPEGs (default: 640x480, made on the spot)",
    )
    parser.add_argument(
        "--clients",
        type=_counts,
        default=(1, 4, 16, 64),
        metavar="N,N",
        help="how many clients ask at a time, in turns (default: 1,4,16,64)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=3, help="measure so many times (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=8.0,
        help="how long each measurement takes (default: %(default)s)",
    )
    parser.add_argument("--versus", action="store_true", help="measure LitServe and scripts too")
    parser.add_argument(
        "--profile", action="store_true", help="show where a served request's time goes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput by clients")
    return parser.parse_args(arguments)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({at_least(1)(part) for part in text.split(",")}))


def check(arguments: argparse.Namespace) -> None:
    """Makes sure that nothing is missing at the end of a long run.

    Raises:
        MissingExtraError: A library is not installed.
        BenchmarkError: A file could not be written.
    """
    require_extra("python -m benchmarks", "psutil", "torch", "ts", extra="benchmark")
    if arguments.versus:
        require_extra("--versus", "litserve", "transformers", extra="benchmark")
    if arguments.plot:
        require_extra("--plot", "matplotlib", extra="benchmark")
    for path in filter(None, (arguments.json, arguments.plot)):
        if not path.resolve().parent.is_dir():
            raise BenchmarkError(f"there is no folder {path.resolve().parent} to write {path.name}")


def benchmark(arguments: argparse.Namespace, scratch: Path) -> None:
    """Measures what the command line asks for, prints it and writes the files."""
    check(arguments)
    # Their libraries are those of the extra.
    from benchmarks.archives import unpack
    from benchmarks.contenders import archive_contenders, line_up, measure
    from benchmarks.machine import describe_machine
    from benchmarks.measurements import RunSettings
    from benchmarks.report import BenchmarkReport, write_plot

    machine = describe_machine()
    settings = RunSettings(
        images=tuple(choose_images(arguments.images, scratch)),
        clients=arguments.clients,
        seconds=arguments.seconds,
        warm_up_s=min(WARM_UP_S, arguments.seconds),
        gpu=0 if machine.gpus else None,
        bfloat16=machine.has_bfloat16,
        config=ROOT / "config.properties",
        scratch=scratch,
    )
    paths = choose_archives(arguments, scratch, bfloat16=machine.has_bfloat16)
    archives = archive_contenders(unpack(paths, scratch), settings, stages=arguments.profile)
    contenders = line_up(archives, settings, versus=arguments.versus)
    measurements = measure(contenders, settings, arguments.rounds, say)
    report = BenchmarkReport(machine, settings, arguments.rounds, archives, measurements)
    print(report.text())
    if arguments.json:
        report.write_json(arguments.json)
    if arguments.plot:
        model, cores = archives[0].archive.card.model.name, f"{machine.cores} cores"
        write_plot(arguments.plot, report.medians, f"{model}, {machine.cpu}, {cores}")


def choose_images(folder: Path | None, scratch: Path) -> list[Path]:
    """Returns the images to ask about."""
    from benchmarks.photographs import find_images, write_images

    return find_images(folder) if folder else write_images(PHOTOGRAPHS, scratch / "images", IMAGES)


def choose_archives(arguments: argparse.Namespace, scratch: Path, *, bfloat16: bool) -> list[Path]:
    """Returns the archives to measure, built where none is given."""
    from benchmarks.archives import BFLOAT16_BUILD, BUILDS, build_archives
    from benchmarks.photographs import write_images

    if arguments.archive:
        return list(arguments.archive)
    write_images(PHOTOGRAPHS, scratch / "calibration", CALIBRATION_IMAGES)
    builds = (*BUILDS, BFLOAT16_BUILD) if bfloat16 else BUILDS
    return build_archives(arguments.model, builds, scratch / "calibration", scratch, say)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    found = parse_arguments(arguments)
    # What ends a run by a signal has servers to end first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with reliable_interrupts(), tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            benchmark(found, Path(scratch))
    except (BenchmarkError, MissingExtraError, LocalServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except ServiceError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"benchmarks: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted; the servers are stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
