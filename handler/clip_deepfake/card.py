"""The card, ``detector.json``: everything about a detector that is not a weight."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from clip_deepfake.archive_files import Sha256
from clip_deepfake.decision import Decision
from clip_deepfake.errors import LoadError
from clip_deepfake.faces import FaceAlignment
from clip_deepfake.preprocessing import Preprocessing

CARD_FILE = "detector.json"
ENCODER_FILE = "encoder.safetensors"
HEAD_FILE = "head.safetensors"
GRAPH_FILE = "encoder.xml"
EXPLANATION_FILE = "explain.xml"
"""A graph that takes the feature apart, over the same weights; see ``decomposition``."""
GRAPH_WEIGHTS_FILE = "encoder.bin"
ENGINE_CONSTANTS = "openvino.constants"
"""Name of the tensor, beside the encoder's, that holds what a graph needs besides them."""
LANDMARKS_FILE = "landmarks.dat"

Count = Annotated[int, Meta(gt=0, le=1 << 20)]
Index = Annotated[int, Meta(ge=0, lt=1 << 20)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Feature = Literal["pooler_output", "image_embeds", "class_token", "classifier_input"]
"""What a head reads: the model's pooled output; that after CLIP's projection; the last layer's
class token; whatever one of transformers' image classifiers hands to its own linear layer."""
Precision = Literal["float32", "bfloat16", "float16", "int8"]
PictureSource = Literal["calibration", "fixed pictures"]
EngineChoice = Literal["auto", "torch", "openvino"]


class ModelSource(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the encoder came from.

    Attributes:
        name: Hub name, or the base name of a local folder.
        revision: branch, tag or commit that was asked for; None for a local folder.
        commit: the Hub commit that the revision stood for; None for a local folder.
        weights_file: the file, relative to the repository, that the weights were read from.
        weights_sha256: digest of that file (of the files' digests in order, when sharded).
    """

    name: str
    revision: str | None
    commit: str | None
    weights_file: str
    weights_sha256: Sha256


class EncoderCard(Struct, frozen=True, forbid_unknown_fields=True):
    """The encoder, as transformers knows it.

    Attributes:
        architecture: name of transformers' class.
        config: its settings, complete, in the terms of a Hub ``config.json``.
        image_size: side of the square that it takes, in pixels.
        features: width of everything that a head can read of it.
        operations: floating-point operations for one image, two for each product.
    """

    architecture: str
    config: dict[str, Any]
    image_size: Count
    features: dict[Feature, Count]
    operations: Annotated[int, Meta(gt=0)]

    def feature_size(self, feature: Feature) -> int:
        """Width of the given feature.

        Raises:
            LoadError: when the encoder does not have it.
        """
        if feature not in self.features:
            raise LoadError(
                f"the head reads {feature}, but the encoder has no such feature; it has "
                f"{', '.join(self.features)}"
            )
        return self.features[feature]


class DataHistory(Struct, frozen=True, forbid_unknown_fields=True):
    """What a head was trained and judged on.

    Attributes:
        real: images labelled real, held-out ones included.
        fake: images labelled fake, held-out ones included.
        broken: left out because they could not be read.
        repeated: left out because their content is that of another.
        folders: that the images lie in.
        sha256: digest of the sorted lines ``<SHA-256 of the image> <label>``; equal for equal
            images and labels, whatever the files are called.
    """

    real: int
    fake: int
    broken: int
    repeated: int
    folders: int
    sha256: Sha256


class Scores(Struct, frozen=True, forbid_unknown_fields=True):
    """How a head did on images that it was not fitted to.

    Attributes:
        real: how many of them are real.
        fake: how many of them are fake.
        auc: area under the ROC curve.
        pr_auc: average precision.
        accuracy: at the head's threshold.
    """

    real: int
    fake: int
    auc: Fraction
    pr_auc: Fraction
    accuracy: Fraction


class TrainingHistory(Struct, frozen=True, forbid_unknown_fields=True):
    """How a head came to be.

    Attributes:
        data: the images.
        kept_together: what never stands on both sides of a split: the images of a ``folder``, or,
            where there were too few folders for that, no more than each ``image``.
        seed: of the splits.
        strength: scikit-learn's C, the inverse of the regularisation.
        folds: of the cross-validation.
        cross_validated_auc: mean over the folds, for this strength.
        cross_validated_auc_std: standard deviation over the folds.
        held_out: the head's scores on images that had no part in fitting or choosing anything.
        balanced_threshold: of the best balanced accuracy, on the cross-validation's predictions.
        target_fpr: the false-positive rate asked for, if any.
        target_fpr_threshold: that keeps to it, on the cross-validation's predictions.
        made_with: version of each library that had a part in the numbers, by name.
    """

    data: DataHistory
    kept_together: Literal["folder", "image"]
    seed: int
    strength: float
    folds: int
    cross_validated_auc: Fraction
    cross_validated_auc_std: float
    held_out: Scores
    balanced_threshold: Fraction
    target_fpr: Fraction | None
    target_fpr_threshold: Fraction | None
    made_with: dict[str, str]


class FullScores(Scores, frozen=True, forbid_unknown_fields=True):
    """As above, and how well the classes are told apart.

    Attributes:
        eer: rate at which as many of one class are taken for the other as the other way round.
        tpr_at_1_percent: share of the fakes found where 1 % of the real images are called fake.
    """

    eer: Fraction
    tpr_at_1_percent: Fraction


class TuningHistory(Struct, frozen=True, forbid_unknown_fields=True):
    """How an encoder was trained together with its head.

    Attributes:
        method: what of it was trained.
        base: the encoder that it was before.
        recipe: the losses, rates and augmentation, by their names.
        trained_parameters: how many numbers were trained, the head's included.
        data: the images.
        kept_together: as in ``TrainingHistory``.
        seed: of the splits, the order and the augmentation.
        epochs: that were trained.
        best_epoch: whose weights these are, from 1: that of the highest AUC on the images that
            chose it.
        chosen_by: which images those are: a part of the training images that no step was computed
            on, or the held-out ones themselves, which makes their scores look better than they are.
        validation_auc: on them.
        held_out: the detector's scores on images that no step was computed on.
        frozen: on the same images, those of a head on the encoder as it was before.
        balanced_threshold: of the best balanced accuracy on the images that chose the epoch.
        target_fpr: the false-positive rate asked for, if any.
        target_fpr_threshold: that keeps to it on those images.
        made_with: version of each library that had a part in the numbers, by name.
    """

    method: str
    base: ModelSource
    recipe: dict[str, Any]
    trained_parameters: int
    data: DataHistory
    kept_together: Literal["folder", "image"]
    seed: int
    epochs: int
    best_epoch: int
    chosen_by: Literal["validation part", "held out"]
    validation_auc: Fraction
    held_out: FullScores
    frozen: FullScores
    balanced_threshold: Fraction
    target_fpr: Fraction | None
    target_fpr_threshold: Fraction | None
    made_with: dict[str, str]


class HeadCard(Struct, frozen=True, forbid_unknown_fields=True):
    """The linear layer on the feature, and how its output is read.

    Attributes:
        source: ``untrained`` for random weights, ``trained`` for any others.
        description: one sentence on where the head came from.
        feature: what of the encoder the head reads.
        l2_normalize: whether the feature is divided by its Euclidean norm first.
        outputs: 1 logit, read through a sigmoid, or several, through a softmax.
        fake_indices: which of several logits stand for FAKE, whose probabilities are added; of a
            single one, itself.
        threshold: FAKE is answered above this ``fake_probability``.
        family: the published detector that the weights are of; None where there is none.
        file: base name of the file that the head was read from; None for random weights.
        sha256: digest of that file.
        licence: the weights' as their authors state it; None where it is not known.
        overridden: options of the builder that replaced what the weights came with.
        history: how this project trained the head on the encoder as it is; None where it did not.
        tuning: how this project trained the encoder together with the head; None where it did not.
    """

    source: Literal["untrained", "trained"]
    description: str
    feature: Feature
    l2_normalize: bool
    outputs: Count
    fake_indices: tuple[Index, ...]
    threshold: Fraction
    family: str | None = None
    file: str | None = None
    sha256: Sha256 | None = None
    licence: str | None = None
    overridden: list[str] = []
    history: TrainingHistory | None = None
    tuning: TuningHistory | None = None

    @property
    def held_out(self) -> Scores | None:
        """How it did on images held out from training; None where this project did not train it."""
        trained = self.tuning or self.history
        return None if trained is None else trained.held_out

    @property
    def trained_on(self) -> DataHistory | None:
        """The images that it was made of; None where this project did not train it."""
        trained = self.tuning or self.history
        return None if trained is None else trained.data

    def __post_init__(self) -> None:
        """Refuses outputs that do not leave anything to decide.

        Raises:
            ValueError: naming them; msgspec makes it a ``ValidationError``.
        """
        fake = set(self.fake_indices)
        most = 1 if self.outputs == 1 else self.outputs - 1
        if not fake <= set(range(self.outputs)) or not 1 <= len(fake) <= most:
            raise ValueError(f"fake_indices {self.fake_indices} of {self.outputs} outputs")


class Quantization(Struct, frozen=True, forbid_unknown_fields=True):
    """How a float32 detector was made an int8 one.

    Attributes:
        calibrated: images that the ranges of the activations were taken from.
        sha256: digest of the sorted SHA-256 of their files.
        overflow_fix: whether weights keep to half the range, for processors without VNNI.
    """

    calibrated: Count
    sha256: Sha256
    overflow_fix: bool


class Deviation(Struct, frozen=True, forbid_unknown_fields=True):
    """What a precision made of a float32 detector, measured on pictures when it was built.

    The float32 detector has the weights as they came, before anything was rounded. The figures are
    those of the engine that a worker on the builder's machine takes: on processors that compute in
    other ways they are others, in the last digits by the number of threads alone, and so are the
    archive's bytes. Equal builds on one machine are equal.

    Attributes:
        source: ``calibration`` images that the builder was given, or its own ``fixed pictures``.
        images: that both detectors were asked about; of one with several faces, each.
        sha256: digest of the sorted SHA-256 of their files; of fixed pictures, of their bytes.
        measured_on: the engine, as answers name it; ``emulated by rounding`` where this precision
            is computed on other machines than the builder's.
        largest_logit_change: the largest absolute difference of a logit.
        mean_change: of ``fake_probability``, the mean of the absolute differences.
        largest_change: of ``fake_probability``, the largest absolute difference.
        agreement: share of the images with the same label.
        float32_auc: area under the ROC curve of the float32 detector; None without both labels.
        auc: of the one in this precision.
    """

    source: PictureSource
    images: Count
    sha256: Sha256
    measured_on: str
    largest_logit_change: Annotated[float, Meta(ge=0)]
    mean_change: Fraction
    largest_change: Fraction
    agreement: Fraction
    float32_auc: Fraction | None
    auc: Fraction | None


class SelfTest(Struct, frozen=True, forbid_unknown_fields=True):
    """The pass that a worker repeats before it serves.

    Attributes:
        logits: float32 logits of ``detector.self_test_pixels``, rounded to 4 decimals; in half
            precision they are those of the rounded weights, in int8 of the weights as they were.
        tolerance: how far, in absolute terms, an engine that rounds may be off: made by the builder
            of what it measured on every way in which the card's precision is computed. One that
            computes in float32, with weights that are not quantised, must stay within 1e-3.
    """

    logits: list[float]
    tolerance: Annotated[float, Meta(gt=0)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker refuses.

    Attributes:
        max_pixels: width times height of one image.
        max_images: images in one request.
        max_request_pixels: of all images of one request, but that its first is bounded by
            ``max_pixels`` alone.
        max_batch_pixels: of all images that are answered together, but for the first of each
            request.
    """

    max_pixels: Annotated[int, Meta(gt=0)] = 50_000_000
    max_images: Annotated[int, Meta(gt=0)] = 32
    max_request_pixels: Annotated[int, Meta(gt=0)] = 200_000_000
    max_batch_pixels: Annotated[int, Meta(gt=0)] = 800_000_000

    @classmethod
    def of_images(cls, max_pixels: int) -> "Limits":
        """Limits with budgets that grow with that of an image, and are the defaults at least."""
        usual = cls()
        times = max(1.0, max_pixels / usual.max_pixels)
        return cls(
            max_pixels=max_pixels,
            max_request_pixels=round(times * usual.max_request_pixels),
            max_batch_pixels=round(times * usual.max_batch_pixels),
        )


class Card(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a worker needs besides weights, and where every number came from.

    Attributes:
        name: served name.
        version: TorchServe's model version.
        precision: dtype of the encoder's weights; the head is always float32. Of ``int8``, the
            files hold OpenVINO's graph, of all others safetensors.
        files: SHA-256 of each weight file in the archive, by name; of the landmark predictor too,
            which is in dlib's own serialisation and parsed by dlib.
        built_with: version of each library that had a part in the numbers, by name.
        faces: how faces are found and cut out before the preprocessing; None where images are
            judged as they are.
        engine: what computes; ``auto`` lets the worker choose by its device.
        quantization: how it was done; None but for ``int8``.
        deviation: from the float32 detector; None of that itself.
        decision: when an image is called fake, by real images; None without calibration.
    """

    schema: Literal[1]
    name: str
    version: str
    model: ModelSource
    encoder: EncoderCard
    head: HeadCard
    preprocessing: Preprocessing
    precision: Precision
    limits: Limits
    files: dict[str, Sha256]
    self_test: SelfTest
    built_with: dict[str, str]
    faces: FaceAlignment | None = None
    engine: EngineChoice = "auto"
    quantization: Quantization | None = None
    deviation: Deviation | None = None
    decision: Decision | None = None

    def __post_init__(self) -> None:
        """Refuses what contradicts itself.

        Raises:
            ValueError: naming it; msgspec makes it a ``ValidationError``.
        """
        if (self.precision == "int8") != (self.quantization is not None):
            raise ValueError(f"precision {self.precision} and quantization do not go together")
        if (self.precision == "float32") != (self.deviation is None):
            raise ValueError(f"precision {self.precision} and deviation do not go together")
        if self.precision == "int8" and self.engine == "torch":
            raise ValueError("int8 is OpenVINO's; the engine cannot be torch")
        if self.decision is not None and self.decision.detector != self.fingerprint():
            raise ValueError("the decision was made for another detector")

    def to_json(self) -> bytes:
        """The card as it stands in an archive: indented JSON, keys in the order of the fields."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def fingerprint(self) -> Sha256:
        """Of all that an image's margin follows from but the machine: weights, head, preprocessing.

        OpenVINO's graphs are the encoder once more, in words that change with its version.
        """
        graphs = (GRAPH_FILE, EXPLANATION_FILE)
        weights = {name: self.files[name] for name in sorted(self.files) if name not in graphs}
        head = (
            self.head.feature,
            self.head.l2_normalize,
            self.head.outputs,
            self.head.fake_indices,
        )
        content = msgspec.json.encode((weights, head, self.preprocessing, self.faces))
        return hashlib.sha256(content).hexdigest()

    def short(self) -> dict[str, str | float | None]:
        """What every answer says of the detector.

        Who prepares images for it needs ``orientation`` and ``face_side``.
        """
        recipe = self.preprocessing
        said: dict[str, str | float | None] = {
            "model": self.model.name,
            "commit": self.model.commit,
            "version": self.version,
            "head": self.head.source,
            "precision": self.precision,
            "threshold": self.head.threshold,
            "orientation": recipe.orientation,
            "face_side": recipe.face_side if self.faces is None else self.faces.size,
        }
        if self.head.source == "trained":
            said |= {"head_file": self.head.file, "head_sha256": self.head.sha256}
        if (scores := self.head.held_out) is not None:
            said |= {"held_out_auc": scores.auc, "held_out_images": scores.real + scores.fake}
        if (data := self.head.trained_on) is not None:
            files = data.real + data.fake + data.repeated
            said |= {"trained_on": data.sha256, "trained_images": files}
        if self.faces is not None:
            said["faces"] = self.faces.judged
        if self.decision is not None:
            said["false_alarms"] = self.decision.false_alarms
            said["calibrated_by"] = self.decision.reals.images
        return said


def parse_card(data: bytes) -> Card:
    """Reads a card.

    Args:
        data: JSON as ``Card.to_json`` writes it.

    Raises:
        LoadError: when it is not a card of this schema, naming the first field that is off.
    """
    try:
        return msgspec.json.decode(data, type=Card)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(f"{CARD_FILE} is not a card that this version reads: {error}") from error


def read_card(directory: Path) -> Card:
    """Reads the card of an unpacked archive.

    Raises:
        LoadError: when there is none, or none that ``parse_card`` takes.
    """
    try:
        data = (directory / CARD_FILE).read_bytes()
    except OSError as error:
        raise LoadError(f"{CARD_FILE} cannot be read: {error.strerror}") from error
    return parse_card(data)
