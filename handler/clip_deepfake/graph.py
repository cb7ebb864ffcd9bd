"""An encoder's shape and weights in, the graph that OpenVINO computes its features with out.

The arithmetic is that of ``encoder``, which the tests compare it with. What can be computed once is
folded into the weights: the normalisation of the pixels into the patch embedding, in float64.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from clip_deepfake.card import EncoderConfig, Feature
from clip_deepfake.errors import LoadError
from clip_deepfake.preprocessing import Preprocessing
from clip_deepfake.tensors import FloatArray, check_shapes, encoder_shapes

Node = Any
"""OpenVINO's nodes and their outputs, which its functions take alike."""


def encoder_graph(
    config: EncoderConfig,
    feature: Feature,
    preprocessing: Preprocessing,
    tensors: Mapping[str, FloatArray],
) -> ov.Model:
    """Builds the graph of a vision tower.

    Args:
        config: the encoder's shape.
        feature: which output is wanted.
        preprocessing: its mean and standard deviation.
        tensors: float32 under Hugging Face's names, ``vision_model.*`` and
            ``visual_projection.weight``.

    Returns:
        From uint8 ``pixels`` (batch, side, side, 3) to float32 ``feature`` (batch, width), for
        any batch.

    Raises:
        LoadError: when a tensor is missing, left over or of another shape than the card says, or
            its activation is not known.
    """
    found = {name: tensor.shape for name, tensor in tensors.items()}
    check_shapes(encoder_shapes(config), found, "encoder")
    return _Builder(config, tensors).build(feature, preprocessing)


class _Builder:
    """What all steps share: the encoder's shape and its weights."""

    def __init__(self, config: EncoderConfig, tensors: Mapping[str, FloatArray]) -> None:
        self.config = config
        self.tensors = tensors
        self.tokens = 1 + config.patches_per_side**2

    def build(self, feature: Feature, preprocessing: Preprocessing) -> ov.Model:
        side = self.config.image_size
        pixels = op.parameter([-1, side, side, 3], np.uint8, name="pixels")
        tokens = self.norm(self.embed(pixels, preprocessing), "vision_model.pre_layrnorm")
        last = self.config.num_hidden_layers - 1
        for index in range(last):
            tokens = self.layer(tokens, f"vision_model.encoder.layers.{index}", self.tokens)
        # Of the last layer, no more is read than the class token.
        tokens = self.layer(tokens, f"vision_model.encoder.layers.{last}", 1)
        found = self.norm(op.squeeze(tokens, _whole(1)), "vision_model.post_layernorm")
        if feature == "image_embeds":
            found = self.product(found, "visual_projection")
        result = op.result(found)
        # Without a name it gets a number that is counted per process.
        result.output(0).set_names({"feature"})
        return ov.Model([result], [pixels], "encoder")

    def embed(self, pixels: Node, preprocessing: Preprocessing) -> Node:
        """Uint8 pixels to tokens (batch, 1 + patches, hidden)."""
        config, prefix = self.config, "vision_model.embeddings."
        weight = self.tensors[prefix + "patch_embedding.weight"].astype(np.float64)
        mean, std = (
            np.array(values).reshape(1, 3, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        shift = -(weight * mean / std).sum(axis=(1, 2, 3))
        positions = self.tensors[prefix + "position_embedding.weight"]
        stride = [config.patch_size] * 2
        planes = op.transpose(op.convert(pixels, np.float32), _whole(0, 3, 1, 2))
        grid = op.convolution(planes, _real(weight / (255 * std)), stride, [0, 0], [0, 0], [1, 1])
        patches = op.reshape(grid, _whole(0, config.hidden_size, self.tokens - 1), True)
        patches = op.add(op.transpose(patches, _whole(0, 2, 1)), _real(positions[1:] + shift))
        first = (self.tensors[prefix + "class_embedding"] + positions[0]).reshape(1, 1, -1)
        batch = op.gather(op.shape_of(pixels), _whole(0), _whole(0))
        shape = op.concat([batch, _whole(1, config.hidden_size)], 0)
        return op.concat([op.broadcast(_real(first), shape), patches], 1)

    def layer(self, tokens: Node, name: str, wanted: int) -> Node:
        """One transformer layer, for the first ``wanted`` tokens."""
        normed = self.norm(tokens, f"{name}.layer_norm1")
        kept = op.add(
            self.first(tokens, wanted),
            self.attention(self.first(normed, wanted), normed, f"{name}.self_attn", wanted),
        )
        hidden = self.linear(self.norm(kept, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        return op.add(kept, self.linear(self.activation(hidden), f"{name}.mlp.fc2"))

    def first(self, tokens: Node, wanted: int) -> Node:
        if wanted == self.tokens:
            return tokens
        return op.slice(tokens, _whole(0), _whole(wanted), _whole(1), _whole(1))

    def attention(self, queries: Node, tokens: Node, name: str, wanted: int) -> Node:
        mixed = op.scaled_dot_product_attention(
            self.heads(self.linear(queries, f"{name}.q_proj"), wanted),
            self.heads(self.linear(tokens, f"{name}.k_proj"), self.tokens),
            self.heads(self.linear(tokens, f"{name}.v_proj"), self.tokens),
        )
        shape = _whole(0, wanted, self.config.hidden_size)
        joined = op.reshape(op.transpose(mixed, _whole(0, 2, 1, 3)), shape, True)
        return self.linear(joined, f"{name}.out_proj")

    def heads(self, x: Node, tokens: int) -> Node:
        """Splits (batch, tokens, hidden) into (batch, heads, tokens, width of a head)."""
        heads = self.config.num_attention_heads
        split = op.reshape(x, _whole(0, tokens, heads, self.config.hidden_size // heads), True)
        return op.transpose(split, _whole(0, 2, 1, 3))

    def activation(self, x: Node) -> Node:
        name = self.config.hidden_act
        if name == "quick_gelu":
            return op.swish(x, op.constant(np.float32(1.702)))
        if name == "gelu":
            return op.gelu(x, "ERF")
        if name in ("gelu_new", "gelu_pytorch_tanh"):
            return op.gelu(x, "TANH")
        raise LoadError(f"the encoder's hidden_act {name!r} is not known")

    def norm(self, x: Node, name: str) -> Node:
        scaled = op.mvn(x, _whole(-1), True, self.config.layer_norm_eps, "INSIDE_SQRT")
        return op.add(
            op.multiply(scaled, self.weight(f"{name}.weight")), self.weight(f"{name}.bias")
        )

    def linear(self, x: Node, name: str) -> Node:
        return op.add(self.product(x, name), self.weight(f"{name}.bias"))

    def product(self, x: Node, name: str) -> Node:
        return op.matmul(x, self.weight(f"{name}.weight"), False, True)

    def weight(self, name: str) -> Node:
        return _real(self.tensors[name])


def _real(values: np.ndarray[Any, Any]) -> Node:
    return op.constant(np.ascontiguousarray(values, np.float32), shared_memory=True)


def _whole(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))
