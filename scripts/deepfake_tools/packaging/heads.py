"""An encoder's feature in, a linear head on it out: its tensors and how they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from clip_deepfake.card import EncoderCard, Feature, HeadCard, ModelSource
from torch import Tensor, nn

from deepfake_tools.labels import FAKE, REAL, WORDS, Label, name_labels, name_words
from deepfake_tools.packaging.hub import BuildError

LABEL_WORDS: Mapping[str, Label] = {
    **WORDS,
    "ai": FAKE,
    "artificial": FAKE,
    "generated": FAKE,
    "authentic": REAL,
    "genuine": REAL,
    "human": REAL,
    "realism": REAL,
    "realistic": REAL,
}
"""Of classifiers' labels: two that face each other say more than a directory's name does."""

NEGATIONS = frozenset(("no", "non", "not", "without"))
"""In a label they turn round what its other words say, or do not."""


@dataclass(frozen=True)
class Head:
    """A linear layer and its reading.

    Attributes:
        card: what the archive says of it.
        tensors: ``weight`` (outputs, feature size) and ``bias`` (outputs,), float32.
    """

    card: HeadCard
    tensors: dict[str, Tensor]


def untrained_head(encoder: EncoderCard, feature: Feature) -> Head:
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
        fake_indices=(1,),
        threshold=0.5,
    )
    return Head(card, {name: tensor.detach() for name, tensor in layer.state_dict().items()})


def classifier_head(
    tensors: Mapping[str, Tensor], labels: Sequence[str], fake: Sequence[int], model: ModelSource
) -> Head:
    """Takes the head of a whole classifier as it is.

    Args:
        tensors: ``weight`` (labels, feature size) and ``bias`` (labels,).
        labels: of its outputs, in order.
        fake: which of them mean FAKE; their probabilities are added.
        model: where it comes from.
    """
    card = HeadCard(
        source="trained",
        description=f"the classifier of {model.name}, whose outputs are {', '.join(labels)}",
        feature="classifier_input",
        l2_normalize=False,
        outputs=len(labels),
        fake_indices=tuple(fake),
        threshold=0.5,
        file=model.weights_file,
        sha256=model.weights_sha256,
    )
    return Head(card, dict(tensors))


def fake_outputs(labels: Sequence[str], chosen: Sequence[str], name: str) -> tuple[int, ...]:
    """Finds which outputs of a classifier mean FAKE.

    Args:
        labels: of its outputs, in order.
        chosen: those that mean FAKE, as the user says; none reads it off two plain labels.
        name: of the model.

    Raises:
        BuildError: when a chosen label is not among them, all are chosen, or they do not say it
            plainly: a guess would turn every verdict round where it is wrong.
    """
    known = f"its labels are {', '.join(map(repr, labels))}"
    if strange := [label for label in chosen if label not in labels]:
        raise BuildError(f"{name} has no label {strange[0]!r}; {known}")
    if chosen:
        fake = tuple(index for index, label in enumerate(labels) if label in chosen)
    else:
        meanings = [_meaning(label) for label in labels]
        if len(meanings) != 2 or set(meanings) != {REAL, FAKE}:
            raise BuildError(
                f"{name} does not say plainly which of its outputs means fake: {known}; say it "
                "with --fake-label NAME ..., or take its encoder alone with --feature"
            )
        fake = (meanings.index(FAKE),)
    if len(fake) == len(labels):
        raise BuildError(f"{name}: --fake-label names all labels, so nothing is real; {known}")
    return fake


def _meaning(label: str) -> Label | None:
    """What a label's words stand for; None where that is nothing, both, or not plain."""
    meanings = name_labels(label, LABEL_WORDS)
    if len(meanings) != 1 or not NEGATIONS.isdisjoint(name_words(label)):
        return None
    return next(iter(meanings))
