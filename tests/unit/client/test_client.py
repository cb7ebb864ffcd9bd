import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.forking import Fork
from tests.unit.client_runs import CLIENT, Client
from tests.unit.torchserve_stub import (
    HANG_UP,
    NO_ANSWER,
    NO_WORKER,
    SERVED,
    Reply,
    Request,
    Served,
    StubServer,
    detector_error,
    json_reply,
    torchserve_error,
    verdict,
)

UNTRAINED = "warning: this detector's head is untrained: its predictions are chance, not evidence\n"


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], str]:
    """Writes an image whose bytes are its name."""

    def write(name: str) -> str:
        (tmp_path / name).write_text(name)
        return name

    return write


Image = Callable[[str], str]


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address at which nobody listens, and nobody else will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def predictions(stub: StubServer) -> list[Request]:
    """The requests for a verdict, without those that look at what is served."""
    return [request for request in stub.requests if request.path.startswith("/predictions/")]


STANDING = "FAKE above 0.5000"


def test_one_image(client: Client, image: Image, tmp_path: Path):
    with StubServer(Served()) as stub:
        run = client("--image", image("a.jpg"), server=stub.address)
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [
        "Prediction: FAKE (confidence: 0.8123)",
        "fake_probability 0.8123; FAKE above 0.5000",
    ]
    (asked,) = predictions(stub)
    assert asked.path == f"/predictions/{SERVED}"
    assert asked.headers["Content-Type"] == "application/octet-stream"
    assert asked.body == b"a.jpg"
    results = (tmp_path / "inference_results_huggingface.txt").read_text()
    assert "| Pred: 1 (0=Real, 1=Fake) | Prob: 0.8123 | Path: a.jpg\n" in results


def test_several_images_have_their_names_before_them(client: Client, image: Image):
    with StubServer(Served({b"b.jpg": json_reply(verdict(0.25))}, head="untrained")) as stub:
        run = client("--image", image("a.jpg"), image("b.jpg"), server=stub.address)
    assert run.code == 0
    assert run.out.splitlines() == [
        "a.jpg: Prediction: FAKE (confidence: 0.8123)",
        "b.jpg: Prediction: REAL (confidence: 0.7500)",
        STANDING,
    ]
    assert run.err == UNTRAINED


def test_a_head_that_was_trained_here_says_what_it_is_worth(
    client: Client, image: Image, tmp_path: Path
):
    answer = verdict(0.4838)
    known = {"threshold": 0.4787, "held_out_auc": 0.97124, "held_out_images": 1300}
    answer["detector"] = {**answer["detector"], "head": "trained"} | known  # type: ignore[dict-item]
    answer |= {"label": "FAKE", "prediction": 1, "confidence": 0.4838}
    with StubServer(Served({b"a.jpg": json_reply(answer)})) as stub:
        run = client("--image", image("a.jpg"), server=stub.address)
    assert run.err == ""
    assert run.out.splitlines()[1] == (
        "fake_probability 0.4838; FAKE above 0.4787; "
        "its head's AUC on 1,300 images held out from training was 0.9712"
    )
    results = (tmp_path / "inference_results_huggingface.txt").read_text()
    assert "\nHead: AUC 0.9712 on 1300 images held out from its training\n" in results


def test_broken_images_do_not_stop_the_others(client: Client, image: Image, tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    images = ["missing.jpg", "empty.jpg", image("text.jpg"), image("good.jpg")]
    refusal = detector_error(400, "not_an_image", "these bytes are no image")
    with StubServer(Served({b"text.jpg": refusal})) as stub:
        run = client("--image", *images, "--output", "out.txt", server=stub.address)
    assert run.code == 1
    assert run.out.splitlines() == ["good.jpg: Prediction: FAKE (confidence: 0.8123)", STANDING]
    assert run.err.splitlines() == [
        "error: missing.jpg: cannot be read: No such file or directory",
        "error: empty.jpg: the file is empty",
        "error: text.jpg: refused as not_an_image: these bytes are no image",
    ]
    results = (tmp_path / "out.txt").read_text()
    assert "\nSingle image processed - AUC calculation not applicable.\n" in results
    assert "FAILED IMAGES: 3\n" in results


@pytest.mark.parametrize(("share", "code"), [("0.24", 1), ("0.25", 0)])
def test_a_share_of_failures_can_be_tolerated(
    client: Client, image: Image, tmp_path: Path, share: str, code: int
):
    images = [*map(image, ("a.jpg", "b.jpg", "c.jpg")), "missing.jpg"]
    with StubServer(Served()) as stub:
        run = client("--image", *images, "--tolerate", share, server=stub.address)
    assert run.code == code
    assert run.err == "error: missing.jpg: cannot be read: No such file or directory\n"
    results = (tmp_path / "inference_results_huggingface.txt").read_text()
    assert "FAILED IMAGES: 1\n" in results


def test_what_ends_a_run_is_never_tolerated(client: Client, image: Image, silent_address: str):
    run = client("--image", image("a.jpg"), "--tolerate", "1", server=silent_address)
    assert run.code == 13


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (Reply(413), 3, "max_request_size"),
        (torchserve_error(507, "InternalServerException", "Worker died."), 5, "Worker died."),
        (HANG_UP, 6, "closed the connection without an answer"),
        (NO_ANSWER, 7, "no answer within 0.5 s"),
        (Reply(200, b"<html>"), 12, "not JSON"),
    ],
)
def test_a_failure_of_one_request_has_its_message_and_code(
    client: Client, image: Image, reply: Reply, code: int, words: str
):
    with StubServer(Served({b"a.jpg": reply})) as stub:
        images = (image("a.jpg"), image("b.jpg"))
        # Only what never comes is waited for.
        limit = "0.5" if reply is NO_ANSWER else "20"
        run = client("--image", *images, "--timeout", limit, "--retries", "1", server=stub.address)
    assert run.code == code
    assert re.fullmatch(r"error: a\.jpg: .*\n", run.err)
    assert words in run.err
    assert run.out.splitlines() == ["b.jpg: Prediction: FAKE (confidence: 0.8123)", STANDING]


