"""How fast a GPU is: our engine beside plain transformers, and decoding, in images a second."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from clip_deepfake.card import Limits
from clip_deepfake.images import decode
from clip_deepfake.preprocessing import squash
from clip_deepfake.system import available_cores
from clip_deepfake.torch_engine import TorchEngine
from deepfake_tools.text_table import markdown_table

from benchmarks.gpu_models import (
    Model,
    PlainModule,
    make_module,
    make_pixels,
    normalise,
    run_plain,
)

SIZES = (1, 2, 4, 8, 16, 32, 64)
COMPILED_SIZES = (1, 8, 64)
"""Each is compiled for itself, which takes half a minute."""

ROUNDS = 2
WARM_UPS = 3
OURS, OURS_FLOAT32 = "ours, bfloat16", "ours, float32"
PLAIN, COMPILED = "transformers, bfloat16", "transformers, bfloat16, compiled"
CONTENDERS = (OURS, OURS_FLOAT32, PLAIN, COMPILED)

Work = Callable[[], object]


@dataclass(frozen=True)
class Speed:
    """How fast one contender is.

    Attributes:
        model: Name of the model.
        contender: One of `CONTENDERS`.
        size: Images in a pass.
        images_per_s: From pixels in memory to logits in memory, the median of the rounds.
    """

    model: str
    contender: str
    size: int
    images_per_s: float


def images_per_s(work: Work, size: int, seconds: float) -> float:
    """Repeats a piece of work that handles some images and ends when they are done."""
    for _ in range(WARM_UPS):
        work()
    count, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        work()
        count += 1
    return size * count / passed


def measure_speed(
    model: Model,
    device: torch.device,
    seconds: float,
    deadline: float,
    say: Callable[[str], None],
    sizes: Sequence[int] = SIZES,
) -> list[Speed]:
    """Measures all contenders side by side, size by size.

    Args:
        model: To measure.
        device: To compute on.
        seconds: Of each measurement.
        deadline: By `time.monotonic`; nothing is compiled after it.
        say: Told what was left out, and why.
        sizes: Of the passes.
    """
    ours = TorchEngine(make_module(model, torch.bfloat16), device)
    exact = TorchEngine(make_module(model, torch.float32), device)
    plain = PlainModule(model, torch.bfloat16).eval().to(device)
    # Another model, with other shapes, would count as a recompilation of the last one.
    torch.compiler.reset()
    compiled: Any = torch.compile(plain, dynamic=False)
    found = []
    for size in sizes:
        pixels = make_pixels(size, model.side)
        values = normalise(pixels)
        works: dict[str, Work] = {
            OURS: partial(ours, pixels),
            OURS_FLOAT32: partial(exact, pixels),
            PLAIN: partial(run_plain, plain, values, device, torch.bfloat16),
            COMPILED: partial(run_plain, compiled, values, device, torch.bfloat16),
        }
        if size not in COMPILED_SIZES or not _compiles(works[COMPILED], deadline, model, say):
            del works[COMPILED]
        found += [
            Speed(model.name, contender, size, speed)
            for contender, speed in _side_by_side(works, size, seconds).items()
        ]
    return found


def _compiles(work: Work, deadline: float, model: Model, say: Callable[[str], None]) -> bool:
    if time.monotonic() > deadline:
        say(f"{model.name}: the time is used up, so no more is compiled")
        return False
    try:
        work()
    except Exception as error:
        # A missing compiler, an operation that is not covered: each fails in its own way.
        reason = " ".join(str(error).split())[:200]
        say(f"{model.name}: torch.compile failed: {type(error).__name__}: {reason}")
        return False
    return True


def _side_by_side(works: dict[str, Work], size: int, seconds: float) -> dict[str, float]:
    rounds: dict[str, list[float]] = {contender: [] for contender in works}
    for number in range(ROUNDS):
        for contender in list(works) if number % 2 == 0 else reversed(list(works)):
            rounds[contender].append(images_per_s(works[contender], size, seconds))
    return {contender: median(speeds) for contender, speeds in rounds.items()}


def decoding_per_s(images: Sequence[bytes], side: int, seconds: float) -> float:
    """Measures how many images a second all cores decode and resize, as a worker does it.

    Args:
        images: Contents of image files.
        side: Of the square that they become.
        seconds: To measure for.
    """
    limit, recipe = Limits().max_pixels, squash(side)
    with ThreadPoolExecutor(available_cores()) as pool:

        def prepare() -> None:
            list(pool.map(lambda data: recipe.apply(decode(data, limit)), images))

        return images_per_s(prepare, len(images), seconds)


def speed_table(speeds: Sequence[Speed]) -> str:
    """Lists the contenders side by side, in Markdown."""
    found = {(one.model, one.size, one.contender): f"{one.images_per_s:.0f}" for one in speeds}
    rows = [
        (model, str(size), *(found.get((model, size, who), "") for who in CONTENDERS))
        for model, size in dict.fromkeys((one.model, one.size) for one in speeds)
    ]
    return markdown_table([("images a second", "in a pass", *CONTENDERS), *rows])


def bounds_text(speeds: Sequence[Speed], decoded_per_s: float, cores: int) -> str:
    """Says of each model whether decoding or the GPU is the bound.

    Args:
        speeds: Of every model, contender and size.
        decoded_per_s: Images a second that all cores decode and resize.
        cores: How many they are.
    """
    best: dict[str, float] = {}
    for one in speeds:
        if one.contender == OURS:
            best[one.model] = max(one.images_per_s, best.get(one.model, 0.0))
    return "\n".join(
        f"{model}: {'decoding' if decoded_per_s < speed else 'the GPU'} is the bound: the GPU "
        f"computes {speed:.0f} images a second, {cores} cores decode and resize "
        f"{decoded_per_s:.0f}"
        for model, speed in best.items()
    )
