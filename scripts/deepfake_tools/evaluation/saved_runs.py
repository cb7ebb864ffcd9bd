"""Runs that were saved: `client.py --json` and `score.py`'s Parquet, read back as outcomes."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from deepfake_tools.errors import ServiceError, one_line
from deepfake_tools.evaluation.outcomes import LEVELS, Outcome, Totals
from deepfake_tools.evaluation.videos import VIDEO_SCORES, VideoScore
from deepfake_tools.files import read_regular
from deepfake_tools.labels import Label, listed_path, read_labels
from deepfake_tools.torchserve.answers import MOST, DetectorInfo, Ruling, ServedFace, parse_detector

Fields = Mapping[str, object]


class SavedRunError(Exception):
    """What was named is no saved run that can be used; the one-line message says why."""


@dataclass(frozen=True)
class SavedRun:
    """A run that was saved, with the labels that it was saved with.

    Attributes:
        name: What it is called in tables: the path that was given.
        images: How many outcomes there are.
        outcomes: Gives them in order; it can be called again.
        totals: What is known of the run as a whole.
        missing: How many images had not been asked about.
        video_score: How its videos were judged; None where there are none.
        notes: What is there and is not told again.
    """

    name: str
    images: int
    outcomes: Callable[[], Iterator[Outcome]]
    totals: Totals
    missing: int = 0
    video_score: VideoScore | None = None
    notes: tuple[str, ...] = ()


def read_saved(path: str, label_column: str | None, command: str) -> SavedRun:
    """Reads a run.

    Args:
        path: What `client.py --json` wrote; or a folder of `.parquet` files, or one of them, that
            `score.py` wrote, or its URI.
        label_column: The column of a Parquet data set that holds the true labels; None takes
            those that were stored, else the directories' names.
        command: The command line that tells of it.

    Raises:
        SavedRunError: It is neither, is damaged, has an image twice, or is of several archives.
        LabelError: A label cannot be known.
        MissingExtraError: It is Parquet, and what reads that is not installed.
    """
    if "://" in path or path.endswith(".parquet") or Path(path).is_dir():
        from deepfake_tools.evaluation.parquet_runs import read_parquet

        return read_parquet(path, label_column, command)
    if label_column is not None:
        raise SavedRunError(
            f"{path} is no Parquet data set, and has no column {label_column!r}: use --labels"
        )
    return _read_json(Path(path), command)


def with_labels(saved: SavedRun, file: Path) -> tuple[SavedRun, int]:
    """Gives a run the labels of a CSV file, and no others.

    Args:
        saved: The run.
        file: With the header path,label. A relative path in it is relative to its own folder, one
            of the run to the current folder.

    Returns:
        The run, and how many images the file lists that are not in it.

    Raises:
        LabelError: The file cannot be read.
    """
    labels = read_labels(file)
    here = Path.cwd()

    def relabelled() -> Iterator[Outcome]:
        for outcome in saved.outcomes():
            yield replace(outcome, label=labels.get(listed_path(path_of(outcome), here)))

    found = {path for o in saved.outcomes() if (path := listed_path(path_of(o), here)) in labels}
    return replace(saved, outcomes=relabelled), len(labels) - len(found)


def path_of(outcome: Outcome) -> str:
    """Returns the file that an outcome's label is of: of a frame, its video."""
    return outcome.video or outcome.path


def count_distinct(paths: Iterable[str], name: str) -> int:
    """Counts images, and makes sure that none is there twice: it would count twice.

    Raises:
        SavedRunError: One is, naming it.
    """
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise SavedRunError(
                f"{name} has {one_line(path)} twice, which would count twice: keep one of them"
            )
        seen.add(path)
    return len(seen)


def _read_json(path: Path, command: str) -> SavedRun:
    try:
        value = json.loads(read_regular(path))
    except OSError as error:
        raise SavedRunError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SavedRunError(f"{path} is no JSON: {one_line(error, 80)}") from error
    try:
        return _saved_run(path, _mapping(value, "object"), command)
    except ValueError as error:
        raise SavedRunError(f"{path} is nothing that client.py --json writes: {error}") from error


