"""Resizes and crops images to what the encoder takes, as the head was trained with."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from PIL import Image

from clip_deepfake.errors import ImageTooLargeError
from clip_deepfake.images import RGB, Orientation

Side = Annotated[int, Meta(gt=0, le=4096)]
Channels = tuple[float, float, float]

# Channel statistics of CLIP's training images: openai/CLIP, clip/clip.py, `_transform`.
CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)

# Of ImageNet: torchvision's documentation of its pretrained models.
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

MOST_PIXELS = 50_000_000
"""What a step may make of an image. A strip one pixel high has few pixels to decode, and billions
once its height is 224; no photograph comes near."""

OPENCV_FILTERS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
PILLOW_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Axis(NamedTuple):
    """How a step's copy lies on its image along one axis: ``image = scale * copy + shift``.

    Both are measured from the outer edge of the first pixel.
    """

    scale: float
    shift: float
    length: int


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
        """Returns the scaled image, uint8 (height, width, 3).

        Raises:
            ImageTooLargeError: a strip so narrow that its scaled copy would not fit in memory.
        """
        size = self.target(image.shape[1], image.shape[0])
        if size[0] * size[1] > MOST_PIXELS:
            raise ImageTooLargeError(
                f"the image has {image.shape[1]}x{image.shape[0]} pixels, which scaled to "
                f"{self.size} on the shorter side are {size[0]}x{size[1]}; crop it first"
            )
        if size == (image.shape[1], image.shape[0]):
            return image
        if self.library == "opencv":
            scaled = cv2.resize(image, size, interpolation=OPENCV_FILTERS[self.interpolation])
            return scaled.astype(np.uint8, copy=False)
        resized = Image.fromarray(image).resize(size, PILLOW_FILTERS[self.interpolation])
        return np.asarray(resized)

    def lay(self, width: int, height: int) -> tuple[Axis, Axis]:
        """Where the scaled image lies on one of this size, and its own size."""
        target = self.target(width, height)
        return (
            Axis(width / target[0], 0.0, target[0]),
            Axis(height / target[1], 0.0, target[1]),
        )

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the scaled image."""
        if self.fit == "squash":
            return self.size, self.size
        if width <= height:
            return self.size, int(self.size * height / width)
        return int(self.size * width / height), self.size


class _Rounding(NamedTuple):
    """Where the odd row goes: how many of the surplus (cut) or lacking rows (border) come first."""

    cut: Callable[[int], int]
    border: Callable[[int], int]


def _down(rows: int) -> int:
    return rows // 2


def _up(rows: int) -> int:
    return (rows + 1) // 2


def _to_even(rows: int) -> int:
    return round(rows / 2)


Convention = Literal["transformers", "torchvision", "albumentations"]

ROUNDINGS: dict[Convention, _Rounding] = {
    "transformers": _Rounding(cut=_down, border=_up),
    "torchvision": _Rounding(cut=_to_even, border=_down),
    "albumentations": _Rounding(cut=_down, border=_down),
}


class CenterCrop(
    Struct, frozen=True, forbid_unknown_fields=True, tag="center_crop", tag_field="step"
):
    """Cuts a square out of the middle; what lies outside the image is black.

    Attributes:
        size: side in pixels.
        convention: whose rounding decides where an odd row goes: the processor's of transformers,
            torchvision's ``CenterCrop``, or albumentations' ``PadIfNeeded`` with ``CenterCrop``.
    """

    size: Side
    convention: Convention

    def apply(self, image: RGB) -> RGB:
        """Returns the middle, uint8 (size, size, 3)."""
        rows, columns = self._span(image.shape[0]), self._span(image.shape[1])
        cut = image[rows.source, columns.source]
        if cut.shape[:2] == (self.size, self.size):
            return cut
        canvas = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        canvas[rows.target, columns.target] = cut
        return canvas

    def lay(self, width: int, height: int) -> tuple[Axis, Axis]:
        """Where the middle lies in an image of this size; black borders lie outside."""
        spans = self._span(width), self._span(height)
        across, down = (Axis(1.0, s.source.start - s.target.start, self.size) for s in spans)
        return across, down

    def _span(self, length: int) -> "_Span":
        surplus = length - self.size
        rounding = ROUNDINGS[self.convention]
        if surplus >= 0:
            start = rounding.cut(surplus)
            return _Span(slice(start, start + self.size), slice(0, self.size))
        border = rounding.border(-surplus)
        return _Span(slice(0, length), slice(border, border + length))


