"""Opens a checkpoint: a file, a folder or a Hub name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_deepfake.card import ModelSource
from torch import Tensor

from deepfake_tools.packaging.checkpoints.contents import read_contents
from deepfake_tools.packaging.checkpoints.extraction import Checkpoint
from deepfake_tools.packaging.checkpoints.families import FAMILIES, Family, gend_word
from deepfake_tools.packaging.checkpoints.recognition import recognise
from deepfake_tools.packaging.checkpoints.unsupported import GEND_ON_PE_REASON, GENDS_SERVED
from deepfake_tools.packaging.encoders import files_digest
from deepfake_tools.packaging.hub import (
    PROCESSOR_SETTINGS,
    BuildError,
    Snapshot,
    fetch_settings,
    fetch_weights,
)
from deepfake_tools.untrusted_files import read_json_object

CONFIG = "config.json"
HUB_TYPE = "GenD"
"""The one family that is published as a Hub repository."""

SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".tar", ".zip")


def open_checkpoint(weights: str, revision: str | None) -> Checkpoint:
    """Finds a checkpoint and reads it.

    Args:
        weights: a file; or a folder or a Hub name that holds a GenD.
        revision: branch, tag or commit, where it is a Hub name.

    Raises:
        BuildError: when there is none, or none that this project can package.
    """
    path = Path(weights)
    if path.is_file():
        settings = _read_config(path.parent / CONFIG)
        source = ModelSource(path.stem, None, None, path.name, "")
        return _recognised([path], source, settings, path.parent)
    if not path.is_dir() and ("/" not in weights or path.suffix in SUFFIXES):
        raise BuildError(f"--weights {weights}: there is no such file")
    snapshot = fetch_settings(weights, revision)
    settings = _gend_settings(snapshot)
    files = fetch_weights(snapshot)
    source = ModelSource(snapshot.name, snapshot.revision, snapshot.commit, files[0].name, "")
    return _recognised(files, source, settings, snapshot.folder)


def _recognised(
    files: Sequence[Path], source: ModelSource, settings: Mapping[str, object], folder: Path
) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    left_out: tuple[str, ...] = ()
    for file in files:
        contents = read_contents(file)
        tensors |= contents.tensors
        left_out += contents.left_out
        settings = {**contents.settings, **settings}
    fit = recognise(source.weights_file, tensors, settings)
    source = ModelSource(
        source.name, source.revision, source.commit, source.weights_file, files_digest(list(files))
    )
    left_out = (*left_out, *fit.left_out)
    return Checkpoint(source, tensors, fit, left_out, _processor(fit.family, folder))


def _processor(family: Family, folder: Path) -> Path | None:
    """The folder, where an image processor's settings stand beside a GenD."""
    beside = any((folder / name).is_file() for name in PROCESSOR_SETTINGS)
    return folder if family.backbone is not None and beside else None


def _read_config(path: Path) -> Mapping[str, object]:
    """The settings beside a file; a folder may well hold none, or those of something else."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}


def _gend_settings(snapshot: Snapshot) -> Mapping[str, object]:
    """Refuses other repositories by their settings, before a gigabyte is fetched."""
    settings = _read_config(snapshot.folder / CONFIG)
    kind, backbone = settings.get("model_type"), str(settings.get("backbone", ""))
    if kind != HUB_TYPE:
        raise BuildError(
            f"--weights {snapshot.name}: its {CONFIG} is of type {kind!r}, not {HUB_TYPE}; give "
            "the checkpoint's file, or, if it is an encoder without a head, give it with --model"
        )
    word = gend_word(backbone)
    if word not in {family.backbone for family in FAMILIES if family.backbone is not None}:
        reason = GEND_ON_PE_REASON if word == "vit_pe" else GENDS_SERVED
        raise BuildError(f"--weights {snapshot.name}: it is a GenD on {backbone[:80]!r}: {reason}")
    return settings
