"""Explanations (--explain): for each image what its verdict is made of, drawn and as JSON."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from deepfake_tools.client.asker import Asker
from deepfake_tools.client.concurrency import RequestPool, Throttle
from deepfake_tools.client.images import Image
from deepfake_tools.client.payloads import PendingImage, read_image
from deepfake_tools.client.run import Ending, Work
from deepfake_tools.client.target import Target
from deepfake_tools.errors import OutputError, ServiceError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.videos import VideoScoring, by_video, judge_video
from deepfake_tools.files import replacing, replacing_bytes
from deepfake_tools.interrupts import Interruption
from deepfake_tools.progress import Progress
from deepfake_tools.torchserve.answers import DetectorInfo, ServedVerdict

NOT_OFFERED = "not_implemented"


class NoExplanationError(ServiceError):
    """The archive explains nothing, as those that an earlier version built."""

    exit_code: ClassVar[int] = 24
    meaning: ClassVar[str] = "the archive explains nothing: build it again for --explain"
    kind = "no_explanation"
    is_general = True


def to_explain(outcomes: Iterable[Outcome], scoring: VideoScoring) -> Iterator[Outcome]:
    """Yields what is explained: the images that were judged, and of a video its most fake frames.

    Args:
        outcomes: Of the run, in order.
        scoring: How videos are judged.
    """
    for video, group in by_video(outcomes):
        if video is None:
            yield from (outcome for outcome in group if outcome.error is None)
        else:
            frames = list(group)
            peaks = {one.place for one in judge_video(frames, scoring).most_fake}
            yield from (one for place, one in enumerate(frames) if place in peaks)


def explain_all(
    target: Target,
    images: Sequence[Image],
    outcomes: Sequence[Outcome],
    detector: DetectorInfo,
    folder: Path,
    interruption: Interruption,
) -> Ending:
    """Asks what verdicts are made of, and writes each answer down.

    A picture and a JSON file for each image lie in the folder as the images do in theirs. What
    cannot be explained is said, and the others are.

    Args:
        target: Whom to ask.
        images: Of the run.
        outcomes: Of those to explain.
        detector: That judged them.
        folder: Where to write; it is made.
        interruption: Ends it.

    Returns:
        With the first failure, if there was one.
    """
    throttle = Throttle(target.concurrency, target.attempt_seconds)
    asker = Asker(target, throttle, detector)
    known = {outcome.index: outcome for outcome in outcomes}
    failures: list[ServiceError] = []

    def ask(some: Sequence[PendingImage]) -> list[Outcome]:
        for pending in some:
            outcome = known[pending.index]
            try:
                _explain(asker, pending, outcome, detector, folder)
            except ServiceError as error:
                if error.kind == NOT_OFFERED:
                    raise NoExplanationError(f"{target.model}: {error}") from error
                if error.is_general:
                    raise
                failures.append(error)
                print(f"error: {outcome.path}: not explained: {error}", file=sys.stderr)
        return [known[pending.index] for pending in some]

    progress = Progress(sys.stderr, "explanations", len(known))
    pool = RequestPool(ask, throttle, min(target.concurrency, len(known)))
    done = 0
    try:
        with Work(images, [None], list(known), target.cut, together=False) as work:
            for some in pool.work(work):
                done += len(some)
                progress.update(done, len(failures))
                if interruption.number is not None:
                    return Ending(signal=interruption.number)
    except ServiceError as error:
        return Ending(failure=error)
    finally:
        progress.clear()
    return Ending(failure=failures[0] if failures else None)


def _explain(
    asker: Asker, pending: PendingImage, outcome: Outcome, detector: DetectorInfo, folder: Path
) -> None:
    # What the map is drawn with is needed by no other option.
    from deepfake_tools.evaluation.heat_maps import draw_map

    data = read_image(pending, detector)
    verdict = asker.ask_why(PendingImage(pending.index, pending.image, picture=data))
    assert verdict.explanation is not None  # the answer was checked for it
    picture = outcome.map_in(folder)
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        with replacing_bytes(picture) as file:
            file.write(draw_map(data, verdict.explanation, outcome, detector))
        with replacing(picture.with_suffix(".json")) as text:
            text.write(json.dumps(_fields(outcome, verdict), indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write {picture}: {error.strerror}; see --explain") from error


def _fields(outcome: Outcome, verdict: ServedVerdict) -> dict[str, object]:
    assert verdict.explanation is not None  # the caller looked
    return {
        "path": outcome.path,
        "label": verdict.label,
        "fake_probability": verdict.fake_probability,
        "explanation": dataclasses.asdict(verdict.explanation),
    }
