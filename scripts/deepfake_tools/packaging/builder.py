"""Builds an archive: gathers the parts, computes the self-test, traces, measures, packs."""

import importlib.metadata
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import (
    ENCODER_FILE,
    EXPLANATION_FILE,
    GRAPH_FILE,
    GRAPH_WEIGHTS_FILE,
    HEAD_FILE,
    LANDMARKS_FILE,
    Card,
    Precision,
    SelfTest,
)
from clip_deepfake.decision import Decision, parse_decision
from clip_deepfake.detector import Preparer
from clip_deepfake.encoder import DetectorModule, Encoder, build_module, load_encoder
from clip_deepfake.engines import DTYPES
from clip_deepfake.errors import LoadError
from clip_deepfake.face_detector import import_dlib
from clip_deepfake.faces import Aligner, FaceAlignment
from clip_deepfake.loading import FLOAT32_TOLERANCE, self_test_pixels
from clip_deepfake.torch_engine import TorchEngine
from openvino import save_model
from safetensors import SafetensorError
from safetensors.torch import save_file

from deepfake_tools.files import read_regular
from deepfake_tools.inspection import NAME, VERSION, ArchiveName
from deepfake_tools.memory import is_out_of_memory
from deepfake_tools.packaging.archive import write_archive
from deepfake_tools.packaging.backends import Traced, openvino_backend
from deepfake_tools.packaging.build_options import BuildOptions
from deepfake_tools.packaging.calibration import Calibration, fixed_sample, read_calibration
from deepfake_tools.packaging.deviation import Reference, refer
from deepfake_tools.packaging.encoders import check_finite
from deepfake_tools.packaging.explanation import trace_explanation
from deepfake_tools.packaging.half_precision import measure_half
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.quantization import quantize, refuse_what_cannot_be
from deepfake_tools.packaging.serving_options import ServingOptions, response_timeout_s
from deepfake_tools.packaging.sources import Parts, Report, gather
from deepfake_tools.packaging.topology import store_as, trace, write_with_weights
from deepfake_tools.store import next_version

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


def build(options: BuildOptions, report: Report) -> Built:
    """Builds an archive.

    Args:
        options: what to build.
        report: told each step in words.

    Raises:
        BuildError: when there can be no archive; then none is left behind either.
    """
    # What cannot be is refused before anything is fetched.
    _target(options, options.served_name or "unnamed")
    if options.precision == "int8":
        refuse_what_cannot_be(overflow_fix=options.overflow_fix)
    decision = _read_decision(options)
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
        # What every other precision is made of, and compared with.
        precision="float32",
        limits=options.limits,
        files={},
        self_test=SelfTest([], 1.0),
        built_with=_versions(options, faces),
        faces=faces,
        engine=options.engine,
    )
    traced = _trace(card, parts, report)
    if options.precision == "float32":
        report("tracing how it explains itself ...")
        module = _module(card, _load(card, parts), parts)
        traced = replace(traced, explanation=trace_explanation(card, module, report))
    elif options.precision == "int8":
        traced = _quantize(traced, parts, options, report)
    else:
        reference = _refer(traced, parts, options, report)
        parts = _rounded(parts, options.precision)
        traced = _trace(card, parts, report)
        traced = measure_half(
            traced, options.precision, parts, reference, options.measuring, report
        )
    report("packing ...")
    return _pack(traced, parts, options, decision)


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


def _read_decision(options: BuildOptions) -> Decision | None:
    if options.decision is None:
        return None
    try:
        return parse_decision(read_regular(options.decision))
    except OSError as error:
        raise BuildError(f"--decision {options.decision}: {error.strerror}") from error
    except LoadError as error:
        raise BuildError(f"--decision {options.decision}: {error}") from error


def _alignment(options: BuildOptions) -> FaceAlignment | None:
    try:
        return None if options.faces is None else options.faces.alignment()
    except LoadError as error:
        raise BuildError(str(error)) from error


def _versions(options: BuildOptions, faces: FaceAlignment | None) -> dict[str, str]:
    """Library versions, without the part that tells a CPU build from a CUDA build."""
    libraries = LIBRARIES + (INT8_LIBRARIES if options.precision == "int8" else ())
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


def _trace(card: Card, parts: Parts, report: Report) -> Traced:
    """A detector that computes in float32, whatever its weights were rounded to."""
    report("computing the self-test's logits ...")
    encoder = _load(card, parts)
    card = msgspec.structs.replace(card, self_test=_self_test(card, encoder, parts))
    report("tracing the encoder for OpenVINO ...")
    return Traced(card, trace(encoder, card.encoder.image_size))


def _load(card: Card, parts: Parts) -> Encoder:
    tensors = {name: tensor.float() for name, tensor in parts.tower.tensors.items()}
    try:
        return load_encoder(card.encoder, card.head.feature, card.preprocessing, tensors)
    except LoadError as error:
        raise BuildError(f"{parts.model.name}: {error}") from error


