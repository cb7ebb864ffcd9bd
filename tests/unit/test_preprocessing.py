import cv2
import numpy as np
import pytest
import torch
from clip_deepfake.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    CenterCrop,
    Preprocessing,
    Resize,
    squash,
)
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZES = [(640, 480), (480, 640), (225, 224), (100, 333), (224, 224), (301, 226), (50, 20)]


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)


def normalised(pixels: np.ndarray, recipe: Preprocessing) -> np.ndarray:
    return ((pixels / 255 - recipe.mean) / recipe.std).transpose(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
def test_squash_is_opencvs_bilinear_resize(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(squash(224).apply(image), expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_clip_recipe_is_the_processors(size: tuple[int, int]) -> None:
    recipe = Preprocessing(
        "clip",
        [
            Resize("shortest_side", 224, "pillow", "bicubic"),
            CenterCrop(224, "transformers"),
        ],
        CLIP_MEAN,
        CLIP_STD,
    )
    image = noise(*size)
    processor = CLIPImageProcessorPil()
    expected = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    assert np.abs(normalised(recipe.apply(image), recipe) - expected).max() < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_the_processors_crop_alone_pads_with_black(size: tuple[int, int]) -> None:
    recipe = Preprocessing("custom", [CenterCrop(224, "transformers")], CLIP_MEAN, CLIP_STD)
    image = noise(*size)
    processor = CLIPImageProcessorPil(do_resize=False)
    expected = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    assert np.abs(normalised(recipe.apply(image), recipe) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("length", "start"),
    [(224, 0), (225, 0), (226, 1), (227, 2), (228, 2), (229, 2), (230, 3), (231, 4)],
)
def test_torchvisions_crop_rounds_half_to_even(length: int, start: int) -> None:
    """The starts are int(round((length - 224) / 2.0)), torchvision's CenterCrop, by hand."""
    image = noise(224, length)
    cut = CenterCrop(224, "torchvision").apply(image)
    assert np.array_equal(cut, image[start : start + 224])


@pytest.mark.parametrize(("length", "near"), [(223, 0), (222, 1), (221, 1), (100, 62), (101, 61)])
def test_torchvisions_border_has_its_extra_row_on_the_far_side(length: int, near: int) -> None:
    image = noise(224, length)
    framed = CenterCrop(224, "torchvision").apply(image)
    assert not framed[:near].any()
    assert np.array_equal(framed[near : near + length], image)
    assert not framed[near + length :].any()


def test_normalisation_in_the_module_is_the_formula(small_card) -> None:  # type: ignore[no-untyped-def]
    """The module sees mean and std of the card; checked through a head on the raw pixels."""
    from clip_deepfake.encoder import DetectorModule

    module = DetectorModule(small_card.encoder, small_card.head, small_card.preprocessing)
    side = small_card.encoder.image_size
    pixels = noise(side, side)
    seen: list[torch.Tensor] = []
    module.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(torch.from_numpy(pixels)[None])
    expected = normalised(pixels, small_card.preprocessing)
    assert np.abs(seen[0][0].numpy() - expected).max() < 1e-6
