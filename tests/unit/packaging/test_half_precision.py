"""Half-precision archives of a small encoder: what their card says, and which are refused."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import build_mar
import msgspec
import numpy as np
import openvino as ov
import pytest
import torch
from clip_deepfake import system as cores
from clip_deepfake.card import CARD_FILE, Card, Deviation, read_card
from clip_deepfake.engines import DTYPES, Logits, Pixels
from clip_deepfake.errors import LoadError
from clip_deepfake.loading import load_detector, self_test_pixels
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD
from clip_deepfake.system import has_bfloat16
from clip_deepfake.verdicts import Verdict
from deepfake_tools.image_files import find_images
from deepfake_tools.packaging.builder import Built
from deepfake_tools.packaging.calibration import fixed_sample
from deepfake_tools.packaging.hub import BuildError
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from transformers import CLIPModel

from tests import ROOT
from tests.building import Builder, unpack
from tests.forking import Fork
from tests.unit.conftest import Pair

SIDE = 32

needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(), reason="this processor does not multiply bfloat16"
)


@dataclass(frozen=True)
class Unpacked:
    """An archive, as built and unpacked."""

    built: Built
    folder: Path

    @property
    def deviation(self) -> Deviation:
        found = read_card(self.folder).deviation
        assert found is not None
        return found


@pytest.fixture
def built(small_clip: Path, builder: Builder, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Builds the small CLIP in some precision, and unpacks the archive."""

    def call(*options: object) -> Unpacked:
        made = builder("--model", small_clip, "--precision", *options)
        return Unpacked(made, unpack(made, tmp_path / made.card.version))

    return call


@pytest.fixture(scope="module")
def rounded(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Unpacked]:
    """Builds it likewise, each archive once; they are to be read alone."""

    @cache
    def call(*options: object) -> Unpacked:
        folder = tmp_path_factory.mktemp("rounded")
        made = Builder(folder / "store")("--model", small_clip, "--precision", *options)
        return Unpacked(made, unpack(made, folder / "unpacked"))

    return call


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 avx512f avx512_vnni\n")
    monkeypatch.setattr(cores, "CPU_FLAGS", tmp_path / "cpuinfo")


def head_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    head = load_file(folder / "head.safetensors")
    return head["weight"].numpy(), head["bias"].numpy()


def by_transformers(model: Path, folder: Path, pixels: Pixels, dtype: torch.dtype) -> Logits:
    """transformers' own model in some precision, and the archive's head: nothing of ours."""
    clip = CLIPModel.from_pretrained(model, dtype=dtype).eval()
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(some).view(3, 1, 1) for some in (CLIP_MEAN, CLIP_STD))
    with torch.inference_mode():
        pooled = clip.vision_model(((values - mean) / std).to(dtype)).pooler_output
    weight, bias = head_of(folder)
    return pooled.float().numpy() @ weight.T + bias


def by_openvino(graph: Path, weights: Path, head: Path, pixels: Pixels, hint: str) -> Logits:
    """An archive's graph compiled by OpenVINO, and its head: nothing of ours."""
    core = ov.Core()
    # One stream, as a worker has it: the batch is not cut.
    settings = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(graph, weights), "CPU", settings)
    (features,) = compiled([pixels]).values()
    weight, bias = head_of(head)
    return features @ weight.T + bias


