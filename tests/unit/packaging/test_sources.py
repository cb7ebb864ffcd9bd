"""Which encoder, head and preprocessing a command line stands for, and what the card says of it."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from clip_deepfake.card import Card, DataHistory, HeadCard, Scores, TrainingHistory, read_card
from clip_deepfake.detector import Detector
from clip_deepfake.loading import load_detector
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing, squash
from clip_deepfake.verdicts import Verdict
from deepfake_tools.packaging.builder import Built
from deepfake_tools.packaging.encoders import find_encoder, read_encoder
from deepfake_tools.packaging.heads import TrainedHead, tower_digest, write_head_file
from deepfake_tools.packaging.hub import BuildError
from safetensors.torch import load_file, save_file

from tests import ROOT
from tests.building import Builder
from tests.clips import SMALL, write_repository, write_vision_repository
from tests.hub_server import HubServer
from tests.published import (
    Published,
    c2p,
    deepfakebench,
    effort,
    effort_generated,
    gend,
    gend_on_dinov3,
    linear,
    narrow,
    save,
    univfd_head,
)
from tests.vision_models import VIT, write_processor

LARGE = "openai/clip-vit-large-patch14"
PUBLISHED_HEAD = ROOT.parent / "shared" / "data" / "univfd_fc_weights.pth"


def unpacked(built: Built, folder: Path) -> Detector:
    with zipfile.ZipFile(built.path) as archive:
        archive.extractall(folder)
    return load_detector(folder)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


HISTORY = TrainingHistory(
    data=DataHistory(real=60, fake=60, broken=1, repeated=0, folders=12, sha256="0" * 64),
    kept_together="folder",
    seed=0,
    strength=1.0,
    folds=5,
    cross_validated_auc=0.97,
    cross_validated_auc_std=0.01,
    held_out=Scores(real=12, fake=12, auc=0.98, pr_auc=0.97, accuracy=0.9),
    balanced_threshold=0.4,
    target_fpr=None,
    target_fpr_threshold=None,
    made_with={"scikit-learn": "1.6"},
)


def own_head(path: Path, model: str, recipe: Preprocessing, outputs: int = 1) -> TrainedHead:
    """Writes what train.py writes, for this encoder."""
    source, tower = read_encoder(find_encoder(model, None, lambda _: None))
    card = HeadCard("trained", "by train.py", "image_embeds", True, 1, (0,), 0.4)
    trained = TrainedHead(1, source, tower_digest(tower.tensors), recipe, card, HISTORY)
    layer = linear(tower.config.feature_size("image_embeds"), outputs)
    write_head_file(path, trained, layer.weight.detach(), layer.bias.detach())
    return trained


# --- this project's own heads -----------------------------------------------------------------


def test_a_head_of_this_projects_brings_its_encoder_and_settings(
    tmp_path: Path, hub: HubServer, builder: Builder
) -> None:
    commit = hub.add("acme/own-head", write_repository(tmp_path / "clip", SMALL))
    path = tmp_path / "head.safetensors"
    trained = own_head(path, "acme/own-head", squash(32))
    # The branch moves on; the head stays on the commit that it was trained on.
    hub.add("acme/own-head", write_repository(tmp_path / "newer", SMALL, seed=9))
    built = builder("--weights", path)
    card = built.card
    assert (card.model.name, card.model.commit) == ("acme/own-head", commit)
    assert card.preprocessing == trained.preprocessing
    assert (card.head.file, card.head.sha256) == ("head.safetensors", sha256(path))
    assert (card.head.threshold, card.head.history) == (0.4, HISTORY)
    assert card.head.overridden == []
    assert built.path.name == "acme--own-head@1.mar"
    unpacked(built, tmp_path / "unpacked")
    head = load_file(tmp_path / "unpacked" / "head.safetensors")
    assert torch.equal(head["weight"], load_file(path)["weight"])
    assert read_card(tmp_path / "unpacked").short()["head_file"] == "head.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--preprocess", "clip"], r"trained with the preprocessing 'squash', not with 'clip'"),
        (["--feature", "pooler_output"], r"trained on image_embeds, not on pooler_output"),
    ],
)
def test_a_head_is_not_served_with_another_recipe_than_it_was_trained_with(
    changes: list[str], message: str, tmp_path: Path, small_clip: Path, builder: Builder
) -> None:
    own_head(tmp_path / "head.safetensors", str(small_clip), squash(32))
    with pytest.raises(BuildError, match=message):
        builder("--weights", tmp_path / "head.safetensors", "--model", small_clip, *changes)


def test_the_same_recipe_and_another_threshold_are_fine(
    tmp_path: Path, small_clip: Path, builder: Builder
) -> None:
    own_head(tmp_path / "head.safetensors", str(small_clip), squash(32))
    arguments = ["--model", small_clip, "--preprocess", "squash", "--feature", "image_embeds"]
    built = builder("--weights", tmp_path / "head.safetensors", *arguments, "--threshold", 0.7)
    assert built.card.head.threshold == 0.7
    assert built.card.head.overridden == ["threshold"]


def test_a_head_is_not_served_on_another_encoder(
    tmp_path: Path, small_clip: Path, builder: Builder
) -> None:
    own_head(tmp_path / "head.safetensors", str(small_clip), squash(32))
    other = write_repository(tmp_path / "other-clip", SMALL, seed=1)
    message = r"trained on small-clip .* and the weights of other-clip .* are others"
    with pytest.raises(BuildError, match=message):
        builder("--weights", tmp_path / "head.safetensors", "--model", other)
    assert not builder.store.exists()


def test_the_folder_that_a_head_was_trained_on_must_be_given(
    tmp_path: Path, small_clip: Path, builder: Builder
) -> None:
    own_head(tmp_path / "head.safetensors", str(small_clip), squash(32))
    with pytest.raises(BuildError, match=r"local folder small-clip; give that folder with --model"):
        builder("--weights", tmp_path / "head.safetensors")
    moved = write_repository(tmp_path / "moved", SMALL, formats=["pytorch_model.bin"])
    built = builder("--weights", tmp_path / "head.safetensors", "--model", moved)
    assert built.card.model.name == "moved"


def test_half_precision_is_taken_after_the_encoder_was_compared(
    tmp_path: Path, small_clip: Path, builder: Builder
) -> None:
    own_head(tmp_path / "head.safetensors", str(small_clip), squash(32))
    arguments = ["--model", small_clip, "--precision", "bfloat16"]
    built = builder("--weights", tmp_path / "head.safetensors", *arguments)
    unpacked(built, tmp_path / "unpacked")
    encoder = load_file(tmp_path / "unpacked" / "encoder.safetensors")
    encoder.pop("openvino.constants")
    assert {tensor.dtype for tensor in encoder.values()} == {torch.bfloat16}


# --- published heads and checkpoints ----------------------------------------------------------


def test_a_head_without_a_model_takes_its_familys_and_says_so(
    tmp_path: Path, hub: HubServer, builder: Builder
) -> None:
    commit = hub.add(LARGE, write_repository(tmp_path / "large", narrow()))
    weights = univfd_head(tmp_path / "published").weights
    built = builder("--weights", weights)
    assert (built.card.model.name, built.card.model.commit) == (LARGE, commit)
    assert f"--model is not given: taking {LARGE}" in "\n".join(builder.notes)
    assert built.card.head.sha256 == sha256(weights)
    builder("--weights", weights, "--model", tmp_path / "large")
    assert f"note: UniversalFakeDetect was trained on {LARGE}" in "\n".join(builder.notes)


def test_the_real_published_head_is_recognised_and_fits_no_narrower_encoder(
    small_clip: Path, builder: Builder
) -> None:
    if not PUBLISHED_HEAD.exists():
        pytest.skip(f"{PUBLISHED_HEAD} is not here")
    message = r"reads 768 numbers of image_embeds, and small-clip has 40"
    with pytest.raises(BuildError, match=message):
        builder("--weights", PUBLISHED_HEAD, "--model", small_clip)


def test_a_head_on_a_projection_that_is_missing_is_refused(
    tmp_path: Path, builder: Builder
) -> None:
    weights = save(tmp_path, "fc_weights.pth", linear(40, 1).state_dict())
    tower = write_vision_repository(tmp_path / "tower", projection=False)
    settings = json.loads((tower / "config.json").read_text()) | {"projection_dim": 40}
    (tower / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BuildError, match=r"tower: .* has no such feature"):
        builder("--weights", weights, "--model", tower)


def test_safetensors_are_recognised_like_any_other_format(
    tmp_path: Path, small_clip: Path, builder: Builder
) -> None:
    save_file(linear(40, 1).state_dict(), tmp_path / "fc.safetensors", {"format": "pt"})
    built = builder("--weights", tmp_path / "fc.safetensors", "--model", small_clip)
    assert built.card.head.family == "UniversalFakeDetect"


def test_a_file_with_its_encoder_needs_no_hub_and_names_the_archive(
    tmp_path: Path, hub: HubServer, builder: Builder
) -> None:
    before = len(hub.requests)
    weights = effort(tmp_path).weights
    renamed = weights.rename(tmp_path / "effort clip_L14 (v1.0).pth")
    built = builder("--weights", renamed)
    assert len(hub.requests) == before
    assert built.path.name == "effort-clip_L14-v1-0@1.mar"
    model = built.card.model
    assert (model.name, model.revision, model.commit) == ("effort clip_L14 (v1.0)", None, None)
    assert model.weights_file == renamed.name
    assert model.weights_sha256 == built.card.head.sha256 == sha256(renamed)


def test_gend_is_fetched_from_the_hub(tmp_path: Path, hub: HubServer, builder: Builder) -> None:
    commit = hub.add("acme/GenD_CLIP", gend(tmp_path / "gend", "LinearNorm").weights)
    built = builder("--weights", "acme/GenD_CLIP")
    assert (built.card.model.name, built.card.model.commit) == ("acme/GenD_CLIP", commit)
    assert built.path.name == "acme--GenD_CLIP@1.mar"
    assert built.card.preprocessing.name == "clip"
    assert builder("--weights", "acme/GenD_CLIP", "--revision", commit).sha256 != built.sha256


@pytest.mark.parametrize(("make", "preset"), [(gend, "clip"), (gend_on_dinov3, "dinov3")])
def test_a_gend_with_an_image_processor_of_its_own_follows_that(
    make: Callable[[Path, str], Published], preset: str, tmp_path: Path, builder: Builder
) -> None:
    folder = make(tmp_path / "gend", "linear").weights
    own = builder("--weights", folder).card
    assert own.preprocessing.name == preset
    write_processor(folder, VIT | {"image_mean": [0.1, 0.2, 0.3]}, own.encoder.image_size)
    followed = builder("--weights", folder).card
    assert followed.preprocessing.name == "own"
    assert followed.preprocessing.mean == (0.1, 0.2, 0.3)
    assert followed.head.overridden == []
    card = builder("--weights", folder, "--preprocess", "squash").card
    assert card.head.overridden == ["preprocess"]


def test_a_gend_whose_image_processor_cannot_be_followed_needs_a_preset(
    tmp_path: Path, builder: Builder
) -> None:
    folder = gend(tmp_path / "gend", "linear").weights
    write_processor(folder, VIT | {"do_normalize": False}, 32)
    with pytest.raises(BuildError, match=r"ViTImageProcessor.*use a preset"):
        builder("--weights", folder)
    card = builder("--weights", folder, "--preprocess", "squash").card
    assert card.preprocessing == squash(32)
    assert card.head.overridden == ["preprocess"]


def test_what_is_left_out_is_named(tmp_path: Path, builder: Builder) -> None:
    builder("--weights", effort_generated(tmp_path).weights)
    (note,) = [note for note in builder.notes if note.startswith("left out")]
    for word in ("optimizer", "total_steps", "model.text_model (", "model.logit_scale"):
        assert word in note
    builder("--weights", effort(tmp_path).weights)
    (note,) = [note for note in builder.notes if note.startswith("left out")]
    assert "backbone.encoder (24)" in note  # two layers, four projections, U_r, S_r and V_r each
    builder("--weights", c2p(tmp_path).weights)
    assert not [note for note in builder.notes if note.startswith("left out")]


def test_averaged_and_parallel_prefixes_are_taken_off(tmp_path: Path, builder: Builder) -> None:
    state = torch.load(deepfakebench(tmp_path).weights)
    twice = {f"module.{name}": tensor for name, tensor in state.items()}
    averaged = save(tmp_path, "swa.pth", {**twice, "n_averaged": torch.tensor(4)})
    assert builder("--weights", averaged).card.head.family == "DeepfakeBench clip"


def test_effort_becomes_an_ordinary_clip(tmp_path: Path, builder: Builder) -> None:
    """The fold, by the sum that the paper writes, for one matrix; and no other tensors."""
    path = effort(tmp_path).weights
    unpacked(builder("--weights", path), tmp_path / "unpacked")
    encoder = load_file(tmp_path / "unpacked" / "encoder.safetensors")
    unpacked(builder("--weights", deepfakebench(tmp_path).weights), tmp_path / "plain")
    assert encoder.keys() == load_file(tmp_path / "plain" / "encoder.safetensors").keys()
    assert read_card(tmp_path / "plain").encoder.config["num_hidden_layers"] == 2
    state, layer = torch.load(path), "encoder.layers.1.self_attn.q_proj"
    parts = {
        name: state[f"module.backbone.{layer}.{name}"].double()
        for name in ("weight_main", "U_residual", "S_residual", "V_residual")
    }
    residual = parts["U_residual"] @ torch.diag(parts["S_residual"]) @ parts["V_residual"]
    folded = (parts["weight_main"] + residual).float()
    torch.testing.assert_close(encoder[f"vision_model.{layer}.weight"], folded)


# --- what options replace ---------------------------------------------------------------------


def test_options_replace_what_the_family_has_and_the_card_says_so(
    tmp_path: Path, examples: list[Path], builder: Builder
) -> None:
    weights = deepfakebench(tmp_path).weights
    built = builder("--weights", weights, "--preprocess", "squash", "--threshold", "0.9")
    assert built.card.preprocessing == squash(32)
    assert built.card.head.overridden == ["preprocess", "threshold"]
    detector = unpacked(built, tmp_path / "unpacked")
    own = unpacked(builder("--weights", weights), tmp_path / "own")
    assert read_card(tmp_path / "own").head.overridden == []
    data = [image.read_bytes() for image in examples]
    for changed, plain in zip(detector.judge(data), own.judge(data), strict=True):
        assert isinstance(changed, Verdict)
        assert isinstance(plain, Verdict)
        assert changed.logits != plain.logits
        assert changed.label == ("FAKE" if changed.fake_probability > 0.9 else "REAL")


def test_what_changes_nothing_is_no_override(tmp_path: Path, builder: Builder) -> None:
    arguments = ["--preprocess", "squash-cubic", "--feature", "pooler_output", "--threshold", 0.5]
    built = builder("--weights", deepfakebench(tmp_path).weights, *arguments)
    assert built.card.head.overridden == []


def test_a_feature_that_the_head_does_not_fit_is_refused(tmp_path: Path, builder: Builder) -> None:
    with pytest.raises(BuildError, match=r"reads 40 numbers of pooler_output.* has 128"):
        builder("--weights", c2p(tmp_path).weights, "--feature", "pooler_output")
    with pytest.raises(BuildError, match="has no such feature"):
        builder("--weights", deepfakebench(tmp_path).weights, "--feature", "image_embeds")


def test_a_preprocessing_of_ones_own_is_a_file(tmp_path: Path, builder: Builder) -> None:
    recipe = {
        "steps": [{"step": "tile_crop", "size": 32, "tile": 64, "convention": "transformers"}],
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
    }
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(recipe))
    built = builder("--weights", c2p(tmp_path).weights, "--preprocess", file)
    assert built.card.preprocessing == msgspec.convert(recipe | {"name": "custom"}, Preprocessing)
    assert built.card.head.overridden == ["preprocess"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no preprocessing"),
        ("{", "is no preprocessing"),
        ('{"steps": [{"step": "flip"}]}', "is no preprocessing: .*flip"),
        ('{"steps": [], "mean": [0, 0, 0], "std": [1, 1, 1]}', "does not end in 32x32 pixels"),
    ],
)
def test_a_file_that_is_no_preprocessing_is_refused(
    content: str, message: str, tmp_path: Path, builder: Builder
) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(BuildError, match=message):
        builder("--weights", c2p(tmp_path).weights, "--preprocess", tmp_path / "mine.json")


def test_an_unknown_preset_is_refused_with_the_known_ones(
    small_clip: Path, builder: Builder
) -> None:
    with pytest.raises(BuildError, match=r"squish is neither .* presets are own, squash, clip, "):
        builder("--model", small_clip, "--preprocess", "squish")


def test_an_untrained_head_may_read_the_other_feature(
    small_clip: Path, tmp_path: Path, builder: Builder
) -> None:
    built = builder("--model", small_clip, "--feature", "image_embeds", "--threshold", "0.25")
    unpacked(built, tmp_path / "unpacked")
    head = load_file(tmp_path / "unpacked" / "head.safetensors")
    assert head["weight"].shape == (2, 40)
    assert (built.card.head.source, built.card.head.threshold) == ("untrained", 0.25)
    said = built.card.short()
    assert set(said) == {
        "model", "commit", "version", "head", "precision", "threshold", "orientation", "face_side"
    }  # fmt: skip
    assert said["threshold"] == 0.25


def test_answers_say_what_a_head_of_ours_is_worth(small_card: Card) -> None:
    head = msgspec.structs.replace(small_card.head, source="trained", history=HISTORY)
    said = msgspec.structs.replace(small_card, head=head).short()
    scores = HISTORY.held_out
    assert said["held_out_auc"] == scores.auc
    assert said["held_out_images"] == scores.real + scores.fake
    data = HISTORY.data
    assert said["trained_on"] == data.sha256
    assert said["trained_images"] == data.real + data.fake + data.repeated
    assert "held_out_auc" not in small_card.short()
