"""Which engine a worker computes with, and what it does besides."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import openvino as ov
import pytest
import torch
from clip_deepfake import loading
from clip_deepfake import system as cores_module
from clip_deepfake.card import Card, Deviation, Precision, Quantization, read_card
from clip_deepfake.encoder import Encoder
from clip_deepfake.engines import CPU_PASS, DTYPES, GPU_PASS
from clip_deepfake.errors import LoadError
from clip_deepfake.loading import load_detector, open_engine
from clip_deepfake.preprocessing import squash
from clip_deepfake.system import has_bfloat16
from deepfake_tools.packaging.topology import store_as, trace, write_with_weights
from safetensors.torch import save_file

from tests import ROOT
from tests.cut_off import judge_cut_off
from tests.unit.conftest import Pair
from tests.unit.towers import reference, shape_of

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3)).astype(np.uint8)

GPU = torch.device("meta")
"""Stands for a GPU: torch takes modules there, on any machine."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, its graph and a head."""
    folder = tmp_path_factory.mktemp("weights")
    write_encoder(reference().state_dict(), folder)
    torch.manual_seed(0)
    save_file(torch.nn.Linear(64, 2).state_dict(), folder / "head.safetensors")
    return folder


@pytest.fixture
def card(small_card: Card, weights: Path, tmp_path: Path) -> Card:
    """A card whose weights lie in ``tmp_path``."""
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    return msgspec.structs.replace(small_card, encoder=shape_of(reference()))


