import msgspec
import pytest
import torch
from clip_deepfake.encoder import read_class_token_alone
from clip_deepfake.errors import LoadError

from tests.unit.towers import module_of, reference, shape_of

SHAPES = {
    "plain": {},
    "one layer": {"num_hidden_layers": 1},
    "patches that do not fill the side": {"image_size": 50, "patch_size": 16},
    "gelu": {"hidden_act": "gelu"},
    "wide eps": {"layer_norm_eps": 1e-3},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("feature", ["pooler_output", "image_embeds"])
@pytest.mark.parametrize("alone", [False, True])
def test_features_are_those_of_transformers(
    shape: str, feature: str, alone: bool, small_card
) -> None:  # type: ignore[no-untyped-def]
    model = reference(**SHAPES[shape])
    config = shape_of(model)
    head = msgspec.structs.replace(small_card.head, feature=feature)
    card = msgspec.structs.replace(small_card, encoder=config, head=head)
    linear = torch.nn.Linear(config.feature_size(head.feature), 2)
    module = module_of(card, model.state_dict(), linear.state_dict())
    if alone:
        read_class_token_alone(module.encoder)

    side = config.image_size
    pixels = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8)
    mean, std = torch.tensor(card.preprocessing.mean), torch.tensor(card.preprocessing.std)
    values = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        outputs = model(values)
        pooled = model.vision_model(values).pooler_output
        expected = pooled if feature == "pooler_output" else outputs.image_embeds
        assert torch.allclose(module.feature(pixels), expected, atol=2e-5)
        assert torch.allclose(module(pixels), linear(expected), atol=2e-5)


def test_a_normalised_feature_has_length_one(small_card) -> None:  # type: ignore[no-untyped-def]
    model = reference()
    head = msgspec.structs.replace(small_card.head, l2_normalize=True)
    card = msgspec.structs.replace(small_card, encoder=shape_of(model), head=head)
    module = module_of(card, model.state_dict(), torch.nn.Linear(64, 2).state_dict())
    lengths = module.feature(torch.zeros(2, 48, 48, 3, dtype=torch.uint8)).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(2))


@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen"])
def test_tensors_that_do_not_fit_are_named(damage: str, small_card) -> None:  # type: ignore[no-untyped-def]
    model = reference()
    tensors = dict(model.state_dict())
    victim = "vision_model.post_layernorm.weight"
    if damage == "missing":
        del tensors[victim]
    elif damage == "extra":
        victim = "vision_model.surplus"
        tensors[victim] = torch.zeros(3)
    else:
        tensors[victim] = torch.zeros(65)
    card = msgspec.structs.replace(small_card, encoder=shape_of(model))
    with pytest.raises(LoadError, match=f"1 of the encoder's tensors.*{victim}"):
        module_of(card, tensors, torch.nn.Linear(64, 2).state_dict())


def test_an_unknown_activation_is_named(small_card) -> None:  # type: ignore[no-untyped-def]
    model = reference()
    shape = shape_of(model)
    config = msgspec.structs.replace(shape, config=shape.config | {"hidden_act": "mush"})
    card = msgspec.structs.replace(small_card, encoder=config)
    with pytest.raises(
        LoadError, match=r"cannot make a CLIPVisionModelWithProjection of this.*mush"
    ):
        module_of(card, model.state_dict(), torch.nn.Linear(64, 2).state_dict())