def _self_test(card: Card, encoder: Encoder, parts: Parts) -> SelfTest:
    """The logits of transformers' own model, as it is: whatever serves is compared with them."""
    engine = TorchEngine(_module(card, encoder, parts), torch.device("cpu"))
    logits = engine(self_test_pixels(card.encoder.image_size))[0].tolist()
    if not all(map(math.isfinite, logits)):
        raise BuildError(
            f"{parts.model.name} under {parts.head.card.description}: the logits of the self-test "
            f"are {logits}, so that no image would get a verdict; the weights are damaged, or do "
            "not fit the head"
        )
    return SelfTest([round(value, 4) for value in logits], FLOAT32_TOLERANCE)


def _module(card: Card, encoder: Encoder, parts: Parts) -> DetectorModule:
    width = card.encoder.feature_size(card.head.feature)
    return build_module(encoder, card.head, parts.head.tensors, width)


def _read_images(folder: Path, card: Card, options: BuildOptions, report: Report) -> Calibration:
    """The images of --calibration, as the worker will prepare them."""
    aligner = None
    if options.faces is not None and card.faces is not None:
        aligner = Aligner(options.faces.predictor, card.faces)
    report(f"reading {folder} ...")
    preparer = Preparer(card.preprocessing, card.limits.max_pixels, aligner)
    images = read_calibration(folder, preparer)
    if images.unused:
        report(f"{images.unused} of its images are left out: broken or repeated")
    return images


def _quantize(traced: Traced, parts: Parts, options: BuildOptions, report: Report) -> Traced:
    folder = options.measuring.calibration
    if folder is None:
        raise BuildError("--precision int8 needs --calibration DIR: images like those to be judged")
    exact = openvino_backend(traced, parts.head.tensors, "float32").engine
    return quantize(
        traced,
        exact,
        parts,
        _read_images(folder, traced.card, options, report),
        options.measuring,
        report,
        overflow_fix=options.overflow_fix,
    )


def _refer(traced: Traced, parts: Parts, options: BuildOptions, report: Report) -> Reference:
    """What the detector makes of pictures before its weights are rounded."""
    card, folder = traced.card, options.measuring.calibration
    exact = openvino_backend(traced, parts.head.tensors, "float32").engine
    if folder is None:
        sample = fixed_sample(card.encoder.image_size)
    else:
        sample = _read_images(folder, card, options, report).whole()
    report(f"computing the float32 detector's logits of {len(sample.pixels)} pictures ...")
    return refer(exact, sample)


def _rounded(parts: Parts, precision: Precision) -> Parts:
    tower = parts.tower
    tensors = {name: tensor.to(DTYPES[precision]) for name, tensor in tower.tensors.items()}
    check_finite(tensors, parts.model.name)
    return replace(parts, tower=replace(tower, tensors=tensors))


def _pack(traced: Traced, parts: Parts, options: BuildOptions, decision: Decision | None) -> Built:
    card = traced.card
    options.store.mkdir(parents=True, exist_ok=True)
    target = options.store / ArchiveName(card.name, card.version).file_name
    # Hidden from TorchServe by its dot; in the store, so that the last step is a mere rename.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=options.store) as scratch:
        weights = _write_encoder(traced, parts, Path(scratch))
        weights[HEAD_FILE] = Path(scratch, HEAD_FILE)
        save_file(parts.head.tensors, weights[HEAD_FILE])
        if options.faces is not None:
            weights[LANDMARKS_FILE] = options.faces.predictor
        digests = {name: file_digest(path) for name, path in weights.items()}
        card = _with_decision(msgspec.structs.replace(card, files=digests), decision)
        partial = Path(scratch, target.name)
        write_archive(partial, card, weights, _serving(card, options.serving))
        sha256 = file_digest(partial)
        _refuse_other_content(target, sha256, options.force)
        partial.replace(target)
    return Built(target, sha256, card)


def _with_decision(card: Card, decision: Decision | None) -> Card:
    """Puts a decision on a card that has its digests.

    Raises:
        BuildError: when it was made for another detector.
    """
    if decision is not None and decision.detector != card.fingerprint():
        raise BuildError(
            f"--decision was made for another detector ({decision.detector[:16]}...) than this "
            f"one ({card.fingerprint()[:16]}...): its weights, head or preprocessing differ, and "
            "so do its scores; build this one without --decision, and calibrate.py that"
        )
    return msgspec.structs.replace(card, decision=decision)


def _serving(card: Card, wanted: ServingOptions) -> ServingOptions:
    if wanted.response_timeout_s is not None:
        return wanted
    return replace(wanted, response_timeout_s=response_timeout_s(card, wanted.batch_size))


def _write_encoder(traced: Traced, parts: Parts, folder: Path) -> dict[str, Path]:
    """Writes one copy of the encoder, and returns its files by their names in the archive."""
    graph, quantized = traced.graph, traced.card.quantization is not None
    names = (GRAPH_FILE, GRAPH_WEIGHTS_FILE if quantized else ENCODER_FILE)
    files = {name: folder / name for name in names}
    try:
        if quantized:
            # Without this it halves what is still float32.
            save_model(graph, files[GRAPH_FILE], compress_to_fp16=False)
        else:
            store_as(graph, parts.tower.tensors)
            graphs = {files[GRAPH_FILE]: graph}
            if traced.explanation is not None:
                files[EXPLANATION_FILE] = folder / EXPLANATION_FILE
                graphs[files[EXPLANATION_FILE]] = traced.explanation
            write_with_weights(graphs, parts.tower.tensors, files[ENCODER_FILE])
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
