"""What the drills compute, without a server."""

import io
import random
import struct
import textwrap
import zlib
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from clip_deepfake.errors import DetectorError
from clip_deepfake.images import decode
from deepfake_tools.text_table import table
from deepfake_tools.torchserve.local_server import LocalServer
from PIL import Image

from benchmarks.load import Exchange
from tests.drills import commands
from tests.drills.commands import ClientResult, ClientRun, ClientRunError
from tests.drills.drill import VersionExchange
from tests.drills.kills import rate, recovery_s
from tests.drills.lies import lie, numbers
from tests.drills.mutations import FORMATS, MUTATIONS, mutants, originals
from tests.drills.security import wrapped_table
from tests.drills.soak import Trend, Usage, finding, trend


def progress(speeds: list[float], step_s: float = 0.1) -> list[tuple[float, int]]:
    """Answers that came at so many a second, in one second after the other."""
    steps = round(1 / step_s)
    each = [speed * step_s for speed in speeds for _ in range(steps)]
    return [(100 + step_s * i, round(count)) for i, count in enumerate(accumulate(each, initial=0))]


def test_a_rate_is_answers_a_second() -> None:
    assert rate(progress([50] * 10), 102, 108) == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize(
    ("after", "seconds"),
    [([50] * 10, 0.0), ([0] * 3 + [50] * 10, 2.6), ([0] * 3 + [30] * 10, None), ([0] * 9, None)],
    ids=["no matter", "three seconds of nothing", "slower for good", "nothing more"],
)
def test_recovery_is_when_answers_come_as_before(after: list[float], seconds: float | None) -> None:
    found = recovery_s(progress([50] * 6 + after), 106.0)
    assert found == (seconds if seconds is None else pytest.approx(seconds, abs=0.21))


def test_nothing_is_as_fast_as_before_when_nothing_came_before() -> None:
    assert recovery_s(progress([50] + [0] * 20), 106.0) is None


@pytest.mark.parametrize(
    ("lines", "probabilities", "failed", "complete"),
    [
        (3, {"a": 0.1, "b": 0.2}, ["c"], True),
        (2, {"a": 0.1, "b": 0.2}, [], False),
        (4, {"a": 0.1, "b": 0.2, "c": 0.3}, [], False),
        (3, {"a": 0.1, "b": 0.2}, [], False),
    ],
    ids=["each once", "one lost", "one doubled", "one in another's place"],
)
def test_a_run_is_complete_when_each_image_is_there_once(
    lines: int, probabilities: dict[str, float], failed: list[str], complete: bool
) -> None:
    result = ClientResult(0, 3, lines, probabilities, failed, retries=0, seconds=1.0)
    assert result.is_complete == complete


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ClientRun]:
    """Returns a run whose client.py is some other code, with the folder of its results."""

    def run(code: str) -> ClientRun:
        script, images, results = (tmp_path / name for name in ("client.py", "images", "results"))
        script.write_text(f"from pathlib import Path\nfolder = Path({str(results)!r})\n{code}")
        images.mkdir()
        monkeypatch.setattr(commands, "CLIENT", script)
        store = LocalServer(images, tmp_path / "config.properties", tmp_path)
        return ClientRun(store, "small", images, results)

    return run


def test_answers_stay_counted_when_a_run_removes_its_journal(
    stand_in: Callable[[str], ClientRun],
) -> None:
    code = """
        import time
        journal = folder / "run.txt.partial.jsonl"
        journal.write_text('{"place": 1}\\n' * 3)
        time.sleep(0.5)
        (folder / "run.csv").write_text("path,fake_probability,error\\n")
        (folder / "run.txt").touch()
        journal.unlink()
        time.sleep(0.5)
    """
    with stand_in(textwrap.dedent(code)) as run:
        run.result()
    counts = [count for _, count in run.progress]
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_a_run_without_results_says_what_the_client_said(
    stand_in: Callable[[str], ClientRun],
) -> None:
    with (
        stand_in("raise SystemExit('there is no image')") as run,
        pytest.raises(ClientRunError, match="ended with 1:\nthere is no image"),
    ):
        run.result()


