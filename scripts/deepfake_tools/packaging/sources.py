"""Gathers the parts of a detector, from wherever the command line names them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import EncoderCard, ModelSource
from clip_deepfake.preprocessing import Preprocessing

from deepfake_tools.inspection import served_name
from deepfake_tools.packaging.build_options import BuildOptions
from deepfake_tools.packaging.checkpoints.extraction import Checkpoint, extract_head, extract_tower
from deepfake_tools.packaging.checkpoints.opening import open_checkpoint
from deepfake_tools.packaging.encoders import (
    FoundEncoder,
    Tower,
    default_feature,
    default_preset,
    feature_size,
    find_encoder,
    read_encoder,
)
from deepfake_tools.packaging.heads import (
    TUNED_HEAD,
    Head,
    TrainedHead,
    classifier_head,
    fake_outputs,
    is_head_file,
    read_head_file,
    tower_digest,
    untrained_head,
)
from deepfake_tools.packaging.hub import DEFAULT_MODEL, BuildError
from deepfake_tools.packaging.presets import resolve_preset

Report = Callable[[str], None]


@dataclass(frozen=True)
class Parts:
    """A detector, not yet packed.

    Attributes:
        name: to serve it under, unless the caller knows a better one.
        model: where the encoder came from.
        tower: the encoder.
        head: the head, and how it is read.
        preprocessing: how images reach the encoder.
    """

    name: str
    model: ModelSource
    tower: Tower
    head: Head
    preprocessing: Preprocessing


def gather(options: BuildOptions, report: Report) -> Parts:
    """Reads everything that an archive is made of.

    Args:
        options: what to build.
        report: told each step in words.

    Raises:
        BuildError: when something is missing, damaged, unknown, or does not fit the rest.
    """
    if options.weights is None:
        return _with_model_alone(options, report)
    report(f"reading {options.weights} ...")
    if is_head_file(Path(options.weights)):
        return _with_own_head(options, Path(options.weights), report)
    if is_head_file(Path(options.weights) / TUNED_HEAD):
        return _with_own_encoder(options, Path(options.weights), report)
    # With a model of its own, --revision is that one's.
    revision = None if options.model else options.revision
    checkpoint = open_checkpoint(options.weights, revision)
    report(f"{checkpoint.source.weights_file} is {checkpoint.family.title}")
    if checkpoint.left_out:
        report(f"left out, since no verdict depends on it: {_summary(checkpoint.left_out)}")
    if checkpoint.family.tower is None:
        return _with_published_head(options, checkpoint, report)
    return _with_whole_checkpoint(options, checkpoint)


def _summary(names: tuple[str, ...]) -> str:
    """Names by their beginnings, each with its count."""
    counts: dict[str, int] = {}
    for name in names:
        start = ".".join(name.split(".")[:2])
        counts[start] = counts.get(start, 0) + 1
    return ", ".join(
        f"{start} ({count})" if count > 1 else start for start, count in counts.items()
    )


def _with_model_alone(options: BuildOptions, report: Report) -> Parts:
    """An encoder without a head, or a whole classifier."""
    name = options.model or DEFAULT_MODEL
    encoder = find_encoder(name, options.revision, report, options.feature)
    labels = encoder.architecture.labels
    # What its labels mean is found out before its weights come.
    fake = None if labels is None else fake_outputs(labels, options.fake_labels, name)
    if fake is None and options.fake_labels:
        raise BuildError(f"{name} is no image classifier, so there is no --fake-label to choose")
    preset = options.preset or default_preset(encoder.architecture)
    preprocessing = resolve_preset(preset, encoder.architecture.image_size, encoder.snapshot.folder)
    model, tower = read_encoder(encoder)
    feature = options.feature or default_feature(tower.config)
    feature_size(tower.config, feature, model.name)
    if fake is None or tower.classifier is None or labels is None:
        head = untrained_head(tower.config, feature)
    else:
        head = classifier_head(tower.classifier, labels, fake, model)
        report(f"FAKE is {' and '.join(repr(labels[index]) for index in fake)} of {list(labels)}")
    if options.threshold is not None:
        head = replace(head, card=msgspec.structs.replace(head.card, threshold=options.threshold))
    return Parts(served_name(model.name), model, tower, head, preprocessing)


def _with_own_head(options: BuildOptions, path: Path, report: Report) -> Parts:
    trained, tensors = read_head_file(path)
    report(f"{path.name} was trained by this project, on {_origin(trained.model)}")
    _refuse_other_faces(options, trained, path)
    card = trained.head
    encoder = find_encoder(*_trained_on(options, trained, path), report, card.feature)
    _refuse_other_recipe(options, trained, path, encoder)
    overridden = []
    if options.threshold not in (None, card.threshold):
        card = msgspec.structs.replace(card, threshold=options.threshold)
        overridden.append("threshold")
    card = msgspec.structs.replace(
        card,
        file=path.name,
        sha256=file_digest(path),
        overridden=overridden,
        history=trained.history,
        tuning=trained.tuning,
    )
    head = Head(card, tensors)
    model, tower = read_encoder(encoder)
    _check_width(head, tower.config, model.name)
    if tower_digest(tower.tensors) != trained.encoder_sha256:
        raise BuildError(
            f"{path.name} was trained on {_origin(trained.model)}, and the weights of "
            f"{_origin(model)} are others; give the encoder that it was trained on with --model"
        )
    return Parts(served_name(model.name), model, tower, head, trained.preprocessing)


def _with_own_encoder(options: BuildOptions, folder: Path, report: Report) -> Parts:
    """A folder that holds an encoder which was trained, and the head that was trained with it."""
    if options.model is not None or options.revision is not None:
        given = "--model" if options.model is not None else "--revision"
        raise BuildError(
            f"{folder} holds the encoder that its head was trained with; leave out {given}"
        )
    return _with_own_head(replace(options, model=str(folder)), folder / TUNED_HEAD, report)


def _origin(model: ModelSource) -> str:
    return f"{model.name} ({model.commit or 'a local folder'})"


def _trained_on(options: BuildOptions, trained: TrainedHead, path: Path) -> tuple[str, str | None]:
    """The encoder to fetch and its revision: what is asked for, or else what the head names."""
    if options.model is not None:
        return options.model, options.revision
    if trained.model.commit is None:
        raise BuildError(
            f"{path.name} was trained on the local folder {trained.model.name}; give that folder "
            "with --model"
        )
    return trained.model.name, options.revision or trained.model.commit


def _refuse_other_faces(options: BuildOptions, trained: TrainedHead, path: Path) -> None:
    wanted, given = trained.faces, options.faces
    if wanted is None:
        if given is not None:
            raise BuildError(
                f"{path.name} was trained on images as they are, not on aligned faces; leave out "
                "--landmark-model, or train another head"
            )
        return
    trained_on = f"{path.name} was trained on faces aligned by {wanted.predictor}"
    if given is None:
        raise BuildError(f"{trained_on}; give that file with --landmark-model")
    if file_digest(given.predictor) != wanted.sha256:
        raise BuildError(
            f"{trained_on} (SHA-256 {wanted.sha256}), and {given.predictor.name} is another file"
        )


def _refuse_other_recipe(
    options: BuildOptions, trained: TrainedHead, path: Path, encoder: FoundEncoder
) -> None:
    """The head's file says what it was trained with, so that anything else is a mistake."""
    if options.feature not in (None, trained.head.feature):
        raise BuildError(
            f"{path.name} was trained on {trained.head.feature}, not on {options.feature}; leave "
            "out --feature, or train another head"
        )
    if options.preset is None:
        return
    found = resolve_preset(options.preset, encoder.architecture.image_size, encoder.snapshot.folder)
    if not _same(found, trained.preprocessing):
        raise BuildError(
            f"{path.name} was trained with the preprocessing {trained.preprocessing.name!r}, not "
            f"with {options.preset!r}; leave out --preprocess, or train another head"
        )


