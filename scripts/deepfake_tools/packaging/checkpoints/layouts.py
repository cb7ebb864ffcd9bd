"""How checkpoints name and join the tensors of transformers' parameters.

A layout is a way of naming and joining: the shapes are given, as transformers' own model has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deepfake_tools.packaging.checkpoints.shapes import Dimension, Shape

PROJECTION = "visual_projection.weight"


def _only(parts: Sequence[Tensor]) -> Tensor:
    (tensor,) = parts
    return tensor


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint keeps a parameter.

    Attributes:
        shapes: of the tensors that it is made of, by name.
        join: makes it of them, given in that order.
    """

    shapes: Mapping[str, Shape]
    join: Callable[[Sequence[Tensor]], Tensor] = _only


Layout = Callable[[str, Shape], Origin]
"""Takes a parameter's name and shape in transformers' model."""


def hugging_face(parameter: str, shape: Shape) -> Origin:
    """A whole model under transformers' own names."""
    return Origin({parameter: shape})


def hugging_face_tower(parameter: str, shape: Shape) -> Origin:
    """CLIP's vision tower taken out of the model around it."""
    return Origin({parameter.removeprefix("vision_model."): shape})


def dinov3(parameter: str, shape: Shape) -> Origin:
    """DINOv3 as the Hub has it: without the level that transformers 5 put around the layers."""
    return Origin({parameter.removeprefix("model."): shape})


def effort(parameter: str, shape: Shape) -> Origin:
    """CLIP's vision tower with Effort's layers in place of the attention's projections."""
    layer, _, part = parameter.removeprefix("vision_model.").rpartition(".")
    if not layer.endswith("_proj") or part != "weight":
        return hugging_face_tower(parameter, shape)
    rows, columns = shape
    rank = Dimension("rank")
    parts: dict[str, Shape] = {
        "weight_main": shape,
        "U_residual": (rows, rank),
        "S_residual": (rank,),
        "V_residual": (rank, columns),
    }
    return Origin({f"{layer}.{name}": found for name, found in parts.items()}, _add_residual)


def _add_residual(parts: Sequence[Tensor]) -> Tensor:
    """Computes ``weight_main + U diag(S) V`` in float64.

    That sum is what Effort's SVDResidualLinear computes in every forward pass; done once, it
    leaves an ordinary linear layer. Source: Effort-AIGI-Detection,
    DeepfakeBench/training/detectors/effort_detector.py.
    """
    main, left, values, right = (part.double() for part in parts)
    return main + left * values @ right


_OPENAI = {
    "vision_model.": "",
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding": "conv1",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",  # spelt so in every checkpoint
    "post_layernorm": "ln_post",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""Parts of transformers' names, and what the ``clip`` package calls them."""

_STACKED = ("q_proj", "k_proj", "v_proj")


def openai(parameter: str, shape: Shape) -> Origin:
    """The ``clip`` package's vision tower: queries, keys and values stacked in one tensor."""
    if parameter == PROJECTION:
        return Origin({"proj": shape[::-1]}, lambda parts: _only(parts).T)
    for part, name in _OPENAI.items():
        parameter = parameter.replace(part, name)
    layer, _, kind = parameter.rpartition(".")
    attention, _, layer = layer.rpartition(".")
    if layer not in _STACKED:
        return Origin({parameter: shape})
    stack = {f"{attention}.in_proj_{kind}": (shape[0] * len(_STACKED), *shape[1:])}
    return Origin(stack, partial(_slice, _STACKED.index(layer)))


def _slice(index: int, parts: Sequence[Tensor]) -> Tensor:
    return _only(parts).chunk(len(_STACKED))[index]


def fold_chain(maps: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Makes one linear map of several with nothing between them, in float64.

    Args:
        maps: weight (out, in) and bias (out,) of each; the first is applied first.
    """
    weight, bias = (tensor.double() for tensor in maps[0])
    for outer, shift in maps[1:]:
        weight, bias = outer.double() @ weight, outer.double() @ bias + shift.double()
    return weight.to(torch.float32), bias.to(torch.float32)
