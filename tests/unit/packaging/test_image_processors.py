"""A repository's own image processor followed: beside transformers', and refused by its name."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.image_processors import own_preprocessing
from deepfake_tools.packaging.presets import resolve_preset
from PIL import Image

from tests.vision_models import (
    BIT,
    CLIP,
    CONVNEXT,
    DINOV3,
    SIGLIP,
    VIT,
    Settings,
    processor_values,
    write_processor,
)

FOLLOWED = {
    "CLIP": CLIP,
    "SigLIP": SIGLIP,
    "ViT": VIT,
    "ViT, bicubic": VIT | {"resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
    "Bit, of DINOv2": BIT,
    "DINOv3": DINOV3,
    "CLIP without a resize": CLIP | {"do_resize": False},
}


def photographs(examples: list[Path]) -> list[Image.Image]:
    """The examples, upright and lying, large and smaller than any encoder's input."""
    found = [Image.open(path).convert("RGB") for path in examples]
    return found + [image.resize((97, 150)) for image in found]


@pytest.mark.parametrize("name", FOLLOWED)
def test_pixels_are_within_a_level_of_the_processors(
    name: str, tmp_path: Path, examples: list[Path]
) -> None:
    write_processor(tmp_path, FOLLOWED[name], 224)
    recipe = own_preprocessing(tmp_path, 224)
    mean, std = np.reshape(recipe.mean, (3, 1, 1)), np.reshape(recipe.std, (3, 1, 1))
    for image in photographs(examples):
        ours = recipe.apply(np.asarray(image)).transpose(2, 0, 1) / 255
        theirs = processor_values(tmp_path, image) * std + mean
        assert np.abs(ours - theirs).max() * 255 < 1.001


@pytest.mark.parametrize("name", ["ViT", "CLIP", "SigLIP"])
def test_pillows_processors_are_followed_exactly(
    name: str, tmp_path: Path, examples: list[Path]
) -> None:
    write_processor(tmp_path, FOLLOWED[name], 224)
    recipe = own_preprocessing(tmp_path, 224)
    for image in photographs(examples):
        ours = (recipe.apply(np.asarray(image)) / 255 - recipe.mean) / recipe.std
        assert np.abs(ours.transpose(2, 0, 1) - processor_values(tmp_path, image)).max() < 1e-5


def test_the_preset_clip_is_the_repositorys_own(tmp_path: Path) -> None:
    write_processor(tmp_path, VIT, 224)
    assert resolve_preset("clip", 224, tmp_path) == resolve_preset("own", 224, tmp_path)
    assert resolve_preset("own", 224, tmp_path).mean == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("preset", "processor"), [("clip", CLIP), ("dinov3", DINOV3)])
def test_a_preset_of_an_encoder_is_what_its_processor_does(
    preset: str, processor: Settings, tmp_path: Path
) -> None:
    # DINOv3's has transformers' defaults for mean and std, CLIP's Pillow form as well.
    write_processor(tmp_path, processor, 224)
    followed = own_preprocessing(tmp_path, 224)
    assert msgspec.structs.replace(followed, name=preset) == resolve_preset(preset, 224, None)


REFUSED: dict[str, tuple[Settings, str]] = {
    "another side": (VIT | {"size": {"height": 384, "width": 384}}, "ViT.*384 pixels.* 224"),
    "no square": (VIT | {"size": {"height": 224, "width": 300}}, "ViT.*is no square"),
    "another filter": (VIT | {"resample": 0}, "ViT.*resample 0"),
    "no normalisation": (VIT | {"do_normalize": False}, "ViT.*normalise"),
    "another scale": (VIT | {"rescale_factor": 1 / 127.5}, r"ViT.*rescale_factor 0\.0078"),
    "ConvNeXt's share": (CONVNEXT, "ConvNextImageProcessor.*no square"),
    "DINOv3 with another filter": (DINOV3 | {"resample": 3}, "DINOv3.*does what this project"),
    "DINOv3 without a size": (DINOV3 | {"size": None}, "DINOv3"),
    "a name of nothing": ({"image_processor_type": "Nonesuch"}, "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    settings, message = REFUSED[name]
    write_processor(tmp_path, settings, 224)
    with pytest.raises(BuildError, match=message) as caught:
        own_preprocessing(tmp_path, 224)
    assert "\n" not in str(caught.value)
    assert "preset" in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '"own"', '{"image_processor_type": 3}', "{}"])
def test_a_damaged_file_is_explained(content: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(BuildError, match="image processor") as caught:
        own_preprocessing(tmp_path, 224)
    assert "\n" not in str(caught.value)


def test_code_in_a_repository_is_not_run(tmp_path: Path) -> None:
    """transformers would import it, if it were trusted or somebody typed y."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    settings = {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(BuildError, match="image processor"):
        own_preprocessing(tmp_path, 224)
    assert not (tmp_path / "ran").exists()
