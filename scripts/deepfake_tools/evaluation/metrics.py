"""Outcomes in, every figure about them out."""

from collections.abc import Iterable
from dataclasses import replace

from deepfake_tools.evaluation.figures import Curves, FolderMetrics, Histogram, Latency, Metrics
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.sample import UNLABELLED, FolderCounts, Sample
from deepfake_tools.evaluation.videos import video_scores
from deepfake_tools.extras import MissingExtraError, require_extra

__all__ = ["Metrics", "measure"]


def measure(outcomes: Iterable[Outcome]) -> Metrics:
    """Computes what can be computed.

    The outcomes are taken one at a time and not kept. Without the libraries of the extra
    `evaluate` there are counts, accuracy and latency, and `why` says what to install.

    Args:
        outcomes: In the order of the run.
    """
    sample = Sample()
    for outcome in outcomes:
        sample.add(outcome)
    metrics = _counted(sample)
    if metrics.why is not None:
        return metrics
    try:
        require_extra("AUC", "numpy", "sklearn")
    except MissingExtraError as error:
        return replace(metrics, why=f"{error}.")
    # A second's import, which a run without labels can do without.
    from deepfake_tools.evaluation.ranking import ranked

    return ranked(metrics, sample, video_scores(sample.directories))


def _counted(sample: Sample) -> Metrics:
    """Returns the figures that need no library."""
    real, fake = sample.count(0), sample.count(1)
    right_real, right_fake = sample.right
    return Metrics(
        images=len(sample.scores),
        real=real,
        fake=fake,
        unlabelled=sample.count(UNLABELLED),
        failed=dict(sample.failed.most_common()),
        # In the order in which they came: `ranked` finds them by their position.
        folders=tuple(_folder(name, counts) for name, counts in sample.folders.items()),
        curves=Curves(_histogram(sample)),
        latency=_latency(sorted(sample.seconds)),
        mistakes=sample.mistakes,
        why=_why_no_auc(len(sample.scores), real, fake),
        accuracy=(right_real + right_fake) / (real + fake) if real or fake else None,
        balanced_accuracy=(right_real / real + right_fake / fake) / 2 if real and fake else None,
    )


def _folder(name: str, counts: FolderCounts) -> FolderMetrics:
    labelled = counts.real + counts.fake
    return FolderMetrics(
        folder=name,
        images=counts.images,
        real=counts.real,
        fake=counts.fake,
        auc=None,
        accuracy=counts.right / labelled if labelled else None,
        mean_probability=counts.probability / counts.images,
    )


def _histogram(sample: Sample) -> Histogram:
    return Histogram(
        real=tuple(sample.histogram[0]),
        fake=tuple(sample.histogram[1]),
        unlabelled=tuple(sample.histogram[UNLABELLED]),
    )


def _latency(seconds: list[float]) -> Latency | None:
    if not seconds:
        return None
    p50, p95, p99 = (_percentile(seconds, share) for share in (0.50, 0.95, 0.99))
    return Latency(p50, p95, p99)


def _percentile(ordered: list[float], share: float) -> float:
    """Interpolates between the neighbours, as numpy does by default."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _why_no_auc(images: int, real: int, fake: int) -> str | None:
    if real and fake:
        return None
    if images == 0:
        return "AUC and PR-AUC do not apply: no image was judged."
    if images == 1:
        return "AUC and PR-AUC do not apply to one image: they compare the scores of two classes."
    if real or fake:
        return (
            "AUC and PR-AUC do not apply: they compare the scores of two classes, and every "
            f"labelled image is {'real' if real else 'fake'}."
        )
    return "AUC and PR-AUC do not apply: no image has a true label, real or fake, to compare with."
