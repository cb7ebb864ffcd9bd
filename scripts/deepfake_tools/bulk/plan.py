"""What is left to do, written down beside the answers: every node reads its blocks there.

What travels through Ray is a block's number and bounds alone. A block that is asked for twice,
since its node died, is the same images and becomes the same part.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from deepfake_tools.bulk.dataset import read_table, to_parquet
from deepfake_tools.bulk.digests import NameSet
from deepfake_tools.bulk.items import SCHEMA, Item, from_table, to_table
from deepfake_tools.storage import Location

FILE_ITEMS = 4096
"""In one file of the plan."""

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 1024
BLOCKS_AN_ACTOR = 64
"""Wished for, so that all actors end at about the same time and little is lost with a node."""


@dataclass(frozen=True)
class Block:
    """Images that one actor scores in one go, and that become one part.

    Attributes:
        number: Of the part.
        file: Of the plan.
        start: Position of the first of them in the file.
        stop: Of the one after the last.
    """

    number: int
    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class ScoringPlan:
    """What is left to do.

    Attributes:
        folder: Where it is written down.
        counts: Images in each file.
        repeated: Images that were named more than once; each is in it once.
        answered: Images that have their answer already.
    """

    folder: Location
    counts: tuple[int, ...] = ()
    repeated: int = 0
    answered: int = 0

    @property
    def images(self) -> int:
        """How many are left."""
        return sum(self.counts)

    def blocks(self, actors: int) -> Iterator[Block]:
        """Yields the blocks for so many actors, one after the other."""
        wished = self.images // (BLOCKS_AN_ACTOR * actors)
        size = max(SMALLEST_BLOCK, min(wished, LARGEST_BLOCK))
        number = 0
        for file, count in enumerate(self.counts):
            for start in range(0, count, size):
                yield Block(number, file, start, min(start + size, count))
                number += 1


def write_plan(
    folder: Location, items: Iterable[Item], answered: NameSet, *, may_repeat: bool
) -> ScoringPlan:
    """Writes down which images have no answer yet.

    Args:
        folder: Takes the plan; what an earlier run has left there is removed.
        items: All images.
        answered: The names of those that have their answer.
        may_repeat: Whether one may be among them twice, which costs 16 bytes an image to find out.

    Raises:
        OutputError: It cannot be written.
    """
    folder.remove_folder()
    folder.make_folder()
    seen = NameSet()
    counts: list[int] = []
    all_items = repeated = done = 0
    waiting: list[Item] = []
    unread = iter(items)
    while some := list(islice(unread, FILE_ITEMS)):
        all_items += len(some)
        names = [item.name for item in some]
        left = ~answered.holds(names)
        done += len(some) - int(left.sum())
        if may_repeat:
            new = seen.add(names)
            repeated += len(some) - int(new.sum())
            left &= new
        waiting += [item for item, is_left in zip(some, left, strict=True) if is_left]
        while len(waiting) >= FILE_ITEMS:
            counts.append(_write(folder, len(counts), waiting[:FILE_ITEMS]))
            del waiting[:FILE_ITEMS]
    if waiting:
        counts.append(_write(folder, len(counts), waiting))
    return ScoringPlan(folder, tuple(counts), repeated, done)


def _write(folder: Location, number: int, items: list[Item]) -> int:
    _place(folder, number).write(to_parquet(to_table(items)))
    return len(items)


def _place(folder: Location, number: int) -> Location:
    return folder / f"{number:06}.parquet"


def read_block(folder: Location, block: Block) -> list[Item]:
    """Returns the images of a block.

    Raises:
        StorageError: The plan cannot be read.
    """
    return _file_items(folder, block.file)[block.start : block.stop]


@lru_cache(maxsize=2)
def _file_items(folder: Location, number: int) -> list[Item]:
    return from_table(read_table(_place(folder, number), SCHEMA.names))
