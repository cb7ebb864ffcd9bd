"""Whether a run is over the very images that its detector was made of, so that it flatters it."""

import hashlib
from collections.abc import Iterable

from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.files import read_regular
from deepfake_tools.torchserve.answers import DetectorInfo


def are_training_images(
    outcomes: Iterable[Outcome], metrics: Metrics, detector: DetectorInfo | None
) -> bool:
    """Compares a run's labelled images with the fingerprint on the detector's card.

    The fingerprint is of all images together: a part of them, or more than them, is not noticed.
    No file is read unless there are exactly as many.

    Args:
        outcomes: Of the run. Frames of videos have other files than training gave them.
        metrics: Of the same run.
        detector: What judged it; None where nothing did.
    """
    if detector is None or detector.trained_on is None or metrics.video_score is not None:
        return False
    if metrics.real + metrics.fake != detector.trained_images:
        return False
    lines: set[str] = set()
    for outcome in outcomes:
        if outcome.label is None or outcome.error is not None:
            continue
        try:
            digest = hashlib.sha256(read_regular(outcome.path)).hexdigest()
        except OSError:
            return False  # moved, or on another machine: nothing can be said
        lines.add(f"{digest} {outcome.label}\n")
    found = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    return found == detector.trained_on
