"""The bytes that are sent: images read and changed, and grouped into requests of a bounded size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from deepfake_tools.client.images import Image
from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.files import read_regular
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.videos.processes import BROKEN, Picture

LARGEST_REQUEST_BYTES = 4 * 1024 * 1024
"""Of several images; TorchServe takes 6.5 MB by default. A larger image is asked about alone."""

Change = Callable[[bytes, DetectorInfo], bytes]
"""An image file's bytes and the detector that they are for in, other bytes out."""


@dataclass(frozen=True)
class PendingImage:
    """One image to ask about.

    Attributes:
        index: Its position in the run.
        image: Where it lies, and what is known of it beforehand.
        variant: The position of the run's variant that it is asked under.
        changes: What is done to its bytes first, in order.
        picture: Of a frame, its bytes, or why there are none; None for what lies in a file.
    """

    index: int
    image: Image
    variant: int = 0
    changes: tuple[Change, ...] = ()
    picture: Picture | None = None


def read_image(pending: PendingImage, detector: DetectorInfo | None) -> bytes:
    """Returns the image's bytes, changed as asked.

    Args:
        pending: Which file.
        detector: That it is for; None where nothing is to be changed.

    Raises:
        ImageRefusedError: There is no such file, it is no regular one, cannot be read, or is empty;
            it is a video of which nothing can be judged, or a frame that cannot be decoded.
    """
    data = _own_bytes(pending)
    if detector is not None:
        for change in pending.changes:
            data = change(data, detector)
    return data


def _own_bytes(pending: PendingImage) -> bytes:
    if pending.image.fault is not None:
        raise ImageRefusedError(pending.image.fault, BROKEN)
    if isinstance(pending.picture, ImageRefusedError):
        raise pending.picture
    if pending.picture is not None:
        return pending.picture
    try:
        data = read_regular(pending.image.path)
    except OSError as error:
        raise ImageRefusedError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageRefusedError("the file is empty")
    return data


def group(
    loaded: Iterable[tuple[PendingImage, bytes]],
) -> Iterator[list[tuple[PendingImage, bytes]]]:
    """Splits images, each with its bytes, into requests that no server finds too large."""
    together: list[tuple[PendingImage, bytes]] = []
    size = 0
    for pending, body in loaded:
        if together and size + len(body) > LARGEST_REQUEST_BYTES:
            yield together
            together, size = [], 0
        together.append((pending, body))
        size += len(body)
    if together:
        yield together
