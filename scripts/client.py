"""Asks a served deepfake detector about images: files and folders in, predictions and AUC out."""

import argparse
import io
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

# A clone and `requests` are enough: the detector's package need not be installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "handler"))

from deepfake_tools.cli import (
    CommandParser,
    at_least,
    fraction,
    given,
    script_command,
    seconds,
)
from deepfake_tools.client.asker import DetectorChangedError
from deepfake_tools.client.console import Console
from deepfake_tools.client.diagnosis import only_model
from deepfake_tools.client.explaining import NoExplanationError, explain_all, to_explain
from deepfake_tools.client.face_crops import (
    AlignedTwiceError,
    LandmarksError,
    add_alignment_options,
    load_cutter,
)
from deepfake_tools.client.images import Collection, CollectionError, collect
from deepfake_tools.client.journal import Identity, Journal, JournalError, open_journal
from deepfake_tools.client.run import Ending, ask_all
from deepfake_tools.client.target import read_target
from deepfake_tools.client.videos import take_apart
from deepfake_tools.errors import ModelNotServedError, ServiceError, exit_code_table, one_line
from deepfake_tools.evaluation.export import Files
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.output_options import (
    add_output_options,
    named_files,
    require_output_libraries,
)
from deepfake_tools.evaluation.perturbations import (
    EXAMPLE,
    Perturbation,
    PerturbedRun,
    perturbations,
)
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.evaluation.stability import CHANGES, merged, share_held
from deepfake_tools.evaluation.terminal import figure_lines, warning_lines
from deepfake_tools.evaluation.training_images import are_training_images
from deepfake_tools.evaluation.videos import VIDEO_SCORES, VideoScoring, failures
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.files import SameFileError
from deepfake_tools.inspection import served_name
from deepfake_tools.interrupts import Interruption
from deepfake_tools.labels import LabelError
from deepfake_tools.torchserve.api import MANAGEMENT_ADDRESS
from deepfake_tools.torchserve.options import add_connection_options
from deepfake_tools.videos.sampling import MANY, FrameChoice

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
SIGNALLED = 128
FEW = 100
USAGE_ERRORS = (CollectionError, LabelError, LandmarksError, MissingExtraError, SameFileError)
EPILOG = f"""\
examples:
  python scripts/client.py --image photo.jpg
  python scripts/client.py --model openai/clip-vit-large-patch14 --image a.jpg b.png
  python scripts/client.py --image data --limit 1000 --json results.json --report report.html

An image's true label is read off the directories between it and the deepest folder that holds
everything given. Their names are read as words, split at case, digits and punctuation: real,
original; fake, deepfake, synthesis, synthetic, manipulated; Deepfakes, Face2Face, FaceSwap,
NeuralTextures, FaceShifter; nature and ai where the name has no other word. Directories that
disagree are an error; one whose own name says both leaves its images without a label.

{exit_code_table()}
  {JournalError.exit_code:>3}  {JournalError.meaning}
  {DetectorChangedError.exit_code:>3}  {DetectorChangedError.meaning}
  {AlignedTwiceError.exit_code:>3}  {AlignedTwiceError.meaning}
  {NoExplanationError.exit_code:>3}  {NoExplanationError.meaning}
  130  interrupted (by another signal: 128 and its number)
Whatever ended a run, the results file holds what was done. --resume goes on from there, after 18
only while the first detector answers.
"""


