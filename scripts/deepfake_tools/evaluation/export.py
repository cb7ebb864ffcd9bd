"""The files of a run: results file, JSON, CSV and report, each written whole or not at all."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from deepfake_tools.errors import OutputError
from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.paper_table import write_table
from deepfake_tools.evaluation.results_file import Run, write_results
from deepfake_tools.evaluation.timeline import write_timeline
from deepfake_tools.evaluation.videos import VideoVerdict
from deepfake_tools.files import Named, check_outputs, is_kept, replacing

# What is there to be drawn, not to be read.
NOT_TABULATED = ("curves", "mistakes", "video_mistakes")
COLUMNS = (
    "index",
    "path",
    "label",
    "folder",
    "prediction",
    "fake_probability",
    "seconds",
    "error",
    "message",
    "margin",
    "decision",
    "false_alarm_rate",
    "lowest",
    "highest",
    "unstable",
    "video",
    "time",
    "frame",
)
"""What the tables have of an outcome."""


@dataclass(frozen=True)
class Files:
    """Where to write what; None is not written.

    Attributes:
        output: The results file; a journal of the run is beside it until the end.
        json: The same as JSON.
        csv: The table of the images; the totals' table goes beside it.
        report: The HTML page.
        timeline: The videos' frames by time, as a table or as a picture.
        table: The figures as a table for a paper.
    """

    output: Path | None
    json: Path | None
    csv: Path | None
    report: Path | None
    timeline: Path | None = None
    table: Path | None = None

    @property
    def journal(self) -> Path | None:
        """Where the answers are kept until the run is finished; None beside a FIFO or a device."""
        if self.output is None or not is_kept(self.output):
            return None
        return self.output.with_name(f"{self.output.name}.partial.jsonl")

    @property
    def names(self) -> set[str]:
        """The base names of all of them, those that links lead to included."""
        return {
            name
            for _, path in self._outputs()
            for name in (path.name, Path(os.path.realpath(path)).name)
        }

    def check(self, inputs: Iterable[Named] = ()) -> None:
        """Finds out before a run that a file cannot be written after it.

        Args:
            inputs: What the run reads.

        Raises:
            SameFileError: Two files are one.
            OutputError: Its folder is not there, or it may not be written.
        """
        check_outputs(self._outputs(), inputs)

    def write(self, run: Run) -> None:
        """Writes them, each whole or not at all.

        Raises:
            OutputError: One cannot be written.
        """
        for option, path in self._named():
            _try_to_write(option, path, run)

    def write_report(self, run: Run) -> None:
        """Writes the report alone, where one is wanted, with what was found out since.

        Raises:
            OutputError: It cannot be written.
        """
        if self.report is not None:
            _try_to_write("report", self.report, run)

    def _outputs(self) -> Iterator[Named]:
        """Yields all that a run writes, what goes beside the named files included."""
        yield from ((f"--{option}", path) for option, path in self._named())
        if self.csv is not None and (totals := _totals_path(self.csv)) is not None:
            yield "the totals of --csv", totals
        if self.journal is not None:
            yield "the journal of --output", self.journal

    def _named(self) -> Iterator[tuple[str, Path]]:
        options = {"output": self.output, "json": self.json, "csv": self.csv}
        options |= {"report": self.report, "timeline": self.timeline, "table": self.table}
        for option, path in options.items():
            if path is not None:
                yield option, path


def _try_to_write(option: str, path: Path, run: Run) -> None:
    try:
        _write(option, path, run)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; see --{option}") from error


def _write(option: str, path: Path, run: Run) -> None:
    if option == "report":
        # Its plots take matplotlib, which only this option needs.
        from deepfake_tools.evaluation.report import write_report

        write_report(path, run)
    else:
        {
            "output": write_results,
            "json": write_json,
            "csv": write_csv,
            "timeline": write_timeline,
            "table": write_table,
        }[option](path, run)


def write_json(path: Path, run: Run) -> None:
    """Writes one JSON object, an image or a video a line, so that it can be read as a stream too.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as file:
        # The object is left open: the images and the videos follow.
        file.write(json.dumps(_totals(run), indent=1)[:-2])
        for name, values in (
            ("images", map(image_fields, run.outcomes())),
            ("videos", map(video_fields, run.videos())),
        ):
            file.write(f',\n "{name}": [')
            for number, value in enumerate(values):
                file.write((",\n  " if number else "\n  ") + json.dumps(value))
            file.write("\n ]")
        file.write("\n}\n")


def image_fields(outcome: Outcome) -> dict[str, object]:
    """Returns what JSON has of an image."""
    faces = outcome.faces
    return {column: getattr(outcome, column) for column in COLUMNS} | {
        "faces": None if faces is None else [asdict(face) for face in faces]
    }


def video_fields(video: VideoVerdict) -> dict[str, object]:
    """Returns what JSON has of a video."""
    return {
        "path": video.path,
        "label": video.label,
        "folder": video.folder,
        "prediction": video.prediction,
        "fake_probability": video.fake_probability,
        "frames": video.frames,
        "left_out": video.left_out,
        "error": video.error,
        "message": video.message,
        "most_fake": [
            {"time": one.time, "fake_probability": one.fake_probability} for one in video.most_fake
        ],
        "tracks": [
            {
                "track": track.number,
                "fake_probability": track.fake_probability,
                "from": track.first,
                "to": track.last,
                "frames": len(track.sightings),
                "speaks": track.speaks,
            }
            for track in video.people
        ],
    }


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
    totals = _totals_path(path)
    if totals is None:
        return
    with replacing(totals) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["name", "value"])
        rows.writerows(_flat(_totals(run)))


def _totals_path(path: Path) -> Path | None:
    """Returns where the totals of a CSV file go; nothing is put beside a FIFO or a device."""
    return path.with_suffix(f".totals{path.suffix}") if is_kept(path) else None


def _totals(run: Run) -> dict[str, object]:
    return {
        "complete": run.is_complete,
        "missing": run.missing,
        "is_trained_on": run.is_trained_on,
        "run": asdict(run.totals) | {"detector": run.totals.card} | run.totals.levels,
        "metrics": _figures(run.metrics),
        "perturbed": {
            str(one.perturbation): _figures(one.metrics) | {"held": one.held}
            for one in run.perturbed
        },
        "comparisons": [asdict(one) for one in run.comparisons],
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
    for name in ("folder", "label"):
        if isinstance(row, dict) and name in row:
            return str(row[name] or ".")
    return str(index)
