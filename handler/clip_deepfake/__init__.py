"""A deepfake detector: CLIP's vision encoder and a linear head, image bytes in, verdicts out."""

import sys

__version__ = "0.1.0"

# What OpenVINO and NNCF report their use to a server with, and write into HOME, unless it cannot be
# imported. Here, since whoever imports either has imported this package before.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