def test_a_queue_that_stays_full_ends_the_run(client: Client, image: Image):
    full = torchserve_error(503, "ServiceUnavailableException", NO_WORKER)
    with StubServer(Served({b"a.jpg": full})) as stub:
        images = (image("a.jpg"), image("b.jpg"))
        run = client("--image", *images, "--timeout", "2", server=stub.address)
    assert (run.code, run.out) == (4, "")
    assert run.err.startswith("error: the model's queue is full")


@pytest.mark.parametrize(
    "reply", [NO_ANSWER, torchserve_error(503, "ServiceUnavailableException", NO_WORKER)]
)
def test_a_worker_that_never_started_is_found_out(client: Client, image: Image, reply: Reply):
    with StubServer(Served({b"a.jpg": reply}, worker="UNLOADING")) as stub:
        images = (image("a.jpg"), image("b.jpg"))
        run = client("--image", *images, "--timeout", "0.5", server=stub.address)
    assert (run.code, run.out) == (9, "")
    assert run.err.count("\n") == 1
    assert f"{SERVED} version 1 has no running worker (workers: UNLOADING)" in run.err
    assert len(predictions(stub)) == 1


def test_a_model_that_is_not_served(client: Client, image: Image, tmp_path: Path):
    with StubServer(Served()) as stub:
        run = client("--model", "acme/clip", "--image", image("a.jpg"), server=stub.address)
    assert run.code == 10
    assert run.err.splitlines() == [
        f"error: acme--clip is not served; {stub.address} serves {SERVED}",
        "build and register it:",
        "  python scripts/build_mar.py --model acme/clip",
        "  python scripts/manage.py register model_store/acme--clip@1.mar "
        f"--management {stub.address}",
    ]
    assert not (tmp_path / "inference_results_huggingface.txt").exists()


def test_the_only_model_is_asked_where_none_is_named(client: Client, image: Image):
    with StubServer(Served(name="acme--only")) as stub:
        run = client("--image", image("a.jpg"), server=stub.address)
    assert (run.code, run.out.splitlines()[0]) == (0, "Prediction: FAKE (confidence: 0.8123)")
    assert run.err == "note: asking acme--only, which is the only model served; see --model\n"
    assert [request.path for request in predictions(stub)] == ["/predictions/acme--only"]


@pytest.mark.parametrize(
    ("served", "arguments", "asked"),
    [
        (Served(name="acme--one", others=("acme--two",)), (), SERVED),
        (Served(others=("acme--two",)), (), SERVED),
        (Served(), (), SERVED),
        (Served(name="acme--one"), ("--model", SERVED), SERVED),
    ],
)
def test_of_several_models_the_default_is_asked_and_a_named_one_always(
    client: Client, image: Image, served: Served, arguments: tuple[str, ...], asked: str
):
    with StubServer(served) as stub:
        run = client("--image", image("a.jpg"), *arguments, server=stub.address)
    assert {request.path for request in predictions(stub)} == {f"/predictions/{asked}"}
    assert "only model" not in run.err
    assert run.code == (0 if served.name == SERVED else 10)


def test_what_another_machine_serves_is_not_asked_for(
    client: Client, image: Image, silent_address: str
):
    """The management address is this machine's unless it is given."""
    with StubServer(Served(name="acme--only")) as stub:
        there = silent_address.replace("127.0.0.1", "127.0.0.2")
        run = client("--image", image("a.jpg"), "--management", stub.address, server=there)
    assert (run.code, stub.requests) == (13, [])


def test_one_version_is_asked(client: Client, image: Image):
    with StubServer(Served(versions=("1", "2"))) as stub:
        run = client("--image", image("a.jpg"), "--version", "2", server=stub.address)
    assert run.code == 0
    assert [request.path for request in predictions(stub)] == [f"/predictions/{SERVED}/2"]


