"""A checkpoint and the family that it fits in, an encoder and a head for an archive out."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from clip_deepfake.card import HeadCard, ModelSource
from torch import Tensor
from transformers import CLIPVisionConfig

from deepfake_tools.architectures import Architecture, settings_of
from deepfake_tools.checkpoints.families import Family
from deepfake_tools.checkpoints.fit import Fit
from deepfake_tools.checkpoints.layouts import PROJECTION, fold_chain
from deepfake_tools.heads import Head
from deepfake_tools.hub import BuildError
from deepfake_tools.weights import Tower, check_finite, make_tower

HEAD_WIDTH = 64
"""What no checkpoint says, and every CLIP of OpenAI's has: all families began with one of these."""


@dataclass(frozen=True)
class Checkpoint:
    """A recognised file.

    Attributes:
        source: where it came from.
        tensors: by name, without wrappers.
        fit: the family, and which tensors it uses.
        left_out: what the file holds besides, knowingly unused.
    """

    source: ModelSource
    tensors: Mapping[str, Tensor]
    fit: Fit
    left_out: tuple[str, ...]

    @property
    def family(self) -> Family:
        """The row of the table."""
        return self.fit.family


def extract_tower(checkpoint: Checkpoint, dtype: torch.dtype) -> Tower:
    """Makes an archive's encoder of the one in a checkpoint.

    Args:
        checkpoint: of a family that holds its encoder.
        dtype: to store the weights in; what is computed on the way is computed in float64.

    Raises:
        BuildError: when its weights are no numbers, or its sizes none of a CLIP.
    """
    family = checkpoint.family
    prefix = family.tower or ""
    names = family.layout.shapes(checkpoint.fit.layers)
    used = {prefix + name: checkpoint.tensors[prefix + name] for name in names}
    check_finite(used, checkpoint.source.weights_file)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in used.items()}
    converted = family.layout.convert(tensors)
    if family.projection is not None:
        converted[PROJECTION] = checkpoint.tensors[family.projection]
    tower = {name: tensor.to(dtype).contiguous() for name, tensor in converted.items()}
    check_finite(tower, checkpoint.source.weights_file)
    source = checkpoint.source
    return make_tower(_architecture(checkpoint), tower, source.weights_sha256, source.weights_file)


def _architecture(checkpoint: Checkpoint) -> Architecture:
    sizes, file = checkpoint.fit.sizes, checkpoint.source.weights_file
    hidden, side = sizes["H"], isqrt(max(sizes["N"] - 1, 0))
    if hidden % HEAD_WIDTH:
        raise BuildError(
            f"{file}: hidden size {hidden} is no multiple of {HEAD_WIDTH}, the width of an "
            "attention head in every CLIP"
        )
    if side < 1 or side * side + 1 != sizes["N"]:
        raise BuildError(
            f"{file}: {sizes['N']} positions are no square of patches and a class token"
        )
    image_size = side * sizes["P"]
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=sizes["M"],
        num_hidden_layers=checkpoint.fit.layers,
        num_attention_heads=hidden // HEAD_WIDTH,
        image_size=image_size,
        patch_size=sizes["P"],
        projection_dim=sizes.get("D", 512),
    )
    return Architecture("CLIPVisionModelWithProjection", settings_of(config), image_size)


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
