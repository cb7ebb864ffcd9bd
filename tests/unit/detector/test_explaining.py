"""What a margin is made of: engines, occlusion, pictures, and answers in mixed batches."""

import base64
import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from clip_deepfake.card import EXPLANATION_FILE, Card, HeadCard, read_card
from clip_deepfake.errors import EngineLostError
from clip_deepfake.explaining import Breakdown, Case, Explainer, Wish, block_edges
from clip_deepfake.loading import load_detector
from clip_deepfake.overlay import LEAST_SIDE
from clip_deepfake.questions import Answer, Question
from clip_deepfake.verdicts import Verdict, fake_margin, form_judgement, margin_weights
from clip_deepfake.worker import Worker, open_worker
from PIL import Image
from safetensors import safe_open

from tests.building import Builder, unpack
from tests.unit.stand_in_engine import StandInEngine, image, worker_of
from tests.vision_models import CONVNET, write_model


@pytest.mark.parametrize(("outputs", "fake"), [(1, (0,)), (2, (1,)), (4, (0, 2))])
def test_weights_of_the_logits_are_the_margins_derivative(
    small_card: Card, outputs: int, fake: tuple[int, ...]
) -> None:
    head = HeadCard("untrained", "for tests", "pooler_output", False, outputs, fake, 0.5)
    logits = np.linspace(-1, 2, outputs, dtype=np.float32)
    weights = margin_weights(logits, head)
    for index in range(outputs):
        ends = [logits.copy(), logits.copy()]
        ends[0][index] -= 0.01
        ends[1][index] += 0.01
        slope = (fake_margin(ends[1], head) - fake_margin(ends[0], head)) / 0.02
        assert weights[index] == pytest.approx(slope, abs=1e-3)
    # Far apart, nothing overflows.
    assert np.isfinite(margin_weights(logits * 1e4, head)).all()


def explain(worker: Worker, data: bytes, **options: str) -> Answer:
    (answer,) = worker.answer([Question({"body": data}, explain=True, options=options)]).answers
    return answer


def explanation(answer: Answer) -> dict[str, object]:
    assert answer.status == 200, answer.body
    told = json.loads(answer.body)
    found: dict[str, object] = told["explanation"]
    assert found["margin"] == told["margin"]
    total = math.fsum([*np.ravel(found["grid"]).tolist(), found["rest"]])  # type: ignore[arg-type,list-item]
    assert total == pytest.approx(told["margin"], abs=1e-12)
    return found


def picture(seed: int, side: int = 48) -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_occlusion_tells_what_each_block_adds(small_card: Card) -> None:
    """The stand-in's margin is the mean red, so a block adds what it is redder than the mean."""
    engine = StandInEngine()
    found = explanation(explain(worker_of(small_card, engine), data := picture(1)))
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    red, mean = pixels[..., 0].astype(float), np.rint(pixels[..., 0].mean())
    edges = block_edges(48, 1)
    expected = [
        [(red[top:bottom, left:right] - mean).sum() / (255 * 48 * 48) for left, right in spans]
        for spans in [list(pairwise(edges))]
        for top, bottom in spans
    ]
    assert (found["method"], found["passes"]) == ("occlusion", 64)
    assert np.allclose(found["grid"], expected, atol=1e-6)
    assert np.ptp(expected) > 1e-3
    assert engine.passes == [1, *[6] * 10, 4]


@pytest.mark.parametrize(
    ("side", "patch", "blocks"),
    [
        (224, 32, 7),
        (224, 16, 7),
        (224, 14, 8),
        (336, 14, 8),
        (518, 14, 8),
        (48, 16, 3),
        (50, 16, 3),
    ],
)
def test_blocks_are_whole_patches_and_64_at_most(side: int, patch: int, blocks: int) -> None:
    edges = block_edges(side, patch)
    assert len(edges) == blocks + 1
    assert (edges[0], edges[-1]) == (0, side)
    assert all(edge % patch == 0 for edge in edges[:-1])
    sizes = np.diff(edges)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(patch, side % patch)


