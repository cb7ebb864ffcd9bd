"""What became of one image, as the threads hand it on and a line of the journal has it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one image, without what is known of it beforehand.

    Attributes:
        place: The image's index; under the n-th variant, n times the number of images more.
        seconds: How long its last request took.
        retries: How many times its request was repeated.
        prediction: 0 real, 1 fake; None when it failed.
        fake_probability: In [0, 1]; None when it failed.
        margin: Its logit; None when it failed, or was judged by an archive that says none.
        error: The kind of failure.
        message: The failure in one line.
        exit_code: Of the failure.
        is_passing: Whether it is worth asking again.
    """

    place: int
    seconds: float
    retries: int = 0
    prediction: int | None = None
    fake_probability: float | None = None
    margin: float | None = None
    error: str | None = None
    message: str | None = None
    exit_code: int = 0
    is_passing: bool = False


def to_line(record: Record, at: float) -> dict[str, object]:
    """Returns a record as the journal has it.

    Args:
        record: The record.
        at: Seconds since the session began.
    """
    line: dict[str, object] = {
        "place": record.place,
        "seconds": round(record.seconds, 6),
        "retries": record.retries,
        "at": round(at, 3),
    }
    if record.error is None:
        return line | {
            "prediction": record.prediction,
            "fake_probability": record.fake_probability,
            "margin": record.margin,
        }
    return line | {
        "error": record.error,
        "message": record.message,
        "exit_code": record.exit_code,
        "is_passing": record.is_passing,
    }


def from_line(line: dict[str, Any]) -> Record:
    """Returns the record that a line of the journal holds.

    Raises:
        TypeError: It holds something else.
    """
    return Record(**{key: value for key, value in line.items() if key != "at"})
