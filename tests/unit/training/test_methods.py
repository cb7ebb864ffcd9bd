"""What each method trains, and that merged weights, the folder and an archive answer alike."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_deepfake.encoder import (
    DetectorModule,
    Encoder,
    load_encoder,
    read_class_token_alone,
)
from clip_deepfake.preprocessing import squash
from deepfake_tools.packaging.encoders import default_feature, find_encoder, read_encoder
from deepfake_tools.packaging.presets import resolve_preset
from deepfake_tools.training.dataset import TrainingError
from deepfake_tools.training.loop import TrainedModule, make_optimizer
from deepfake_tools.training.methods import (
    METHODS,
    Prepared,
    attention_layers,
    freeze_unread,
    parameter_groups,
    prepare,
)
from deepfake_tools.training.recipes import RECIPES, Recipe
from deepfake_tools.training.tuned_folder import read_back, write_encoder
from msgspec.structs import replace
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, ResNetConfig, ResNetModel

from tests.vision_models import ENCODERS, write_model


def module_of(folder: Path, recipe: Recipe) -> tuple[DetectorModule, Prepared, int]:
    """A detector with a new head, prepared for a recipe, and the side of its input."""
    _, tower = read_encoder(find_encoder(str(folder), None, lambda _: None))
    feature = default_feature(tower.config)
    side = tower.config.image_size
    encoder = load_encoder(
        tower.config, feature, resolve_preset("squash", side, folder), tower.tensors
    )
    read_class_token_alone(encoder)
    prepared = prepare(encoder, recipe)
    torch.manual_seed(0)
    head = nn.Linear(tower.config.features[feature], 2)
    module = DetectorModule(encoder, head, l2_normalize=recipe.l2_normalize)
    freeze_unread(module, side)
    return module, prepared, side


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def encoder(
    request: pytest.FixtureRequest, small_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "clip":
        return small_clip
    folder = tmp_path_factory.mktemp("encoder") / request.param
    kind = ENCODERS[request.param]
    write_model(folder, kind)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_merged_weights_answer_as_the_trained_module(
    encoder: Path, method: str, tmp_path: Path
) -> None:
    recipe = RECIPES[method]
    module, prepared, side = module_of(encoder, recipe)
    model = TrainedModule(module, recipe, prepared.penalty)
    optimizer = make_optimizer(module, replace(recipe, learning_rate=1e-3))
    pixels = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    with torch.inference_mode():
        before = module.eval()(pixels)
    model.train()
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(pixels, labels)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        trained = model.eval()(pixels)["logits"]
        assert (trained - before).abs().max() > 1e-3
        prepared.merge()
        assert (module(pixels) - trained).abs().max() < 1e-5
    write_encoder(tmp_path, module.encoder, encoder)
    _, _, written = read_back(
        tmp_path, module.encoder.feature, resolve_preset("squash", side, encoder)
    )
    plain = DetectorModule(written, module.head, l2_normalize=recipe.l2_normalize).eval()
    with torch.inference_mode():
        assert (plain(pixels) - trained).abs().max() < 1e-5


LARGE = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
    image_size=224,
)


def test_the_published_numbers_of_trained_parameters() -> None:
    """GenD's 0.03 % of ViT-L/14, and Effort's 0.19 M."""
    with torch.device("meta"):
        model = CLIPVisionModel(LARGE)
    every = sum(p.numel() for p in model.parameters())
    norms = sum(
        p.numel() for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()
    )
    assert norms / every == pytest.approx(0.0003, abs=0.00005)
    layers = [model.get_submodule(name) for name in attention_layers(model)]
    assert len(layers) == 24 * 4
    residual = sum(layer.in_features + layer.out_features + 1 for layer in layers)
    assert residual == pytest.approx(0.197e6, abs=0.0005e6)


def test_each_method_trains_what_it_says(small_clip: Path) -> None:
    names = {}
    for method in METHODS:
        module, *_ = module_of(small_clip, RECIPES[method])
        names[method] = {n for n, p in module.named_parameters() if p.requires_grad}
        assert {"head.weight", "head.bias"} <= names[method]
    norms = [n for n in names["layernorm"] if not n.startswith("head.")]
    assert norms
    assert all(("norm" in name) or ("layrnorm" in name) for name in norms)
    for method in ("svd", "lora"):
        own = [n for n in names[method] if not n.startswith("head.")]
        assert own
        assert all("self_attn" in name for name in own)
    # Nothing that the logits do not depend on: the projection after what the head reads.
    assert not any("visual_projection" in name for name in names["full"])


def test_layers_learn_the_slower_the_deeper_they_lie(small_clip: Path) -> None:
    recipe = replace(RECIPES["full"], learning_rate=1.0, layer_decay=0.5)
    module, *_ = module_of(small_clip, recipe)
    rates = {
        id(p): group["lr"] for group in parameter_groups(module, recipe) for p in group["params"]
    }
    named = {n: rates[id(p)] for n, p in module.named_parameters() if p.requires_grad}
    layers = module.encoder.model.config.num_hidden_layers
    assert named["head.weight"] == 1.0
    for name, rate in named.items():
        if ".layers." in name:
            depth = int(name.split(".layers.")[1].split(".")[0])
            assert rate == 0.5 ** (layers - depth)
        elif "embeddings" in name:
            assert rate == 0.5 ** (layers + 1)


def test_penalties_are_added_to_the_loss(small_clip: Path) -> None:
    recipe = replace(RECIPES["svd"], orthogonality=1.0, spectrum=1.0)
    module, prepared, side = module_of(small_clip, recipe)
    plain = TrainedModule(module, recipe, None).train()
    model = TrainedModule(module, recipe, prepared.penalty).train()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(".s"):
                parameter.mul_(2)
    pixels = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    difference = model(pixels, labels)["loss"] - plain(pixels, labels)["loss"]
    layers = [m for m in module.modules() if hasattr(m, "orthogonality")]
    expected = np.mean([(m.orthogonality() + m.spectrum()).item() for m in layers])
    assert difference.item() == pytest.approx(expected, abs=1e-5)
    assert expected > 0


def test_a_rank_above_the_matrix_is_refused(small_clip: Path) -> None:
    with pytest.raises(TrainingError, match=r"_proj.*rank 100000 leaves nothing.*lower rank"):
        module_of(small_clip, replace(RECIPES["svd"], rank=100000))


@pytest.mark.parametrize("method", ["layernorm", "svd", "lora"])
def test_a_method_that_finds_nothing_says_which_do(method: str) -> None:
    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))
    encoder = Encoder(model, "pooler_output", squash(32))
    with pytest.raises(
        TrainingError,
        match=rf"ResNetModel has no .* --method {method} has .*: "
        rf"it takes --method head, full$".replace(": ", "; "),
    ):
        prepare(encoder, RECIPES[method])
