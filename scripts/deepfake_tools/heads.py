"""The width of a feature in, a linear head out: its tensors and how they are read."""

from dataclasses import dataclass

import torch
from clip_deepfake.card import EncoderConfig, Feature, HeadCard
from torch import Tensor, nn


@dataclass(frozen=True)
class Head:
    """A linear layer and its reading.

    Attributes:
        card: what the archive says of it.
        tensors: ``weight`` (outputs, feature size) and ``bias`` (outputs,), float32.
    """

    card: HeadCard
    tensors: dict[str, Tensor]


def untrained_head(encoder: EncoderConfig, feature: Feature = "pooler_output") -> Head:
    """Makes a head that shows that the plumbing works, and nothing else.

    It is ``nn.Linear`` to two logits in torch's default initialisation under
    ``torch.manual_seed(0)``: the same for every feature of a width.

    Raises:
        LoadError: when the encoder does not have the feature.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(encoder.feature_size(feature), 2)
    card = HeadCard(
        source="untrained",
        description="random weights (torch.manual_seed(0)); its verdicts mean nothing",
        feature=feature,
        l2_normalize=False,
        outputs=2,
        fake_index=1,
        threshold=0.5,
    )
    return Head(card, {name: tensor.detach() for name, tensor in layer.state_dict().items()})