class _Span(NamedTuple):
    source: slice
    target: slice


class TileCrop(Struct, frozen=True, forbid_unknown_fields=True, tag="tile_crop", tag_field="step"):
    """Cuts a square out of the middle of an image that is repeated first where it is small.

    An image whose shorter side is below ``tile`` becomes copies of itself side by side, from the
    top left, as many along each axis as reach ``tile``. One step, not two, so that only the copies
    in the middle are ever made.

    Attributes:
        size: side of the square in pixels.
        tile: sides that are smaller are repeated; at least ``size``.
        convention: as in ``CenterCrop``.
    """

    size: Side
    tile: Side
    convention: Convention

    def __post_init__(self) -> None:
        if self.tile < self.size:
            raise ValueError(f"tile {self.tile} is below size {self.size}")

    def apply(self, image: RGB) -> RGB:
        """Returns the middle, uint8 (size, size, 3)."""
        height, width = image.shape[:2]
        columns, rows = (self._indices(*start) for start in self._starts(width, height))
        return image[rows[:, None], columns]

    def lay(self, width: int, height: int) -> tuple[Axis, Axis]:
        """Where the middle lies; the copies of a small image lie beside and below it."""
        (across, _), (down, _) = self._starts(width, height)
        return Axis(1.0, across, self.size), Axis(1.0, down, self.size)

    def _starts(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the middle begins along each axis, with that one's length."""
        least = self.tile if min(height, width) < self.tile else 1
        cut = ROUNDINGS[self.convention].cut
        first, second = (
            (cut(length * -(-least // length) - self.size), length) for length in (width, height)
        )
        return first, second

    def _indices(self, start: int, length: int) -> npt.NDArray[np.int64]:
        return np.arange(start, start + self.size) % length


Step = Resize | CenterCrop | TileCrop


class Preprocessing(Struct, frozen=True, forbid_unknown_fields=True):
    """How an image becomes what the encoder sees; data, so that one function executes every recipe.

    Attributes:
        name: the preset's name, or ``custom``.
        steps: geometry, in order.
        mean: subtracted per RGB channel from values in [0, 1].
        std: divided by, afterwards. Both are applied by the encoder's module.
        orientation: which images are turned as their EXIF data says, when they are decoded.
        face_side: side in pixels of the aligned crops that the head was trained on, before these
            steps; without meaning where it judges images as they are.
    """

    name: str
    steps: list[Step]
    mean: Channels
    std: Channels
    orientation: Orientation = "opencv-4"
    face_side: Side = 224

    @property
    def side(self) -> int | None:
        """Side of the square that every image becomes; None where the steps end in no square."""
        last = self.steps[-1] if self.steps else None
        if last is None or (isinstance(last, Resize) and last.fit != "squash"):
            return None
        return last.size

    def most_pixels(self, width: int, height: int) -> int:
        """The most pixels that the steps make of an image of this size, at any moment."""
        most = 0
        for step in self.steps:
            width, height = (
                step.target(width, height) if isinstance(step, Resize) else (step.size, step.size)
            )
            most = max(most, width * height)
        return most

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What of an image the encoder sees.

        Args:
            width: of the image, in pixels.
            height: of it.

        Returns:
            Left, top, right and bottom edge, in pixels of the image; outside of it, where a border
            was added or the image was repeated.
        """
        axes = [Axis(1.0, 0.0, width), Axis(1.0, 0.0, height)]
        for step in self.steps:
            laid = step.lay(axes[0].length, axes[1].length)
            axes = [
                Axis(old.scale * new.scale, old.scale * new.shift + old.shift, new.length)
                for old, new in zip(axes, laid, strict=True)
            ]
        starts = [axis.shift for axis in axes]
        ends = [axis.scale * axis.length + axis.shift for axis in axes]
        return starts[0], starts[1], ends[0], ends[1]

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
