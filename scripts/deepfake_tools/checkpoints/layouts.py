"""The ways in which checkpoints name a vision tower's tensors, and their way to an archive's names.

A shape is written in symbols, so that one layout stands for every size of CLIP: H hidden size,
M size between the two linear layers, N positions, P patch side, D projection size, R residual rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int | str, ...]
"""Numbers, symbols, and symbols with a factor such as ``3H``."""

Tensors = dict[str, Tensor]

PROJECTION = "visual_projection.weight"


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a vision tower's tensors.

    Attributes:
        once: what stands outside the layers.
        layers: prefix of the layers, which are numbered from 0.
        each: what stands in every layer.
        convert: maps tensors under these names to an archive's, ``vision_model.*`` and, where
            the layout has one, ``visual_projection.weight``.
    """

    once: Mapping[str, Shape]
    layers: str
    each: Mapping[str, Shape]
    convert: Callable[[Tensors], Tensors]

    def shapes(self, layers: int) -> dict[str, Shape]:
        """Names and shapes of a tower with this many layers."""
        return dict(self.once) | {
            f"{self.layers}{number}.{name}": shape
            for number in range(layers)
            for name, shape in self.each.items()
        }


def _with_prefix(tensors: Tensors) -> Tensors:
    return {f"vision_model.{name}": tensor for name, tensor in tensors.items()}


def _affine(name: str, *weight: int | str) -> dict[str, Shape]:
    """A linear layer's or a norm's two tensors; the bias is as long as the weight's first side."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")

_ONCE: Mapping[str, Shape] = {
    "embeddings.class_embedding": ("H",),
    "embeddings.patch_embedding.weight": ("H", 3, "P", "P"),
    "embeddings.position_embedding.weight": ("N", "H"),
    **_affine("pre_layrnorm", "H"),  # spelt so in every checkpoint
    **_affine("post_layernorm", "H"),
}

_EACH_BUT_ATTENTION: Mapping[str, Shape] = {
    **_affine("layer_norm1", "H"),
    **_affine("mlp.fc1", "M", "H"),
    **_affine("mlp.fc2", "H", "M"),
    **_affine("layer_norm2", "H"),
}

HUGGING_FACE = Layout(
    once=_ONCE,
    layers="encoder.layers.",
    each={
        **_EACH_BUT_ATTENTION,
        **{k: v for name in ATTENTION for k, v in _affine(f"self_attn.{name}", "H", "H").items()},
    },
    convert=_with_prefix,
)


def _fold_residuals(tensors: Tensors) -> Tensors:
    """Adds each residual to its main weight: ``weight_main + U diag(S) V``.

    That sum is what Effort's SVDResidualLinear computes in every forward pass; done once, in
    float64, it leaves an ordinary linear layer. Source: Effort-AIGI-Detection,
    DeepfakeBench/training/detectors/effort_detector.py.
    """
    folded: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part == "weight_main":
            left, values, right = (tensors[f"{layer}.{side}_residual"].double() for side in "USV")
            folded[f"{layer}.weight"] = tensor.double() + left * values @ right
        elif not part.endswith("_residual"):
            folded[name] = tensor
    return _with_prefix(folded)


_RESIDUAL: Mapping[str, Shape] = {
    "weight_main": ("H", "H"),
    "U_residual": ("H", "R"),
    "S_residual": ("R",),
    "V_residual": ("R", "H"),
    "bias": ("H",),
}

EFFORT = Layout(
    once=_ONCE,
    layers="encoder.layers.",
    each={
        **_EACH_BUT_ATTENTION,
        **{
            f"self_attn.{name}.{part}": shape
            for name in ATTENTION
            for part, shape in _RESIDUAL.items()
        },
    },
    convert=_fold_residuals,
)

# OpenAI's name -> Hugging Face's, for whole names and for those inside a layer.
_OPENAI_ONCE = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
}
_OPENAI_EACH = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPENAI_LAYERS = "transformer.resblocks."


def _from_openai(tensors: Tensors) -> Tensors:
    """Renames, splits the stacked q, k and v, and turns the projection round."""
    renamed = {PROJECTION: tensors["proj"].T}
    for name, tensor in tensors.items():
        stem, dot, part = name.rpartition(".")
        if name.startswith(_OPENAI_LAYERS):
            number, _, stem = stem.removeprefix(_OPENAI_LAYERS).partition(".")
            layer = f"vision_model.encoder.layers.{number}"
            if stem == "attn":
                kind = part.removeprefix("in_proj_")
                for target, rows in zip(ATTENTION, tensor.chunk(3), strict=False):
                    renamed[f"{layer}.self_attn.{target}.{kind}"] = rows
            else:
                renamed[f"{layer}.{_OPENAI_EACH[stem]}.{part}"] = tensor
        elif name != "proj":
            target = _OPENAI_ONCE[stem or part]
            renamed[f"vision_model.{target}{dot}{part if dot else ''}"] = tensor
    return renamed


OPENAI = Layout(
    once={
        "class_embedding": ("H",),
        "positional_embedding": ("N", "H"),
        "conv1.weight": ("H", 3, "P", "P"),
        **_affine("ln_pre", "H"),
        **_affine("ln_post", "H"),
        "proj": ("H", "D"),
    },
    layers=_OPENAI_LAYERS,
    each={
        **_affine("ln_1", "H"),
        **_affine("ln_2", "H"),
        "attn.in_proj_weight": ("3H", "H"),
        "attn.in_proj_bias": ("3H",),
        **_affine("attn.out_proj", "H", "H"),
        **_affine("mlp.c_fc", "M", "H"),
        **_affine("mlp.c_proj", "H", "M"),
    },
    convert=_from_openai,
)


def fold_chain(maps: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Makes one linear map of several with nothing between them, in float64.

    Args:
        maps: weight (out, in) and bias (out,) of each; the first is applied first.
    """
    weight, bias = (tensor.double() for tensor in maps[0])
    for outer, shift in maps[1:]:
        weight, bias = outer.double() @ weight, outer.double() @ bias + shift.double()
    return weight.to(torch.float32), bias.to(torch.float32)
