"""The stand-in CLIPs against transformers: every weight has its place there, and they compute."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from tests.clips import (
    CONFIGS,
    PICKLE,
    SAFETENSORS,
    SMALL,
    write_repository,
    write_vision_repository,
)


def test_transformers_finds_every_weight_and_no_other(small_clip: Path) -> None:
    model, report = CLIPModel.from_pretrained(small_clip, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert all(key.endswith("position_ids") for key in report["unexpected_keys"])
    state = load_file(small_clip / SAFETENSORS)
    name = "visual_projection.weight"
    assert torch.equal(model.state_dict()[name], state[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_configurations_have_the_published_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**CONFIGS[name]))
    # As the Hub's pages of these checkpoints state them, in millions.
    published = {"base-patch32": 151, "base-patch16": 150, "large-patch14": 428}
    count = sum(parameter.numel() for parameter in model.parameters())
    key = name.removeprefix("openai/clip-vit-").removesuffix("-336")
    assert round(count / 1e6) == published[key]


def test_activations_stay_in_a_usual_range(small_clip: Path) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(small_clip)
    with torch.inference_mode():
        embeds = model(torch.randn(2, 3, 32, 32)).image_embeds
    assert 0.1 < embeds.std() < 10
    assert not torch.allclose(embeds[0], embeds[1])


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    folders = [write_repository(tmp_path / str(i), SMALL, seed=i // 2) for i in range(3)]
    first, same, other = [(folder / SAFETENSORS).read_bytes() for folder in folders]
    assert first == same
    assert first != other


def test_both_formats_hold_the_same_weights(tmp_path: Path) -> None:
    folder = write_repository(tmp_path, SMALL, formats=(SAFETENSORS, PICKLE))
    pickled = torch.load(folder / PICKLE, weights_only=True)
    saved = load_file(folder / SAFETENSORS)
    assert pickled.keys() == saved.keys()
    assert all(torch.equal(pickled[key], saved[key]) for key in saved)


def test_the_vision_tower_alone_equals_the_whole_models(tmp_path: Path, small_clip: Path) -> None:
    alone = write_vision_repository(tmp_path)
    assert json.loads((alone / "config.json").read_text())["model_type"] == "clip_vision_model"
    pixels = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        answers = [
            CLIPVisionModelWithProjection.from_pretrained(folder)(pixels).image_embeds
            for folder in (alone, small_clip)
        ]
    torch.testing.assert_close(*answers)
