"""A repository's settings as transformers itself fills them in."""

import json
from pathlib import Path

import pytest
import torch
from clip_deepfake.encoder import load_model
from deepfake_tools.packaging.architectures import read_architecture
from deepfake_tools.packaging.hub import Snapshot
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from tests.unit.towers import TEXT

VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}

HALVES = {
    "beside a whole vision_config": {"hidden_act": "gelu", **VISION},
    "alone": {},
}


@pytest.mark.parametrize("half", HALVES)
def test_a_partial_vision_config_dict_has_the_activation_of_transformers(
    half: str, tmp_path: Path
) -> None:
    settings = {
        "model_type": "clip",
        "projection_dim": 24,
        "vision_config": HALVES[half],
        "vision_config_dict": VISION,
        "text_config": TEXT,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    # CLIPVisionConfig reads only vision_config; a whole CLIP, and so CLIPModel, reads both.
    whole = CLIPConfig.from_pretrained(tmp_path)
    config = whole.vision_config
    config.projection_dim = whole.projection_dim
    torch.manual_seed(3)
    reference = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)

    architecture = read_architecture(Snapshot("partial", None, None, tmp_path))
    loaded = load_model(architecture.name, architecture.config, reference.state_dict())

    assert architecture.config["hidden_act"] == config.hidden_act == "quick_gelu"
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = reference(pixels).image_embeds
        assert torch.allclose(loaded.model(pixels).image_embeds, expected, atol=1e-5)
