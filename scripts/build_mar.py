#!/usr/bin/env python3
"""Packages a CLIP-based detector, or a CLIP with an untrained head, for TorchServe."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clip_deepfake.card import Card, EngineChoice, Feature, HeadCard, Limits, Precision
from clip_deepfake.decision import Decision
from clip_deepfake.faces import FaceAlignment
from deepfake_tools.cli import CommandParser, at_least, fraction, given, script_command
from deepfake_tools.face_options import add_face_options, read_face_options
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.memory import REMEDY, is_out_of_memory
from deepfake_tools.packaging.build_options import BuildOptions, Measuring
from deepfake_tools.packaging.deviation import describe as describe_deviation
from deepfake_tools.packaging.hub import DEFAULT_MODEL, BuildError, import_with_hub
from deepfake_tools.packaging.presets import PRESETS
from deepfake_tools.packaging.serving_options import ServingOptions
from deepfake_tools.store import Store

if TYPE_CHECKING:
    from deepfake_tools.packaging.builder import Built

PROJECT = Path(__file__).resolve().parent.parent
STORE_NAME = "model_store"

# Beyond these a worker would not come up, or nobody would wait for it.
MOST_WORKERS = 256
MOST_BATCH = 1024
MOST_DELAY_MS = 60_000
MOST_SECONDS = 86_400
MOST_PIXELS = 1 << 28
"""16384 x 16384; decoded, 800 MB for each thread that decodes."""

EXAMPLES = """\
examples:
  build_mar.py                                        the default model, next free version
  build_mar.py --model openai/clip-vit-large-patch14  another one
  build_mar.py --model ./my-clip --served-name mine   a local folder with config.json and weights
  build_mar.py --weights head.safetensors             a head of train.py, on its own encoder
  build_mar.py --weights fc_weights.pth               a published detector, whichever it is
  build_mar.py --weights head.safetensors --decision decision.json    of calibrate.py
  build_mar.py --weights yermandy/GenD_CLIP_L_14      one that is published on the Hub
  build_mar.py --precision int8 --calibration DIR     for CPUs, about three times as fast
  build_mar.py --weights effort.pth --landmark-model shape_predictor_81_face_landmarks.dat

