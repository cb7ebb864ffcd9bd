"""Computes what scoring many images takes and costs, from what `make benchmark` has measured.

A cluster is as fast as its nodes together, until the storage or the scheduler gives them no more.
Everything that is assumed beside the measurement is printed with the table, and is an option.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from deepfake_tools.cli import CommandParser, at_least, not_negative
from deepfake_tools.text_table import markdown_table, table

from benchmarks.measurements import BenchmarkError, Scenario

NODES = (1, 10, 100, 1000)
MILLION = 1e6
DECODING_SHARE = 0.7
"""Of the engine's own rate; a process that is slower from bytes to verdicts waits for decoding."""

HEADER = ("detector", "nodes", "images/s", "hours", "a million costs", "bound")


def _assumed(value: float, words: str) -> Any:
    """A field of Assumptions, with what its option's help and the printed table say of it."""
    return field(default=value, metadata={"words": words})


@dataclass(frozen=True)
class Assumptions:
    """What a measurement does not tell; prices are in whatever currency is given.

    Beside them it is assumed that all cores are as fast as those measured on, and that nothing else
    costs anything: no storage, traffic, failed node or idle time.
    """

    node_cores: float = _assumed(16, "processor cores of a node without a GPU")
    share: float = _assumed(0.9, "share of the measured rate that a node of a cluster keeps")
    core_hour: float = _assumed(0.045, "price of such a core for an hour")
    gpu_hour: float = _assumed(4, "price of a node with a GPU for an hour")
    image_bytes: float = _assumed(200e3, "bytes of an encoded image")
    node_bytes: float = _assumed(1e9, "bytes a second that a node reads from the storage")
    total_bytes: float = _assumed(10e9, "bytes a second that the storage gives to all nodes")
    tasks: float = _assumed(200, "tasks a second that the scheduler starts")
    task_images: float = _assumed(1000, "images in a task")
    images: float = _assumed(100e6, "images that are scored")

    def rows(self) -> list[tuple[str, ...]]:
        """Returns each as its option, its value and what it is."""
        return [
            (
                "--" + one.name.replace("_", "-"),
                f"{getattr(self, one.name):,.12g}",
                one.metadata["words"],
            )
            for one in fields(self)
        ]


@dataclass(frozen=True)
class MeasuredRate:
    """What one machine did.

    Attributes:
        detector: Model and precision.
        images_per_s: Its rate from bytes to verdicts.
        cores: Processor cores of the machine; None where a GPU computed.
        decodes_short: Whether decoding, not the engine, was its bound.
        is_disturbed: Whether something else was at work meanwhile.
    """

    detector: str
    images_per_s: float
    cores: float | None
    decodes_short: bool = False
    is_disturbed: bool = False

    @property
    def name(self) -> str:
        """The detector, marked where its figure is not to be trusted."""
        return f"{self.detector} (DISTURBED)" if self.is_disturbed else self.detector


@dataclass(frozen=True)
class Estimate:
    """What a cluster of a size does.

    Attributes:
        images_per_s: Of all nodes together.
        cost_per_million: Images, in the prices' currency.
        bound: What keeps it from being faster.
    """

    images_per_s: float
    cost_per_million: float
    bound: str


def estimate(measured: MeasuredRate, nodes: int, assumed: Assumptions) -> Estimate:
    """Computes how fast a number of nodes is, at what cost, and what bounds it."""
    rate, price = _node(measured, assumed)
    limits = {
        "decoding" if measured.decodes_short else "engine": nodes * rate,
        "node's network": nodes * assumed.node_bytes / assumed.image_bytes,
        **_ceilings(assumed),
    }
    bound = min(limits, key=limits.__getitem__)
    per_second = nodes * price / 3600
    return Estimate(limits[bound], per_second / limits[bound] * MILLION, bound)


def most_nodes(measured: MeasuredRate, assumed: Assumptions) -> tuple[float, str]:
    """Returns how many nodes a cluster can keep busy, and what has no more for a further one."""
    rate, _ = _node(measured, assumed)
    rate = min(rate, assumed.node_bytes / assumed.image_bytes)
    ceilings = _ceilings(assumed)
    lowest = min(ceilings, key=ceilings.__getitem__)
    return ceilings[lowest] / rate, lowest


def _node(measured: MeasuredRate, assumed: Assumptions) -> tuple[float, float]:
    """Images a second of one node by itself, and its price for an hour."""
    if measured.cores is None:
        return measured.images_per_s * assumed.share, assumed.gpu_hour
    per_core = measured.images_per_s / measured.cores * assumed.share
    return per_core * assumed.node_cores, assumed.node_cores * assumed.core_hour


def _ceilings(assumed: Assumptions) -> dict[str, float]:
    """Images a second that all nodes together can be given."""
    return {
        "storage": assumed.total_bytes / assumed.image_bytes,
        "scheduler": assumed.tasks * assumed.task_images,
    }


