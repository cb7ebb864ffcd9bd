"""Labels and folders in, who is held out and who cross-validates out; folders stay whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

Labels = npt.NDArray[np.int64]
"""0 for real, 1 for fake, (images,)."""

Rows = npt.NDArray[np.int64]
"""Indices of images."""

MOST_FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Two parts with nothing in common; both hold real and fake images."""

    train: Rows
    test: Rows

    def of(self, rows: Rows) -> "Split":
        """The same of images that are a part of others, whose places among those are given."""
        return Split(rows[self.train], rows[self.test])


@dataclass(frozen=True)
class Plan:
    """Which images do what.

    Attributes:
        held_out: its test part judges the finished head, and nothing else.
        folds: of the train part of ``held_out``; each image is in the test part of one.
        kept_together: what never stands on both sides.
    """

    held_out: Split
    folds: tuple[Split, ...]
    kept_together: Literal["folder", "image"]

    def of(self, rows: Rows) -> "Plan":
        """The same of images that are a part of others, whose places among those are given."""
        folds = tuple(fold.of(rows) for fold in self.folds)
        return Plan(self.held_out.of(rows), folds, self.kept_together)


def plan_splits(labels: Labels, folders: Sequence[str], seed: int) -> Plan:
    """Divides images: a fifth held out where there is enough, the rest into up to five folds.

    Whole folders are divided where each class lies in enough of them, and single images
    otherwise: then frames of one video may stand on both sides, which flatters the scores.

    Args:
        labels: of the images.
        folders: that each image lies in.
        seed: of the division.

    Raises:
        ValueError: when there are fewer than three images of a class.
    """
    groups = np.unique(np.asarray(folders), return_inverse=True)[1]
    plan = _plan(labels, groups, seed) or _plan(labels, None, seed)
    if plan is None:
        raise ValueError("too few images of a class to divide")
    return plan


def _plan(labels: Labels, groups: Rows | None, seed: int) -> Plan | None:
    outer = _folds(labels, groups, seed)
    # Folders differ in size: the part nearest to a fifth is held out.
    for held_out in sorted(outer, key=lambda split: abs(len(split.test) / len(labels) - 0.2)):
        rows = held_out.train
        inner = _folds(labels[rows], None if groups is None else groups[rows], seed)
        if inner:
            folds = tuple(fold.of(rows) for fold in inner)
            return Plan(held_out, folds, "image" if groups is None else "folder")
    return None


def _folds(labels: Labels, groups: Rows | None, seed: int) -> list[Split]:
    """Divides into as many folds, up to five, as leave both classes in every part."""
    for count in range(_fewest(labels, groups), 1, -1):
        folds = list(_divide(labels, groups, count, seed))
        parts = [part for fold in folds for part in (fold.train, fold.test)]
        if all(len(np.unique(labels[part])) == 2 for part in parts):
            return folds
    return []


def _fewest(labels: Labels, groups: Rows | None) -> int:
    """Images, or groups, that there are of the rarer class; at most ``MOST_FOLDS``."""
    members = np.arange(len(labels)) if groups is None else groups
    return min(MOST_FOLDS, *(len(np.unique(members[labels == label])) for label in (0, 1)))


def _divide(labels: Labels, groups: Rows | None, count: int, seed: int) -> Iterator[Split]:
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(count, shuffle=True, random_state=seed)
    for train, test in splitter.split(labels, labels, groups):
        yield Split(train, test)
