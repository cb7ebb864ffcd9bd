"""The file of a trained head: its tensors, with everything about them in the metadata."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import torch
from clip_deepfake.archive_files import Sha256
from clip_deepfake.card import HeadCard, ModelSource, TrainingHistory
from clip_deepfake.faces import FaceAlignment
from clip_deepfake.preprocessing import Preprocessing
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepfake_tools.files import replacing_bytes
from deepfake_tools.packaging.hub import BuildError

METADATA_KEY = "clip_deepfake_head"


class TrainedHead(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a trained head that is not a weight.

    Attributes:
        model: the encoder that it was trained on.
        encoder_sha256: ``tower_digest`` of that encoder in float32; it tells whether another
            checkpoint's features are the same.
        preprocessing: that it was trained with.
        head: how its output is read.
        history: how it came to be.
        faces: how the faces that it was trained on were found and cut out; None where it was
            trained on images as they are.
    """

    schema: Literal[1]
    model: ModelSource
    encoder_sha256: Sha256
    preprocessing: Preprocessing
    head: HeadCard
    history: TrainingHistory
    faces: FaceAlignment | None = None


def tower_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, shape and float32 values of each tensor, in the order of the names.

    It does not depend on the file format, so the same weights as ``.safetensors`` and ``.bin``
    have one digest. Rounding to half precision changes it: take it before that.

    Args:
        tensors: of the vision tower and, where there is one, the visual projection.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.float32)
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().numpy().data)
    return digest.hexdigest()


def write_head_file(path: Path, trained: TrainedHead, weight: Tensor, bias: Tensor) -> None:
    """Writes a head, whole or not at all.

    Args:
        path: of the file, replaced if it exists; its folder is made.
        trained: goes into the metadata.
        weight: (outputs, feature size), stored in float32.
        bias: (outputs,), stored in float32.
    """
    tensors = {"weight": weight.float().contiguous(), "bias": bias.float().contiguous()}
    metadata = {METADATA_KEY: msgspec.json.encode(trained).decode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_bytes(path) as file:
        file.write(save(tensors, metadata))


def is_head_file(path: Path) -> bool:
    """Says whether a file is a head of this project's, by its metadata and not by its name."""
    try:
        with safe_open(path, framework="pt") as opened:
            return METADATA_KEY in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_head_file(path: Path) -> tuple[TrainedHead, dict[str, Tensor]]:
    """Reads a head.

    Returns:
        What ``write_head_file`` was given, with the tensors as ``weight`` and ``bias``.

    Raises:
        BuildError: when the file is damaged, or is no head of this project's.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BuildError(f"{path.name} is no safetensors file, or is damaged: {error}") from error
    if METADATA_KEY not in metadata:
        raise BuildError(
            f"{path.name} has no {METADATA_KEY} in its metadata: train_head.py did not write it"
        )
    try:
        trained = msgspec.json.decode(metadata[METADATA_KEY], type=TrainedHead)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BuildError(
            f"{path.name}: {METADATA_KEY} is nothing that this version reads: {error}"
        ) from error
    _check_tensors(path, tensors, trained.head.outputs)
    return trained, tensors


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], outputs: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width = shapes.get("weight", (0, 0))[-1:]
    if shapes != {"weight": (outputs, *width), "bias": (outputs,)}:
        raise BuildError(
            f"{path.name} holds {shapes}; a head with {outputs} output(s) is weight ({outputs}, "
            f"feature size) and bias ({outputs},)"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise BuildError(f"{path.name}: {name} is damaged: it must be finite and in float32")
