"""The file of a trained head: its tensors, with everything about them in the metadata."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import torch
from clip_deepfake.card import Fraction, HeadCard, ModelSource, Sha256
from clip_deepfake.preprocessing import Preprocessing
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepfake_tools.hub import BuildError

METADATA_KEY = "clip_deepfake_head"


class DataHistory(Struct, frozen=True, forbid_unknown_fields=True):
    """What a head was trained and judged on.

    Attributes:
        real: images labelled real, held-out ones included.
        fake: images labelled fake, held-out ones included.
        broken: left out because they could not be read.
        repeated: left out because their content is that of another.
        folders: that the images lie in.
        sha256: digest of the sorted lines ``<SHA-256 of the image> <label>``; equal for equal
            images and labels, whatever the files are called.
    """

    real: int
    fake: int
    broken: int
    repeated: int
    folders: int
    sha256: Sha256


class Scores(Struct, frozen=True, forbid_unknown_fields=True):
    """How a head did on images that it was not fitted to.

    Attributes:
        real: how many of them are real.
        fake: how many of them are fake.
        auc: area under the ROC curve.
        pr_auc: average precision.
        accuracy: at the head's threshold.
    """

    real: int
    fake: int
    auc: Fraction
    pr_auc: Fraction
    accuracy: Fraction


class TrainingHistory(Struct, frozen=True, forbid_unknown_fields=True):
    """How a head came to be.

    Attributes:
        data: the images.
        kept_together: what never stands on both sides of a split: the images of a ``folder``, or,
            where there were too few folders for that, no more than each ``image``.
        seed: of the splits.
        strength: scikit-learn's C, the inverse of the regularisation.
        folds: of the cross-validation.
        cross_validated_auc: mean over the folds, for this strength.
        cross_validated_auc_std: standard deviation over the folds.
        held_out: the head's scores on images that had no part in fitting or choosing anything.
        balanced_threshold: of the best balanced accuracy, on the cross-validation's predictions.
        target_fpr: the false-positive rate asked for, if any.
        target_fpr_threshold: that keeps to it, on the cross-validation's predictions.
        made_with: version of each library that had a part in the numbers, by name.
    """

    data: DataHistory
    kept_together: Literal["folder", "image"]
    seed: int
    strength: float
    folds: int
    cross_validated_auc: Fraction
    cross_validated_auc_std: float
    held_out: Scores
    balanced_threshold: Fraction
    target_fpr: Fraction | None
    target_fpr_threshold: Fraction | None
    made_with: dict[str, str]


class TrainedHead(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a trained head that is not a weight.

    Attributes:
        model: the encoder that it was trained on.
        encoder_sha256: ``tower_digest`` of that encoder in float32; it tells whether another
            checkpoint's features are the same.
        preprocessing: that it was trained with.
        head: how its output is read.
        history: how it came to be.
    """

    schema: Literal[1]
    model: ModelSource
    encoder_sha256: Sha256
    preprocessing: Preprocessing
    head: HeadCard
    history: TrainingHistory


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
    with tempfile.TemporaryDirectory(prefix=".head-", dir=path.parent) as scratch:
        partial = Path(scratch, path.name)
        save_file(tensors, partial, metadata)
        partial.replace(path)


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
