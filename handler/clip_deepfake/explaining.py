"""Says what the parts of a picture contribute to its margin, in the way that an engine can.

Exactly, where the archive has a graph for that (``decomposition``); elsewhere by occlusion: what
the margin loses when a part is painted over (Zeiler and Fergus, "Visualizing and Understanding
Convolutional Networks", ECCV 2014).
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from clip_deepfake.card import EncoderCard, HeadCard
from clip_deepfake.engines import Contributions, Decompose, Engine, Logits, Pixels, run_pass
from clip_deepfake.errors import (
    DetectorError,
    EngineLostError,
    InternalError,
    NotOfferedError,
    TooManyImagesError,
)
from clip_deepfake.verdicts import Method, Verdict, fake_margin, margin_weights

logger = logging.getLogger(__name__)

FAILED = InternalError("the explanation could not be computed; the server's log says why")

MOST_BLOCKS = 8
"""Rows and columns of the blocks that a picture is painted over by."""

MOST_PASSES = MOST_BLOCKS**2
"""Passes for all explanations of one request."""

DECOMPOSED_SHARE = 8
"""Of the pictures in a pass, so many fewer are taken apart in one: every layer's values stay in
memory to its end."""

DIGITS = 6
"""Of a contribution, which has no more that count."""


@dataclass(frozen=True)
class Wish:
    """What an explanation is to be.

    Attributes:
        method: to be used; None for the best that the archive has.
        overlay: whether a picture of the map is wanted.
    """

    method: Method | None = None
    overlay: bool = False


@dataclass(frozen=True)
class Case:
    """A picture to be explained.

    Attributes:
        wish: what is wanted.
        pixels: uint8 (side, side, 3), as the engine had it.
        verdict: on it.
    """

    wish: Wish
    pixels: Pixels
    verdict: Verdict

    @property
    def logits(self) -> Logits:
        """Float32 (outputs,)."""
        return np.array(self.verdict.logits, np.float32)


@dataclass(frozen=True)
class Breakdown:
    """What a margin is made of; fields as in ``Explanation``."""

    method: Method
    grid: tuple[tuple[float, ...], ...]
    rest: float
    passes: int


class Explainer:
    """Explains what an engine found.

    Attributes:
        methods: that it has, the best one first.
    """

    def __init__(self, engine: Engine, head: HeadCard, encoder: EncoderCard) -> None:
        """Takes an engine.

        Args:
            engine: that found the logits.
            head: says how they are read.
            encoder: whose patches no block is to cut through.
        """
        self._engine = engine
        self._head = head
        self._edges = block_edges(encoder.image_size, patch_size(encoder))
        self.methods: tuple[Method, ...] = ("occlusion",)
        if engine.decompose is not None:
            self.methods = ("decomposition", "occlusion")

    def refusals(self, wishes: Sequence[Wish]) -> list[DetectorError | None]:
        """Says which explanations of a request are not to be had.

        Args:
            wishes: of its images, in order.

        Returns:
            For each the reason, or None.
        """
        spent, refusals = 0, list[DetectorError | None]()
        for wish in wishes:
            method = wish.method or self.methods[0]
            refusals.append(self._refusal(method, spent))
            if refusals[-1] is None:
                spent += self._price(method)
        return refusals

    def _refusal(self, method: Method, spent: int) -> DetectorError | None:
        price = self._price(method)
        if method not in self.methods:
            return NotOfferedError(
                f"this archive does not explain by {method}; it has {' and '.join(self.methods)}"
            )
        if spent + price > MOST_PASSES:
            return TooManyImagesError(
                f"explanations by {method} take {price} passes each, and one request may take "
                f"{MOST_PASSES}; send this image in another one"
            )
        return None

    def _price(self, method: Method) -> int:
        return 1 if method == "decomposition" else (len(self._edges) - 1) ** 2

    def explain(self, cases: Sequence[Case]) -> list[Breakdown | DetectorError]:
        """Explains pictures.

        Args:
            cases: none of which ``refusals`` refused.

        Returns:
            One for each, in order.

        Raises:
            EngineLostError: when this process will compute nothing more.
        """
        found: dict[int, Breakdown | DetectorError] = {}
        apart: list[int] = []
        for index, case in enumerate(cases):
            if (case.wish.method or self.methods[0]) == "decomposition":
                apart.append(index)
            else:
                found[index] = self._guarded(case)
        if self._engine.decompose is not None:
            parts = self._decompose(self._engine.decompose, [cases[index] for index in apart])
            found |= dict(zip(apart, parts, strict=True))
        return [found[index] for index in range(len(cases))]

    def _guarded(self, case: Case) -> Breakdown | DetectorError:
        try:
            return self._occlude(case)
        except EngineLostError:
            raise
        except Exception:
            logger.exception("a picture could not be explained by occlusion")
            return FAILED

    def _decompose(
        self, decompose: Decompose, cases: Sequence[Case]
    ) -> Iterator[Breakdown | DetectorError]:
        at_once = max(1, self._engine.largest_pass // DECOMPOSED_SHARE)
        for start in range(0, len(cases), at_once):
            some = cases[start : start + at_once]
            pixels = np.stack([case.pixels for case in some])
            weights = np.stack([margin_weights(case.logits, self._head) for case in some])
            try:
                rows = decompose(pixels, weights)
            except EngineLostError:
                raise
            except Exception:
                logger.exception("%d pictures could not be taken apart", len(some))
                yield from [FAILED] * len(some)
                continue
            yield from (_taken_apart(row, case) for row, case in zip(rows, some, strict=True))

    def _occlude(self, case: Case) -> Breakdown | DetectorError:
        """Paints over one block after the other, in the picture's own mean colour."""
        blocks = len(self._edges) - 1
        painted = list(painted_over(case.pixels, self._edges))
        size = self._engine.largest_pass
        starts = range(0, len(painted), size)
        logits = np.concatenate(
            [run_pass(self._engine, np.stack(painted[start : start + size])) for start in starts]
        )
        if not np.isfinite(logits).all():
            return InternalError("the model answered what are no numbers of a painted picture")
        lost = [case.verdict.margin - fake_margin(row, self._head) for row in logits]
        return _parts("occlusion", lost, blocks, case, passes=len(painted))


