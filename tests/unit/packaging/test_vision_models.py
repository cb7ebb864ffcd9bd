"""Archives of each further type of vision model, beside transformers and its image processor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_deepfake.card import HEAD_FILE, read_card
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.packaging.hub import BuildError
from PIL import Image
from safetensors.torch import load_file

from tests.building import Builder, unpack
from tests.vision_models import (
    CLASSIFIERS,
    CONVNET,
    ENCODERS,
    SMALL,
    processor_values,
    write_model,
    write_processor,
)

ENGINES = ("openvino", "torch")
READABLE = [(name, feature) for name, kind in ENCODERS.items() for feature in kind.features]


def judge(archive: Path, images: list[Path]) -> list[Verdict]:
    verdicts = load_detector(archive).judge([path.read_bytes() for path in images])
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    return verdicts  # type: ignore[return-value]


def processed(model: Path, images: list[Path]) -> torch.Tensor:
    """As the repository's own image processor has them, (images, 3, side, side)."""
    return torch.from_numpy(
        np.stack([processor_values(model, Image.open(i).convert("RGB")) for i in images])
    )


def served_values(archive: Path, images: list[Path]) -> torch.Tensor:
    """The pixels that the archive's preprocessing makes, normalised."""
    recipe = read_card(archive).preprocessing
    pixels = np.stack([recipe.apply(np.asarray(Image.open(i).convert("RGB"))) for i in images])
    values = (pixels / 255 - recipe.mean) / recipe.std
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


