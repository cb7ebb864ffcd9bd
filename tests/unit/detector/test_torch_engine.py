"""PyTorch's engine, and what it makes of a device that gives up."""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from clip_deepfake.card import Card
from clip_deepfake.errors import EngineLostError, EngineMemoryError
from clip_deepfake.torch_engine import TorchEngine, device_faults, warm_up
from clip_deepfake.verdicts import Verdict
from torch import nn

from tests.unit.stand_in_engine import StandInEngine, detector_of, image


def test_a_gpu_is_made_warm_for_every_power_of_two() -> None:
    engine = StandInEngine()
    warm_up(engine, 8)
    assert engine.largest_pass == 6
    assert engine.passes == [1, 2, 4]


def test_what_does_not_fit_ends_the_warm_up_and_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = StandInEngine(EngineMemoryError("24 GB are full"))
    with caplog.at_level(logging.WARNING):
        warm_up(engine, 8)
    assert engine.passes == [1]
    assert "1 pictures in one pass do not fit (24 GB are full)" in caplog.text


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_a_full_device_is_not_a_lost_one(error: RuntimeError) -> None:
    with pytest.raises(EngineMemoryError), device_faults(CPU):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
)
def test_a_device_that_answers_no_more_is_lost(error: RuntimeError) -> None:
    with pytest.raises(EngineLostError), device_faults(CPU):
        raise error


def test_any_other_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), device_faults(CPU):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class Cramped(nn.Module):
    """Has room for two pictures, and notes which of its tensors are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1)
        self.encoder.dtype = torch.float32  # type: ignore[assignment]
        self.held: weakref.ref[torch.Tensor] | None = None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) <= 2:
            red = pixels[..., 0].float().mean((1, 2)) / 255
            return torch.stack([torch.zeros_like(red), red], 1)
        activations = pixels.float()
        self.held = weakref.ref(activations)
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_batch_that_does_not_fit_is_answered_in_halves(small_card: Card) -> None:
    module = Cramped()
    detector = detector_of(small_card, TorchEngine(module, CPU))  # type: ignore[arg-type]
    reds = [0, 51, 102, 153, 204]
    verdicts = detector.judge([image(red) for red in reds])
    found = [verdict.logits[1] for verdict in verdicts if isinstance(verdict, Verdict)]
    assert found == pytest.approx([red / 255 for red in reds])


def test_a_pass_that_did_not_fit_leaves_nothing_behind() -> None:
    module = Cramped()
    engine = TorchEngine(module, CPU)  # type: ignore[arg-type]
    gc.disable()
    try:
        try:
            engine(np.zeros((3, 4, 4, 3), np.uint8))
        except EngineMemoryError:
            assert module.held is not None
            assert module.held() is None
    finally:
        gc.enable()
