"""The client's --landmark_model: the largest face cut out of each image, aligned as a worker does.

Reading the options needs no library; cutting needs the extra `faces`.
"""

import argparse
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar

from clip_deepfake import errors

from deepfake_tools.errors import ImageRefusedError, ServiceError
from deepfake_tools.evaluation.perturbations import MAX_PIXELS
from deepfake_tools.extras import require_extra
from deepfake_tools.image_files import encode
from deepfake_tools.torchserve.answers import DetectorInfo, ServedVerdict

if TYPE_CHECKING:
    from clip_deepfake.faces import Aligner


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
        help="look for faces on a smaller copy of large images, or as the research code does "
        "(bounded)",
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
    return FaceCutter(args.landmark_model, exact=args.face_detection == "exact")


class FaceCutter:
    """Cuts faces out; threads share it.

    Args:
        predictor: A dlib landmark predictor's file.
        exact: Whether large images are searched as a whole.

    Attributes:
        name: The same for two that give the same crops.
        faceless: In how many images no face was found; those stay as they are.
    """

    def __init__(self, predictor: Path, *, exact: bool) -> None:
        """Loads everything, so that a run does not end in what is missing.

        Raises:
            LandmarksError: The file is no predictor of 68 or 81 points.
        """
        # Heavy, as all that faces are found with, and needed by no other option.
        from deepfake_tools.face_options import FaceOptions

        try:
            self._alignment = FaceOptions(predictor, exact=exact).alignment()
        except errors.LoadError as error:
            raise LandmarksError(str(error)) from error
        self.name = f"aligned-{'exact' if exact else 'bounded'}-{self._alignment.sha256[:12]}"
        self.faceless = 0
        self._predictor = predictor
        self._aligners: dict[int, Aligner] = {}
        self._lock = Lock()

    def __call__(self, data: bytes, detector: DetectorInfo) -> bytes:
        """Returns the largest face as a PNG, which loses nothing, or the bytes as they are.

        Args:
            data: The bytes of an image file.
            detector: That it is for; it says how large the face is cut, and what is turned before.

        Raises:
            ImageRefusedError: The bytes are no image, damaged, or over `MAX_PIXELS`.
        """
        from clip_deepfake.images import decode

        try:
            image = decode(data, MAX_PIXELS, detector.orientation)
            faces = self._aligner(detector.face_side).find(image).judged
        except errors.ImageError as error:
            raise ImageRefusedError(str(error)) from error
        if not faces:
            with self._lock:
                self.faceless += 1
            return data
        return encode(faces[0].crop)

    def _aligner(self, side: int) -> "Aligner":
        """Loads the predictor for crops of this size, once: a run has one detector."""
        import msgspec
        from clip_deepfake.faces import Aligner

        with self._lock:
            if side not in self._aligners:
                alignment = msgspec.structs.replace(self._alignment, size=side)
                self._aligners[side] = Aligner(self._predictor, alignment)
            return self._aligners[side]


def shows_alignment(answer: ServedVerdict | ServiceError) -> bool:
    """Whether only a detector answers so which aligns faces itself."""
    if isinstance(answer, ServedVerdict):
        return answer.detector.faces is not None
    return answer.kind == "no_face"