def levels(archive: Path, one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two batches, in levels of 255."""
    std = torch.tensor(read_card(archive).preprocessing.std).view(3, 1, 1)
    return float(((one - other).abs() * std).max() * 255)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "feature"), READABLE)
def test_an_encoder_reads_as_transformers_does(
    name: str, feature: str, engine: str, builder: Builder, tmp_path: Path, examples: list[Path]
) -> None:
    kind = ENCODERS[name]
    model = write_model(tmp_path / "model", kind)
    built = builder("--model", tmp_path / "model", "--feature", feature, "--engine", engine)
    archive = unpack(built, tmp_path / "archive")
    head = load_file(archive / HEAD_FILE)
    values = served_values(archive, examples)
    assert levels(archive, values, processed(tmp_path / "model", examples)) < 1.001
    with torch.inference_mode():
        expected = kind.features[feature](model, values) @ head["weight"].T + head["bias"]
    found = judge(archive, examples)
    assert np.abs([verdict.logits for verdict in found] - expected.numpy()).max() < 2e-5
    probabilities = expected.softmax(1)[:, 1].numpy()
    assert np.abs([verdict.fake_probability for verdict in found] - probabilities).max() < 1e-5
    assert np.ptp(probabilities) > 1e-3, "photographs that differ in probability"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_whole_classifier_answers_as_transformers_does(
    name: str, engine: str, builder: Builder, tmp_path: Path, examples: list[Path]
) -> None:
    model = write_model(tmp_path / "model", CLASSIFIERS[name])
    built = builder("--model", tmp_path / "model", "--engine", engine)
    assert "FAKE is 'Deepfake' of ['Realism', 'Deepfake']" in builder.notes
    archive = unpack(built, tmp_path / "archive")
    values = served_values(archive, examples)
    assert levels(archive, values, processed(tmp_path / "model", examples)) < 1.001
    with torch.inference_mode():
        expected = model(pixel_values=values).logits
    found = judge(archive, examples)
    assert np.abs([verdict.logits for verdict in found] - expected.numpy()).max() < 2e-5
    probabilities = expected.softmax(1)[:, 1].numpy()
    assert np.abs([verdict.fake_probability for verdict in found] - probabilities).max() < 1e-5
    assert np.ptp(probabilities) > 1e-4, "photographs that differ in probability"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_of_any_side_takes_its_image_processors(
    engine: str, builder: Builder, tmp_path: Path, examples: list[Path]
) -> None:
    kind = ENCODERS["dinov2"]
    model = write_model(tmp_path / "model", kind)
    write_processor(tmp_path / "model", kind.processor, 16)
    built = builder("--model", tmp_path / "model", "--engine", engine)
    archive = unpack(built, tmp_path / "archive")
    assert (built.card.encoder.image_size, SMALL["image_size"]) == (16, 32)
    head = load_file(archive / HEAD_FILE)
    values = served_values(archive, examples)
    with torch.inference_mode():
        expected = kind.features["pooler_output"](model, values) @ head["weight"].T + head["bias"]
    logits = [verdict.logits for verdict in judge(archive, examples)]
    assert np.abs(logits - expected.numpy()).max() < 2e-5


def test_a_side_that_patches_do_not_fill_is_refused(builder: Builder, tmp_path: Path) -> None:
    write_model(tmp_path / "model", ENCODERS["dinov2"])
    write_processor(tmp_path / "model", ENCODERS["dinov2"].processor, 12)
    with pytest.raises(BuildError, match=r"ends in 12 pixels.*patch_size is 8"):
        builder("--model", tmp_path / "model")


def test_labels_the_other_way_round_are_read_so(
    builder: Builder, tmp_path: Path, examples: list[Path]
) -> None:
    labels = {0: "Fake", 1: "Real"}
    model = write_model(tmp_path / "model", CLASSIFIERS["siglip"], labels=labels)
    archive = unpack(builder("--model", tmp_path / "model"), tmp_path / "archive")
    with torch.inference_mode():
        logits = model(pixel_values=served_values(archive, examples)).logits
    found = [verdict.fake_probability for verdict in judge(archive, examples)]
    assert found == pytest.approx(logits.softmax(1)[:, 0].tolist(), abs=1e-5)


def test_probabilities_of_several_fake_labels_are_added(
    builder: Builder, tmp_path: Path, examples: list[Path]
) -> None:
    labels = {0: "gan", 1: "camera", 2: "diffusion"}
    model = write_model(tmp_path / "model", CLASSIFIERS["vit"], labels=labels)
    built = builder("--model", tmp_path / "model", "--fake-label", "diffusion", "gan")
    archive = unpack(built, tmp_path / "archive")
    with torch.inference_mode():
        logits = model(pixel_values=served_values(archive, examples)).logits
    expected = logits.softmax(1)[:, [0, 2]].sum(1)
    found = [verdict.fake_probability for verdict in judge(archive, examples)]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_encoder_of_a_classifier_can_be_taken_alone(builder: Builder, tmp_path: Path) -> None:
    write_model(tmp_path / "model", CLASSIFIERS["vit"])
    card = builder("--model", tmp_path / "model", "--feature", "class_token").card
    assert card.head.source == "untrained"
    assert set(card.encoder.features) == {"class_token"}


def test_a_fake_label_of_an_encoder_alone_is_refused(builder: Builder, tmp_path: Path) -> None:
    write_model(tmp_path / "model", ENCODERS["vit"])
    with pytest.raises(BuildError, match=r"no image classifier.*--fake-label"):
        builder("--model", tmp_path / "model", "--fake-label", "fake")


def test_a_convnet_is_refused_by_its_processors_name(builder: Builder, tmp_path: Path) -> None:
    """Below 384 pixels it crops a share of what it resizes to: ConvNext's own rule."""
    write_model(tmp_path / "model", CONVNET)
    with pytest.raises(BuildError, match=r"ConvNextImageProcessor\w* cannot be followed"):
        builder("--model", tmp_path / "model")


def test_a_convnet_passes_with_a_preset(
    builder: Builder, tmp_path: Path, examples: list[Path]
) -> None:
    model = write_model(tmp_path / "model", CONVNET)
    built = builder("--model", tmp_path / "model", "--preprocess", "squash")
    archive = unpack(built, tmp_path / "archive")
    with torch.inference_mode():
        logits = model(pixel_values=served_values(archive, examples)).logits
    # squash reads with OpenCV and these were read by Pillow, whose JPEG decoders are near equal.
    found = np.array([verdict.logits for verdict in judge(archive, examples)])
    assert np.abs(found - logits.numpy()).max() < 5e-3


REFUSED = {
    "timm_wrapper": "timm's models need torchvision",
    "siglip2": "NaFlex.*google/siglip2-base-patch16-224",
    "shieldgemma2": "language model",
    "imagegpt": "image_size is None.*takes CLIP",
    "blip": "is no vision encoder",
    "detr": "is no vision encoder",
    "yolos": "is no vision encoder",
    "bert": "is no vision encoder",
    "wav2vec2": "is no vision encoder",
    "nonesuch": "is no vision encoder",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_models_are_refused_by_type(kind: str, builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(BuildError, match=f"'{kind}'.*{REFUSED[kind]}"):
        builder("--model", tmp_path)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_classifier_without_a_choice_is_refused(
    problem: str, builder: Builder, tmp_path: Path
) -> None:
    change_config(write_small(tmp_path), problem_type=problem)
    with pytest.raises(BuildError, match=f"classifier for {problem}.*--feature"):
        builder("--model", tmp_path)


@pytest.mark.parametrize("labels", [{"0": "Fake", "2": "Real"}, {"0": 1, "1": 2}, {"a": "Fake"}])
def test_labels_of_no_outputs_are_refused(
    labels: dict[str, object], builder: Builder, tmp_path: Path
) -> None:
    change_config(write_small(tmp_path), id2label=labels)
    with pytest.raises(BuildError, match=r"config\.json"):
        builder("--model", tmp_path)


def write_small(folder: Path) -> Path:
    write_model(folder, CLASSIFIERS["vit"], SMALL)
    return folder


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
