"""Names and shapes of the parameters of transformers' vision models.

The shapes are read off the model itself, made once without memory and in sizes that occur nowhere
else, so that a side's number tells which of the model's sizes it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from clip_deepfake.encoder import model_class


@dataclass(frozen=True)
class Dimension:
    """A side of a tensor that differs from checkpoint to checkpoint.

    Attributes:
        name: what transformers' configuration calls it, where it is a setting.
        times: how often the side holds it.
    """

    name: str
    times: int = 1

    def __mul__(self, times: int) -> "Dimension":
        return Dimension(self.name, self.times * times)

    def __str__(self) -> str:
        return self.name if self.times == 1 else f"{self.times} {self.name}"


Shape = tuple[int | Dimension, ...]

SETTINGS = {
    "hidden_size": 128,
    "intermediate_size": 80,
    "projection_dim": 48,
    "patch_size": 7,
    "num_register_tokens": 5,
}
"""What tensors tell of a configuration, each with a number of its own in the model that is read."""

POSITIONS = "positions"
"""The one size that is no setting: a model with a table of positions has them for one image."""

_SIDE = 3
"""Of the image that is read, in patches."""

_SIZES = {number: Dimension(name) for name, number in SETTINGS.items()} | {
    _SIDE**2 + 1: Dimension(POSITIONS)  # the patches and the class token
}

FIRST_LAYER = ".0."
"""In the name of each parameter of a model's first layer, and in no other."""


HEAD_WIDTH = 64
"""What no checkpoint says, and every encoder that the families began with has."""


def configure(architecture: str, layers: int, settings: Mapping[str, int]) -> Any:
    """Makes a configuration; what it is not given is as transformers has it by default.

    Args:
        architecture: name of transformers' class of the model.
        layers: how many.
        settings: ``hidden_size`` among them, a multiple of ``HEAD_WIDTH``.

    Raises:
        LoadError: when the installed transformers has no such class.
    """
    kind: Any = model_class(architecture).config_class
    heads = settings["hidden_size"] // HEAD_WIDTH
    return kind(**settings, num_attention_heads=heads, num_hidden_layers=layers)


@cache
def read_shapes(architecture: str) -> dict[str, Shape]:
    """Reads the parameters of a model with one layer, in the order in which it has them.

    Args:
        architecture: name of transformers' class.

    Raises:
        LoadError: when the installed transformers has no such class.
    """
    image = {"image_size": _SIDE * SETTINGS["patch_size"]}
    config = configure(architecture, 1, SETTINGS | image)
    with torch.device("meta"):
        model = model_class(architecture)(config)
    return {
        name: tuple(_SIZES.get(side, side) for side in parameter.shape)
        for name, parameter in model.named_parameters()
    }
