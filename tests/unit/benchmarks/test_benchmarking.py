"""What a benchmark computes and says, from figures that are made up."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from deepfake_tools.percentiles import percentile
from deepfake_tools.text_table import table
from PIL import Image

from benchmarks.archives import BUILDS, build_archives
from benchmarks.goals import Goal, Subject, find_goals
from benchmarks.load_process import Counters, mean_times_ms, parse_counters
from benchmarks.machine import MemorySample, MemoryTrace, describe_machine, settled_growth
from benchmarks.measurements import (
    BenchmarkError,
    Cell,
    Figures,
    Place,
    Scenario,
    Stages,
    Start,
    largest_difference,
    median_starts,
    medians,
)
from benchmarks.photographs import find_images, write_images
from benchmarks.report import cells_text, goals_text, profile, profile_text, write_plot

PLAIN = Figures(images_per_s=10.0, mean_ms=100.0, p50_ms=90.0, p95_ms=150.0, p99_ms=200.0)


def served(contender: str, clients: int, speed: float, memory_mb: float = 500.0) -> Cell:
    place = Place(contender, Scenario.SERVED, clients)
    return Cell(place, 1, replace(PLAIN, images_per_s=speed, memory_mb=memory_mb))


def goals_of(
    cells: list[Cell], precision: str = "float32", operations: int = 10**10, ready_s: float = 3.0
) -> dict[str, Goal]:
    subject = Subject("ours", precision, operations)
    found = find_goals(medians(cells), {"ours": ready_s}, [subject])
    return {goal.what: goal for goal in found}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_numpys(share: float, count: int):
    values = np.random.default_rng(count).normal(size=count).tolist()
    assert percentile(values, share) == pytest.approx(np.quantile(values, share))


def test_medians_are_each_figures_own():
    place = Place("a", Scenario.SERVED, 4)
    rows = [(1.0, 30.0), (5.0, 10.0), (3.0, 20.0)]
    cells = [
        Cell(place, number, replace(PLAIN, images_per_s=speed, p50_ms=p50))
        for number, (speed, p50) in enumerate(rows, start=1)
    ]
    found = medians([*cells, served("b", 1, 7.0)])
    assert list(found) == [place, Place("b", Scenario.SERVED, 1)]
    assert (found[place].images_per_s, found[place].p50_ms) == (3.0, 20.0)
    assert found[place].queue_ms is None


def test_starts_are_medians_too():
    starts = [Start("a", 1, 9.0), Start("b", 1, 1.0), Start("a", 2, 3.0), Start("a", 3, 4.0)]
    assert median_starts(starts) == {"a": 4.0, "b": 1.0}


def test_ratios_are_of_the_same_number_of_clients():
    cells = [served("ours", 1, 20.0), served("ours", 16, 30.0), served("ours", 64, 99.0)]
    cells += [served("LitServe", 1, 8.0), served("LitServe", 16, 20.0), served("LitServe", 64, 1.0)]
    cells.append(Cell(Place("ours", Scenario.PROCESS, 8), 1, replace(PLAIN, images_per_s=40.0)))
    found = goals_of(cells)
    many, one = found["16 clients, against LitServe"], found["1 client, against LitServe"]
    assert (many.reached, many.wanted, many.verdict) == (1.5, 1.4, "met")
    assert (one.reached, one.wanted, one.verdict) == (2.5, 1.9, "met")
    process = found["16 clients, against one process in batches of 8"]
    assert (process.reached, process.wanted) == (0.75, 0.9)
    assert process.verdict == "MISSED by 16.7%"


def test_each_rival_has_goals_of_its_own_and_one_not_measured_none():
    rivals = ("LitServe, OpenVINO float32", "LitServe, OpenVINO bfloat16")
    cells = [served(rival, clients, 10.0) for rival in rivals for clients in (1, 16)]
    cells += [served("ours", 1, 13.0), served("ours", 16, 13.0)]
    wanted = {
        "float32": (1.05, 1.2, None, None),
        "bfloat16": (None, None, 1.3, 1.4),
        "int8": (None, None, 2.0, 2.0),
    }
    whats = [
        f"{clients}, against {rival}" for rival in rivals for clients in ("1 client", "16 clients")
    ]
    for precision, wishes in wanted.items():
        # Larger encoders' goals are no lower here.
        found = goals_of(cells, precision, operations=2 * 10**11)
        assert [found[what].reached for what in whats] == [1.3] * 4
        assert tuple(found[what].wanted for what in whats) == wishes
        assert not any(what.endswith("LitServe") for what in found)


def test_bounds_are_missed_from_above():
    found = goals_of([served("ours", 1, 1.0, memory_mb=840.0)], "int8", ready_s=6.0)
    assert found["register to READY"].verdict == "met"
    assert found["worker memory"].verdict == "MISSED by 100.0%"


def test_a_long_load_has_bounds_of_its_own():
    long = replace(PLAIN, p50_ms=10.0, p99_ms=650.0, memory_growth=0.02)
    cells = [Cell(Place("ours", Scenario.SERVED, clients), 1, long) for clients in (1, 64)]
    found = goals_of(cells)
    growth = found["64 clients, growth of memory after 20 s"]
    slowest = found["64 clients, 99th percentile against one client's median"]
    assert (growth.reached, growth.unit, growth.verdict) == (pytest.approx(2.0), "%", "met")
    assert (slowest.reached, slowest.verdict) == (65.0, "MISSED by 1.6%")
    assert not any("growth" in what for what in goals_of([served("ours", 64, 1.0)]))


@pytest.mark.parametrize(
    ("readings", "growth"),
    [
        ([(second, 100.0 + 10 * min(second, 20)) for second in range(60)], 0.0),
        ([(second, 100.0 + second) for second in range(61)], 40 / 120),
        ([(second, 500.0 - second) for second in range(60)], 0.0),
        ([(second, 100.0) for second in range(29)], None),
    ],
    ids=["settled", "growing", "falling", "too short"],
)
def test_growth_counts_after_20_seconds(readings: list[tuple[float, float]], growth: float | None):
    found = settled_growth([MemorySample(1000.0 + at, memory) for at, memory in readings])
    assert found == (growth if growth is None else pytest.approx(growth))


def test_a_memory_is_read_at_both_ends():
    readings = iter([3.0, 5.0, 4.0])
    with MemoryTrace(lambda: next(readings)) as trace:
        pass
    assert [sample.memory_mb for sample in trace.samples] == [3.0, 5.0]
    assert trace.largest_mb == 5.0
    assert trace.growth is None


def test_large_encoders_have_the_same_ratios_within_a_tenth_and_no_bounds():
    cells = [served("ours", 8, 9.0), served("LitServe", 8, 5.0)]
    found = goals_of(cells, operations=2 * 10**11)
    assert found["8 clients, against LitServe"].wanted == pytest.approx(0.9 * 1.4)
    assert found["worker memory"].wanted is None
    assert found["worker memory"].verdict == ""


def test_a_precision_without_goals_has_ratios_still():
    found = goals_of([served("ours", 1, 9.0), served("LitServe", 1, 3.0)], "bfloat16")
    assert (found["1 client, against LitServe"].reached, found["worker memory"].wanted) == (
        3.0,
        None,
    )


PAGE = """\
# TYPE ts_queue_latency_microseconds counter
ts_queue_latency_microseconds{model_name="a",model_version="1",hostname="h",} 4000.0
ts_queue_latency_microseconds{model_name="other",model_version="1",hostname="h",} 1.0E9
ts_inference_latency_microseconds{model_name="a",model_version="1",hostname="h",} 9000.0
ts_inference_requests_total{model_name="a",model_version="1",hostname="h",} 2.0
QueueTime{Level="Host",Hostname="h",} 0.0
"""


def test_counters_are_one_models():
    found = parse_counters(PAGE, "a")
    assert found == Counters(requests=2.0, queue_us=4000.0, server_us=9000.0)
    assert mean_times_ms(parse_counters("", "a"), found) == (2.0, 4.5)
    assert mean_times_ms(found, found) == (None, None)


def test_a_requests_time_is_divided_without_a_rest_unaccounted_for():
    figures = replace(PLAIN, images_per_s=20.0, mean_ms=300.0, queue_ms=90.0, server_ms=295.0)
    place = Place("ours", Scenario.SERVED, 8)
    stages = tuple(
        Stages(size, 2.0 * size, 5.0 * size, 1.0 * size, 30.0 * size, 0.5) for size in (1, 2, 4, 8)
    )
    (time,) = profile({place: figures}, {"ours": stages})
    assert (time.worker_ms, time.at_once, time.stages.size) == (205.0, pytest.approx(4.1), 4)
    assert time.wait_ms + time.transport_ms + time.worker_ms == pytest.approx(time.total_ms)
    assert time.rest_ms == pytest.approx(205.0 - 4 * 38.0 - 0.5)
    assert list(profile({place: figures}, {})) == []
    assert time.as_json().keys() == {
        *("contender", "clients", "at_once", "batch", "total_ms", "wait_ms", "transport_ms"),
        *("worker_ms", "decode_ms", "align_ms", "resize_ms", "engine_ms", "answer_ms", "rest_ms"),
    }


def test_tables_hold_every_figure():
    cells = [served("ours", 1, 20.0), Cell(Place("ours", Scenario.ENGINE, 8), 1, PLAIN)]
    text = cells_text(medians(cells), [*cells, served("ours", 1, 24.0)])
    assert "20.00-24.00" in text
    assert len({len(line.split()) for line in table([("a", "b"), ("x", "1")]).splitlines()}) == 1
    goals = goals_text([Goal("ours", "worker memory", 500.0, "MB", 420.0, at_most=True)])
    assert "at most 420.00  MISSED by 19.0%" in goals
    assert "transport" in profile_text([])


def test_images_are_photographs_of_one_size(examples: list[Path], tmp_path: Path):
    paths = write_images(examples, tmp_path / "a", 7)
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (640, 480))
    pixels = [cv2.imread(str(path)) for path in paths]
    assert len({image.tobytes() for image in pixels}) == len(paths)
    again = write_images(examples, tmp_path / "b", 7)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert find_images(tmp_path / "a") == paths


def test_a_folder_without_jpegs_is_refused(tmp_path: Path):
    with pytest.raises(BenchmarkError, match="holds no JPEG"):
        find_images(tmp_path)


def test_logits_of_another_number_are_infinitely_off():
    assert largest_difference((1.0, 2.0), (1.5, 2.25)) == 0.5
    assert largest_difference((1.0,), (1.0, 2.0)) == float("inf")


def test_the_machine_names_what_is_installed():
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.libraries["torch"]
    assert "tensorflow" not in machine.libraries


def test_a_plot_is_a_picture(tmp_path: Path):
    cells = [served("ours", clients, 2.0 * clients) for clients in (1, 4)]
    cells.append(Cell(Place("ours", Scenario.PROCESS, 8), 1, PLAIN))
    write_plot(tmp_path / "plot.png", medians(cells), "a title")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_a_model_that_is_nowhere_is_refused_in_the_builders_words(tmp_path: Path):
    assert BUILDS
    with pytest.raises(BenchmarkError, match="no archive of acme/unheard-of"):
        build_archives("acme/unheard-of", BUILDS, tmp_path, tmp_path, lambda _: None)
