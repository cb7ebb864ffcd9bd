#!/usr/bin/env python3
"""Trains a detector on real and fake images and videos: a head, or an encoder with its head."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import Feature, TrainingHistory, TuningHistory
from deepfake_tools.cli import CommandParser, at_least, given, rate, say, script_command, seed
from deepfake_tools.errors import OutputError
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.face_options import add_face_options, read_face_options
from deepfake_tools.files import SameFileError, check_outputs, is_kept
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.labels import LabelError
from deepfake_tools.memory import REMEDY, is_out_of_memory
from deepfake_tools.packaging.heads import TrainedHead
from deepfake_tools.packaging.hub import DEFAULT_MODEL, BuildError
from deepfake_tools.packaging.presets import PRESETS
from deepfake_tools.training.dataset import TrainingError, require_data
from deepfake_tools.training.held_out import HELD_OUT, list_beside
from deepfake_tools.training.video_frames import FRAMES

if TYPE_CHECKING:
    from deepfake_tools.training.head_training import TrainingOptions

REFUSALS = (
    BuildError,
    LabelError,
    MissingExtraError,
    OutputError,
    SameFileError,
    TrainingError,
)

METHODS = ("head", "layernorm", "svd", "lora", "full")

EPILOG = """\
examples:
  train.py --data faces                          a head: faces/real/clip_01/*.png, faces/fake/...
  train.py --data videos --frames 16             videos/real/*.mp4, videos/fake/*.mp4
  train.py --labels faces.csv --target-fpr 0.01
  train.py --data faces --method layernorm --output tuned
  train.py --data faces --method layernorm --output tuned --resume
  build_mar.py --weights head.safetensors        packages what came of it
  build_mar.py --weights tuned

methods:
  head       logistic regression on the features of the encoder as it is; writes a file
  layernorm  the encoder's LayerNorms (GenD); the other methods write a folder
  svd        the smallest singular direction of each matrix of attention (Effort)
  lora       low-rank adapters of each matrix of attention
  full       everything

labels:
  The names of the directories between DIR and an image are read as words, split at case, digits
  and punctuation: real, original; fake, deepfake, synthesis, synthetic, manipulated; Deepfakes,
  Face2Face, FaceSwap, NeuralTextures, FaceShifter; nature and ai where the name has no other
  word. Directories that disagree are an error; one whose own name says both leaves its images
  without a label. Or a CSV file with the header path,label, paths relative to the file, labels 0,
  1, real, fake.

A video is labelled as an image is. Neither its frames nor the images of one folder stand on both
sides of a split: put frames that you have cut yourself into a folder for each video. Frames,
features and aligned faces are kept in --cache as they come: after Ctrl-C the same command goes on
with a head, and with --resume the same command goes on with an encoder.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--method", choices=METHODS, default="head", help="what is trained (default: %(default)s)"
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="learn from the images and videos in it and below it",
    )
    labels_help = "take images and labels from this file, not from directories' names"
    images.add_argument("--labels", type=Path, metavar="FILE.csv", help=labels_help)
    images.add_argument(
        "--frames",
        type=at_least(1),
        default=FRAMES,
        metavar="N",
        help="how many frames of each video are taken, evenly spread (default: %(default)s)",
    )
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
    result = parser.add_argument_group("result")
    result.add_argument(
        "--output",
        type=Path,
        metavar="FILE|DIR",
        help="file of a head, folder of an encoder (default: head.safetensors, or the method's "
        "name)",
    )
    result.add_argument(
        "--target-fpr",
        type=rate,
        metavar="RATE",
        help="share of real images that may be called fake, such as 0.01 (default: the threshold "
        "of the best balanced accuracy)",
    )
    result.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="decides the splits, the order and the augmentation (default: %(default)s)",
    )
    result.add_argument(
        "--cache",
        type=Path,
        default=Path("feature_cache"),
        metavar="DIR",
        help="keep features, aligned faces and frames of videos here (default: %(default)s)",
    )
    _add_tuning_options(parser)
    found = parser.parse_args(arguments)
    if found.data is None and found.labels is None:
        parser.error("give --data DIR, --labels FILE.csv, or both")
    if found.method == "head" and (odd := given(found, *TUNING_OPTIONS)):
        parser.error(f"{odd[0]} is for the methods that train an encoder: give --method too")
    if found.output is None:
        found.output = Path("head.safetensors" if found.method == "head" else found.method)
    found.faces = read_face_options(parser, found)
    return found


TUNING_OPTIONS = (
    "validation",
    "recipe",
    "epochs",
    "batch_size",
    "learning_rate",
    "no_augmentation",
    "accumulate",
    "checkpoint_activations",
    "bfloat16",
    "workers",
    "save_every",
    "tensorboard",
    "resume",
)


def _add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """Adds what only the methods that train an encoder take; none has a default but its absence."""
    group = parser.add_argument_group("training of an encoder")
    add = group.add_argument
    add(
        "--validation",
        type=Path,
        metavar="DIR",
        help="images that choose the epoch and judge the result (default: parts of the others, "
        "divided by folder)",
    )
    add("--recipe", type=Path, metavar="FILE.json", help="replace fields of the method's recipe")
    epochs_help = "train for at most so many epochs (default: the recipe's)"
    add("--epochs", type=at_least(1), metavar="N", help=epochs_help)
    add(
        "--batch-size",
        type=at_least(2),
        metavar="N",
        help="images of a step, half of them real (default: the recipe's)",
    )
    add(
        "--learning-rate",
        type=_positive,
        metavar="RATE",
        help="how fast it learns (default: the recipe's)",
    )
    add("--no-augmentation", action="store_true", help="train on the images as they are")
    add(
        "--accumulate",
        type=at_least(1),
        metavar="N",
        help="compute a batch in N parts, which takes less memory (default: 1)",
    )
    add(
        "--checkpoint-activations",
        action="store_true",
        help="compute activations twice instead of keeping them, which takes less memory",
    )
    add("--bfloat16", action="store_true", help="compute products in bfloat16")
    add(
        "--workers",
        type=at_least(0),
        metavar="N",
        help="processes that decode images (default: one for every four cores)",
    )
    add(
        "--save-every",
        type=at_least(1),
        metavar="STEPS",
        help="keep a checkpoint after so many steps, and after each epoch (default: 200)",
    )
    add("--tensorboard", type=Path, metavar="DIR", help="write logs for TensorBoard there")
    add("--resume", action="store_true", help="go on where a run into --output ended")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0, up to 1")
    return value


def train(arguments: argparse.Namespace) -> TrainedHead | None:
    """Trains what the command line asks for; returns None in a process that helps another."""
    try:
        import sklearn  # noqa: F401 - says what is missing before anything takes its time
    except ModuleNotFoundError as error:
        raise TrainingError("scikit-learn is not installed: pip install -e '.[train]'") from error
    require_data(arguments.data, arguments.labels)
    if arguments.method != "head":
        return _tune(arguments)
    # Not after minutes of training.
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    read = [] if arguments.labels is None else [("--labels", arguments.labels)]
    written = [("--output", arguments.output)]
    if is_kept(arguments.output):
        written.append(("the list of held-out images", list_beside(arguments.output)))
    check_outputs(written, read)
    from deepfake_tools.training.head_training import train as run

    return run(_common(arguments), say=say)


def _tune(arguments: argparse.Namespace) -> TrainedHead | None:
    """Trains an encoder with its head."""
    if arguments.output.exists() and not arguments.output.is_dir():
        raise TrainingError(f"--output {arguments.output} is a file; an encoder needs a folder")
    if (arguments.output / "head.safetensors").exists():
        raise TrainingError(f"--output {arguments.output} holds a detector: take another folder")
    if arguments.validation is not None:
        require_data(arguments.validation, None)
    require_extra(f"--method {arguments.method}", extra="tune")
    if arguments.tensorboard is not None:
        require_extra("--tensorboard", extra="tensorboard")
    from deepfake_tools.training.loop import LoopOptions
    from deepfake_tools.training.pixels import default_workers
    from deepfake_tools.training.recipes import read_recipe
    from deepfake_tools.training.tuning import TuningOptions, checkpoints_of, tune

    changes: dict[str, object] = {
        name: value
        for name in ("epochs", "batch_size", "learning_rate")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.no_augmentation:
        changes["augmentation"] = {}
    loop = LoopOptions(
        folder=checkpoints_of(arguments.output),
        accumulate=arguments.accumulate or 1,
        checkpointing=arguments.checkpoint_activations,
        bfloat16=arguments.bfloat16,
        workers=default_workers() if arguments.workers is None else arguments.workers,
        save_every=arguments.save_every or 200,
        tensorboard=arguments.tensorboard,
    )
    options = TuningOptions(
        common=_common(arguments),
        recipe=read_recipe(arguments.method, arguments.recipe, changes),
        loop=loop,
        validation=arguments.validation,
        resume=arguments.resume,
    )
    return tune(options, say)


def _common(arguments: argparse.Namespace) -> "TrainingOptions":
    from deepfake_tools.training.head_training import TrainingOptions

    return TrainingOptions(
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
        frames=arguments.frames,
    )


def describe(trained: TrainedHead, arguments: argparse.Namespace) -> str:
    """What a person wants to know of a new detector, the next command included."""
    lines = _of_head(trained, arguments) if trained.history else _of_encoder(trained, arguments)
    return "\n".join([*lines, _next(trained, arguments)])


def _of_head(trained: TrainedHead, arguments: argparse.Namespace) -> list[str]:
    history = trained.history
    assert history is not None  # the only caller looked
    data, unseen = history.data, history.held_out
    images = f"{data.real} real, {data.fake} fake, in {data.folders} folders"
    left_out = f"{data.broken} broken, {data.repeated} repeated"
    digest = file_digest(arguments.output) if is_kept(arguments.output) else "none: no file is kept"
    return [
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
        *_listed(list_beside(arguments.output) if is_kept(arguments.output) else None),
        f"threshold    {_thresholds(history)}",
    ]


def _of_encoder(trained: TrainedHead, arguments: argparse.Namespace) -> list[str]:
    from deepfake_tools.training.tuning import describe_scores

    history = trained.tuning
    assert history is not None  # the head's file has one or the other
    data, base, unseen = history.data, history.base, history.held_out
    images = f"{data.real} real, {data.fake} fake, in {data.folders} folders"
    return [
        f"detector     {arguments.output}",
        f"sha256       {trained.model.weights_sha256} of {trained.model.weights_file}",
        f"model        {base.name}, commit {base.commit or 'none'}",
        f"method       {history.method}, {history.trained_parameters:,} numbers trained",
        f"images       {images}; left out: {data.broken} broken, {data.repeated} repeated",
        f"epochs       {history.epochs}, the best is {history.best_epoch}: validation AUC "
        f"{history.validation_auc:.4f}, chosen by the {history.chosen_by}",
        f"held out     {unseen.real} real, {unseen.fake} fake: {describe_scores(unseen)}",
        *_listed(arguments.output / HELD_OUT),
        f"before       a head on the encoder as it was: {describe_scores(history.frozen)}",
        f"threshold    {_thresholds(history)}",
    ]


def _listed(held_out: Path | None) -> list[str]:
    """Says where the held-out images are listed, if anywhere, and what the list is good for."""
    if held_out is None:
        return []
    return [f"listed in    {held_out}, which client.py and evaluate.py take as --labels"]


def _thresholds(history: TrainingHistory | TuningHistory) -> str:
    balanced = f"{history.balanced_threshold:.4f} for the best balanced accuracy"
    if history.target_fpr_threshold is None:
        return balanced
    rate = f"a false-positive rate of {history.target_fpr:g}"
    return f"{history.target_fpr_threshold:.4f} for {rate} (used), {balanced}"


def _next(trained: TrainedHead, arguments: argparse.Namespace) -> str:
    # A local folder's name in the head does not say where the folder is.
    words = [] if trained.model.commit or trained.tuning else ["--model", arguments.model]
    if trained.faces is not None:
        words += ["--landmark-model", arguments.landmark_model]
    build = script_command("build_mar.py", *words, "--weights", arguments.output)
    return f"next         {build}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    found = parse_arguments(arguments)
    try:
        with reliable_interrupts():
            trained = train(found)
    except REFUSALS as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"train.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"train.py: {_memory_remedy(found)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        more = "" if found.method == "head" else " with --resume"
        print(
            f"\ntrain.py: interrupted; what was computed is in {found.cache}"
            + (f" and {found.output}" if more else "")
            + f", and the same command{more} goes on from there",
            file=sys.stderr,
        )
        return 130
    if trained is not None:
        print(describe(trained, found))
    return 0


def _memory_remedy(found: argparse.Namespace) -> str:
    if found.method == "head":
        return REMEDY
    size = f"a batch of {found.batch_size}" if found.batch_size else "the recipe's batch"
    return (
        f"the memory was not enough for {size}: give --checkpoint-activations, --accumulate, or a "
        "smaller --batch-size; --resume goes on where the run ended"
    )


if __name__ == "__main__":
    sys.exit(main())