def read_rates(path: Path) -> list[MeasuredRate]:
    """Reads the rates of a benchmark's archives, each in one process at its largest batch.

    Args:
        path: What `make benchmark` or --json wrote.

    Raises:
        BenchmarkError: It is no such file, or has no such rate.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        archives = {one["label"]: one for one in content["archives"]}
        rates = [_measured(content, archive) for archive in archives.values()]
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchmarkError(
            f"{path} is not what `make benchmark` writes as benchmark.json: {error!r}"
        ) from error
    if not rates:
        raise BenchmarkError(f"{path} has no archive that was measured")
    return rates


def _measured(content: dict[str, Any], archive: dict[str, Any]) -> MeasuredRate:
    process = _largest(content, archive["label"], Scenario.PROCESS)
    engine = _largest(content, archive["label"], Scenario.ENGINE)
    rate, alone = (_positive(one["images_per_s"]) for one in (process, engine))
    cores = None if content["machine"]["gpus"] else _positive(content["machine"]["cores"])
    disturbed = {_place(one) for one in content["disturbed"]}
    return MeasuredRate(
        detector=f"{archive['model']}, {archive['precision']}",
        images_per_s=rate,
        cores=cores,
        decodes_short=rate < DECODING_SHARE * alone,
        is_disturbed=not disturbed.isdisjoint(map(_place, (process, engine))),
    )


def _positive(value: object) -> float:
    number = float(str(value))
    if not 0 < number < math.inf:
        raise ValueError(f"{value!r} is no number above 0")
    return number


def _place(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["contender"], entry["way"], entry["size"]


def _largest(content: dict[str, Any], label: str, way: Scenario) -> dict[str, Any]:
    """Returns an archive's median at the largest number of images in a pass."""
    found = [one for one in content["medians"] if (one["contender"], one["way"]) == (label, way)]
    if not found:
        raise KeyError(f"{label}, {way}")
    return max(found, key=lambda one: int(one["size"]))


def cost_rows(
    rates: Iterable[MeasuredRate], nodes: Sequence[int], assumed: Assumptions
) -> list[tuple[str, ...]]:
    """Returns the table's rows, its header first."""
    rows: list[tuple[str, ...]] = [HEADER]
    for measured in rates:
        for count in nodes:
            found = estimate(measured, count, assumed)
            hours = assumed.images / found.images_per_s / 3600
            cost = f"{found.cost_per_million:,.2f}"
            rate = f"{found.images_per_s:,.0f}"
            rows.append((measured.name, f"{count:,}", rate, f"{hours:,.1f}", cost, found.bound))
    return rows


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(prog="python -m benchmarks.costs", description=__doc__)
    files_help = "what `make benchmark` has written"
    parser.add_argument("files", type=Path, nargs="*", metavar="benchmark.json", help=files_help)
    parser.add_argument(
        "--gpu",
        type=_gpu_rate,
        action="append",
        default=[],
        metavar="NAME=ENGINE,DECODING",
        help="a detector's images a second on a GPU, and those that its machine decodes, as "
        "`make gpu` prints both; may be given again",
    )
    parser.add_argument(
        "--nodes",
        type=_counts,
        default=NODES,
        metavar="N,N",
        help="how many nodes the clusters have (default: 1,10,100,1000)",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    group = parser.add_argument_group("assumptions")
    for one in fields(Assumptions):
        option = "--" + one.name.replace("_", "-")
        words = f"{one.metadata['words']} (default: {one.default:,.12g})"
        group.add_argument(option, type=_above_zero, default=one.default, metavar="X", help=words)
    found = parser.parse_args(arguments)
    if not (found.files or found.gpu):
        parser.error("there is nothing measured: name a benchmark.json, or a rate by --gpu")
    return found


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({at_least(1)(part) for part in text.split(",")}))


def _above_zero(text: str) -> float:
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _gpu_rate(text: str) -> MeasuredRate:
    name, _, rates = text.rpartition("=")
    engine, _, decoding = rates.partition(",")
    if not (name and decoding):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ENGINE,DECODING")
    computed, decoded = _above_zero(engine), _above_zero(decoding)
    return MeasuredRate(name, min(computed, decoded), None, decodes_short=decoded < computed)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = parse_arguments(arguments)
    assumed = Assumptions(**{one.name: getattr(args, one.name) for one in fields(Assumptions)})
    try:
        rates = [measured for path in args.files for measured in read_rates(path)] + args.gpu
    except BenchmarkError as error:
        print(f"costs: {error}", file=sys.stderr)
        return 1
    shown = markdown_table if args.markdown else table
    print(shown([("assumed", "value", ""), *assumed.rows()]))
    print(f"\n{shown(cost_rows(rates, args.nodes, assumed))}\n")
    for measured in rates:
        most, bound = most_nodes(measured, assumed)
        print(f"{measured.name}: over {most:,.0f} nodes the {bound} is the bound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
