"""Compares the old and the new version on the same images, and says what speaks against the new."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar, TypeAlias

from deepfake_tools.client.asker import Asker
from deepfake_tools.client.concurrency import Throttle
from deepfake_tools.client.images import Image
from deepfake_tools.client.payloads import PendingImage
from deepfake_tools.client.target import Target
from deepfake_tools.errors import ServiceError
from deepfake_tools.evaluation.outcomes import LABELS, Outcome
from deepfake_tools.image_files import is_video
from deepfake_tools.percentiles import percentile
from deepfake_tools.videos.frames import extract
from deepfake_tools.videos.sampling import FrameChoice, clock

Ask: TypeAlias = Callable[[str], Outcome]
"""Takes an image's name, returns what became of it."""

FRAMES = 8
"""Of each video."""

WARM_UP = 3
# So many that the 95th percentile is not one image's.
TIMINGS = 100
SHOWN_FLIPS = 20


class CheckError(ServiceError):
    """The new version differs from the old one by more than was allowed."""

    exit_code: ClassVar[int] = 21
    meaning: ClassVar[str] = "the new version was refused by --check, and the old one answers on"
    kind = "check"


@dataclass(frozen=True)
class Tolerances:
    """How much worse than the old version a new one may be.

    Attributes:
        min_agreement: Lowest share of images with the same label, of those that both judged.
        max_slowdown: Highest relative growth of the 95th percentile of the latency.
        max_new_errors: Highest growth of the share of images that get no verdict.
    """

    min_agreement: float = 0.95
    max_slowdown: float = 0.25
    max_new_errors: float = 0.01


@dataclass(frozen=True)
class VerdictPair:
    """One image and what both versions made of it."""

    path: str
    old: Outcome
    new: Outcome

    @property
    def is_judged(self) -> bool:
        """Whether both gave a verdict."""
        return self.old.error is None and self.new.error is None

    @property
    def is_flip(self) -> bool:
        """Whether both gave a verdict, and not the same."""
        return self.is_judged and self.old.prediction != self.new.prediction

    @property
    def change(self) -> float:
        """How far apart the two fake probabilities are; 0 where one is missing."""
        return abs((self.new.fake_probability or 0) - (self.old.fake_probability or 0))


@dataclass(frozen=True)
class Comparison:
    """The old version against the new one.

    Attributes:
        pairs: Each image once.
        old_seconds: Latencies of the old version's verdicts; some images were asked about again.
        new_seconds: The new one's, measured in turn with the old one's.
    """

    pairs: Sequence[VerdictPair]
    old_seconds: Sequence[float]
    new_seconds: Sequence[float]

    @property
    def agreement(self) -> float:
        """The share of the same label, of the images that both judged; 0 where there are none."""
        judged = sum(pair.is_judged for pair in self.pairs)
        return 1 - sum(pair.is_flip for pair in self.pairs) / judged if judged else 0.0

    @property
    def error_rates(self) -> tuple[float, float]:
        """The share of images without a verdict, of the old version and of the new one."""
        old = sum(pair.old.error is not None for pair in self.pairs)
        new = sum(pair.new.error is not None for pair in self.pairs)
        return old / len(self.pairs), new / len(self.pairs)

    @property
    def slowdown(self) -> float:
        """Relative growth of the 95th percentile; 0 where one version gave no verdict."""
        if not self.old_seconds or not self.new_seconds:
            return 0.0
        return percentile(self.new_seconds, 0.95) / percentile(self.old_seconds, 0.95) - 1

    def objections(self, tolerances: Tolerances) -> list[str]:
        """Returns what speaks against the new version, a phrase each."""
        old_errors, new_errors = self.error_rates
        found = []
        if new_errors - old_errors >= tolerances.max_new_errors:
            found.append(f"{new_errors:.1%} of the images get no verdict, before {old_errors:.1%}")
        if self.slowdown >= tolerances.max_slowdown:
            found.append(
                f"the 95th percentile of its latency is {self.slowdown:.0%} higher, at most "
                f"{tolerances.max_slowdown:.0%} are allowed"
            )
        if self.agreement < tolerances.min_agreement:
            found.append(
                f"{self.agreement:.2%} of the labels agree, below {tolerances.min_agreement:.2%}"
            )
        return found

    def lines(self) -> Iterator[str]:
        """Yields the comparison as a person reads it."""
        old_errors, new_errors = self.error_rates
        yield f"  without a verdict: {old_errors:.1%} of {len(self.pairs)}, new {new_errors:.1%}"
        if self.old_seconds and self.new_seconds:
            yield f"  latency: {_latency(self.old_seconds)}, new {_latency(self.new_seconds)}"
        if changes := [pair.change for pair in self.pairs if pair.is_judged]:
            quantiles = ", ".join(
                f"{q:.0%}: {percentile(changes, q):.4f}" for q in (0.5, 0.9, 0.99)
            )
            yield (
                f"  fake_probability: changed by {sum(changes) / len(changes):.4f} on average, "
                f"{max(changes):.4f} at most ({quantiles})"
            )
        flips = [pair for pair in self.pairs if pair.is_flip]
        yield f"  labels: {self.agreement:.2%} agree, {len(flips)} flipped"
        for pair in sorted(flips, key=lambda pair: -pair.change)[:SHOWN_FLIPS]:
            yield f"    {_verdict(pair.old)} -> {_verdict(pair.new)}  {Path(pair.path)}"
        if len(flips) > SHOWN_FLIPS:
            yield f"    and {len(flips) - SHOWN_FLIPS} more"


