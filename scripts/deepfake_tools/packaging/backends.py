"""The engines of workers on this machine and on others, for the builder to measure.

What rounds is not the same everywhere. OpenVINO multiplies in bfloat16 on a processor that has it,
PyTorch rounds every result on a GPU, in either half precision, and other CPUs compute in float32
with the rounded weights. A builder measures the first where its processor does that, and emulates
the second by PyTorch on the CPU, which rounds the same results.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from clip_deepfake.card import Card, Precision
from clip_deepfake.encoder import build_module, load_encoder
from clip_deepfake.engines import DTYPES, Engine
from clip_deepfake.openvino_engine import LinearHead, OpenVinoEngine
from clip_deepfake.torch_engine import TorchEngine
from torch import Tensor

CPU = torch.device("cpu")

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Traced:
    """A detector with its graph.

    Attributes:
        card: with the self-test's logits.
        graph: OpenVINO's, of the encoder, from uint8 pixels to float32 features.
        explanation: takes features apart; None where none does.
    """

    card: Card
    graph: Any
    explanation: Any = None


@dataclass(frozen=True)
class Backend:
    """How some worker computes.

    Attributes:
        engine: that does so here.
        description: the engine's name; where it only emulates, this too.
    """

    engine: Engine
    description: str


def torch_engine(card: Card, tensors: Tensors, head: Tensors) -> TorchEngine:
    """PyTorch on the CPU, in the precision of the tensors.

    Args:
        card: of the detector.
        tensors: of its encoder.
        head: ``weight`` and ``bias``.

    Raises:
        LoadError: when they do not fit the card.
    """
    feature = card.head.feature
    encoder = load_encoder(card.encoder, feature, card.preprocessing, tensors)
    width = card.encoder.feature_size(feature)
    return TorchEngine(build_module(encoder, card.head, head, width), CPU)


def emulation(card: Card, tensors: Tensors, head: Tensors, precision: Precision) -> Backend:
    """Every result rounded to half precision, as on a GPU; arguments as ``torch_engine``'s."""
    rounded = {name: tensor.to(DTYPES[precision]) for name, tensor in tensors.items()}
    engine = torch_engine(card, rounded, head)
    return Backend(engine, f"emulated by rounding ({engine.name})")


def openvino_backend(
    traced: Traced, head: Tensors, precision: Precision, *, bfloat16: bool | None = None
) -> Backend:
    """OpenVINO on the CPU.

    Args:
        traced: the detector.
        head: ``weight`` and ``bias``.
        precision: of the detector.
        bfloat16: as ``OpenVinoEngine`` has it.

    Raises:
        LoadError: when the head does not fit the card.
    """
    card = traced.card
    weights = {name: tensor.numpy() for name, tensor in head.items()}
    linear = LinearHead(card.head, weights, card.encoder.feature_size(card.head.feature))
    engine = OpenVinoEngine(traced.graph, linear, precision, bfloat16=bfloat16)
    return Backend(engine, engine.name)
