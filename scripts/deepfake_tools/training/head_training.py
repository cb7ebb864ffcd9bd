"""Trains a head on the features of an encoder that stays as it is (--method head)."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from clip_deepfake.card import Feature, HeadCard, Scores, TrainingHistory
from sklearn.metrics import average_precision_score, roc_auc_score

from deepfake_tools.face_options import FaceOptions
from deepfake_tools.files import is_kept
from deepfake_tools.packaging.heads import TrainedHead, write_head_file
from deepfake_tools.progress import Progress
from deepfake_tools.training.dataset import Dataset, LabelledImage, read_dataset
from deepfake_tools.training.extractor import Extractor, installed_version, load_extractor
from deepfake_tools.training.feature_cache import FeatureCache
from deepfake_tools.training.features import FeatureTable, extract
from deepfake_tools.training.fitting import (
    STRENGTHS,
    CrossValidation,
    FittedHead,
    Margins,
    cross_validate,
    fit,
    sigmoid,
)
from deepfake_tools.training.held_out import list_beside, write_held_out
from deepfake_tools.training.splits import Labels, Plan, Rows, plan_splits
from deepfake_tools.training.thresholds import Scores as ProbabilityScores
from deepfake_tools.training.thresholds import accuracy, balanced_threshold, threshold_at_fpr
from deepfake_tools.training.training_set import (
    TrainingSet,
    make_training_set,
    require_both_classes,
)
from deepfake_tools.training.video_frames import FRAMES, take_frames

FRAME_FOLDER = "frames"
"""Within the cache: frames of videos."""

Say = Callable[[str], None]
"""Told each step in words, what was left out, and why."""


@dataclass(frozen=True)
class TrainingOptions:
    """What to train.

    Attributes:
        model: Hub name, or a local folder in Hugging Face's format.
        revision: branch, tag or commit of a Hub model; None is ``main``.
        data: folder of images, or None for those that ``labels`` lists.
        labels: CSV file, or None to go by the names of folders.
        output: head file to write.
        preset: name of the preprocessing; None is what suits the model.
        feature: what the head reads; None is the pooled output, where there is one.
        target_fpr: share of real images that may be called fake; None goes for the best balanced
            accuracy.
        cache: folder of features, and of the frames of videos.
        seed: of the splits.
        faces: how faces are aligned; None trains on images as they are.
        frames: of each video that are trained on.
    """

    model: str
    revision: str | None
    data: Path | None
    labels: Path | None
    output: Path
    preset: str | None
    feature: Feature | None
    target_fpr: float | None
    cache: Path
    seed: int
    faces: FaceOptions | None = None
    frames: int = FRAMES


@dataclass(frozen=True)
class HeadResult:
    """A head that was fitted to all images that are not held out.

    Attributes:
        head: as it was fitted.
        validation: of the strength that it was fitted with.
        rows: the images that it was fitted to.
    """

    head: FittedHead
    validation: CrossValidation
    rows: Rows


def train(options: TrainingOptions, say: Say) -> TrainedHead:
    """Trains a head and writes its file, and beside it the list of the held-out images.

    The head is fitted to the images that are not held out, and stays as it is: what the history
    tells of the held-out ones is told of this very head.

    Args:
        options: what to train.
        say: told each step.

    Raises:
        TrainingError: when the images do not suffice.
        LabelError: when a label cannot be known.
        BuildError: when there is no such encoder, or it has no such feature.
    """
    extractor, images = read_material(options, say)
    plan = divide(images, options.seed, say)
    fitted = fit_head(images, plan)
    validation = fitted.validation
    labels = images.labels[validation.rows]
    thresholds = choose_thresholds(labels, validation.scores, options.target_fpr, say)
    unseen = plan.held_out.test
    margins = fitted.head.margins(images.features[unseen])
    history = TrainingHistory(
        data=images.history,
        kept_together=plan.kept_together,
        seed=options.seed,
        strength=validation.strength,
        folds=len(plan.folds),
        cross_validated_auc=validation.mean_auc,
        cross_validated_auc_std=validation.auc_std,
        held_out=score(images.labels[unseen], margins, thresholds.used),
        balanced_threshold=thresholds.balanced,
        target_fpr=options.target_fpr,
        target_fpr_threshold=thresholds.at_target,
        made_with=extractor.key.libraries | {"scikit-learn": installed_version("scikit-learn")},
    )
    trained = _write(options.output, extractor, fitted.head, thresholds.used, history)
    if is_kept(options.output):
        write_held_out(
            list_beside(options.output),
            [images.images[row] for row in unseen],
            whole_videos=plan.kept_together == "folder",
        )
    return trained


def read_material(options: TrainingOptions, say: Say) -> tuple[Extractor, TrainingSet]:
    """Finds images and labels, and computes the features of those that can be read.

    Raises:
        TrainingError: when the images do not suffice.
        LabelError: when a label cannot be known.
        BuildError: when there is no such encoder, or it has no such feature.
    """
    dataset = read_labelled(options, say)
    require_both_classes([image.label for image in dataset.images])
    extractor = load_extractor(
        options.model, options.revision, options.preset, options.feature, say, options.faces
    )
    return extractor, make_training_set(extract_all(dataset.images, extractor, options.cache, say))


def read_labelled(options: TrainingOptions, say: Say) -> Dataset:
    """Finds images and labels, frames of videos among them; says what was found and left out.

    Raises:
        TrainingError: when there is no such folder.
        LabelError: when a label cannot be known.
        MissingExtraError: when there are videos, and nothing to read them with.
    """
    dataset = read_dataset(options.data, options.labels)
    for line in (*dataset.labelled.lines(), *dataset.left_out.notes()):
        say(line)
    if dataset.unlabelled:
        say(f"{dataset.unlabelled} images have no label and are left out")
    if dataset.not_found:
        say(f"{dataset.not_found} images of {options.labels} are not below {options.data}")
    return take_frames(dataset, options.frames, options.cache / FRAME_FOLDER, say)


def extract_all(
    images: Sequence[LabelledImage], extractor: Extractor, cache: Path, say: Say
) -> FeatureTable:
    """Computes the features that are not in the cache, and names the images that have none."""
    progress = Progress(sys.stderr, "images", len(images))
    store = FeatureCache(cache, extractor.key, extractor.width)
    table = extract(images, extractor, store, progress.update)
    progress.clear()
    for item in table.broken:
        say(f"left out: {item.path}: {item.reason}")
    found = len(table.images) - table.computed
    say(f"{table.computed} features computed, {found} found in the cache")
    return table


def fit_head(images: TrainingSet, plan: Plan, rows: Rows | None = None) -> HeadResult:
    """Fits a head to the images that are not held out, with the strength that fits.

    Args:
        images: with features.
        plan: its folds choose the strength.
        rows: the images to fit to; None are those that the plan does not hold out.
    """
    fits = Progress(sys.stderr, "fits", len(STRENGTHS) * len(plan.folds))
    validation = cross_validate(images.features, images.labels, plan.folds, fits.update)
    fits.clear()
    rows = plan.held_out.train if rows is None else rows
    head = fit(images.features[rows], images.labels[rows], validation.strength)
    return HeadResult(head, validation, rows)


def divide(images: TrainingSet, seed: int, say: Say) -> Plan:
    """Divides images by their folders, and says where these do not suffice."""
    plan = plan_splits(images.labels, images.groups, seed)
    if plan.kept_together == "image":
        say(
            "warning: each class needs its images in at least 3 folders, one for each video, for "
            "a split that keeps folders whole; single images are divided instead. Frames of one "
            "video on both sides make every figure look better than it is"
        )
    return plan


@dataclass(frozen=True)
class Thresholds:
    """Of ``fake_probability``.

    Attributes:
        balanced: that of the best balanced accuracy.
        at_target: that of the false-positive rate asked for; None where none was.
    """

    balanced: float
    at_target: float | None

    @property
    def used(self) -> float:
        """That of what was asked for."""
        return self.balanced if self.at_target is None else self.at_target


def choose_thresholds(
    labels: Labels, scores: ProbabilityScores, target: float | None, say: Say
) -> Thresholds:
    """Chooses thresholds on images that a head was not fitted to.

    Args:
        labels: of the images, of both classes.
        scores: their probability of FAKE.
        target: share of real images that may be called fake, if it matters.
        say: told where that cannot be seen on so few.
    """
    balanced = balanced_threshold(labels, scores)
    if target is None:
        return Thresholds(balanced, None)
    real = int((labels == 0).sum())
    if target * real < 1:
        say(
            f"warning: a false-positive rate of {target} cannot be seen on {real} real images; "
            "the threshold is the highest score among them"
        )
    return Thresholds(balanced, threshold_at_fpr(labels, scores, target))


def score(labels: Labels, margins: Margins, threshold: float) -> Scores:
    """Judges logits of FAKE.

    Args:
        labels: of the images, of both classes.
        margins: their logits, (images,).
        threshold: of their probability, above which an image is called fake.
    """
    return Scores(
        real=int((labels == 0).sum()),
        fake=int((labels == 1).sum()),
        auc=float(roc_auc_score(labels, margins)),
        pr_auc=float(average_precision_score(labels, margins)),
        accuracy=accuracy(labels, sigmoid(margins), threshold),
    )


def _write(
    path: Path, extractor: Extractor, head: FittedHead, threshold: float, history: TrainingHistory
) -> TrainedHead:
    trained = TrainedHead(
        schema=1,
        model=extractor.model,
        encoder_sha256=extractor.key.encoder_sha256,
        preprocessing=extractor.key.preprocessing,
        head=HeadCard(
            source="trained",
            description=f"logistic regression on {history.data.real} real and "
            f"{history.data.fake} fake images; AUC {history.held_out.auc:.4f} held out",
            feature=extractor.key.feature,
            l2_normalize=False,
            outputs=1,
            fake_indices=(0,),
            threshold=threshold,
        ),
        history=history,
        faces=extractor.key.faces,
    )
    write_head_file(path, trained, torch.from_numpy(head.weight[None]), torch.tensor([head.bias]))
    return trained
