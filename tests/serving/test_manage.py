import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deepfake_tools.canary import canary_image
from deepfake_tools.errors import ModelNotServedError, NoWorkerError, ServiceError
from deepfake_tools.operations.rollout import ConflictError
from deepfake_tools.operations.version_check import CheckError
from deepfake_tools.torchserve.local_server import LocalServer

from tests.archives import hide, write_archive
from tests.serving.manage_runs import MANAGE, Manage
from tests.tinted_videos import write_videos
from tests.waiting import wait_until

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def server(start_server: Callable[..., LocalServer]) -> LocalServer:
    return start_server()


@pytest.fixture
def manage(server: LocalServer, store: Path) -> Iterator[Manage]:
    yield Manage(server, store)
    management = server.management()
    for model in management.models():
        default = management.version(model.name).version
        found = [version.version for version in management.versions(model.name)]
        for version in sorted(found, key=lambda version: version == default):
            management.unregister(model.name, version)
    for path in (*store.glob("*.mar"), store.parent / "served.properties"):
        path.unlink(missing_ok=True)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    folder.mkdir()
    return folder


def versions(server: LocalServer, name: str) -> list[str]:
    return [version.version for version in server.management().versions(name)]


def answering(server: LocalServer, name: str) -> str:
    return server.inference().predict(name, canary_image()).detector.version


class Client(threading.Thread):
    """Asks without pause, and keeps every answer's version or its failure."""

    def __init__(self, server: LocalServer, name: str) -> None:
        super().__init__()
        self._api, self._name = server.inference(), name
        self._stopped = threading.Event()
        self.answers: list[str] = []
        self.longest_s = 0.0

    def run(self) -> None:
        while not self._stopped.is_set():
            start = time.monotonic()
            try:
                verdict = self._api.predict(self._name, canary_image())
                self.answers.append(verdict.detector.version)
            except ServiceError as error:
                self.answers.append(f"{type(error).__name__}: {error}")
            self.longest_s = max(self.longest_s, time.monotonic() - start)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@contextmanager
def clients(server: LocalServer, name: str, count: int = 4) -> Iterator[list[Client]]:
    running = [Client(server, name) for _ in range(count)]
    for client in running:
        client.start()
    try:
        wait_until(lambda: all(client.answers for client in running))
        yield running
        # A request that is sent only now must be answered too.
        seen = [len(client.answers) for client in running]
        wait_until(lambda: all(len(c.answers) > n + 1 for c, n in zip(running, seen, strict=True)))
    finally:
        for client in running:
            client.stop()


def test_register_copies_an_archive_into_the_store_and_serves_it(server, manage, elsewhere):
    done = manage("register", write_archive(elsewhere, "acme--new"))

    assert done.returncode == 0, done.stderr
    assert (manage.store / "acme--new@1.mar").exists()
    assert answering(server, "acme--new") == "1"
    assert "acme--new@1.mar" in manage.chosen()


def test_a_second_version_that_is_registered_stays_beside_the_default(server, manage):
    manage("register", write_archive(manage.store, "acme--beside"))

    done = manage("register", write_archive(manage.store, "acme--beside", "2"))

    assert done.returncode == 0, done.stderr
    assert versions(server, "acme--beside") == ["1", "2"]
    assert answering(server, "acme--beside") == "1"
    assert "acme--beside@1.mar" in manage.chosen()


@pytest.mark.parametrize("change", ["register", "swap"])
def test_why_a_worker_did_not_start_is_said_and_the_version_is_gone(
    server, manage, elsewhere, change
):
    name = f"acme--broken-{change}"
    archive = write_archive(elsewhere, name, load_failure="head.safetensors has been altered")

    done = manage(change, archive)

    assert done.returncode == NoWorkerError.exit_code
    assert (
        done.stderr == f"error: {name} version 1 did not start: head.safetensors has been altered\n"
    )
    with pytest.raises(ModelNotServedError):
        server.management().version(name)
    assert not (manage.store / archive.name).exists()


