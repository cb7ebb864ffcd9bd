"""Checkpoint files in, the vision tower's settings and tensors out."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from clip_deepfake.card import EncoderConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepfake_tools.hub import BuildError, Snapshot
from deepfake_tools.json_file import read_json_object
from deepfake_tools.memory_limit import memory_limit
from deepfake_tools.mistaken import file_instead

MODEL_TYPES = ("clip", "clip_vision_model")

# What a config.json may leave out: transformers writes only what differs from these defaults of
# its CLIPVisionConfig.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

# A CLIPVisionModel that was saved without its outer module has these names at the top.
TOWER_PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")

LAYER = re.compile(r"vision_model\.encoder\.layers\.([0-9]{1,9})\.")

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

# Parts of a checkpoint that a detector knowingly goes without.
LEFT_OUT = ("text_model.", "text_projection.", "logit_scale")


@dataclass(frozen=True)
class Tower:
    """A vision tower, ready to be packed.

    Attributes:
        config: its shape.
        tensors: under Hugging Face's names, in the dtype asked for.
        sha256: digest of the weights file; of the files' digests in order, when there are several.
    """

    config: EncoderConfig
    tensors: dict[str, Tensor]
    sha256: str


def read_config(snapshot: Snapshot) -> EncoderConfig:
    """Reads the shape of the vision tower.

    Returns:
        The shape, with ``projection_dim`` as announced; ``read_tower`` corrects it.

    Raises:
        BuildError: when the checkpoint is no CLIP, naming the type that it is.
    """
    config = _read_json(snapshot.folder / "config.json", snapshot.name)
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise BuildError(
            f"{snapshot.name} is a model of type {kind!r}, not a CLIP; this detector needs one of "
            f"type {' or '.join(MODEL_TYPES)}, such as openai/clip-vit-base-patch32"
        )
    vision = config
    if kind == "clip":
        vision = _object(config, "vision_config") | _object(config, "vision_config_dict")
    fields = VISION_DEFAULTS | {key: vision[key] for key in VISION_DEFAULTS if key in vision}
    fields = {**fields, "projection_dim": config.get("projection_dim", 512)}
    try:
        shape = msgspec.convert(fields, EncoderConfig)
    except msgspec.ValidationError as error:
        raise BuildError(f"{snapshot.name}: config.json is off: {error}") from error
    _check_shape(shape, vision.get("num_channels", 3), snapshot.name)
    return shape


def _check_shape(shape: EncoderConfig, channels: object, name: str) -> None:
    if channels != 3:
        raise BuildError(f"{name} takes {channels} colour channels; this detector feeds it 3")
    if shape.hidden_size % shape.num_attention_heads or shape.patches_per_side < 1:
        raise BuildError(
            f"{name}: config.json is off: hidden_size {shape.hidden_size} over "
            f"{shape.num_attention_heads} heads, image_size {shape.image_size} over patches of "
            f"{shape.patch_size}"
        )


def _object(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    return value if isinstance(value, dict) else {}


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError as error:
        raise BuildError(f"{name} has no {path.name}; it is no Hugging Face model") from error
    except (OSError, ValueError) as error:
        raise BuildError(f"{name}: {path.name} cannot be read: {error}") from error


def read_tower(files: list[Path], config: EncoderConfig, dtype: torch.dtype) -> Tower:
    """Reads the vision tower out of a checkpoint, leaving its text tower on disk.

    Args:
        files: one ``.safetensors`` or ``.bin`` file, or all shards of one kind.
        config: shape of the tower.
        dtype: to store the weights in.

    Raises:
        BuildError: when a tensor is neither used nor known to be left out, when a file is no
            checkpoint, or when it is a pickle that holds more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    unknown: list[str] = []
    for file in files:
        for key, tensor in _tensors(file):
            name = _tower_name(key)
            if name is not None:
                _check_floats(file.name, key, tensor)
                tensors[name] = tensor.to(dtype).contiguous()
            elif not _is_left_out(key):
                unknown.append(key)
    if unknown:
        raise BuildError(
            f"{files[0].name} holds {len(unknown)} tensors that are no part of a CLIP, the first "
            f"is {sorted(unknown)[0]}; is it a detector's checkpoint instead of an encoder's?"
        )
    _check_layers(files[0].name, tensors, config)
    projection = tensors.get("visual_projection.weight")
    width = None if projection is None else projection.shape[0]
    config = msgspec.structs.replace(config, projection_dim=width)
    return Tower(config, tensors, files_digest(files))


def _check_floats(file: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS:
        raise BuildError(
            f"{file}: {name} is of {tensor.dtype}: weights in 8 bits or fewer mean nothing without "
            "the scales of whoever made them; give the checkpoint in 16 or 32 bits"
        )


def _check_layers(file: str, names: Iterable[str], config: EncoderConfig) -> None:
    """Compares the number of layers, before a module of as many as config.json says is made."""
    found = len({match[1] for name in names if (match := LAYER.match(name))})
    if found != config.num_hidden_layers:
        raise BuildError(
            f"{file} holds {found} layers of a vision tower, and config.json says "
            f"{config.num_hidden_layers}: they are not of one model"
        )


def _tower_name(key: str) -> str | None:
    """The name of a tensor in the archive, or None for one that does not go there."""
    if key.endswith("position_ids"):
        return None
    if key.startswith(TOWER_PARTS):
        return f"vision_model.{key}"
    if key.startswith("vision_model.") or key == "visual_projection.weight":
        return key
    return None


def _is_left_out(key: str) -> bool:
    return key.startswith(LEFT_OUT) or key.endswith("position_ids")


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of the vision tower; of the others only an empty stand-in."""
    if meaning := file_instead(file):
        raise BuildError(f"{file.name} is not the weights, but {meaning}")
    if file.suffix == ".safetensors":
        return _safetensors(file)
    return _pickled_tensors(file)


def _safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                yield key, torch.empty(0) if _is_left_out(key) else opened.get_tensor(key)
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
