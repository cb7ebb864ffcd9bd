"""Half precision: what rounded weights change, on every backend that computes with them."""

from dataclasses import replace

import msgspec
from clip_deepfake.card import Card, Precision, SelfTest
from clip_deepfake.system import has_bfloat16

from deepfake_tools.packaging.backends import (
    Backend,
    Tensors,
    Traced,
    emulation,
    openvino_backend,
    torch_engine,
)
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


def measure_half(
    traced: Traced,
    precision: Precision,
    parts: Parts,
    reference: Reference,
    measuring: Measuring,
    report: Report,
) -> Traced:
    """Measures a detector of rounded weights on every way in which it is computed.

    Args:
        traced: the detector that computes in float32 with the rounded weights.
        precision: ``bfloat16`` or ``float16``.
        parts: of it.
        reference: the detector before its weights were rounded.
        measuring: says what to accept.
        report: told the result in words.

    Returns:
        It, with what was measured on its card.

    Raises:
        BuildError: when the verdicts change by more than the options accept, or are none.
    """
    report(f"measuring what {precision} changes ...")
    card, tensors, head = traced.card, parts.tower.tensors, parts.head.tensors
    # Before the others are made, so that its copy of the weights has gone.
    fixed = _fixed(card, tensors, head)
    backends = _backends(traced, precision, tensors, head)
    first = backends[0] if backends else openvino_backend(traced, head, precision)
    deviation = measure(card.head, reference, first.engine, first.description)
    report(describe(precision, deviation))
    refuse_too_large(
        precision, deviation, measuring.max_deviation, "Accept more with --max-deviation"
    )
    off = max((farthest(fixed, backend.engine) for backend in backends), default=0.0)
    card = msgspec.structs.replace(
        card,
        precision=precision,
        deviation=deviation,
        self_test=SelfTest(card.self_test.logits, tolerance(fixed, off)),
    )
    return replace(traced, card=card)


def _fixed(card: Card, tensors: Tensors, head: Tensors) -> Reference:
    """What the rounded weights make of the fixed pictures in float32."""
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    exact = torch_engine(card, widened, head)
    return refer(exact, fixed_sample(card.encoder.image_size))


def _backends(
    traced: Traced, precision: Precision, tensors: Tensors, head: Tensors
) -> list[Backend]:
    """Those that round, this machine's own first; none where OpenVINO widens float16 again."""
    card, backends = traced.card, []
    if precision == "bfloat16" and card.engine != "torch" and has_bfloat16():
        backends.append(openvino_backend(traced, head, precision))
    if card.engine != "openvino" or (precision == "bfloat16" and not backends):
        backends.append(emulation(card, tensors, head, precision))
    return backends
