"""Images as a training step takes them: decoded, aligned, augmented and preprocessed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from clip_deepfake.card import Limits
from clip_deepfake.errors import DetectorError
from clip_deepfake.faces import Aligner, FaceAlignment
from clip_deepfake.images import RGB, decode
from clip_deepfake.preprocessing import Preprocessing
from clip_deepfake.system import available_cores
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from deepfake_tools.files import read_regular, replacing_bytes
from deepfake_tools.image_files import encode
from deepfake_tools.training.augmentation import augment
from deepfake_tools.training.dataset import LabelledImage, TrainingError
from deepfake_tools.training.recipes import Augmentation
from deepfake_tools.training.splits import Labels
from deepfake_tools.training.training_set import find_originals

Draw = tuple[int, int]
"""An image's place in its set, and the seed of what happens to it."""

Item = dict[str, Any]
"""``pixels`` uint8 (side, side, 3), ``labels`` and ``rows``, the image's place in its set."""


@dataclass(frozen=True)
class FaceCrops:
    """How faces are cut out, and where the crops are kept.

    Attributes:
        predictor: file of the landmark predictor.
        alignment: as the card has it.
        cache: folder of crops.
    """

    predictor: Path
    alignment: FaceAlignment
    cache: Path

    @property
    def folder(self) -> Path:
        """Holds the crops of this alignment, each under the digest of its image."""
        key = hashlib.sha256(msgspec.json.encode(self.alignment)).hexdigest()[:32]
        return self.cache / f"{key}.crops"


class ImageSet(Dataset[Item]):
    """Labelled images; an item is asked for by its place, or by a ``Draw``, which augments it.

    Decoding, alignment and preprocessing are the code that serves.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        preprocessing: Preprocessing,
        faces: FaceCrops | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            images: all of which can be read.
            preprocessing: of the detector.
            faces: where it judges them.
            augmentation: what a draw does to an image; None leaves it.
        """
        self.images = images
        self._preprocessing = preprocessing
        self._faces = faces
        self._augmentation = augmentation
        self._aligner: Aligner | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, item: int | Draw) -> Item:
        """Returns an image.

        Raises:
            TrainingError: when it cannot be read any more, naming it.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # there are as many such processes as were asked for
        row, seed = item if isinstance(item, tuple) else (item, None)
        image = self.images[row]
        try:
            picture = self._picture(image.path)
        except (DetectorError, OSError) as error:
            raise TrainingError(f"{image.path} could be read before: {error}") from error
        if seed is not None and self._augmentation is not None:
            picture = augment(picture, self._augmentation, seed)
        pixels = torch.from_numpy(self._preprocessing.apply(picture))
        return {"pixels": pixels, "labels": int(image.label), "rows": row}

    def _picture(self, path: Path) -> RGB:
        data = read_regular(path)
        if self._faces is None:
            return decode(data, Limits().max_pixels, self._preprocessing.orientation)
        kept = self._faces.folder / f"{hashlib.sha256(data).hexdigest()}.png"
        if kept.is_file():
            return decode(kept.read_bytes(), Limits().max_pixels)
        picture = self._aligned(data)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing_bytes(kept) as file:
            file.write(encode(picture))
        return picture

    def _aligned(self, data: bytes) -> RGB:
        """The largest face; an image without one as it is, since those to be refused are gone."""
        assert self._faces is not None  # the only caller looked
        if self._aligner is None:
            # Here, so that each process that prepares images has its own.
            self._aligner = Aligner(self._faces.predictor, self._faces.alignment)
        image = decode(data, Limits().max_pixels, self._preprocessing.orientation)
        found = self._aligner.find(image).judged
        return found[0].crop if found else image


def collate(items: Sequence[Item]) -> dict[str, Tensor]:
    """Puts items together: ``pixels`` uint8 (batch, side, side, 3), ``labels``, ``rows`` int64."""
    return {
        "pixels": torch.stack([item["pixels"] for item in items]),
        "labels": torch.tensor([item["labels"] for item in items]),
        "rows": torch.tensor([item["rows"] for item in items]),
    }


class BalancedPairs(Sampler[Draw]):
    """Draws real and fake images by turns, so that each half of a batch is one class.

    An epoch shows each image of the larger class once, but for a rest that fills no batch, and
    those of the other again as often as it takes. A fake is drawn with the real image that it was
    made of, where names tell (``find_originals``). The order, and what happens to an image, depend
    on seed and epoch alone.
    """

    def __init__(self, images: Sequence[LabelledImage], batch_size: int, seed: int) -> None:
        """Finds the pairs.

        Args:
            images: of both classes.
            batch_size: images of a step, an even number.
            seed: of the order.
        """
        reals, fakes = (
            [row for row, image in enumerate(images) if image.label == label] for label in (0, 1)
        )
        partners = find_originals(images)
        self._fakes_lead = len(fakes) >= len(reals)
        self._leading, self._following = (fakes, reals) if self._fakes_lead else (reals, fakes)
        if not self._fakes_lead:
            partners = {real: fake for fake, real in partners.items()}
        self._partners = partners
        self._pairs = len(self._leading) * 2 // batch_size * batch_size // 2
        self._seed = seed
        self._epoch = 0

    @property
    def matched(self) -> int:
        """How many images of the larger class are drawn with what they belong to."""
        return len(self._partners)

    def __len__(self) -> int:
        """Images of an epoch."""
        return 2 * self._pairs

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch is drawn next, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        """Yields a real image, then a fake one, and so on."""
        rng = np.random.default_rng([self._seed, self._epoch])
        leading = rng.permutation(self._leading)[: self._pairs]
        following = _repeated(self._following, len(leading), rng)
        for lead, other in zip(leading.tolist(), following.tolist(), strict=True):
            pair = self._partners.get(lead, other), lead
            for row in pair if self._fakes_lead else reversed(pair):
                yield row, int(rng.integers(1 << 32))


def _repeated(rows: Sequence[int], count: int, rng: np.random.Generator) -> Labels:
    """Rows in random order, again and again, each round in another one."""
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]


def default_workers() -> int:
    """Processes that prepare images: one for every four cores, and one at least."""
    return max(available_cores() // 4, 1)
