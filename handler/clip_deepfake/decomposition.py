"""Takes a feature apart by the patches that it is made of: exactly, in one pass.

The method is that of Gandelsman, Efros and Steinhardt, "Interpreting CLIP's Image Representation
via Text-Based Decomposition" (arXiv 2310.05916): a class token is the sum of what it began as, of
what each layer's attention wrote into it from each token, and of what each MLP wrote. With the
statistics of the norms taken as they are, whatever is linear in it is such a sum as well.

The arithmetic is transformers' own: its model runs as it is, and is only listened to. Importing
this file imports transformers.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from clip_deepfake.encoder import CLASSIFIER, Encoder, reading_every_token


class NotDecomposableError(Exception):
    """A model of another structure than the one that is taken apart here."""


@dataclass
class _Layer:
    """One layer of a transformer, and what was heard of it in a pass.

    Attributes:
        module: adds what attention writes, then what its MLP writes, to the tokens.
        attention: has `v_proj`; answers its weights too.
        output: the linear layer at attention's end.
        scale: what multiplies attention's output; None where nothing does.
        second_norm: of the tokens after attention.
        weights: of the class token's attention, (batch, heads, tokens).
        values: (batch, tokens, heads x size).
        before: the class token as the layer got it, (batch, hidden).
        between: after attention.
        after: as the layer leaves it.
    """

    module: nn.Module
    attention: Any
    output: nn.Linear
    scale: nn.Parameter | None
    second_norm: nn.Module
    weights: Tensor = field(init=False)
    values: Tensor = field(init=False)
    before: Tensor = field(init=False)
    between: Tensor = field(init=False)
    after: Tensor = field(init=False)


@dataclass
class _Heard:
    """What was heard of the rest of a model in a pass.

    Attributes:
        tokens: of the last layer, (batch, tokens, hidden).
        normed: what the last norm made of them: of all, or of the class token alone.
        pooled: what the linear layer of a pooler made of the class token.
        activated: what the pooler made of that.
        probed: what a pooling attention made of the tokens, (batch, 1, hidden).
    """

    tokens: Tensor = field(init=False)
    normed: Tensor = field(init=False)
    pooled: Tensor = field(init=False)
    activated: Tensor = field(init=False)
    probed: Tensor = field(init=False)


class Decomposition(nn.Module):
    """What each patch adds to a direction of a feature; what all else adds to it, in one number."""

    def __init__(self, encoder: Encoder, *, l2_normalize: bool) -> None:
        """Finds the parts of a model.

        Args:
            encoder: stays as it is.
            l2_normalize: whether the feature is divided by its Euclidean norm, which is then taken
                as it is too.

        Raises:
            NotDecomposableError: when the model has other parts.
        """
        super().__init__()
        self.encoder = encoder
        self._l2_normalize = l2_normalize
        model: Any = encoder.model
        whole = model.base_model if hasattr(model, CLASSIFIER) else model
        self._tower: Any = getattr(model, "vision_model", whole)
        self._layers = [_parts_of(layer) for layer in _find_layers(self._tower)]
        self._norm: nn.LayerNorm = _first(
            self._tower, "post_layernorm", "layernorm", "norm", kind=nn.LayerNorm
        )
        self._patch_size = _patch_size(self._tower)
        self._feature = encoder.feature
        if self._feature == "pooler_output" and hasattr(self._tower, "head"):
            _first(self._tower.head, "attention", kind=nn.MultiheadAttention)

    def forward(self, pixels: Tensor, directions: Tensor) -> Tensor:
        """Takes features apart.

        Args:
            pixels: uint8 (batch, side, side, 3).
            directions: float32 (batch, width): of each feature, what its entries are multiplied by.

        Returns:
            Float32 (batch, 1 + patches), which add up to the product of direction and feature:
            first what comes from no patch, then the patches, row by row.
        """
        # As Python's own number, so that a trace takes it for granted.
        self._patches = (int(pixels.shape[1]) // self._patch_size) ** 2
        with self._listening() as heard:
            feature = self.encoder(pixels)
        wanted = directions
        if self._l2_normalize:
            wanted = directions / feature.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return torch.cat(self._take_apart(heard, feature, wanted), 1)

    def _take_apart(
        self, heard: _Heard, feature: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What comes from no patch, (batch, 1), and from each, (batch, patches)."""
        tower, hidden = self._tower, heard.tokens.shape[-1]
        if self._feature == "pooler_output" and hasattr(tower, "head"):
            return self._of_pooling_attention(heard, feature, direction)
        if self._feature != "classifier_input":
            return self._of_class_token(heard, direction)
        if hasattr(self.encoder.model, "vision_model"):
            return self._of_mean(heard, direction)
        if direction.shape[-1] == hidden:
            return self._of_class_token(heard, direction)
        # DINOv2's classifiers read both, one behind the other.
        some = self._of_class_token(heard, direction[:, :hidden])
        more = self._of_mean(heard, direction[:, hidden:])
        return some[0] + more[0], some[1] + more[1]

    def _of_mean(self, heard: _Heard, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Of the mean of the patches' last tokens: each is a share of it."""
        whole = heard.normed.dim() == 3
        patches = (heard.normed if whole else heard.tokens)[:, -self._patches :]
        contributions = (patches * direction[:, None]).sum(2) / self._patches
        return torch.zeros_like(contributions[:, :1]), contributions

    def _of_pooling_attention(
        self, heard: _Heard, feature: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of SigLIP's pooling head: what its attention takes from each patch's last token."""
        pool: Any = self._tower.head.attention
        # Whole, so that the product's weights are those of the file.
        _, keys, values = functional.linear(
            heard.normed, pool.in_proj_weight, pool.in_proj_bias
        ).chunk(3, -1)
        query = functional.linear(
            self._tower.head.probe, pool.in_proj_weight, pool.in_proj_bias
        ).chunk(3, -1)[0]
        shape = (pool.num_heads, pool.head_dim)
        query, keys = (x.view(*x.shape[:2], *shape).transpose(1, 2) for x in (query, keys))
        weights = (query @ keys.transpose(2, 3) * pool.head_dim**-0.5).softmax(-1)[:, :, 0]
        back = _backwards(direction, pool.out_proj)
        written = feature - heard.probed[:, 0]
        rest = (direction * (written + pool.out_proj.bias)).sum(1, keepdim=True)
        return rest, _written_from(weights, values, back)

    def _of_class_token(self, heard: _Heard, direction: Tensor) -> tuple[Tensor, Tensor]:
        direction, rest = self._before_the_reading(heard, direction)
        rest = rest + (direction * self._layers[0].before).sum(1, keepdim=True)
        patches = torch.zeros_like(rest)
        for layer in self._layers:
            scaled = direction if layer.scale is None else direction * layer.scale
            back = _backwards(scaled, layer.output)
            written = _written_from(layer.weights, layer.values, back)
            patches = patches + written[:, -self._patches :]
            rest = rest + written[:, : -self._patches].sum(1, keepdim=True)
            if layer.output.bias is not None:
                rest = rest + (scaled * layer.output.bias).sum(1, keepdim=True)
            rest = rest + (direction * (layer.after - layer.between)).sum(1, keepdim=True)
        return rest, patches

    def _before_the_reading(self, heard: _Heard, direction: Tensor) -> tuple[Tensor, Tensor]:
        """What a direction of the feature is for the last layer's class token, and what is left.

        Every step is read backwards, its statistics taken as they are.
        """
        rest = torch.zeros_like(direction[:, :1])
        if self._feature == "image_embeds":
            model: Any = self.encoder.model
            direction = _backwards(direction, model.visual_projection)
        pooler = getattr(self._tower, "pooler", None)
        if self._feature == "pooler_output" and pooler is not None:
            # As a norm's statistics, what an activation multiplied its input by is kept.
            pooled = heard.pooled.where(heard.pooled != 0, 1)
            direction = direction * heard.activated / pooled
            rest = (direction * pooler.dense.bias).sum(1, keepdim=True)
            direction = _backwards(direction, pooler.dense)
        if self._feature == "class_token" and heard.normed.dim() == 2:
            return direction, rest
        norm, token = self._norm, self._layers[-1].after
        rest = rest + (direction * norm.bias).sum(1, keepdim=True)
        spread = (token.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
        direction = direction * norm.weight / spread
        return direction - direction.mean(1, keepdim=True), rest

    @contextmanager
    def _listening(self) -> Iterator[_Heard]:
        """Lets the model tell, in the pass inside, what it usually keeps to itself."""
        heard = _Heard()
        with ExitStack() as stack:
            stack.enter_context(reading_every_token(self.encoder))
            stack.enter_context(_telling_weights(self._layers))
            for handle in (*_listen_to_layers(self._layers), *self._listen_to_the_rest(heard)):
                stack.callback(handle.remove)
            yield heard

    def _listen_to_the_rest(self, heard: _Heard) -> Iterator[RemovableHandle]:
        def keep(name: str, module: nn.Module, *, given: bool = False) -> RemovableHandle:
            def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                setattr(heard, name, inputs[0] if given else output)

            return module.register_forward_hook(note)

        yield keep("tokens", self._layers[-1].module)
        yield keep("normed", self._norm)
        if pooler := getattr(self._tower, "pooler", None):
            yield keep("pooled", pooler.dense)
            yield keep("activated", pooler)
        if hasattr(self._tower, "head"):
            yield keep("probed", self._tower.head.layernorm, given=True)


def _backwards(direction: Tensor, linear: nn.Linear) -> Tensor:
    """What a direction of a linear layer's output, (batch, output), is for its input.

    Written out: a matrix product would have OpenVINO keep the weights a second time, transposed.
    """
    return (direction[:, :, None] * linear.weight).sum(1)


def _written_from(weights: Tensor, values: Tensor, back: Tensor) -> Tensor:
    """What attention writes of each token along a direction.

    Args:
        weights: (batch, heads, tokens).
        values: (batch, tokens, heads x size).
        back: the direction before attention's last linear layer, (batch, heads x size).

    Returns:
        (batch, tokens).
    """
    products = (values * back[:, None]).view(*values.shape[:2], weights.shape[1], -1)
    return (products.sum(-1) * weights.transpose(1, 2)).sum(-1)


def _listen_to_layers(layers: list[_Layer]) -> Iterator[RemovableHandle]:
    def keep(layer: _Layer) -> Iterator[RemovableHandle]:
        def ends(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            layer.before, layer.after = inputs[0][:, 0], output[:, 0]

        def attends(_: nn.Module, __: object, output: tuple[Tensor, Tensor]) -> None:
            # A copy: the others' weights, a square of all tokens, need not stay.
            layer.weights = output[1][:, :, 0].contiguous()

        def has_values(_: nn.Module, __: object, output: Tensor) -> None:
            layer.values = output

        def goes_on(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            layer.between = inputs[0][:, 0]

        yield layer.module.register_forward_hook(ends)
        yield layer.attention.register_forward_hook(attends)
        yield layer.attention.v_proj.register_forward_hook(has_values)
        yield layer.second_norm.register_forward_pre_hook(goes_on)

    for layer in layers:
        yield from keep(layer)


@contextmanager
def _telling_weights(layers: list[_Layer]) -> Iterator[None]:
    """Lets attention be computed so that its weights are known: a fused kernel never has them."""
    config = layers[0].attention.config
    usual = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = usual


def _find_layers(tower: Any) -> nn.ModuleList:
    around: Any = _first(tower, "encoder", "model", "layers")
    found = around if isinstance(around, nn.ModuleList) else _first(around, "layers", "layer")
    if not isinstance(found, nn.ModuleList) or not len(found):
        raise NotDecomposableError(f"{type(tower).__name__} has no list of layers")
    return found


def _parts_of(module: nn.Module) -> _Layer:
    attention = _first(module, "self_attn", "attention")
    scale = getattr(module, "layer_scale1", None)
    _first(attention, "v_proj", kind=nn.Linear)
    return _Layer(
        module,
        attention,
        output=_first(attention, "out_proj", "o_proj", kind=nn.Linear),
        scale=None if scale is None else scale.lambda1,
        second_norm=_first(module, "layer_norm2", "norm2", "layernorm_after", kind=nn.LayerNorm),
    )


def _patch_size(tower: Any) -> int:
    size = getattr(tower.config, "patch_size", None)
    if not isinstance(size, int):
        raise NotDecomposableError(f"{type(tower).__name__} has patches of size {size}")
    return size


def _first(module: Any, *names: str, kind: type[nn.Module] = nn.Module) -> Any:
    """The part of a module that has one of these names."""
    for name in names:
        part = getattr(module, name, None)
        if isinstance(part, kind):
            return part
    raise NotDecomposableError(f"{type(module).__name__} has no {' or '.join(names)}")