def assert_told(found: Deviation, before: Logits, after: Logits, abs: float) -> None:
    """Softmax of two logits, REAL and FAKE."""
    exact, rounded = (1 / (1 + np.exp(some[:, 0] - some[:, 1])) for some in (before, after))
    change = np.abs(rounded - exact)
    assert found.images == len(before)
    assert found.mean_change == pytest.approx(change.mean(), abs=abs)
    assert found.largest_change == pytest.approx(change.max(), abs=abs)
    assert found.largest_logit_change == pytest.approx(np.abs(after - before).max(), abs=abs)
    assert found.agreement == ((exact > 0.5) == (rounded > 0.5)).mean()
    assert found.mean_change > 10 * abs, "a change that says something"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_is_emulated_is_transformers_in_that_precision(
    rounded: Callable[..., Unpacked], small_clip: Path, precision: str
) -> None:
    archive = rounded(precision, "--engine", "torch")
    pixels = fixed_sample(SIDE).pixels
    before, after = (
        by_transformers(small_clip, archive.folder, pixels, dtype)
        for dtype in (torch.float32, DTYPES[precision])
    )
    assert_told(archive.deviation, before, after, abs=3e-6)
    assert archive.deviation.measured_on == f"emulated by rounding (torch cpu {precision})"
    assert archive.deviation.source == "fixed pictures"
    # What a GPU's worker may be off by covers what is off here.
    rounded = load_file(archive.folder / "encoder.safetensors")
    assert rounded["vision_model.post_layernorm.weight"].dtype == DTYPES[precision]
    off = float(np.abs(after - before).max())
    assert archive.built.card.self_test.tolerance == pytest.approx(2 * off + 0.01, abs=off)


@needs_bfloat16
def test_on_a_processor_with_bfloat16_it_is_openvinos(
    rounded: Callable[..., Unpacked], small_clip: Path
) -> None:
    archive = rounded("bfloat16")
    folder, pixels = archive.folder, fixed_sample(SIDE).pixels
    before = by_transformers(small_clip, folder, pixels, torch.float32)
    graph, weights = folder / "encoder.xml", folder / "encoder.safetensors"
    after = by_openvino(graph, weights, folder, pixels, "bf16")
    assert_told(archive.deviation, before, after, abs=3e-6)
    assert archive.deviation.measured_on == "openvino cpu bfloat16"
    assert load_detector(folder).engine.name == "openvino cpu bfloat16"


