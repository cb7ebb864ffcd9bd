"""int8: quantises an encoder by NNCF on images, and measures what that changes."""

import contextlib
import sys
from typing import Any

import msgspec
from clip_deepfake.card import Quantization, SelfTest
from clip_deepfake.engines import Engine, Pixels
from clip_deepfake.system import has_bfloat16, has_int8_dot_product

from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.packaging.backends import Traced, emulation, openvino_backend
from deepfake_tools.packaging.build_options import Measuring
from deepfake_tools.packaging.calibration import Calibration, fixed_sample
from deepfake_tools.packaging.deviation import (
    Reference,
    describe,
    farthest,
    measure,
    refer,
    refuse_too_large,
    tolerance,
)
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.sources import Parts, Report


def quantize(
    traced: Traced,
    exact: Engine,
    parts: Parts,
    images: Calibration,
    measuring: Measuring,
    report: Report,
    *,
    overflow_fix: bool,
) -> Traced:
    """Quantises an encoder and measures what that does to the detector.

    Args:
        traced: the float32 detector, its self-test included.
        exact: computes with its graph.
        parts: of the float32 detector.
        images: to calibrate with, and to measure on.
        measuring: says what to accept.
        report: told each step in words.
        overflow_fix: whether weights keep to half the range, for processors without VNNI.

    Returns:
        The int8 detector, whose card says what that changed, and how far its self-test may be off.

    Raises:
        BuildError: when the verdicts change by more than the options accept.
    """
    card = traced.card
    calibrate, sample = images.split()
    report(
        f"calibrating on {len(calibrate.pixels)} images, measuring on {len(sample.pixels)} others "
        "..."
    )
    reference = refer(exact, sample)
    fixed = refer(exact, fixed_sample(card.encoder.image_size))
    quantized = Traced(card, _calibrate(traced.graph, calibrate.pixels, overflow_fix=overflow_fix))
    own = openvino_backend(quantized, parts.head.tensors, "int8")
    deviation = measure(card.head, reference, own.engine, own.description)
    report(describe("int8", deviation))
    refuse_too_large(
        "int8",
        deviation,
        measuring.max_deviation,
        "Give --calibration more images, and such as the detector will see "
        f"({len(calibrate.pixels)} were used), leave out --overflow-fix",
    )
    off = _off(quantized, parts, fixed)
    card = msgspec.structs.replace(
        card,
        precision="int8",
        quantization=Quantization(len(calibrate.pixels), calibrate.sha256, overflow_fix),
        deviation=deviation,
        self_test=SelfTest(card.self_test.logits, tolerance(fixed, off)),
    )
    return Traced(card, quantized.graph)


def refuse_what_cannot_be(*, overflow_fix: bool) -> None:
    """Says what is missing here, before anything is fetched.

    Raises:
        BuildError: when NNCF is, or this processor cannot measure the result.
    """
    try:
        require_extra("--precision int8", extra="int8")
    except MissingExtraError as error:
        raise BuildError(str(error)) from error
    if not overflow_fix and not has_int8_dot_product():
        raise BuildError(
            "this processor has no int8 dot product (VNNI), so the quantised detector cannot be "
            "measured here: give --overflow-fix, or build on a machine that has it"
        )


def _calibrate(graph: Any, pixels: Pixels, *, overflow_fix: bool) -> Any:
    """NNCF's post-training quantisation, with its settings for transformers."""
    import nncf  # type: ignore[import-untyped, unused-ignore]

    from deepfake_tools.packaging.topology import name_in_order

    fix = nncf.OverflowFix.ENABLE if overflow_fix else nncf.OverflowFix.DISABLE
    # Its progress bars are no result.
    with contextlib.redirect_stdout(sys.stderr):
        quantized = nncf.quantize(
            graph,
            nncf.Dataset([image[None] for image in pixels]),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pixels),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
    name_in_order(quantized)
    return quantized


def _off(quantized: Traced, parts: Parts, fixed: Reference) -> float:
    """The largest difference of a logit, on processors with bfloat16 and without.

    Args:
        quantized: the int8 graph, and the card of the float32 detector.
        parts: of the float32 detector.
        fixed: what that makes of the fixed pictures.
    """
    head = parts.head.tensors
    rest = {False, has_bfloat16()}
    backends = [openvino_backend(quantized, head, "int8", bfloat16=rounds) for rounds in rest]
    off = max(farthest(fixed, backend.engine) for backend in backends)
    if has_bfloat16():
        return off
    # What rounding the rest too may add to it.
    rounding = emulation(quantized.card, parts.tower.tensors, head, "bfloat16")
    return off + farthest(fixed, rounding.engine)
