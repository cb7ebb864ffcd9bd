"""A run in, its JSON file and its two CSV files out: per image and in total."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.files import is_kept, replacing

# What is there to be drawn, not to be read.
NOT_TABULATED = ("curves", "mistakes")
COLUMNS = [field.name for field in fields(Outcome)]


def write_json(path: Path, run: Run) -> None:
    """Writes one JSON object, an image a line, so that it can be read as a stream too.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as file:
        # The object is left open: the images follow.
        file.write(json.dumps(_totals(run), indent=1)[:-2] + ',\n "images": [')
        for number, outcome in enumerate(run.outcomes()):
            file.write((",\n  " if number else "\n  ") + json.dumps(asdict(outcome)))
        file.write("\n ]\n}\n")


def write_csv(path: Path, run: Run) -> None:
    """Writes a table of the images, and one of the totals beside it.

    Args:
        path: Of the images' table; for out.csv the totals go to out.totals.csv.
        run: What to write.

    Raises:
        OSError: A file cannot be written.
    """
    with replacing(path) as file:
        images = csv.writer(file, lineterminator="\n")
        images.writerow(COLUMNS)
        for outcome in run.outcomes():
            images.writerow(getattr(outcome, column) for column in COLUMNS)
    totals = totals_path(path)
    if totals is None:
        return
    with replacing(totals) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["name", "value"])
        rows.writerows(_flat(_totals(run)))


def totals_path(path: Path) -> Path | None:
    """Returns where the totals of a CSV file go; nothing is put beside a FIFO or a device."""
    return path.with_suffix(f".totals{path.suffix}") if is_kept(path) else None


def _totals(run: Run) -> dict[str, object]:
    return {
        "complete": run.is_complete,
        "run": asdict(run.totals),
        "metrics": _figures(run.metrics),
        "perturbed": {str(one.perturbation): _figures(one.metrics) for one in run.perturbed},
    }


def _figures(metrics: Metrics) -> dict[str, object]:
    return {key: value for key, value in asdict(metrics).items() if key not in NOT_TABULATED}


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yields nested figures under names such as `latency.p50`."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = [(_row_name(row, index), row) for index, row in enumerate(value)]
    else:
        yield name, value
        return
    for key, inner in items:
        yield from _flat(inner, f"{name}.{key}" if name else str(key))


def _row_name(row: object, index: int) -> str:
    return str(row["folder"] or ".") if isinstance(row, dict) and "folder" in row else str(index)