def _taken_apart(row: Contributions, case: Case) -> Breakdown | DetectorError:
    if not np.isfinite(row).all():
        return InternalError("the model's parts are no numbers")
    side = math.isqrt(len(row) - 1)
    return _parts("decomposition", row[1:].tolist(), side, case, passes=1)


def _parts(
    method: Method, values: Iterable[float], side: int, case: Case, *, passes: int
) -> Breakdown:
    """Lays contributions out in rows; whatever they lack of the margin is the rest."""
    short = [float(f"{value:.{DIGITS}g}") for value in values]
    grid = tuple(tuple(short[start : start + side]) for start in range(0, len(short), side))
    return Breakdown(method, grid, case.verdict.margin - math.fsum(short), passes)


def patch_size(encoder: EncoderCard) -> int:
    """Side of the encoder's patches in pixels; 1 where its settings do not tell."""
    vision = encoder.config.get("vision_config") or encoder.config
    size = vision.get("patch_size")
    return size if isinstance(size, int) and 1 <= size <= encoder.image_size else 1


def block_edges(side: int, patch: int) -> list[int]:
    """Where the blocks of a picture begin and end, along either axis.

    Args:
        side: of the picture, in pixels.
        patch: side of a patch.

    Returns:
        From 0 to ``side``: blocks of as many whole patches each, as many as ``MOST_BLOCKS`` allows;
        where the patches have no such divisor, blocks that differ by a patch.
    """
    patches = side // patch
    even = [count for count in range(MOST_BLOCKS // 2, MOST_BLOCKS + 1) if patches % count == 0]
    count = max(even, default=min(MOST_BLOCKS, patches))
    return [*(round(index * patches / count) * patch for index in range(count)), side]


def painted_over(pixels: Pixels, edges: Sequence[int]) -> Iterator[Pixels]:
    """Yields copies of a picture, each with another block in the picture's mean colour."""
    mean: npt.NDArray[np.uint8] = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    spans = list(pairwise(edges))
    for top, bottom in spans:
        for left, right in spans:
            painted = pixels.copy()
            painted[top:bottom, left:right] = mean
            yield painted
