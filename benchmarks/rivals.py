"""The same weights behind LitServe, and in a new process per image: a round of their figures.

LitServe computes with transformers, or with what OpenVINO makes of the same model.
"""

import json
import socket
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from clip_deepfake.card import ENCODER_FILE, HEAD_FILE, Card
from clip_deepfake.preprocessing import CenterCrop, Preprocessing, Resize, Step

from benchmarks.archives import Unpacked
from benchmarks.load import RequestTemplate
from benchmarks.load_process import LoadJob, ServerUsage, measure_served
from benchmarks.machine import ProcessTree, busy_s
from benchmarks.measurements import (
    BenchmarkError,
    Cell,
    Figures,
    Logits,
    Measurements,
    Place,
    RunSettings,
    Scenario,
    Start,
    largest_difference,
)
from benchmarks.processes import Child, RivalJob, Runtime, child

LITSERVE = "LitServe"
LITSERVE_FLOAT32 = "LitServe, OpenVINO float32"
LITSERVE_BFLOAT16 = "LitServe, OpenVINO bfloat16"
SCRIPT = "script"

CLIP_PROCESSOR = "CLIP's own preprocessing"
OPENCV = "OpenCV's decoding and squash"

WEIGHTS = "model.safetensors"
READY_LIMIT_S = 180.0
POLL_S = 0.1

TOLERANCES: dict[Runtime, float] = {
    "transformers": 0.05,
    "OpenVINO float32": 0.05,
    "OpenVINO bfloat16": 0.25,
}
"""Of a rival's logits: another decoder, another resize where torchvision is installed, 8 bits of
mantissa."""


@dataclass(frozen=True)
class Rival:
    """The same detector by others' code.

    Attributes:
        name: What its figures are listed under.
        job: The checkpoint.
        expected: Each image's logits after the preprocessing that it uses.
    """

    name: str
    job: RivalJob
    expected: tuple[Logits, ...]


def preprocessings(card: Card) -> dict[str, Preprocessing]:
    """Returns the ways in which rivals prepare images for a detector, by what does it."""
    side, mean, std = card.encoder.image_size, card.preprocessing.mean, card.preprocessing.std
    clip: list[Step] = [
        Resize("shortest_side", side, "pillow", "bicubic"),
        CenterCrop(side, "transformers"),
    ]
    return {
        CLIP_PROCESSOR: Preprocessing("clip", clip, mean, std, "pillow"),
        OPENCV: Preprocessing("squash", [Resize("squash", side, "opencv", "bilinear")], mean, std),
    }


def preparation(rival: str) -> str:
    """Returns the one of `preprocessings` that a rival uses, by its name."""
    return OPENCV if rival in (LITSERVE_FLOAT32, LITSERVE_BFLOAT16) else CLIP_PROCESSOR


def write_checkpoint(archive: Unpacked, folder: Path) -> RivalJob:
    """Writes `config.json`, `preprocessor_config.json` and links to the weights.

    Args:
        archive: With its encoder in safetensors.
        folder: Where to; it is made.

    Returns:
        The job of judging with it, but for the image or the port.

    Raises:
        BenchmarkError: The archive holds the weights in another form.
    """
    if ENCODER_FILE not in archive.card.files:
        raise BenchmarkError(
            f"{archive.path} holds no {ENCODER_FILE} for transformers to load: with --versus, give "
            "a float32 archive of the same detector too"
        )
    folder.mkdir()
    card = archive.card
    _write_json(folder / "config.json", _config(card))
    _write_json(folder / "preprocessor_config.json", _processor(card))
    (folder / WEIGHTS).symlink_to(archive.folder / ENCODER_FILE)
    (folder / HEAD_FILE).symlink_to(archive.folder / HEAD_FILE)
    return RivalJob(
        str(folder), card.encoder.architecture, card.head.feature, card.head.l2_normalize
    )


def _config(card: Card) -> dict[str, object]:
    return {"architectures": [card.encoder.architecture], **card.encoder.config}


def _processor(card: Card) -> dict[str, object]:
    side = card.encoder.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_normalize": True,
        "image_mean": card.preprocessing.mean,
        "image_std": card.preprocessing.std,
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class LitServeContender(Rival):
    """It behind LitServe."""

    def measure(self, number: int, settings: RunSettings, measurements: Measurements) -> None:
        """Starts the server, asks it, ends it."""
        job = replace(self.job, port=_free_port())
        begun = time.perf_counter()
        with child("litserve_app", job, settings.scratch) as server:
            self._await_health(server, job.port)
            measurements.starts.append(Start(self.name, number, time.perf_counter() - begun))
            tree = ProcessTree(server.pid)
            load = LoadJob(
                template=RequestTemplate(
                    job.port, "/predict", {"Content-Type": "application/json"}
                ),
                form="base64",
                images=settings.image_names,
                expected=self.expected,
                tolerance=TOLERANCES[self.job.runtime],
            )

            def read() -> ServerUsage:
                return ServerUsage(tree.cpu_s(), busy_s())

            measure_served(self.name, number, load, settings, measurements, read, tree.largest_mb)

    def _await_health(self, server: Child, port: int) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while not _is_healthy(port):
            server.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} is not ready after {READY_LIMIT_S:g} s")
            time.sleep(POLL_S)


class ScriptContender(Rival):
    """A process that imports transformers, loads the weights, judges one image and ends."""

    def measure(self, number: int, settings: RunSettings, measurements: Measurements) -> None:
        """Judges one image, another one each round."""
        index = number % len(settings.images)
        job = replace(self.job, images=(settings.image_names[index],))
        begun = time.perf_counter()
        with child("predictors", job, settings.scratch) as script:
            (line,) = script.lines()
        seconds = time.perf_counter() - begun
        difference = largest_difference(
            msgspec.json.decode(line, type=Logits), self.expected[index]
        )
        if not difference <= TOLERANCES[self.job.runtime]:
            raise BenchmarkError(f"{self.name}: {job.images[0]}: logits off by {difference:g}")
        measurements.note_difference(self.name, difference)
        place, latency = Place(self.name, Scenario.SCRIPT, 1), 1e3 * seconds
        measurements.add(
            Cell(place, number, Figures(1 / seconds, latency, latency, latency, latency))
        )


def line_up_rivals(
    job: RivalJob, expected: Mapping[str, tuple[Logits, ...]], *, bfloat16: bool
) -> list[LitServeContender | ScriptContender]:
    """Returns all rivals of a detector.

    Args:
        job: Of its checkpoint.
        expected: Its logits after each of `preprocessings`, by their names.
        bfloat16: Whether the processor computes in it: elsewhere OpenVINO by itself is the same
            as in float32, and not measured twice.
    """
    runtimes: dict[str, Runtime] = {LITSERVE: "transformers", LITSERVE_FLOAT32: "OpenVINO float32"}
    if bfloat16:
        runtimes[LITSERVE_BFLOAT16] = "OpenVINO bfloat16"
    servers = [
        LitServeContender(name, replace(job, runtime=runtime), expected[preparation(name)])
        for name, runtime in runtimes.items()
    ]
    return [*servers, ScriptContender(SCRIPT, job, expected[preparation(SCRIPT)])]


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, or 503 while the worker loads
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