def test_a_handler_that_cannot_be_imported_is_named(manage, elsewhere):
    handler = {"deepfake_handler.py": b"import no_such_library\n"}

    done = manage("register", write_archive(elsewhere, "acme--import", replace=handler))

    assert done.returncode == NoWorkerError.exit_code
    assert "No module named 'no_such_library'" in done.stderr


def test_swap_under_load_loses_no_request(server, manage):
    manage("register", write_archive(manage.store, "acme--load", delay_s=0.03, workers=2))

    new = write_archive(manage.store, "acme--load", "2", delay_s=0.03, load_delay_s=3)

    with clients(server, "acme--load", count=8) as running:
        done = manage("swap", new)

    assert done.returncode == 0, done.stderr
    for client in running:
        first_new = client.answers.index("2")
        assert set(client.answers[:first_new]) == {"1"}
        assert set(client.answers[first_new:]) == {"2"}
    # Nobody waits for the new version's start.
    assert max(client.longest_s for client in running) < 2
    assert versions(server, "acme--load") == ["2"]
    # As many workers as the model had before, whatever the new archive asks for.
    assert server.management().version("acme--load").ready_workers == 2
    assert "acme--load@2.mar" in manage.chosen()


def test_a_request_that_is_under_way_is_answered_by_the_version_it_was_put_to(server, manage):
    manage("register", write_archive(manage.store, "acme--slow", delay_s=2, batch_size=1))
    waiting = [Client(server, "acme--slow") for _ in range(3)]
    for client in waiting:
        client.start()
    wait_until(lambda: server.management().version("acme--slow").pending_requests == 2)

    done = manage("swap", write_archive(manage.store, "acme--slow", "2"))

    for client in waiting:
        client.stop()
    assert done.returncode == 0, done.stderr
    assert all(client.answers[0] == "1" for client in waiting)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ({"load_failure": "logits are off by 0.2"}, "logits are off by 0.2"),
        ({"answers": False}, "internal_error"),
    ],
)
def test_a_version_that_fails_is_refused_and_the_old_one_answers_on(
    server, manage, elsewhere, flaw, message
):
    name = "acme--keep-" + "-".join(flaw).replace("_", "-")
    manage("register", write_archive(manage.store, name))
    archive = write_archive(elsewhere, name, "2", **flaw)

    with clients(server, name) as running:
        done = manage("swap", archive)

    assert done.returncode not in (0, 130)
    assert message in done.stderr
    assert {answer for client in running for answer in client.answers} == {"1"}
    assert versions(server, name) == ["1"]
    assert f"{name}@1.mar" in manage.chosen()
    assert not (manage.store / archive.name).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_swap_is_undone(server, manage, number):
    manage("register", write_archive(manage.store, "acme--stop", delay_s=0.4, batch_size=1))
    command = manage.command("swap", write_archive(manage.store, "acme--stop", "2"))

    with clients(server, "acme--stop", count=3) as running:
        swap = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # Three slow requests wait at the old version when the default changes.
        wait_until(lambda: "version 2 is the default" in swap.stdout.readline())
        swap.send_signal(number)
        swap.communicate()

    assert swap.returncode == 130
    # Version 2 was the default for a moment; nobody went without an answer then or afterwards.
    assert {answer for client in running for answer in client.answers} <= {"1", "2"}
    assert {client.answers[-1] for client in running} == {"1"}
    assert versions(server, "acme--stop") == ["1"]
    assert answering(server, "acme--stop") == "1"
    assert "acme--stop@1.mar" in manage.chosen()


def test_a_swap_goes_on_when_nobody_reads_what_it_says(server, manage):
    manage("register", write_archive(manage.store, "acme--pipe"))
    command = manage.command("swap", write_archive(manage.store, "acme--pipe", "2"))

    with subprocess.Popen(command, stdout=subprocess.PIPE) as swap:
        swap.stdout.close()

    assert swap.returncode == 0
    assert versions(server, "acme--pipe") == ["2"]


