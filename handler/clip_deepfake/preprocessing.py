"""RGB image in, square uint8 pixel array out, by the steps that the head was trained with."""

from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np
from msgspec import Meta, Struct
from PIL import Image

from clip_deepfake.images import RGB

Side = Annotated[int, Meta(gt=0, le=4096)]
Channels = tuple[float, float, float]

# Channel statistics of CLIP's training images: openai/CLIP, clip/clip.py, `_transform`.
CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)

OPENCV_FILTERS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
PILLOW_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Resize(Struct, frozen=True, forbid_unknown_fields=True, tag="resize", tag_field="step"):
    """Scales the image.

    The libraries differ on purpose: OpenCV samples the neighbouring pixels only, Pillow averages
    over all that shrink into one, so the same filter name gives different scores.

    Attributes:
        fit: ``squash`` ignores the aspect ratio; ``shortest_side`` keeps it, the longer side
            rounded down, as transformers and torchvision have it.
        size: side in pixels.
    """

    fit: Literal["squash", "shortest_side"]
    size: Side
    library: Literal["opencv", "pillow"]
    interpolation: Literal["bilinear", "bicubic"]

    def apply(self, image: RGB) -> RGB:
        """Returns the scaled image, uint8 (height, width, 3)."""
        size = self._target(image.shape[1], image.shape[0])
        if size == (image.shape[1], image.shape[0]):
            return image
        if self.library == "opencv":
            scaled = cv2.resize(image, size, interpolation=OPENCV_FILTERS[self.interpolation])
            return scaled.astype(np.uint8, copy=False)
        resized = Image.fromarray(image).resize(size, PILLOW_FILTERS[self.interpolation])
        return np.asarray(resized)

    def _target(self, width: int, height: int) -> tuple[int, int]:
        if self.fit == "squash":
            return self.size, self.size
        if width <= height:
            return self.size, int(self.size * height / width)
        return int(self.size * width / height), self.size


class CenterCrop(
    Struct, frozen=True, forbid_unknown_fields=True, tag="center_crop", tag_field="step"
):
    """Cuts a square out of the middle; what lies outside the image is black.

    Attributes:
        size: side in pixels.
        convention: where an odd remainder goes. ``transformers`` puts the extra row on the far
            side of a cut and the near side of a border; ``torchvision`` rounds half to even for
            a cut and puts the extra row of a border on the far side.
    """

    size: Side
    convention: Literal["transformers", "torchvision"]

    def apply(self, image: RGB) -> RGB:
        """Returns the middle, uint8 (size, size, 3)."""
        rows, columns = self._span(image.shape[0]), self._span(image.shape[1])
        cut = image[rows.source, columns.source]
        if cut.shape[:2] == (self.size, self.size):
            return cut
        canvas = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        canvas[rows.target, columns.target] = cut
        return canvas

    def _span(self, length: int) -> "_Span":
        surplus = length - self.size
        if surplus >= 0:
            halves = self.convention == "torchvision"
            start = round(surplus / 2) if halves else surplus // 2
            return _Span(slice(start, start + self.size), slice(0, self.size))
        border = -surplus // 2 if self.convention == "torchvision" else -(surplus // 2)
        return _Span(slice(0, length), slice(border, border + length))


class _Span(NamedTuple):
    source: slice
    target: slice


Step = Resize | CenterCrop


class Preprocessing(Struct, frozen=True, forbid_unknown_fields=True):
    """How an image becomes what the encoder sees; data, so that one function executes every recipe.

    Attributes:
        name: the preset's name, or ``custom``.
        steps: geometry, in order.
        mean: subtracted per RGB channel from values in [0, 1].
        std: divided by, afterwards. Both are applied by the encoder's module.
    """

    name: str
    steps: list[Step]
    mean: Channels
    std: Channels

    def apply(self, image: RGB) -> RGB:
        """Executes the steps.

        Args:
            image: uint8 (height, width, 3), RGB.

        Returns:
            uint8 (side, side, 3), RGB, contiguous; not yet normalised.
        """
        for step in self.steps:
            image = step.apply(image)
        return np.ascontiguousarray(image)


def squash(size: int) -> Preprocessing:
    """The research script's own: OpenCV's bilinear resize to the square, CLIP's normalisation."""
    resize = Resize("squash", size, "opencv", "bilinear")
    return Preprocessing("squash", [resize], CLIP_MEAN, CLIP_STD)
