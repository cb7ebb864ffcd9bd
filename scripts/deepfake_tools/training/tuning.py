"""Trains an encoder together with its head (--method layernorm, svd, lora or full)."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from accelerate import PartialState
from clip_deepfake.card import FullScores, HeadCard, TuningHistory
from clip_deepfake.encoder import DetectorModule
from clip_deepfake.loading import worker_device
from msgspec import Struct
from sklearn.metrics import roc_auc_score
from torch import nn

from deepfake_tools.evaluation.ranking import equal_error_rate, tpr_at_fpr
from deepfake_tools.files import replacing_bytes
from deepfake_tools.packaging.heads import TUNED_HEAD, TrainedHead, write_head_file
from deepfake_tools.training.dataset import LabelledImage, TrainingError
from deepfake_tools.training.extractor import Extractor, installed_version, load_extractor
from deepfake_tools.training.features import FeatureTable
from deepfake_tools.training.fitting import Margins, sigmoid
from deepfake_tools.training.head_training import (
    Say,
    Thresholds,
    TrainingOptions,
    choose_thresholds,
    divide,
    extract_all,
    fit_head,
    read_labelled,
    score,
)
from deepfake_tools.training.held_out import HELD_OUT, write_held_out
from deepfake_tools.training.loop import (
    Epoch,
    LoopOptions,
    TrainedModule,
    best_epoch,
    margins_of,
    run,
)
from deepfake_tools.training.methods import Prepared, freeze_unread, prepare
from deepfake_tools.training.pixels import BalancedPairs, FaceCrops, ImageSet
from deepfake_tools.training.recipes import Augmentation, Recipe
from deepfake_tools.training.splits import Labels, Plan, Rows
from deepfake_tools.training.training_set import (
    TrainingSet,
    make_training_set,
    require_both_classes,
)
from deepfake_tools.training.tuned_folder import (
    draw_curves,
    read_back,
    write_encoder,
    write_history,
)

RUN_FILE = "run.json"
LIBRARIES = ("accelerate", "peft", "scikit-learn")
TARGET = 0.01
"""False-positive rate of the figure that the history has beside AUC and EER."""


@dataclass(frozen=True)
class TuningOptions:
    """What to train an encoder on, and how.

    Attributes:
        common: what a head alone needs too; its output is the folder to write.
        recipe: the method, its losses and rates.
        loop: how to compute it.
        validation: folder of images that choose the epoch and judge the result; None takes parts
            of the others for that.
        resume: whether to go on where an earlier run ended.
    """

    common: TrainingOptions
    recipe: Recipe
    loop: LoopOptions
    validation: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Division:
    """Which images do what.

    Attributes:
        learn: what steps are computed on.
        choose: what chooses the epoch and the threshold.
        judge: what the result is judged on; the same as ``choose`` where a folder was given.
        head_learns: what the head on the frozen encoder is fitted to: it needs no epoch chosen.
        plan: whose folds choose that head's strength.
    """

    learn: Rows
    choose: Rows
    judge: Rows
    head_learns: Rows
    plan: Plan


@dataclass(frozen=True)
class Material:
    """What a run is made of.

    Attributes:
        extractor: the encoder as it was, and the way that images reach it.
        images: distinct ones, with the features of that encoder.
        parts: of the images.
    """

    extractor: Extractor
    images: TrainingSet
    parts: Division

    def image_set(
        self, rows: Rows, options: TuningOptions, augmentation: Augmentation | None = None
    ) -> ImageSet:
        """Images as steps take them."""
        key, common = self.extractor.key, options.common
        faces = None
        if common.faces is not None and key.faces is not None:
            faces = FaceCrops(common.faces.predictor, key.faces, common.cache)
        chosen = [self.images.images[row] for row in rows]
        return ImageSet(chosen, key.preprocessing, faces, augmentation)


class TuningRun(Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was begun with; another must not go on from its checkpoints.

    Attributes:
        encoder: digest of the encoder before.
        images: fingerprint of the images and their labels.
        learn: how many of them are learned from.
        recipe: its fields.
        seed: of everything.
        pixels: preprocessing, feature and faces.
    """

    encoder: str
    images: str
    learn: int
    recipe: Recipe
    seed: int
    pixels: str


def tune(options: TuningOptions, say: Say) -> TrainedHead | None:
    """Trains an encoder with a head, and writes the folder that ``build_mar.py --weights`` packs.

    Args:
        options: what to train.
        say: told each step.

    Returns:
        What the folder's head says; None in a process that helps the main one.

    Raises:
        TrainingError: when the images do not suffice, the encoder has nothing that the method
            trains, a loss is no number, or the folder belongs to another run.
        LabelError: when a label cannot be known.
        BuildError: when there is no such encoder, or it has no such feature.
    """
    state = PartialState(cpu=worker_device(gpu_id=0).type == "cpu")
    if not state.is_main_process:
        say = _silently
    with state.main_process_first():
        # The others then find the features in the cache, and the folder as it is to be.
        material = _gather(options, say)
        if state.is_main_process:
            _claim(options, material)
    state.wait_for_everyone()
    frozen = _judge_frozen(material, say)
    module, prepared = _prepare(material, options, say)
    parts, recipe = material.parts, options.recipe
    history = run(
        TrainedModule(module, recipe, prepared.penalty),
        material.image_set(parts.learn, options, recipe.augmentation),
        material.image_set(parts.choose, options),
        recipe,
        options.common.seed,
        options.loop,
        say,
    )
    if not state.is_main_process:
        return None
    trained_parameters = _trained(module)
    prepared.merge()
    return _finish(options, material, module, history, trained_parameters, frozen, say)


