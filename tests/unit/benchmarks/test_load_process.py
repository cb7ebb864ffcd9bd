"""The load process against a server of a few lines: what it counts, and what voids a run."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.load import RequestTemplate
from benchmarks.load_process import LoadJob, ServerUsage, measure_load
from benchmarks.measurements import BenchmarkError, Figures, Measurements
from tests.unit.benchmarks.conftest import ANSWER_S, Answer

LOGITS = {b"first": (1.0, -1.0), b"second": (0.25, 2.0), b"third": (3.0, 0.5)}


def rightly(body: bytes) -> tuple[int, object]:
    return 200, {"logits": LOGITS[body]}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Figures, Measurements]]:
    def run(port: int, *, form: str = "bytes", clients: int = 3) -> tuple[Figures, Measurements]:
        images = []
        for content in LOGITS:
            images.append(tmp_path / content.decode())
            images[-1].write_bytes(content)
        job = LoadJob(
            template=RequestTemplate(
                port, "/predict", {"Content-Type": "application/octet-stream"}
            ),
            form=form,  # type: ignore[arg-type]
            images=tuple(map(str, images)),
            expected=tuple(LOGITS.values()),
            tolerance=0.01,
            clients=clients,
            warm_up_s=0.05,
            seconds=0.6,
        )
        found = Measurements(lambda _: None)
        usage = ServerUsage(0.0, 0.0)
        return measure_load("stub", job, tmp_path, found, lambda: usage, lambda: 7.0), found

    return run


def test_answers_are_counted_timed_and_compared(serve, load):
    asked = []

    def nearly(body: bytes) -> tuple[int, object]:
        asked.append(body)
        return 200, {"logits": [value + 0.005 for value in LOGITS[body]]}

    figures, found = load(serve(nearly))
    # Three clients, each of which waits for an answer that takes 20 ms: Little's law.
    assert figures.images_per_s * figures.mean_ms / 1e3 == pytest.approx(3, rel=0.25)
    assert 1e3 * ANSWER_S <= figures.p50_ms <= figures.p95_ms <= figures.p99_ms
    assert found.differences == {"stub": pytest.approx(0.005)}
    assert (figures.memory_mb, figures.memory_growth) == (7.0, None)
    assert set(asked) == set(LOGITS)


def test_a_server_that_is_slower_than_the_measurement_is_measured(serve, load):
    def slowly(body: bytes) -> tuple[int, object]:
        time.sleep(1.0)
        return rightly(body)

    figures, _ = load(serve(slowly), clients=1)
    assert figures.p50_ms >= 1000
    assert figures.images_per_s == pytest.approx(1, rel=0.25)


def test_images_go_as_base64_where_that_is_wanted(serve, load):
    def decode(body: bytes) -> tuple[int, object]:
        return rightly(base64.b64decode(json.loads(body)["image_data"]))

    figures, _ = load(serve(decode), form="base64")
    assert figures.images_per_s > 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda body: (503, {"code": 503}), "status 503"),
        (lambda body: (200, {"logits": LOGITS[b"third"]}), "not .* within 0.01"),
        (lambda body: (200, {"logits": [1.0]}), "not .* within 0.01"),
        (lambda body: (200, {"logits": [float("nan")] * 2}), "not .* within 0.01"),
        (lambda body: (200, {"label": "REAL"}), "KeyError"),
    ],
    ids=["refused", "another image's", "too few", "no numbers", "no logits"],
)
def test_a_wrong_answer_voids_the_run(serve, load, answer: Answer, words: str):
    with pytest.raises(BenchmarkError, match=f"wrong answer, so there is no figure: .*{words}"):
        load(serve(answer))


def test_a_wrong_answer_after_many_right_ones_voids_the_run(serve, load):
    count = iter(range(10**6))

    def sometimes(body: bytes) -> tuple[int, object]:
        return rightly(body) if next(count) != 10 else (500, {})

    with pytest.raises(BenchmarkError, match="status 500"):
        load(serve(sometimes))


def test_no_server_is_no_figure(load):
    with pytest.raises(BenchmarkError, match="ConnectionRefusedError"):
        load(1)
