"""The client's --landmark_model in, a change of images out that leaves the largest face of each."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from deepfake_tools.errors import ServiceError
from deepfake_tools.extras import require_extra
from deepfake_tools.torchserve.answers import ServedVerdict

if TYPE_CHECKING:
    from deepfake_tools.client.face_crops import FaceCutter


class LandmarksError(Exception):
    """The landmark predictor cannot be used; the message says why."""


class AlignedTwiceError(ServiceError):
    """The detector aligns faces itself, and would look for faces in crops of faces."""

    exit_code: ClassVar[int] = 19
    meaning: ClassVar[str] = "the detector aligns faces itself: --landmark_model would do it twice"
    kind = "aligned_twice"
    is_general = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} aligns faces itself, and --landmark_model would do it twice: leave out "
            "--landmark_model"
        )


def add_alignment_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument_group("faces").add_argument
    add(
        "--landmark_model",
        type=Path,
        metavar="FILE.dat",
        help="align faces by this dlib predictor, for a detector of faces that does not itself",
    )
    add(
        "--face-detection",
        choices=("bounded", "exact"),
        help="on a smaller copy of large images, or as the research code does (bounded)",
    )


def load_cutter(args: argparse.Namespace) -> "FaceCutter | None":
    """Returns what cuts faces out of images, or None where that was not asked for.

    Raises:
        MissingExtraError: Its libraries are not installed.
        LandmarksError: The file is no predictor, or there is none and yet a way to find faces.
    """
    if args.landmark_model is None:
        if args.face_detection is not None:
            raise LandmarksError("--face-detection is for --landmark_model FILE.dat")
        return None
    modules = ("cv2", "dlib", "msgspec", "numpy", "PIL")
    require_extra("--landmark_model", *modules, extra="faces")
    # Heavy, and needed by no other option.
    from deepfake_tools.client.face_crops import FaceCutter

    return FaceCutter(args.landmark_model, exact=args.face_detection == "exact")


def shows_alignment(answer: ServedVerdict | ServiceError) -> bool:
    """Whether only a detector answers so which aligns faces itself."""
    if isinstance(answer, ServedVerdict):
        return answer.detector.faces is not None
    return answer.kind == "no_face"
