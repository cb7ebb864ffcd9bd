"""Takes the encoder and the head for an archive out of a recognised checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from clip_deepfake.card import HeadCard, ModelSource
from torch import Tensor

from deepfake_tools.packaging.architectures import MOST_SIDE, Architecture, settings_of
from deepfake_tools.packaging.checkpoints.families import Family
from deepfake_tools.packaging.checkpoints.layouts import fold_chain
from deepfake_tools.packaging.checkpoints.recognition import Fit
from deepfake_tools.packaging.checkpoints.shapes import HEAD_WIDTH, POSITIONS, SETTINGS, configure
from deepfake_tools.packaging.encoders import Tower, check_finite, make_tower
from deepfake_tools.packaging.heads import Head
from deepfake_tools.packaging.hub import BuildError


@dataclass(frozen=True)
class Checkpoint:
    """A recognised file.

    Attributes:
        source: where it came from.
        tensors: by name, without wrappers.
        fit: the family, and which tensors it uses.
        left_out: what the file holds besides, knowingly unused.
        processor: the folder with the image processor that it is to follow, where it has one.
    """

    source: ModelSource
    tensors: Mapping[str, Tensor]
    fit: Fit
    left_out: tuple[str, ...]
    processor: Path | None

    @property
    def family(self) -> Family:
        """The row of the table."""
        return self.fit.family

    @property
    def preset(self) -> str:
        """Of its preprocessing."""
        return self.family.preset if self.processor is None else "own"


def extract_tower(checkpoint: Checkpoint) -> Tower:
    """Makes an archive's encoder of the one in a checkpoint.

    Args:
        checkpoint: of a family that holds its encoder.

    Returns:
        The tower, float32; what is computed on the way is computed in float64.

    Raises:
        BuildError: when its weights are no numbers, or its sizes none of such an encoder.
    """
    source, tensors = checkpoint.source, checkpoint.tensors
    origins = checkpoint.family.origins(checkpoint.fit.layers)
    names = {name for origin in origins.values() for name in origin.shapes}
    check_finite({name: tensors[name] for name in sorted(names)}, source.weights_file)
    tower = {
        parameter: origin.join([tensors[name] for name in origin.shapes]).float().contiguous()
        for parameter, origin in origins.items()
    }
    check_finite(tower, source.weights_file)
    return make_tower(_architecture(checkpoint), tower, source.weights_sha256, source.weights_file)


def _architecture(checkpoint: Checkpoint) -> Architecture:
    """The encoder's settings: those that tensors tell, and transformers' defaults for the rest."""
    sizes, file = checkpoint.fit.sizes, checkpoint.source.weights_file
    settings = {name: sizes[name] for name in SETTINGS if name in sizes}
    hidden = sizes["hidden_size"]
    if hidden < 1 or hidden % HEAD_WIDTH:
        raise BuildError(
            f"{file}: hidden size {hidden} is no multiple of {HEAD_WIDTH}, the width of an "
            "attention head in every encoder of its kind"
        )
    if POSITIONS in sizes:
        settings["image_size"] = _image_size(sizes[POSITIONS], sizes["patch_size"], file)
    architecture = checkpoint.family.architecture
    config = configure(architecture, checkpoint.fit.layers, settings)
    return Architecture(architecture, settings_of(config), config.image_size)


def _image_size(positions: int, patch: int, file: str) -> int:
    """Side of the images that a table of positions is for, in pixels."""
    side = isqrt(max(positions - 1, 0))
    if side < 1 or side * side + 1 != positions:
        raise BuildError(
            f"{file}: {positions} positions are no square of patches and a class token"
        )
    if not 1 <= side * patch <= MOST_SIDE:
        raise BuildError(
            f"{file}: {side} patches of {patch} pixels are an image of {side * patch}, and 1 to "
            f"{MOST_SIDE} can be served"
        )
    return side * patch


def extract_head(checkpoint: Checkpoint) -> Head:
    """Makes an archive's head of the one in a checkpoint, and says how it is read.

    Raises:
        BuildError: when its weights are no numbers.
    """
    family, source = checkpoint.family, checkpoint.source
    names = [(f"{prefix}weight", f"{prefix}bias") for prefix in family.head]
    used = {name: checkpoint.tensors[name] for pair in names for name in pair}
    check_finite(used, source.weights_file)
    weight, bias = fold_chain([(used[weight], used[bias]) for weight, bias in names])
    card = HeadCard(
        source="trained",
        description=f"{family.title}, read from {source.weights_file}",
        feature=family.feature,
        l2_normalize=family.l2_normalize,
        outputs=family.outputs,
        fake_indices=(0,) if family.outputs == 1 else (1,),
        threshold=family.threshold,
        family=family.name,
        file=source.weights_file,
        sha256=source.weights_sha256,
        licence=family.licence,
    )
    return Head(card, {"weight": weight, "bias": bias})
