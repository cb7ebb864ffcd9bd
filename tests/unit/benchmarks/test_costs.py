"""The table of costs against figures computed by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import costs
from benchmarks.costs import Assumptions, MeasuredRate, estimate, most_nodes, read_rates
from benchmarks.measurements import BenchmarkError
from tests import ROOT

# 100 images a second of 2 cores are 50 a core: of 10 cores, nine tenths of them kept, 450.
RATE = MeasuredRate("a, int8", 100.0, 2)
ASSUMED = Assumptions(
    node_cores=10,
    share=0.9,
    core_hour=0.036,
    gpu_hour=7.2,
    image_bytes=100e3,
    node_bytes=100e6,
    total_bytes=900e6,
    tasks=10,
    task_images=2000,
    images=1e6,
)


def test_nodes_are_as_fast_together_as_each_by_itself_until_the_storage_gives_no_more():
    one, ten, hundred = (estimate(RATE, nodes, ASSUMED) for nodes in (1, 10, 100))

    # 10 cores for 0.36 an hour are 0.0001 a second, so a million images at 450 a second are 0.2222.
    assert (one.images_per_s, one.bound) == (pytest.approx(450), "engine")
    assert one.cost_per_million == pytest.approx(0.0001 / 450 * 1e6)
    assert (ten.images_per_s, ten.bound) == (pytest.approx(4500), "engine")
    assert ten.cost_per_million == pytest.approx(one.cost_per_million)
    # 900 MB a second are 9,000 images a second, a fifth of what 100 nodes could compute.
    assert (hundred.images_per_s, hundred.bound) == (pytest.approx(9000), "storage")
    assert hundred.cost_per_million == pytest.approx(5 * one.cost_per_million)
    assert most_nodes(RATE, ASSUMED) == (pytest.approx(20), "storage")


@pytest.mark.parametrize(
    ("changed", "nodes", "rate", "bound"),
    [
        # 20 MB a second and node are 200 images.
        ({"node_bytes": 20e6}, 10, 2000, "node's network"),
        # 2 tasks of 2,000 images a second.
        ({"tasks": 2}, 10, 4000, "scheduler"),
        ({"task_images": 1}, 1, 10, "scheduler"),
    ],
)
def test_each_assumption_can_be_the_bound(changed, nodes, rate, bound):
    found = estimate(RATE, nodes, Assumptions(**{**ASSUMED.__dict__, **changed}))

    assert (found.images_per_s, found.bound) == (pytest.approx(rate), bound)


def test_a_gpu_costs_its_hour_whatever_cores_it_has():
    # 800 decoded a second, of which 720 are kept, at 7.2 an hour, 0.002 a second.
    found = estimate(MeasuredRate("a", 800.0, None, decodes_short=True), 1, ASSUMED)

    assert (found.images_per_s, found.bound) == (pytest.approx(720), "decoding")
    assert found.cost_per_million == pytest.approx(0.002 / 720 * 1e6)


def content(process: float = 60.0, engine: float = 70.0) -> dict[str, Any]:
    """What a benchmark writes, as far as costs are read off it."""

    def median(way: str, size: int, rate: float) -> dict[str, Any]:
        return {"contender": "int8", "way": way, "size": size, "images_per_s": rate}

    return {
        "machine": {"cores": 2, "gpus": []},
        "archives": [{"label": "int8", "model": "acme--m", "precision": "int8"}],
        "medians": [
            median("engine alone", 1, 30.0),
            median("engine alone", 8, engine),
            median("one process", 8, process),
            median("served", 16, 55.0),
        ],
        "disturbed": [],
    }


def write(path: Path, found: object) -> Path:
    path.write_text(json.dumps(found))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "benchmark.json"


def test_the_rate_is_that_of_one_process_at_its_largest_batch(file):
    assert read_rates(write(file, content())) == [MeasuredRate("acme--m, int8", 60.0, 2)]


def test_a_process_far_slower_than_its_engine_waits_for_decoding(file):
    (measured,) = read_rates(write(file, content(process=40.0)))

    assert measured.decodes_short
    assert estimate(measured, 1, ASSUMED).bound == "decoding"


def test_of_a_machine_with_a_gpu_the_gpu_is_paid_for(file):
    found = content()
    found["machine"]["gpus"] = ["NVIDIA something"]

    assert read_rates(write(file, found))[0].cores is None


def test_a_figure_that_was_disturbed_says_so(file):
    found = content()
    found["disturbed"] = [{"contender": "int8", "way": "one process", "size": 8, "round": 1}]

    assert read_rates(write(file, found))[0].name == "acme--m, int8 (DISTURBED)"


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {},
        {**content(), "archives": []},
        {**content(), "medians": []},
        {**content(), "machine": {"cores": 0, "gpus": []}},
        content(process=0.0),
        content(process=float("nan")),
    ],
)
def test_another_file_is_named_with_what_should_be_there(broken, file):
    with pytest.raises(BenchmarkError, match=r"benchmark\.json"):
        read_rates(write(file, broken))


def test_what_is_assumed_is_printed_and_each_of_it_is_an_option(file, capsys):
    write(file, content())
    options = ["--share=0.5", "--node-cores=4", "--core-hour=0.9", "--nodes=1,5", "--images=72000"]

    code = costs.main([str(file), *options, "--gpu", "big, float16=12000,5000"])

    said = capsys.readouterr().out
    assert code == 0
    for row in Assumptions(share=0.5).rows():
        assert row[0] in said
        assert row[2] in said
    rows = [line.split() for line in said.splitlines()]
    # 60 of 2 cores, so 120 of 4, half of them kept; 3.6 an hour are 0.001 a second.
    assert ["acme--m,", "int8", "1", "60", "0.3", "16.67", "engine"] in rows
    # 2,500 a second and node, 12,500 of five, which cost 20 an hour.
    assert ["big,", "float16", "5", "12,500", "0.0", "0.44", "decoding"] in rows
    assert "big, float16: over 20 nodes the storage is the bound" in said


@pytest.mark.parametrize("option", ["--share=0", "--tasks=-1", "--gpu=a=1", "--nodes=0"])
def test_what_is_no_number_above_0_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        costs.main(["benchmark.json", option])

    assert option.split("=")[0] in capsys.readouterr().err


def test_a_gpu_alone_needs_no_file_and_nothing_at_all_is_refused(capsys):
    assert costs.main(["--gpu", "big=12000,5000"]) == 0
    assert "over 11 nodes the storage" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        costs.main([])
    assert "there is nothing measured" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_one_line(capsys):
    assert costs.main(["none.json"]) == 1
    assert capsys.readouterr().err == "costs: none.json: No such file or directory\n"


PAGE_ROW = re.compile(r"^\| ([BL]/[^|]*) \|(.*)\|$", re.MULTILINE)


def test_the_table_on_the_page_is_what_its_own_figures_give():
    page = (ROOT / "docs" / "performance.md").read_text()
    figures, table = page.split("## A hundred million images")
    rows = PAGE_ROW.findall(table)

    assert len(rows) == 7
    for name, cells in rows:
        rate, node, hours, cost, bound = (cell.strip() for cell in cells.split("|"))
        assert f"| {rate} |" in figures, name
        # 16 cores, of whose rate nine tenths are kept; 0.72 an hour.
        alone = float(rate) / 2 * 16 * 0.9
        together = [min(alone * nodes, 10e9 / 200e3) for nodes in (1, 10, 100, 1000)]
        assert node == f"{alone:,.0f}"
        assert hours == " / ".join(f"{100e6 / each / 3600:,.1f}" for each in together)
        assert cost == f"{0.72 / 3600 / alone * 1e6:.2f}"
        assert bound == f"{50_000 / alone:,.0f} nodes"
        measured = MeasuredRate(name, float(rate), 2)
        for nodes, expected in zip((1, 10, 100, 1000), together, strict=True):
            assert estimate(measured, nodes, Assumptions()).images_per_s == pytest.approx(expected)