def test_interrupting_a_slow_start_removes_the_version(server, manage, elsewhere):
    name = "acme--slow-start"
    manage("register", write_archive(manage.store, name))
    command = manage.command("swap", write_archive(elsewhere, name, "2", load_delay_s=60))

    with subprocess.Popen(command) as swap:
        wait_until(lambda: versions(server, name) == ["1", "2"])
        swap.send_signal(signal.SIGINT)

    assert swap.returncode == 130
    assert versions(server, name) == ["1"]
    assert not (manage.store / f"{name}@2.mar").exists()


def test_swap_of_a_model_that_is_not_served_registers_it_and_says_so(server, manage):
    done = manage("swap", write_archive(manage.store, "acme--first", "3"))

    assert done.returncode == 0, done.stderr
    assert "acme--first is not served yet" in done.stdout
    assert answering(server, "acme--first") == "3"


def test_rollback_returns_to_the_version_before_and_back(server, manage):
    manage("register", write_archive(manage.store, "acme--back"))
    manage("swap", write_archive(manage.store, "acme--back", "2"))

    done = manage("rollback", "acme/back")

    assert done.returncode == 0, done.stderr
    assert answering(server, "acme--back") == "1"
    assert "acme--back@1.mar" in manage.chosen()
    assert manage("rollback", "acme/back").returncode == 0
    assert answering(server, "acme--back") == "2"


def test_dotted_versions_are_swapped_listed_and_returned_to_by_their_numbers(server, manage):
    for version in ("1.9", "1.10"):
        done = manage("swap", write_archive(manage.store, "acme--dotted", version))
        assert done.returncode == 0, done.stderr
    assert answering(server, "acme--dotted") == "1.10"
    assert "acme--dotted@1.10.mar" in manage.chosen()

    manage("rollback", "acme--dotted")
    assert answering(server, "acme--dotted") == "1.9"

    manage("register", write_archive(manage.store, "acme--dotted", "1.11"))
    manage("register", write_archive(manage.store, "acme--dotted", "1.10"))
    found = [entry.version for entry in server.management().versions("acme--dotted")]
    assert found == ["1.9", "1.10", "1.11"]


def test_an_archive_that_torchserve_would_unpack_otherwise_never_reaches_it(server, manage):
    path = write_archive(manage.store, "acme--hidden")
    path.write_bytes(hide(path.read_bytes(), "deepfake_handler.py", b"evil"))

    for command in ("register", "swap"):
        done = manage(command, path)
        assert done.returncode == 15
        assert "'deepfake_handler.py' twice" in done.stderr
    assert "acme--hidden" not in [model.name for model in server.management().models()]


def test_rollback_with_nothing_to_return_to_says_so(manage):
    manage("register", write_archive(manage.store, "acme--only"))

    done = manage("rollback", "acme--only")

    assert done.returncode == 16
    assert "no version of acme--only before" in done.stderr


def test_a_version_that_is_served_already_is_left_alone(server, manage):
    archive = write_archive(manage.store, "acme--twice")
    manage("register", archive)

    done = manage("swap", archive)

    assert done.returncode == 0
    assert "acme--twice version 1 is the default already" in done.stdout
    assert answering(server, "acme--twice") == "1"


def test_a_canary_is_promoted_under_load_without_losing_a_request(server, manage):
    manage("register", write_archive(manage.store, "acme--canary", delay_s=0.02))
    canary = write_archive(manage.store, "acme--canary", "2", delay_s=0.02)
    manage("register", canary)

    with clients(server, "acme--canary") as running:
        done = manage("swap", canary)

    assert done.returncode == 0, done.stderr
    assert {answer for client in running for answer in client.answers} == {"1", "2"}
    assert versions(server, "acme--canary") == ["2"]
    assert "acme--canary@2.mar" in manage.chosen()


