"""transformers' vision model and a linear head as one torch module: pixels in, logits out.

The arithmetic is transformers' own, here, in the builder and in training; an OpenVINO graph is a
trace of this module. Importing this file imports transformers, so that a worker which computes
with OpenVINO does without it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from clip_deepfake.archive_files import check_shapes
from clip_deepfake.card import ENGINE_CONSTANTS, EncoderCard, Feature, HeadCard
from clip_deepfake.errors import LoadError
from clip_deepfake.preprocessing import Preprocessing

# What it says of missing weights is an error here, and raised.
transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

SMALL = 10_000_000
"""Numbers that may be missing of any model: 40 MB."""

CLASSIFIER = "classifier"
"""What transformers calls the linear layer of its image classifiers."""


UNREAD: Mapping[Feature, tuple[str, ...]] = {
    "pooler_output": ("visual_projection.", f"{CLASSIFIER}."),
    "image_embeds": (f"{CLASSIFIER}.",),
    "class_token": ("pooler.", "visual_projection.", f"{CLASSIFIER}."),
    "classifier_input": (f"{CLASSIFIER}.",),
}
"""Beginnings of the parameters that a feature does not depend on."""


@dataclass(frozen=True)
class Loaded:
    """A model with weights.

    Attributes:
        model: transformers', in evaluation mode, its weights frozen.
        missing: names of its parameters that the tensors did not bring; they are random.
        unexpected: names of tensors that it has no place for.
    """

    model: PreTrainedModel
    missing: frozenset[str]
    unexpected: frozenset[str]

    def lacking(self, feature: Feature) -> frozenset[str]:
        """What is missing of the weights that a feature depends on."""
        return frozenset(name for name in self.missing if not name.startswith(UNREAD[feature]))


def model_class(architecture: str) -> type[PreTrainedModel]:
    """Finds one of transformers' models by its name.

    Raises:
        LoadError: when the installed transformers has none of this name.
    """
    found = getattr(transformers, architecture, None)
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    raise LoadError(f"transformers {transformers.__version__} has no model {architecture!r}")


def load_model(
    architecture: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Loaded:
    """Puts tensors into one of transformers' models, without copying them.

    Args:
        architecture: name of the model's class.
        config: its settings, as its configuration class writes them.
        tensors: under any names that transformers reads this model's weights from.

    Raises:
        LoadError: when transformers does not know the model or its settings, or a tensor is of
            another shape than they say.
    """
    kind = model_class(architecture)
    try:
        settings: PretrainedConfig = kind.config_class.from_dict(  # type: ignore[union-attr]
            dict(config)
        )
        _refuse_what_is_larger(kind, settings, tensors)
        # Given no folder, transformers reads nothing from disk or network.
        found: Any = kind.from_pretrained(
            None,
            config=settings,
            state_dict=dict(tensors),
            output_loading_info=True,
            # They are told below, all of them, by name.
            ignore_mismatched_sizes=True,
            attn_implementation="sdpa" if kind._supports_sdpa else "eager",
        )
        model, report = found
    except LoadError:
        raise
    except Exception as error:
        # Each of transformers' configurations and models refuses in its own way.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LoadError(
            f"transformers {transformers.__version__} cannot make a {architecture} of this: "
            f"{reason}"
        ) from error
    if misshapen := sorted(report["mismatched_keys"]):
        name, held, wanted = misshapen[0]
        raise LoadError(
            f"{len(misshapen)} of the encoder's tensors do not fit its settings, the first is "
            f"{name}: {tuple(wanted)} wanted, {tuple(held)} found"
        )
    model.eval().requires_grad_(False)
    return Loaded(model, frozenset(report["missing_keys"]), frozenset(report["unexpected_keys"]))


def _refuse_what_is_larger(
    kind: type[PreTrainedModel], settings: PretrainedConfig, tensors: Mapping[str, Tensor]
) -> None:
    """Before memory is taken for what settings claim and no file holds."""
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in kind(settings).parameters())
    found = sum(tensor.numel() for tensor in tensors.values())
    if wanted > 2 * found + SMALL:
        raise LoadError(
            f"its settings are those of a model of {wanted} numbers, and its tensors hold {found}"
        )


class Encoder(nn.Module):
    """Normalisation, vision model and the choice of what a head reads of it."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: PreTrainedModel, feature: Feature, preprocessing: Preprocessing
    ) -> None:
        """Puts the parts in a row.

        Args:
            model: transformers', with its weights.
            feature: what to read.
            preprocessing: its mean and standard deviation.
        """
        super().__init__()
        self.model = model
        self.feature = feature
        if feature == "classifier_input":
            # What its classifier would be given then comes out in the place of logits.
            setattr(model, CLASSIFIER, nn.Identity())
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.model.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps uint8 pixels (batch, side, side, 3) to the feature, float32 (batch, width).

        The normalisation is computed in float32, the model in the dtype of its weights.
        """
        values = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return READERS[self.feature](self.model, values.to(self.dtype)).float()


def _pooler_output(model: PreTrainedModel, values: Tensor) -> Tensor:
    # A model with a projection does not tell what it projected.
    tower = getattr(model, "vision_model", model)
    return tower(pixel_values=values).pooler_output.flatten(1)


def _image_embeds(model: PreTrainedModel, values: Tensor) -> Tensor:
    return model(pixel_values=values).image_embeds


def _class_token(model: PreTrainedModel, values: Tensor) -> Tensor:
    tower = getattr(model, "vision_model", model)
    return tower(pixel_values=values).last_hidden_state[:, 0]


def _classifier_input(model: PreTrainedModel, values: Tensor) -> Tensor:
    return model(pixel_values=values).logits


def has_feature(model: PreTrainedModel, feature: Feature) -> bool:
    """Whether the model computes it at all."""
    tower = getattr(model, "vision_model", model)
    if feature == "pooler_output":
        return getattr(tower, "pooler", True) is not None and getattr(tower, "use_head", True)
    if feature == "class_token":
        embeddings = getattr(tower, "embeddings", None)
        return any(hasattr(embeddings, name) for name in ("class_embedding", "cls_token"))
    return hasattr(model, "visual_projection" if feature == "image_embeds" else CLASSIFIER)


READERS: Mapping[Feature, Callable[[PreTrainedModel, Tensor], Tensor]] = {
    "pooler_output": _pooler_output,
    "image_embeds": _image_embeds,
    "class_token": _class_token,
    "classifier_input": _classifier_input,
}
"""Each maps normalised pixels (batch, 3, side, side) to a feature (batch, width)."""


class DetectorModule(nn.Module):
    """Encoder and head: uint8 pixels to float32 logits."""

    def __init__(self, encoder: Encoder, head: nn.Linear, *, l2_normalize: bool) -> None:
        """Takes an encoder, and the layer that reads its feature, divided by its norm or not."""
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.l2_normalize = l2_normalize

    def feature(self, pixels: Tensor) -> Tensor:
        """Maps uint8 pixels (batch, side, side, 3) to what the head reads, float32."""
        feature = self.encoder(pixels)
        return functional.normalize(feature) if self.l2_normalize else feature

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps uint8 pixels (batch, side, side, 3) to float32 logits (batch, outputs)."""
        return self.head(self.feature(pixels))


