"""JPEG bytes in, logits out, by transformers alone: what LitServe and the script compute."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from clip_deepfake.card import HEAD_FILE
from clip_deepfake.encoder import CLASSIFIER, READERS
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPImageProcessor

from benchmarks.jobs import RivalJob


class Scorer(torch.nn.Module):
    """The vision model and a linear head, as a script of some lines has them.

    Args:
        job: What to load.
        dtype: Of the model; `auto` is that of its weights. The head is float32.
    """

    def __init__(self, job: RivalJob, dtype: torch.dtype | str) -> None:
        super().__init__()
        kind: Any = getattr(transformers, job.architecture)
        self.model = kind.from_pretrained(job.folder, dtype=dtype).eval()
        if job.feature == "classifier_input":
            setattr(self.model, CLASSIFIER, torch.nn.Identity())
        head = load_file(Path(job.folder, HEAD_FILE))
        self.register_buffer("weight", head["weight"])
        self.register_buffer("bias", head["bias"])
        self._read = READERS[job.feature]
        self._normalize = job.normalize

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Maps normalised pixels (batch, 3, side, side) to float32 logits (batch, outputs)."""
        feature = self._read(self.model, values.to(self.model.dtype)).float()
        feature = functional.normalize(feature) if self._normalize else feature
        weight, bias = self.get_buffer("weight"), self.get_buffer("bias")
        return functional.linear(feature, weight, bias)


class TransformersJudge:
    """CLIP's processor, then the model.

    Args:
        job: What to load.
        device: Where to compute. A CPU computes in float32, as it is fastest there.
    """

    def __init__(self, job: RivalJob, device: str) -> None:
        dtype = torch.float32 if device == "cpu" else "auto"
        self._device = device
        self._processor = CLIPImageProcessor.from_pretrained(job.folder)
        self._scorer = Scorer(job, dtype).to(device)

    def prepare(self, data: bytes) -> torch.Tensor:
        """Maps an image file to float32 (3, side, side) on the CPU."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        pixels: torch.Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return pixels[0]

    def judge(self, prepared: Sequence[torch.Tensor]) -> list[list[float]]:
        """Maps prepared images to their logits."""
        with torch.inference_mode():
            logits = self._scorer(torch.stack(list(prepared)).to(self._device))
        return [[float(value) for value in row] for row in logits]