def _silently(_: str) -> None:
    """The main process says everything."""


def _gather(options: TuningOptions, say: Say) -> Material:
    common = options.common
    dataset = read_labelled(common, say)
    require_both_classes([image.label for image in dataset.images])
    others: tuple[LabelledImage, ...] = ()
    if options.validation is not None:
        others = read_labelled(replace(common, data=options.validation, labels=None), say).images
    extractor = load_extractor(
        common.model, common.revision, common.preset, common.feature, say, common.faces
    )
    table = extract_all((*dataset.images, *others), extractor, common.cache, say)
    images = make_training_set(table)
    if options.validation is None:
        plan = divide(images, common.seed, say)
        parts = Division(
            plan.folds[0].train, plan.folds[0].test, plan.held_out.test, plan.held_out.train, plan
        )
    else:
        parts = _with_validation(images, table, {image.path for image in others}, options, say)
    say(
        f"{len(parts.learn)} images to learn from, {len(parts.choose)} to choose the epoch, "
        f"{len(parts.judge)} to judge the result"
        + (", which are the same" if parts.judge is parts.choose else "")
    )
    learned = BalancedPairs(
        [images.images[row] for row in parts.learn], options.recipe.batch_size, 0
    )
    say(
        f"an epoch shows {len(learned)} of them, half real and half fake; {learned.matched} stand "
        "beside the image that they were made of, or into"
    )
    return Material(extractor, images, parts)


def _with_validation(
    images: TrainingSet, table: FeatureTable, paths: set[Path], options: TuningOptions, say: Say
) -> Division:
    """Learns from all of one folder, and takes another to choose and judge."""
    apart = np.array([image.path in paths for image in images.images])
    learn, judge = np.flatnonzero(~apart), np.flatnonzero(apart)
    if lost := len([image for image in table.images if image.path in paths]) - len(judge):
        say(f"{lost} images of {options.validation} are among those to learn from, or repeated")
    if len(np.unique(images.labels[judge])) < 2:
        raise TrainingError(
            f"--validation {options.validation} needs real and fake images that are not among "
            "those to learn from"
        )
    plan = divide(images.only(learn), options.common.seed, say).of(learn)
    return Division(learn, judge, judge, learn, plan)


def _claim(options: TuningOptions, material: Material) -> None:
    """Makes the run's folder, or finds that it is this run's.

    Raises:
        TrainingError: when it holds another run, or this one and nobody asked to resume.
    """
    key, folder = material.extractor.key, options.loop.folder
    this = TuningRun(
        key.encoder_sha256,
        material.images.history.sha256,
        len(material.parts.learn),
        options.recipe,
        options.common.seed,
        msgspec.json.encode([key.preprocessing, key.feature, key.faces]).decode(),
    )
    found = _read_run(folder / RUN_FILE)
    if found is not None and not options.resume:
        raise TrainingError(
            f"{folder} holds a run that was not finished: --resume goes on with it, or remove it"
        )
    if found is None and options.resume:
        raise TrainingError(f"there is nothing to resume in {options.common.output}")
    if found is not None and found != this:
        names = [n for n in TuningRun.__struct_fields__ if getattr(found, n) != getattr(this, n)]
        raise TrainingError(
            f"{folder} holds a run with other settings ({', '.join(names)}): give those that it "
            "was begun with, or another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_bytes(folder / RUN_FILE) as file:
        file.write(msgspec.json.encode(this))


def _read_run(path: Path) -> TuningRun | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=TuningRun)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise TrainingError(f"{path} is no run of this version: {error}; remove it") from error


def _judge_frozen(material: Material, say: Say) -> FullScores:
    """Scores of a head on the encoder as it is: what the training has to better."""
    images, parts = material.images, material.parts
    fitted = fit_head(images, parts.plan, parts.head_learns)
    validation = fitted.validation
    thresholds = choose_thresholds(images.labels[validation.rows], validation.scores, None, say)
    margins = fitted.head.margins(images.features[parts.judge])
    scores = full_scores(images.labels[parts.judge], margins, thresholds.used)
    say(f"a head on the encoder as it is: {describe_scores(scores)}")
    return scores


