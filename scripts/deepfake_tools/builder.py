"""The parts of a detector in, a verified archive in the store out."""

import importlib.metadata
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from clip_deepfake.card import (
    ENCODER_FILE,
    GRAPH_FILE,
    GRAPH_WEIGHTS_FILE,
    HEAD_FILE,
    LANDMARKS_FILE,
    Card,
    Precision,
    SelfTest,
)
from clip_deepfake.detector import self_test_pixels
from clip_deepfake.digests import file_digest
from clip_deepfake.encoder import Encoder, build_module, load_encoder
from clip_deepfake.engines import DTYPES
from clip_deepfake.errors import LoadError
from clip_deepfake.faces import Aligner, FaceAlignment
from clip_deepfake.frontal import import_dlib
from clip_deepfake.torch_engine import TorchEngine
from openvino import save_model
from safetensors import SafetensorError
from safetensors.torch import save_file

from deepfake_tools.archive import ServingOptions, write_archive
from deepfake_tools.build_options import BuildOptions
from deepfake_tools.hub import BuildError
from deepfake_tools.inspection import NAME, VERSION, ArchiveName
from deepfake_tools.memory import is_out_of_memory
from deepfake_tools.quantization import QuantizationOptions, quantize, refuse_what_cannot_be
from deepfake_tools.sources import Parts, gather
from deepfake_tools.store import next_version
from deepfake_tools.time_limits import response_timeout_s
from deepfake_tools.topology import store_as, trace, write_with_weights

LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "safetensors",
    "torch",
    "transformers",
)
INT8_LIBRARIES = ("nncf",)


@dataclass(frozen=True)
class Built:
    """An archive in the store.

    Attributes:
        path: of the archive.
        sha256: of its bytes.
        card: that it holds.
    """

    path: Path
    sha256: str
    card: Card


def build(options: BuildOptions, report: Callable[[str], None]) -> Built:
    """Builds an archive.

    Args:
        options: what to build.
        report: told each step in words.

    Raises:
        BuildError: when there can be no archive; then none is left behind either.
    """
    # What cannot be is refused before anything is fetched.
    _target(options, options.served_name or "unnamed")
    if options.quantization is not None:
        refuse_what_cannot_be(options.quantization)
    faces = _alignment(options)
    parts = gather(options, report)
    target = _target(options, options.served_name or parts.name)
    if faces is not None:
        faces = msgspec.structs.replace(faces, size=parts.preprocessing.face_side)
    card = Card(
        schema=1,
        name=target.name,
        version=target.version,
        model=parts.model,
        encoder=parts.tower.config,
        head=parts.head.card,
        preprocessing=parts.preprocessing,
        # Until it is quantised, it is what it will be compared with.
        precision="float32" if options.quantization else options.precision,
        limits=options.limits,
        files={},
        self_test=SelfTest([], 1.0),
        built_with=_versions(options, faces),
        faces=faces,
        engine=options.engine,
    )
    report("computing the self-test's logits ...")
    encoder = _load(card, parts)
    card = msgspec.structs.replace(card, self_test=_self_test(card, encoder, parts))
    report("tracing the encoder for OpenVINO ...")
    graph = trace(encoder, card.encoder.image_size)
    if options.quantization is not None:
        card, graph = _quantize(card, graph, parts, options, options.quantization, report)
    report("packing ...")
    return _pack(card, graph, parts, options)


def _target(options: BuildOptions, name: str) -> ArchiveName:
    if not NAME.fullmatch(name):
        raise BuildError(
            f"{name!r} is no name for URLs and files: choose one of up to 200 letters and digits, "
            "with . _ - in between, by --served-name"
        )
    version = next_version(options.store, name) if options.version is None else options.version
    if not VERSION.fullmatch(version):
        raise BuildError(
            f"--version {version!r} is none: give numbers without leading zeros, with dots "
            "between, such as 2 or 1.0"
        )
    return ArchiveName(name, version)


def _alignment(options: BuildOptions) -> FaceAlignment | None:
    try:
        return None if options.faces is None else options.faces.alignment()
    except LoadError as error:
        raise BuildError(str(error)) from error


def _versions(options: BuildOptions, faces: FaceAlignment | None) -> dict[str, str]:
    """Library versions, without the part that tells a CPU build from a CUDA build."""
    libraries = LIBRARIES + (INT8_LIBRARIES if options.quantization else ())
    found = {library: _version(library) for library in libraries}
    if faces is not None:
        # Its wheels and its sources are two packages, of which one is installed.
        found["dlib"] = import_dlib().__version__
    return {library: version.partition("+")[0] for library, version in found.items()}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError as error:
        raise BuildError(
            f"{library} is not installed: pip install 'clip-deepfake[build,int8]'"
        ) from error


