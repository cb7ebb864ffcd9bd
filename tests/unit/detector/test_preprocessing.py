import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from clip_deepfake.errors import ImageTooLargeError
from clip_deepfake.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    CenterCrop,
    Preprocessing,
    Resize,
    TileCrop,
    squash,
)
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.presets import PRESETS, resolve_preset
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.unit.towers import module_of, reference, shape_of

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


@pytest.mark.parametrize(
    ("nested", "alone"),
    [
        ({"size": {"shortest_edge": 240}, "resample": 2}, None),
        ({"size": {"shortest_edge": 240}, "resample": 3}, {"size": {"shortest_edge": 300}}),
        (None, {"size": {"shortest_edge": 300}}),
    ],
    ids=["as transformers 5 saves it", "both, of which the nested counts", "as version 4 saves it"],
)
def test_the_preset_clip_follows_the_file_that_transformers_follows(
    tmp_path: Path, nested: dict[str, object] | None, alone: dict[str, object] | None
) -> None:
    # The file of version 4 need not say which processor it is of; the model's type does.
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    whole: dict[str, object] = {"processor_class": "CLIPProcessor"}
    if nested is not None:
        whole["image_processor"] = CLIPImageProcessorPil().to_dict() | nested
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    if alone is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(alone))
    recipe = resolve_preset("clip", 224, tmp_path)
    image = noise(640, 480)
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    expected = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    assert np.abs(normalised(recipe.apply(image), recipe) - expected).max() < 1e-5


def test_a_checkpoint_without_either_file_is_told_both_names(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"preprocessor_config.json or processor_config.json"):
        resolve_preset("clip", 224, tmp_path)


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


@pytest.mark.parametrize(
    ("length", "first"), [(223, 0), (222, 1), (221, 1), (225, 0), (226, -1), (227, -1), (230, -3)]
)
def test_albumentations_rounds_down_twice(length: int, first: int) -> None:
    """By hand: PadIfNeeded has int((224 - length) / 2.0) on the near side, CenterCrop starts at
    (length - 224) // 2; `first` is where the image's first column comes to lie."""
    image = noise(length, 224) | 1  # never black
    framed = CenterCrop(224, "albumentations").apply(image)
    assert np.array_equal(framed[:, max(first, 0)], image[:, max(-first, 0)])
    assert not framed[:, : max(first, 0)].any()


@pytest.mark.parametrize("size", [(50, 20), (255, 256), (256, 256), (300, 255), (255, 300), (1, 1)])
def test_tiles_are_pasted_copies(size: tuple[int, int]) -> None:
    """Against Pillow's paste, as the published loop has it: both sides reach 256 or stay."""
    image = noise(*size)
    width, height = size
    factors = [-(-256 // side) if min(size) < 256 else 1 for side in size]
    canvas = Image.new("RGB", (width * factors[0], height * factors[1]))
    for column in range(factors[0]):
        for row in range(factors[1]):
            canvas.paste(Image.fromarray(image), (column * width, row * height))
    expected = CenterCrop(224, "torchvision").apply(np.asarray(canvas))
    assert np.array_equal(TileCrop(224, 256, "torchvision").apply(image), expected)


def test_a_long_strip_costs_no_more_than_its_middle() -> None:
    """1 x 20 million pixels: tiled as a whole, they would be 15 GB; scaled, 3 TB."""
    strip = np.broadcast_to(np.uint8(7), (1, 20_000_000, 3))
    assert TileCrop(224, 256, "torchvision").apply(strip).shape == (224, 224, 3)
    assert CenterCrop(224, "torchvision").apply(strip).shape == (224, 224, 3)
    with pytest.raises(ImageTooLargeError, match=r"20000000x1 pixels, which scaled to 224"):
        Resize("shortest_side", 224, "pillow", "bicubic").apply(strip)


def test_tiles_reach_beyond_the_square() -> None:
    with pytest.raises(ValueError, match="tile 200 is below size 224"):
        TileCrop(224, 200, "torchvision")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_ends_in_the_encoders_square(name: str) -> None:
    recipe = resolve_preset(name, 224, None)
    assert recipe.side == 224
    assert recipe.name == name
    for size in SIZES:
        assert recipe.apply(noise(*size)).shape == (224, 224, 3)


def test_a_recipe_without_a_square_at_its_end_has_no_side() -> None:
    scaled = Resize("shortest_side", 224, "pillow", "bicubic")
    assert Preprocessing("custom", [scaled], CLIP_MEAN, CLIP_STD).side is None
    assert Preprocessing("custom", [], CLIP_MEAN, CLIP_STD).side is None


def test_normalisation_in_the_module_is_the_formula(small_card) -> None:  # type: ignore[no-untyped-def]
    """What transformers' model is given, of whatever mean and std the card has."""
    recipe = msgspec.structs.replace(small_card.preprocessing, mean=(0.1, 0.5, 0.3), std=(2, 1, 3))
    model = reference()
    card = msgspec.structs.replace(small_card, encoder=shape_of(model), preprocessing=recipe)
    linear = torch.nn.Linear(model.config.hidden_size, 2)
    module = module_of(card, model.state_dict(), linear.state_dict())
    side = card.encoder.image_size
    pixels = noise(side, side)
    seen: list[torch.Tensor] = []
    module.encoder.model.vision_model.embeddings.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    module(torch.from_numpy(pixels)[None])
    assert np.abs(seen[0][0].numpy() - normalised(pixels, recipe)).max() < 1e-6


RECIPES: list[tuple[Preprocessing, tuple[int, int]]] = [
    (squash(64), (200, 100)),
    (
        Preprocessing(
            "crop",
            [
                Resize("shortest_side", 64, "pillow", "bilinear"),
                CenterCrop(64, "transformers"),
            ],
            (0, 0, 0),
            (1, 1, 1),
        ),
        (320, 160),
    ),
    (Preprocessing("border", [CenterCrop(64, "torchvision")], (0, 0, 0), (1, 1, 1)), (40, 100)),
    (Preprocessing("tile", [TileCrop(64, 100, "torchvision")], (0, 0, 0), (1, 1, 1)), (120, 110)),
]


@pytest.mark.parametrize(("recipe", "size"), RECIPES, ids=lambda value: getattr(value, "name", ""))
def test_the_window_is_where_a_ramp_says(recipe: Preprocessing, size: tuple[int, int]) -> None:
    """Pixels that say where they are tell, behind the steps, where the edges must be."""
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(width)[None] % 256 if width < 256 else np.arange(width) * 255 // width
    ramp[..., 1] = np.arange(height)[:, None]
    seen = recipe.apply(ramp).astype(float)
    left, top, right, bottom = recipe.window(width, height)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    scale = 255 / width if width >= 256 else 1.0
    assert seen[32, 32, 0] == pytest.approx(middle_x * scale, abs=2.5)
    assert seen[32, 32, 1] == pytest.approx(middle_y, abs=2.5)
    inside = [(x, y) for x in (left, right) for y in (top, bottom)]
    for x, y in inside:
        column = 0 if x == left else 63
        row = 0 if y == top else 63
        if 0 <= x <= width and 0 <= y <= height:
            assert seen[row, column, 0] == pytest.approx(x * scale, abs=3)
            assert seen[row, column, 1] == pytest.approx(y, abs=3)
