"""The dashboard's and the alarms' queries against a live metrics page; logs that stay bounded."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepfake_tools.failures import ImageError
from deepfake_tools.local_server import LocalServer, free_ports
from deepfake_tools.trial import trial_image

from tests.conftest import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.serving

NAME = "acme--watched"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
QUERIES = [
    (f"{panel['title']}, {target['legendFormat']}", target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
(GROUP,) = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
ALARMS = [(rule["alert"], rule["expr"]) for rule in GROUP["rules"]]

LOG_FILES = 10
LOG_BYTES = 4096
SLACK_BYTES = 4096
"""A line may go over the size that ends a file."""


@pytest.fixture(scope="module")
def server(store: Path, start_server: Callable[..., LocalServer], small_clip: Path) -> LocalServer:
    """A small detector whose logs turn over every 4 KB, and which has been asked this and that."""
    build = [sys.executable, ROOT / "scripts/build_mar.py", "--model", small_clip]
    build += ["--served-name", NAME, "--export-path", store]
    subprocess.run(list(map(str, build)), check=True, capture_output=True, timeout=200)
    settings = {"vmargs": f"-Dclip_deepfake.log_size={LOG_BYTES}", "metric_time_interval": "1"}
    server = start_server(settings=settings)
    server.wait_ready(NAME)
    return server


def ask(server: LocalServer, times: int) -> None:
    """Some images, and as many files that are none."""
    api = server.inference()
    for _ in range(times):
        api.predict(NAME, trial_image())
        with suppress(ImageError):
            api.predict(NAME, b"no image")


@pytest.fixture(scope="module")
def prometheus(
    server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Asks a Prometheus that scrapes the server; returns the series of a query."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy" / "alerts.yml")]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [server.metrics_url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield lambda query: evaluate(address, query)
        finally:
            running.terminate()


def evaluate(address: str, query: str) -> list[dict[str, Any]]:
    parameters = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{parameters}") as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    return found["data"]["result"]


def filled_in(query: str) -> str:
    return query.replace("$model", NAME).replace("$__rate_interval", "20s")


@pytest.fixture(scope="module")
def scraped(
    server: LocalServer, prometheus: Callable[[str], list[dict[str, Any]]]
) -> Callable[[str], list[dict[str, Any]]]:
    """The same, once it has seen the counters grow."""
    growing = f'increase(clip_deepfake_refused_images_total{{model_name="{NAME}"}}[20s]) > 0'

    def has_grown() -> bool:
        ask(server, 4)
        with suppress(OSError):
            return bool(prometheus(growing)) and bool(prometheus("CPUUtilization"))
        return False

    wait_until(has_grown)
    return prometheus


@pytest.mark.parametrize(("panel", "query"), QUERIES, ids=[panel for panel, _ in QUERIES])
def test_a_panels_query_has_an_answer(scraped, panel, query):
    assert scraped(filled_in(query)), f"{panel}: no series"


@pytest.mark.parametrize(("alarm", "query"), ALARMS, ids=[alarm for alarm, _ in ALARMS])
def test_an_alarms_query_can_be_computed_and_is_silent(scraped, alarm, query):
    # Half of what was sent are no images, and more than a tenth of refused ones is an alarm.
    assert bool(scraped(query)) == (alarm == "DetectorRefuses")


def test_what_is_asked_for_is_on_the_page(server):
    ask(server, 1)

    def names() -> set[str]:
        with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=30) as answer:
            return set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))

    asked = {
        name
        for _, query in (*QUERIES, *ALARMS)
        for name in re.findall(r"\b(?:clip_deepfake|ts)_\w+|\b[A-Z][a-z]\w+(?=[\[{) ]|$)", query)
    } - {"WorkerName"}
    assert {"Requests5XX", "clip_deepfake_verdicts_total", "WorkerLoadTime"} <= asked
    wait_until(lambda: asked <= names())


def test_the_logs_are_bounded_and_say_what_a_batch_was(server):
    rotated = server.logs / f"model_log.{LOG_FILES}.log.gz"

    def is_full() -> bool:
        ask(server, 20)
        return rotated.exists()

    wait_until(is_full)
    ask(server, 20)
    kept = list(server.logs.glob("model_log*"))
    assert len(kept) <= LOG_FILES + 1
    texts = [
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in kept
    ]
    assert max(map(len, texts)) < LOG_BYTES + SLACK_BYTES
    text = b"".join(texts).decode()
    line = json.loads(re.findall(r"clip_deepfake batch: (\{.*\})", text)[-1])
    assert line["requests"] == len(line["ids"]) == len(line["statuses"])
    # Each line is in one file alone.
    assert "clip_deepfake batch" not in (server.logs / "ts_log.log").read_text()
    assert "clip_deepfake batch" not in (server.directory / "torchserve.out").read_text()