The Hub's own variables keep their meaning: HF_HOME (cache), HF_TOKEN (gated and private models),
HF_HUB_OFFLINE (cache only), HF_ENDPOINT (a mirror).
"""

PRESET_HELP = "\n".join(
    f"  {name:13} {(preset.__doc__ or '').splitlines()[0]}" for name, preset in PRESETS.items()
)


def parse_arguments(arguments: list[str] | None = None) -> BuildOptions:
    """Reads the command line."""
    parser = CommandParser(
        description=__doc__, epilog=f"presets of --preprocess:\n{PRESET_HELP}\n\n{EXAMPLES}"
    )
    _add_model(parser)
    _add_overrides(parser)
    add_face_options(parser, several=True)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--export-path",
        type=Path,
        metavar="DIR",
        help=f"the store (default: {STORE_NAME} of this folder where there is one, else the "
        "project's)",
    )
    output.add_argument("--force", action="store_true", help="replace an archive of equal version")
    _add_computing(parser)
    _add_serving(parser)
    found = parser.parse_args(arguments)
    return BuildOptions(
        model=found.model,
        revision=found.revision,
        served_name=found.served_name,
        version=found.version,
        precision=found.precision,
        preset=found.preprocess,
        limits=Limits.of_images(found.max_pixels),
        serving=ServingOptions(
            found.workers,
            found.batch_size,
            found.batch_delay,
            found.response_timeout,
            found.startup_timeout,
        ),
        store=found.export_path or default_store(),
        force=found.force,
        weights=found.weights,
        feature=found.feature,
        threshold=found.threshold,
        faces=read_face_options(parser, found),
        engine=found.engine,
        measuring=_read_measuring(parser, found),
        overflow_fix=found.overflow_fix,
        decision=found.decision,
        fake_labels=tuple(found.fake_label),
    )


def default_store() -> Path:
    """Returns the store here, or the project's: from elsewhere no second one is to appear."""
    here = Path(STORE_NAME)
    return here if here.is_dir() else PROJECT / STORE_NAME


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="NAME",
        help="Hub name or local folder of the encoder (default: the one that --weights names, or "
        f"{DEFAULT_MODEL})",
    )
    model.add_argument(
        "--weights",
        metavar="FILE",
        help="a detector's checkpoint or head, recognised by what is in it; or the folder or Hub "
        "name of a GenD (default: an untrained head)",
    )
    model.add_argument("--revision", help="branch, tag or commit of a Hub model (default: main)")
    model.add_argument(
        "--served-name",
        help="name in URLs (default: the Hub name with / as --, or the name of the file)",
    )
    model.add_argument("--version", help="archive version (default: the next free number)")


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group(
        "in place of what the weights came with", "The card says which of these were given."
    )
    reading.add_argument(
        "--preprocess",
        metavar="PRESET|FILE.json",
        help="a preset below, or a JSON file with steps, mean and std as a card has them "
        "(without --weights: squash for a CLIP, own for others)",
    )
    reading.add_argument("--feature", choices=get_args(Feature), help="what the head reads")
    reading.add_argument(
        "--fake-label",
        nargs="+",
        default=[],
        metavar="NAME",
        help="the labels of a whole classifier that mean FAKE; their probabilities are added",
    )
    reading.add_argument(
        "--threshold", type=fraction, metavar="P", help="FAKE is answered above it (0 to 1)"
    )
    reading.add_argument(
        "--decision",
        type=Path,
        metavar="FILE.json",
        help="what calibrate.py found for this very detector: answers then say the decision at "
        "its rate of false alarms too",
    )


def _add_computing(parser: argparse.ArgumentParser) -> None:
    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="half precision is for GPUs, bfloat16 also for CPUs with AMX or AVX512-BF16; other "
        "CPUs compute it in float32, and float16 always. int8 is for CPUs, three times as fast, "
        "and needs --calibration. What each of them changes is measured (default: float32)",
    )
    computing.add_argument(
        "--engine",
        choices=get_args(EngineChoice),
        default="auto",
        help="what computes: PyTorch on a GPU and OpenVINO on a CPU, or always one of them "
        "(default: auto)",
    )
    computing.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="some hundred images like those to be judged, which show what the precision changes; "
        "half of them set int8's ranges instead; in real/ and fake/ folders, the change of the "
        "AUC too (default, but for int8: fixed pictures)",
    )
    computing.add_argument(
        "--max-deviation",
        type=fraction,
        metavar="P",
        help="refuse int8 or half precision when fake_probability changes by more on average "
        f"(default: {Measuring.max_deviation})",
    )
    computing.add_argument(
        "--overflow-fix",
        action="store_true",
        help="quantise int8 to 7 bits, for processors without VNNI; less exact",
    )


def _read_measuring(parser: argparse.ArgumentParser, found: argparse.Namespace) -> Measuring:
    if found.precision == "int8":
        if found.calibration is None:
            parser.error("--precision int8 needs --calibration DIR: images like those to be judged")
        if found.engine == "torch":
            parser.error("--precision int8 is computed by OpenVINO: leave out --engine torch")
    elif given(found, "overflow_fix"):
        parser.error("--overflow-fix is for --precision int8")
    ignored = given(found, "calibration", "max_deviation")
    if ignored and found.precision == "float32":
        parser.error(f"{ignored[0]} is for --precision int8, bfloat16 or float16")
    deviation = found.max_deviation
    return Measuring(found.calibration, Measuring.max_deviation if deviation is None else deviation)


