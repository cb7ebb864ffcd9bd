"""What became of each image of a run, as plain numbers: what measuring and writing start from."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: a prediction, or a failure.

    Attributes:
        index: Its place in the run's sorted images, from 0.
        path: As it was given or found.
        label: The truth: 0 real, 1 fake, None where it is not known.
        folder: The directory that it lies in, relative to the run's root, with `/`; "" for the
            root itself.
        prediction: 0 real, 1 fake; None when it failed.
        fake_probability: In [0, 1]; None when it failed.
        seconds: How long its last request took; images of one request share it.
        error: The kind of failure, None for a prediction.
        message: The failure in one line, None for a prediction.
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


@dataclass(frozen=True)
class Totals:
    """What holds for a run as a whole.

    Attributes:
        seconds_wall: How long it took, all its sessions together.
        images_per_second: Images with an outcome over that time.
        retries: How many requests were repeated.
        command: The command line, as it can be typed.
        server: The inference API's address.
        model: The served name.
        detector: The `detector` part of the answers; empty when there was none.
        threshold: FAKE is answered above this probability; None where the answers leave it open.
    """

    seconds_wall: float
    images_per_second: float
    retries: int
    command: str
    server: str
    model: str
    detector: Mapping[str, str | None]
    threshold: float | None = None
