"""PyTorch's pickled checkpoints, read without running anything in them, within bounds."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from deepfake_tools.memory import memory_limit
from deepfake_tools.packaging.hub import BuildError

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