def main() -> int:
    """Asks about each image, writes what came of it, and returns the exit code."""
    parser = make_parser()
    args = parser.parse_args()
    if args.unnamed:
        typed = script_command("client.py", "--image", *(args.image or ()), *args.unnamed)
        parser.error(f"{args.unnamed[0]}: images are named by --image, as in {typed}")
    if not args.image:
        parser.error("the following arguments are required: --image")
    if args.seed is not None and args.limit is None:
        parser.error("--seed is for --limit N: all images are asked about without it")
    try:
        require_libraries(args)
        args.cut = load_cutter(args)
        collection = collect(args.image, args.labels, args.limit, args.seed or 0, videos=True)
        args.files = output_files(args, collection)
    except USAGE_ERRORS as error:
        parser.error(str(error))
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    note_what_is_odd(args, collection)
    try:
        return run(args, with_frames(args, collection))
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    name_help = f"Hub name or served name (the only one that is served, else {DEFAULT_MODEL})"
    add("--model", metavar="NAME", help=name_help)
    add("--version", metavar="V", help="the version to ask (the default one)")
    image_help = (
        "images, videos, folders (those in them, else those below), 'patterns', .txt lists of these"
    )
    add("--image", nargs="+", metavar="PATH", help=image_help)
    # `client.py photo.jpg` is told how, rather than that an option is missing.
    add("unnamed", nargs="*", help=argparse.SUPPRESS)
    add_selection_options(parser)
    add_video_options(parser)
    output = add_output_options(parser, Path("inference_results_huggingface.txt"))
    explain_help = (
        "write for each image a map of what spoke for its verdict, and its numbers as JSON"
    )
    output.add_argument("--explain", type=Path, metavar="DIR", help=explain_help)
    add_alignment_options(parser)
    group = parser.add_argument_group("asking")
    add = group.add_argument
    add("--concurrency", type=at_least(1), default=16, metavar="N", help="requests at a time (16)")
    retries_help = "how often a lost request is sent again (6)"
    add("--retries", type=at_least(0), default=6, metavar="N", help=retries_help)
    add("--resume", action="store_true", help="go on with the run that OUTPUT.partial.jsonl holds")
    tolerate_help = "exit code 0 though up to this share of the images, 0 to 1, has no verdict (0)"
    add("--tolerate", type=fraction, default=0.0, metavar="SHARE", help=tolerate_help)
    add_connection_options(parser, timeout=60)
    return parser


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Adds what decides which images are asked about, with which labels, and how changed."""
    add = parser.add_argument
    labels_help = "CSV with the header path,label (real, fake, 0, 1) instead of directory names"
    add("--labels", type=Path, metavar="FILE", help=labels_help)
    add("--limit", type=at_least(1), metavar="N", help="ask about a random sample of N images")
    add("--seed", type=at_least(0), metavar="S", help="decides what --limit takes (0)")
    perturb_help = f"ask again under perturbations: {EXAMPLE}"
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--perturb", type=perturbations, nargs="+", default=[], metavar="KIND", help=perturb_help
    )
    again.add_argument(
        "--stability",
        action="store_true",
        help="ask about each image also after " + ", ".join(map(str, CHANGES)),
    )


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Adds what decides which frames of a video are judged, and what they say together."""
    group = parser.add_argument_group("videos")
    frames = group.add_mutually_exclusive_group()
    frames_help = f"how many frames of a video are judged, evenly spread ({MANY})"
    frames.add_argument("--frames", type=at_least(1), metavar="N", help=frames_help)
    every_help = "judge a frame every so many seconds instead"
    frames.add_argument("--every", type=seconds, metavar="SECONDS", help=every_help)
    group.add_argument(
        "--video-score",
        choices=VIDEO_SCORES,
        default=VIDEO_SCORES[0],
        help="a video's score: the mean of its frames, their median, or the mean of the most fake "
        "tenth (%(default)s)",
    )


def with_frames(args: argparse.Namespace, collection: Collection) -> Collection:
    """Returns the collection with the chosen frames in the place of each video."""
    choice = FrameChoice(args.frames or MANY, args.every)
    collection, notes = take_apart(collection, choice)
    for path, note in notes.items():
        print(f"note: {path}: {note}", file=sys.stderr)
    return collection


def require_libraries(args: argparse.Namespace) -> None:
    """Finds out before the run what would be missing at its end.

    Raises:
        MissingExtraError: An option's libraries are not installed.
    """
    require_output_libraries(args)
    if args.explain is not None:
        require_extra("--explain", "cv2", "numpy", "PIL")
    for option in given(args, "stability") or (["--perturb"] if args.perturb else []):
        require_extra(option, "cv2", "numpy", "PIL")


def output_files(args: argparse.Namespace, collection: Collection) -> Files:
    """Returns the files to write.

    Raises:
        SameFileError: Two of them are one, or one is read too.
        OutputError: One cannot be written.
    """
    files = named_files(args)
    read = [("--image", Path(path)) for path in args.image]
    # Of 100,000 images only those are looked up on the disk that may be one of these files.
    names = files.names
    read += [("--image", p) for i in collection.images if (p := Path(i.path)).name in names]
    read += [] if args.labels is None else [("--labels", args.labels)]
    files.check(read)
    return files


