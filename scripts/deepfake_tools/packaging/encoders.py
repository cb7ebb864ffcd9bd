"""Encoders from the Hub or a folder: config.json's model, with the checkpoint's weights in it."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import EncoderCard, Feature, ModelSource
from clip_deepfake.encoder import (
    CLASSIFIER,
    Encoder,
    Loaded,
    has_feature,
    load_model,
)
from clip_deepfake.errors import LoadError
from clip_deepfake.preprocessing import squash
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from deepfake_tools.packaging.architectures import Architecture, read_architecture
from deepfake_tools.packaging.hub import BuildError, Snapshot, fetch_settings, fetch_weights
from deepfake_tools.packaging.pickles import check_plain, load_pickle
from deepfake_tools.untrusted_files import file_instead

# Parts of a checkpoint that a detector knowingly goes without: the text half, what training alone
# needs, and counters that transformers computes itself.
LEFT_OUT = (
    "text_model.",
    "text_projection.",
    "logit_scale",
    "logit_bias",
    "classifier.",
    "lm_head.",
    "decoder.",
)
LEFT_OUT_ENDS = ("position_ids",)

LAYER = re.compile(r"(?:^|\.)layers?\.([0-9]{1,9})\.")

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Tower:
    """An encoder, ready to be packed.

    Attributes:
        config: what the card says of it.
        tensors: under the names of transformers' module, float32.
        sha256: digest of the weights file; of the files' digests in order, when there are several.
        classifier: ``weight`` and ``bias`` of the head of a whole classifier, float32.
    """

    config: EncoderCard
    tensors: dict[str, Tensor]
    sha256: str
    classifier: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder whose settings are here, and whose weights may not be yet.

    Attributes:
        snapshot: where it comes from.
        architecture: which model it is.
    """

    snapshot: Snapshot
    architecture: Architecture


def find_encoder(
    model: str,
    revision: str | None,
    report: Callable[[str], None],
    feature: Feature | None = None,
) -> FoundEncoder:
    """Reads an encoder's settings, so that it can be refused before its weights come.

    Args:
        model: Hub name, or a local folder.
        revision: branch, tag or commit of a Hub name.
        report: told which model it is.
        feature: that a head is to read, where it is known.

    Raises:
        BuildError: when it does not exist, cannot be reached, or is no vision encoder.
    """
    report(f"reading {model} ...")
    snapshot = fetch_settings(model, revision)
    return FoundEncoder(snapshot, read_architecture(snapshot, feature))


def read_encoder(encoder: FoundEncoder) -> tuple[ModelSource, Tower]:
    """Reads the weights, and what the card says of them.

    Args:
        encoder: as found.

    Raises:
        BuildError: when they are missing, damaged or not those of such an encoder.
    """
    snapshot = encoder.snapshot
    files = fetch_weights(snapshot)
    tower = read_tower(files, encoder.architecture)
    check_finite(tower.tensors, snapshot.name)
    name, revision, commit = snapshot.name, snapshot.revision, snapshot.commit
    return ModelSource(name, revision, commit, files[0].name, tower.sha256), tower


def read_tower(files: list[Path], architecture: Architecture) -> Tower:
    """Reads an encoder out of a checkpoint, leaving what else it holds on disk.

    Args:
        files: one ``.safetensors`` or ``.bin`` file, or all shards of one kind.
        architecture: the model that it is.

    Raises:
        BuildError: when a tensor is missing, misshapen, or neither used nor known to be left out,
            when a file is no checkpoint, or when it is a pickle that holds more than tensors.
    """
    whole = architecture.labels is not None
    used: dict[str, Tensor] = {}
    for file in files:
        for key, tensor in _tensors(file):
            if (whole and key.startswith("classifier.")) or not _is_left_out(key):
                _check_floats(file.name, key, tensor)
                used[key] = tensor.float()
    _check_layers(files[0].name, used, architecture)
    tower = make_tower(architecture, used, files_digest(files), files[0].name)
    if not whole:
        return tower
    head = {
        name.removeprefix("classifier."): tensor.to(torch.float32)
        for name, tensor in used.items()
        if name.startswith("classifier.")
    }
    return replace(tower, classifier=head)


