"""A run in, every file that was asked for out."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.errors import OutputError
from deepfake_tools.evaluation.results_file import Run, write_results
from deepfake_tools.evaluation.tables import totals_path, write_csv, write_json
from deepfake_tools.files import Named, check_outputs, is_kept


@dataclass(frozen=True)
class Files:
    """Where to write what; None is not written.

    Attributes:
        output: The results file.
        json: The same as JSON.
        csv: The table of the images; the totals' table goes beside it.
        report: The HTML page.
    """

    output: Path
    json: Path | None
    csv: Path | None
    report: Path | None

    @property
    def journal(self) -> Path | None:
        """Where the answers are kept until the run is finished; None beside a FIFO or a device."""
        if not is_kept(self.output):
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
            try:
                _write(option, path, run)
            except OSError as error:
                raise OutputError(
                    f"cannot write {path}: {error.strerror}; see --{option}"
                ) from error

    def _outputs(self) -> Iterator[Named]:
        """Yields all that a run writes, what goes beside the named files included."""
        yield from ((f"--{option}", path) for option, path in self._named())
        if self.csv is not None and (totals := totals_path(self.csv)) is not None:
            yield "the totals of --csv", totals
        if self.journal is not None:
            yield "the journal of --output", self.journal

    def _named(self) -> Iterator[tuple[str, Path]]:
        options = {"output": self.output, "json": self.json, "csv": self.csv}
        for option, path in (options | {"report": self.report}).items():
            if path is not None:
                yield option, path


def _write(option: str, path: Path, run: Run) -> None:
    if option == "report":
        # Its plots take matplotlib, which only this option needs.
        from deepfake_tools.evaluation.report import Report, write_report

        write_report(path, Report(run.metrics, run.totals, run.perturbed))
    else:
        {"output": write_results, "json": write_json, "csv": write_csv}[option](path, run)
