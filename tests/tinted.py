"""Images whose classes differ by a tint, and what transformers and scikit-learn make of them."""

from pathlib import Path

import cv2
import numpy as np
import torch
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD
from deepfake_tools.training.splits import plan_splits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import CLIPModel

FOLDERS, PER_FOLDER = 12, 10


def write_images(root: Path, folders: int = FOLDERS) -> list[Path]:
    """Writes smooth random images into real/clip_*/ and as many, tinted, into fake/clip_*/."""
    rng = np.random.default_rng(0)
    paths = []
    for kind in ("fake", "real"):
        for number in range(folders * PER_FOLDER):
            image = cv2.GaussianBlur(rng.integers(0, 256, (40, 56, 3)).astype(np.uint8), (0, 0), 3)
            tint = np.array([14, -7, -14]) * (kind == "fake") + rng.normal(0, 6, 3)
            path = root / kind / f"clip_{number // PER_FOLDER:02}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.clip(image + tint, 0, 255).astype(np.uint8))
            paths.append(path)
    return paths


def labels_of(paths: list[Path]) -> np.ndarray:
    """1 for those of `write_images` that lie in fake/."""
    return np.array([int(path.parent.parent.name == "fake") for path in paths])


def reference_features(model: Path, paths: list[Path]) -> np.ndarray:
    """pooler_output by transformers of images squashed by OpenCV, float64 (images, width)."""
    clip = CLIPModel.from_pretrained(model)
    side = clip.config.vision_config.image_size
    images = [cv2.resize(cv2.imread(str(path))[..., ::-1], (side, side)) for path in paths]
    values = (np.stack(images) / 255 - CLIP_MEAN) / CLIP_STD
    pixels = torch.from_numpy(values).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        return clip.vision_model(pixels).pooler_output.double().numpy()


def reference_probabilities(model: Path, paths: list[Path], strength: float) -> np.ndarray:
    """scikit-learn's predict_proba for FAKE, fitted to the images that are not held out."""
    labels, features = labels_of(paths), reference_features(model, paths)
    fitted_to = plan_splits(labels, [path.parent.name for path in paths], seed=0).held_out.train
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8))
    pipeline.fit(features[fitted_to], labels[fitted_to])
    return pipeline.predict_proba(features)[:, 1]