@pytest.fixture(scope="module")
def archive(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 archive, unpacked."""
    folder = tmp_path_factory.mktemp("explained")
    return unpack(Builder(folder / "store")("--model", small_clip), folder / "archive")


def test_an_archive_grows_by_the_graph_alone_and_builds_are_equal(
    small_clip: Path, tmp_path: Path
) -> None:
    built = [Builder(tmp_path / name)("--model", small_clip) for name in ("1", "2")]
    assert built[0].sha256 == built[1].sha256
    folder = unpack(built[0], tmp_path / "archive")
    with safe_open(folder / "encoder.safetensors", "np") as file:
        constants = file.get_tensor("openvino.constants")
    assert constants.nbytes < 16_384
    assert read_card(folder).files.keys() >= {EXPLANATION_FILE}
    assert not (folder / "explain.bin").exists()


def test_a_mixed_batch_has_each_its_own_answer(archive: Path) -> None:
    """16 requests: explanations by either method, predictions, and broken ones of both kinds."""
    worker = open_worker(archive, None, None)
    side = read_card(archive).encoder.image_size
    data = [picture(seed, side) for seed in range(6)]
    plain = [Question({"body": one}) for one in data]
    exact = [Question({"body": one}, explain=True) for one in data]
    occluded = Question({"body": data[0]}, explain=True, options={"method": "occlusion"})
    broken = [
        Question({"body": b"no image"}),
        Question({"body": b"no image"}, explain=True),
        Question({"body": data[1][:-40]}, explain=True),
    ]
    mixed = [q for pair in zip(plain, exact, strict=True) for q in pair] + [occluded, *broken]
    assert len(mixed) == 16
    answers = worker.answer(mixed).answers
    assert [answer.status for answer in answers] == [200] * 13 + [400, 400, 400]
    told = [json.loads(answer.body) for answer in answers[:13]]
    engine = load_detector(archive).engine
    assert engine.decompose is not None
    for seed in range(6):
        verdict, explained = told[2 * seed], told[2 * seed + 1]
        assert "explanation" not in verdict
        pixels = np.asarray(Image.open(io.BytesIO(data[seed])))[None]
        assert explained["margin"] == pytest.approx(verdict["margin"], abs=1e-5)
        found = explanation(answers[2 * seed + 1])
        assert (found["method"], found["passes"]) == ("decomposition", 1)
        expected = engine.decompose(pixels, np.array([[-1, 1]], np.float32))[0, 1:]
        assert np.allclose(np.ravel(found["grid"]), expected, atol=1e-5)  # type: ignore[arg-type]
    assert explanation(answers[12])["method"] == "occlusion"


def test_torch_and_openvino_tell_the_same(small_clip: Path, tmp_path: Path) -> None:
    found = {}
    for engine in ("torch", "openvino"):
        built = Builder(tmp_path / engine)("--model", small_clip, "--engine", engine)
        worker = open_worker(unpack(built, tmp_path / engine / "archive"), None, None)
        side = built.card.encoder.image_size
        found[engine] = explanation(explain(worker, picture(3, side)))
    assert found["torch"]["method"] == found["openvino"]["method"] == "decomposition"
    grids = [np.array(found[engine]["grid"]) for engine in ("torch", "openvino")]
    assert np.abs(grids[0] - grids[1]).max() < 1e-5


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_rounded_archive_explains_itself_by_occlusion(
    precision: str, small_clip: Path, tinted: Path, tmp_path: Path
) -> None:
    words = ["--model", small_clip, "--precision", precision, "--calibration", tinted]
    built = Builder(tmp_path)(*words)
    assert EXPLANATION_FILE not in built.card.files
    worker = open_worker(unpack(built, tmp_path / "archive"), None, None)
    data = picture(4, built.card.encoder.image_size)
    assert explanation(explain(worker, data))["method"] == "occlusion"
    refused = explain(worker, data, method="decomposition")
    assert refused.status == 501
    assert "it has occlusion" in refused.body


def test_a_model_of_another_kind_explains_itself_by_occlusion(
    builder: Builder, tmp_path: Path
) -> None:
    write_model(tmp_path / "convnet", CONVNET)
    built = builder("--model", tmp_path / "convnet", "--preprocess", "squash")
    assert any("occlusion alone: ConvNext" in note for note in builder.notes)
    assert EXPLANATION_FILE not in built.card.files
    worker = open_worker(unpack(built, tmp_path / "archive"), None, None)
    found = explanation(explain(worker, picture(6, built.card.encoder.image_size)))
    assert found["method"] == "occlusion"


def test_a_request_may_not_take_more_passes_than_a_large_one(small_card: Card) -> None:
    worker = worker_of(small_card, StandInEngine())
    parts = {"a": image(1), "b": image(2)}
    (answer,) = worker.answer([Question(parts, explain=True)]).answers
    told = json.loads(answer.body)
    assert "explanation" in told[0]
    assert (told[1]["status"], told[1]["error"]["code"]) == (413, "too_many_images")
    (answer,) = worker.answer([Question(parts, explain=True, kserve=True)]).answers
    assert len(json.loads(answer.body)["explanations"]) == 2


class Failing(StandInEngine):
    """Judges once; whatever is asked of it later fails."""

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if self.passes:
            raise self.error
        return super().__call__(pixels)

    error: Exception = MemoryError("no room")


def test_an_explanation_that_fails_is_its_own_error(small_card: Card) -> None:
    batch = worker_of(small_card, Failing()).answer(
        [Question({"body": image(1)}, explain=True), Question({"body": image(2)})]
    )
    assert [answer.status for answer in batch.answers] == [500, 200]
    assert "the explanation could not be computed" in batch.answers[0].body
    lost = Failing()
    lost.error = EngineLostError("gone")
    with pytest.raises(EngineLostError):
        explain(worker_of(small_card, lost), image(1))


@pytest.mark.parametrize("answered", [np.nan, np.inf])
def test_parts_that_are_no_numbers_are_an_error(small_card: Card, answered: float) -> None:
    engine = StandInEngine()
    engine.decompose = lambda pixels, _: np.full((len(pixels), 10), answered, np.float32)  # type: ignore[assignment]
    answer = explain(worker_of(small_card, engine), image(1))
    assert answer.status == 500


def test_an_overlay_shows_where_and_how_much(small_card: Card) -> None:
    worker = worker_of(small_card, StandInEngine())
    found = explanation(explain(worker, picture(5), overlay="png"))
    assert isinstance(found["overlay"], str)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["overlay"]))))
    assert shown.shape[1] == LEAST_SIDE
    assert shown.shape[0] > LEAST_SIDE, "a scale below"
    assert "overlay" not in explanation(explain(worker, picture(5)))


def case(verdict: Verdict, method: str | None = None) -> Case:
    pixels = np.zeros((48, 48, 3), np.uint8)
    return Case(Wish(method), pixels, verdict)  # type: ignore[arg-type]


def test_pictures_are_taken_apart_in_passes_that_fit(small_card: Card) -> None:
    sizes: list[int] = []

    def decompose(pixels: npt.NDArray[np.uint8], weights: npt.NDArray[np.float32]) -> object:
        sizes.append(len(pixels))
        return np.tile(np.arange(10, dtype=np.float32), (len(pixels), 1))

    engine = StandInEngine()
    engine.largest_pass, engine.decompose = 16, decompose  # type: ignore[assignment]
    judged = form_judgement(np.array([0, 0.5], np.float32), small_card.head)
    cases = [case(Verdict(**vars(judged))) for _ in range(5)]
    found = Explainer(engine, small_card.head, small_card.encoder).explain(cases)
    assert sizes == [2, 2, 1]
    for parts in found:
        assert isinstance(parts, Breakdown)
        assert parts.grid == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
        assert parts.rest == 0.5 - 45