def find_files(images: Sequence[Image], frames: Path) -> dict[str, str]:
    """Finds the files of images, and makes those of videos' frames.

    Args:
        images: Videos among them.
        frames: A folder for the frames.

    Returns:
        The files by the images' names, of which a frame's tells its time.
    """
    files = {image.path: image.path for image in images if not is_video(image.path)}
    videos = [image.path for image in images if is_video(image.path)]
    for video in extract(videos, FrameChoice(FRAMES), frames) if videos else ():
        if video.fault is not None:
            print(f"note: left out: {video.path}: {video.fault}", file=sys.stderr)
        for file in video.files:
            # Its name is its time in milliseconds.
            files[f"{video.path}@{clock(int(file.stem) / 1000)}"] = str(file)
    return files


def version_asker(target: Target, files: Mapping[str, str]) -> Ask:
    """Returns what asks one version about an image, as insistently as the client does.

    Args:
        target: The version.
        files: Where the images lie, by their names.

    Raises:
        ServiceError: When asking: every later request would fail in the same way.
    """
    throttle = Throttle(1, target.attempt_seconds)
    asker = Asker(target, throttle)

    def ask(name: str) -> Outcome:
        throttle.enter()
        try:
            (outcome,) = asker.ask([PendingImage(0, Image(files[name], None, ""))])
        finally:
            throttle.leave(1)
        return outcome

    return ask


def compare(
    old: Ask, new: Ask, paths: Sequence[str], tolerances: Tolerances, timings: int = TIMINGS
) -> Comparison:
    """Asks two versions about every image, one request at a time, in turns.

    Each pair of requests meets the same machine, and who is first changes with every image. Few
    images are asked about several times, for the latencies. A new version that looks too slow is
    measured once more, since a busy machine can make it so; the better measurement counts.

    Args:
        old: Asks the version that answers now.
        new: Asks the one that is to take its place.
        paths: The images.
        tolerances: What the new one is measured by.
        timings: Fewest latencies for each.

    Raises:
        CheckError: The new version cannot be asked at all.
        ServiceError: The old one cannot be.
    """

    def ask_new(path: str) -> Outcome:
        try:
            return new(path)
        except ServiceError as error:
            raise CheckError(f"the new version is refused: it does not answer: {error}") from error

    for path in islice(cycle(paths), WARM_UP):
        old(path)
        ask_new(path)
    pairs = _ask_both(old, ask_new, paths)
    rest = islice(cycle(paths), max(timings - len(paths), 0))
    found = _comparison(pairs, [*pairs, *_ask_both(old, ask_new, rest)])
    if found.slowdown >= tolerances.max_slowdown:
        again = _ask_both(old, ask_new, islice(cycle(paths), timings))
        found = min(found, _comparison(pairs, again), key=lambda one: one.slowdown)
    return found


def _ask_both(old: Ask, new: Ask, paths: Iterable[str]) -> list[VerdictPair]:
    pairs = []
    for number, path in enumerate(paths):
        if number % 2:
            second = new(path)
            pairs.append(VerdictPair(path, old(path), second))
        else:
            pairs.append(VerdictPair(path, old(path), new(path)))
    return pairs


def _comparison(pairs: Sequence[VerdictPair], timed: Sequence[VerdictPair]) -> Comparison:
    return Comparison(
        pairs,
        _seconds(pair.old for pair in timed),
        _seconds(pair.new for pair in timed),
    )


def _seconds(outcomes: Iterable[Outcome]) -> list[float]:
    return [one.seconds for one in outcomes if one.error is None and one.seconds is not None]


def _latency(seconds: Sequence[float]) -> str:
    return f"{percentile(seconds, 0.5) * 1e3:.1f} ms (p95 {percentile(seconds, 0.95) * 1e3:.1f})"


def _verdict(outcome: Outcome) -> str:
    return f"{LABELS[outcome.prediction]} {outcome.fake_probability or 0:.4f}"
