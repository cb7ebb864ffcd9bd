"""Whether a GPU answers as the CPU does, and what becomes of a pass that has no room in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from clip_deepfake.engines import Engine, Logits, Pixels, run_pass
from clip_deepfake.errors import EngineMemoryError
from clip_deepfake.torch_engine import TorchEngine
from deepfake_tools.text_table import markdown_table

from benchmarks.gpu_models import Model, make_module, make_pixels

LOGIT_TOLERANCE = 1e-4
"""Of float32, with TF32 off, between two devices."""

PICTURES = 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Equality:
    """How far a device is off the CPU in float32.

    Attributes:
        model: Its name.
        precision: On the device.
        logit: Largest absolute difference of a logit.
        probability: Largest absolute difference of a `fake_probability`.
        wanted: What the first must not exceed; None where there is no such bound.
    """

    model: str
    precision: str
    logit: float
    probability: float
    wanted: float | None

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; not a number is not."""
        return self.wanted is None or self.logit <= self.wanted


def compare(model: Model, device: torch.device) -> list[Equality]:
    """Compares float32 and both half precisions on a device with float32 on the CPU."""
    pixels = make_pixels(PICTURES, model.side)
    expected = TorchEngine(make_module(model, torch.float32), CPU)(pixels)
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = TorchEngine(make_module(model, dtype), device)(pixels)
        exact = dtype == torch.float32
        found.append(
            Equality(
                model.name,
                str(dtype).removeprefix("torch."),
                float(np.abs(logits - expected).max()),
                float(np.abs(_fake_probability(logits) - _fake_probability(expected)).max()),
                LOGIT_TOLERANCE if exact else None,
            )
        )
    return found


def _fake_probability(logits: Logits) -> Logits:
    probability: Logits = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return probability


def equality_table(equalities: Sequence[Equality]) -> str:
    """Lists them, in Markdown."""
    rows = [
        (
            one.model,
            one.precision,
            f"{one.logit:.1e}",
            f"{one.probability:.1e}",
            "" if one.wanted is None else f"{one.wanted:.0e}",
            "" if one.wanted is None else ("yes" if one.holds else "NO"),
        )
        for one in equalities
    ]
    header = ("model", "GPU", "logit off CPU", "probability off", "at most", "holds")
    return markdown_table([header, *rows])


@dataclass(frozen=True)
class Halving:
    """What became of a pass on a device without room for it.

    Attributes:
        model: Its name.
        asked: Pictures in the pass.
        refused: Sizes of the passes that did not fit, in order.
        computed: Sizes of those that did.
        difference: Largest absolute difference of a logit from those with room.
    """

    model: str
    asked: int
    refused: tuple[int, ...]
    computed: tuple[int, ...]
    difference: float

    @property
    def holds(self) -> bool:
        """Whether it was refused at first, and answered whole and rightly all the same."""
        return (
            self.refused[:1] == (self.asked,)
            and sum(self.computed) == self.asked
            and self.difference <= LOGIT_TOLERANCE
        )

    def __str__(self) -> str:
        return (
            f"{self.asked} pictures of {self.model} in a GPU without room for them: passes of "
            f"{_sizes(self.refused)} did not fit, passes of {_sizes(self.computed)} did; "
            f"logits off by {self.difference:.1e}: {'holds' if self.holds else 'DOES NOT HOLD'}"
        )


def _sizes(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "none"


class _Counted:
    """An engine that notes what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.exact = engine.name, engine.exact
        self.largest_pass, self.decompose = engine.largest_pass, engine.decompose
        self.refused: list[int] = []
        self.computed: list[int] = []

    def __call__(self, pixels: Pixels) -> Logits:
        try:
            logits = self._engine(pixels)
        except EngineMemoryError:
            self.refused.append(len(pixels))
            raise
        self.computed.append(len(pixels))
        return logits

    def features(self, pixels: Pixels) -> Logits:
        return self._engine.features(pixels)


def halve(name: str, engine: Engine, pixels: Pixels, take_memory: Callable[[], object]) -> Halving:
    """Runs a pass with room for it, and again without.

    Args:
        name: Of the model.
        engine: To run it with.
        pixels: Of the pass.
        take_memory: Called in between; what it returns is kept until the end.
    """
    expected = engine(pixels)
    counted = _Counted(engine)
    kept = take_memory()
    logits = run_pass(counted, pixels)
    del kept
    difference = float(np.abs(logits - expected).max())
    return Halving(name, len(pixels), tuple(counted.refused), tuple(counted.computed), difference)


def halve_on_cuda(model: Model, device: torch.device) -> Halving:
    """Fills a GPU with one tensor but for half of what the largest pass takes, and runs that."""
    engine = TorchEngine(make_module(model, torch.float32), device)
    pixels = make_pixels(engine.largest_pass, model.side)
    engine(pixels)  # libraries take their workspaces
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    engine(pixels)
    taken = torch.cuda.max_memory_allocated(device) - before

    def fill() -> torch.Tensor:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        return torch.empty(free - taken // 2, dtype=torch.uint8, device=device)

    try:
        return halve(model.name, engine, pixels, fill)
    finally:
        torch.cuda.empty_cache()
