"""Checkpoint files in, an encoder's tensors and what can be read of it out."""

import hashlib
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from clip_deepfake.card import EncoderCard, Feature
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

from deepfake_tools.mistaken import file_instead
from deepfake_tools.packaging.architectures import Architecture
from deepfake_tools.packaging.hub import BuildError


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Lets this process take no more memory than it has now and some, until the block ends.

    Args:
        more: Bytes of addresses. What takes more fails with a MemoryError, or torch's own error.
    """
    # macOS knows no such limit.
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    wanted = pages * resource.getpagesize() + more
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


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

MAX_SHARING = 4
"""Times that a file's bytes may stand in its tensors; tied weights do so twice."""

GEND_HINT = (
    "; it is of GenD's trainer: put the config.json of GenD's repository, whose key head says "
    "whether features are normalised, beside the file that you save"
)

MAX_PICKLE_BYTES = 32 << 20
"""Names and shapes take some 200 bytes a tensor, optimisers a few times that."""

READING_BYTES = 1 << 30
"""What torch's reader may take besides twice the file's size."""


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


def check_plain(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors whose numbers are not simply those in the file.

    Raises:
        BuildError: naming one that is sparse, nested, or without values; or when a few bytes stand
            for many, as in a view that repeats them.
    """
    held = 0
    for name, tensor in tensors.items():
        kind = _odd_kind(tensor)
        if kind is not None:
            raise BuildError(
                f"{file.name}: {name[:80]!r} is a tensor {kind}; save plain ones, of "
                "model.state_dict()"
            )
        held += tensor.numel() * tensor.element_size()
    size = file.stat().st_size
    if held > MAX_SHARING * size:
        raise BuildError(
            f"{file.name} has {size} bytes, and its tensors {held}: they repeat what they hold"
        )


def _odd_kind(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "of tensors"
    if tensor.layout != torch.strided:
        return f"in the layout {tensor.layout}"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type}, without values"
    return None


def load_pickle(file: Path) -> object:
    """Reads a ``.bin`` or ``.pth`` file without running anything in it.

    Raises:
        BuildError: when it is damaged, or needs more than ``weights_only=True`` allows.
    """
    packed = zipfile.is_zipfile(file)
    if packed:
        _check_packing(file)
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        with memory_limit(2 * file.stat().st_size + READING_BYTES):
            return torch.load(file, "cpu", weights_only=True, mmap=packed)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
            raise BuildError(
                f"{file.name} is no PyTorch checkpoint, or is damaged: {reason.splitlines()[0]}"
            ) from error
        raise BuildError(
            f"{file.name} is refused: reading it would run code, since it holds {named[1]}; where "
            "you trust it, save its tensors alone with torch.save(model.state_dict(), ...)"
            + (GEND_HINT if packed and _is_of_gend(file) else "")
        ) from error
    except MemoryError as error:
        raise BuildError(
            f"{file.name} is refused: reading it takes far more memory than its size"
        ) from error
    except Exception as error:
        # What a damaged file makes of torch's reader is not documented, and is of a dozen kinds.
        raise BuildError(f"{file.name} is no PyTorch checkpoint, or is damaged: {error}") from error


def _check_packing(file: Path) -> None:
    """Refuses a zip that unpacks to more than it holds: PyTorch stores entries as they are."""
    try:
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise BuildError(f"{file.name} is damaged ({error}): download it again") from error
    unpacked = sum(entry.file_size for entry in entries)
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or unpacked > file.stat().st_size:
        raise BuildError(
            f"{file.name} is refused: it is packed, and would unpack from {file.stat().st_size} to "
            f"{unpacked} bytes; torch.save stores a checkpoint as it is"
        )
    pickled = max((e.file_size for e in entries if e.filename.endswith(".pkl")), default=0)
    if pickled > MAX_PICKLE_BYTES:
        raise BuildError(
            f"{file.name} is refused: its list of tensors has {pickled} bytes, more than "
            f"{MAX_PICKLE_BYTES}; save the weights alone, with torch.save(model.state_dict(), ...)"
        )


def _is_of_gend(file: Path) -> bool:
    """Whether the names in a pickle, which cannot be read any further, are GenD's."""
    with zipfile.ZipFile(file) as opened:
        names = [name for name in opened.namelist() if name.endswith("data.pkl")]
        content = b"".join(opened.read(name) for name in names)
    return b"feature_extractor." in content and b"model.linear." in content


def files_digest(files: list[Path]) -> str:
    """SHA-256 of one file; of the files' digests in order, when there are several."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
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
