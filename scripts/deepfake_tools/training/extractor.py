"""A model's name in, its features of images out, by the very parts that a worker serves with."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from clip_deepfake.card import Feature, Limits, ModelSource
from clip_deepfake.detector import Preparer
from clip_deepfake.encoder import DetectorModule, Encoder, load_encoder, read_class_token_alone
from clip_deepfake.errors import LoadError
from clip_deepfake.face_detector import import_dlib
from clip_deepfake.faces import Aligner, FaceAlignment
from clip_deepfake.loading import worker_device
from clip_deepfake.torch_engine import TorchEngine

from deepfake_tools.face_options import FaceOptions
from deepfake_tools.packaging.encoders import (
    default_feature,
    default_preset,
    feature_size,
    find_encoder,
    read_encoder,
)
from deepfake_tools.packaging.heads import tower_digest
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.presets import resolve_preset
from deepfake_tools.training.feature_cache import FeatureKey

LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "torch", "transformers")


@dataclass(frozen=True)
class Extractor:
    """A detector without a head.

    Attributes:
        model: where the encoder came from.
        key: what the features depend on, but for the image.
        width: of a feature.
        preparer: decodes, aligns and preprocesses images.
        engine: computes what a detector makes its logits of.
        encoder: that it computes with.
        folder: of the encoder's checkpoint, with its image processor's settings.
    """

    model: ModelSource
    key: FeatureKey
    width: int
    preparer: Preparer
    engine: TorchEngine
    encoder: Encoder
    folder: Path


def load_extractor(
    model: str,
    revision: str | None,
    preset: str | None,
    feature: Feature | None,
    report: Callable[[str], None],
    faces: FaceOptions | None = None,
) -> Extractor:
    """Reads an encoder, as the builder does.

    Args:
        model: Hub name, or a local folder in Hugging Face's format.
        revision: branch, tag or commit of a Hub model; None is ``main``.
        preset: name of the preprocessing, or a JSON file; None is what suits the model.
        feature: what the head is to read; None is the pooled output, where there is one.
        report: told which model it is.
        faces: how faces are aligned; None takes images as they are.

    Raises:
        BuildError: when there is no such encoder, or it has no such feature, or the landmark
            predictor cannot be used.
    """
    alignment = _alignment(faces)
    found = find_encoder(model, revision, report, feature)
    preprocessing = resolve_preset(
        preset or default_preset(found.architecture),
        found.architecture.image_size,
        found.snapshot.folder,
    )
    if alignment is not None:
        alignment = msgspec.structs.replace(alignment, size=preprocessing.face_side)
    source, tower = read_encoder(found)
    feature = feature or default_feature(tower.config)
    width = feature_size(tower.config, feature, source.name)
    libraries = {name: installed_version(name) for name in LIBRARIES}
    if alignment is not None:
        libraries["dlib"] = import_dlib().__version__
    key = FeatureKey(tower_digest(tower.tensors), preprocessing, feature, libraries, alignment)
    try:
        encoder = load_encoder(tower.config, feature, preprocessing, tower.tensors)
    except LoadError as error:
        raise BuildError(f"{source.name}: {error}") from error
    read_class_token_alone(encoder)
    module = DetectorModule(encoder, torch.nn.Linear(width, 1), l2_normalize=False)
    # The server gives a worker a CUDA device by its number; here it is the first one.
    engine = TorchEngine(module.eval(), worker_device(gpu_id=0))
    aligner = None
    if faces is not None and alignment is not None:
        aligner = Aligner(faces.predictor, alignment)
    preparer = Preparer(preprocessing, Limits().max_pixels, aligner)
    return Extractor(source, key, width, preparer, engine, encoder, found.snapshot.folder)


def _alignment(faces: FaceOptions | None) -> FaceAlignment | None:
    try:
        return None if faces is None else faces.alignment()
    except LoadError as error:
        raise BuildError(str(error)) from error


def installed_version(library: str) -> str:
    """Version of a library, without the part that tells a CPU build from a CUDA build."""
    return importlib.metadata.version(library).partition("+")[0]