def load_encoder(
    card: EncoderCard, feature: Feature, preprocessing: Preprocessing, tensors: Mapping[str, Tensor]
) -> Encoder:
    """Makes the encoder that a card tells of, around existing tensors.

    Args:
        card: the model and its settings.
        feature: what a head reads of it.
        preprocessing: its mean and standard deviation.
        tensors: of the archive; constants that only a graph uses may be among them.

    Raises:
        LoadError: when a tensor is missing, left over or misshapen, or the installed transformers
            does not know the model.
    """
    own = {name: tensor for name, tensor in tensors.items() if name != ENGINE_CONSTANTS}
    loaded = load_model(card.architecture, card.config, own)
    if wrong := sorted(loaded.lacking(feature) | loaded.unexpected):
        raise LoadError(
            f"{len(wrong)} of the encoder's tensors do not fit the card, the first is {wrong[0]}; "
            f"transformers {transformers.__version__} is installed"
        )
    return Encoder(loaded.model, feature, preprocessing)


def build_module(
    encoder: Encoder, card: HeadCard, tensors: Mapping[str, Tensor], width: int
) -> DetectorModule:
    """Puts a head on an encoder.

    Args:
        encoder: with its weights.
        card: says how the feature is read.
        tensors: ``weight`` (outputs, width) and ``bias`` (outputs,).
        width: of the feature.

    Raises:
        LoadError: when they are not these.
    """
    wanted = {"weight": (card.outputs, width), "bias": (card.outputs,)}
    check_shapes(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, "head")
    with torch.device("meta"):
        head = nn.Linear(width, card.outputs)
    head.load_state_dict(dict(tensors), assign=True)
    module = DetectorModule(encoder, head, l2_normalize=card.l2_normalize)
    return module.eval().requires_grad_(False)


def read_class_token_alone(encoder: Encoder) -> None:
    """Lets the last layer compute the class token and nothing else, where no more is read of it.

    It saves a twelfth of ViT-B/32. Models without CLIP's parts are left as they are, and so are
    features that are made of other tokens too.

    Args:
        encoder: its model is changed in place.
    """
    tower = getattr(encoder.model, "vision_model", encoder.model)
    layers = getattr(getattr(tower, "encoder", None), "layers", None)
    if (
        layers is not None
        and hasattr(tower.embeddings, "class_embedding")
        and encoder.feature != "classifier_input"
    ):
        layers[-1].forward = MethodType(_class_token_forward, layers[-1])


@contextmanager
def reading_every_token(encoder: Encoder) -> Iterator[None]:
    """Lets the last layer compute all tokens inside, whatever it was made to before."""
    shortened = [
        (module, module.forward)
        for module in encoder.model.modules()
        if vars(module).get("forward") is not None
    ]
    for module, _ in shortened:
        del module.forward
    try:
        yield
    finally:
        for module, forward in shortened:
            module.forward = forward


def _class_token_forward(layer: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """A layer of CLIP, (batch, tokens, hidden) to (batch, 1, hidden): all attend, one asks."""
    attention, normed = layer.self_attn, layer.layer_norm1(hidden_states)

    def split(x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], attention.num_heads, attention.head_dim)
        return heads.transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(
        split(attention.q_proj(normed[:, :1])),
        split(attention.k_proj(normed)),
        split(attention.v_proj(normed)),
        scale=attention.scale,
    )
    first = hidden_states[:, :1] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return first + layer.mlp(layer.layer_norm2(first))