def test_originals_are_images_of_nine_formats(examples: list[Path]) -> None:
    files = originals(examples[:2])
    assert list(files) == [one.name for one in FORMATS]
    assert len(set(files)) == 9
    for some in files.values():
        for data in some:
            assert decode(data, 10**6).shape == (120, 160, 3)
    kinds = {Image.open(io.BytesIO(some[0])).format for some in files.values()}
    assert kinds == {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"}


def test_mutants_are_damaged_in_every_way_and_the_same_for_the_same_seed(
    examples: list[Path],
) -> None:
    files = originals(examples[:1])
    found = list(mutants(files, 450))
    assert found == list(mutants(files, 450))
    assert found != list(mutants(files, 450, seed=1))
    assert {(one.format, one.mutation) for one in found} == {
        (one.name, how) for one in FORMATS for how in MUTATIONS
    }
    assert not any(one.data in files[one.format] for one in found)
    outcomes = set()
    for one in found:
        try:
            decode(one.data, 10**6)
            outcomes.add("judged")
        except DetectorError as error:
            outcomes.add(error.code)
    assert {"judged", "truncated_image", "not_an_image"} <= outcomes


def test_a_trend_compares_the_second_quarter_with_the_last() -> None:
    memory = [50.0] * 10 + [100.0] * 10 + [150.0] * 10 + [120.0] * 9 + [900.0]
    found = trend([Usage(value, 7 + (index > 30)) for index, value in enumerate(memory)])
    assert found == Trend(Usage(100.0, 7), Usage(120.0, 8))
    assert found.growth == pytest.approx(0.2)
    assert found.more_files == 1


FLAT = Trend(Usage(100.0, 7), Usage(101.0, 8))
ANSWERED = [Exchange(0.0, 1.0, None, "1")]


@pytest.mark.parametrize(
    ("exchanges", "trends", "same_worker", "fault"),
    [
        (ANSWERED, [FLAT, FLAT], True, None),
        ([Exchange(0.0, 1.0, None, None, "507")], [FLAT, FLAT], True, "1 requests failed: 507"),
        (ANSWERED, [FLAT, FLAT], False, "the worker was started anew"),
        (ANSWERED, [], True, "a process was gone"),
        (ANSWERED, [Trend(Usage(100.0, 7), Usage(104.0, 7)), FLAT], True, "worker's memory"),
        (ANSWERED, [FLAT, Trend(Usage(1e6, 7), Usage(1.11e6, 7))], True, "Java's memory"),
        (ANSWERED, [FLAT, Trend(Usage(1.0, 7), Usage(1.5, 7))], True, None),
        (ANSWERED, [FLAT, Trend(Usage(100.0, 7), Usage(100.0, 16))], True, "9 more files open"),
    ],
    ids=[
        "flat",
        "failed",
        "another worker",
        "no worker",
        "worker grows",
        "Java grows",
        "heap fills",
        "files",
    ],
)
def test_a_soak_finds_what_is_not_flat(
    exchanges: list[VersionExchange], trends: list[Trend], same_worker: bool, fault: str | None
) -> None:
    faults = finding(8.0, exchanges, trends, same_worker=same_worker).faults
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


def test_wrapped_cells_go_on_in_their_own_column() -> None:
    rows = [("a", "b"), ("one two three", "x"), ("", "four five")]
    assert wrapped_table(rows, (7, 5)).splitlines() == [
        "a        b",
        "one two  x",
        "three",
        "         four",
        "         five",
    ]
    assert table([("a", "n"), ("long", "7")]).splitlines() == ["a     n", "long  7"]


def test_lies_are_told_of_the_numbers_that_a_decoder_obeys(examples: list[Path]) -> None:
    for name, (data,) in originals(examples[:1]).items():
        values = [struct.unpack_from(number.form, data, number.at)[0] for number in numbers(data)]
        assert 160 in values, name
        assert 120 in values, name


def test_a_lie_changes_fields_alone(examples: list[Path]) -> None:
    chance = random.Random(3)
    for name, (data,) in originals(examples[:1]).items():
        allowed = {
            number.at + byte
            for number in numbers(data)
            for byte in range(struct.calcsize(number.form))
        }
        for _ in range(50):
            false = lie(data, chance)
            assert len(false) == len(data)
            changed = {at for at in range(len(data)) if false[at] != data[at]}
            assert changed, name
            if name != "PNG":
                assert changed <= allowed, name


def test_a_png_that_lies_has_right_checksums(examples: list[Path]) -> None:
    (png,) = originals(examples[:1])["PNG"]
    chance = random.Random(3)
    for _ in range(50):
        false, position = lie(png, chance), 8
        while position < len(png):
            end = position + 8 + struct.unpack_from(">I", png, position)[0]
            assert struct.unpack_from(">I", false, end) == (zlib.crc32(false[position + 4 : end]),)
            position = end + 4


def test_a_lie_about_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no known format"):
        numbers(b"%PDF-1.7")
