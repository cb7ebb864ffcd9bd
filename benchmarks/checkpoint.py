"""An unpacked archive in, a folder that transformers loads the same detector from out."""

import json
from pathlib import Path

from clip_deepfake.card import ENCODER_FILE, HEAD_FILE, Card

from benchmarks.cells import BenchmarkError
from benchmarks.jobs import RivalJob
from benchmarks.unpacked import Unpacked

WEIGHTS = "model.safetensors"


def write_checkpoint(archive: Unpacked, folder: Path) -> RivalJob:
    """Writes `config.json`, `preprocessor_config.json` and links to the weights.

    Args:
        archive: With its encoder in safetensors.
        folder: Where to; it is made.

    Returns:
        The job of judging with it, but for the image or the port.

    Raises:
        BenchmarkError: The archive holds the weights in another form.
    """
    if ENCODER_FILE not in archive.card.files:
        raise BenchmarkError(
            f"{archive.path} holds no {ENCODER_FILE} for transformers to load: with --versus, give "
            "a float32 archive of the same detector too"
        )
    folder.mkdir()
    card = archive.card
    _write_json(folder / "config.json", _config(card))
    _write_json(folder / "preprocessor_config.json", _processor(card))
    (folder / WEIGHTS).symlink_to(archive.folder / ENCODER_FILE)
    (folder / HEAD_FILE).symlink_to(archive.folder / HEAD_FILE)
    return RivalJob(
        str(folder), card.encoder.architecture, card.head.feature, card.head.l2_normalize
    )


def _config(card: Card) -> dict[str, object]:
    return {"architectures": [card.encoder.architecture], **card.encoder.config}


def _processor(card: Card) -> dict[str, object]:
    side = card.encoder.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_normalize": True,
        "image_mean": card.preprocessing.mean,
        "image_std": card.preprocessing.std,
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
