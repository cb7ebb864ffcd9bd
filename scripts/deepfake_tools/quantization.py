"""A float32 detector and images in, its int8 graph with what that changed out."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from clip_deepfake.card import Card, Quantization, SelfTest
from clip_deepfake.cores import has_int8_dot_product
from clip_deepfake.detector import Detector, self_test_pixels
from clip_deepfake.engines import Engine, Pixels
from clip_deepfake.faces import Aligner
from clip_deepfake.labels import Label
from clip_deepfake.tensors import FloatArray
from clip_deepfake.verdicts import fake_margin, sigmoid

from deepfake_tools.calibration import Calibration, Sample, read_calibration
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.hub import BuildError

LEAST_AGREEMENT = 0.99
"""Of labels, on the images that calibration did not see."""

BATCH = 8

Margins = npt.NDArray[np.float64]
"""``verdicts.fake_margin`` of each picture, (pictures,)."""


@dataclass(frozen=True)
class QuantizationOptions:
    """How to quantise.

    Attributes:
        folder: of images.
        max_deviation: the largest mean change of ``fake_probability`` to accept.
        overflow_fix: whether weights keep to half the range, for processors without VNNI.
    """

    folder: Path
    max_deviation: float = 0.02
    overflow_fix: bool = False


@dataclass(frozen=True)
class Quantized:
    """An int8 encoder.

    Attributes:
        graph: OpenVINO's, from uint8 pixels to float32 features.
        card: says what it changed, and how far the self-test may be off.
    """

    graph: Any
    card: Card


def quantize(
    card: Card,
    graph: Any,
    head: dict[str, FloatArray],
    aligner: Aligner | None,
    options: QuantizationOptions,
    report: Callable[[str], None],
) -> Quantized:
    """Quantises an encoder and measures what that does to the detector.

    Args:
        card: of the float32 detector, its self-test included.
        graph: of the float32 encoder, OpenVINO's.
        head: ``weight`` and ``bias``.
        aligner: where the card aligns faces.
        options: images, and how.
        report: told each step in words.

    Returns:
        The graph, and the card of the int8 detector.

    Raises:
        BuildError: when NNCF or images are missing, this processor cannot measure the result, or
            the verdicts change by more than the options accept.
    """
    from clip_deepfake.openvino_engine import LinearHead, OpenVinoEngine

    linear = LinearHead(card.head, head, card.encoder.feature_size(card.head.feature))
    exact = OpenVinoEngine(graph, linear, "float32")
    report(f"reading {options.folder} ...")
    images = read_calibration(options.folder, Detector(card, exact, aligner))
    report(
        f"calibrating on {len(images.calibrate.pixels)} images, measuring on "
        f"{len(images.measure.pixels)} others"
        + (f" ({images.unused} left out: broken or repeated)" if images.unused else "")
        + " ..."
    )
    graph = _calibrate(graph, images.calibrate.pixels, overflow_fix=options.overflow_fix)
    rounded = OpenVinoEngine(graph, linear, "int8")
    quantization = _measure(card, exact, rounded, images, options)
    report(describe(quantization))
    _refuse_deviation(quantization, options)
    return Quantized(
        graph,
        msgspec.structs.replace(
            card,
            precision="int8",
            quantization=quantization,
            self_test=_self_test(card, rounded),
        ),
    )


def describe(quantization: Quantization) -> str:
    """What int8 changed, in a sentence."""
    areas = ""
    if quantization.float32_auc is not None:
        areas = f"; AUC {quantization.int8_auc:.4f} instead of {quantization.float32_auc:.4f}"
    return (
        f"int8 changes fake_probability by {quantization.mean_change:.4f} on average and "
        f"{quantization.largest_change:.4f} at most; {quantization.agreement:.2%} of "
        f"{quantization.images} labels are the same{areas}"
    )


def refuse_what_cannot_be(options: QuantizationOptions) -> None:
    """Says what is missing here, before anything is fetched.

    Raises:
        BuildError: when NNCF is, or this processor cannot measure the result.
    """
    try:
        require_extra("--precision int8", extra="int8")
    except MissingExtraError as error:
        raise BuildError(str(error)) from error
    if not options.overflow_fix and not has_int8_dot_product():
        raise BuildError(
            "this processor has no int8 dot product (VNNI), so the quantised detector cannot be "
            "measured here: give --overflow-fix, or build on a machine that has it"
        )


def _calibrate(graph: Any, pixels: Pixels, *, overflow_fix: bool) -> Any:
    """NNCF's post-training quantisation, with its settings for transformers."""
    import nncf  # type: ignore[import-untyped, unused-ignore]

    from deepfake_tools.topology import name_in_order

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


def _measure(
    card: Card,
    exact: Engine,
    rounded: Engine,
    images: Calibration,
    options: QuantizationOptions,
) -> Quantization:
    ranks = [margins(card, engine, images.measure) for engine in (exact, rounded)]
    before, after = (np.array([sigmoid(margin) for margin in some]) for some in ranks)
    change = np.abs(after - before)
    threshold = card.head.threshold
    return Quantization(
        calibrated=len(images.calibrate.pixels),
        images=len(images.measure.pixels),
        sha256=images.sha256,
        mean_change=round(float(change.mean()), 6),
        largest_change=round(float(change.max()), 6),
        agreement=round(float(((before > threshold) == (after > threshold)).mean()), 6),
        float32_auc=_auc(images.measure.labels, ranks[0]),
        int8_auc=_auc(images.measure.labels, ranks[1]),
        overflow_fix=options.overflow_fix,
    )


def margins(card: Card, engine: Engine, sample: Sample) -> Margins:
    """What an engine makes of each picture of a sample, float64 (pictures,)."""
    logits = [
        row
        for start in range(0, len(sample.pixels), BATCH)
        for row in engine(sample.pixels[start : start + BATCH])
    ]
    return np.array([fake_margin(row, card.head) for row in logits])


def _auc(labels: Sequence[Label | None], scores: Margins) -> float | None:
    known = [index for index, label in enumerate(labels) if label is not None]
    truth = [labels[index] for index in known]
    if len(set(truth)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(truth, scores[known])), 6)


def _self_test(card: Card, rounded: Engine) -> SelfTest:
    """Twice what int8 is off by here, and a hundredth of the logits' size for other processors."""
    found = rounded(self_test_pixels(card.encoder.image_size))[0]
    wanted = np.array(card.self_test.logits)
    margin = 0.01 * max(1.0, float(np.abs(wanted).max()))
    tolerance = round(2 * float(np.abs(found - wanted).max()) + margin, 4)
    return SelfTest(card.self_test.logits, tolerance)


def _refuse_deviation(quantization: Quantization, options: QuantizationOptions) -> None:
    reasons = []
    if quantization.mean_change > options.max_deviation:
        reasons.append(
            f"the mean change {quantization.mean_change:.4f} is above --max-deviation "
            f"{options.max_deviation}"
        )
    if quantization.agreement < LEAST_AGREEMENT:
        reasons.append(
            f"{quantization.agreement:.2%} of labels agree, fewer than {LEAST_AGREEMENT:.0%}"
        )
    if reasons:
        raise BuildError(
            f"int8 changes the verdicts too much: {' and '.join(reasons)}. Give --calibration "
            f"more images, and such as the detector will see ({quantization.calibrated} were "
            "used), leave out --overflow-fix, or build with --precision float32"
        )
