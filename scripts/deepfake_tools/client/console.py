"""Records in, what a person sees of a run out: a line an image, or the progress of many."""

import sys
from pathlib import Path

from deepfake_tools.client.images import Collection
from deepfake_tools.client.journal import Journal
from deepfake_tools.client.records import Record
from deepfake_tools.progress import Progress

SHOWN_ERRORS = 10


class Console:
    """What is printed while a run goes on.

    Images that were named by themselves get a line each, in their order. For others there is the
    progress, and the first few failures.

    Args:
        collection: The images of the run.
        journal: What was done before, and what is still to be done.
    """

    def __init__(self, collection: Collection, journal: Journal) -> None:
        self._images = collection.images
        self._done, self._errors = journal.done, 0
        self._progress: Progress | None = None
        self._order: list[int] = []
        self._waiting: dict[int, Record] = {}
        if collection.named:
            # Backwards: the next one is the last.
            self._order = list(journal.missing())[::-1]
        else:
            self._progress = Progress(sys.stderr, "images", journal.places, journal.done)

    def show(self, records: list[Record]) -> None:
        """Prints what there is to say about some answers, or about none for a while."""
        self._done += len(records)
        if self._progress is None:
            self._show_in_order(records)
            return
        for record in records:
            self._show_error(record)
        self._progress.update(self._done, self._errors)

    def end(self) -> None:
        """Prints what has waited for an image before it, and removes the progress."""
        for place in sorted(self._waiting):
            self._show_line(self._waiting.pop(place))
        if self._progress is not None:
            self._progress.clear()

    def _show_in_order(self, records: list[Record]) -> None:
        self._waiting |= {record.place: record for record in records}
        while self._order and self._order[-1] in self._waiting:
            self._show_line(self._waiting.pop(self._order.pop()))

    def _show_line(self, record: Record) -> None:
        if record.place >= len(self._images):
            return  # a perturbed one
        path = self._images[record.place].path
        if record.error is not None:
            print(f"error: {path}: {record.message}", file=sys.stderr)
            return
        probability = record.fake_probability or 0.0
        confidence = probability if record.prediction else 1 - probability
        label = "FAKE" if record.prediction else "REAL"
        name = f"{Path(path).name}: " if len(self._images) > 1 else ""
        print(f"{name}Prediction: {label} (confidence: {confidence:.4f})", flush=True)

    def _show_error(self, record: Record) -> None:
        if record.error is None:
            return
        self._errors += 1
        if self._errors > SHOWN_ERRORS or self._progress is None:
            return
        self._progress.clear()
        path = self._images[record.place % len(self._images)].path
        print(f"error: {path}: {record.message}", file=sys.stderr)
        if self._errors == SHOWN_ERRORS:
            print("further failures are in the results file alone", file=sys.stderr)
