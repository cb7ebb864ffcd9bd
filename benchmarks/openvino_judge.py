"""JPEG bytes in, logits out, by OpenCV and the converted model in OpenVINO.

What a good engineer makes of a detector in an afternoon: `openvino.convert_model` of transformers'
model and the head, the normalisation in it, and OpenCV for decoding and resizing.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from transformers import CLIPImageProcessor

from benchmarks.jobs import RivalJob
from benchmarks.transformers_judge import Scorer

Picture = npt.NDArray[np.uint8]


class _FromBytes(torch.nn.Module):
    """Uint8 (batch, side, side, 3) in, logits out: the normalisation is OpenVINO's to compute."""

    def __init__(self, scorer: Scorer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.scorer = scorer
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        values = pictures.permute(0, 3, 1, 2).float() / 255
        normalised = (values - self.get_buffer("mean")) / self.get_buffer("std")
        logits: torch.Tensor = self.scorer(normalised)
        return logits


class OpenVinoJudge:
    """OpenCV's decoding and squash to a square, then the converted model on the CPU.

    Args:
        job: What to load. With bfloat16 OpenVINO is left to itself, which computes so wherever a
            processor can.
        device: Nothing that matters: OpenVINO computes on the CPU.
    """

    def __init__(self, job: RivalJob, device: str) -> None:
        processor = CLIPImageProcessor.from_pretrained(job.folder)
        self._side = int(processor.crop_size["height"])
        module = _FromBytes(
            Scorer(job, torch.float32).requires_grad_(False),
            processor.image_mean,
            processor.image_std,
        )
        example = torch.zeros(2, self._side, self._side, 3, dtype=torch.uint8)
        graph = ov.convert_model(
            module.eval(), example_input=example, input=[-1, self._side, self._side, 3]
        )
        own = {} if job.runtime == "OpenVINO bfloat16" else {"INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = ov.Core().compile_model(graph, "CPU", own)

    def prepare(self, data: bytes) -> Picture:
        """Maps an image file to uint8 (side, side, 3), RGB."""
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("this is no image")
        small = cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)

    def judge(self, prepared: Sequence[Picture]) -> list[list[float]]:
        """Maps prepared images to their logits."""
        logits = self._compiled(np.stack(prepared))[0]
        return [[float(value) for value in row] for row in logits]