def test_a_bound_covers_every_way_in_which_bfloat16_is_computed(
    rounded: Callable[..., Unpacked], small_clip: Path
) -> None:
    folder = rounded("bfloat16").folder
    pixels = fixed_sample(SIDE).pixels
    graph, weights = folder / "encoder.xml", folder / "encoder.safetensors"
    exact = by_openvino(graph, weights, folder, pixels, "f32")
    ways = [by_transformers(small_clip, folder, pixels, torch.bfloat16)]
    if has_bfloat16():
        ways.append(by_openvino(graph, weights, folder, pixels, "bf16"))
    off = max(np.abs(way - exact).max() for way in ways)
    scale = max(1, np.abs(exact).max())
    assert read_card(folder).self_test.tolerance == pytest.approx(2 * off + 0.01 * scale, abs=1e-4)


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_builder_without_bfloat16_emulates_and_says_so(
    built, builder: Builder, no_bfloat16: None, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    archive = built("bfloat16", "--engine", engine)
    said = "emulated by rounding (torch cpu bfloat16)"
    assert archive.deviation.measured_on == said
    (line,) = [note for note in builder.notes if note.startswith("bfloat16 changes")]
    assert line.endswith(f"measured on fixed pictures, for want of --calibration: {said}")
    assert f"precision    {line}" in build_mar.describe(archive.built).splitlines()
    assert load_detector(archive.folder).engine.name == "openvino cpu float32"


def test_float16_is_widened_where_openvino_alone_computes(built, small_clip: Path) -> None:
    archive = built("float16", "--engine", "openvino")
    folder, pixels = archive.folder, fixed_sample(SIDE).pixels
    before = by_transformers(small_clip, folder, pixels, torch.float32)
    graph, weights = folder / "encoder.xml", folder / "encoder.safetensors"
    after = by_openvino(graph, weights, folder, pixels, "f32")
    assert_told(archive.deviation, before, after, abs=3e-6)
    assert archive.deviation.measured_on == "openvino cpu float32"


def test_own_images_are_measured_on_where_they_are_given(
    built, tinted: Path, pair: Pair, builder: Builder
) -> None:
    archive = built("bfloat16", "--engine", "openvino", "--calibration", tinted)
    paths = list(find_images(tinted))
    detectors = [load_detector(folder) for folder in (pair.float32_folder, archive.folder)]
    if not has_bfloat16():
        pytest.skip("what is served here is not what was measured")
    verdicts = [detector.judge([path.read_bytes() for path in paths]) for detector in detectors]
    before, after = (
        np.array([one.logits for one in some if isinstance(one, Verdict)]) for some in verdicts
    )
    found = archive.deviation
    # The order, and with it what stands in one pass, may differ.
    assert_told(found, before, after, abs=2e-5)
    truth = ["fake" in path.relative_to(tinted).parts for path in paths]
    areas = [roc_auc_score(truth, logits[:, 1] - logits[:, 0]) for logits in (before, after)]
    assert (found.float32_auc, found.auc) == pytest.approx(areas, abs=1e-3)
    assert (found.source, found.images) == ("calibration", 120)
    assert found.sha256 != fixed_sample(SIDE).sha256
    (line,) = [note for note in builder.notes if note.startswith("bfloat16 changes")]
    assert f"AUC {found.auc:.4f} instead of {found.float32_auc:.4f}" in line


def with_test(archive: Path, copy: Path, **changes: object) -> Path:
    """A copy of an unpacked archive whose card says something else of the self-test."""
    shutil.copytree(archive, copy)
    card = read_card(copy)
    test = msgspec.structs.replace(card.self_test, **changes)
    (copy / CARD_FILE).write_bytes(msgspec.structs.replace(card, self_test=test).to_json())
    return copy


def off_by(folder: Path) -> float:
    card = read_card(folder)
    logits = load_detector(folder).engine(self_test_pixels(SIDE))
    return float(np.abs(logits - np.array(card.self_test.logits)).max())


@needs_bfloat16
def test_a_worker_keeps_to_the_cards_bound(
    rounded: Callable[..., Unpacked], tmp_path: Path
) -> None:
    folder = rounded("bfloat16").folder
    off = off_by(folder)
    assert 0 < 2 * off < read_card(folder).self_test.tolerance
    load_detector(with_test(folder, tmp_path / "wide", tolerance=1.01 * off))
    with pytest.raises(LoadError, match=r"self-test failed on openvino cpu bfloat16"):
        load_detector(with_test(folder, tmp_path / "narrow", tolerance=0.99 * off))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_worker_that_computes_in_float32_needs_no_bound(
    built, tmp_path: Path, no_bfloat16: None, precision: str
) -> None:
    folder = built(precision).folder
    engine = load_detector(with_test(folder, tmp_path / "narrow", tolerance=1e-12)).engine
    assert (engine.name, engine.exact) == ("openvino cpu float32", True)
    logits = [value + 0.002 for value in read_card(folder).self_test.logits]
    with pytest.raises(LoadError, match=r"self-test failed .* within 0\.001"):
        load_detector(with_test(folder, tmp_path / "other", logits=logits, tolerance=1.0))


def int8_ways(pair: Pair, card: Card) -> tuple[Logits, list[Logits]]:
    """float32's logits of the fixed pictures, and int8's in each way that is computed here."""
    float32, int8 = pair.float32_folder, pair.int8_folder
    pixels = fixed_sample(card.encoder.image_size).pixels
    files = float32 / "encoder.xml", float32 / "encoder.safetensors"
    exact = by_openvino(*files, int8, pixels, "f32")
    files = int8 / "encoder.xml", int8 / "encoder.bin"
    hints = ["f32", "bf16"] if has_bfloat16() else ["f32"]
    return exact, [by_openvino(*files, int8, pixels, hint) for hint in hints]


@needs_bfloat16
def test_int8s_bound_covers_processors_with_bfloat16_and_without(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = read_card(pair.int8_folder)
    exact, ways = int8_ways(pair, card)
    off = max(np.abs(way - exact).max() for way in ways)
    scale = max(1, np.abs(exact).max())
    assert card.self_test.tolerance == pytest.approx(2 * off + 0.01 * scale, abs=1e-4)
    names, offs = [], []
    for flags in ("avx512_vnni", "avx512_vnni amx_bf16"):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu avx2 {flags}\n")
        monkeypatch.setattr(cores, "CPU_FLAGS", tmp_path / "cpuinfo")
        names.append(load_detector(pair.int8_folder).engine.name)
        offs.append(off_by(pair.int8_folder))
    assert names == ["openvino cpu int8 and float32", "openvino cpu int8 and bfloat16"]
    assert offs[0] != offs[1]
    assert max(offs) <= off + 1e-4


def test_an_int8_builder_without_bfloat16_allows_for_it(
    pair: Pair, small_clip: Path, tinted: Path, builder: Builder, no_bfloat16: None, tmp_path: Path
) -> None:
    options = ("--precision", "int8", "--calibration", tinted)
    folder = unpack(builder("--model", small_clip, *options), tmp_path / "unpacked")
    card = read_card(folder)
    assert card.deviation is not None
    assert card.deviation.measured_on == "openvino cpu int8 and float32"
    exact, (widened, *_) = int8_ways(pair, card)
    pixels = fixed_sample(SIDE).pixels
    rounded = by_transformers(small_clip, folder, pixels, torch.bfloat16)
    off = np.abs(widened - exact).max() + np.abs(rounded - exact).max()
    scale = max(1, np.abs(exact).max())
    assert card.self_test.tolerance == pytest.approx(2 * off + 0.01 * scale, abs=2e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_equal_builds_give_equal_archives(
    rounded: Callable[..., Unpacked],
    small_clip: Path,
    tmp_path: Path,
    commands: Fork,
    precision: str,
) -> None:
    """The second in a process of its own."""
    first = rounded(precision).built
    options = ("--precision", precision, "--export-path", tmp_path / "apart")
    child = commands.run(ROOT / "scripts" / "build_mar.py", "--model", small_clip, *options)
    assert child.returncode == 0, child.stderr
    assert f"sha256       {first.sha256}" in child.stdout
    assert f"precision    {precision} changes fake_probability by" in child.stdout


def test_a_change_above_the_limit_is_too_much(built, builder: Builder) -> None:
    with pytest.raises(BuildError, match=r"is above --max-deviation 1e-06.*Accept more with"):
        built("bfloat16", "--max-deviation", "0.000001")
    assert not builder.store.exists()


def test_numbers_beyond_float16_are_refused_and_bfloat16_holds_them(
    small_clip: Path, tmp_path: Path, builder: Builder
) -> None:
    folder = tmp_path / "large"
    shutil.copytree(small_clip, folder, ignore=shutil.ignore_patterns("*.bin"))
    tensors = load_file(folder / "model.safetensors")
    # Each within float16's 65504, their product is not; a layer norm makes it small again.
    tensors["vision_model.encoder.layers.0.mlp.fc1.bias"].fill_(1000)
    tensors["vision_model.encoder.layers.0.mlp.fc2.weight"] *= 10_000
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BuildError, match=r"torch cpu float16 .*not finite; .*bfloat16"):
        builder("--model", folder, "--precision", "float16", "--max-deviation", "1")
    assert not builder.store.exists()
    builder("--model", folder, "--precision", "bfloat16", "--max-deviation", "1")


def test_the_fixed_pictures_are_the_self_tests_array_and_others_of_every_scale() -> None:
    sample = fixed_sample(64)
    assert np.array_equal(sample.pixels[:1], self_test_pixels(64))
    assert sample.pixels.shape == (8, 64, 64, 3)
    assert sample.sha256 == fixed_sample(64).sha256 != fixed_sample(32).sha256
    for picture in sample.pixels[1:].astype(float):
        assert picture.std() > 30
        # Neighbours are alike, as they are in photographs, and in white noise are not.
        left, right = picture[:, :-1].ravel(), picture[:, 1:].ravel()
        assert np.corrcoef(left, right)[0, 1] > 0.5
    assert len({picture.tobytes() for picture in sample.pixels}) == 8
