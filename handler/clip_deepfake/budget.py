"""Pixels of a batch's images in, which of them a worker takes up out, and how many at a time.

A limit on each image alone bounds neither a request's time nor its memory: a file of 61 bytes may
hold as many pixels as a photograph of 20 megabytes, and a request 32 of these.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition

from clip_deepfake.card import Limits
from clip_deepfake.errors import ImageTooLargeError

Refusals = list[ImageTooLargeError | None]

SHARE = 4
"""Threads whose images may be as large, together, as one image may be."""


def refuse_excess(requests: Sequence[Sequence[int]], limits: Limits) -> list[Refusals]:
    """Finds the images that exceed their request's budget, or the batch's.

    The first image of a request exceeds neither, so that one that is sent alone depends on no
    other's. Of the batch's budget the smaller requests have theirs first.

    Args:
        requests: the pixels of each image of each request.
        limits: of the card.

    Returns:
        For each image of each request, why it is refused, or None.
    """
    refusals: list[Refusals] = [[None] * len(images) for images in requests]
    batch = sum(images[0] for images in requests if images)
    for images, refused in sorted(
        zip(requests, refusals, strict=True), key=lambda request: sum(request[0])
    ):
        request = sum(images[:1])
        for index, pixels in enumerate(images[1:], 1):
            if request + pixels > limits.max_request_pixels:
                refused[index] = ImageTooLargeError(
                    f"with this image the request would hold {request + pixels} pixels, over the "
                    f"limit of {limits.max_request_pixels}; send it in another one"
                )
            elif batch + pixels > limits.max_batch_pixels:
                refused[index] = ImageTooLargeError(
                    f"with this image the requests that are answered together would hold "
                    f"{batch + pixels} pixels, over the limit of {limits.max_batch_pixels}; send "
                    "it in a request of its own"
                )
            else:
                request, batch = request + pixels, batch + pixels
    return refusals


class Room:
    """Bounds the pixels that several threads hold at a time, and with them their memory."""

    def __init__(self, max_pixels: int, threads: int) -> None:
        """Makes room.

        Args:
            max_pixels: of one image; so many there is room for in any case.
            threads: that decode.
        """
        self._pixels = max(max_pixels, max_pixels * threads // SHARE)
        self._held = 0
        self._changed = Condition()

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for an image, and keeps it while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._pixels)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()
