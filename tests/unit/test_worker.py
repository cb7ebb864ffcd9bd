import json

import pytest
from clip_deepfake import worker as worker_module
from clip_deepfake.card import Card
from clip_deepfake.detector import Detector
from clip_deepfake.errors import EngineLostError
from clip_deepfake.metrics import Increment
from clip_deepfake.questions import Question
from clip_deepfake.worker import Batch, Worker

from tests.unit.stand_in_engine import StandInEngine, image


def ask(*parts: bytes) -> list[Question]:
    return [Question({"body": part}, id=f"id-{index}") for index, part in enumerate(parts)]


@pytest.fixture
def worker(small_card: Card) -> Worker:
    return Worker(Detector(small_card, StandInEngine()))


def statuses(batch: Batch) -> list[int]:
    return [answer.status for answer in batch.answers]


def code(batch: Batch, index: int) -> str:
    return str(json.loads(batch.answers[index].body)["error"]["code"])


def test_a_batch_is_answered_in_order_and_described_in_a_line(worker: Worker) -> None:
    batch = worker.answer([*ask(image(255), b"no image", image(0)), Question({}, describe=True)])
    assert statuses(batch) == [200, 400, 200, 200]
    assert json.loads(batch.answers[3].body)["detector"] == worker.identity
    line = json.loads(batch.line())
    assert line["requests"] == 4
    assert line["images"] == 3
    assert line["ids"] == ["id-0", "id-1", "id-2", None]
    assert line["statuses"] == [200, 400, 200, 200]
    assert line["refused"] == ["not_an_image"]
    assert {"ms", "decode_ms", "preprocess_ms", "engine_ms"} <= set(line)
    assert "align_ms" not in line


def test_the_line_holds_nothing_of_the_images(worker: Worker) -> None:
    body = image(7)
    line = worker.answer([Question({"holiday.png": body}, id="a"), *ask(b"secret")]).line()
    assert "holiday" not in line
    assert "secret" not in line
    assert len(line) < 400


def test_a_request_that_cannot_be_read_fails_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = worker_module.parse_request

    def broken(question: Question, max_images: int) -> object:
        if question.parts["body"] == b"second":
            raise KeyError("unexpected")
        return parse(question, max_images)

    monkeypatch.setattr(worker_module, "parse_request", broken)
    batch = worker.answer(ask(image(1), b"second", image(2)))
    assert statuses(batch) == [200, 500, 200]
    assert code(batch, 1) == "internal_error"


def test_an_answer_that_cannot_be_formed_fails_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, calls = worker_module.form_answer, []

    def broken(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("unexpected")
        return form(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_module, "form_answer", broken)
    batch = worker.answer(ask(image(1), image(2), image(3)))
    assert statuses(batch) == [200, 500, 200]
    assert code(batch, 1) == "internal_error"


@pytest.mark.parametrize("name", ["form_verdict", "decode"])
def test_an_image_that_breaks_the_detector_fails_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from clip_deepfake import detector

    real, calls = getattr(detector, name), []

    def broken(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError
        return real(*arguments, **options)

    monkeypatch.setattr(detector, name, broken)
    batch = worker.answer(ask(image(1), image(2), image(3)))
    assert sorted(statuses(batch)) == [200, 200, 500]


def test_an_examination_that_fails_as_a_whole_is_answered(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "examine", lambda *_: 1 / 0)
    batch = worker.answer(ask(image(1), b""))
    assert statuses(batch) == [500, 500]
    assert code(batch, 0) == "internal_error"


def test_a_lost_device_is_not_answered_for(small_card: Card) -> None:
    worker = Worker(Detector(small_card, StandInEngine(EngineLostError("CUDA error"))))
    with pytest.raises(EngineLostError):
        worker.answer(ask(image(1)))


def test_descriptions_are_not_counted(worker: Worker) -> None:
    counted: list[Increment] = []
    worker.report(lambda increment: None)
    worker.answer([Question({}, describe=True)])
    worker.report(counted.append)
    assert counted == []
    worker.answer([Question({}, describe=True), *ask(image(1))])
    worker.report(counted.append)
    sizes = {entry.counter.name: entry.value for entry in counted}
    assert sizes["clip_deepfake_batches_total"] == "1"
