"""A set of names in 16 bytes each: what has an answer, of millions of images."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BYTES = 16
"""Of a digest: of 10**9 names two have the same one with a probability of 10**-21."""

MOST_RUNS = 16
"""Sorted arrays that are searched one after the other before they become one."""

Digests = npt.NDArray[np.bytes_]
Flags = npt.NDArray[np.bool_]


class NameSet:
    """Names, as digests in sorted arrays."""

    def __init__(self) -> None:
        self._runs: list[Digests] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, names: Sequence[str]) -> Flags:
        """Takes names in.

        Returns:
            For each whether it is new; of one that stands there twice, the first is.
        """
        digests = _digests(names)
        new = ~self._holds(digests)
        _, firsts = np.unique(digests, return_index=True)
        first = np.zeros(len(digests), bool)
        first[firsts] = True
        new &= first
        if new.any():
            self._runs.append(np.sort(digests[new]))
        if len(self._runs) > MOST_RUNS:
            self._runs = [np.sort(np.concatenate(self._runs))]
        return new

    def holds(self, names: Sequence[str]) -> Flags:
        """Returns for each name whether it is in the set."""
        return self._holds(_digests(names))

    def _holds(self, digests: Digests) -> Flags:
        found = np.zeros(len(digests), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            found |= run[places] == digests
        return found


def _digests(names: Sequence[str]) -> Digests:
    digests = [
        hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=BYTES).digest()
        for name in names
    ]
    # All are of one length, so that it does not matter that NumPy leaves out the zeros at an end.
    return np.array(digests, dtype=f"S{BYTES}")
