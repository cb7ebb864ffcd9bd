"""Computes with OpenVINO on the CPU: uint8 pixels in, float32 logits out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from clip_deepfake.archive_files import FloatArray, check_shapes, load_arrays
from clip_deepfake.card import (
    ENCODER_FILE,
    EXPLANATION_FILE,
    GRAPH_FILE,
    GRAPH_WEIGHTS_FILE,
    HEAD_FILE,
    Card,
    HeadCard,
    Precision,
    Quantization,
)
from clip_deepfake.engines import (
    CPU_PASS,
    Contributions,
    Decompose,
    Features,
    Logits,
    Pixels,
)
from clip_deepfake.errors import LoadError
from clip_deepfake.system import (
    has_bfloat16,
    has_int8_dot_product,
    release_pages,
    threads_to_ask_for,
)

SMALLEST_NORM = 1e-12
"""As ``torch.nn.functional.normalize`` has it."""


class LinearHead:
    """The linear layer on the feature, in NumPy: two rows of a product need no engine."""

    def __init__(self, card: HeadCard, tensors: Mapping[str, FloatArray], width: int) -> None:
        """Checks the tensors.

        Args:
            card: says how the feature is read.
            tensors: ``weight`` (outputs, width) and ``bias`` (outputs,).
            width: of a feature.

        Raises:
            LoadError: when they are not these.
        """
        wanted = {"weight": (card.outputs, width), "bias": (card.outputs,)}
        check_shapes(wanted, {name: tensor.shape for name, tensor in tensors.items()}, "head")
        self._l2_normalize = card.l2_normalize
        self._weight, self._bias = tensors["weight"].T.copy(), tensors["bias"].copy()

    def read(self, features: Features) -> Features:
        """The features as the layer takes them, float32 (batch, width)."""
        if not self._l2_normalize:
            return features
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        return features / np.maximum(norms, SMALLEST_NORM)

    def __call__(self, features: Features) -> Logits:
        """Maps what ``read`` returned to float32 (batch, outputs)."""
        return features @ self._weight + self._bias

    def directions(self, weights: Logits) -> tuple[Features, Logits]:
        """What weighted logits multiply a feature by, and what they have without one.

        Args:
            weights: float32 (batch, outputs).

        Returns:
            Float32 (batch, width) and (batch,).
        """
        return weights @ self._weight.T, weights @ self._bias


class OpenVinoEngine:
    """Runs an encoder's graph with OpenVINO's CPU plugin, one batch at a time on all threads."""

    largest_pass = CPU_PASS

    def __init__(
        self,
        graph: ov.Model,
        head: LinearHead,
        precision: Precision,
        threads: int | None = None,
        *,
        bfloat16: bool | None = None,
        explanation: "GraphFiles | None" = None,
    ) -> None:
        """Compiles the graph.

        Args:
            graph: uint8 (batch, side, side, 3) to float32 features (batch, width).
            head: makes logits of features.
            precision: the card's. With ``bfloat16`` all is computed so, with ``int8`` what is not
                quantised, where the processor can; elsewhere, as with the others, in float32.
            threads: to compute with; None takes every core that this process may use.
            bfloat16: whether the processor can; None asks it.
            explanation: the graph that takes features apart, opened for the first who asks: it
                costs as much memory as the other. None where there is none.
        """
        can = has_bfloat16() if bfloat16 is None else bfloat16
        rounds = can and precision in ("bfloat16", "int8")
        compiled = _core().compile_model(graph, "CPU", _settings(threads, rounds=rounds))
        self._request = compiled.create_infer_request()
        self._head = head
        self.decompose: Decompose | None = None
        if explanation is not None:
            self.decompose = _Decomposer(explanation, head, _settings(threads, rounds=False))
        computed = "bfloat16" if rounds else "float32"
        self.exact = computed == "float32" and precision != "int8"
        quantised = "int8 and " if precision == "int8" else ""
        self.name = f"openvino cpu {quantised}{computed}"

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        return self._head(self.features(pixels))

    def features(self, pixels: Pixels) -> Features:
        """Maps uint8 (batch, side, side, 3) to what the head makes its logits of."""
        (features,) = self._request.infer([pixels], share_inputs=True).values()
        return self._head.read(features)


@dataclass(frozen=True)
class GraphFiles:
    """Where a graph is.

    Attributes:
        topology: in OpenVINO's XML.
        weights: that its constants lie in.
    """

    topology: Path
    weights: Path


class _Decomposer:
    """Takes products with the logits apart; opens its graph when it is first called."""

    def __init__(self, files: GraphFiles, head: LinearHead, settings: Mapping[str, Any]) -> None:
        self._files, self._head, self._settings = files, head, dict(settings)
        self._request: ov.InferRequest | None = None

    def __call__(self, pixels: Pixels, weights: Logits) -> Contributions:
        directions, alone = self._head.directions(weights)
        opened = self._request or self._open()
        (found,) = opened.infer([pixels, directions]).values()
        if self._request is None:
            # As with the engine's own: the first pass has copied what it needs.
            release_pages(self._files.weights)
            self._request = opened
        found[:, 0] += alone
        return found

    def _open(self) -> ov.InferRequest:
        graph = read_graph(self._files.topology, self._files.weights)
        return _core().compile_model(graph, "CPU", self._settings).create_infer_request()


@cache
def _core() -> ov.Core:
    """The one of this process, kept to its end.

    Each loads its CPU plugin, which gives the thread a signal stack and takes it away again when it
    goes; of two that overlap, the second leaves the first one's, and the next Ctrl-C is a crash.
    """
    return ov.Core()


def _settings(threads: int | None, *, rounds: bool) -> dict[str, Any]:
    settings = {
        # One stream answers a single image in half the time of two, and a batch as fast.
        "NUM_STREAMS": 1,
        # By itself it would round to bfloat16 wherever the processor can.
        "INFERENCE_PRECISION_HINT": "bf16" if rounds else "f32",
        # Two workers would both be bound to the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    wanted = threads_to_ask_for(threads)
    return settings if wanted is None else settings | {"INFERENCE_NUM_THREADS": wanted}


def open_openvino_engine(card: Card, directory: Path, threads: int | None = None) -> OpenVinoEngine:
    """Makes the engine of an unpacked archive.

    Args:
        card: says what the files hold.
        directory: holds the head, the encoder's graph, and its weights.
        threads: to compute with; None takes every core that this process may use.

    Raises:
        LoadError: when a file is missing or does not fit the card, or this processor would compute
            the quantised graph wrongly.
    """
    width = card.encoder.feature_size(card.head.feature)
    head = LinearHead(card.head, load_arrays(directory / HEAD_FILE), width)
    weights = directory / ENCODER_FILE
    if card.quantization is not None:
        _refuse_saturation(card.quantization)
        weights = directory / GRAPH_WEIGHTS_FILE
    graph = read_graph(directory / GRAPH_FILE, weights)
    explanation = None
    if EXPLANATION_FILE in card.files:
        explanation = GraphFiles(directory / EXPLANATION_FILE, weights)
    engine = OpenVinoEngine(graph, head, card.precision, threads, explanation=explanation)
    # The first pass copies the weights into the order that it computes in.
    engine(np.zeros((1, card.encoder.image_size, card.encoder.image_size, 3), np.uint8))
    release_pages(weights)
    return engine


def read_graph(path: Path, weights: Path) -> ov.Model:
    """Reads a graph whose constants lie in a file of weights, which is mapped, not copied.

    Args:
        path: of the topology, in OpenVINO's XML.
        weights: OpenVINO's own, or a safetensors file.

    Raises:
        LoadError: when OpenVINO cannot make a graph of them.
    """
    try:
        return _core().read_model(path, weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise LoadError(f"{path.name} is no graph that OpenVINO reads: {reason}") from error


def _refuse_saturation(quantization: Quantization) -> None:
    """Without such instructions, sums of int8 products overflow 16 bits and answers are wrong."""
    if not quantization.overflow_fix and not has_int8_dot_product():
        raise LoadError(
            "this processor has no int8 dot product (VNNI), and the archive's graph needs one: "
            "build it with --overflow-fix, or with --precision float32"
        )
