"""The client over folders, as a person runs it: what it survives, and what it then has written."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.forking import Fork
from tests.unit.client_runs import CLIENT, Client
from tests.unit.torchserve_stub import (
    HANG_UP,
    NO_ANSWER,
    NO_WORKER,
    REFUSED,
    SERVED,
    Reply,
    Request,
    StubServer,
    answer_each,
    description,
    detector_error,
    images_of,
    json_reply,
    torchserve_error,
    verdict,
)
from tests.waiting import wait_until

LINE = re.compile(
    r"\[(?P<i>\d+)/(?P<n>\d+)\] (?P<name>.{30,}) \| True: (?P<true>REAL|FAKE| N/A) \| "
    r"Pred: (?P<pred>[01]) \(0=Real, 1=Fake\) \| Prob: (?P<prob>[01]\.\d{4}) \| Path: (?P<path>.+)"
)
FULL = torchserve_error(503, "ServiceUnavailableException", NO_WORKER)
DIED = torchserve_error(507, "InternalServerException", "Worker died.")
RESULTS = "inference_results_huggingface.txt"
JOURNAL = f"{RESULTS}.partial.jsonl"


def probability(image: bytes) -> float:
    """A score that depends on the image's bytes alone, with four digits as in the results file."""
    lean = 0.25 if b"fake" in image else 0.0
    return round(zlib.crc32(image) % 7500 / 10_000 + lean, 4)


@dataclass
class Detector:
    """Answers as a detector does, after `fault` has had its say.

    Attributes:
        fault: Gives an answer of its own to a request, or None.
        asked: How many times each image was asked about.
        answered: How many times each image was answered about.
    """

    fault: Callable[[Request], Reply | None] = lambda request: None
    token: str = "inference-token"
    version: str = "1"
    asked: Counter[bytes] = field(default_factory=Counter)
    answered: Counter[bytes] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        if request.path.startswith("/models"):
            return json_reply([description(SERVED, self.version, "READY")])
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return torchserve_error(400, "InvalidKeyException", REFUSED)
        images = images_of(request)
        with self.lock:
            self.asked.update(images)
            reply = self.fault(request)
            if reply is None:
                self.answered.update(images)
        return answer_each(request, self.judge) if reply is None else reply

    def judge(self, image: bytes) -> Reply:
        if b"broken" in image:
            return detector_error(400, "not_an_image", "these bytes are no image")
        answer = verdict(probability(image), "head.pth")
        answer["detector"] = {**answer["detector"], "version": self.version}  # type: ignore[dict-item]
        return json_reply(answer)


