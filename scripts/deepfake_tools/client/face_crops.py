"""Image bytes in, those of its largest face out, aligned as a worker does; needs `faces`."""

from pathlib import Path
from threading import Lock

import msgspec
from clip_deepfake import errors
from clip_deepfake.faces import Aligner
from clip_deepfake.images import decode

from deepfake_tools.client.alignment import LandmarksError
from deepfake_tools.errors import ImageError
from deepfake_tools.evaluation.perturbations import MAX_PIXELS, encode
from deepfake_tools.face_options import FaceOptions
from deepfake_tools.torchserve.answers import DetectorInfo


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
            ImageError: The bytes are no image, damaged, or over `MAX_PIXELS`.
        """
        try:
            image = decode(data, MAX_PIXELS, detector.orientation)
            faces = self._aligner(detector.face_side).find(image).judged
        except errors.ImageError as error:
            raise ImageError(str(error)) from error
        if not faces:
            with self._lock:
                self.faceless += 1
            return data
        return encode(faces[0].crop)

    def _aligner(self, side: int) -> Aligner:
        """Loads the predictor for crops of this size, once: a run has one detector."""
        with self._lock:
            if side not in self._aligners:
                alignment = msgspec.structs.replace(self._alignment, size=side)
                self._aligners[side] = Aligner(self._predictor, alignment)
            return self._aligners[side]
