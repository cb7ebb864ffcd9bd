"""What a margin is made of: sums, an independent decomposition, engines, occlusion, and answers."""

import base64
import io
import json
import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from clip_deepfake.card import EXPLANATION_FILE, Card, Feature, HeadCard, read_card
from clip_deepfake.decomposition import Decomposition, NotDecomposableError
from clip_deepfake.encoder import Encoder, read_class_token_alone
from clip_deepfake.errors import EngineLostError
from clip_deepfake.explaining import Breakdown, Case, Explainer, Wish, block_edges
from clip_deepfake.faces import Aligner, Face, FaceAlignment
from clip_deepfake.loading import load_detector
from clip_deepfake.overlay import FAKE, LEAST_SIDE, REAL, draw
from clip_deepfake.preprocessing import CenterCrop, Preprocessing, Resize, TileCrop, squash
from clip_deepfake.questions import Answer, Question
from clip_deepfake.verdicts import Verdict, fake_margin, form_judgement, margin_weights
from clip_deepfake.worker import Worker, open_worker
from deepfake_tools.demonstration.random_clip import VISION_SHAPES
from deepfake_tools.packaging.topology import trace_decomposition
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MetaClip2VisionModelWithProjection,
    PreTrainedModel,
)

from tests.building import Builder, unpack
from tests.unit.stand_in_engine import StandInEngine, image, worker_of
from tests.unit.towers import published, reference
from tests.vision_models import CLASSIFIERS, CONVNET, ENCODERS, SMALL, write_model

Rows = npt.NDArray[np.float64]


def tower(name: str, folder: Path) -> PreTrainedModel:
    """A small model of this name, its weights far from their initial ones."""
    if name == "clip":
        return reference()
    if name == "registers":
        settings = Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)
        torch.manual_seed(7)
        return Dinov2WithRegistersModel(settings).eval()
    kinds = CLASSIFIERS if name.startswith("classifier ") else ENCODERS
    model = write_model(folder, kinds[name.removeprefix("classifier ")])
    if name == "metaclip2":
        torch.manual_seed(7)
        return MetaClip2VisionModelWithProjection(model.config.vision_config).eval()
    return model if name.startswith("classifier ") else getattr(model, "vision_model", model)


CASES: list[tuple[str, Feature]] = [
    *(("clip", feature) for feature in ("pooler_output", "image_embeds", "class_token")),
    *((name, feature) for name, kind in ENCODERS.items() for feature in kind.features),
    *((f"classifier {name}", "classifier_input") for name in CLASSIFIERS),
    ("registers", "pooler_output"),
]


def encoder_of(name: str, feature: Feature, folder: Path) -> tuple[Encoder, int]:
    """An encoder as a worker has it, and the side of its input."""
    model = tower(name, folder)
    side = 48 if name == "clip" else 32
    encoder = Encoder(model, feature, squash(side))
    read_class_token_alone(encoder)
    return encoder, side