def _load(card: Card, parts: Parts) -> Encoder:
    tensors = {name: tensor.float() for name, tensor in parts.tower.tensors.items()}
    try:
        return load_encoder(card.encoder, card.head.feature, card.preprocessing, tensors)
    except LoadError as error:
        raise BuildError(f"{parts.model.name}: {error}") from error


def _self_test(card: Card, encoder: Encoder, parts: Parts) -> SelfTest:
    """The logits of transformers' own model, as it is: whatever serves is compared with them."""
    width = card.encoder.feature_size(card.head.feature)
    module = build_module(encoder, card.head, parts.head.tensors, width)
    engine = TorchEngine(module, torch.device("cpu"))
    logits = engine(self_test_pixels(card.encoder.image_size))[0].tolist()
    if not all(map(math.isfinite, logits)):
        raise BuildError(
            f"{parts.model.name} under {parts.head.card.description}: the logits of the self-test "
            f"are {logits}, so that no image would get a verdict; the weights are damaged, or do "
            f"not fit {card.precision}"
        )
    return SelfTest([round(value, 4) for value in logits], _tolerance(card.precision, logits))


def _tolerance(precision: Precision, logits: list[float]) -> float:
    """How far an engine that computes in this precision may be off.

    Eight units in the last place of the largest logit: roundings of a dozen or two layers add up
    like a random walk, and the card's own logits are float32's.
    """
    scale = max(1.0, *(abs(value) for value in logits))
    return round(max(8 * torch.finfo(DTYPES[precision]).eps * scale, 1e-3), 4)


def _quantize(
    card: Card,
    graph: Any,
    parts: Parts,
    options: BuildOptions,
    quantization: QuantizationOptions,
    report: Callable[[str], None],
) -> tuple[Card, Any]:
    head = {name: tensor.numpy() for name, tensor in parts.head.tensors.items()}
    aligner = None
    if options.faces is not None and card.faces is not None:
        aligner = Aligner(options.faces.predictor, card.faces)
    quantized = quantize(card, graph, head, aligner, quantization, report)
    return quantized.card, quantized.graph


def _pack(card: Card, graph: Any, parts: Parts, options: BuildOptions) -> Built:
    options.store.mkdir(parents=True, exist_ok=True)
    target = options.store / ArchiveName(card.name, card.version).file_name
    # Hidden from TorchServe by its dot; in the store, so that the last step is a mere rename.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=options.store) as scratch:
        weights = _write_encoder(card, graph, parts, Path(scratch))
        weights[HEAD_FILE] = Path(scratch, HEAD_FILE)
        save_file(parts.head.tensors, weights[HEAD_FILE])
        if options.faces is not None:
            weights[LANDMARKS_FILE] = options.faces.predictor
        digests = {name: file_digest(path) for name, path in weights.items()}
        card = msgspec.structs.replace(card, files=digests)
        partial = Path(scratch, target.name)
        write_archive(partial, card, weights, _serving(card, options.serving))
        sha256 = file_digest(partial)
        _refuse_other_content(target, sha256, options.force)
        partial.replace(target)
    return Built(target, sha256, card)


def _serving(card: Card, wanted: ServingOptions) -> ServingOptions:
    if wanted.response_timeout_s is not None:
        return wanted
    return replace(wanted, response_timeout_s=response_timeout_s(card, wanted.batch_size))


def _write_encoder(card: Card, graph: Any, parts: Parts, folder: Path) -> dict[str, Path]:
    """Writes one copy of the encoder, and returns its files by their names in the archive."""
    quantized = card.quantization is not None
    names = (GRAPH_FILE, GRAPH_WEIGHTS_FILE if quantized else ENCODER_FILE)
    files = {name: folder / name for name in names}
    try:
        if quantized:
            # Without this it halves what is still float32.
            save_model(graph, files[GRAPH_FILE], compress_to_fp16=False)
        else:
            store_as(graph, parts.tower.tensors)
            write_with_weights(graph, parts.tower.tensors, files[GRAPH_FILE], files[ENCODER_FILE])
    except (RuntimeError, SafetensorError) as error:
        # OpenVINO has no other error for a disk that is full.
        if is_out_of_memory(error):
            raise
        raise BuildError(
            f"the encoder cannot be written: {error}; is the disk full? no archive was written"
        ) from error
    return files


def _refuse_other_content(target: Path, sha256: str, force: bool) -> None:
    if force or not target.exists() or file_digest(target) == sha256:
        return
    raise BuildError(
        f"{target} exists with other content; leave out --version for the next free number, or "
        "replace it with --force (never while it is served: going back would be impossible)"
    )
