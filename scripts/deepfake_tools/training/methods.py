"""What of an encoder each method trains, and how it becomes plain weights again."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from clip_deepfake.encoder import DetectorModule, Encoder
from peft import LNTuningConfig, LNTuningModel, LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import PreTrainedModel

from deepfake_tools.packaging.encoders import LAYER
from deepfake_tools.training.dataset import TrainingError
from deepfake_tools.training.recipes import Method, Recipe
from deepfake_tools.training.residual import ResidualLinear

ADAPTER = "default"
"""peft's name for the only adapter that there is."""

Penalty = Callable[[], Tensor]


@dataclass(frozen=True)
class Prepared:
    """An encoder whose trained parameters, and no others, ask for gradients.

    Attributes:
        penalty: what is added to the loss of a step; None where nothing is.
        merge: puts plain weights back in the place of what was trained.
    """

    penalty: Penalty | None
    merge: Callable[[], None]


def prepare(encoder: Encoder, recipe: Recipe) -> Prepared:
    """Changes an encoder in place into what a recipe trains.

    Args:
        encoder: with float32 weights; what its feature does not depend on is left alone.
        recipe: names the method.

    Raises:
        TrainingError: when the encoder has no layers of the kind that the method trains.
    """
    encoder.requires_grad_(False)
    return METHODS[recipe.method](encoder, recipe)


def _nothing() -> None:
    """The weights are plain as they are."""


def _full(encoder: Encoder, recipe: Recipe) -> Prepared:
    encoder.requires_grad_(True)
    return Prepared(None, _nothing)


def _layernorm(encoder: Encoder, recipe: Recipe) -> Prepared:
    names = [name for name, m in encoder.model.named_modules() if isinstance(m, nn.LayerNorm)]
    _require(names, encoder.model, recipe.method, "LayerNorm")
    config = LNTuningConfig(target_modules=names)
    with warnings.catch_warnings():
        # That LayerNorm is no linear layer: the very class is made for it.
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        return _adapted(LNTuningModel(encoder.model, {ADAPTER: config}, ADAPTER))


def _lora(encoder: Encoder, recipe: Recipe) -> Prepared:
    names = attention_layers(encoder.model)
    _require(names, encoder.model, recipe.method, "linear layer of attention")
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=names,
    )
    return _adapted(LoraModel(encoder.model, {ADAPTER: config}, ADAPTER))


def _adapted(tuner: BaseTuner) -> Prepared:
    """Of peft's adapters, which lie within the model."""

    def merge() -> None:
        tuner.merge_and_unload(safe_merge=True)

    return Prepared(None, merge)


def _svd(encoder: Encoder, recipe: Recipe) -> Prepared:
    names = attention_layers(encoder.model)
    _require(names, encoder.model, recipe.method, "linear layer of attention")
    layers: dict[str, ResidualLinear] = {}
    for name in names:
        linear = encoder.model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        try:
            layers[name] = ResidualLinear(linear, recipe.rank, penalised=recipe.orthogonality > 0)
        except ValueError as error:
            raise TrainingError(f"{name}: {error}; take a lower rank") from error
        encoder.model.set_submodule(name, layers[name])

    def penalty() -> Tensor:
        total = torch.zeros((), device=next(iter(layers.values())).s.device)
        for layer in layers.values():
            if recipe.orthogonality:
                total = total + recipe.orthogonality * layer.orthogonality()
            if recipe.spectrum:
                total = total + recipe.spectrum * layer.spectrum()
        return total / len(layers)

    def merge() -> None:
        for name, layer in layers.items():
            encoder.model.set_submodule(name, layer.merged())

    return Prepared(penalty if recipe.orthogonality or recipe.spectrum else None, merge)


METHODS: Mapping[Method, Callable[[Encoder, Recipe], Prepared]] = {
    "layernorm": _layernorm,
    "svd": _svd,
    "lora": _lora,
    "full": _full,
}


def attention_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers within the attention of every layer: query, key, value, output."""
    names = []
    for outer, attention in model.named_modules():
        # The class is named so in each of transformers' vision models; the paths are not.
        if "Attention" not in type(attention).__name__ or not LAYER.search(f"{outer}."):
            continue
        names += [
            f"{outer}.{inner}"
            for inner, module in attention.named_modules()
            if type(module) is nn.Linear
        ]
    return list(dict.fromkeys(names))


def _require(names: list[str], model: PreTrainedModel, method: Method, what: str) -> None:
    if names:
        return
    others = [other for other in METHODS if other != method and _knows(other, model)]
    raise TrainingError(
        f"{type(model).__name__} has no {what}, so --method {method} has nothing to train; it "
        f"takes --method {', '.join(['head', *others])}"
    )


def _knows(method: Method, model: PreTrainedModel) -> bool:
    if method == "layernorm":
        return any(isinstance(module, nn.LayerNorm) for module in model.modules())
    return method == "full" or bool(attention_layers(model))


def freeze_unread(module: DetectorModule, side: int) -> None:
    """Leaves out of the training whatever the logits do not depend on, found by computing some.

    Such a parameter gets no gradient, which several processes would wait for.

    Args:
        module: prepared.
        side: of its input, in pixels.
    """
    pixels = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    module(pixels).sum().backward()
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


def parameter_groups(module: DetectorModule, recipe: Recipe) -> list[dict[str, object]]:
    """Trained parameters by their rate of learning, for an optimiser.

    The head and what follows the last layer learn at the recipe's rate, each layer at
    ``layer_decay`` times that of the one above, and what precedes the first as if it were one.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    found = [int(m[1]) for name, _ in named if (m := LAYER.search(name))]
    top = max(found, default=-1) + 1
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in named:
        match = LAYER.search(name)
        depth = int(match[1]) if match else _depth_of_rest(name, top)
        groups.setdefault(depth, []).append(parameter)
    return [
        {"params": groups[d], "lr": recipe.learning_rate * recipe.layer_decay ** (top - d)}
        for d in sorted(groups)
    ]


def _depth_of_rest(name: str, top: int) -> int:
    return -1 if "embeddings" in name or "pre_layrnorm" in name else top