class Every:
    """A fault of every n-th request."""

    def __init__(self, number: int, reply: Reply) -> None:
        self.number, self.reply, self.count = number, reply, 0

    def __call__(self, request: Request) -> Reply | None:
        self.count += 1
        return None if self.count % self.number else self.reply


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 files in real/ and fake/, three of them broken; each holds its own name."""
    for index in range(300):
        kind = ("real", "fake")[index % 2]
        path = tmp_path / "data" / kind / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{kind} {index}{' broken' if index in (7, 100, 299) else ''}")
    return tmp_path / "data"


def lines_of(text: str) -> list[re.Match[str]]:
    return [match for line in text.splitlines() if (match := LINE.fullmatch(line))]


def without_timings(text: str) -> str:
    """What must be the same in two runs of one command."""
    varying = r"^(Time|Latency of a request|Repeated requests|Server|Command): .*\n"
    return re.sub(varying, "", text, flags=re.MULTILINE)


def test_a_folder_from_images_to_figures(client: Client, folder: Path, tmp_path: Path):
    with StubServer(Detector()) as stub:
        run = client("--image", "data", "--json", "o.json", "--csv", "o.csv", server=stub.address)
    assert run.code == 1, "three images are broken"
    assert run.err.count("refused as not_an_image") == 3
    text = (tmp_path / RESULTS).read_text()
    lines = lines_of(text)
    assert len(lines) == 297
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    for line in lines:
        image = (tmp_path / line["path"]).read_bytes()
        assert float(line["prob"]) == probability(image)
        assert line["true"] == image.split()[0].decode().upper()
        assert line["n"] == "300"
    truth = [line["true"] == "FAKE" for line in lines]
    scores = [float(line["prob"]) for line in lines]
    auc, pr_auc = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    figures = [
        f"AUC (Area Under ROC Curve): {auc:.4f}",
        f"PR-AUC (Area Under Precision-Recall Curve): {pr_auc:.4f}",
    ]
    assert "Total images processed: 297\nReal images: 149\nFake images: 148\n" in text
    assert "\n".join(figures) in text
    assert "\n".join(figures) in run.out
    assert text.split("FAILED IMAGES: 3\n")[1].count("these bytes are no image") == 3
    assert json.loads((tmp_path / "o.json").read_text())["metrics"]["auc"] == auc
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 301
    assert not (tmp_path / JOURNAL).exists()


@pytest.mark.parametrize("reply", [HANG_UP, FULL, DIED], ids=["dropped", "full queue", "died"])
def test_what_passes_is_asked_again(client: Client, folder: Path, tmp_path: Path, reply: Reply):
    detector = Detector(Every(7, reply))
    with StubServer(detector) as stub:
        run = client("--image", "data", server=stub.address)
    assert run.code == 1
    assert len(lines_of((tmp_path / RESULTS).read_text())) == 297
    assert set(detector.answered.values()) == {1}, "nothing is judged twice"
    assert len(detector.answered) == 300
    assert sum(detector.asked.values()) > 300


def test_an_answer_that_never_comes_is_given_up_and_asked_for_again(
    client: Client, folder: Path, tmp_path: Path
):
    silent = threading.Event()

    def once(request: Request) -> Reply | None:
        if b"real 42" not in images_of(request) or silent.is_set():
            return None
        silent.set()
        return NO_ANSWER

    with StubServer(Detector(once)) as stub:
        run = client("--image", "data", "--timeout", "4", server=stub.address)
    assert run.code == 1
    assert silent.is_set()
    assert len(lines_of((tmp_path / RESULTS).read_text())) == 297


def test_an_image_that_kills_every_worker_is_one_failure(
    client: Client, folder: Path, tmp_path: Path
):
    detector = Detector(lambda request: DIED if b"fake 43" in images_of(request) else None)
    with StubServer(detector) as stub:
        run = client("--image", "data", "--retries", "1", server=stub.address)
    assert run.code == 5
    text = (tmp_path / RESULTS).read_text()
    assert len(lines_of(text)) == 296
    assert "Failed images: 4 (not_an_image 3, worker_failed 1)" in text


def test_images_that_are_too_large_together_go_alone(client: Client, folder: Path, tmp_path: Path):
    detector = Detector(lambda request: Reply(413) if len(images_of(request)) > 1 else None)
    with StubServer(detector) as stub:
        run = client("--image", "data", server=stub.address)
    assert run.code == 1
    assert len(lines_of((tmp_path / RESULTS).read_text())) == 297


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [(HANG_UP, 6, "without an answer"), (FULL, 4, "queue is full"), (DIED, 5, "Worker died")],
)
def test_a_server_that_fails_for_good_ends_the_run(
    client: Client, folder: Path, tmp_path: Path, reply: Reply, code: int, words: str
):
    detector = Detector()
    detector.fault = lambda request: reply if len(detector.answered) >= 100 else None
    with StubServer(detector) as stub:
        arguments = ("--image", "data", "--retries", "1", "--json", "o.json")
        first = client(*arguments, server=stub.address)
        assert first.code == code
        assert words in first.err
        assert "--resume goes on" in first.err
        incomplete = (tmp_path / RESULTS).read_text()
        done = len(lines_of(incomplete))
        assert 90 <= done <= 200
        assert "INCOMPLETE: " in incomplete
        assert json.loads((tmp_path / "o.json").read_text())["complete"] is False
        judged = dict(detector.answered)
        detector.fault = lambda request: None
        second = client(*arguments, "--resume", server=stub.address)
        whole = (tmp_path / RESULTS).read_text()
        client(*arguments, "--output", "fresh.txt", server=stub.address)
    assert second.code == 1
    assert without_timings(whole) == without_timings((tmp_path / "fresh.txt").read_text())
    assert len(judged) >= done
    assert not (tmp_path / JOURNAL).exists()


def test_a_server_that_is_gone_ends_the_run(client: Client, folder: Path, tmp_path: Path):
    detector = Detector()
    with StubServer(detector) as stub:

        def leave(request: Request) -> Reply | None:
            if len(detector.answered) < 100:
                return None
            stub.stop_listening()
            return HANG_UP

        detector.fault = leave
        run = client("--image", "data", "--retries", "1", server=stub.address)
    assert run.code in (6, 13)
    # What 16 requests of 4 images each brought when it left may not have been read yet.
    assert len(lines_of((tmp_path / RESULTS).read_text())) >= 100 - 16 * 4


def interrupt_at_half(
    clients: Fork, folder: Path, stub: StubServer, detector: Detector, number: signal.Signals
) -> subprocess.CompletedProcess[str]:
    """Runs the client on `data` and sends it a signal when it has 150 answers on disk."""
    half = threading.Event()

    def fault(request: Request) -> Reply | None:
        if len(detector.answered) >= 150:
            half.set()
            return NO_ANSWER
        return None

    detector.fault = fault
    words = ("--server", stub.address, "--image", "data")
    running = clients.start(CLIENT, *words, cwd=folder.parent)
    assert half.wait(60)
    wait_until(lambda: (folder.parent / JOURNAL).read_text().count('"place"') >= 150)
    os.kill(running.pid, number)
    done = running.wait(60)
    detector.fault = lambda request: None
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_half_and_resumed_it_is_as_if_nothing_was(
    clients: Fork, client: Client, folder: Path, tmp_path: Path, number: signal.Signals
):
    detector = Detector()
    with StubServer(detector) as stub:
        stopped = interrupt_at_half(clients, folder, stub, detector, number)
        assert stopped.returncode == 128 + number
        assert "Traceback" not in stopped.stderr
        done = lines_of((tmp_path / RESULTS).read_text())
        assert 145 <= len(done) <= 160
        journal = (tmp_path / JOURNAL).read_text()
        recorded = {json.loads(line).get("place") for line in journal.splitlines()} - {None}
        detector.asked.clear()
        resumed = client("--image", "data", "--resume", server=stub.address)
        assert len(detector.asked) == 300 - len(recorded), "what was answered is not asked again"
        assert set(detector.asked.values()) == {1}
        whole = (tmp_path / RESULTS).read_text()
        client("--image", "data", "--output", "fresh.txt", server=stub.address)
    assert resumed.code == 1
    assert without_timings(whole) == without_timings((tmp_path / "fresh.txt").read_text())


def test_resuming_nothing_is_said_and_starts_anew(client: Client, folder: Path):
    with StubServer(Detector()) as stub:
        run = client("--image", "data", "--resume", server=stub.address)
    assert run.code == 1
    assert "holds nothing to go on with: this starts anew" in run.err


def test_killed_outright_nothing_written_is_lost(
    clients: Fork, client: Client, folder: Path, tmp_path: Path
):
    detector = Detector()
    with StubServer(detector) as stub:
        stopped = interrupt_at_half(clients, folder, stub, detector, signal.SIGKILL)
        assert stopped.returncode == -signal.SIGKILL
        again = client("--image", "data", server=stub.address)
        assert again.code == 17
        assert "go on with --resume" in again.err
        detector.asked.clear()
        assert client("--image", "data", "--resume", server=stub.address).code == 1
        assert len(detector.asked) <= 150
    assert len(lines_of((tmp_path / RESULTS).read_text())) == 297


def test_resuming_another_run_is_refused(
    clients: Fork, client: Client, folder: Path, tmp_path: Path
):
    detector = Detector()
    with StubServer(detector) as stub:
        interrupt_at_half(clients, folder, stub, detector, signal.SIGINT)
        (folder / "real" / "new.jpg").write_text("real new")
        run = client("--image", "data", "--resume", server=stub.address)
    assert run.code == 17
    assert "was over 300 images, this one is over 301" in run.err


def test_another_detector_in_the_middle_ends_the_run(client: Client, folder: Path, tmp_path: Path):
    detector = Detector()

    def swap(request: Request) -> Reply | None:
        detector.version = "2" if len(detector.answered) >= 100 else "1"
        return None

    detector.fault = swap
    with StubServer(detector) as stub:
        # One request at a time, so that what was answered before is known.
        run = client("--image", "data", "--concurrency", "1", server=stub.address)
        results = (tmp_path / RESULTS).read_text()
        resumed = client("--image", "data", "--resume", server=stub.address)
        (forget,) = re.findall(r"about all, `(.*)` and repeat the command", run.err)
        subprocess.run(forget, shell=True, cwd=tmp_path, check=True)
        anew = client("--image", "data", server=stub.address)
    assert run.code == resumed.code == 18
    assert "answers as version 2 of" in run.err
    assert "answered as version 1 of" in resumed.err
    for said in (run.err, resumed.err, results):
        assert "images were not asked: --resume goes on only while the first detector" in said
        assert "the same command with --resume goes on" not in said
    # What 16 requests of 4 images each brought when it left may not have been read yet.
    assert len(lines_of(results)) >= 100 - 16 * 4
    assert anew.code == 1
    assert len(lines_of((tmp_path / RESULTS).read_text())) == 297


def test_a_token_that_expires_in_the_middle_is_renewed_once(
    client: Client, folder: Path, tmp_path: Path
):
    detector = Detector()
    keys = tmp_path / "key_file.json"
    renewals = []

    def write(token: str, expires: str) -> None:
        inference = {"key": token, "expiration time": expires}
        keys.write_text(json.dumps({"inference": inference, "API": {"key": "api"}}))
        keys.chmod(0o600)

    def answer(request: Request) -> Reply:
        if request.path.startswith("/token"):
            assert request.headers["Authorization"] == "Bearer api"
            renewals.append(request.path)
            detector.token = "renewed"
            write("renewed", "2126-01-01T00:00:00Z")
            return Reply(200, b"\n")
        reply = detector(request)
        if len(detector.answered) >= 100 and not renewals:
            detector.token = "none"
        return reply

    write("inference-token", "2001-01-01T00:00:00Z")
    with StubServer(answer) as stub:
        run = client("--image", "data", server=stub.address)
    assert run.code == 1
    assert renewals == ["/token?type=inference"]
    assert len(lines_of((tmp_path / RESULTS).read_text())) == 297


def test_wrong_labels_and_empty_folders_are_wrong_arguments(client: Client, folder: Path):
    (folder / "fake" / "original").mkdir()
    (folder / "fake" / "original" / "1.jpg").touch()
    run = client("--image", "data")
    assert run.code == 2
    assert "data/fake/original stands for real, and" in run.err
    (folder / "labels.csv").write_text("file,class\n")
    run = client("--image", "data", "--labels", "data/labels.csv")
    assert run.code == 2
    assert "the header is 'file,class'" in run.err


def test_notes_on_what_one_may_not_expect(client: Client, folder: Path):
    (folder / "top.jpg").write_text("top")
    (folder / "labels.csv").write_text("path,label\nreal/000.jpg,real\n")
    with StubServer(Detector()) as stub:
        run = client("--image", "data", "--labels", "data/labels.csv", server=stub.address)
    assert run.code == 0
    assert run.err.splitlines() == [
        "FOLDER  LABEL  IMAGES",
        ".       none        1",
        "note: 1 file has another ending than an image and is left out (.csv 1)",
        "note: data holds images, so the folders in it are left out",
        "note: data/labels.csv lists 1 images that --image does not name",
    ]


def test_perturbed_images_are_asked_about_too(client: Client, examples: list[Path], tmp_path: Path):
    for index, kind in enumerate(("real", "fake")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "1.jpg").write_bytes(examples[index].read_bytes())
    detector = Detector()
    with StubServer(detector) as stub:
        arguments = ("--perturb", "jpeg=90,50", "blur=1", "--image", "real", "fake")
        run = client(*arguments, server=stub.address)
    assert run.code == 0
    assert len(detector.answered) == 8
    text = (tmp_path / RESULTS).read_text()
    rows = [line.split()[0] for line in text.split("PERTURBATIONS\n")[1].splitlines()[1:5]]
    assert rows == ["none", "jpeg=90", "jpeg=50", "blur=1"]
    assert len(lines_of(text)) == 2


@pytest.fixture
def requests_alone(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python, started with -S, that finds `requests` and nothing else."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("requests", "urllib3", "certifi", "idna", "charset_normalizer"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        (site / name).symlink_to(package)
    for helper in package.parent.glob("*__mypyc*.so"):  # charset_normalizer's compiled part
        (site / helper.name).symlink_to(helper)
    return {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}


def test_with_requests_alone_folders_are_scored_and_it_says_what_to_install(
    folder: Path, client: Client, tmp_path: Path, requests_alone: dict[str, str]
):
    command = [sys.executable, "-S", str(CLIENT), "--image", "data"]
    with StubServer(Detector()) as stub:
        bare = subprocess.run(
            [*command, "--server", stub.address],
            cwd=tmp_path,
            env=requests_alone,
            capture_output=True,
            text=True,
        )
    assert bare.returncode == 1, bare.stderr
    text = (tmp_path / RESULTS).read_text()
    assert len(lines_of(text)) == 297
    for place in (text, bare.stdout, bare.stderr):
        assert "pip install 'clip-deepfake[evaluate]'" in place
    # With the libraries, what was answered is measured, and no server is needed.
    measured = client("--image", "data", "--resume")
    assert measured.code == 1
    assert "AUC (Area Under ROC Curve): 0." in (tmp_path / RESULTS).read_text()
    report = [*command, "--report", "x.html"]
    refused = subprocess.run(
        report, cwd=tmp_path, env=requests_alone, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "--report needs" in refused.stderr


# The libraries take 130 MB, and 190 where pandas and pyarrow are installed, which scikit-learn
# imports. What is kept of each image, its 25 kB above all, would soon be more: 200 MB.
MANY = 8_000
SMALL_BYTES = 260 * 1024 * 1024

# Run by a small process, since a child begins with the memory of the one that started it.
MEASURED = """
import resource, subprocess, sys
print(subprocess.run(sys.argv[1:]).returncode)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_folder(tmp_path: Path):
    seed = tmp_path / "seed"
    seed.write_bytes(b"x" * 25_000)
    for index in range(MANY):
        path = tmp_path / "data" / ("real", "fake")[index % 2] / f"{index // 1000:03}"
        if index < 2000 or index % 1000 < 2:
            path.mkdir(parents=True, exist_ok=True)
        os.link(seed, path / f"{index:06}.jpg")
    answer = json_reply(verdict(0.8123, "head.pth"))
    with StubServer(lambda request: answer_each(request, lambda _: answer), keep=False) as stub:
        command = [sys.executable, CLIENT, "--image", "data", "--server", stub.address]
        run = subprocess.run(
            [sys.executable, "-c", MEASURED, *command], cwd=tmp_path, capture_output=True, text=True
        )
    *_, code, peak = run.stdout.splitlines()
    assert code == "0", run.stderr
    assert f"{MANY} images ({MANY // 2} real" in run.stdout
    # In kilobytes, but on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(peak) * unit < SMALL_BYTES
