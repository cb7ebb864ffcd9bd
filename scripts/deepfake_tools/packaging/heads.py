"""Linear heads: the file of a trained one, a classifier's own, and an untrained one."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from clip_deepfake.archive_files import Sha256
from clip_deepfake.card import (
    EncoderCard,
    Feature,
    HeadCard,
    ModelSource,
    TrainingHistory,
    TuningHistory,
)
from clip_deepfake.faces import FaceAlignment
from clip_deepfake.preprocessing import Preprocessing
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deepfake_tools.files import replacing_bytes
from deepfake_tools.labels import FAKE, REAL, WORDS, Label, name_labels, name_words
from deepfake_tools.packaging.hub import BuildError

LABEL_WORDS: Mapping[str, Label] = {
    **WORDS,
    "ai": FAKE,
    "artificial": FAKE,
    "generated": FAKE,
    "authentic": REAL,
    "genuine": REAL,
    "human": REAL,
    "realism": REAL,
    "realistic": REAL,
}
"""Of classifiers' labels: two that face each other say more than a directory's name does."""

NEGATIONS = frozenset(("no", "non", "not", "without"))
"""In a label they turn round what its other words say, or do not."""


@dataclass(frozen=True)
class Head:
    """A linear layer and its reading.

    Attributes:
        card: what the archive says of it.
        tensors: ``weight`` (outputs, feature size) and ``bias`` (outputs,), float32.
    """

    card: HeadCard
    tensors: dict[str, Tensor]


def untrained_head(encoder: EncoderCard, feature: Feature) -> Head:
    """Makes a head that shows that the plumbing works, and nothing else.

    It is ``nn.Linear`` to two logits in torch's default initialisation under
    ``torch.manual_seed(0)``: the same for every feature of a width.

    Raises:
        LoadError: when the encoder does not have the feature.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(encoder.feature_size(feature), 2)
    card = HeadCard(
        source="untrained",
        description="random weights (torch.manual_seed(0)); its verdicts mean nothing",
        feature=feature,
        l2_normalize=False,
        outputs=2,
        fake_indices=(1,),
        threshold=0.5,
    )
    return Head(card, {name: tensor.detach() for name, tensor in layer.state_dict().items()})


def classifier_head(
    tensors: Mapping[str, Tensor], labels: Sequence[str], fake: Sequence[int], model: ModelSource
) -> Head:
    """Takes the head of a whole classifier as it is.

    Args:
        tensors: ``weight`` (labels, feature size) and ``bias`` (labels,).
        labels: of its outputs, in order.
        fake: which of them mean FAKE; their probabilities are added.
        model: where it comes from.
    """
    card = HeadCard(
        source="trained",
        description=f"the classifier of {model.name}, whose outputs are {', '.join(labels)}",
        feature="classifier_input",
        l2_normalize=False,
        outputs=len(labels),
        fake_indices=tuple(fake),
        threshold=0.5,
        file=model.weights_file,
        sha256=model.weights_sha256,
    )
    return Head(card, dict(tensors))


def fake_outputs(labels: Sequence[str], chosen: Sequence[str], name: str) -> tuple[int, ...]:
    """Finds which outputs of a classifier mean FAKE.

    Args:
        labels: of its outputs, in order.
        chosen: those that mean FAKE, as the user says; none reads it off two plain labels.
        name: of the model.

    Raises:
        BuildError: when a chosen label is not among them, all are chosen, or they do not say it
            plainly: a guess would turn every verdict round where it is wrong.
    """
    known = f"its labels are {', '.join(map(repr, labels))}"
    if strange := [label for label in chosen if label not in labels]:
        raise BuildError(f"{name} has no label {strange[0]!r}; {known}")
    if chosen:
        fake = tuple(index for index, label in enumerate(labels) if label in chosen)
    else:
        meanings = [_meaning(label) for label in labels]
        if len(meanings) != 2 or set(meanings) != {REAL, FAKE}:
            raise BuildError(
                f"{name} does not say plainly which of its outputs means fake: {known}; say it "
                "with --fake-label NAME ..., or take its encoder alone with --feature"
            )
        fake = (meanings.index(FAKE),)
    if len(fake) == len(labels):
        raise BuildError(f"{name}: --fake-label names all labels, so nothing is real; {known}")
    return fake


def _meaning(label: str) -> Label | None:
    """What a label's words stand for; None where that is nothing, both, or not plain."""
    meanings = name_labels(label, LABEL_WORDS)
    if len(meanings) != 1 or not NEGATIONS.isdisjoint(name_words(label)):
        return None
    return next(iter(meanings))


METADATA_KEY = "clip_deepfake_head"

TUNED_HEAD = "head.safetensors"
"""Name of the file in the folder of an encoder that was trained together with it."""


class TrainedHead(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a trained head that is not a weight.

    Attributes:
        model: the encoder that it was trained on.
        encoder_sha256: ``tower_digest`` of that encoder in float32; it tells whether another
            checkpoint's features are the same.
        preprocessing: that it was trained with.
        head: how its output is read.
        history: how it came to be; None where it was trained together with the encoder.
        faces: how the faces that it was trained on were found and cut out; None where it was
            trained on images as they are.
        tuning: how encoder and head came to be; None where the encoder was left as it was.
    """

    schema: Literal[1]
    model: ModelSource
    encoder_sha256: Sha256
    preprocessing: Preprocessing
    head: HeadCard
    history: TrainingHistory | None
    faces: FaceAlignment | None = None
    tuning: TuningHistory | None = None


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
            f"{path.name} has no {METADATA_KEY} in its metadata: train.py did not write it"
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
