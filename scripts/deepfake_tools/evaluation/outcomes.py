"""What became of images and of a whole run: the record that results, metrics and report share."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from deepfake_tools.torchserve.answers import DetectorInfo, Ruling, ServedFace

ABOVE_ZERO, BELOW_ONE = math.ulp(0.0), 1 - math.ulp(0.5)
"""The probabilities next to 0 and to 1, which have log odds."""

LABELS = {0: "REAL", 1: "FAKE", None: "N/A"}
"""The words for a prediction or a true label."""

NO_FACE = "no_face"
"""The detector's own code for an image in which it found no face."""

LEVELS = ("threshold", "false_alarms", "calibrated_by", "held_out_auc", "held_out_images")
"""What a detector says of where it calls an image fake, and of how well its head was seen to do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: a prediction, or a failure.

    One record from the answer to the files: threads hand it on, the journal keeps it, figures and
    tables are made of it.

    Attributes:
        index: 0-based position in the run, in the sorted order of the images.
        path: The image as it was given or collected.
        label: The true label, 0 real or 1 fake; None when it is not known.
        folder: Its folder relative to the root given with --image, with forward slashes; empty
            for the root itself.
        prediction: 0 (real) or 1 (fake) at the card's threshold; None when it failed.
        fake_probability: In [0, 1]; None when it failed.
        seconds: Latency of the request that it travelled in, undivided; None where there was none.
        error: The kind of its failure; None when it was judged.
        message: The failure in one line.
        margin: Its logit, which tells apart images whose probabilities round to 0 or 1; None when
            it failed, or was judged by an archive that says none.
        decision: At the card's rate of false alarms; None when it failed, or the card has none.
        false_alarm_rate: Share of the card's real images that look at least as fake.
        lowest: The smallest `fake_probability` of the image and its changed copies; None where
            none were asked about.
        highest: The largest one.
        unstable: Whether one of them is called otherwise than the image.
        video: Of a frame, the video that it is of, as it was given or collected.
        time: Of a frame, when it is shown, in seconds from the video's beginning.
        frame: Of a frame, its 0-based number in the order in which the frames are shown.
        faces: Each that was judged; none where the whole image was, for want of a face. None when
            it failed, or the detector does not look for faces.
        variant: The position of the run's variant, such as a perturbation; 0 is the first.
        retries: How many times its request was repeated.
        exit_code: Of the failure.
        is_passing: Whether it is worth asking again.
    """

    index: int
    path: str
    label: int | None
    folder: str
    prediction: int | None
    fake_probability: float | None
    seconds: float | None
    error: str | None = None
    message: str | None = None
    margin: float | None = None
    decision: Ruling | None = None
    false_alarm_rate: float | None = None
    lowest: float | None = None
    highest: float | None = None
    unstable: bool | None = None
    video: str | None = None
    time: float | None = None
    frame: int | None = None
    faces: tuple[ServedFace, ...] | None = None
    variant: int = 0
    retries: int = 0
    exit_code: int = 0
    is_passing: bool = False

    @property
    def confidence(self) -> float:
        """The probability of the label given; 0 when it failed."""
        if self.fake_probability is None:
            return 0.0
        return self.fake_probability if self.prediction else 1 - self.fake_probability

    @property
    def is_faceless(self) -> bool:
        """Whether a detector of faces found none, be it an error or the whole image's verdict."""
        return self.error == NO_FACE or self.faces == ()

    @property
    def is_left_out(self) -> bool:
        """Whether it is a frame without a verdict for want of a face, which is no failure.

        People look away and shots change: the video is judged by its other frames.
        """
        return self.video is not None and self.error == NO_FACE

    def map_in(self, folder: Path) -> Path:
        """Returns where its map is in a folder of maps; the numbers lie beside it, as `.json`."""
        return folder / self.folder / f"{Path(self.path).name}.png"

    @property
    def called(self) -> str:
        """What it is called: by the decision, else by the prediction."""
        return self.decision or LABELS[self.prediction]

    @property
    def rarity(self) -> str:
        """How many real images look at least as fake, in words; empty without a decision."""
        if self.false_alarm_rate is None:
            return ""
        return f"as fake as {100 * self.false_alarm_rate:.3g} % of your real images"

    @property
    def score(self) -> float | None:
        """What it is ranked by: the margin, else the log odds; None when it failed."""
        if self.fake_probability is None:
            return None
        return ranked_by(self.fake_probability, self.margin)


def ranked_by(fake_probability: float, margin: float | None) -> float:
    """Returns what tells apart two pictures of equal probability: the margin, else the log odds.

    Args:
        fake_probability: In [0, 1].
        margin: None of an archive that says none.
    """
    if margin is not None:
        return margin
    real, fake = min(fake_probability, BELOW_ONE), max(fake_probability, ABOVE_ZERO)
    return math.log(fake) - math.log1p(-real)


@dataclass(frozen=True, slots=True)
class Totals:
    """A run as a whole.

    Attributes:
        seconds_wall: From the first request to the last answer; None where nobody has timed it.
        images_per_second: Images judged in that time; None likewise.
        retries: Requests that were repeated.
        command: The command line, as it can be typed again.
        server: The inference address; None where no server was asked.
        model: The name asked for.
        detector: What judged the images; None when there was no verdict.
    """

    seconds_wall: float | None
    images_per_second: float | None
    retries: int
    command: str
    server: str | None
    model: str
    detector: DetectorInfo | None

    @property
    def card(self) -> dict[str, str | int | None]:
        """What the files list of the detector as it is; empty without one.

        Where it calls an image fake they say in lines of their own.
        """
        known = {} if self.detector is None else asdict(self.detector)
        return {name: value for name, value in known.items() if name not in LEVELS}

    @property
    def threshold(self) -> float | None:
        """FAKE is answered above this probability; None when it is not known."""
        return None if self.detector is None else self.detector.threshold

    @property
    def levels(self) -> dict[str, float | None]:
        """Where the detector calls an image fake, and its head's worth; None where not known."""
        return {
            name: None if self.detector is None else getattr(self.detector, name) for name in LEVELS
        }

    @property
    def standing(self) -> Iterator[str]:
        """What a probability is to be held against: the threshold, and the head's worth."""
        if self.threshold is not None:
            yield f"FAKE above {self.threshold:.4f}"
        if self.levels["held_out_auc"] is not None:
            images = self.levels["held_out_images"]
            yield (
                f"its head's AUC on {images:,} images held out from training was "
                f"{self.levels['held_out_auc']:.4f}"
            )

    @property
    def is_untrained(self) -> bool:
        """Whether the detector's head was never trained, so that the figures mean nothing."""
        return self.detector is not None and self.detector.is_untrained