def noise(images: int, side: int) -> Tensor:
    rng = np.random.default_rng(images)
    return torch.from_numpy(rng.integers(0, 256, (images, side, side, 3)).astype(np.uint8))


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize(("name", "feature"), CASES)
def test_parts_add_up_in_torch_and_in_a_graph_of_any_batch(
    name: str, feature: Feature, l2_normalize: bool, tmp_path: Path
) -> None:
    encoder, side = encoder_of(name, feature, tmp_path)
    decomposition = Decomposition(encoder, l2_normalize=l2_normalize)
    pixels = noise(3, side)
    with torch.inference_mode():
        found = encoder(pixels)
        whole = torch.nn.functional.normalize(found) if l2_normalize else found
        directions = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
        parts = decomposition(pixels, directions)
        assert torch.equal(encoder(pixels), found), "the encoder is left as it was"
    patches = (side // (16 if name == "clip" else 8)) ** 2
    assert parts.shape == (3, 1 + patches)
    expected = (whole * directions).sum(1)
    rounding = 1e-5 * max(1, float(parts.abs().max()))
    assert (parts.sum(1) - expected).abs().max() < rounding
    assert parts[:, 1:].abs().max() > 1e-3
    graph = trace_decomposition(decomposition, side, whole.shape[1])
    engine = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        (by_graph,) = engine([pixels[:batch].numpy(), directions[:batch].numpy()]).values()
        assert np.abs(by_graph - parts[:batch].numpy()).max() < rounding


@pytest.mark.parametrize("name", VISION_SHAPES)
def test_parts_of_the_published_shapes_add_up(name: str) -> None:
    """As wide and with as many patches as they are, but of two layers, which take a second."""
    model = published(name, layers=2)
    side, feature = model.config.image_size, "image_embeds"
    encoder = Encoder(model, feature, squash(side))
    read_class_token_alone(encoder)
    pixels = noise(2, side)
    with torch.inference_mode():
        found = encoder(pixels)
        directions = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        parts = Decomposition(encoder, l2_normalize=False)(pixels, directions)
    assert parts.shape == (2, 1 + (side // model.config.patch_size) ** 2)
    assert (parts.sum(1) - (found * directions).sum(1)).abs().max() < 1e-4
    assert parts[:, 1:].std() > 1e-4


def by_hooks(model: PreTrainedModel, values: Tensor, direction: Tensor) -> Rows:
    """The decomposition of CLIP's or DINOv2's class token, forwards, a vector for each summand.

    Another way than the package's: attention's weights come from transformers' own output, every
    token's vector is sent through the layer's own linear module, and the final norm is applied to
    each of the summands.
    """
    tower = getattr(model, "vision_model", model)
    layers = list(getattr(tower.encoder, "layers", None) or tower.encoder.layer)
    found: dict[str, list[Tensor]] = {"values": [], "mlp": [], "before": []}
    handles = []
    for layer in layers:
        attention = getattr(layer, "self_attn", None) or layer.attention
        mlp_end = getattr(layer, "layer_scale2", layer.mlp)
        handles += [
            attention.v_proj.register_forward_hook(lambda *a: found["values"].append(a[2])),
            mlp_end.register_forward_hook(lambda *a: found["mlp"].append(a[2][:, 0])),
            layer.register_forward_pre_hook(lambda *a: found["before"].append(a[1][0][:, 0])),
        ]
    tower.set_attn_implementation("eager")
    output = tower(values, output_attentions=True, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    pieces: list[Tensor] = [found["before"][0], *found["mlp"]]
    tokens: Tensor = torch.zeros(())
    for layer, weights, value in zip(layers, output.attentions, found["values"], strict=True):
        attention = getattr(layer, "self_attn", None) or layer.attention
        last = getattr(attention, "out_proj", None) or attention.o_proj
        scale = layer.layer_scale1 if hasattr(layer, "layer_scale1") else torch.nn.Identity()
        heads = value.unflatten(-1, (weights.shape[1], -1))
        mixed = (weights[:, :, 0].transpose(1, 2)[..., None] * heads).flatten(2)
        tokens = tokens + scale(last(mixed) - last.bias)
        pieces.append(scale(last.bias.expand(len(values), -1)))
    norm = getattr(tower, "post_layernorm", None) or tower.layernorm
    token = sum(pieces) + tokens.sum(1)
    assert torch.allclose(token, output.hidden_states[-1][:, 0], atol=1e-4)
    spread = (token.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()

    def contribution(piece: Tensor) -> Tensor:
        centred = piece - piece.mean(-1, keepdim=True)
        if piece.dim() == 3:
            return (centred / spread[:, None] * norm.weight * direction).sum(-1)
        return (centred / spread * norm.weight * direction).sum(-1)

    rest = sum(contribution(piece) for piece in pieces) + norm.bias @ direction
    patches = contribution(tokens)[:, 1:]
    extra = contribution(tokens)[:, :1].sum(1)
    return torch.cat([(rest + extra)[:, None], patches], 1).double().numpy()


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_the_decomposition_is_an_independent_ones(name: str, tmp_path: Path) -> None:
    encoder, side = encoder_of(name, "pooler_output", tmp_path)
    plain = tower(name, tmp_path)
    pixels = noise(2, side)
    direction = torch.randn(
        64 if name == "clip" else 32, generator=torch.Generator().manual_seed(2)
    )
    recipe = squash(side)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (recipe.mean, recipe.std))
    values = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = by_hooks(plain, values, direction)
        decomposition = Decomposition(encoder, l2_normalize=False)
        found = decomposition(pixels, direction.expand(2, -1)).double().numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(found[:, 1:]) > 0.01


def test_a_model_without_such_parts_is_not_taken_apart(tmp_path: Path) -> None:
    model = write_model(tmp_path, CONVNET)
    encoder = Encoder(model, "classifier_input", squash(32))
    with pytest.raises(NotDecomposableError, match="ConvNextEncoder has no layers"):
        Decomposition(encoder, l2_normalize=False)


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


def test_colours_are_those_of_the_sign_and_as_strong_as_the_part() -> None:
    grid = [[1.0, 0.0], [-1.0, 0.5]]
    white = np.full((448, 448, 3), 255, np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(draw(white, grid))))).astype(int)
    towards_fake, nothing = shown[112, 112], shown[112, 336]
    towards_real, half = shown[336, 112], shown[336, 336]
    assert np.abs(towards_fake - (0.25 * 255 + 0.75 * FAKE)).max() <= 1
    assert np.abs(towards_real - (0.25 * 255 + 0.75 * REAL)).max() <= 1
    assert (nothing == 255).all()
    assert np.abs(half - (255 + towards_fake) / 2).max() <= 2
    # No contribution at all is no division by zero.
    assert draw(white, [[0.0]])


RECIPES: list[tuple[Preprocessing, tuple[int, int]]] = [
    (squash(64), (200, 100)),
    (
        Preprocessing(
            "crop",
            [
                Resize("shortest_side", 64, "pillow", "bilinear"),
                CenterCrop(64, "transformers"),
            ],
            (0, 0, 0),
            (1, 1, 1),
        ),
        (320, 160),
    ),
    (Preprocessing("border", [CenterCrop(64, "torchvision")], (0, 0, 0), (1, 1, 1)), (40, 100)),
    (Preprocessing("tile", [TileCrop(64, 100, "torchvision")], (0, 0, 0), (1, 1, 1)), (120, 110)),
]


@pytest.mark.parametrize(("recipe", "size"), RECIPES, ids=lambda value: getattr(value, "name", ""))
def test_the_window_is_where_a_ramp_says(recipe: Preprocessing, size: tuple[int, int]) -> None:
    """Pixels that say where they are tell, behind the steps, where the edges must be."""
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(width)[None] % 256 if width < 256 else np.arange(width) * 255 // width
    ramp[..., 1] = np.arange(height)[:, None]
    seen = recipe.apply(ramp).astype(float)
    left, top, right, bottom = recipe.window(width, height)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    scale = 255 / width if width >= 256 else 1.0
    assert seen[32, 32, 0] == pytest.approx(middle_x * scale, abs=2.5)
    assert seen[32, 32, 1] == pytest.approx(middle_y, abs=2.5)
    inside = [(x, y) for x in (left, right) for y in (top, bottom)]
    for x, y in inside:
        column = 0 if x == left else 63
        row = 0 if y == top else 63
        if 0 <= x <= width and 0 <= y <= height:
            assert seen[row, column, 0] == pytest.approx(x * scale, abs=3)
            assert seen[row, column, 1] == pytest.approx(y, abs=3)


def test_a_crops_points_are_placed_where_it_was_cut_out(landmarks: Path) -> None:
    aligner = Aligner(landmarks, FaceAlignment("p", "0" * 64, 81, size=224))
    points = np.array([[100, 100], [150, 110], [120, 140], [95, 170], [140, 178]], np.float32)
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    photo = cv2.resize(small, (300, 300), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    face = Face((0, 0, 1, 1), points, photo)  # type: ignore[arg-type]
    from clip_deepfake.faces import similarity, template

    matrix = similarity(points, template(224, 1.3))
    assert matrix is not None
    crop = cv2.warpAffine(photo, matrix, (224, 224))
    there = np.array([(60.5, 70.5), (110.5, 100.5), (150.5, 160.5)], np.float32)
    placed = aligner.place(face, there)
    for (x, y), (px, py) in zip(there, placed, strict=True):
        expected = crop[int(y), int(x)].astype(float)
        assert np.abs(photo[int(py), int(px)] - expected).max() < 25
    assert len({tuple(row) for row in placed.round().tolist()}) == 3


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
