"""What became of images and of a whole run: the record that results, metrics and report share."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: a prediction, or a failure.

    Attributes:
        index: 0-based position in the run, in the sorted order of the images.
        path: The image as it was given or collected.
        label: The true label, 0 real or 1 fake; None when it is not known.
        folder: Its folder relative to the root given with --image, with forward slashes; empty
            for the root itself.
        prediction: 0 (real) or 1 (fake) at the card's threshold; None when it failed.
        fake_probability: In [0, 1]; None when it failed.
        seconds: Latency of the request that it travelled in, undivided.
        error: The kind of its failure; None when it was judged.
        message: The failure in one line.
    """

    index: int
    path: str
    label: int | None
    folder: str
    prediction: int | None
    fake_probability: float | None
    seconds: float
    error: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """A run as a whole.

    Attributes:
        seconds_wall: From the first request to the last answer.
        images_per_second: Images judged in that time.
        retries: Requests that were repeated.
        command: The command line, as it can be typed again.
        server: The inference address.
        model: The name asked for.
        detector: The `detector` part of the answers, without the threshold.
        threshold: FAKE is answered above this probability; None when it is not known.
    """

    seconds_wall: float
    images_per_second: float
    retries: int
    command: str
    server: str
    model: str
    detector: Mapping[str, str | None]
    threshold: float | None = None
