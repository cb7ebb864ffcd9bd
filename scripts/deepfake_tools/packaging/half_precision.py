"""A detector of rounded weights in, its card with what half precision changes out."""

from typing import Any

import msgspec
from clip_deepfake.card import Card, Precision, SelfTest
from clip_deepfake.system import has_bfloat16

from deepfake_tools.packaging.build_options import Measuring
from deepfake_tools.packaging.calibration import fixed_sample
from deepfake_tools.packaging.deviation import (
    Reference,
    describe,
    farthest,
    measure,
    refer,
    refuse_too_large,
    tolerance,
)
from deepfake_tools.packaging.sources import Parts, Report
from deepfake_tools.packaging.ways import Tensors, Way, emulation, openvino_way, torch_engine


def measure_half(
    card: Card,
    precision: Precision,
    graph: Any,
    parts: Parts,
    reference: Reference,
    measuring: Measuring,
    report: Report,
) -> Card:
    """Measures a detector of rounded weights on every way in which it is computed.

    Args:
        card: of the detector that computes in float32 with the rounded weights.
        precision: ``bfloat16`` or ``float16``.
        graph: of its encoder, OpenVINO's.
        parts: of it.
        reference: the detector before its weights were rounded.
        measuring: says what to accept.
        report: told the result in words.

    Returns:
        The card, with what was measured.

    Raises:
        BuildError: when the verdicts change by more than the options accept, or are none.
    """
    tensors, head = parts.tower.tensors, parts.head.tensors
    # Before the others are made, so that its copy of the weights has gone.
    fixed = _fixed(card, tensors, head)
    ways = _ways(card, precision, graph, tensors, head)
    first = ways[0] if ways else openvino_way(card, graph, head, precision)
    deviation = measure(card.head, reference, first.engine, first.said)
    report(describe(precision, deviation))
    refuse_too_large(
        precision, deviation, measuring.max_deviation, "Accept more with --max-deviation"
    )
    off = max((farthest(fixed, way.engine) for way in ways), default=0.0)
    return msgspec.structs.replace(
        card,
        precision=precision,
        deviation=deviation,
        self_test=SelfTest(card.self_test.logits, tolerance(fixed, off)),
    )


def _fixed(card: Card, tensors: Tensors, head: Tensors) -> Reference:
    """What the rounded weights make of the fixed pictures in float32."""
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    exact = torch_engine(card, widened, head)
    return refer(exact, fixed_sample(card.encoder.image_size))


def _ways(
    card: Card, precision: Precision, graph: Any, tensors: Tensors, head: Tensors
) -> list[Way]:
    """Those that round, this machine's own first; none where OpenVINO widens float16 again."""
    ways = []
    if precision == "bfloat16" and card.engine != "torch" and has_bfloat16():
        ways.append(openvino_way(card, graph, head, precision))
    if card.engine != "openvino" or (precision == "bfloat16" and not ways):
        ways.append(emulation(card, tensors, head, precision))
    return ways