def write_encoder(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes the weights, and the graph that reads them."""
    model = reference()
    model.load_state_dict(tensors)
    graph = trace(Encoder(model, "pooler_output", squash(48)), 48)
    store_as(graph, tensors)
    write_with_weights({folder / "encoder.xml": graph}, tensors, folder / "encoder.safetensors")


ROUNDED = "bfloat16" if has_bfloat16() else "float32"
"""What this processor computes in where it may round."""


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 avx512f avx512_vnni\n")
    monkeypatch.setattr(cores_module, "CPU_FLAGS", tmp_path / "cpuinfo")


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clip_deepfake.openvino_engine")
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "worker_device", lambda gpu_id: GPU)


@pytest.fixture
def no_vnni(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse avx2\n")
    monkeypatch.setattr(cores_module, "CPU_FLAGS", tmp_path / "cpuinfo")


def rounding(card: Card, precision: Precision) -> Card:
    """The card of half precision; what it says of the deviation is made up."""
    made_up = Deviation("fixed pictures", 8, "0" * 64, "nothing", 0.1, 0.01, 0.02, 1, None, None)
    return msgspec.structs.replace(card, precision=precision, deviation=made_up)


def chosen(card: Card, engine: str) -> Card:
    return msgspec.structs.replace(card, engine=engine)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("auto", "openvino cpu float32"),
        ("openvino", "openvino cpu float32"),
        ("torch", "torch cpu float32"),
    ],
)
def test_the_card_chooses(card: Card, tmp_path: Path, engine: str, name: str) -> None:
    found = open_engine(chosen(card, engine), tmp_path)
    assert (found.name, found.exact) == (name, True)
    assert found.largest_pass == CPU_PASS
    expected = open_engine(chosen(card, "torch"), tmp_path)
    assert np.allclose(found(PIXELS), expected(PIXELS), atol=2e-5)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_gpu_is_torchs(card: Card, tmp_path: Path, on_gpu: None, engine: str) -> None:
    found = open_engine(chosen(card, engine), tmp_path, 0)
    assert (found.name, found.largest_pass) == ("torch meta float32", GPU_PASS)


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The detector's: another test's handler counts on in a thread of its own, and may complain."""
    return [record for record in caplog.records if record.name.startswith("clip_deepfake")]


def test_openvino_leaves_a_gpu_unused_and_says_so(
    card: Card, tmp_path: Path, on_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_engine(chosen(card, "openvino"), tmp_path, 0).name == "openvino cpu float32"
    (record,) = own_records(caplog)
    assert record.levelno == logging.WARNING
    assert "computes on the CPU; the worker's meta stays unused" in record.message


def test_int8_leaves_a_gpu_unused_and_says_so(
    pair: Pair, on_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_card(pair.int8_folder).engine == "auto"
    assert load_detector(pair.int8_folder, 0).engine.name == f"openvino cpu int8 and {ROUNDED}"
    assert "computes on the CPU; the worker's meta stays unused" in caplog.text


def test_without_openvino_torch_computes_and_a_warning_says_so(
    card: Card, tmp_path: Path, no_openvino: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_engine(card, tmp_path).name == "torch cpu float32"
    (record,) = own_records(caplog)
    assert record.levelno == logging.WARNING
    assert "pip install openvino" in record.message


def test_an_archive_of_openvinos_needs_it(card: Card, tmp_path: Path, no_openvino: None) -> None:
    with pytest.raises(LoadError, match=r"needs OpenVINO.*pip install openvino"):
        open_engine(chosen(card, "openvino"), tmp_path)


def test_an_int8_archive_needs_openvino(pair: Pair, no_openvino: None) -> None:
    with pytest.raises(LoadError, match=r"needs OpenVINO.*pip install openvino"):
        load_detector(pair.int8_folder)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32_where_the_processor_has_no_other(
    card: Card, tmp_path: Path, precision: Precision, no_bfloat16: None
) -> None:
    dtype = DTYPES[precision]
    state = {name: tensor.to(dtype) for name, tensor in reference().state_dict().items()}
    write_encoder(state, tmp_path)
    found = open_engine(rounding(card, precision), tmp_path)
    assert (found.name, found.exact) == ("openvino cpu float32", True)
    write_encoder({n: t.float() for n, t in state.items()}, tmp_path)
    expected = open_engine(card, tmp_path)
    assert np.allclose(found(PIXELS), expected(PIXELS), atol=1e-6)


def test_bfloat16_is_computed_where_the_processor_has_it(card: Card, tmp_path: Path) -> None:
    if not has_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    exact = open_engine(card, tmp_path)
    found = open_engine(rounding(card, "bfloat16"), tmp_path)
    assert (found.name, found.exact) == ("openvino cpu bfloat16", False)
    difference = np.abs(found(PIXELS) - exact(PIXELS)).max()
    assert 1e-5 < difference < 0.1


@pytest.mark.parametrize(
    ("threads", "cores", "asked"), [(2, 4, 2), (None, 4, None), (None, 3, 3), (1, 3, 1)]
)
def test_threads_are_the_ones_asked_for_or_this_process_share(
    card: Card,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int | None,
    cores: int,
    asked: int | None,
) -> None:
    monkeypatch.setattr(cores_module, "available_cores", lambda: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    compile_model, given = ov.Core.compile_model, []

    def noted(core: ov.Core, model: ov.Model, device: str, settings: dict[str, object]) -> object:
        given.append(settings)
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(ov.Core, "compile_model", noted)
    open_engine(card, tmp_path, threads=threads)
    (settings,) = given
    assert settings.get("INFERENCE_NUM_THREADS") == asked
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    ("threads", "cores", "asked"), [(2, 4, [2]), (None, 4, []), (None, 3, [3]), (1, 3, [1])]
)
def test_pytorch_has_the_same_threads_as_openvino(
    card: Card,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int | None,
    cores: int,
    asked: list[int],
) -> None:
    given: list[int] = []
    monkeypatch.setattr(cores_module, "available_cores", lambda: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    open_engine(chosen(card, "torch"), tmp_path, threads=threads)
    assert given == asked


def test_a_gpus_worker_keeps_pytorchs_own_threads(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(loading, "worker_device", lambda _: GPU)
    open_engine(chosen(card, "torch"), tmp_path, 0, threads=1)
    assert given == []


def test_an_int8_archive_is_refused_without_vnni(pair: Pair, no_vnni: None) -> None:
    with pytest.raises(LoadError, match=r"no int8 dot product \(VNNI\).*--overflow-fix"):
        load_detector(pair.int8_folder)


def test_the_overflow_fix_needs_no_vnni(pair: Pair, no_vnni: None) -> None:
    card = read_card(pair.int8_folder)
    assert isinstance(card.quantization, Quantization)
    fixed = msgspec.structs.replace(card.quantization, overflow_fix=True)
    found = open_engine(msgspec.structs.replace(card, quantization=fixed), pair.int8_folder)
    assert (found.name, found.exact) == ("openvino cpu int8 and float32", False)


def test_a_graph_that_is_none_is_refused(pair: Pair, tmp_path: Path) -> None:
    for path in pair.int8_folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "encoder.xml").write_text("<net")
    with pytest.raises(LoadError, match=r"encoder\.xml is no graph that OpenVINO reads") as caught:
        open_engine(read_card(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["encoder.safetensors", "head.safetensors"])
def test_a_missing_file_is_named(card: Card, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(LoadError, match=name):
        open_engine(card, tmp_path)


def test_a_worker_reaches_nothing_and_imports_no_more_than_it_needs(
    pair: Pair, examples: list[Path], tmp_path: Path
) -> None:
    found = judge_cut_off(examples[0], tmp_path, pair.float32_folder, pair.int8_folder)
    named = [engine for engine, _ in found["answers"]]
    assert named == ["openvino cpu float32", f"openvino cpu int8 and {ROUNDED}"]
    assert found["forbidden"] == []
    assert list(tmp_path.iterdir()) == []
    needless = {"transformers", "openvino_telemetry", "nncf", "sklearn", "torch._dynamo"}
    assert not needless & set(found["modules"])


OVERLAPPING = """
import signal, sys
from pathlib import Path
from clip_deepfake.loading import load_detector

first, second = (load_detector(Path(folder)) for folder in sys.argv[1:])
del first
del second
signal.signal(signal.SIGUSR1, lambda number, frame: print("caught"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_a_signal_is_survived_after_engines_have_come_and_gone(pair: Pair) -> None:
    """OpenVINO's plugin brings a signal stack, which must not go while it is used."""
    child = subprocess.run(
        [sys.executable, "-c", OVERLAPPING, pair.float32_folder, pair.int8_folder],
        env={"PYTHONPATH": str(ROOT / "handler"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.returncode, child.stdout) == (0, "caught\n"), child.stderr