def _saved_run(path: Path, value: Fields, command: str) -> SavedRun:
    """Returns the run that an object holds.

    Raises:
        ValueError: Something is missing or of another kind.
        SavedRunError: An image is there twice.
    """
    run, metrics = _mapping(value.get("run"), "run"), _mapping(value.get("metrics"), "metrics")
    outcomes = [_outcome(entry, place) for place, entry in enumerate(_list(value, "images"))]
    images = count_distinct((outcome.path for outcome in outcomes), str(path))
    perturbed = _mapping(value.get("perturbed", {}), "perturbed")
    notes = (
        [f"{path}: its figures under {', '.join(map(one_line, perturbed))} stand in it alone"]
        if perturbed
        else []
    )
    totals = Totals(
        seconds_wall=_optional(_not_negative)(run.get("seconds_wall"), "seconds_wall"),
        images_per_second=_optional(_not_negative)(run.get("images_per_second"), "rate"),
        retries=_count(run.get("retries"), "retries"),
        command=command,
        server=_optional(_text)(run.get("server"), "server"),
        model=_text(run.get("model"), "model"),
        detector=_detector(run),
    )
    return SavedRun(
        str(path),
        images,
        lambda: iter(outcomes),
        totals,
        missing=_count(value.get("missing", 0), "missing"),
        video_score=_optional(_video_score)(metrics.get("video_score"), "video_score"),
        notes=tuple(notes),
    )


def _detector(run: Fields) -> DetectorInfo | None:
    card = dict(_mapping(run.get("detector"), "detector"))
    if not card:
        return None
    try:
        return parse_detector(card | {name: run.get(name) for name in LEVELS})
    except ServiceError as error:
        raise ValueError(str(error)) from error


def _outcome(entry: object, place: int) -> Outcome:
    fields = _mapping(entry, f"image {place}")
    known: dict[str, Any] = {}
    for name, read in OUTCOME_FIELDS.items():
        try:
            known[name] = read(fields.get(name), name)
        except ValueError as error:
            raise ValueError(f"image {place}: {error}") from error
    judged = known["fake_probability"] is not None and known["prediction"] is not None
    if judged == (known["error"] is not None):
        raise ValueError(f"image {place}: it has a verdict and an error, or neither")
    return Outcome(index=place, **known)


def _unusable(what: str, value: object) -> ValueError:
    return ValueError(f"{what} is {one_line(repr(value), 60)}")


def _mapping(value: object, what: str) -> Fields:
    if isinstance(value, dict):
        return value
    raise _unusable(what, value)


def _list(value: Fields, name: str) -> list[object]:
    found = value.get(name)
    if isinstance(found, list):
        return found
    raise _unusable(name, found)


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    raise _unusable(what, value)


def _count(value: object, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _unusable(what, value)


def _finite(value: object, what: str) -> float:
    # Compared, not converted: JSON holds integers that no float does.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST:
        return float(value)
    raise _unusable(what, value)


def _not_negative(value: object, what: str) -> float:
    if (number := _finite(value, what)) >= 0:
        return number
    raise _unusable(what, value)


def _probability(value: object, what: str) -> float:
    if 0 <= (number := _finite(value, what)) <= 1:
        return number
    raise _unusable(what, value)


def _class(value: object, what: str) -> Label:
    if (number := _count(value, what)) <= 1:
        return cast(Label, number)
    raise _unusable(what, value)


def _flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise _unusable(what, value)


def _ruling(value: object, what: str) -> Ruling:
    if value in get_args(Ruling):
        return cast(Ruling, value)
    raise _unusable(what, value)


def _video_score(value: object, what: str) -> VideoScore:
    if value in VIDEO_SCORES:
        return value
    raise _unusable(what, value)


def read_faces(value: object, what: str) -> tuple[ServedFace, ...]:
    """Reads the judged faces of an image, each with its box and its numbers.

    Args:
        value: A list of mappings, as JSON and Parquet have them.
        what: Its name.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, list):
        raise _unusable(what, value)
    return tuple(_face(_mapping(face, what)) for face in value)


def _face(face: Fields) -> ServedFace:
    box = [int(_finite(side, "box")) for side in _list(face, "box")]
    if len(box) != 4:
        raise _unusable("box", box)
    return ServedFace(
        (box[0], box[1], box[2], box[3]),
        _probability(face.get("fake_probability"), "fake_probability"),
        _class(face.get("prediction"), "prediction"),
        _optional(_finite)(face.get("margin"), "margin"),
    )


def _optional(read: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    """Returns what reads a value that may be missing."""
    return lambda value, what: None if value is None else read(value, what)


OUTCOME_FIELDS: Mapping[str, Callable[[object, str], Any]] = {
    "path": _text,
    "folder": _text,
    "label": _optional(_class),
    "prediction": _optional(_class),
    "fake_probability": _optional(_probability),
    "seconds": _optional(_not_negative),
    "error": _optional(_text),
    "message": _optional(_text),
    "margin": _optional(_finite),
    "decision": _optional(_ruling),
    "false_alarm_rate": _optional(_probability),
    "lowest": _optional(_probability),
    "highest": _optional(_probability),
    "unstable": _optional(_flag),
    "video": _optional(_text),
    "time": _optional(_not_negative),
    "frame": _optional(_count),
    "faces": _optional(read_faces),
}
"""What JSON has of an image, and what reads it."""