def note_what_is_odd(args: argparse.Namespace, collection: Collection) -> None:
    """Says what the user may not expect of the images, and how they are labelled."""
    if not collection.named or collection.labelled.tells_something:
        print(*collection.labelled.lines(), sep="\n", file=sys.stderr)
    for note in collection.left_out.notes():
        print(f"note: {note}", file=sys.stderr)
    for folder in collection.shallow:
        print(f"note: {folder} holds images, so the folders in it are left out", file=sys.stderr)
    if collection.repeated:
        print(f"note: {collection.repeated} images were named twice", file=sys.stderr)
    if collection.not_found:
        print(
            f"note: {args.labels} lists {collection.not_found} images that --image does not name",
            file=sys.stderr,
        )
    if {image.label for image in collection.images} >= {0, 1}:
        try:
            require_extra("AUC", "numpy", "sklearn")
        except MissingExtraError as error:
            print(f"note: {error}", file=sys.stderr)


def run(args: argparse.Namespace, collection: Collection) -> int:
    """Asks, writes, and returns the exit code.

    Raises:
        ServiceError: The run cannot begin, or its results cannot be written.
    """
    files: Files = args.files
    args.model = args.model or choose_model(args)
    changes = CHANGES if args.stability else [one for group in args.perturb for one in group]
    variants = [None, *changes]
    journal = begin(args, collection, variants, files)
    ending, is_finished = Ending(), True
    with Interruption() as interruption:
        if not journal.is_complete:
            stability, how = args.stability, args.video_score
            ending = ask_all(
                read_target(args, args.cut),
                collection.images,
                variants,
                journal,
                interruption,
                Console(collection, journal, how, len(variants), together=stability),
                together=stability,
            )
        if ending.failure is not None:
            print(f"error: {ending.failure}", file=sys.stderr)
        if journal.done:
            results = summarise(args, collection, variants, journal)
            results = replace(results, remedy=how_to_go_on(journal, ending.failure))
            files.write(results)
            tell(args, collection, results)
            is_finished = results.is_complete and not results.lacks_libraries
            if args.explain is not None and results.is_complete:
                ending = explain(args, collection, results, interruption)
                files.write_report(replace(results, maps=args.explain))
    if isinstance(ending.failure, ModelNotServedError):
        print(how_to_serve(args), file=sys.stderr)
    code = exit_code(ending, journal, len(variants), args.tolerate)
    journal.close(remove=is_finished)
    return code


def explain(
    args: argparse.Namespace, collection: Collection, results: Run, interruption: Interruption
) -> Ending:
    """Writes the maps, once all is judged."""
    detector = results.totals.detector
    outcomes = list(to_explain(results.outcomes(), results.scoring))
    if detector is None or not outcomes:
        return Ending()
    target = read_target(args, args.cut)
    ending = explain_all(target, collection.images, outcomes, detector, args.explain, interruption)
    if ending.failure is None:
        print(f"Explanations written to {args.explain}")
    elif ending.failure.is_general:  # of others each was said
        print(f"error: {ending.failure}", file=sys.stderr)
    return ending


def choose_model(args: argparse.Namespace) -> str:
    """Returns the model to ask where none was named: the only one, where there is only one."""
    if args.token_file is not None:
        return DEFAULT_MODEL  # whoever has an inference token alone may not look
    name = only_model(args.server, args.management, args.key_file, args.ca)
    if name is None or name == served_name(DEFAULT_MODEL):
        return DEFAULT_MODEL
    print(
        f"note: asking {one_line(name)}, which is the only model served; see --model",
        file=sys.stderr,
    )
    return name


def begin(
    args: argparse.Namespace,
    collection: Collection,
    variants: list[Perturbation | None],
    files: Files,
) -> Journal:
    """Opens the journal, on disk unless asking again is as quick as going on.

    Raises:
        JournalError: There is nothing to go on with, or what there is must not be lost.
    """
    if args.resume and files.journal is None:
        raise JournalError(
            f"--resume: {args.output} is no regular file and has no journal beside it"
        )
    cut = "" if args.cut is None else args.cut.name
    names = tuple(f"{cut} {variant or ''}".strip() for variant in variants)
    images = collection.images
    version = "" if args.version is None else f" version {args.version}"
    asked = served_name(args.model) + version
    identity = Identity(asked, len(images), collection.digest, names)
    few = collection.named and len(images) <= FEW
    if few and args.resume:
        print("note: of so few images nothing is kept, so --resume asks again", file=sys.stderr)
    journal = open_journal(None if few else files.journal, identity, images, resume=args.resume)
    if args.resume and not few and not journal.done:
        print(
            f"note: {files.journal} holds nothing to go on with: this starts anew", file=sys.stderr
        )
    return journal