def make_tower(
    architecture: Architecture, tensors: Mapping[str, Tensor], sha256: str, file: str
) -> Tower:
    """Fits tensors into a model, and measures what a head could read of it.

    Args:
        architecture: the model.
        tensors: under names that transformers reads its weights from.
        sha256: digest of the file that they are from.
        file: name of that file.

    Raises:
        BuildError: when they do not fit.
    """
    try:
        loaded = load_model(architecture.name, architecture.config, tensors)
    except LoadError as error:
        raise BuildError(f"{file}: {error}") from error
    if unknown := sorted(loaded.unexpected):
        raise BuildError(
            f"{file} holds {len(unknown)} tensors that are no part of a {architecture.name}, the "
            f"first is {unknown[0]}; is it a detector's checkpoint instead of an encoder's?"
        )
    own = {
        name: tensor.detach().contiguous()
        for name, tensor in loaded.model.state_dict().items()
        if name not in loaded.missing and not name.startswith(f"{CLASSIFIER}.")
    }
    features = _features(architecture, loaded)
    if not features:
        missing = sorted(loaded.missing) or ["one that a head could read"]
        raise BuildError(
            f"{file} lacks {len(missing)} tensors of a {architecture.name}, the first is "
            f"{missing[0]}"
        )
    widths, operations = _measure(architecture, loaded.model, features)
    card = EncoderCard(
        architecture.name, architecture.config, architecture.image_size, widths, operations
    )
    return Tower(card, own, sha256)


def _features(architecture: Architecture, loaded: Loaded) -> tuple[Feature, ...]:
    """What a head could read: everything whose weights are all there."""
    if architecture.labels is not None:
        candidates: tuple[Feature, ...] = ("classifier_input",)
    else:
        candidates = ("pooler_output", "image_embeds", "class_token")
    return tuple(
        feature
        for feature in candidates
        if not loaded.lacking(feature) and has_feature(loaded.model, feature)
    )


def _measure(
    architecture: Architecture, model: PreTrainedModel, features: tuple[Feature, ...]
) -> tuple[dict[Feature, int], int]:
    """Widths of the features, and the operations of one image, by computing one."""
    side = architecture.image_size
    pixels = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    widths = {}
    for feature in features:
        encoder = Encoder(model, feature, squash(side))
        # In its plain form, since the counter does not know a CPU's fused attention.
        plain = sdpa_kernel(SDPBackend.MATH)
        with torch.inference_mode(), plain, FlopCounterMode(display=False) as counter:
            widths[feature] = encoder(pixels).shape[-1]
    return widths, counter.get_total_flops()


def _check_floats(file: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS:
        raise BuildError(
            f"{file}: {name} is of {tensor.dtype}: weights in 8 bits or fewer mean nothing without "
            "the scales of whoever made them; give the checkpoint in 16 or 32 bits"
        )


def _check_layers(file: str, names: Iterable[str], architecture: Architecture) -> None:
    """Compares the number of layers, before a module of as many as config.json says is made."""
    vision = architecture.config.get("vision_config") or architecture.config
    said = vision.get("num_hidden_layers")
    found = len({match[1] for name in names if (match := LAYER.search(name))})
    if said is not None and found != said:
        raise BuildError(
            f"{file} holds {found} layers of a vision tower, and config.json says {said}: they are "
            "not of one model"
        )


def _is_left_out(key: str) -> bool:
    return key.startswith(LEFT_OUT) or key.endswith(LEFT_OUT_ENDS)


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yields a file's tensors, which stay on disk until they are looked at."""
    if meaning := file_instead(file):
        raise BuildError(f"{file.name} is not the weights, but {meaning}")
    if file.suffix == ".safetensors":
        return _safetensors(file)
    return _pickled_tensors(file)


def _safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                yield key, opened.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise BuildError(f"{file.name} is no safetensors file, or is damaged: {error}") from error


def _pickled_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    loaded = load_pickle(file)
    if not isinstance(loaded, Mapping):
        raise BuildError(
            f"{file.name} holds a {type(loaded).__name__}, not a dictionary of tensors"
        )
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BuildError(f"{file.name} holds more than tensors: {str(key)[:80]!r}")
    check_plain(file, loaded)
    yield from loaded.items()


def feature_size(encoder: EncoderCard, feature: Feature, name: str) -> int:
    """Width of a feature of the encoder of this name.

    Raises:
        BuildError: when the encoder does not have it.
    """
    try:
        return encoder.feature_size(feature)
    except LoadError as error:
        raise BuildError(f"{name}: {error}") from error


def default_feature(encoder: EncoderCard) -> Feature:
    """What a head reads where nobody says: the pooled output, or else the first that there is."""
    return "pooler_output" if "pooler_output" in encoder.features else next(iter(encoder.features))


def default_preset(architecture: Architecture) -> str:
    """The research script's for CLIP, which it was written for; the repository's own elsewhere."""
    return "squash" if architecture.name.startswith("CLIPVisionModel") else "own"


def files_digest(files: list[Path]) -> str:
    """SHA-256 of one file; of the files' digests in order, when there are several."""
    digests = [file_digest(path) for path in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuses weights that are not numbers.

    Raises:
        BuildError: naming the first tensor with a NaN or an infinity.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BuildError(
                f"{what}: {name} holds NaN or infinite values; the file is damaged, or its values "
                f"do not fit {str(tensor.dtype).removeprefix('torch.')}"
            )