def test_a_version_that_is_not_served(client: Client, image: Image):
    with StubServer(Served(versions=("1", "2"))) as stub:
        run = client("--image", image("a.jpg"), "--version", "3", server=stub.address)
    assert run.code == 10
    assert run.err.splitlines()[0] == (
        f"error: version 3 of {SERVED} is not served; {stub.address} serves version 1, 2"
    )
    assert f"register model_store/{SERVED}@3.mar" in run.err


def test_without_a_management_token_the_commands_are_still_named(client: Client, image: Image):
    with StubServer(Served()) as stub:
        image("a.jpg")
        run = client(
            *("--model", "acme--clip", "--image", "a.jpg"),
            server=stub.address,
            TORCHSERVE_TOKEN="inference-token",
            TORCHSERVE_KEY_FILE="missing.json",
        )
    assert run.code == 10
    assert run.err.startswith("error: Model not found: x\nbuild and register it:\n")
    assert "build_mar.py --model acme/clip\n" in run.err


def test_a_wrong_token_stops_at_once_and_is_not_shown(client: Client, image: Image):
    with StubServer(Served()) as stub:
        images = (image("a.jpg"), image("b.jpg"))
        run = client("--image", *images, server=stub.address, TORCHSERVE_TOKEN="not-this-one")
    assert (run.code, run.out, len(predictions(stub))) == (11, "", 1)
    assert "refused the token from TORCHSERVE_TOKEN" in run.err
    assert "not-this-one" not in run.err


def test_an_unusable_token_file_is_named_before_anything_is_sent(client: Client, image: Image):
    with StubServer(Served()) as stub:
        run = client("--image", image("a"), "--token-file", "gone", server=stub.address)
    assert (run.code, stub.requests) == (11, [])
    assert run.err.startswith("error: cannot read gone: No such file")


def test_a_key_file_that_others_can_read_is_refused(client: Client, image: Image, tmp_path: Path):
    (tmp_path / "key_file.json").chmod(0o644)
    with StubServer(Served()) as stub:
        run = client("--image", image("a.jpg"), server=stub.address)
    assert (run.code, stub.requests) == (11, [])
    assert "chmod 600 key_file.json" in run.err


def test_no_server(client: Client, image: Image, silent_address: str):
    run = client("--image", image("a.jpg"), image("b.jpg"), server=silent_address)
    assert (run.code, run.out) == (13, "")
    assert run.err == (
        f"error: no server answers at {silent_address}: start one with `make serve`, or give the "
        "right address\n"
    )


def test_results_that_cannot_be_written(client: Client, image: Image):
    with StubServer(Served()) as stub:
        run = client("--image", image("a"), "--output", "gone/out.txt", server=stub.address)
    assert (run.code, run.out, stub.requests) == (14, "", [])
    assert run.err == ("error: cannot write gone/out.txt: there is no folder gone; see --output\n")


def test_an_interruption_is_no_traceback(clients: Fork, image: Image, tmp_path: Path):
    asked = threading.Event()

    def answer(_: Request) -> Reply:
        asked.set()
        return NO_ANSWER

    with StubServer(answer) as stub:
        words = ("--server", stub.address, "--image", image("a.jpg"))
        running = clients.start(CLIENT, *words, cwd=tmp_path)
        assert asked.wait(30)
        os.kill(running.pid, signal.SIGINT)
        done = running.wait(30)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: --image"),
        (("my photo.jpg",), "by --image, as in python scripts/client.py --image 'my photo.jpg'"),
        (("--image", "https://x.org/a.jpg"), "is a URL, and images are read from files: download"),
        (("--image", "a", "--tolerate", "2"), "is not a share between 0 and 1"),
        (("--image", "a", "--server", "localhost"), "is not an address"),
        (("--image", "a", "--timeout", "nan"), "not a number of seconds above 0"),
        (("--image", "a", "--key-file", "k", "--token-file", "t"), "not allowed with"),
        (("--image", "a", "--concurrency", "0"), "'0' is not a whole number from 1 on"),
        (("--image", "a", "--server", "http://127.0.0.1:99999"), "Port out of range"),
        (("--image", "a", "--seed", "1"), "--seed is for --limit"),
        (("--image", "a", "--face-detection", "exact"), "is for --landmark_model"),
        (("--image", "a", "--retries", "x"), "'x' is not a whole number from 0 on"),
        (("--image", "a", "--perturb", "jpeg=200"), "is not a whole number from 1 to 100"),
    ],
)
def test_wrong_arguments(client: Client, arguments: tuple[str, ...], words: str):
    run = client(*arguments)
    assert run.code == 2
    assert words in run.err


def test_help_is_quick_and_lists_the_exit_codes():
    """Processor time is what the command is answerable for, on a busy machine too."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, CLIENT, "--help"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5
    assert re.search(r"^ +13  no server answers", run.stdout, re.MULTILINE)


def test_the_client_needs_nothing_but_requests():
    names = "torch numpy cv2 PIL transformers huggingface_hub"
    check = f"import sys, client; sys.exit(str(set({names.split()!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=CLIENT.parent, capture_output=True, text=True
    )
    assert done.stderr == "set()\n"
