#!/usr/bin/env python3
"""Packages a CLIP model from the Hub, with a linear head, as an archive for TorchServe."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from clip_deepfake.card import Limits, Precision
from deepfake_tools.archive import ServingOptions
from deepfake_tools.builder import BuildOptions, Built, build
from deepfake_tools.hub import BuildError
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.recipes import PRESETS

EXAMPLES = """\
examples:
  build_mar.py                                        the default model, next free version
  build_mar.py --model openai/clip-vit-large-patch14  another one
  build_mar.py --model ./my-clip --served-name mine   a local folder with config.json and weights

The Hub's own variables keep their meaning: HF_HOME (cache), HF_TOKEN (gated and private models),
HF_HUB_OFFLINE (cache only), HF_ENDPOINT (a mirror).
"""


def parse_arguments(arguments: list[str] | None = None) -> BuildOptions:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default="openai/clip-vit-base-patch32", help="Hub name or local folder"
    )
    model.add_argument("--revision", help="branch, tag or commit of a Hub model (default: main)")
    model.add_argument("--served-name", help="name in URLs (default: --model with / as --)")
    model.add_argument("--version", help="archive version (default: the next free number)")
    model.add_argument("--precision", choices=get_args(Precision), default="float32")
    model.add_argument(
        "--preprocess",
        choices=PRESETS,
        default="squash",
        help="squash: resize to the square, as the research script does; clip: the checkpoint's "
        "own settings (default: squash)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--export-path", type=Path, default=Path("model_store"), metavar="DIR")
    output.add_argument("--force", action="store_true", help="replace an archive of equal version")
    serving = parser.add_argument_group("serving")
    defaults = ServingOptions()
    for option, value, meaning in (
        ("--workers", defaults.workers, "processes, each with a copy of the weights"),
        ("--batch-size", defaults.batch_size, "requests in one pass"),
        ("--batch-delay", defaults.batch_delay_ms, "milliseconds to wait for a batch to fill"),
        (
            "--response-timeout",
            defaults.response_timeout_s,
            "seconds until a worker counts as hung",
        ),
        ("--startup-timeout", defaults.startup_timeout_s, "seconds for a worker to come up"),
        ("--max-pixels", Limits().max_pixels, "largest width x height of an image"),
    ):
        serving.add_argument(
            option, type=_positive, default=value, metavar="N", help=f"{meaning} (default: {value})"
        )
    found = parser.parse_args(arguments)
    return BuildOptions(
        model=found.model,
        revision=found.revision,
        served_name=found.served_name,
        version=found.version,
        precision=found.precision,
        preset=found.preprocess,
        limits=Limits(max_pixels=found.max_pixels),
        serving=ServingOptions(
            found.workers,
            found.batch_size,
            found.batch_delay,
            found.response_timeout,
            found.startup_timeout,
        ),
        store=found.export_path,
        force=found.force,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def describe(built: Built) -> str:
    """What a person wants to know of a new archive, the next command included."""
    card = built.card
    return "\n".join(
        [
            f"archive      {built.path}",
            f"size         {built.path.stat().st_size / 1e6:.1f} MB",
            f"sha256       {built.sha256}",
            f"served name  {card.name}, version {card.version}",
            f"model        {card.model.name}, commit {card.model.commit or 'none (local folder)'}",
            f"head         {card.head.source.upper()}: {card.head.description}",
            f"next         make serve, or, into a running server: "
            f"python scripts/manage.py swap {built.path}",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    options = parse_arguments(arguments)
    try:
        with reliable_interrupts():
            built = build(options, report=lambda step: print(f"{step} ...", file=sys.stderr))
    except BuildError as error:
        print(f"build_mar.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or options.store
        print(f"build_mar.py: {place}: {error.strerror}; no archive was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build_mar.py: interrupted; no archive was written", file=sys.stderr)
        return 130
    print(describe(built))
    return 0


if __name__ == "__main__":
    sys.exit(main())
