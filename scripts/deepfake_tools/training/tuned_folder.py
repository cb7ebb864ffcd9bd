"""The folder of a trained encoder: Hugging Face's form, with the head and its history beside it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
from clip_deepfake.card import Feature, ModelSource
from clip_deepfake.encoder import Encoder, load_encoder
from clip_deepfake.preprocessing import Preprocessing

from deepfake_tools.files import replacing_bytes
from deepfake_tools.packaging.encoders import find_encoder, read_encoder
from deepfake_tools.packaging.heads import tower_digest
from deepfake_tools.packaging.hub import PROCESSOR_SETTINGS

HISTORY = "training.json"
CURVES = "curves.png"


def write_encoder(folder: Path, encoder: Encoder, processor: Path) -> None:
    """Writes ``config.json``, ``model.safetensors`` and what the images' processor says.

    Args:
        folder: exists.
        encoder: of plain weights.
        processor: folder of the checkpoint that the encoder was before.
    """
    # transformers' own, so that the names are those of any checkpoint of the Hub.
    encoder.model.save_pretrained(folder)
    for name in PROCESSOR_SETTINGS:
        if (processor / name).is_file():
            shutil.copyfile(processor / name, folder / name)


def read_back(
    folder: Path, feature: Feature, preprocessing: Preprocessing
) -> tuple[ModelSource, str, Encoder]:
    """Reads an encoder as the builder will.

    Returns:
        What a card will say of it, the digest of its tensors, and the encoder.

    Raises:
        BuildError: when it cannot be read.
    """
    source, tower = read_encoder(find_encoder(str(folder), None, _nobody, feature))
    encoder = load_encoder(tower.config, feature, preprocessing, tower.tensors)
    return source, tower_digest(tower.tensors), encoder


def _nobody(_: str) -> None:
    """Is told which model is read."""


def write_history(folder: Path, history: object) -> None:
    """Writes how an encoder came to be, as JSON."""
    with replacing_bytes(folder / HISTORY) as file:
        file.write(msgspec.json.format(msgspec.json.encode(history), indent=2) + b"\n")


def draw_curves(
    folder: Path, losses: Sequence[float], aucs: Sequence[float], frozen: float, held_out: float
) -> None:
    """Draws loss and validation AUC over the epochs.

    Args:
        folder: gets the picture.
        losses: of each epoch.
        aucs: on the images that choose the epoch, after each.
        frozen: held-out AUC of a head on the encoder as it was before.
        held_out: that of the result.
    """
    from matplotlib.figure import Figure

    epochs = range(1, len(losses) + 1)
    figure = Figure((8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, losses, marker="o", color="#0072b2")
    left.set(xlabel="epoch", ylabel="loss")
    right.plot(epochs, aucs, marker="o", color="#0072b2", label="validation, after each epoch")
    right.axhline(held_out, color="#009e73", linestyle="--", label="held out, the result")
    right.axhline(frozen, color="#d55e00", linestyle=":", label="held out, frozen encoder")
    right.set(xlabel="epoch", ylabel="AUC")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    # Without the version and the time, so that equal runs draw equal bytes.
    figure.savefig(folder / CURVES, dpi=120, metadata={"Software": None})
