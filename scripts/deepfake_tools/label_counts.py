"""Labels as they are read in, a table of folder, label and count out: a wrong one is seen."""

from collections import Counter

from deepfake_tools.columns import table
from deepfake_tools.labels import FAKE, Label, Reading

MOST_ROWS = 20
NONE = "none"
AMBIGUOUS = "none: the name says both"


class LabelCounts:
    """How many images have which label, by the folder that says so."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, reading: Reading, folder: str) -> None:
        """Counts an image whose label the directories tell.

        Args:
            reading: What they say.
            folder: The image's, relative to the root. Where no name says anything, its first part
                stands for it.
        """
        if reading.source is None:
            self.add_listed(folder.partition("/")[0], None)
        elif reading.is_ambiguous:
            self._counts[reading.source.as_posix(), AMBIGUOUS] += 1
        else:
            self.add_listed(reading.source.as_posix(), reading.label)

    def add_listed(self, folder: str, label: Label | None) -> None:
        """Counts an image whose label something else tells, by its own folder."""
        word = NONE if label is None else "FAKE" if label == FAKE else "REAL"
        self._counts[folder or ".", word] += 1

    @property
    def tells_something(self) -> bool:
        """Whether an image has a label, or lacks one since a name says both."""
        return any(label != NONE for _, label in self._counts)

    def lines(self) -> list[str]:
        """Returns the table; of many folders those with the most images, and the others' sums."""
        largest = sorted(self._counts.items(), key=lambda item: -item[1])
        shown, rest = sorted(largest[:MOST_ROWS]), largest[MOST_ROWS:]
        rows = [(_one_line(folder), label, f"{count:,}") for (folder, label), count in shown]
        others: Counter[str] = Counter()
        for (_, label), count in rest:
            others[label] += count
        rows += [
            (f"({len(rest)} more rows)", label, f"{n:,}") for label, n in sorted(others.items())
        ]
        return table([("FOLDER", "LABEL", "IMAGES"), *rows]).splitlines()


def _one_line(folder: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in folder)
