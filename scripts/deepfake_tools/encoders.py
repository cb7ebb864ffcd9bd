"""A model's name in, a CLIP encoder from the Hub or a local folder out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from clip_deepfake.card import EncoderConfig, Feature, ModelSource
from clip_deepfake.errors import LoadError

from deepfake_tools.hub import BuildError, Snapshot, fetch_settings, fetch_weights
from deepfake_tools.weights import Tower, check_finite, read_config, read_tower


@dataclass(frozen=True)
class Encoder:
    """An encoder whose settings are here, and whose weights may not be yet.

    Attributes:
        snapshot: where it comes from.
        config: its shape, with ``projection_dim`` as announced.
    """

    snapshot: Snapshot
    config: EncoderConfig


def find_encoder(model: str, revision: str | None, report: Callable[[str], None]) -> Encoder:
    """Reads an encoder's settings, so that it can be refused before its weights come.

    Args:
        model: Hub name, or a local folder.
        revision: branch, tag or commit of a Hub name.
        report: told which model it is.

    Raises:
        BuildError: when it does not exist, cannot be reached, or is no CLIP.
    """
    report(f"reading {model} ...")
    snapshot = fetch_settings(model, revision)
    return Encoder(snapshot, read_config(snapshot))


def read_encoder(encoder: Encoder, dtype: torch.dtype) -> tuple[ModelSource, Tower]:
    """Reads the weights, and what the card says of them.

    Args:
        encoder: as found.
        dtype: to store the weights in.

    Raises:
        BuildError: when they are missing, damaged or not those of a CLIP.
    """
    snapshot = encoder.snapshot
    files = fetch_weights(snapshot)
    tower = read_tower(files, encoder.config, dtype)
    check_finite(tower.tensors, snapshot.name)
    name, revision, commit = snapshot.name, snapshot.revision, snapshot.commit
    return ModelSource(name, revision, commit, files[0].name, tower.sha256), tower


def feature_size(encoder: EncoderConfig, feature: Feature, name: str) -> int:
    """Width of a feature of the encoder of this name.

    Raises:
        BuildError: when the encoder does not have it.
    """
    try:
        return encoder.feature_size(feature)
    except LoadError as error:
        raise BuildError(f"{name}: {error}") from error
