"""Reads the tensors of a checkpoint's file, and takes them out of their wrappers."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.pickles import check_plain, load_pickle
from deepfake_tools.untrusted_files import START_BYTES, what_instead

WRAPPERS = ("state_dict", "model")
"""Entries that hold the tensors where a file holds more than them."""

# What trainers save beside the weights: torch's own habit, Lightning's, DeepfakeBench's.
TRAINING_STATE = frozenset(
    (
        "args",
        "best_acc",
        "callbacks",
        "config",
        "epoch",
        "global_step",
        "hparams_name",
        "hyper_parameters",
        "iteration",
        "loops",
        "lr_scheduler",
        "lr_schedulers",
        "optimizer",
        "optimizer_states",
        "pytorch-lightning_version",
        "scaler",
        "scheduler",
        "step",
        "total_steps",
    )
)

PARALLEL = "module."
"""What DataParallel, DistributedDataParallel and AveragedModel put before every name."""

COUNTER = "n_averaged"
"""The one name that AveragedModel adds, and puts nothing before."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        tensors: by name, without ``module.``.
        settings: what a trainer saved of its settings; empty where it saved none.
        left_out: what stood beside the tensors: training state.
    """

    tensors: dict[str, Tensor]
    settings: Mapping[str, object]
    left_out: tuple[str, ...]


def read_contents(path: Path) -> Contents:
    """Reads a checkpoint, whatever its name ends in, without running anything in it.

    Raises:
        BuildError: when it is no checkpoint, or one that is more than tensors and training state.
    """
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise BuildError(f"{path.name} is empty: copy or download it again")
    if start[8:9] == b"{":
        return Contents(_read_safetensors(path), {}, ())
    if start.startswith(b"PK"):
        _check_zip(path)
    elif not start.startswith(b"\x80"):
        _refuse_format(path, start)
    return _unwrap(path, load_pickle(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BuildError(f"{path.name} is no safetensors file, or is damaged: {error}") from error


def _check_zip(path: Path) -> None:
    """PyTorch's format is a zip; so are programs and downloads that hold one."""
    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    except zipfile.BadZipFile as error:
        raise BuildError(
            f"{path.name} is cut short or damaged ({error}): copy or download it again"
        ) from error
    if any("/code/" in name for name in names):
        raise BuildError(
            f"{path.name} is a TorchScript program, as OpenAI publishes CLIP, not a checkpoint; "
            "give the encoder's Hub name with --model"
        )
    packed = [name for name in names if name.endswith((".pth", ".pt", ".bin", ".safetensors"))]
    if packed:
        raise BuildError(
            f"{path.name} is a zip with {packed[0]} in it: unpack it, and give that file"
        )


def _refuse_format(path: Path, start: bytes) -> None:
    if meaning := what_instead(start):
        raise BuildError(f"{path.name} is not the checkpoint, but {meaning}")
    raise BuildError(
        f"{path.name} is neither a PyTorch nor a safetensors file: it begins with {start[:16]!r}"
    )


def _unwrap(path: Path, loaded: object) -> Contents:
    settings: Mapping[str, object] = {}
    left_out: list[str] = []
    for _ in WRAPPERS:
        if not isinstance(loaded, Mapping):
            break
        inner = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        beside = {key: value for key, value in loaded.items() if key != inner}
        _check_state(path, beside)
        found = beside.get("hyper_parameters")
        settings = found if isinstance(found, Mapping) else settings
        left_out += sorted(beside)
        loaded = loaded[inner]
    return Contents(_only_tensors(path, loaded), settings, tuple(left_out))


def _check_state(path: Path, beside: Mapping[object, object]) -> None:
    for key, value in beside.items():
        plain = value is None or isinstance(value, str | int | float)
        if not isinstance(key, str) or not (plain or key in TRAINING_STATE):
            raise BuildError(
                f"{path.name} holds {str(key)[:80]!r} beside its weights, a "
                f"{type(value).__name__} that is no known training state; save the weights alone, "
                "with torch.save(model.state_dict(), ...)"
            )


def _only_tensors(path: Path, loaded: object) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise BuildError(
            f"{path.name} holds a {type(loaded).__name__}, not a dictionary of tensors"
        )
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BuildError(
                f"{path.name} holds {str(key)[:80]!r}, a {type(value).__name__}, where tensors by "
                "name are expected"
            )
    if not loaded:
        raise BuildError(f"{path.name} holds an empty dictionary")
    check_plain(path, loaded)
    return _without_module(dict(loaded))


def _without_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = tensors.keys() - {COUNTER}
    while names and all(name.startswith(PARALLEL) for name in names):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
        names = tensors.keys() - {COUNTER}
    return tensors
