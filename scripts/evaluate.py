"""Tells of runs that were saved what the client tells of its own: figures, files and a report."""

import argparse
import shlex
import sys
from pathlib import Path

# As the client does: the detector's package need not be installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "handler"))

from deepfake_tools.cli import CommandParser, fraction
from deepfake_tools.errors import OutputError
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.output_options import (
    add_output_options,
    named_files,
    require_output_libraries,
)
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.evaluation.saved_runs import SavedRun, SavedRunError, read_saved, with_labels
from deepfake_tools.evaluation.terminal import figure_lines, warning_lines
from deepfake_tools.evaluation.training_images import are_training_images
from deepfake_tools.evaluation.videos import VideoScoring
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.files import SameFileError
from deepfake_tools.labels import LabelError

REFUSALS = (LabelError, MissingExtraError, OutputError, SameFileError, SavedRunError)
EPILOG = """\
examples:
  python scripts/evaluate.py results.json --report report.html
  python scripts/evaluate.py scores --labels labels.csv --threshold 0.7
  python scripts/evaluate.py s3://bucket/scores
  python scripts/evaluate.py old.json --compare new.json --table table.tex

A run is what `client.py --json` wrote, or the Parquet data set of `score.py`: its folder, or one
file, by path or by URI. Its labels are those that it was saved with. Where a data set has none,
they are read off the names of the directories, as by the client.

exit codes:
    0  success
    2  wrong arguments, or a run that cannot be used
   14  a file cannot be written
"""


def main() -> int:
    """Reads the runs, writes and prints what they say, and returns the exit code."""
    parser = make_parser()
    args = parser.parse_args()
    try:
        require_extra("evaluate.py", "numpy", "scipy", "sklearn")
        require_output_libraries(args)
        files = named_files(args)
        files.check([("RUN", path) for path in read_files(args)])
        run = summarise(read(args.run, args), [read(path, args) for path in args.compare], args)
        files.write(run)
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except REFUSALS as error:
        parser.error(str(error))
    tell(run, args.output)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("run", metavar="RUN", help="results as JSON, or a Parquet data set: a path, or a URI")
    labels = parser.add_mutually_exclusive_group()
    labels_help = "CSV with the header path,label (real, fake, 0, 1) instead of the stored labels"
    labels.add_argument("--labels", type=Path, metavar="FILE", help=labels_help)
    column_help = "the column of the data set that holds the labels (true_label)"
    labels.add_argument("--label-column", metavar="NAME", help=column_help)
    compare_help = "compare RUN with these, image by image"
    add("--compare", nargs="+", default=[], metavar="RUN", help=compare_help)
    threshold_help = "count what this threshold calls real and fake; the answers stay as they are"
    add("--threshold", type=fraction, metavar="T", help=threshold_help)
    add_output_options(parser, None)
    return parser


def read_files(args: argparse.Namespace) -> list[Path]:
    """Returns what is read, which must not be written over."""
    runs = [Path(run) for run in (args.run, *args.compare) if "://" not in run]
    named = runs if args.labels is None else [*runs, args.labels]
    return [
        part for path in named for part in (path.rglob("*.parquet") if path.is_dir() else [path])
    ]


def read(run: str, args: argparse.Namespace) -> SavedRun:
    """Reads a run with the labels that the command line chooses, and says what is odd about it.

    Raises:
        SavedRunError: It cannot be used.
        LabelError: A label cannot be known.
        MissingExtraError: What reads it is not installed.
    """
    saved = read_saved(run, args.label_column, shlex.join(["python", *sys.argv]))
    notes = list(saved.notes)
    if saved.missing:
        notes.append(f"{saved.name} is not finished: {saved.missing} images were not asked about")
    if args.labels is not None:
        saved, not_found = with_labels(saved, args.labels)
        if not_found:
            notes.append(f"{args.labels} lists {not_found} images that are not in {saved.name}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return saved


def summarise(saved: SavedRun, others: list[SavedRun], args: argparse.Namespace) -> Run:
    """Measures a run, and compares it with others.

    Raises:
        SavedRunError: It cannot be compared.
    """
    # SciPy's import takes a second, which --help can do without.
    from deepfake_tools.evaluation.comparison import compare

    scoring = VideoScoring.of(saved.video_score or "mean", saved.totals.detector)
    metrics = measure(saved.outcomes(), scoring, args.threshold)
    return Run(
        images=saved.images + saved.missing,
        outcomes=saved.outcomes,
        metrics=metrics,
        totals=saved.totals,
        missing=saved.missing,
        comparisons=[compare(saved, other) for other in others],
        scoring=scoring,
        is_trained_on=are_training_images(saved.outcomes(), metrics, saved.totals.detector),
    )


def tell(run: Run, output: Path | None) -> None:
    """Prints the figures, and what the user must know of them."""
    print(*figure_lines(run, output), sep="\n")
    if standing := "; ".join(run.totals.standing):
        print(standing)
    for warning in warning_lines(run):
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
