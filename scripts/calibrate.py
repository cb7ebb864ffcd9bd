#!/usr/bin/env python3
"""Finds the threshold that holds a rate of false alarms on your own real images and videos."""

import argparse
import sys
from pathlib import Path

# A clone is enough where the libraries are: the detector's package need not be installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "handler"))

from deepfake_tools.cli import CommandParser, at_least, positive_rate, script_command
from deepfake_tools.client.face_crops import (
    LandmarksError,
    add_alignment_options,
    load_cutter,
)
from deepfake_tools.client.target import read_target
from deepfake_tools.deciding.calibrating import DecidingError, Judged, Rates, decide
from deepfake_tools.deciding.conformal import TooFewImagesError
from deepfake_tools.deciding.description import describe
from deepfake_tools.deciding.scoring import ScoringError, score_archive, score_served
from deepfake_tools.deciding.selection import SelectionError, refuse_both, select
from deepfake_tools.errors import ServiceError
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.files import SameFileError, check_outputs, replacing_bytes
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.labels import FAKE, REAL, LabelError
from deepfake_tools.torchserve.options import add_connection_options

USAGE_ERRORS = (
    DecidingError,
    LabelError,
    LandmarksError,
    MissingExtraError,
    SameFileError,
    ScoringError,
    SelectionError,
    TooFewImagesError,
)
EPILOG = """\
examples:
  calibrate.py --model openai/clip-vit-base-patch32 --reals my-photographs
  calibrate.py --archive model_store/mine@1.mar --reals data/real --fakes data/fake --unsure 0.05
  build_mar.py --weights head.safetensors --decision decision.json      puts it onto the card

The real images must be like those that the detector will be asked about: from the same cameras,
apps and sites, saved in the same way. A video counts as one image, the frame in its middle. Labels
are read off the directories' names as everywhere, so that fakes among the reals are refused where a
name tells.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    detector = parser.add_mutually_exclusive_group(required=True)
    detector.add_argument("--model", metavar="NAME", help="Hub name or served name of what answers")
    detector.add_argument(
        "--archive", type=Path, metavar="FILE.mar", help="score by it here, without a server"
    )
    add("--version", metavar="V", help="the version to ask (the default one)")
    add("--reals", type=Path, required=True, metavar="DIR", help="your real images and videos")
    add("--fakes", type=Path, metavar="DIR", help="fake ones, to see what is missed")
    add(
        "--false-alarms",
        type=positive_rate,
        default=0.01,
        metavar="RATE",
        help="share of real images that may be called FAKE (%(default)s)",
    )
    add(
        "--unsure",
        type=positive_rate,
        metavar="RATE",
        help="call neither what is below the threshold and yet: with --fakes, above all but this "
        "share of the fakes; without, among this share of the most fake real images (no such band)",
    )
    add(
        "--one-per",
        choices=("auto", "image", "folder"),
        default="auto",
        help="whether each image counts, or one of each folder; auto takes for videos the folders "
        "whose images have one name but for its digits, where there are several such folders",
    )
    output_help = "where the decision is written (%(default)s)"
    add("--output", type=Path, default=Path("decision.json"), metavar="FILE", help=output_help)
    add_alignment_options(parser)
    add("--concurrency", type=at_least(1), default=16, metavar="N", help="requests at a time (16)")
    retries_help = "how often a lost request is sent again (6)"
    add("--retries", type=at_least(0), default=6, metavar="N", help=retries_help)
    add_connection_options(parser, timeout=60)
    found = parser.parse_args(arguments)
    if found.archive is not None and (found.version or found.landmark_model):
        parser.error("--version and --landmark_model are for --model NAME")
    return found


def calibrate(arguments: argparse.Namespace) -> list[str]:
    """Scores the images, writes the decision, and returns what a person wants to know of it."""
    require_extra("calibrate.py", "numpy", "scipy")
    check_outputs([("--output", arguments.output)])
    cut = load_cutter(arguments)
    reals = select(arguments.reals, REAL, arguments.one_per)
    fakes = None if arguments.fakes is None else select(arguments.fakes, FAKE, arguments.one_per)
    if fakes is not None:
        refuse_both(reals, fakes)
    for selection in (reals, fakes):
        if selection is not None and (note := selection.note()):
            print(note, file=sys.stderr)
    images = [one.image for kind in (reals, fakes) if kind is not None for one in kind.chosen]
    if arguments.archive is not None:
        scored = score_archive(arguments.archive, images)
    else:
        scored = score_served(read_target(arguments, cut), images)
    decision = decide(
        scored.detector,
        Rates(arguments.false_alarms, arguments.unsure),
        Judged.of(reals.chosen, scored.margins),
        None if fakes is None else Judged.of(fakes.chosen, scored.margins, len(reals.chosen)),
    )
    with replacing_bytes(arguments.output) as file:
        file.write(decision.to_json())
    build = script_command("build_mar.py", "--decision", arguments.output)
    return [
        *describe(decision, scored),
        f"written      {arguments.output}",
        f"next         {build} and the options that the archive was built with",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    found = parse_arguments(arguments)
    try:
        with reliable_interrupts():
            lines = calibrate(found)
    except USAGE_ERRORS as error:
        print(f"calibrate.py: {error}", file=sys.stderr)
        return 1
    except ServiceError as error:
        print(f"calibrate.py: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"calibrate.py: {error.filename or found.output}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("calibrate.py: interrupted; no decision was written", file=sys.stderr)
        return 130
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