def summarise(
    args: argparse.Namespace,
    collection: Collection,
    variants: list[Perturbation | None],
    journal: Journal,
) -> Run:
    """Measures what was answered."""
    outcomes = partial(outcomes_of, journal, len(variants)) if args.stability else journal.outcomes
    scoring = VideoScoring.of(args.video_score, journal.detector)
    metrics = measure(outcomes(), scoring)
    perturbed = [
        PerturbedRun(
            variant,
            measure(journal.outcomes(place), scoring),
            share_held(journal.outcomes(), journal.outcomes(place)),
        )
        for place, variant in enumerate(variants)
        if variant is not None
    ]
    judged = metrics.images + sum(one.metrics.images for one in perturbed)
    totals = Totals(
        seconds_wall=journal.seconds,
        images_per_second=judged / max(journal.seconds, 1e-3),
        retries=journal.retries,
        command=command_line(),
        server=args.server,
        model=served_name(args.model),
        detector=journal.detector,
    )
    missing = journal.places - journal.done
    return Run(
        images=len(collection.images),
        outcomes=outcomes,
        metrics=metrics,
        totals=totals,
        missing=missing,
        perturbed=perturbed,
        scoring=scoring,
        is_trained_on=are_training_images(journal.outcomes(), metrics, journal.detector),
    )


def outcomes_of(journal: Journal, variants: int) -> Iterator[Outcome]:
    """Yields what became of the images, with what their changed copies tell of them."""
    return merged([journal.outcomes(place) for place in range(variants)])


def command_line() -> str:
    """Returns the command as it can be typed, without what makes no difference to the results."""
    return shlex.join(["python", *(word for word in sys.argv if word != "--resume")])


def how_to_go_on(journal: Journal, failure: ServiceError | None) -> str:
    """Returns what asks about the images that a run did not come to."""
    if not journal.is_kept:
        return "the same command asks about all again"
    if isinstance(failure, DetectorChangedError):
        forget = shlex.join(["rm", journal.name])
        return (
            "--resume goes on only while the first detector answers; to ask this one about all, "
            f"`{forget}` and repeat the command without --resume"
        )
    return "the same command with --resume goes on"


def tell(args: argparse.Namespace, collection: Collection, results: Run) -> None:
    """Prints the figures of a folder, and what the user must know about them."""
    if not collection.named or results.metrics.auc is not None:
        print(*figure_lines(results, args.output), sep="\n")
    if standing := "; ".join([*_alone(collection, results), *results.totals.standing]):
        print(standing)
    for warning in warning_lines(results):
        print(f"warning: {warning}", file=sys.stderr)
    if args.cut is not None and args.cut.faceless:
        print(f"note: {args.cut.faceless} images had no face: sent whole", file=sys.stderr)
    if results.missing:
        print(results.not_asked, file=sys.stderr)


def _alone(collection: Collection, results: Run) -> Iterator[str]:
    """Yields the probability of an image that was named alone: its line has the label's."""
    if collection.named and len(collection.images) == 1:
        for outcome in results.outcomes():
            if outcome.fake_probability is not None:
                yield f"fake_probability {outcome.fake_probability:.4f}"


def how_to_serve(args: argparse.Namespace) -> str:
    """Returns the commands that build and register the model, as they can be typed."""
    name = served_name(args.model)
    model = args.model if "/" in args.model else name.replace("--", "/", 1)
    version = args.version or "1"
    build = ["--model", model]
    if args.version is not None:
        build += ["--version", version]
    register = ["register", f"model_store/{name}@{version}.mar"]
    if args.management != MANAGEMENT_ADDRESS:
        register += ["--management", args.management]
    if args.key_file is not None:
        register += ["--key-file", str(args.key_file)]
    if args.ca is not None:
        register += ["--ca", str(args.ca)]
    return (
        f"build and register it:\n  {script_command('build_mar.py', *build)}\n"
        f"  {script_command('manage.py', *register)}"
    )


def exit_code(ending: Ending, journal: Journal, variants: int, tolerated: float) -> int:
    """Returns what ended the run, or else the highest code of its failures.

    Args:
        ending: How the run ended.
        journal: What came of the images.
        variants: How many times each image was to be asked about.
        tolerated: The share of failures up to which there is none.
    """
    if ending.signal is not None:
        return SIGNALLED + ending.signal
    if ending.failure is not None:
        return ending.failure.exit_code
    codes = [code for place in range(variants) for code in failures(journal.outcomes(place))]
    return 0 if len(codes) <= tolerated * journal.places else max(codes)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal cannot show must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
