"""What to build: the command line of ``build_mar.py`` as data."""

from dataclasses import dataclass
from pathlib import Path

from clip_deepfake.card import EngineChoice, Feature, Limits, Precision

from deepfake_tools.face_options import FaceOptions
from deepfake_tools.packaging.serving_options import ServingOptions


@dataclass(frozen=True)
class Measuring:
    """How to find out what a precision changes, and how much of that to accept.

    Attributes:
        calibration: folder of images; None measures on fixed pictures, which int8 cannot.
        max_deviation: the largest mean change of ``fake_probability``.
    """

    calibration: Path | None = None
    max_deviation: float = 0.02


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        model: Hub name, or a local folder in Hugging Face's format; None where the weights hold or
            name their encoder, and otherwise for the default.
        revision: branch, tag or commit of what comes from the Hub; None is ``main``.
        served_name: name in URLs; None derives it from the model's.
        version: TorchServe's version; None takes the next free number.
        precision: dtype to store the encoder in, or int8.
        preset: name of the preprocessing, or a JSON file; None is what the weights came with.
        limits: what a worker refuses.
        serving: TorchServe's settings.
        store: folder to write the archive to.
        force: whether an equal version with other content is replaced.
        weights: file, folder or Hub name of a detector's checkpoint; None for an untrained head.
        feature: what the head reads; None is what it was trained on.
        threshold: FAKE is answered above it; None is what the weights came with.
        faces: how faces are aligned; None judges images as they are.
        engine: what computes.
        measuring: of every precision but float32.
        overflow_fix: whether int8 weights keep to half the range, for processors without VNNI.
        decision: file of calibrate.py with the decision for the card; None for none.
        fake_labels: of a whole classifier, the labels that mean FAKE; none reads it off them.
    """

    model: str | None
    revision: str | None
    served_name: str | None
    version: str | None
    precision: Precision
    preset: str | None
    limits: Limits
    serving: ServingOptions
    store: Path
    force: bool
    weights: str | None = None
    feature: Feature | None = None
    threshold: float | None = None
    faces: FaceOptions | None = None
    engine: EngineChoice = "auto"
    measuring: Measuring = Measuring()
    overflow_fix: bool = False
    decision: Path | None = None
    fake_labels: tuple[str, ...] = ()