def full_scores(labels: Labels, margins: Margins, threshold: float) -> FullScores:
    """Judges margins, (images,), of images of both classes at a threshold of probability."""
    return FullScores(
        **msgspec.structs.asdict(score(labels, margins, threshold)),
        eer=equal_error_rate(labels.astype(np.int8), margins),
        tpr_at_1_percent=tpr_at_fpr(labels.astype(np.int8), margins, TARGET),
    )


def describe_scores(scores: FullScores) -> str:
    """The figures that matter, in words."""
    return (
        f"AUC {scores.auc:.4f}, EER {scores.eer:.4f}, TPR at 1 % FPR {scores.tpr_at_1_percent:.4f}"
    )


def _prepare(
    material: Material, options: TuningOptions, say: Say
) -> tuple[DetectorModule, Prepared]:
    """Puts a new head of two outputs on the encoder, of which what the method trains is free."""
    extractor, recipe = material.extractor, options.recipe
    torch.manual_seed(options.common.seed)
    head = nn.Linear(extractor.width, 2)
    encoder = extractor.encoder.to("cpu")
    prepared = prepare(encoder, recipe)
    module = DetectorModule(encoder, head, l2_normalize=recipe.l2_normalize)
    side = extractor.key.preprocessing.side
    assert side is not None  # the builder's rules were asked before
    freeze_unread(module, side)
    every = sum(parameter.numel() for parameter in encoder.parameters())
    trained = _trained(module)
    say(f"--method {recipe.method} trains {trained:,} numbers, {trained / every:.3%} of them all")
    return module, prepared


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _finish(
    options: TuningOptions,
    material: Material,
    module: DetectorModule,
    epochs: list[Epoch],
    trained_parameters: int,
    frozen: FullScores,
    say: Say,
) -> TrainedHead:
    """Writes the encoder, judges what was written, and says all about it; the head comes last."""
    common, extractor, parts = options.common, material.extractor, material.parts
    folder, key = common.output, extractor.key
    write_encoder(folder, module.encoder, extractor.folder)
    source, digest, encoder = read_back(folder, key.feature, key.preprocessing)
    plain = DetectorModule(encoder, module.head.cpu(), l2_normalize=options.recipe.l2_normalize)
    plain = plain.eval().requires_grad_(False).to(extractor.engine.device)
    labels = material.images.labels
    chosen = margins_of(plain, material.image_set(parts.choose, options), options.loop.workers)
    thresholds = choose_thresholds(labels[parts.choose], sigmoid(chosen), common.target_fpr, say)
    judged = chosen
    if parts.judge is not parts.choose:
        judged = margins_of(plain, material.image_set(parts.judge, options), options.loop.workers)
    scores = full_scores(labels[parts.judge], judged, thresholds.used)
    history = TuningHistory(
        method=options.recipe.method,
        base=extractor.model,
        recipe=msgspec.to_builtins(options.recipe),
        trained_parameters=trained_parameters,
        data=material.images.history,
        kept_together=parts.plan.kept_together,
        seed=common.seed,
        epochs=len(epochs),
        best_epoch=best_epoch(epochs),
        chosen_by="held out" if parts.judge is parts.choose else "validation part",
        validation_auc=float(roc_auc_score(labels[parts.choose], chosen)),
        held_out=scores,
        frozen=frozen,
        balanced_threshold=thresholds.balanced,
        target_fpr=common.target_fpr,
        target_fpr_threshold=thresholds.at_target,
        made_with=key.libraries | {name: installed_version(name) for name in LIBRARIES},
    )
    aucs = [epoch.auc for epoch in epochs]
    draw_curves(folder, [epoch.loss for epoch in epochs], aucs, frozen.auc, scores.auc)
    write_history(folder, {"history": history, "epochs": epochs})
    write_held_out(
        folder / HELD_OUT,
        [material.images.images[row] for row in parts.judge],
        whole_videos=parts.plan.kept_together == "folder",
    )
    trained = TrainedHead(
        schema=1,
        model=source,
        encoder_sha256=digest,
        preprocessing=key.preprocessing,
        head=_head_card(options.recipe, history, extractor, thresholds),
        history=None,
        faces=key.faces,
        tuning=history,
    )
    # Whoever finds it finds the rest.
    write_head_file(folder / TUNED_HEAD, trained, plain.head.weight.cpu(), plain.head.bias.cpu())
    shutil.rmtree(options.loop.folder)
    return trained


def _head_card(
    recipe: Recipe, history: TuningHistory, extractor: Extractor, thresholds: Thresholds
) -> HeadCard:
    data = history.data
    return HeadCard(
        source="trained",
        description=f"trained with its encoder ({recipe.method}, from {history.base.name}) on "
        f"{data.real} real and {data.fake} fake images; AUC {history.held_out.auc:.4f} held out",
        feature=extractor.key.feature,
        l2_normalize=recipe.l2_normalize,
        outputs=2,
        fake_indices=(1,),
        threshold=thresholds.used,
    )


def checkpoints_of(output: Path) -> Path:
    """Folder of a run that is not finished."""
    return output / "checkpoints"
