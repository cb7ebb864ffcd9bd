"""How often something was begun, written down where it outlives the process that began it.

Ray begins again what a lost process had in hand, and cannot tell whether that was its end. So what
ends its process each time is found, and given up.
"""

import json
from dataclasses import dataclass, field

from deepfake_tools.storage import Location

MOST = 2
"""Attempts that may be lost without anybody wondering, as two nodes can be."""


@dataclass
class Attempts:
    """The attempts at one thing.

    Attributes:
        file: Where they are written down.
        lost: Attempts before this one that did not end.
        given_up: Parts of it, by position, each of which was in hand when an attempt was lost.
    """

    file: Location
    lost: int = 0
    given_up: set[int] = field(default_factory=set)

    @classmethod
    def begin(cls, folder: Location, name: str) -> "Attempts":
        """Writes down that there is one more.

        Args:
            folder: Of the run's plan.
            name: Of what is attempted, the same in each attempt.

        Raises:
            OutputError: It cannot be written.
        """
        file = folder / f"attempts-{name}.json"
        try:
            before = json.loads(file.read())
        except FileNotFoundError:
            attempts = cls(file)
        else:
            given_up = {*before["given_up"], *before["in_hand"]}
            attempts = cls(file, before["begun"], given_up)
        attempts._write(begun=attempts.lost + 1)
        return attempts

    @property
    def is_suspect(self) -> bool:
        """Whether so many were lost that what is attempted may be why."""
        return self.lost >= MOST

    def take(self, position: int) -> None:
        """Writes down which part is in hand.

        Raises:
            OutputError: It cannot be written.
        """
        self._write(begun=self.lost + 1, in_hand=position)

    def end(self) -> None:
        """Writes down that nothing is lost any more.

        Raises:
            OutputError: It cannot be written.
        """
        self._write(begun=0)

    def _write(self, begun: int, in_hand: int | None = None) -> None:
        state = {
            "begun": begun,
            "in_hand": [] if in_hand is None else [in_hand],
            "given_up": sorted(self.given_up),
        }
        self.file.write(json.dumps(state).encode())
