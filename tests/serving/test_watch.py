"""What a server shows of itself: metrics under every query of deploy/, and logs that stay small."""

import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.torchserve.local_server import LocalServer

from tests import ROOT
from tests.archives import write_archive
from tests.building import Builder
from tests.prometheus import Prometheus, find_prometheus
from tests.queries import (
    ADDED,
    Page,
    Query,
    alarm_queries,
    alarms,
    dashboard_queries,
    groupings,
    scaling_queries,
    selectors,
)
from tests.serving.conftest import CONFIG
from tests.serving.manage_runs import Manage
from tests.waiting import wait_until

pytestmark = pytest.mark.serving

BROKEN = ArchiveName("acme--broken", "1")
REASON = "no memory left"
OCTETS = {"Content-Type": "application/octet-stream"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MARK = b"these-are-pixels"
LOG_BYTES = 16 << 10
OLDER_LOGS = 2
LINE_BYTES = 4 << 10

NOT_HERE = {
    "GPUUtilization": "TorchServe reports it where there is a GPU",
    "GPUMemoryUtilization": "TorchServe reports it where there is a GPU",
}
"""Metrics that a page may lack, and why."""

QUERIES = [*dashboard_queries(), *alarm_queries(), *scaling_queries()]

NOT_OF_TORCHSERVE = {"up": "Prometheus' own", "clip_deepfake_ready": "the probe's"}


class Watched:
    """A server with a detector and a model that cannot start, whose logs are cut small.

    Attributes:
        server: its TorchServe.
        name: of the detector.
        photo: an image that it has a verdict on, with MARK in its bytes.
        rounds: how often `ask_all` has asked.
        ids: of the requests that got a verdict, as their answers have them.
        failure: why the other model did not start, by the log.
    """

    def __init__(self, server: LocalServer, name: str, photo: bytes) -> None:
        self.server = server
        self.name = name
        self.photo = photo
        self.rounds = 0
        self.ids: set[str] = set()
        self.failure: str | None = None
        self.session = requests.Session()
        self._token = json.loads(server.key_file.read_text())["inference"]["key"]
        server.wait_for(lambda: self._failed() is not None, "the failure's reason", 60)

    def _failed(self) -> str | None:
        self.failure = WorkerLog(self.server.logs, from_now=False).failure(BROKEN)
        return self.failure

    def post(self, path: str, timeout: float = 60, **options: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._token}", **options.pop("headers", {})}  # type: ignore[dict-item]
        url = self.server.inference_url + path
        return self.session.post(url, headers=headers, timeout=timeout, **options)  # type: ignore[arg-type]

    def ask_all(self) -> None:
        """Asks whatever a metric counts: 5 images are judged, 2 are refused."""
        path = f"/predictions/{self.name}"
        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(self.post, path, data=self.photo, headers=OCTETS) for _ in range(5)]
            answers = [future.result() for future in sent]
        assert [answer.status_code for answer in answers] == [200] * 5
        self.ids |= {answer.headers["x-request-id"] for answer in answers}
        instances = [{"b64": base64.b64encode(MARK).decode()}]
        assert self.post(path, json={"instances": instances}).status_code == 400
        assert self.post(path, data=MARK, headers=OCTETS).status_code == 400
        assert self.post("/predictions/nobody", data=MARK, headers=OCTETS).status_code == 404
        # As curl does unless it is told a type: TorchServe takes the image for a form, and fails.
        assert self.post(path, data=self.photo, headers=FORM).status_code == 500
        with suppress(requests.Timeout):
            self.post(f"/predictions/{BROKEN.name}", timeout=0.5, data=MARK, headers=OCTETS)
        self.rounds += 1
        wait_until(lambda: self.counted() == 5 * self.rounds)

    def counted(self) -> float:
        """How many verdicts are on the page; the worker reports once a second."""
        counts = re.findall(
            r"^clip_deepfake_verdicts_total\{.*\} (\S+)$", self.page(), re.MULTILINE
        )
        return sum(map(float, counts))

    def page(self) -> str:
        answer = self.session.get(f"{self.server.metrics_url}/metrics", timeout=10)
        # Newer versions of Prometheus read nothing that does not say what it is.
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.text


def decide(archive: Path, reals: list[Path], factory: pytest.TempPathFactory) -> Path:
    """Calibrates by a few photographs: a detector without a decision reports no false alarms."""
    folder = factory.mktemp("decided")
    (folder / "reals").mkdir()
    for path in reals:
        shutil.copy(path, folder / "reals")
    words = ["--archive", archive, "--reals", folder / "reals", "--false-alarms", 0.5]
    command = [sys.executable, ROOT / "scripts" / "calibrate.py", *words, "--output", "decided"]
    subprocess.run([*map(str, command)], cwd=folder, check=True, timeout=120)
    return folder / "decided"


