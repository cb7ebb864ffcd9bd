"""What the page shows of an inquiry, as HTML: verdicts in words, faces, heat maps, timelines.

Everything is in the page itself, pictures too: no file is made, and none can be asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clip_deepfake import errors, overlay
from clip_deepfake.images import decode
from jinja2 import Environment, PackageLoader, StrictUndefined

from deepfake_tools.errors import ServiceError
from deepfake_tools.evaluation.outcomes import LABELS, Outcome
from deepfake_tools.evaluation.perturbations import MAX_PIXELS
from deepfake_tools.evaluation.pictures import data_uri
from deepfake_tools.evaluation.video_lines import frames_in_words, peaks_in_words, people_in_words
from deepfake_tools.evaluation.videos import VideoScoring, VideoVerdict
from deepfake_tools.page.inquiry import Inquiry
from deepfake_tools.torchserve.answers import DetectorInfo, ServedExplanation
from deepfake_tools.videos.sampling import clock

SIDE = 900
"""The longer side of a picture in pixels: sharp on a screen's half."""

TOWARDS_FAKE, TOWARDS_REAL = (
    "#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in (overlay.FAKE, overlay.REAL)
)
"""As the overlays have them that a worker draws."""

LEAST = 0.02
"""Of the strongest part; a fainter one is not drawn."""


@dataclass(frozen=True)
class Part:
    """A part of the picture that a map colours.

    Attributes:
        column, row: Of the grid.
        value: Its contribution.
        colour: What it is drawn in.
        strength: In [0, 1], of the strongest.
    """

    column: int
    row: int
    value: float
    colour: str
    strength: float


@dataclass(frozen=True)
class HeatMap:
    """An explanation as it is drawn.

    Attributes:
        made_of: The explanation.
        matrix: From columns and rows to the picture's pixels, as SVG's `matrix()` has it.
        parts: Those that are not too faint.
        strongest: The largest contribution, either way.
        total: Of all parts.
    """

    made_of: ServedExplanation
    matrix: str
    parts: list[Part]
    strongest: float
    total: float


@dataclass(frozen=True)
class Photograph:
    """A picture and what is drawn over it.

    Attributes:
        uri: A JPEG.
        width, height: Of the picture as the detector reads it, in pixels.
        heat: None where there is none.
    """

    uri: str
    width: int
    height: int
    heat: HeatMap | None


@dataclass(frozen=True)
class Moment:
    """A frame on a timeline, in shares of its width and height from the lower left.

    Attributes:
        place: Its position in the run.
        left, across: Where its button begins, and how wide it is, as shares of the timeline.
        time: In words.
        fake_probability: None of a frame that does not count.
        is_shown: Whether it is the one below.
    """

    place: int
    left: float
    across: float
    time: str
    fake_probability: float | None
    is_shown: bool


def findings_page(inquiry: Inquiry) -> str:
    """Returns what is shown of everything that was asked about."""
    shown = [
        _image(inquiry, finding) if isinstance(finding, Outcome) else _video(inquiry, *finding)
        for finding in inquiry.findings()
    ]
    template = _templates().get_template("findings.html.jinja")
    return template.render(
        inquiry=inquiry,
        detector=inquiry.detector,
        unasked=inquiry.journal.places - inquiry.journal.done,
        findings=shown,
        fake=TOWARDS_FAKE,
        real=TOWARDS_REAL,
    )


def in_words(outcome: Outcome, detector: DetectorInfo | None) -> Iterator[str]:
    """Yields what a verdict says of an image, a sentence each."""
    if outcome.error is not None:
        yield f"No verdict: {outcome.message}."
        return
    yield f"{LABELS[outcome.prediction]} with confidence {outcome.confidence:.1%}."
    if outcome.decision is not None and detector is not None:
        allowed = detector.false_alarms
        rate = "" if allowed is None else f" at {100 * allowed:.3g} % false alarms"
        yield f"Decision{rate}: {outcome.decision}; {outcome.rarity}."
    if outcome.unstable is not None:
        held = "Unstable: it is called otherwise" if outcome.unstable else "Stable"
        yield (
            f"{held} after small changes such as any upload makes; fake probability "
            f"{outcome.lowest:.4f} to {outcome.highest:.4f}."
        )
    if outcome.faces == ():
        yield "No face was found: the whole image was judged, and the head was trained on faces."


