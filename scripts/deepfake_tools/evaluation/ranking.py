"""Counted metrics and the scores behind them in, the figures that rank images added."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deepfake_tools.evaluation import scores as compute
from deepfake_tools.evaluation.bootstrap import bootstrap
from deepfake_tools.evaluation.figures import Curves, FolderMetrics, Metrics
from deepfake_tools.evaluation.sample import UNLABELLED, Sample
from deepfake_tools.evaluation.videos import Videos


def ranked(metrics: Metrics, sample: Sample, videos: Videos | None) -> Metrics:
    """Adds AUC and its like; needs the extra `evaluate`.

    Args:
        metrics: Counted from the sample, its folders in the sample's order.
        sample: With at least one real and one fake image.
        videos: None where folders do not look like videos.
    """
    everything = np.frombuffer(sample.scores)
    known = np.frombuffer(sample.labels, np.int8)
    labelled = known != UNLABELLED
    labels, scores = known[labelled], everything[labelled]
    intervals = bootstrap(labels, scores)
    bins = compute.reliability(labels, np.frombuffer(sample.probabilities)[labelled])
    return replace(
        metrics,
        auc=compute.roc_auc(labels, scores),
        auc_interval=intervals.auc,
        pr_auc=compute.pr_auc(labels, scores),
        pr_auc_interval=intervals.pr_auc,
        eer=compute.equal_error_rate(labels, scores),
        eer_nearest=compute.nearest_error_rate(labels, scores),
        tpr_at_1_fpr=compute.tpr_at_fpr(labels, scores, 0.01),
        tpr_at_01_fpr=compute.tpr_at_fpr(labels, scores, 0.001),
        ece=compute.calibration_error(bins),
        video_auc=None if videos is None else _video_auc(videos),
        videos=0 if videos is None else len(videos.labels),
        folders=_folders(metrics.folders, sample, known, everything),
        curves=Curves(
            histogram=metrics.curves.histogram,
            roc=compute.roc_curve(labels, scores),
            pr=compute.pr_curve(labels, scores),
            reliability=bins,
        ),
    )


def _video_auc(videos: Videos) -> float:
    return compute.roc_auc(np.array(videos.labels, np.int8), np.array(videos.scores, np.float64))


def _folders(
    folders: tuple[FolderMetrics, ...],
    sample: Sample,
    labels: npt.NDArray[np.int8],
    scores: npt.NDArray[np.float64],
) -> tuple[FolderMetrics, ...]:
    """Gives each folder with fakes their AUC against all real images."""
    real = np.sort(scores[labels == 0])
    is_fake = labels == 1
    places = np.frombuffer(sample.places, np.dtype(sample.places.typecode))[is_fake]
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places, minlength=len(folders)))[:-1]
    groups = np.split(scores[is_fake][order], ends)
    return tuple(
        replace(folder, auc=compute.auc_against(real, fakes)) if len(fakes) else folder
        for folder, fakes in zip(folders, groups, strict=True)
    )
