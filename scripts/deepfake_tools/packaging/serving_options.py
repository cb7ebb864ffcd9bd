"""TorchServe's settings for one model: workers, batches, and after what time a worker is hung.

That time is estimated from the work, not timed: the archive is built on one machine and serves on
another, and the same inputs must give the same archive.
"""

import math
from dataclasses import dataclass

from clip_deepfake.card import Card
from clip_deepfake.explaining import MOST_PASSES

SLOW_MACHINE = 100e9
"""Floating-point operations a second: half of what two AMD EPYC cores were measured to do."""

INT8_GAIN = 3
"""How much sooner the same two cores are done with int8."""

FACE_SECONDS = {"bounded": 1.6, "exact": 4.0}
"""To find the faces of an image of 12 megapixels, on one of these cores; bounded, one of 4 takes
longer, when its two largest faces are alike and it is searched whole as well."""

DECODING = 40e6
"""Pixels a second: half of what the same two cores make of the slowest images that they take,
16-bit TIFF and PNG with four channels, and GIF; of photographs it is a tenth."""

FULL_BATCHES = 10
"""A worker that takes so many times as long as a slow machine would is taken for hung."""

SHORTEST_S = 10


@dataclass(frozen=True)
class ServingOptions:
    """TorchServe's settings for one model.

    Attributes:
        workers: processes, each with the weights in its memory.
        batch_size: requests that a worker takes at once.
        batch_delay_ms: how long a worker waits for a batch to fill. Requests that wait in this
            window are lost when the worker dies, and under load the queue fills a batch anyway.
        response_timeout_s: after this a worker that does not answer is replaced; None lets the
            builder estimate it.
        startup_timeout_s: after this a worker that does not come up is given up.
    """

    workers: int = 1
    batch_size: int = 8
    batch_delay_ms: int = 1
    response_timeout_s: int | None = None
    startup_timeout_s: int = 120

    def to_yaml(self) -> str:
        """The settings as TorchServe reads them out of the archive."""
        return (
            f"minWorkers: {self.workers}\n"
            f"maxWorkers: {self.workers}\n"
            f"batchSize: {self.batch_size}\n"
            f"maxBatchDelay: {self.batch_delay_ms}\n"
            f"responseTimeout: {self.response_timeout_s}\n"
            f"startupTimeout: {self.startup_timeout_s}\n"
        )


def response_timeout_s(card: Card, batch_size: int) -> int:
    """Estimates how long a worker that is not hung may take.

    Args:
        card: of the detector.
        batch_size: requests that a worker takes at once.

    Returns:
        Ten times the time of a batch of single images, at least 10 s, and no less than a batch of
        requests with as many images as the card allows, or with as many passes as explanations may
        take, and with as many pixels to be decoded.
    """
    seconds = card.encoder.operations / SLOW_MACHINE
    if card.precision == "int8":
        seconds /= INT8_GAIN
    if card.faces is not None:
        seconds += FACE_SECONDS["exact" if card.faces.scan_pixels is None else "bounded"]
    batches = max(FULL_BATCHES, card.limits.max_images, 1 + MOST_PASSES)
    decoding = _most_pixels(card, batch_size) / DECODING
    return max(SHORTEST_S, math.ceil(batches * batch_size * seconds + decoding))


def _most_pixels(card: Card, batch_size: int) -> int:
    """Pixels in a batch: a request's first image is bounded by its own limit alone."""
    return max(card.limits.max_batch_pixels, batch_size * card.limits.max_pixels)
