import io
import json

import msgspec
import pytest
from clip_deepfake import detector as detector_module
from clip_deepfake import protocol
from clip_deepfake import worker as worker_module
from clip_deepfake.card import Card, Limits
from clip_deepfake.detector import Detector, Submission
from clip_deepfake.errors import EngineLostError, ImageTooLargeError
from clip_deepfake.formats import Header
from clip_deepfake.images import RGB, Orientation
from clip_deepfake.metrics import Increment
from clip_deepfake.preprocessing import CenterCrop, Resize
from clip_deepfake.questions import Question
from clip_deepfake.worker import Batch, Worker, refuse_excess
from PIL import Image

from tests.unit.stand_in_engine import StandInEngine, image, worker_of


def ask(*parts: bytes) -> list[Question]:
    return [Question({"body": part}, id=f"id-{index}") for index, part in enumerate(parts)]


@pytest.fixture
def worker(small_card: Card) -> Worker:
    return worker_of(small_card, StandInEngine())


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
    read = worker_module.read_task

    def broken(question: Question, most: int, model: str) -> object:
        if question.parts["body"] == b"second":
            raise KeyError("unexpected")
        return read(question, most, model)

    monkeypatch.setattr(worker_module, "read_task", broken)
    batch = worker.answer(ask(image(1), b"second", image(2)))
    assert statuses(batch) == [200, 500, 200]
    assert code(batch, 1) == "internal_error"


def test_an_answer_that_cannot_be_formed_fails_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, calls = protocol.form_answer, []

    def broken(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("unexpected")
        return form(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "form_answer", broken)
    batch = worker.answer(ask(image(1), image(2), image(3)))
    assert statuses(batch) == [200, 500, 200]
    assert code(batch, 1) == "internal_error"


@pytest.mark.parametrize("name", ["form_verdict", "decode_behind"])
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
    worker = worker_of(small_card, StandInEngine(EngineLostError("CUDA error")))
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


def flat_webp(side: int) -> bytes:
    """Some bytes, whatever its size."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the pixels of all that is decoded."""
    pixels: list[int] = []
    real = detector_module.decode_behind

    def decode(header: Header, data: bytes, orientation: Orientation) -> RGB:
        found = real(header, data, orientation)
        pixels.append(found.shape[0] * found.shape[1])
        return found

    monkeypatch.setattr(detector_module, "decode_behind", decode)
    return pixels


def bounded(card: Card, **limits: int) -> Worker:
    changed = msgspec.structs.replace(card, limits=Limits(**limits))
    return worker_of(changed, StandInEngine())


def test_a_requests_images_beyond_its_pixels_are_refused_alone(
    small_card: Card, decoded: list[int]
) -> None:
    worker = bounded(small_card, max_pixels=10_000, max_request_pixels=35_000)
    parts = {str(index): flat_webp(100) for index in range(5)} | {"bad": b"no image"}
    (answer,) = worker.answer([Question(parts)]).answers
    assert answer.status == 200
    listed = json.loads(answer.body)
    found = [entry.get("error", {}).get("code") for entry in listed]
    assert found == [None] * 3 + ["image_too_large"] * 2 + ["not_an_image"]
    assert [entry["status"] for entry in listed if "error" in entry] == [413, 413, 400]
    assert "would hold 40000 pixels, over the limit of 35000" in listed[3]["error"]["message"]
    assert decoded == [10_000] * 3


def test_a_batch_of_greedy_requests_decodes_no_more_than_its_pixels(
    small_card: Card, decoded: list[int]
) -> None:
    limits = {"max_pixels": 10_000, "max_request_pixels": 40_000, "max_batch_pixels": 100_000}
    worker = bounded(small_card, **limits)
    greedy = Question({str(index): flat_webp(100) for index in range(32)})
    batch = worker.answer([*[greedy] * 4, *ask(image(1)), Question({}, describe=True)])
    assert statuses(batch) == [200] * 6
    assert "label" in json.loads(batch.answers[4].body)
    assert sum(decoded) <= 100_000
    line = json.loads(batch.line())
    assert line["refused"].count("image_too_large") == 4 * 32 - len(decoded) + 1


def test_a_strip_is_counted_as_what_the_preprocessing_makes_of_it(
    small_card: Card, decoded: list[int]
) -> None:
    """One pixel high and 1000 wide, it is 48 high and 48,000 wide before it is cropped."""
    steps = [Resize("shortest_side", 48, "pillow", "bicubic"), CenterCrop(48, "transformers")]
    preprocessing = msgspec.structs.replace(small_card.preprocessing, steps=steps)
    card = msgspec.structs.replace(small_card, preprocessing=preprocessing)
    worker = bounded(card, max_request_pixels=2 * 48 * 48_000)
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 1)).save(buffer, "PNG")
    parts = {str(index): buffer.getvalue() for index in range(3)}
    (answer,) = worker.answer([Question(parts)]).answers
    found = [entry.get("error", {}).get("code") for entry in json.loads(answer.body)]
    assert found == [None, None, "image_too_large"]
    assert decoded == [1000, 1000]


