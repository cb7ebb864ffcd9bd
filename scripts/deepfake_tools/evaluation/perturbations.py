"""Perturbations (--perturb, --stability): JPEG, blur, resizing, noise, a shift of the image.

Reading their names needs no library; applying them needs the extra `evaluate`.
"""

import argparse
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_deepfake import errors

from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.image_files import encode
from deepfake_tools.torchserve.answers import Orientation

if TYPE_CHECKING:
    from clip_deepfake.images import RGB

MAX_PIXELS = 50_000_000
"""Width times height of an image that is taken; a worker takes as many by default."""


@dataclass(frozen=True)
class Kind:
    """A way to make images worse.

    Attributes:
        lowest: The smallest strength that means something.
        highest: The largest.
        unit: What a strength is.
        is_whole: Whether it is a whole number.
        milder_when_larger: Whether a larger one changes the image less.
    """

    lowest: float
    highest: float
    unit: str
    is_whole: bool = False
    milder_when_larger: bool = False


KINDS = {
    "jpeg": Kind(1, 100, "JPEG quality", is_whole=True, milder_when_larger=True),
    "blur": Kind(0.1, 100, "standard deviation of a Gaussian in pixels"),
    "resize": Kind(0.01, 1, "factor of width and height", milder_when_larger=True),
    "noise": Kind(0.1, 255, "standard deviation in grey levels of 255"),
    "shift": Kind(1, 64, "pixels to the right and down", is_whole=True),
}
EXAMPLE = "jpeg=90,70,50 blur=1,2 resize=0.5,0.25 noise=5"


@dataclass(frozen=True)
class Perturbation:
    """One kind at one strength.

    Attributes:
        kind: A key of `KINDS`.
        strength: In the kind's unit.
    """

    kind: str
    strength: float

    def __str__(self) -> str:
        """Returns it as it is typed: jpeg=90."""
        return f"{self.kind}={self.strength:g}"


@dataclass(frozen=True)
class PerturbedRun:
    """What a folder's figures became under a perturbation.

    Attributes:
        perturbation: Which one.
        metrics: The figures.
        held: Of the images judged with it and without, the share that is called the same; None
            where there is none.
    """

    perturbation: Perturbation
    metrics: Metrics
    held: float | None = None


def perturbations(text: str) -> tuple[Perturbation, ...]:
    """Reads one word of --perturb, as an argument's `type`.

    >>> [str(p) for p in perturbations("blur=1,2")]
    ['blur=1', 'blur=2']

    Args:
        text: A kind, `=`, and strengths with commas between them.

    Raises:
        argparse.ArgumentTypeError: It cannot be read, or a strength is out of range.
    """
    name, sign, strengths = text.partition("=")
    kind = KINDS.get(name)
    if kind is None or not sign:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a perturbation: name one of {', '.join(KINDS)} and its strengths, "
            f"as in {EXAMPLE}"
        )
    read = tuple(Perturbation(name, _strength(text, kind, part)) for part in strengths.split(","))
    if len(set(read)) < len(read):
        raise argparse.ArgumentTypeError(f"{text!r} names a strength twice")
    return read


def _strength(text: str, kind: Kind, part: str) -> float:
    try:
        strength = float(part)
    except ValueError:
        strength = float("nan")
    if not kind.lowest <= strength <= kind.highest or (kind.is_whole and strength % 1):
        whole = "a whole number" if kind.is_whole else "a number"
        raise argparse.ArgumentTypeError(
            f"{text!r}: {part!r} is not {whole} from {kind.lowest:g} to {kind.highest:g} "
            f"({kind.unit})"
        )
    return strength


def perturb(
    data: bytes, perturbation: Perturbation, orientation: Orientation = "opencv-4"
) -> bytes:
    """Returns the image after the perturbation: a JPEG from `jpeg`, otherwise a PNG.

    The image is decoded as a worker decodes it: turned where the worker would, 8 bits a channel,
    without alpha. The same bytes and perturbation give the same bytes each time.

    - `jpeg`: saved at that quality, with the chroma at half the resolution as cameras have it.
    - `blur`: Gaussian, the image mirrored at its edges.
    - `resize`: made smaller by averaging areas, as for an upload; not enlarged again.
    - `shift`: moved, its first rows and columns repeated where it was, the last ones lost.
    - `noise`: Gaussian on every channel of every pixel. It is drawn from the image's own bytes,
      so that each image has its own, whatever its name and place, and each strength the same.

    Args:
        data: The bytes of an image file.
        perturbation: What to do to it.
        orientation: Which images are turned as their EXIF data says, of which nothing is left.

    Raises:
        ImageRefusedError: The bytes are no image, damaged, or over `MAX_PIXELS`.
    """
    # Heavy, and needed by no other option; `require_extra` looks for what it needs.
    from clip_deepfake.images import decode

    try:
        image = decode(data, MAX_PIXELS, orientation)
    except errors.ImageError as error:
        raise ImageRefusedError(str(error)) from error
    if perturbation.kind == "jpeg":
        return encode(image, int(perturbation.strength))
    noisy = perturbation.kind == "noise"
    seed = int.from_bytes(hashlib.sha256(data).digest(), "big") if noisy else 0
    return encode(disturb(image, perturbation, seed))


def disturb(image: "RGB", perturbation: Perturbation, seed: int) -> "RGB":
    """Returns the pixels after a perturbation, as `perturb` describes each kind.

    Args:
        image: uint8 (height, width, 3).
        perturbation: What to do to it.
        seed: Of the noise.
    """
    strength = perturbation.strength
    if perturbation.kind == "jpeg":
        return _compressed(image, int(strength))
    if perturbation.kind == "blur":
        return _blurred(image, strength)
    if perturbation.kind == "resize":
        return smaller(image, strength)
    if perturbation.kind == "noise":
        return _noisy(image, strength, seed)
    if perturbation.kind == "shift":
        return _shifted(image, int(strength))
    raise ValueError(f"no such kind of perturbation: {perturbation.kind}")


def _compressed(image: "RGB", quality: int) -> "RGB":
    """Saves as a JPEG of this quality, from 1 to 100, and reads that."""
    import cv2
    import numpy as np

    encoded = np.frombuffer(encode(image, quality), np.uint8)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    assert decoded is not None  # it was encoded a moment ago
    return decoded.astype(np.uint8, copy=False)


def _blurred(image: "RGB", deviation: float) -> "RGB":
    """Blurs by a Gaussian of this standard deviation in pixels, mirrored at the edges."""
    import cv2
    import numpy as np

    return cv2.GaussianBlur(image, (0, 0), deviation).astype(np.uint8, copy=False)


def smaller(image: "RGB", factor: float) -> "RGB":
    """Scales width and height by a factor of at most 1, to one pixel at least, by area."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _shifted(image: "RGB", pixels: int) -> "RGB":
    """Moves an image to the right and down, and keeps its size."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    grown = cv2.copyMakeBorder(image, pixels, 0, pixels, 0, cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(grown[:height, :width], dtype=np.uint8)


def _noisy(image: "RGB", deviation: float, seed: int) -> "RGB":
    """Adds Gaussian noise of this standard deviation in grey levels."""
    import numpy as np

    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + np.float32(deviation) * noise), 0, 255).astype(np.uint8)
