"""What is left to do: every image in one block, whatever there was before."""

from pathlib import Path

import numpy as np
import pytest
from deepfake_tools.bulk import plan
from deepfake_tools.bulk.digests import MOST_RUNS, NameSet
from deepfake_tools.bulk.items import Item
from deepfake_tools.bulk.plan import read_block, write_plan
from deepfake_tools.storage import Location


def items(*numbers: int) -> list[Item]:
    return [Item(f"{n}.png", f"/data/{n}.png", n % 2) for n in numbers]


@pytest.mark.parametrize("actors", [1, 2, 50])
@pytest.mark.parametrize("count", [1, 33, 4096, 5000, 9001])
def test_blocks_hold_each_image_once(tmp_path: Path, count: int, actors: int) -> None:
    place = Location(None, str(tmp_path / "plan"))
    written = write_plan(place, items(*range(count)), NameSet(), may_repeat=False)
    blocks = list(written.blocks(actors))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert [item for block in blocks for item in read_block(place, block)] == items(*range(count))
    assert all(0 < block.stop - block.start <= plan.LARGEST_BLOCK for block in blocks)


def test_what_is_answered_or_named_twice_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FILE_ITEMS", 10)
    place, answered = Location(None, str(tmp_path / "plan")), NameSet()
    answered.add([f"{n}.png" for n in range(0, 100, 3)])
    twice = [n for n in range(100) for _ in range(2)]
    written = write_plan(place, items(*twice), answered, may_repeat=True)
    left = [item for block in written.blocks(1) for item in read_block(place, block)]
    assert left == items(*(n for n in range(100) if n % 3))
    assert (written.images, written.answered, written.repeated) == (66, 68, 100)


def test_a_plan_of_an_earlier_run_is_gone(tmp_path: Path) -> None:
    place = Location(None, str(tmp_path / "plan"))
    write_plan(place, items(*range(9000)), NameSet(), may_repeat=False)
    write_plan(place, items(1), NameSet(), may_repeat=False)
    assert len(list((tmp_path / "plan").iterdir())) == 1


def test_a_set_of_names_is_a_set() -> None:
    chance, known, own = np.random.default_rng(0), set[str](), NameSet()
    for _ in range(3 * MOST_RUNS):
        names = [str(n) for n in chance.integers(0, 2000, 100)]
        expected = [n not in known and n not in names[:k] for k, n in enumerate(names)]
        assert own.holds(names).tolist() == [n in known for n in names]
        assert own.add(names).tolist() == expected
        known.update(names)
    assert len(own) == len(known)
