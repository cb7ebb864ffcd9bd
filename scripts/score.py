#!/usr/bin/env python3
"""Scores folders, lists, videos and Parquet by an archive, on this machine or on a Ray cluster."""

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# A clone is enough where the libraries are: the detector's package need not be installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "handler"))

from deepfake_tools.cli import CommandParser, at_least, fraction, say, seconds
from deepfake_tools.client.images import CollectionError
from deepfake_tools.errors import ServiceError, exit_code_table
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.inspection import ArchiveError
from deepfake_tools.labels import LabelError
from deepfake_tools.videos.sampling import MANY, FrameChoice

if TYPE_CHECKING:
    from deepfake_tools.bulk.scoring import Order

EPILOG = f"""\
examples:
  score.py --archive model_store/mine@1.mar --input data --output scores
  score.py --archive model_store/mine@1.mar --input 's3://bucket/images' --output s3://bucket/scores
  score.py --archive model_store/mine@1.mar --input shards --column image --label-column label \\
    --output scores --address 10.0.0.1:6379

A row an image goes into Parquet parts under OUTPUT: path, margin, fake_probability, label,
decision, faces, error, true_label. An image that cannot be judged is a row with its error.

{exit_code_table()}
  {ArchiveError.exit_code:>3}  {ArchiveError.meaning}
   25  a path or URI cannot be read
   26  the output holds another run's answers, or another archive's
   27  Ray does not start, or has no cores or GPUs as asked for
  130  interrupted (by another signal: 128 and its number)
After any of these the parts hold what was done; --resume goes on from there.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("--archive", type=Path, required=True, metavar="FILE.mar", help="the detector")
    input_help = (
        "folders (the images in them, else those below), 'patterns', .txt lists, images, videos, "
        "Parquet with --column; paths, or URIs as s3://bucket/prefix"
    )
    add("--input", nargs="+", required=True, metavar="WHAT", help=input_help)
    add("--output", required=True, metavar="DIR", help="takes the answers; a path or a URI")
    add("--resume", action="store_true", help="leave out what has its answer in OUTPUT")
    tolerate_help = "exit code 1 where more than this share of the images has no verdict (1)"
    add("--tolerate", type=fraction, default=1.0, metavar="SHARE", help=tolerate_help)
    add = parser.add_argument_group("Parquet").add_argument
    add("--column", metavar="NAME", help="the column with the images' bytes or paths")
    add("--label-column", metavar="NAME", help="true labels: real, fake, 0, 1")
    add("--path-column", metavar="NAME", help="what images of bytes are called (FILE#ROW)")
    frames = parser.add_argument_group("videos").add_mutually_exclusive_group()
    frames_help = f"how many frames of a video are judged, evenly spread ({MANY})"
    frames.add_argument("--frames", type=at_least(1), metavar="N", help=frames_help)
    every_help = "judge a frame in so many seconds instead"
    frames.add_argument("--every", type=seconds, metavar="SECONDS", help=every_help)
    add = parser.add_argument_group("machines").add_argument
    add("--address", metavar="HOST:PORT", help="a Ray cluster that is up (Ray is started here)")
    add("--gpus", type=at_least(1), default=0, metavar="N", help="compute on so many GPUs")
    cores_help = "cores of an actor (all of a node; of a GPU its share)"
    add("--cores", type=at_least(1), metavar="N", help=cores_help)
    return parser


def read_order(args: argparse.Namespace) -> "Order":
    """Returns what a command line orders; importing what it needs takes seconds."""
    from deepfake_tools.bulk.listing import Wanted
    from deepfake_tools.bulk.parquet_rows import Columns
    from deepfake_tools.bulk.scoring import Order

    columns = args.column and Columns(args.column, args.label_column, args.path_column)
    return Order(
        archive=args.archive,
        wanted=Wanted(args.input, columns, FrameChoice(args.frames or MANY, args.every)),
        output=args.output,
        resume=args.resume,
        address=args.address,
        gpus=args.gpus,
        cores=args.cores,
        tolerated=args.tolerate,
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.column is None and (args.label_column or args.path_column):
        parser.error("--label-column and --path-column are for --column NAME")
    try:
        require_extra("score.py", extra="score")
    except MissingExtraError as error:
        parser.error(str(error))
    from deepfake_tools.bulk.parquet_rows import ColumnError
    from deepfake_tools.bulk.scoring import score

    try:
        return score(read_order(args))
    except (CollectionError, ColumnError, LabelError, MissingExtraError) as error:
        parser.error(str(error))
    except ServiceError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; no images were scored")
        return 130


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal cannot show must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
