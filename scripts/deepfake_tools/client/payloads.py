"""The bytes that are sent: images read and changed, and grouped into requests of a bounded size."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.files import read_regular
from deepfake_tools.torchserve.answers import DetectorInfo

LARGEST_REQUEST_BYTES = 4 * 1024 * 1024
"""Of several images; TorchServe takes 6.5 MB by default. A larger image is asked about alone."""

Change = Callable[[bytes, DetectorInfo], bytes]
"""An image file's bytes and the detector that they are for in, other bytes out."""


@dataclass(frozen=True)
class PendingImage:
    """One image to ask about.

    Attributes:
        place: Where its record belongs.
        path: Of the file.
        changes: What is done to its bytes first, in order.
    """

    place: int
    path: str
    changes: tuple[Change, ...] = ()


def read_image(image: PendingImage, detector: DetectorInfo | None) -> bytes:
    """Returns the file's bytes, changed as asked.

    Args:
        image: Which file.
        detector: That it is for; None where nothing is to be changed.

    Raises:
        ImageRefusedError: There is no such file, it is no regular one, cannot be read, or is empty.
    """
    try:
        data = read_regular(image.path)
    except OSError as error:
        raise ImageRefusedError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageRefusedError("the file is empty")
    if detector is not None:
        for change in image.changes:
            data = change(data, detector)
    return data


def group(bodies: Mapping[int, bytes]) -> Iterator[list[int]]:
    """Splits images into requests that no server finds too large."""
    places: list[int] = []
    size = 0
    for place, body in bodies.items():
        if places and size + len(body) > LARGEST_REQUEST_BYTES:
            yield places
            places, size = [], 0
        places.append(place)
        size += len(body)
    if places:
        yield places
