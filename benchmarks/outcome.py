"""A finished run in, its tables, its JSON and its plot out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from deepfake_tools.files import replacing

from benchmarks.cells import Cell, Figures, Place, median_starts, medians
from benchmarks.goals import Goal, Subject, find_goals
from benchmarks.machine import Machine
from benchmarks.plan import Plan, Record
from benchmarks.profile import RequestTime, profile
from benchmarks.rivals import LITSERVE_FLOAT32, preparation
from benchmarks.rounds import Entry
from benchmarks.text import cells_text, goals_text, machine_text, profile_text

UNDISTURBED_SHARE = 0.1
"""Of the machine's cores that may be busy with something else during a measurement."""


@dataclass(frozen=True)
class Outcome:
    """A run.

    Attributes:
        machine: What it ran on.
        plan: How it was measured.
        rounds: How often.
        entries: The archives.
        record: What was measured.
    """

    machine: Machine
    plan: Plan
    rounds: int
    entries: Sequence[Entry]
    record: Record

    @cached_property
    def medians(self) -> dict[Place, Figures]:
        """Over the rounds."""
        return medians(self.record.cells)

    @cached_property
    def goals(self) -> list[Goal]:
        """Ratios and bounds."""
        subjects = [
            Subject(
                archive.label,
                archive.card.precision,
                archive.card.encoder.operations,
            )
            for archive in (entry.archive for entry in self.entries)
        ]
        ready_s = median_starts(self.record.starts)
        return find_goals(self.medians, ready_s, subjects)

    @cached_property
    def disturbed(self) -> list[Cell]:
        """Cells during which something else was at work on the machine."""
        most = UNDISTURBED_SHARE * self.machine.cores
        return [cell for cell in self.record.cells if (cell.figures.other_cores or 0.0) > most]

    @cached_property
    def profile(self) -> list[RequestTime]:
        """Where requests spent their time; empty unless the stages were timed."""
        return list(profile(self.medians, self.record.stages))

    def text(self) -> str:
        """Everything that a person wants to read."""
        parts = [
            machine_text(self.machine) + "\n" + self._archives_text(),
            f"rounds {self.rounds}, interleaved, medians below; {self.plan.seconds:g} s a cell "
            f"({self.plan.seconds / 2:g} s in one process); size: clients where served, else "
            "images a pass; cores: kept busy by the contender, by the load process, by others\n"
            + cells_text(self.medians, self.record.cells),
            self._answers_text(),
            goals_text(self.goals),
        ]
        if self.disturbed:
            parts.append(self._disturbed_text())
        if self.profile:
            parts.append(
                "where the time of a mean request goes, in ms; the stages are a whole batch's, "
                f"measured in one process\n{profile_text(self.profile)}"
            )
        return "\n\n".join(parts)

    def _archives_text(self) -> str:
        return "\n".join(
            f"archive    {entry.archive.label}: {entry.archive.path.name}, "
            f"{entry.archive.card.model.name}, {entry.answers.engine}, batches of "
            f"{entry.archive.batch_size}, preprocessing {entry.archive.card.preprocessing.name}"
            for entry in self.entries
        )

    def _disturbed_text(self) -> str:
        lines = ["DISTURBED, and not to be quoted: something else was at work during"]
        lines += [
            f"  round {cell.round}: {cell.place}: {cell.figures.other_cores or 0.0:.2f} cores"
            for cell in self.disturbed
        ]
        return "\n".join(lines)

    def _answers_text(self) -> str:
        lines = ["every served answer was compared; largest difference of a logit:"]
        for contender, difference in self.record.differences.items():
            ours = any(entry.archive.label == contender for entry in self.entries)
            others = f"our engine after {preparation(contender)}, which it uses"
            lines.append(
                f"  {contender}: {difference:.1e} from {'one process' if ours else others}"
            )
        if LITSERVE_FLOAT32 in self.record.differences and not self.plan.bfloat16:
            lines.append(
                "OpenVINO by itself computes in float32 on this processor, so there is one "
                "LitServe with it and no second one in bfloat16"
            )
        return "\n".join(lines)

    def write_json(self, path: Path) -> None:
        """Writes all of it as one JSON object.

        Raises:
            OSError: The file cannot be written.
        """
        content = {
            "machine": asdict(self.machine),
            "images": len(self.plan.images),
            "seconds": self.plan.seconds,
            "rounds": self.rounds,
            "archives": [_archive(entry) for entry in self.entries],
            "medians": [asdict(place) | asdict(figures) for place, figures in self.medians.items()],
            "ready_s": median_starts(self.record.starts),
            "goals": [asdict(goal) | {"verdict": goal.verdict} for goal in self.goals],
            "profile": [asdict(time) | {"rest_ms": time.rest_ms} for time in self.profile],
            "disturbed": [asdict(cell.place) | {"round": cell.round} for cell in self.disturbed],
            "differences": self.record.differences,
            "cells": [asdict(cell) for cell in self.record.cells],
            "starts": [asdict(start) for start in self.record.starts],
        }
        with replacing(path) as file:
            file.write(json.dumps(content, indent=1) + "\n")


def _archive(entry: Entry) -> dict[str, object]:
    archive = entry.archive
    return {
        "label": archive.label,
        "file": archive.path.name,
        "model": archive.card.model.name,
        "precision": archive.card.precision,
        "engine": entry.answers.engine,
        "batch_size": archive.batch_size,
        "preprocessing": archive.card.preprocessing.name,
    }
