"""JPEG bytes in, logits out, by transformers alone: what both rivals compute."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPVisionModel, CLIPVisionModelWithProjection

from deepfake_tools.benchmarking.jobs import TransformersJob

HEAD = "head.safetensors"
MODELS = {"pooler_output": CLIPVisionModel, "image_embeds": CLIPVisionModelWithProjection}


class TransformersJudge:
    """CLIP's processor, vision model and a linear head, as a script of some lines has them.

    Args:
        job: What to load.
        device: Where to compute. A CPU computes in float32, as it is fastest there.
    """

    def __init__(self, job: TransformersJob, device: str) -> None:
        model: Any = MODELS[job.feature]
        dtype = torch.float32 if device == "cpu" else "auto"
        self._job = job
        self._device = device
        self._processor = CLIPImageProcessor.from_pretrained(job.folder)
        self._model = model.from_pretrained(job.folder, dtype=dtype).eval().to(device)
        head = load_file(Path(job.folder, HEAD), device=device)
        self._weight, self._bias = head["weight"], head["bias"]

    def prepare(self, data: bytes) -> torch.Tensor:
        """Maps an image file to float32 (3, side, side) on the CPU."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        pixels: torch.Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return pixels[0]

    def judge(self, prepared: Sequence[torch.Tensor]) -> list[list[float]]:
        """Maps prepared images to their logits."""
        batch = torch.stack(list(prepared)).to(self._device, self._model.dtype)
        with torch.inference_mode():
            feature = getattr(self._model(pixel_values=batch), self._job.feature).float()
            feature = functional.normalize(feature) if self._job.normalize else feature
            logits = functional.linear(feature, self._weight, self._bias)
        return [[float(value) for value in row] for row in logits]
