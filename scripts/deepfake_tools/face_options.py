"""Options that say how faces are found and aligned: --landmark-model and its companions."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from clip_deepfake.archive_files import file_digest
from clip_deepfake.faces import SCAN_PIXELS, FaceAlignment

from deepfake_tools.predictor_file import count_points

Judged = Literal["largest", "all"]
OnNoFace = Literal["whole", "error"]


@dataclass(frozen=True)
class FaceOptions:
    """How to align faces.

    Attributes:
        predictor: file of a dlib landmark predictor.
        judged: the largest face of an image, or all.
        on_no_face: what an image without a face is.
        exact: whether the whole image is searched, as the research code does.
    """

    predictor: Path
    judged: Judged = "largest"
    on_no_face: OnNoFace = "whole"
    exact: bool = False

    def alignment(self) -> FaceAlignment:
        """Tries the predictor.

        Raises:
            LoadError: when dlib is not installed, or the file is no predictor of 68 or 81 points.
        """
        points = count_points(self.predictor)
        return FaceAlignment(
            predictor=self.predictor.name,
            sha256=file_digest(self.predictor),
            points=points,
            judged=self.judged,
            on_no_face=self.on_no_face,
            scan_pixels=None if self.exact else SCAN_PIXELS,
        )


def add_face_options(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """Adds the options.

    Args:
        parser: to add them to.
        several: whether all faces of an image can be asked for.
    """
    group = parser.add_argument_group(
        "faces", "For detectors of manipulated faces, which are trained on aligned crops."
    )
    group.add_argument(
        "--landmark-model",
        type=Path,
        metavar="FILE.dat",
        help="align faces by this dlib shape predictor of 81 or 68 points",
    )
    group.add_argument(
        "--on-no-face",
        choices=get_args(OnNoFace),
        help="an image without a face is judged whole, or refused (default: whole)",
    )
    if several:
        group.add_argument(
            "--faces",
            choices=get_args(Judged),
            help="which faces of an image are judged; of all, the one that is fake with the "
            "highest probability speaks for the image (default: largest)",
        )
    group.add_argument(
        "--face-detection",
        choices=("bounded", "exact"),
        help="search a smaller copy of large images, which misses faces below 1/20 of their side, "
        "or all of them, which takes seconds for 12 megapixels (default: bounded)",
    )


def read_face_options(
    parser: argparse.ArgumentParser, found: argparse.Namespace
) -> FaceOptions | None:
    """Returns what ``add_face_options`` added, or None where no faces are to be aligned."""
    judged = getattr(found, "faces", None)
    if found.landmark_model is None:
        for option, value in (
            ("--on-no-face", found.on_no_face),
            ("--faces", judged),
            ("--face-detection", found.face_detection),
        ):
            if value is not None:
                parser.error(f"{option} says how faces are aligned: give --landmark-model too")
        return None
    return FaceOptions(
        predictor=found.landmark_model,
        judged=cast(Judged, judged or "largest"),
        on_no_face=cast(OnNoFace, found.on_no_face or "whole"),
        exact=found.face_detection == "exact",
    )