def test_an_image_that_cannot_be_measured_fails_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = detector_module.check_header, []

    def broken(data: bytes, max_pixels: int) -> object:
        calls.append(data)
        if len(calls) == 1:
            raise MemoryError
        return real(data, max_pixels)

    monkeypatch.setattr(detector_module, "check_header", broken)
    (answer,) = worker.answer([Question({"a": image(1), "b": image(2)})]).answers
    found = [entry.get("error", {}).get("code") for entry in json.loads(answer.body)]
    assert sorted(found, key=str) == [None, "internal_error"]


LIMITS = Limits(max_pixels=10, max_request_pixels=40, max_batch_pixels=100)


def refusals(requests: list[list[int]], limits: Limits = LIMITS) -> list[list[object]]:
    """Of each image of each request, by what it costs: why it is refused, or None."""
    images = [[Submission(cost=cost) for cost in row] for row in requests]
    refuse_excess(images, limits)
    return [[image.result for image in row] for row in images]


def refused(requests: list[list[int]]) -> list[list[int]]:
    """Which images of each request are refused."""
    found = refusals(requests)
    return [[at for at, refusal in enumerate(row) if refusal is not None] for row in found]


def test_what_exceeds_a_requests_budget_is_refused_with_the_sum() -> None:
    (found,) = refusals([[10, 10, 10, 10, 1, 0]])
    assert [refusal is None for refusal in found] == [True] * 4 + [False, True]
    assert "would hold 41 pixels, over the limit of 40" in str(found[4])
    assert isinstance(found[4], ImageTooLargeError)
    assert (found[4].code, found[4].status) == ("image_too_large", 413)


def test_a_smaller_image_behind_one_that_was_refused_is_judged() -> None:
    assert refused([[30, 11, 10, 1, 0]]) == [[1, 3]]


def test_a_single_image_depends_on_no_others() -> None:
    greedy = [[10] * 32 for _ in range(8)]
    assert refused([[10], *greedy, [10]])[0] == []
    assert refused([*greedy, [10]])[-1] == []
    assert refused([[99], [99], [99]]) == [[], [], []]


def test_the_smaller_requests_have_their_part_of_a_batch_first() -> None:
    greedy, modest = [10] * 32, [5, 5, 5]
    found = refused([greedy, greedy, greedy, modest, greedy])
    assert found[3] == []
    taken = [32 - len(row) for row in (*found[:3], found[4])]
    # The four have 100 - 15 between them, none more than 40.
    assert sum(taken) == 8
    assert max(taken) <= 4


def test_a_batchs_refusal_has_its_sum() -> None:
    limits = Limits(max_pixels=10, max_request_pixels=40, max_batch_pixels=50)
    (_, _, (*_, last)) = refusals([[10], [10], [10, 10, 10, 10]], limits)
    assert "answered together would hold 60 pixels, over the limit of 50" in str(last)


@pytest.mark.parametrize("requests", [[], [[]], [[], [10], []]])
def test_requests_without_images_take_nothing(requests: list[list[int]]) -> None:
    assert refused(requests) == [[] for _ in requests]
