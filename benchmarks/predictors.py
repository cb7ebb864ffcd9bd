"""What rivals compute with: transformers alone, or OpenVINO and OpenCV. JPEG bytes in, logits out.

As a process of its own it loads everything anew and judges one image, as research scripts do.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
import transformers
from clip_deepfake.card import HEAD_FILE
from clip_deepfake.encoder import CLASSIFIER, READERS
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPImageProcessor

from benchmarks.processes import RivalJob

Picture = npt.NDArray[np.uint8]


class Predictor(Protocol):
    """Whatever prepares images, several at a time, and computes their logits."""

    def prepare(self, data: bytes) -> Any:
        """Maps an image file to what `predict` takes."""
        ...

    def predict(self, prepared: Sequence[Any]) -> list[list[float]]:
        """Maps prepared images to their logits."""
        ...


def open_predictor(job: RivalJob, device: str) -> Predictor:
    """Loads what prepares images and computes their logits."""
    if job.runtime == "transformers":
        return TransformersPredictor(job, device)
    return OpenVinoPredictor(job)


class TransformersPredictor:
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

    def predict(self, prepared: Sequence[torch.Tensor]) -> list[list[float]]:
        """Maps prepared images to their logits."""
        with torch.inference_mode():
            logits = self._scorer(torch.stack(list(prepared)).to(self._device))
        return [[float(value) for value in row] for row in logits]


class OpenVinoPredictor:
    """OpenCV's decoding and squash to a square, then the converted model on the CPU.

    What a good engineer makes of a detector in an afternoon: `openvino.convert_model` of
    transformers' model and the head, with the normalisation in it.

    Args:
        job: What to load. With bfloat16 OpenVINO is left to itself, which computes so wherever a
            processor can.
    """

    def __init__(self, job: RivalJob) -> None:
        # A process that computes with transformers has no OpenVINO in its memory.
        import openvino as ov

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

    def predict(self, prepared: Sequence[Picture]) -> list[list[float]]:
        """Maps prepared images to their logits."""
        logits = self._compiled(np.stack(prepared))[0]
        return [[float(value) for value in row] for row in logits]


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


def main() -> None:
    """Does the job that the command line names."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=RivalJob)
    predictor = TransformersPredictor(job, "cuda" if torch.cuda.is_available() else "cpu")
    for image in job.images:
        (logits,) = predictor.predict([predictor.prepare(Path(image).read_bytes())])
        print(msgspec.json.encode(logits).decode())


if __name__ == "__main__":
    main()
