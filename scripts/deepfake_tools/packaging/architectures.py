"""Which of transformers' vision models a checkpoint is, by its ``config.json``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_deepfake.card import Feature
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from deepfake_tools.packaging.hub import BuildError, Snapshot
from deepfake_tools.packaging.image_processors import own_side
from deepfake_tools.untrusted_files import read_json_object

WITH_TEXT: Mapping[str, str] = {
    "clip": "CLIPVisionModelWithProjection",
    "metaclip_2": "MetaClip2VisionModelWithProjection",
    "siglip": "SiglipVisionModel",
}
"""Of models of images and text, by type: the class that is the image's half. Its own type has the
same name with ``_vision_model`` at the end."""

REFUSED: Mapping[str, str] = {
    "timm_wrapper": "timm's models need torchvision, which this project does without",
    "siglip2": (
        "its NaFlex form takes patches of images of any shape; the checkpoints of one size, such "
        "as google/siglip2-base-patch16-224, are what is served"
    ),
    "shieldgemma2": "a language model that looks at images, not an encoder with a linear head",
}
"""Types that transformers counts as image classifiers, and why they are none here."""

WITHOUT_TEXT = {*MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, "dinov3_vit"}
"""Types of vision models: those that transformers makes image classifiers of, and DINOv3."""

OF_ANY_SIDE = {"dinov2", "dinov2_with_registers", "dinov3_vit"}
"""Types that stretch their positions to the image at hand, whatever they were trained on. The side
is their image processor's: facebook/dinov2-base says 518 in config.json and is fed 224."""

WHAT_WOULD_DO = (
    "this detector takes CLIP, MetaCLIP 2, SigLIP, DINOv2, DINOv3 and ViT, such as "
    "openai/clip-vit-base-patch32, and image classifiers made of them"
)

MOST_SIDE = 4096
"""Of a model's square input, in pixels."""

CLASSIFIER_SUFFIX = "ForImageClassification"

SINGLE_LABEL = "single_label_classification"
"""What transformers calls it when one of a classifier's outputs holds: a softmax reads them."""

UNTOLD = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "text_config",
    "torch_dtype",
    "transformers_version",
}
"""Settings that tell where a model was, what its outputs are called, or how its other half is."""


@dataclass(frozen=True)
class Architecture:
    """A vision model without its weights.

    Attributes:
        name: of transformers' class.
        config: its settings, complete.
        image_size: side of the square that it takes, in pixels.
        labels: of a whole classifier's outputs, in order; None of an encoder alone.
    """

    name: str
    config: dict[str, Any]
    image_size: int
    labels: tuple[str, ...] | None = None


def read_architecture(snapshot: Snapshot, feature: Feature | None = None) -> Architecture:
    """Reads which model a checkpoint is.

    Args:
        snapshot: with its ``config.json``.
        feature: what a head is to read; of a whole classifier, any but ``classifier_input``
            takes the encoder in it and leaves its own head.

    Raises:
        BuildError: when it is none that can be an encoder here, naming the type that it is.
    """
    settings = _read_json(snapshot.folder / "config.json", snapshot.name)
    kind = str(settings.get("model_type"))
    _refuse_unsupported(kind, snapshot.name)
    try:
        # From the dictionary, so that nothing else of the folder is read, let alone run.
        config = AutoConfig.for_model(**settings)
    except Exception as error:
        # Each of transformers' configurations refuses in its own way.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BuildError(f"{snapshot.name}: config.json is off: {reason}") from error
    architecture = _choose(kind, config, feature, snapshot.name)
    if kind not in OF_ANY_SIDE:
        return architecture
    return replace(architecture, image_size=_fed_side(architecture, config, snapshot))


def _fed_side(architecture: Architecture, config: PretrainedConfig, snapshot: Snapshot) -> int:
    """Side of the images that a model of any side is fed with."""
    side = own_side(snapshot.folder) or architecture.image_size
    if side % config.patch_size:
        raise BuildError(
            f"{snapshot.name}: its image processor ends in {side} pixels, which no whole number of "
            f"patches fills: patch_size is {config.patch_size}"
        )
    return side


def _refuse_unsupported(kind: str, name: str) -> None:
    tower = kind.removesuffix("_vision_model")
    if kind in REFUSED:
        raise BuildError(f"{name} is a model of type {kind!r}: {REFUSED[kind]}")
    if tower not in WITH_TEXT and (kind not in WITHOUT_TEXT or kind not in MODEL_MAPPING_NAMES):
        raise BuildError(
            f"{name} is a model of type {kind!r}, which is no vision encoder with a pooled output; "
            f"{WHAT_WOULD_DO}"
        )


def _choose(
    kind: str, config: PretrainedConfig, feature: Feature | None, name: str
) -> Architecture:
    tower = kind.removesuffix("_vision_model")
    vision = getattr(config, "vision_config", config)
    side = _side(vision, kind, name)
    declared = next(iter(config.architectures or ()), "")
    if declared.endswith(CLASSIFIER_SUFFIX) and feature in (None, "classifier_input"):
        labels = _labels(config, name)
        outputs = {"num_labels": len(labels)}
        return Architecture(declared, settings_of(config) | outputs, side, labels)
    if feature == "classifier_input":
        raise BuildError(f"{name} is no image classifier, so there is no classifier_input to read")
    if tower in WITH_TEXT:
        if hasattr(config, "projection_dim"):
            vision.projection_dim = config.projection_dim
        return Architecture(WITH_TEXT[tower], settings_of(vision), side)
    return Architecture(_base_class(kind), settings_of(config), side)


def _labels(config: PretrainedConfig, name: str) -> tuple[str, ...]:
    """Of a classifier's outputs, in order."""
    problem = config.problem_type or SINGLE_LABEL
    if problem != SINGLE_LABEL:
        raise BuildError(
            f"{name} is a classifier for {problem}, whose outputs are no probabilities of which "
            "one holds; take its encoder alone with --feature, and train a head on it"
        )
    labels: dict[Any, Any] = dict(config.id2label or {})
    if sorted(labels) != list(range(len(labels))) or not all(
        isinstance(label, str) for label in labels.values()
    ):
        raise BuildError(f"{name}: id2label in config.json names no outputs 0, 1, ...: {labels}")
    return tuple(labels[index] for index in range(len(labels)))


def _base_class(kind: str) -> str:
    found = MODEL_MAPPING_NAMES[kind]
    return found if isinstance(found, str) else found[0]


def _side(vision: PretrainedConfig, kind: str, name: str) -> int:
    side = getattr(vision, "image_size", None)
    if isinstance(side, list | tuple) and len(set(side)) == 1:
        side = side[0]
    if not isinstance(side, int) or not 1 <= side <= MOST_SIDE:
        raise BuildError(
            f"{name} is a model of type {kind!r} whose image_size is {side!r}, and a square of 1 "
            f"to {MOST_SIDE} is needed; {WHAT_WOULD_DO}"
        )
    channels = getattr(vision, "num_channels", 3)
    if channels != 3:
        raise BuildError(f"{name} takes {channels} colour channels; this detector feeds it 3")
    return side


def settings_of(config: PretrainedConfig) -> dict[str, Any]:
    """What decides the arithmetic: complete, so that defaults that change later do not matter."""
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in fields.items() if key not in UNTOLD}


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError as error:
        raise BuildError(f"{name} has no {path.name}; it is no Hugging Face model") from error
    except (OSError, ValueError) as error:
        raise BuildError(f"{name}: {path.name} cannot be read: {error}") from error
