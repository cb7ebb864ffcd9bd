"""A model's name in, an encoder from the Hub or a local folder out."""

from collections.abc import Callable
from dataclasses import dataclass

from clip_deepfake.card import EncoderCard, Feature, ModelSource
from clip_deepfake.errors import LoadError

from deepfake_tools.packaging.architectures import Architecture, read_architecture
from deepfake_tools.packaging.hub import BuildError, Snapshot, fetch_settings, fetch_weights
from deepfake_tools.packaging.weights import Tower, check_finite, read_tower


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
