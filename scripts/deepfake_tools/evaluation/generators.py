"""Figures by generator: each folder's fake images against all real images, and their mean.

Needs the extra `evaluate`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepfake_tools.evaluation.figures import CONFIDENCE, RESAMPLES, GeneratorMetrics, MacroAverage
from deepfake_tools.evaluation.ranking import SEED, Counts, Labels, Scores

Places = npt.NDArray[np.int32]
"""Four bytes for each image: in a thousand resamples half the time is memory's."""
FigureRows = npt.NDArray[np.float64]
"""AUC, TPR at 1 % FPR and TPR at 0.1 % FPR, a column a generator, (3, generators)."""

TARGETS = (0.01, 0.001)
MOST_INTERVALS = 200
"""Generators that have intervals. Where there are more, they are videos of a few frames each."""


def by_generator(
    labels: Labels, scores: Scores, places: npt.NDArray[np.int_], groups: int
) -> tuple[list[GeneratorMetrics | None], MacroAverage | None]:
    """Measures each group's fake images against the real images of all groups.

    Intervals are those of a bootstrap. In each resample the real images are drawn once for all
    groups, and the fake ones of each group apart.

    Args:
        labels: Of the images.
        scores: Of the images.
        places: The group that each image is in, from 0, (images,).
        groups: How many there are.

    Returns:
        The groups' figures, None for one without fake images; and their mean, where two have some.
    """
    levels, ranks = np.unique(scores, return_inverse=True)
    at = ranks.astype(np.int32)
    is_fake = labels == 1
    order = np.argsort(places[is_fake], kind="stable")
    sizes = np.bincount(places[is_fake], minlength=groups).astype(np.int32)
    there = np.flatnonzero(sizes)
    stage = _Stage.of(len(levels), at[~is_fake], at[is_fake][order], sizes[there])
    plain = stage.figures(stage.reals, stage.fakes)
    found = [GeneratorMetrics(*column) for column in plain.T.tolist()]
    macro = None
    if groups > 1:  # of one folder the figures are those of the run
        drawn = _resamples(stage, keep=len(there) <= MOST_INTERVALS)
        if drawn.groups is not None:
            found = [
                GeneratorMetrics(*column, *_intervals(drawn.groups[:, :, i]))
                for i, column in enumerate(plain.T.tolist())
            ]
        if len(there) > 1:
            mean = plain.mean(axis=1).tolist()
            macro = MacroAverage(len(there), *mean, *_intervals(drawn.means))
    placed: list[GeneratorMetrics | None] = [None] * groups
    for place, figures in zip(there.tolist(), found, strict=True):
        placed[place] = figures
    return placed, macro


@dataclass(frozen=True)
class _Stage:
    """Images by the rank of their score, so that a resample takes no sorting.

    Attributes:
        levels: How many different scores there are.
        reals: Rank of each real image, (reals,).
        fakes: Rank of each fake image, group after group, (fakes,).
        sizes: Fake images of each group, none of them 0, (generators,).
        starts: Where each group begins among the fakes, (generators,).
        own_start: Where each fake's group begins, (fakes,).
        own_size: How large it is, (fakes,).
    """

    levels: int
    reals: Places
    fakes: Places
    sizes: Places
    starts: Places
    own_start: Places
    own_size: Places

    @classmethod
    def of(cls, levels: int, reals: Places, fakes: Places, sizes: Places) -> "_Stage":
        """Returns it with the groups' places."""
        starts = np.cumsum(sizes, dtype=np.int32) - sizes
        return cls(
            levels, reals, fakes, sizes, starts, np.repeat(starts, sizes), np.repeat(sizes, sizes)
        )

    def figures(self, reals: Places, fakes: Places) -> FigureRows:
        """Returns the figures of some real images, and as many fakes of each group as it has."""
        counts: Counts = np.bincount(reals, minlength=self.levels)
        below = np.cumsum(counts)
        below -= counts
        # A fake is found if a threshold at its score calls no more real images fake than allowed.
        lowest = [np.searchsorted(below, len(reals) - _allowed(t, len(reals))) for t in TARGETS]
        counts += below
        counts += below  # now twice the real images that a fake is above, equal scores once
        sums = [np.add.reduceat(counts[fakes], self.starts) / (2 * len(reals))]
        sums += [np.add.reduceat(fakes >= one, self.starts, dtype=np.int64) for one in lowest]
        return np.stack(sums) / self.sizes

    def draw(self, generator: np.random.Generator) -> FigureRows:
        """Returns the figures of a resample."""
        reals = self.reals[
            generator.integers(len(self.reals), size=len(self.reals), dtype=np.int32)
        ]
        picks = (generator.random(len(self.fakes)) * self.own_size).astype(np.int32)
        picks += self.own_start
        return self.figures(reals, self.fakes[picks])


def _allowed(target: float, reals: int) -> int:
    """Returns how many of the real images may be called fake at most."""
    most = round(target * reals)
    return most if most / reals <= target else most - 1


@dataclass(frozen=True)
class _Resamples:
    """The figures of all resamples.

    Attributes:
        means: Over the groups, (resamples, 3).
        groups: Of each group, (resamples, 3, generators); None where nobody asks.
    """

    means: npt.NDArray[np.float64]
    groups: npt.NDArray[np.float32] | None


def _resamples(stage: _Stage, *, keep: bool) -> _Resamples:
    generator = np.random.default_rng(SEED)
    means = np.empty((RESAMPLES, 3))
    groups = np.empty((RESAMPLES, 3, len(stage.sizes)), np.float32) if keep else None
    for i in range(RESAMPLES):
        drawn = stage.draw(generator)
        means[i] = drawn.mean(axis=1)
        if groups is not None:
            groups[i] = drawn
    return _Resamples(means, groups)


def _intervals(drawn: npt.NDArray[np.floating]) -> list[tuple[float, float]]:
    """Returns what the middle 95 % span of each figure.

    Args:
        drawn: Of each resample, (resamples, figures).
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0).tolist()
    return list(zip(low, high, strict=True))