@pytest.fixture(scope="module")
def watched(
    store: Path, small_clip: Path, examples: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    build = Builder(store)
    decision = decide(build("--model", small_clip).path, examples, tmp_path_factory)
    build("--model", small_clip, "--decision", decision, "--force")
    write_archive(store, BROKEN.name, load_failure=REASON)
    folder = tmp_path_factory.mktemp("settings")
    logging = CONFIG.with_name("log4j2.xml").read_text()
    for name, value in {"size": f"{LOG_BYTES} B", "older_files": str(OLDER_LOGS)}.items():
        logging, count = re.subn(rf'(<Property name="{name}">)[^<]*', rf"\g<1>{value}", logging)
        assert count == 1
    (folder / "log4j2.xml").write_text(logging)
    shutil.copy(CONFIG, folder)
    with LocalServer(store, folder / CONFIG.name) as server:
        server.wait_ready(small_clip.name)
        yield Watched(server, small_clip.name, examples[0].read_bytes() + MARK)


@pytest.fixture(scope="module")
def page(watched: Watched) -> Page:
    watched.ask_all()
    return Page(watched.page())


@pytest.fixture(scope="module")
def prometheus(
    watched: Watched, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """One that has seen every counter grow."""
    if find_prometheus() is None:
        pytest.skip("Prometheus is not installed: no query is run, only looked up on the page")
    command = Manage(watched.server, store).command("probe", "--listen", "127.0.0.1:0")
    with ExitStack() as stack:
        probe = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(probe.terminate)
        assert probe.stdout is not None
        addresses = {
            "clip-deepfake": watched.server.metrics_url,
            "clip-deepfake-probe": probe.stdout.readline().split()[-1],
        }
        targets = {job: url.removeprefix("http://") for job, url in addresses.items()}
        folder = tmp_path_factory.mktemp("prometheus")
        running = stack.enter_context(Prometheus(folder, targets))
        for _ in range(2):
            watched.ask_all()
            running.await_verdicts(5 * watched.rounds)
        yield running


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.title)
def test_the_page_has_what_a_query_asks_for(page: Page, query: Query) -> None:
    for selector in selectors(query.text):
        if selector.metric in NOT_OF_TORCHSERVE:
            continue
        assert selector.metric in page.series
        series = page.series[selector.metric]
        if selector.metric in NOT_HERE:
            continue
        equal = {name: value for name, value in selector.equal.items() if name not in ADDED}
        assert any(equal.items() <= labels.items() for labels in series), selector
        assert selector.labels <= page.labels(selector.metric) | ADDED
    for by, inner in groupings(query.text):
        for selector in inner:
            assert by <= page.labels(selector.metric) | ADDED, query.text


@pytest.mark.parametrize("query", dashboard_queries(), ids=lambda q: q.title)
def test_a_panel_shows_something(prometheus: Prometheus, query: Query) -> None:
    found = prometheus.ask(query.text)
    if not found:
        assert {selector.metric for selector in selectors(query.text)} <= set(NOT_HERE)


def test_an_alarm_is_raised_about_what_is_wrong_here_and_nothing_else(
    prometheus: Prometheus,
) -> None:
    # The broken model, and one request in nine that ends with 500.
    expected = {"ClipDeepfakeNotReady", "ClipDeepfakeNoAnswers", "ClipDeepfakeServerErrors"}
    wait_until(lambda: expected <= prometheus.raised())
    # What the machine is short of is not this test's doing.
    machine = {"ClipDeepfakeMemoryShort", "ClipDeepfakeDiskShort"}
    assert prometheus.raised() - machine == expected
    assert {rule["name"] for rule in prometheus.rules()} == set(alarms())
    assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
    silent = prometheus.ask(alarms()["ClipDeepfakeNoAnswers"])
    assert {labels["model_name"] for labels, _ in silent} == {BROKEN.name}


def test_logs_have_one_line_a_batch_and_why_a_load_failed_and_no_image(
    watched: Watched, page: Page
) -> None:
    assert watched.failure == REASON
    console = (watched.server.directory / "torchserve.out").read_bytes()
    assert MARK not in console
    assert base64.b64encode(MARK) not in console
    batches = re.findall(r"clip_deepfake batch: (\{.*\})$", console.decode(), re.MULTILINE)
    # Of each round 7 requests reach the detector's worker.
    assert sum(json.loads(line)["requests"] for line in batches) == 7 * watched.rounds
    assert watched.ids <= {id for line in batches for id in json.loads(line)["ids"]}
    # TorchServe's own lines about each batch and each counter.
    assert "[METRICS]" not in console.decode()
    assert "Backend response time" not in console.decode()


def test_logs_stay_within_their_bounds(watched: Watched) -> None:
    most = (OLDER_LOGS + 1) * LOG_BYTES
    junk = {"instances": [{"b64": ""}] * 32}
    # Each twice as much as is kept: lines of more than 500 bytes, and of more than 80.
    for _ in range(2 * most // 500):
        assert watched.post(f"/predictions/{watched.name}", json=junk).status_code == 400
    for _ in range(2 * most // 80):
        watched.session.get(f"{watched.server.inference_url}/api-description", timeout=10)
    for kind in ("model_log", "access_log"):
        names = {f"{kind}.log", *(f"{kind}.{n + 1}.log.gz" for n in range(OLDER_LOGS))}
        wait_until(lambda: {p.name for p in watched.server.logs.glob(f"{kind}*")} == names)  # noqa: B023
        for name in names:
            content = (watched.server.logs / name).read_bytes()
            if name.endswith(".gz"):
                content = gzip.decompress(content)
            # The line that goes over the limit is still written.
            assert len(content) <= LOG_BYTES + LINE_BYTES