@pytest.mark.parametrize("said", ["version 2 is up", "version 2 is the default"])
def test_a_swap_that_was_killed_is_completed_by_the_same_command(server, manage, said):
    name = f"acme--killed-{len(said)}"
    manage("register", write_archive(manage.store, name, delay_s=0.4, batch_size=1))
    new = write_archive(manage.store, name, "2")

    with clients(server, name, count=3) as running:
        swap = subprocess.Popen(manage.command("swap", new), stdout=subprocess.PIPE, text=True)
        wait_until(lambda: said in swap.stdout.readline())
        swap.kill()
        swap.communicate()
        assert versions(server, name) == ["1", "2"]
        assert f"{name}@1.mar" in manage.chosen()
        done = manage("swap", new)

    assert done.returncode == 0, done.stderr
    assert {answer for client in running for answer in client.answers} <= {"1", "2"}
    assert versions(server, name) == ["2"]
    assert f"{name}@2.mar" in manage.chosen()


def test_scale_changes_the_number_of_workers(server, manage):
    manage("register", write_archive(manage.store, "acme--scale"))

    done = manage("scale", "acme/scale", "--workers", 2)

    assert done.returncode == 0, done.stderr
    assert server.management().version("acme--scale").ready_workers == 2


def test_list_tells_the_default_and_what_is_not_ready(server, manage):
    manage("register", write_archive(manage.store, "acme--list"))
    write_archive(manage.store, "acme--list", "2", load_failure="no memory left")
    # TorchServe itself leaves such a version registered.
    server.management().register("acme--list@2.mar", workers=1)
    wait_until(lambda: "no memory left" in (server.logs / "model_log.log").read_text())

    lines = [line.split() for line in manage("list").stdout.splitlines() if "acme--list" in line]

    assert lines == [
        ["acme--list", "1", "yes", "1/1", "0"],
        ["!", "acme--list", "2", "0/1", "0", "NOT", "READY:", "no", "memory", "left"],
    ]


def test_unregister_removes_one_version_or_the_model(server, manage):
    manage("register", write_archive(manage.store, "acme--gone"))
    manage("register", write_archive(manage.store, "acme--gone", "2"))

    default = manage("unregister", "acme/gone", "--version", 1)
    assert default.returncode == 8
    assert "is the default" in default.stderr
    assert manage("unregister", "acme/gone", "--version", 2).returncode == 0
    assert versions(server, "acme--gone") == ["1"]
    assert manage("unregister", "acme/gone").returncode == 0
    with pytest.raises(ModelNotServedError):
        versions(server, "acme--gone")
    assert "acme--gone@1.mar" not in manage.chosen()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(canary_image())
    return folder


def test_frames_of_videos_are_images_to_check_with(server, manage, pictures):
    write_videos(pictures, 1)
    video = pictures / "real" / "clip_00.mp4"
    video.rename(pictures / video.name)
    (pictures / "text.mp4").write_text("no video")
    manage("register", write_archive(manage.store, "acme--frames"))
    archive = write_archive(manage.store, "acme--frames", "2", fake_probability=0.75)

    done = manage("swap", archive, "--check", pictures, "--max-slowdown", 100)

    assert done.returncode == CheckError.exit_code
    assert f"asking both versions about 10 images in {pictures}" in done.stdout
    assert f"REAL 0.2500 -> FAKE 0.7500  {pictures / video.name}@00:01.900" in done.stdout
    assert f"note: left out: {pictures / 'text.mp4'}: it is no video" in done.stderr


def test_a_version_that_scores_as_the_old_one_passes_the_check(server, manage, pictures):
    manage("register", write_archive(manage.store, "acme--check"))
    archive = write_archive(manage.store, "acme--check", "2", fake_probability=0.35)

    done = manage("swap", archive, "--check", pictures, "--max-slowdown", 100)

    assert done.returncode == 0, done.stderr
    assert "changed by 0.1000 on average, 0.1000 at most" in done.stdout
    assert "100.00% agree, 0 flipped" in done.stdout
    assert answering(server, "acme--check") == "2"


