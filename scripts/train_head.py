#!/usr/bin/env python3
"""Trains a linear head on a CLIP's features of real and fake images, and writes it to a file."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import Feature
from deepfake_tools.cli import CommandParser, rate, script_command, seed
from deepfake_tools.errors import OutputError
from deepfake_tools.face_options import add_face_options, read_face_options
from deepfake_tools.files import SameFileError, check_outputs, is_kept
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.labels import LabelError
from deepfake_tools.memory import REMEDY, is_out_of_memory
from deepfake_tools.packaging.heads import TrainedHead
from deepfake_tools.packaging.hub import DEFAULT_MODEL, BuildError
from deepfake_tools.packaging.presets import PRESETS
from deepfake_tools.training.dataset import TrainingError, require_data

EPILOG = """\
examples:
  train_head.py --data faces                     faces/real/clip_01/*.png, faces/fake/clip_02/*.png
  train_head.py --labels faces.csv --target-fpr 0.01
  build_mar.py --weights head.safetensors        packages what came of it

labels:
  The names of the directories between DIR and an image are read as words, split at case, digits
  and punctuation: real, original; fake, deepfake, synthesis, synthetic, manipulated; Deepfakes,
  Face2Face, FaceSwap, NeuralTextures, FaceShifter; nature and ai where the name has no other
  word. Directories that disagree are an error; one whose own name says both leaves its images
  without a label. Or a CSV file with the header path,label, paths relative to the file, labels 0,
  1, real, fake.

Put the frames of each video into a folder of their own: a folder never stands on both sides of a
split. Features are kept in --cache as they come: after Ctrl-C the same command goes on.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    images = parser.add_argument_group("images")
    images.add_argument("--data", type=Path, metavar="DIR", help="images in it and below it")
    images.add_argument("--labels", type=Path, metavar="FILE.csv", help="in place of directories")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="Hub name or local folder (default: %(default)s)",
    )
    model.add_argument("--revision", help="branch, tag or commit of a Hub model (default: main)")
    model.add_argument(
        "--preprocess",
        metavar="PRESET|FILE.json",
        help=f"own, {', '.join(PRESETS)}, or a JSON file (default: squash for a CLIP, own for "
        "others)",
    )
    model.add_argument(
        "--feature",
        choices=get_args(Feature),
        help="what the head reads (default: the pooled output, where there is one)",
    )
    add_face_options(parser, several=False)
    head = parser.add_argument_group("head")
    head.add_argument(
        "--output",
        type=Path,
        default=Path("head.safetensors"),
        metavar="FILE",
        help="(default: %(default)s)",
    )
    head.add_argument(
        "--target-fpr",
        type=rate,
        metavar="RATE",
        help="share of real images that may be called fake, such as 0.01 (default: the threshold "
        "of the best balanced accuracy)",
    )
    head.add_argument("--seed", type=seed, default=0, help="of the splits (default: %(default)s)")
    head.add_argument(
        "--cache",
        type=Path,
        default=Path("feature_cache"),
        metavar="DIR",
        help="features by image and encoder (default: %(default)s)",
    )
    found = parser.parse_args(arguments)
    if found.data is None and found.labels is None:
        parser.error("give --data DIR, --labels FILE.csv, or both")
    found.faces = read_face_options(parser, found)
    return found


def train(arguments: argparse.Namespace) -> TrainedHead:
    """Trains what the command line asks for."""
    try:
        import sklearn  # noqa: F401 - says what is missing before anything takes its time
    except ModuleNotFoundError as error:
        raise TrainingError("scikit-learn is not installed: pip install -e '.[train]'") from error
    require_data(arguments.data, arguments.labels)
    # Not after minutes of training.
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    read = [] if arguments.labels is None else [("--labels", arguments.labels)]
    check_outputs([("--output", arguments.output)], read)
    from deepfake_tools.training.head_training import TrainingOptions
    from deepfake_tools.training.head_training import train as run

    options = TrainingOptions(
        model=arguments.model,
        revision=arguments.revision,
        data=arguments.data,
        labels=arguments.labels,
        output=arguments.output,
        preset=arguments.preprocess,
        feature=arguments.feature,
        target_fpr=arguments.target_fpr,
        cache=arguments.cache,
        seed=arguments.seed,
        faces=arguments.faces,
    )
    return run(options, say=lambda text: print(text, file=sys.stderr))


def describe(trained: TrainedHead, arguments: argparse.Namespace) -> str:
    """What a person wants to know of a new head, the next command included."""
    history, data, unseen = trained.history, trained.history.data, trained.history.held_out
    images = f"{data.real} real, {data.fake} fake, in {data.folders} folders"
    left_out = f"{data.broken} broken, {data.repeated} repeated"
    thresholds = f"{history.balanced_threshold:.4f} for the best balanced accuracy"
    if history.target_fpr_threshold is not None:
        rate = f"a false-positive rate of {history.target_fpr:g}"
        thresholds = f"{history.target_fpr_threshold:.4f} for {rate} (used), {thresholds}"
    digest = file_digest(arguments.output) if is_kept(arguments.output) else "none: no file is kept"
    # A local folder's name in the head does not say where the folder is.
    words = [] if trained.model.commit else ["--model", arguments.model]
    if trained.faces is not None:
        words += ["--landmark-model", arguments.landmark_model]
    build = script_command("build_mar.py", *words, "--weights", arguments.output)
    return "\n".join(
        [
            f"head         {arguments.output}",
            f"sha256       {digest}",
            f"model        {trained.model.name}, commit {trained.model.commit or 'none'}",
            f"images       {images}; left out: {left_out}",
            f"strength     C = {history.strength:g}",
            f"validated    AUC {history.cross_validated_auc:.4f} +- "
            f"{history.cross_validated_auc_std:.4f} in {history.folds} folds, by "
            f"{history.kept_together}",
            f"held out     {unseen.real} real, {unseen.fake} fake: AUC {unseen.auc:.4f}, "
            f"PR-AUC {unseen.pr_auc:.4f}, accuracy {unseen.accuracy:.4f}",
            f"threshold    {thresholds}",
            f"next         {build}",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    found = parse_arguments(arguments)
    try:
        with reliable_interrupts():
            trained = train(found)
    except (BuildError, LabelError, OutputError, SameFileError, TrainingError) as error:
        print(f"train_head.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"train_head.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"train_head.py: {REMEDY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\ntrain_head.py: interrupted; what was computed is in {found.cache}, and the same "
            "command goes on from there",
            file=sys.stderr,
        )
        return 130
    print(describe(trained, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
