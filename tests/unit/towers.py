"""Small vision towers by transformers, with weights far from their initial ones."""

import torch
from clip_deepfake.card import Card, EncoderCard
from clip_deepfake.encoder import DetectorModule, build_module, load_encoder
from deepfake_tools.demonstration.random_clip import (
    VISION_SHAPES,
    clip_config,
    random_weights,
    tower_shape,
)
from deepfake_tools.packaging.architectures import settings_of
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

TEXT = tower_shape(48, layers=1, heads=3, vocab_size=99)
"""Of the text tower, which no detector uses, hardly anything."""


def reference(**changes: object) -> CLIPVisionModelWithProjection:
    """A tower of three layers, or with these settings changed."""
    settings = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 48,
        "patch_size": 16,
        "projection_dim": 24,
    }
    torch.manual_seed(3)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**(settings | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def published(name: str, layers: int) -> CLIPVisionModelWithProjection:
    """One of openai's towers, as wide as it is and with so many layers, of random weights."""
    shape = VISION_SHAPES[name]
    tower = {**shape.tower, "num_hidden_layers": layers}
    config = clip_config(tower, TEXT, shape.projection)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["vision_config"]))
    weights = random_weights(config)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


def shape_of(model: CLIPVisionModelWithProjection) -> EncoderCard:
    """What a card says of it."""
    config = model.config
    widths = {"pooler_output": config.hidden_size, "image_embeds": config.projection_dim}
    return EncoderCard(
        architecture=type(model).__name__,
        config=settings_of(config),
        image_size=config.image_size,
        features={**widths, "class_token": config.hidden_size},
        operations=1,
    )


def module_of(card: Card, tensors: dict[str, Tensor], head: dict[str, Tensor]) -> DetectorModule:
    """The detector that a card tells of, around these weights."""
    feature = card.head.feature
    encoder = load_encoder(card.encoder, feature, card.preprocessing, tensors)
    return build_module(encoder, card.head, head, card.encoder.feature_size(feature))
