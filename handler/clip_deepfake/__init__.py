"""A deepfake detector: CLIP's vision encoder and a linear head, image bytes in, verdicts out."""

__version__ = "0.1.0"