def test_a_version_that_fails_the_check_is_refused(server, manage, elsewhere, pictures):
    manage("register", write_archive(manage.store, "acme--worse"))
    archive = write_archive(elsewhere, "acme--worse", "2", fake_probability=0.75, delay_s=0.05)

    done = manage("swap", archive, "--check", pictures, "--max-slowdown", 0.5)

    assert done.returncode == CheckError.exit_code
    assert "acme--worse version 2 is refused: the 95th percentile of its latency" in done.stderr
    assert "0.00% of the labels agree, below 95.00%" in done.stderr
    assert f"REAL 0.2500 -> FAKE 0.7500  {pictures / 'a.png'}" in done.stdout
    assert versions(server, "acme--worse") == [answering(server, "acme--worse")] == ["1"]
    assert "acme--worse@1.mar" in manage.chosen()
    assert not (manage.store / archive.name).exists()


def test_of_two_swaps_from_one_store_the_second_is_told_to_wait(server, manage):
    manage("register", write_archive(manage.store, "acme--two"))
    slow = write_archive(manage.store, "acme--two", "2", load_delay_s=3)

    with subprocess.Popen(manage.command("swap", slow)) as first:
        wait_until(lambda: "2" in versions(server, "acme--two"))
        second = manage("swap", write_archive(manage.store, "acme--two", "3"))

    assert first.returncode == 0
    assert second.returncode == 16
    assert f"process {first.pid} on" in second.stderr
    assert versions(server, "acme--two") == [answering(server, "acme--two")] == ["2"]


def test_of_two_swaps_from_two_stores_one_wins_and_the_other_is_told(server, manage, tmp_path):
    """As from two machines that manage one server: no lock keeps them apart."""
    manage("register", write_archive(manage.store, "acme--far"))
    other = Manage(server, tmp_path / "other" / "model_store")
    other.store.mkdir(parents=True)
    # The server reads from its own store; the other machine has copies.
    mine = write_archive(manage.store, "acme--far", "2")
    write_archive(manage.store, "acme--far", "3", load_delay_s=3)
    theirs = write_archive(other.store, "acme--far", "3", load_delay_s=3)

    with (
        clients(server, "acme--far") as running,
        subprocess.Popen(
            other.command("swap", theirs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as slow,
    ):
        wait_until(lambda: "3" in versions(server, "acme--far"))
        done = manage("swap", mine)
        said, why = slow.communicate()

    assert done.returncode == 0, done.stderr
    assert slow.returncode == ConflictError.exit_code, why
    assert "version 2 has become the default meanwhile" in why
    assert "undone: acme--far version 2 is the default" in said
    assert {answer for client in running for answer in client.answers} == {"1", "2"}
    assert versions(server, "acme--far") == ["2"]


def test_what_has_been_chosen_is_served_after_a_crash(server, manage):
    manage("register", write_archive(manage.store, "acme--crash"))
    manage("swap", write_archive(manage.store, "acme--crash", "2"))
    write_archive(manage.store, "acme--crash", "3")

    os.killpg(server.pid, signal.SIGKILL)
    server.stop()
    config = subprocess.run(
        [sys.executable, str(MANAGE), "config", "--model-store", str(manage.store)],
        capture_output=True,
        text=True,
        check=True,
    )
    server.start(Path(config.stdout.strip()))
    server.wait_ready("acme--crash")

    assert versions(server, "acme--crash") == ["2"]
    assert answering(server, "acme--crash") == "2"
    assert "acme--crash version 3 is in the store and not served" in config.stderr


def test_a_token_of_another_server_is_refused(manage, server, tmp_path):
    keys = json.loads(server.key_file.read_text())
    keys["management"]["key"] = "another"
    other = tmp_path / "key_file.json"
    other.write_text(json.dumps(keys))
    other.chmod(0o600)

    done = manage("list", key_file=other)

    assert done.returncode == 11
