"""The options that name the files to write of a run, which the client and evaluate.py share."""

import argparse
from pathlib import Path

from deepfake_tools.evaluation.export import Files
from deepfake_tools.evaluation.paper_table import table_file
from deepfake_tools.evaluation.timeline import is_picture, timeline_file
from deepfake_tools.extras import require_extra


def add_output_options(
    parser: argparse.ArgumentParser, results: Path | None
) -> "argparse._ArgumentGroup":
    """Adds the files to write.

    Args:
        parser: Takes them.
        results: Where the results file goes unless the user says otherwise; None writes none.

    Returns:
        The group that they stand in.
    """
    group = parser.add_argument_group("output")
    add = group.add_argument
    default = "none" if results is None else "%(default)s"
    add("--output", type=Path, default=results, metavar="FILE", help=f"results file ({default})")
    add("--json", type=Path, metavar="FILE", help="write the results as JSON")
    csv_help = "write a line for each image as CSV, and the totals beside out.csv as out.totals.csv"
    add("--csv", type=Path, metavar="FILE", help=csv_help)
    add("--report", type=Path, metavar="FILE", help="write one HTML page with figures and plots")
    timeline_help = "write the videos' frames by time: a table (.csv) or a picture (.png)"
    add("--timeline", type=timeline_file, metavar="FILE", help=timeline_help)
    table_help = "write the figures by folder as a table: Markdown (.md) or LaTeX (.tex)"
    add("--table", type=table_file, metavar="FILE", help=table_help)
    return group


def require_output_libraries(args: argparse.Namespace) -> None:
    """Finds out before a run what would be missing when its files are written.

    Raises:
        MissingExtraError: An option's libraries are not installed.
    """
    if args.report is not None:
        require_extra("--report")
    if args.timeline is not None and is_picture(args.timeline):
        require_extra("--timeline FILE.png", "matplotlib")


def named_files(args: argparse.Namespace) -> Files:
    """Returns the files that the command line names."""
    return Files(args.output, args.json, args.csv, args.report, args.timeline, args.table)
