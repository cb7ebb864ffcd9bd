"""Small vision towers by transformers, with weights far from their initial ones."""

import torch
from clip_deepfake.card import EncoderConfig
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


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


def shape_of(model: CLIPVisionModelWithProjection) -> EncoderConfig:
    """What a card says of it."""
    fields = EncoderConfig.__struct_fields__
    return EncoderConfig(**{name: getattr(model.config, name) for name in fields})