def heat_map(explanation: ServedExplanation, width: int, height: int) -> HeatMap:
    """Returns how an explanation is drawn over a picture.

    Args:
        explanation: What to draw.
        width: Of the picture in pixels, where the explanation does not say where it lies.
        height: Likewise.
    """
    grid = explanation.grid
    (left, top), right, _, bottom = explanation.corners_in(width, height)
    columns, rows = len(grid[0]), len(grid)
    along = ((right[0] - left) / columns, (right[1] - top) / columns)
    down = ((bottom[0] - left) / rows, (bottom[1] - top) / rows)
    strongest = max(abs(value) for row in grid for value in row)
    parts = [
        Part(
            column,
            row,
            value,
            TOWARDS_FAKE if value > 0 else TOWARDS_REAL,
            round(abs(value) / strongest, 3),
        )
        for row, values in enumerate(grid)
        for column, value in enumerate(values)
        if abs(value) > LEAST * strongest
    ]
    numbers = (*along, *down, left, top)
    matrix = " ".join(f"{number:.4f}" for number in numbers)
    return HeatMap(explanation, matrix, parts, strongest, sum(map(sum, grid)))


def moments(verdict: VideoVerdict, frames: list[Outcome], shown: int | None) -> list[Moment]:
    """Returns the frames of a video as they stand side by side, each as wide as the others."""
    judged = {one.place: one.fake_probability for one in verdict.curve}
    start = frames[0].index
    return [
        Moment(
            place=frame.index,
            left=number / len(frames),
            across=1 / len(frames),
            time=clock(frame.time or 0.0),
            fake_probability=judged.get(frame.index - start),
            is_shown=frame.index == shown,
        )
        for number, frame in enumerate(frames)
    ]


def curves(verdict: VideoVerdict, frames: int) -> list[str]:
    """Returns the curve of each person, or of all frames, as SVG's points over a unit square."""
    return [
        " ".join(
            f"{(one.place + 0.5) / frames:.5f},{1 - one.fake_probability:.5f}" for one in stretch
        )
        for track in verdict.thinned().tracks
        if track.speaks
        for stretch in track.stretches()
    ]


def _image(inquiry: Inquiry, outcome: Outcome) -> dict[str, object]:
    return {
        "kind": "image",
        "name": Path(outcome.path).name,
        "called": outcome.called if outcome.error is None else "",
        "words": list(in_words(outcome, inquiry.detector)),
        "outcome": outcome,
        "photograph": _photograph(inquiry, outcome),
        "unexplained": inquiry.unexplained.get(outcome.index),
    }


def _video(inquiry: Inquiry, verdict: VideoVerdict, frames: list[Outcome]) -> dict[str, object]:
    shown = inquiry.shown.get(verdict.path)
    frame = None if shown is None else frames[shown - frames[0].index]
    name, called = Path(verdict.path).name, LABELS[verdict.prediction]
    card: dict[str, object] = {
        "kind": "video",
        "name": name,
        "called": called,
        "words": [],
        "photograph": None,
    }
    if verdict.prediction is None:
        return card | {"called": "", "words": [f"No verdict: {verdict.message}."], "frame": None}
    card["words"] = [
        f"{called} with confidence {verdict.confidence:.1%}.",
        f"Frames: {frames_in_words(verdict)}.",
        f"Most fake: {peaks_in_words(verdict)}.",
        *(person.capitalize() + "." for person in people_in_words(verdict)),
    ]
    return card | {
        "moments": moments(verdict, frames, shown),
        "curves": curves(verdict, len(frames)),
        "threshold": VideoScoring.of("mean", inquiry.detector).threshold,
        "frame": frame,
        "frame_words": [] if frame is None else list(in_words(frame, inquiry.detector)),
        "from": clock(frames[0].time or 0.0),
        "to": clock(frames[-1].time or 0.0),
        "outcome": frame,
        "photograph": None if frame is None else _photograph(inquiry, frame),
        "unexplained": None if frame is None else inquiry.unexplained.get(frame.index),
    }


def _photograph(inquiry: Inquiry, outcome: Outcome) -> Photograph | None:
    """Returns the picture; None where it cannot be read or decoded."""
    detector = inquiry.detector
    try:
        data = inquiry.picture(outcome.index)
        image = decode(data, MAX_PIXELS, "opencv-5" if detector is None else detector.orientation)
    except (ServiceError, errors.ImageError, OSError):
        return None
    height, width = image.shape[:2]
    made_of = inquiry.explained.get(outcome.index)
    heat = None if made_of is None else heat_map(made_of, width, height)
    return Photograph(data_uri(image, SIDE), width, height, heat)


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("deepfake_tools.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