def _add_serving(parser: argparse.ArgumentParser) -> None:
    serving = parser.add_argument_group("serving")
    defaults = ServingOptions()
    for option, value, meaning, most in (
        ("--workers", defaults.workers, "processes, each with a copy of the weights", MOST_WORKERS),
        ("--batch-size", defaults.batch_size, "requests in one pass", MOST_BATCH),
        (
            "--batch-delay",
            defaults.batch_delay_ms,
            "milliseconds to wait for a batch to fill",
            MOST_DELAY_MS,
        ),
        (
            "--response-timeout",
            defaults.response_timeout_s,
            "seconds until a worker counts as hung",
            MOST_SECONDS,
        ),
        (
            "--startup-timeout",
            defaults.startup_timeout_s,
            "seconds for a worker to come up",
            MOST_SECONDS,
        ),
        ("--max-pixels", Limits().max_pixels, "largest width x height of an image", MOST_PIXELS),
    ):
        serving.add_argument(
            option,
            type=at_least(1, most),
            default=value,
            metavar="N",
            help=f"{meaning} (default: {value or 'estimated'}; at most {most})",
        )


def describe(built: "Built") -> str:
    """What a person wants to know of a new archive, the next command included."""
    card = built.card
    return "\n".join(
        [
            f"archive      {built.path}",
            f"size         {built.path.stat().st_size / 1e6:.1f} MB",
            f"sha256       {built.sha256}",
            f"served name  {card.name}, version {card.version}",
            f"model        {card.model.name}, commit {card.model.commit or 'none (local)'}",
            f"head         {card.head.source.upper()}: {card.head.description}",
            *_describe_weights(card.head),
            *_describe_faces(card.faces),
            *_describe_precision(card),
            *_describe_decision(card.decision),
            f"next         make serve, or, into a running server: {_next_command(built)}",
        ]
    )


def _next_command(built: "Built") -> str:
    """What serves it: a swap where the store holds other versions to take over from."""
    store = Store(built.path.parent)
    others = [one for one in store.archives() if one.name == built.card.name]
    command = "swap" if len(others) > 1 else "register"
    return script_command("manage.py", command, built.path)


def _describe_weights(head: HeadCard) -> list[str]:
    """What is to be known of a published detector, and of what its user has changed."""
    lines = []
    if head.family:
        lines.append(
            f"licence      {head.licence or 'none stated: ask its authors before using it'}"
        )
    if head.overridden:
        lines.append(f"overridden   {', '.join('--' + name for name in head.overridden)}")
    return lines


def _describe_faces(faces: FaceAlignment | None) -> list[str]:
    if faces is None:
        return []
    search = "images searched whole" if faces.scan_pixels is None else "large images made smaller"
    without = "judged whole" if faces.on_no_face == "whole" else "refused"
    return [
        f"faces        {faces.judged}, aligned by {faces.predictor} ({faces.points} points); "
        f"{search}; without a face: {without}"
    ]


def _describe_precision(card: Card) -> list[str]:
    """What is changed by it, but for float32, which changes nothing."""
    if card.deviation is None:
        return []
    return [f"precision    {describe_deviation(card.precision, card.deviation)}"]


def _describe_decision(decision: Decision | None) -> list[str]:
    if decision is None:
        return []
    return [
        f"decision     FAKE above margin {decision.fake_above:.6g}: at most "
        f"{100 * decision.false_alarms:g} % false alarms, by {decision.reals.images:,} real images "
        f"scored on {decision.scored_on}"
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    options = parse_arguments(arguments)
    try:
        # It brings transformers, and with it the Hub's library, which takes seconds.
        build = import_with_hub("deepfake_tools.packaging.builder").build
        with reliable_interrupts():
            built = build(options, report=lambda step: print(step, file=sys.stderr))
    except BuildError as error:
        print(f"build_mar.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or options.store
        print(f"build_mar.py: {place}: {error.strerror}; no archive was written", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"build_mar.py: {REMEDY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build_mar.py: interrupted; no archive was written", file=sys.stderr)
        return 130
    print(describe(built))
    return 0


if __name__ == "__main__":
    sys.exit(main())
