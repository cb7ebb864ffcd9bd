"""A deepfake detector: CLIP's vision encoder and a linear head, image bytes in, verdicts out."""

import os
import sys

__version__ = "0.1.0"

# What OpenVINO and NNCF report their use to a server with, and write into HOME, unless it cannot be
# imported. Here, since whoever imports either has imported this package before.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# OpenCV reads its own ceiling once, when whatever part of this package imports it first. It is the
# second fence: the headers are checked before, and a file that shows one size there and another to
# OpenCV meets this one.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))
