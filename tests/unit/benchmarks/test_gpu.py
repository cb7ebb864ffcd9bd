"""What can be shown of `make gpu` without a GPU: its functions, with small models on the CPU."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_deepfake.engines import Logits, Pixels
from clip_deepfake.errors import EngineMemoryError
from clip_deepfake.torch_engine import TorchEngine

from benchmarks import gpu, gpu_speed
from benchmarks.gpu import GpuReport
from benchmarks.gpu_checks import Equality, Halving, compare, halve
from benchmarks.gpu_models import (
    B32,
    DINOV2,
    L14,
    Model,
    PlainModule,
    make_module,
    make_pixels,
    normalise,
    run_plain,
)
from benchmarks.gpu_speed import (
    COMPILED,
    OURS,
    PLAIN,
    Speed,
    decoding_per_s,
    images_per_s,
    measure_speed,
)

CPU = torch.device("cpu")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
CLIP = Model(
    "small CLIP", "CLIPVisionModelWithProjection", SMALL | {"intermediate_size": 64}, 32, 32
)
DINO = Model("small DINOv2", "Dinov2Model", SMALL, 32, 32)


def test_without_cuda_it_ends_with_one_line_and_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 3
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "finds no CUDA device here" in said.err


def test_a_missing_library_is_named_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "cv2" else name)
    assert gpu.main([]) == 4
    assert "pip install opencv-python-headless" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "6", "a while"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        gpu.parse_arguments(["--seconds", seconds])
    assert "not a number of seconds from 0 to 5" in capsys.readouterr().err


def test_it_imports_no_server():
    modules = ["gpu", "gpu_checks", "gpu_models", "gpu_speed", "photographs"]
    imports = "".join(f"import benchmarks.{name}; " for name in modules)
    code = f"{imports}import sys; print({{'ts', 'openvino', 'litserve'}} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("model", [B32, L14, DINOV2], ids=lambda model: model.name)
def test_models_are_of_published_size(model: Model):
    kind = getattr(__import__("transformers"), model.architecture)
    with torch.device("meta"):
        tower = kind(kind.config_class(**model.config))
    tower = getattr(tower, "vision_model", tower)
    millions = {"CLIP ViT-B/32": 87.5, "CLIP ViT-L/14": 303.2, "DINOv2 ViT-B/14": 85.6}
    count = sum(parameter.numel() for parameter in tower.parameters()) / 1e6
    assert count == pytest.approx(millions[model.name], abs=0.3)
    assert tower.config.hidden_size == model.width
    assert tower.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("model", [CLIP, DINO], ids=lambda model: model.name)
def test_a_device_equal_to_the_cpu_is_found_equal_and_half_precision_is_not(model: Model):
    exact, *halves = compare(model, CPU)
    assert exact.holds
    assert exact.logit == 0.0
    # On the CPU the engine computes in float32, so that the weights alone are rounded.
    assert all(0 < half.logit < 0.1 and half.probability < half.logit for half in halves)
    assert [half.precision for half in halves] == ["bfloat16", "float16"]


def test_a_device_that_is_off_or_answers_nothing_is_found_out():
    for off in (1.1e-4, float("nan")):
        assert not Equality("a", "float32", off, 0.0, 1e-4).holds
    assert Equality("a", "bfloat16", 1.0, 1.0, None).holds


@pytest.mark.parametrize("model", [CLIP, DINO], ids=lambda model: model.name)
def test_ours_and_the_plain_one_are_the_same_detector(model: Model):
    pixels = make_pixels(3, model.side)
    ours = TorchEngine(make_module(model, torch.float32), CPU)(pixels)
    plain = PlainModule(model, torch.float32).eval()
    theirs = run_plain(plain, normalise(pixels), CPU, torch.float32)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(ours[0] - ours[1]).max() > 1e-3


class Narrow:
    """An engine on a device with room for some pictures once its memory is taken."""

    name, exact, largest_pass, decompose = "narrow", True, 64, None

    def __init__(self, room: int, error: float = 0.0) -> None:
        self.room, self.taken, self.error = room, False, error

    def take(self) -> None:
        self.taken = True

    def __call__(self, pixels: Pixels) -> Logits:
        if self.taken and len(pixels) > self.room:
            raise EngineMemoryError("out of memory")
        means = pixels.mean(axis=(1, 2))[:, :2].astype(np.float32)
        return means + np.float32(self.error * self.taken)

    features = __call__


def test_a_pass_without_room_is_halved_until_it_fits():
    engine = Narrow(room=20)
    found = halve("a", engine, make_pixels(64, 8), engine.take)
    assert (found.refused, found.computed) == ((64, 32, 32), (16, 16, 16, 16))
    assert found.holds


def test_a_pass_that_fits_all_the_same_or_answers_otherwise_does_not_hold():
    roomy, wrong = Narrow(room=64), Narrow(room=20, error=0.01)
    for engine in (roomy, wrong):
        assert not halve("a", engine, make_pixels(64, 8), engine.take).holds


def test_speed_counts_images_of_whole_passes():
    calls: list[float] = []

    def work() -> None:
        calls.append(time.perf_counter())

    begun = time.perf_counter()
    speed = images_per_s(work, 4, 0.02)
    whole = time.perf_counter() - begun
    measured = calls[gpu_speed.WARM_UPS :]
    assert whole > 0.02
    # Passes took no less than from the first to the last, and no more than all of it.
    assert 4 * len(measured) / whole < speed < 4 * len(measured) / (measured[-1] - measured[0])


def test_contenders_are_measured_by_size_and_compiled_ones_where_compiling_works(
    monkeypatch: pytest.MonkeyPatch,
):
    said: list[str] = []
    far = time.monotonic() + 1000
    monkeypatch.setattr(gpu_speed, "COMPILED_SIZES", (2,))
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    found = measure_speed(CLIP, CPU, 0.002, far, said.append, sizes=(1, 2))
    assert [one.contender for one in found if one.size == 1] == [*gpu_speed.CONTENDERS[:3]]
    assert [one.contender for one in found if one.size == 2] == [*gpu_speed.CONTENDERS]
    assert all(one.images_per_s > 0 for one in found)
    assert not said


def test_what_is_not_compiled_is_said(monkeypatch: pytest.MonkeyPatch):
    def fail(_: object) -> None:
        raise RuntimeError("no C compiler")

    said: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    for deadline in (time.monotonic() + 1000, 0.0):
        found = measure_speed(CLIP, CPU, 0.002, deadline, said.append, sizes=(1,))
        assert COMPILED not in {one.contender for one in found}
    assert "no C compiler" in said[0]
    assert "the time is used up" in said[1]


def test_decoding_is_measured_on_photographs(examples: list[Path]):
    assert decoding_per_s([examples[0].read_bytes()], 32, 0.01) > 0


def report(**changes: object) -> GpuReport:
    speeds = [Speed("B/32", who, 8, speed) for who, speed in ((OURS, 900.0), (PLAIN, 700.0))]
    speeds.append(Speed("L/14", OURS, 8, 90.0))
    whole = GpuReport(
        "a GPU",
        [
            Equality("B/32", "float32", 1e-6, 1e-7, 1e-4),
            Equality("B/32", "float16", 1e-2, 1e-3, None),
        ],
        Halving("L/14", 64, (64,), (32, 32), 1e-6),
        speeds,
        500.0,
        16,
    )
    return replace(whole, **changes)


def test_the_report_is_a_table_that_says_which_is_the_bound():
    text = report().text()
    assert "| B/32 | float32 | 1.0e-06 | 1.0e-07 | 1e-04 | yes |" in text
    assert "| B/32 | 8 | 900 |  | 700 |  |" in text
    assert "passes of 64 did not fit, passes of 32, 32 did" in text
    assert "B/32: decoding is the bound: the GPU computes 900 images a second, 16 cores" in text
    assert "L/14: the GPU is the bound" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"equalities": [Equality("B/32", "float32", 2e-4, 1e-7, 1e-4)]},
        {"halving": Halving("L/14", 64, (), (64,), 0.0)},
    ],
)
def test_what_does_not_hold_is_shouted(changes: dict[str, object]):
    assert report().holds
    assert not report(**changes).holds
    assert "NO" in report(**changes).text()
