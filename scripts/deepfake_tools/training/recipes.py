"""The recipe of each training method: what is trained, by which losses, how fast and how long."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from deepfake_tools.training.dataset import TrainingError
from deepfake_tools.untrusted_files import read_json_object

Method = Literal["layernorm", "svd", "lora", "full"]

Positive = Annotated[float, Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Quality = Annotated[int, Meta(ge=1, le=100)]


class Augmentation(Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to an image at random before the preprocessing.

    Attributes:
        flip: chance of a mirror image.
        chance: of each of the others, by itself.
        rotate: largest angle either way, in degrees; the edges are mirrored.
        blur: smallest and largest standard deviation of a Gaussian, in pixels.
        brightness: largest change either way, as a share of 255.
        contrast: largest change either way, as a share of the image's own.
        jpeg: lowest and highest quality.
    """

    flip: Share = 0.0
    chance: Share = 0.5
    rotate: NotNegative = 0.0
    blur: tuple[Positive, Positive] | None = None
    brightness: Share = 0.0
    contrast: Share = 0.0
    jpeg: tuple[Quality, Quality] | None = None


EFFORT_AUGMENTATION = Augmentation(
    flip=0.5, rotate=10.0, blur=(0.8, 1.4), brightness=0.1, contrast=0.1, jpeg=(40, 100)
)
"""DeepfakeBench's, which Effort trains with. Its blur has kernels of 3 to 7 pixels, for which
OpenCV takes standard deviations of 0.8 to 1.4."""


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """How an encoder and a head are trained together.

    The head has two outputs, and the loss is their cross-entropy, with what is added to it below.

    Attributes:
        method: what of the encoder is trained.
        learning_rate: at its height.
        optimizer: ``adam`` or ``adamw``, which decays weights apart from the gradient.
        weight_decay: of either.
        schedule: after the warm-up: a half cosine to ``lowest_rate``, or constant.
        lowest_rate: of learning, at the end of the cosine.
        warmup: share of all steps in which the rate rises from 0.
        layer_decay: a layer learns at so much of the rate of the one above it.
        largest_gradient: norm to which gradients are cut; 0 leaves them.
        epochs: an epoch shows each image of the larger class once.
        patience: epochs without a better validation AUC after which it stops.
        batch_size: images of a step, half of them real.
        l2_normalize: whether the head reads features of length 1.
        uniformity: weight of the uniformity loss.
        uniformity_t: its t.
        alignment: weight of the alignment loss.
        alignment_alpha: its exponent.
        orthogonality: weight of the residual's orthogonality (``svd``).
        spectrum: weight of the kept spectrum (``svd``).
        rank: singular directions that are trained (``svd``), or of the adapters (``lora``).
        lora_alpha: adapters are scaled by this over their rank.
        lora_dropout: chance that an input of an adapter is left out.
        augmentation: of the images that are trained on.
    """

    method: Method
    learning_rate: Positive
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: NotNegative = 0.0
    schedule: Literal["cosine", "constant"] = "constant"
    lowest_rate: NotNegative = 0.0
    warmup: Share = 0.0
    layer_decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    largest_gradient: NotNegative = 0.0
    epochs: Count = 10
    patience: Count = 3
    batch_size: Annotated[int, Meta(ge=2, le=65536)] = 32
    l2_normalize: bool = False
    uniformity: NotNegative = 0.0
    uniformity_t: Positive = 2.0
    alignment: NotNegative = 0.0
    alignment_alpha: Positive = 2.0
    orthogonality: NotNegative = 0.0
    spectrum: NotNegative = 0.0
    rank: Count = 1
    lora_alpha: Count = 16
    lora_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = Augmentation()


RECIPES: Mapping[Method, Recipe] = {
    # GenD (Yermakov et al., "Deepfake Detection that Generalizes Across Benchmarks",
    # arXiv 2508.06248).
    "layernorm": Recipe(
        "layernorm",
        3e-4,
        optimizer="adamw",
        schedule="cosine",
        lowest_rate=1e-6,
        l2_normalize=True,
        uniformity=0.5,
        alignment=0.1,
    ),
    # Effort (Yan et al., "Orthogonal Subspace Decomposition for Generalizable AI-Generated Image
    # Detection", ICML 2025). Its published code trains by cross-entropy alone.
    "svd": Recipe("svd", 2e-4, weight_decay=5e-4, augmentation=EFFORT_AUGMENTATION),
    # LoRA (Hu et al., 2021), on the four matrices of attention.
    "lora": Recipe(
        "lora",
        2e-4,
        optimizer="adamw",
        schedule="cosine",
        warmup=0.05,
        rank=8,
        augmentation=EFFORT_AUGMENTATION,
    ),
    "full": Recipe(
        "full",
        2e-5,
        schedule="cosine",
        warmup=0.1,
        layer_decay=0.8,
        largest_gradient=1.0,
        epochs=5,
        augmentation=EFFORT_AUGMENTATION,
    ),
}


def read_recipe(method: Method, file: Path | None, changes: Mapping[str, object]) -> Recipe:
    """Makes a method's recipe, but for what is asked for.

    Args:
        method: whose recipe.
        file: JSON with fields that replace those of the method's recipe.
        changes: further fields, which replace the file's.

    Raises:
        TrainingError: when the file cannot be read, or a field is unknown or out of its range.
    """
    origin = "the recipe" if file is None else str(file)
    try:
        own = {} if file is None else read_json_object(file)
        if own.get("method", method) != method:
            raise TrainingError(f"{origin} is a recipe for --method {own['method']}, not {method}")
        fields = msgspec.to_builtins(RECIPES[method]) | own | dict(changes)
        recipe = msgspec.convert(fields, Recipe)
    except (OSError, ValueError) as error:
        known = ", ".join(Recipe.__struct_fields__)
        raise TrainingError(f"{origin} cannot be used: {error}; its fields are {known}") from error
    if recipe.batch_size % 2:
        raise TrainingError(f"batch_size {recipe.batch_size} is odd, and half of a batch is real")
    for name in ("blur", "jpeg"):
        span = getattr(recipe.augmentation, name)
        if span is not None and span[0] > span[1]:
            raise TrainingError(f"{origin}: {name} goes from {span[0]} to {span[1]}: turn it round")
    return recipe
