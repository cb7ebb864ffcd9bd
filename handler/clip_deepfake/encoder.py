"""Pixels in, logits out: CLIP's vision transformer and a linear head as one torch module.

The parameters carry the names of Hugging Face's checkpoints, so that a vision tower's tensors load
as they are. The arithmetic is that of transformers' ``CLIPVisionModelWithProjection``, which the
tests compare it with; it is spelled out here so that a worker needs neither that library nor a
particular version of it, and so that the last layer is computed for the class token alone.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_deepfake.card import Card, EncoderConfig, Feature, HeadCard
from clip_deepfake.errors import LoadError
from clip_deepfake.preprocessing import Preprocessing
from clip_deepfake.tensors import check_shapes


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI trained CLIP with."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """The tanh approximation of GELU."""
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": functional.gelu,
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
}


class Embeddings(nn.Module):
    """Patches and a class token, each with its position."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.side = config.patches_per_side
        self.patch = config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, config.patch_size, config.patch_size, bias=False
        )
        # Given its weight, since drawing one on the meta device would import torch's compiler.
        self.position_embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            torch.empty(self.side**2 + 1, config.hidden_size)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps normalised pixels (batch, 3, height, width) to tokens (batch, 1 + patches, hidden).

        The convolution's stride is its size, so it is one matrix product over cut-out patches:
        exact in float32 on any device, where cuDNN's convolution would round to TF32.
        """
        batch, used = pixels.shape[0], self.side * self.patch
        grid = pixels[:, :, :used, :used].reshape(
            batch, 3, self.side, self.patch, self.side, self.patch
        )
        patches = grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, self.side**2, -1)
        tokens = functional.linear(patches, self.patch_embedding.weight.flatten(1))
        first = self.class_embedding.expand(batch, 1, -1)
        return torch.cat([first, tokens], dim=1) + self.position_embedding.weight


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Lets ``queries`` (batch, q, hidden) attend to ``tokens`` (batch, t, hidden)."""
        mixed = functional.scaled_dot_product_attention(
            self._split(self.q_proj(queries)),
            self._split(self.k_proj(tokens)),
            self._split(self.v_proj(tokens)),
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, self.heads, -1).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with the activation of the card between them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, tokens, hidden) to the same shape."""
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, wanted: int | None = None) -> Tensor:
        """Maps (batch, tokens, hidden) to the same shape, or to its first ``wanted`` tokens."""
        normed = self.layer_norm1(tokens)
        kept = tokens[:, :wanted] + self.self_attn(normed[:, :wanted], normed)
        return kept + self.mlp(self.layer_norm2(kept))


class Transformer(nn.Module):
    """The stack of layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (batch, tokens, hidden) to the last layer's class token, (batch, hidden)."""
        for layer in self.layers[:-1]:
            tokens = layer(tokens)
        return self.layers[-1](tokens, wanted=1)[:, 0]


class VisionTower(nn.Module):
    """CLIP's vision transformer up to ``pooler_output``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Transformer(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps normalised pixels (batch, 3, side, side) to ``pooler_output`` (batch, hidden)."""
        tokens = self.pre_layrnorm(self.embeddings(pixels))
        return self.post_layernorm(self.encoder(tokens))


class Encoder(nn.Module):
    """Vision tower and, where there is one, visual projection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.vision_model = VisionTower(config)
        self.visual_projection: nn.Module = (
            nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            if config.projection_dim
            else nn.Identity()
        )

    def forward(self, pixels: Tensor, feature: Feature) -> Tensor:
        """Maps normalised pixels (batch, 3, side, side) to the feature (batch, feature_size)."""
        pooled = self.vision_model(pixels)
        return pooled if feature == "pooler_output" else self.visual_projection(pooled)


class DetectorModule(nn.Module):
    """Normalisation, encoder and head: uint8 pixels to float32 logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, head: HeadCard, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.head_card = head
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.feature_size(head.feature), head.outputs)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), device="cpu").view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def feature(self, pixels: Tensor) -> Tensor:
        """Maps uint8 pixels (batch, side, side, 3) to what the head reads, float32.

        The normalisation is computed in float32, the encoder in the dtype of its weights.
        """
        dtype = self.encoder.vision_model.embeddings.class_embedding.dtype
        values = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        feature = self.encoder(values.to(dtype), self.head_card.feature).float()
        return functional.normalize(feature) if self.head_card.l2_normalize else feature

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps uint8 pixels (batch, side, side, 3) to float32 logits (batch, outputs)."""
        return self.head(self.feature(pixels))


def build_module(
    card: Card, encoder: Mapping[str, Tensor], head: Mapping[str, Tensor]
) -> DetectorModule:
    """Assembles the module around existing tensors, without copying them.

    Args:
        card: its encoder, head and preprocessing settings.
        encoder: tensors under Hugging Face's names, ``vision_model.*`` and
            ``visual_projection.weight``.
        head: ``weight`` (outputs, feature_size) and ``bias`` (outputs,).

    Raises:
        LoadError: when a tensor is missing, left over or of another shape than the card says.
    """
    if card.encoder.hidden_act not in ACTIVATIONS:
        raise LoadError(
            f"the encoder's hidden_act {card.encoder.hidden_act!r} is not known; "
            f"known are {', '.join(ACTIVATIONS)}"
        )
    with torch.device("meta"):
        module = DetectorModule(card.encoder, card.head, card.preprocessing)
    _adopt(module.encoder, encoder, "encoder")
    _adopt(module.head, head, "head")
    return module.eval().requires_grad_(False)


def _adopt(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    check_shapes(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, what)
    module.load_state_dict(dict(tensors), assign=True)
