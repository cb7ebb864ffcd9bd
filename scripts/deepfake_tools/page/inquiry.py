"""One person's files and what came of them: asked about as `client.py` does, and explained."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deepfake_tools.client.asker import Asker
from deepfake_tools.client.concurrency import RunEndedError, Throttle
from deepfake_tools.client.explaining import NOT_OFFERED
from deepfake_tools.client.images import Collection, Image
from deepfake_tools.client.journal import Identity, Journal, open_journal
from deepfake_tools.client.payloads import PendingImage, read_image
from deepfake_tools.client.run import ask_all
from deepfake_tools.client.target import Target
from deepfake_tools.client.videos import take_apart
from deepfake_tools.errors import ImageRefusedError, ServiceError
from deepfake_tools.evaluation.export import image_fields, video_fields
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.stability import CHANGES, merged
from deepfake_tools.evaluation.videos import VideoScoring, VideoVerdict, by_video, judge_video
from deepfake_tools.interrupts import Interruption
from deepfake_tools.torchserve.answers import DetectorInfo, ServedExplanation
from deepfake_tools.videos.frames import read_frames
from deepfake_tools.videos.sampling import FrameChoice

Tell = Callable[[int, int], None]
"""Is told how many images of how many have an answer."""

NO_EXPLANATIONS = (
    "This model's archive explains nothing: it was built before there were explanations. Build it "
    "again with scripts/build_mar.py to see what its verdicts are made of."
)


@dataclass
class Inquiry:
    """What was asked about, and what came of it.

    Attributes:
        target: Who was asked.
        images: In order; of videos, their frames.
        journal: The answers.
        variants: How many times each image was asked about.
        notes: What a person should know of a file.
        failure: What ended it early, in the client's words.
        shown: Of each video, by its path, the position of the frame that is looked at.
        explained: By position.
        unexplained: Why there is no explanation, by position.
    """

    target: Target
    images: Sequence[Image]
    journal: Journal
    variants: int
    notes: list[str] = field(default_factory=list)
    failure: str | None = None
    shown: dict[str, int] = field(default_factory=dict)
    explained: dict[int, ServedExplanation] = field(default_factory=dict)
    unexplained: dict[int, str] = field(default_factory=dict)

    @property
    def detector(self) -> DetectorInfo | None:
        """What answered; None before the first verdict."""
        return self.journal.detector

    @property
    def files(self) -> list[Path]:
        """What was asked about, in order."""
        paths = (image.path if image.frame is None else image.frame.video for image in self.images)
        return [Path(path) for path in dict.fromkeys(paths)]

    def outcomes(self) -> Iterator[Outcome]:
        """Yields what is known, in order, with what changed copies tell of an image."""
        return merged([self.journal.outcomes(place) for place in range(self.variants)])

    def findings(self) -> Iterator[Outcome | tuple[VideoVerdict, list[Outcome]]]:
        """Yields what became of each file: an image's outcome, or a video's and its frames'."""
        scoring = VideoScoring.of("mean", self.detector)
        for video, group in by_video(self.outcomes()):
            if video is None:
                yield from group
            else:
                frames = list(group)
                yield judge_video(frames, scoring), frames

    def looked_at(self) -> list[int]:
        """Returns the positions of what is on the page: images, and of each video one frame."""
        places = []
        for finding in self.findings():
            if isinstance(finding, Outcome):
                places += [] if finding.error else [finding.index]
            elif finding[0].path in self.shown:
                places.append(self.shown[finding[0].path])
        return places

    def picture(self, place: int) -> bytes:
        """Returns the image file of an image, or of a frame.

        Raises:
            ImageRefusedError: It cannot be read, or decoded.
        """
        image = self.images[place]
        if image.frame is None:
            return read_image(PendingImage(place, image), None)
        for _, picture in read_frames(image.frame.video, [image.frame.number]):
            if isinstance(picture, bytes):
                return picture
            raise picture
        raise ImageRefusedError("the frame is not in the video any more")

    def look_at(self, place: int) -> None:
        """Chooses the frame of a video that is shown; what is no frame is not chosen."""
        if 0 <= place < len(self.images) and (frame := self.images[place].frame) is not None:
            self.shown[frame.video] = place


