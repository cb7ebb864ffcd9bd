from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from deepfake_tools.client.asker import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Asker,
)
from deepfake_tools.client.concurrency import Throttle
from deepfake_tools.client.images import Frame, Image
from deepfake_tools.client.payloads import PendingImage
from deepfake_tools.client.target import Target
from deepfake_tools.errors import WorkerFailedError
from deepfake_tools.torchserve.answers import ServedFace
from deepfake_tools.torchserve.tokens import Credentials

from tests.unit.torchserve_stub import (
    HANG_UP,
    NO_ANSWER,
    Reply,
    Request,
    StubServer,
    detector_error,
    explanation,
    json_reply,
    torchserve_error,
    verdict,
)

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHSERVE_TOKEN", "secret")


@pytest.fixture
def image(tmp_path: Path) -> PendingImage:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"image")
    return PendingImage(0, Image(str(path), None, ""))


def make_asker(address: str, throttle: Throttle, *, retries: int = 0, seconds: float = 60) -> Asker:
    credentials = Credentials(None, None, NOWHERE)
    return Asker(
        Target("m", None, address, NOWHERE, credentials, None, seconds, retries, 1), throttle
    )


@pytest.mark.parametrize(
    ("reply", "answered"),
    [
        (json_reply(verdict()), 1),
        (detector_error(400, "truncated_image", "cut short"), 1),
        (detector_error(500, "internal_error", "a defect"), 1),
        (Reply(413), 1),
        (NO_ANSWER, 0),
        (HANG_UP, 0),
        (torchserve_error(503, "InternalServerException", "Prediction failed"), 0),
    ],
)
def test_what_counts_as_answered_is_the_servers_own_word_on_an_image(
    image: PendingImage, reply: Reply, answered: int
):
    with StubServer(lambda _: reply) as stub:
        throttle = Throttle(4, 10)
        outcomes = make_asker(stub.address, throttle, seconds=0.5).ask([image])
    assert len(outcomes) == 1
    assert throttle.answered == answered


def test_an_image_that_cannot_be_read_here_is_not_answered(tmp_path: Path):
    throttle = Throttle(4, 10)
    missing = PendingImage(0, Image(str(tmp_path / "none.jpg"), None, ""))
    outcomes = make_asker(NOWHERE, throttle).ask([missing])
    assert [outcome.error for outcome in outcomes] == ["unreadable"]
    assert throttle.answered == 0


def test_an_explanation_is_asked_for_again_as_a_verdict_is(
    image: PendingImage, monkeypatch: pytest.MonkeyPatch
):
    throttle = Throttle(1, 10)
    monkeypatch.setattr(throttle, "rest", lambda seconds: None)
    replies = iter([HANG_UP, json_reply(verdict(0.75) | explanation())])
    with StubServer(lambda _: next(replies)) as stub:
        answer = make_asker(stub.address, throttle, retries=1).ask_why(image)
    assert [request.path for request in stub.requests] == ["/explanations/m"] * 2
    assert [request.body for request in stub.requests] == [b"image"] * 2
    assert answer.explanation is not None
    assert answer.explanation.margin == 1.25


def test_an_archive_that_explains_nothing_is_asked_once(image: PendingImage):
    reply = detector_error(501, "not_implemented", "explanations are not offered")
    with StubServer(lambda _: reply) as stub:
        asker = make_asker(stub.address, Throttle(1, 10), retries=3)
        with pytest.raises(WorkerFailedError) as raised:
            asker.ask_why(image)
    assert raised.value.kind == "not_implemented"
    assert len(stub.requests) == 1


@pytest.fixture
def pauses(image: PendingImage, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[float]]:
    """Returns the pauses of one client that is hung up on until its last attempt."""

    def ask() -> list[float]:
        taken: list[float] = []
        throttle = Throttle(4, 10)
        monkeypatch.setattr(throttle, "rest", taken.append)

        def answer(_: Request) -> Reply:
            return HANG_UP if len(taken) < 6 else json_reply(verdict())

        with StubServer(answer) as stub:
            (outcome,) = make_asker(stub.address, throttle, retries=6).ask([image])
        assert (outcome.retries, outcome.error) == (6, None)
        return taken

    return ask


def test_clients_that_fail_together_do_not_come_back_together(pauses: Callable[[], list[float]]):
    clients = [pauses() for _ in range(4)]
    for place in range(6):
        whole = min(FIRST_PAUSE_SECONDS * 2**place, LONGEST_PAUSE_SECONDS)
        taken = [client[place] for client in clients]
        assert all(whole / 2 <= pause <= whole for pause in taken)
        assert len(set(taken)) == len(taken)


def test_an_outcome_has_the_frame_that_was_asked_about_and_the_faces_that_were_judged(
    image: PendingImage,
):
    face = {"found": True, "count": 1, "box": [1, 2, 30, 40]}
    frame = replace(image.image, frame=Frame("a.mp4", number=312, time=12.48))
    with StubServer(lambda _: json_reply(verdict(0.75) | {"face": face})) as stub:
        asker = make_asker(stub.address, Throttle(4, 10))
        (judged,) = asker.ask([replace(image, image=frame)])
    assert (judged.video, judged.frame, judged.time) == ("a.mp4", 312, 12.48)
    assert judged.faces == (ServedFace((1, 2, 30, 40), 0.75, 1),)


def test_an_image_is_of_no_video(image: PendingImage):
    with StubServer(lambda _: json_reply(verdict())) as stub:
        (judged,) = make_asker(stub.address, Throttle(4, 10)).ask([image])
    assert (judged.video, judged.frame, judged.time, judged.faces) == (None, None, None, None)