def _with_published_head(options: BuildOptions, checkpoint: Checkpoint, report: Report) -> Parts:
    family = checkpoint.family
    if options.model is None:
        report(f"--model is not given: taking {family.encoder}, which {family.name} was trained on")
    elif options.model != family.encoder:
        report(
            f"note: {family.name} was trained on {family.encoder}; other weights ruin its scores"
        )
    name = options.model or family.encoder or ""
    encoder = find_encoder(name, options.revision, report, family.feature)
    side = encoder.architecture.image_size
    head, preprocessing = _overridden(options, checkpoint, side, encoder.snapshot.folder)
    model, tower = read_encoder(encoder)
    _check_width(head, tower.config, model.name)
    return Parts(served_name(model.name), model, tower, head, preprocessing)


def _with_whole_checkpoint(options: BuildOptions, checkpoint: Checkpoint) -> Parts:
    source = checkpoint.source
    if options.model is not None or (options.revision is not None and source.commit is None):
        given = "--model" if options.model is not None else "--revision"
        raise BuildError(
            f"{source.weights_file} is {checkpoint.family.title}, which holds the encoder that its "
            f"head was trained on; leave out {given}"
        )
    tower = extract_tower(checkpoint)
    head, preprocessing = _overridden(
        options, checkpoint, tower.config.image_size, checkpoint.processor
    )
    _check_width(head, tower.config, source.weights_file)
    name = served_name(source.name) if source.commit else _name_for_urls(source.name)
    return Parts(name, source, tower, head, preprocessing)


def _name_for_urls(stem: str) -> str:
    """A file's name without what a store's file names cannot hold."""
    allowed = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)
    return allowed.strip("-_") or "detector"


def _overridden(
    options: BuildOptions, checkpoint: Checkpoint, side: int, folder: Path | None
) -> tuple[Head, Preprocessing]:
    """The family's own head and preprocessing, but for what the options replace."""
    head = extract_head(checkpoint)
    preset = options.preset or checkpoint.preset
    preprocessing, changes, overridden = resolve_preset(preset, side, folder), {}, []
    if options.preset is not None:
        own = _own_preprocessing(checkpoint, side, folder)
        if own is not None and _same(preprocessing, own):
            preprocessing = own
        else:
            overridden.append("preprocess")
    for option in ("feature", "threshold"):
        value = getattr(options, option)
        if value not in (None, getattr(head.card, option)):
            changes[option] = value
            overridden.append(option)
    card = msgspec.structs.replace(head.card, **changes, overridden=overridden)
    return replace(head, card=card), preprocessing


def _own_preprocessing(
    checkpoint: Checkpoint, side: int, folder: Path | None
) -> Preprocessing | None:
    """What it is without an option; None where that cannot be followed."""
    try:
        return resolve_preset(checkpoint.preset, side, folder)
    except BuildError:
        return None


def _same(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two give the same pixels, whatever they are called."""
    return msgspec.structs.replace(one, name=other.name) == other


def _check_width(head: Head, encoder: EncoderCard, name: str) -> None:
    wanted = head.tensors["weight"].shape[1]
    found = feature_size(encoder, head.card.feature, name)
    if wanted != found:
        raise BuildError(
            f"{head.card.file} reads {wanted} numbers of {head.card.feature}, and {name} has "
            f"{found}: it was trained on another encoder, or on another feature"
        )