def ask(target: Target, files: Sequence[Path], tell: Tell, *, stability: bool) -> Inquiry:
    """Asks about files, as `client.py` asks about those that are named to it.

    Args:
        target: Whom to ask.
        files: Images and videos.
        tell: Is told how far it is.
        stability: Whether to ask about changed copies of each image too.
    """
    named = [Image(str(file), None, "") for file in files]
    collection, notes = take_apart(Collection(named, named=True), FrameChoice())
    images, variants = collection.images, [None, *CHANGES] if stability else [None]
    names = tuple("" if variant is None else str(variant) for variant in variants)
    identity = Identity(target.model, len(images), collection.digest, names)
    journal = open_journal(None, identity, images, resume=False)
    audience = _Audience(tell, journal.places)
    ending = ask_all(
        target, images, variants, journal, Interruption(), audience, together=stability
    )
    inquiry = Inquiry(target, images, journal, len(variants))
    inquiry.notes = [f"{Path(path).name}: {note}" for path, note in notes.items()]
    inquiry.failure = None if ending.failure is None else str(ending.failure)
    for finding in inquiry.findings():
        if not isinstance(finding, Outcome) and (peaks := finding[0].most_fake):
            inquiry.shown[finding[0].path] = finding[1][peaks[0].place].index
    return inquiry


def explain(inquiry: Inquiry, tell: Tell) -> None:
    """Asks what the verdicts on what is looked at are made of, where that is not known yet.

    Args:
        inquiry: Takes the explanations, or why there are none.
        tell: Is told how far it is.
    """
    target = inquiry.target
    asker = Asker(target, Throttle(1, target.attempt_seconds), inquiry.detector)
    places = [place for place in inquiry.looked_at() if place not in inquiry.explained]
    for number, place in enumerate(places):
        tell(number, len(places))
        try:
            pending = PendingImage(place, inquiry.images[place], picture=inquiry.picture(place))
            explanation = asker.ask_why(pending).explanation
        except (ServiceError, RunEndedError) as error:
            inquiry.unexplained[place] = in_words(error)
            if isinstance(error, ServiceError) and not isinstance(error, ImageRefusedError):
                inquiry.unexplained |= dict.fromkeys(places[number:], in_words(error))
                return
        else:
            assert explanation is not None  # a verdict without one is no answer
            inquiry.explained[place] = explanation
            inquiry.unexplained.pop(place, None)


def in_words(error: Exception) -> str:
    """Returns why there is no explanation."""
    if isinstance(error, ServiceError) and error.kind == NOT_OFFERED:
        return NO_EXPLANATIONS
    return str(error)


def to_fields(inquiry: Inquiry) -> dict[str, Any]:
    """Returns everything that is known, as JSON has it; of paths the names alone."""
    images: list[dict[str, object]] = []
    videos: list[dict[str, object]] = []
    for finding in inquiry.findings():
        outcomes = [finding] if isinstance(finding, Outcome) else finding[1]
        for outcome in outcomes:
            named = replace(outcome, path=Path(outcome.path).name)
            if outcome.video is not None:
                named = replace(named, video=Path(outcome.video).name)
            made_of = inquiry.explained.get(outcome.index)
            fields = image_fields(named)
            images.append(fields if made_of is None else fields | {"explanation": asdict(made_of)})
        if not isinstance(finding, Outcome):
            videos.append(video_fields(replace(finding[0], path=Path(finding[0].path).name)))
    return {
        "model": inquiry.target.model,
        "detector": None if inquiry.detector is None else asdict(inquiry.detector),
        "failure": inquiry.failure,
        "images": images,
        "videos": videos,
    }


class _Audience:
    """Hands on how far a run is."""

    def __init__(self, tell: Tell, places: int) -> None:
        self._tell, self._places, self._done = tell, places, 0

    def show(self, outcomes: list[Outcome]) -> None:
        self._done += len(outcomes)
        self._tell(self._done, self._places)

    def end(self) -> None:
        pass
