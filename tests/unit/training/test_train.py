"""The command as a person runs it, judged with transformers, OpenCV and scikit-learn alone."""

import os
import re
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import train
from clip_deepfake.card import HeadCard, Limits
from clip_deepfake.detector import Detector, Preparer
from clip_deepfake.encoder import build_module, load_encoder
from clip_deepfake.loading import load_detector
from clip_deepfake.torch_engine import TorchEngine
from clip_deepfake.verdicts import Verdict
from deepfake_tools.labels import read_labels
from deepfake_tools.packaging.architectures import read_architecture
from deepfake_tools.packaging.encoders import read_tower
from deepfake_tools.packaging.heads import TrainedHead, read_head_file
from deepfake_tools.packaging.hub import fetch_settings, fetch_weights
from deepfake_tools.training.features import BATCH
from deepfake_tools.training.splits import plan_splits
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from train import main

from tests.building import Builder, unpack
from tests.forking import Fork
from tests.tinted import labels_of, reference_probabilities, write_images
from tests.vision_models import ENCODERS, processor_values, write_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 images in 24 folders, three of them broken."""
    root = tmp_path_factory.mktemp("data")
    write_images(root)
    (root / "real" / "clip_00" / "x.jpg").write_bytes(b"no image")
    (root / "real" / "clip_01" / "x.png").write_bytes(b"")
    whole = (root / "fake" / "clip_00" / "000.png").read_bytes()
    (root / "fake" / "clip_00" / "x.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def trained(data: Path, small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head, trained with the command's defaults."""
    folder = tmp_path_factory.mktemp("trained")
    assert run(data, small_clip, folder) == 0
    return folder / "head.safetensors"


def run(data: Path, model: Path, folder: Path, *more: str) -> int:
    """Runs the command in this process, with its output and cache in a folder."""
    output, cache = str(folder / "head.safetensors"), str(folder / "cache")
    arguments = ["--data", str(data), "--model", str(model), "--output", output, "--cache", cache]
    return main([*arguments, *more])


def readable(data: Path) -> list[Path]:
    return [path for path in sorted(data.rglob("*.png")) if path.stem != "x"]


def serve(model: Path, trained: TrainedHead, tensors: dict[str, torch.Tensor]) -> Detector:
    """The detector that a worker would make of the head."""
    snapshot = fetch_settings(str(model), None)
    tower = read_tower(fetch_weights(snapshot), read_architecture(snapshot))
    card, feature = trained.head, trained.head.feature
    encoder = load_encoder(tower.config, feature, trained.preprocessing, tower.tensors)
    module = build_module(encoder, card, tensors, tower.config.feature_size(feature))
    preparer = Preparer(trained.preprocessing, Limits().max_pixels)
    return Detector(preparer, TorchEngine(module, torch.device("cpu")), card)


def test_served_probabilities_are_scikit_learns(
    data: Path, small_clip: Path, trained: Path
) -> None:
    head, tensors = read_head_file(trained)
    paths = readable(data)
    labels = labels_of(paths)
    expected = reference_probabilities(small_clip, paths, head.history.strength)

    verdicts = serve(small_clip, head, tensors).judge([path.read_bytes() for path in paths])
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    found = np.array([verdict.fake_probability for verdict in verdicts])
    assert np.abs(found - expected).max() < 1e-4
    assert [verdict.prediction for verdict in verdicts] == list(found > head.head.threshold)

    unseen = plan_splits(labels, [path.parent.name for path in paths], seed=0).held_out.test
    scores = head.history.held_out
    assert (scores.real, scores.fake) == tuple(np.bincount(labels[unseen]))
    assert scores.auc >= 0.95
    assert scores.auc == pytest.approx(roc_auc_score(labels[unseen], expected[unseen]))
    assert scores.pr_auc == pytest.approx(average_precision_score(labels[unseen], expected[unseen]))
    answers = expected[unseen] > head.head.threshold
    assert scores.accuracy == pytest.approx(accuracy_score(labels[unseen], answers))


def test_the_file_says_where_the_head_came_from(small_clip: Path, trained: Path) -> None:
    head, tensors = read_head_file(trained)
    assert head.model.name == small_clip.name
    assert head.model.commit is None
    assert head.preprocessing.name == "squash"
    expected = HeadCard(
        source="trained",
        description=head.head.description,
        feature="pooler_output",
        l2_normalize=False,
        outputs=1,
        fake_indices=(0,),
        threshold=head.history.balanced_threshold,
    )
    assert head.head == expected
    assert "120 real and 120 fake images" in head.head.description
    assert tensors["weight"].shape == (1, 64)
    history = head.history
    assert history.data.real == history.data.fake == 120
    assert (history.data.broken, history.data.repeated, history.data.folders) == (3, 0, 24)
    assert history.kept_together == "folder"
    assert history.folds == 5
    assert history.cross_validated_auc >= 0.95
    assert 0 <= history.cross_validated_auc_std < 0.1
    assert history.made_with["scikit-learn"]


def test_what_came_of_it_is_said(
    data: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, small_clip, tmp_path, "--target-fpr", "0.05") == 0
    head, _ = read_head_file(tmp_path / "head.safetensors")
    said, progress = capsys.readouterr()
    for label, value in (("AUC", "auc"), ("PR-AUC", "pr_auc"), ("accuracy", "accuracy")):
        assert f" {label} {getattr(head.history.held_out, value):.4f}" in said
    assert f"{head.head.threshold:.4f} for a false-positive rate of 0.05 (used)" in said
    assert head.head.threshold == head.history.target_fpr_threshold
    listed = tmp_path / "head.held_out.csv"
    assert f"listed in    {listed}, which client.py and evaluate.py take as --labels" in said
    paths = readable(data)
    plan = plan_splits(labels_of(paths), [path.parent.name for path in paths], seed=0)
    assert read_labels(listed) == {
        paths[row].absolute(): int("fake" in paths[row].parts) for row in plan.held_out.test
    }
    assert f"--model {small_clip} --weights {tmp_path / 'head.safetensors'}" in said
    assert "240 features computed, 0 found in the cache" in progress
    for name, reason in (
        ("real/clip_00/x.jpg", "the 8 bytes are not a JPEG"),
        ("real/clip_01/x.png", "the image has no bytes"),
        ("fake/clip_00/x.png", "the file is cut short or damaged"),
    ):
        assert re.search(rf"left out: {data / name}: .*{reason}", progress)


def test_a_hub_model_is_named_with_its_commit(
    hub, data: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    commit = hub.add("acme/trained-on", small_clip)
    assert run(data, Path("acme/trained-on"), tmp_path, "--feature", "image_embeds") == 0
    head, tensors = read_head_file(tmp_path / "head.safetensors")
    assert (head.model.name, head.model.revision) == ("acme/trained-on", "main")
    assert head.model.commit == commit
    assert head.head.feature == "image_embeds"
    assert tensors["weight"].shape == (1, 40)
    assert "build_mar.py --weights" in capsys.readouterr().out


def test_equal_runs_write_equal_files(data: Path, small_clip: Path, tmp_path: Path) -> None:
    heads = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assert run(data, small_clip, tmp_path / name, "--preprocess", "clip") == 0
        heads.append((tmp_path / name / "head.safetensors").read_bytes())
    assert heads[0] == heads[1]
    assert read_head_file(tmp_path / "first" / "head.safetensors")[0].preprocessing.name == "own"


def test_a_second_run_computes_only_what_is_new(
    data: Path, small_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    features = TorchEngine.features

    def counted(engine: TorchEngine, pixels: np.ndarray) -> np.ndarray:
        passes.append(len(pixels))
        return features(engine, pixels)

    monkeypatch.setattr(TorchEngine, "features", counted)
    assert run(data, small_clip, tmp_path) == 0
    assert sum(passes) == 240
    passes.clear()
    # Other names, a new image, one repeated: only the new content is computed.
    moved = tmp_path / "moved"
    for path in readable(data):
        target = moved / path.parent.parent.name / f"{path.parent.name}_moved" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    cv2.imwrite(str(moved / "real" / "new.png"), np.full((40, 40, 3), 90, np.uint8))
    (moved / "real" / "again.png").write_bytes((moved / "real" / "new.png").read_bytes())
    assert run(moved, small_clip, tmp_path) == 0
    assert passes == [1]
    passes.clear()
    assert run(data, small_clip, tmp_path, "--feature", "image_embeds") == 0
    assert sum(passes) == 240


PAUSED = """
import signal, sys
from clip_deepfake.torch_engine import TorchEngine

features, passes = TorchEngine.features, 0

def pause_in_the_fourth(engine, pixels):
    global passes
    passes += 1
    if passes == 4:
        print("paused", flush=True)
        signal.pause()
    return features(engine, pixels)

TorchEngine.features = pause_in_the_fourth
import train
sys.exit(train.main(sys.argv[1:]))
"""


def test_an_interrupted_run_goes_on_where_it_was(
    data: Path,
    small_clip: Path,
    tmp_path: Path,
    commands: Fork,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--data", data, "--model", small_clip, "--cache", tmp_path / "cache"]
    child = commands.start("-c", PAUSED, *arguments, "--output", tmp_path / "h")
    child.wait_for("paused", child.out)
    os.kill(child.pid, signal.SIGINT)
    done = child.wait()
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert f"interrupted; what was computed is in {tmp_path / 'cache'}" in done.stderr
    assert not (tmp_path / "h").exists()

    assert run(data, small_clip, tmp_path) == 0
    found = re.search(r"(\d+) features computed, (\d+) found in the cache", capsys.readouterr().err)
    # Three batches were finished; the broken images among them have no features.
    assert found
    assert 3 * BATCH - 3 <= int(found[2]) <= 3 * BATCH
    assert int(found[1]) == 240 - int(found[2])


def test_a_flat_folder_is_trained_on_with_a_warning(
    small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in write_images(tmp_path / "clips"):
        target = tmp_path / "flat" / path.parent.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert run(tmp_path / "flat", small_clip, tmp_path) == 0
    said, progress = capsys.readouterr()
    assert "warning: each class needs its images in at least 3 folders" in progress
    assert "5 folds, by image" in said
    assert read_head_file(tmp_path / "head.safetensors")[0].history.kept_together == "image"


def test_a_csv_gives_the_labels(
    data: Path, small_clip: Path, tmp_path: Path, trained: Path
) -> None:
    # The other way round than the folders' names have it.
    lines = [f"{path},{'real' if 'fake' in path.parts else 'fake'}" for path in readable(data)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]))
    labels, output = str(tmp_path / "labels.csv"), str(tmp_path / "head.safetensors")
    arguments = ["--labels", labels, "--model", str(small_clip), "--output", output]
    assert main([*arguments, "--cache", str(trained.parent / "cache")]) == 0
    found, straight = read_head_file(Path(output))[1], read_head_file(trained)[1]
    cosine = torch.cosine_similarity(found["weight"], straight["weight"])
    assert cosine < -0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "--data nowhere is no folder"),
        (["--labels", "nowhere.csv"], "nowhere.csv cannot be read: No such file"),
        (["--data", "one_class"], "20 real and 0 fake images that can be read; at least 10"),
        (["--data", "few"], "20 real and 9 fake images that can be read; at least 10"),
        (["--data", "unlabelled"], "0 real and 0 fake images"),
        (["--data", "both"], "both/real stands for real, and both/real/fake for fake"),
        (["--data", "enough", "--model", "./nowhere"], "./nowhere is no folder"),
        (["--data", "enough", "--cache", "labels.txt"], "labels.txt: File exists"),
        (["--data", "enough", "--output", "labels.txt/h"], "labels.txt: File exists"),
        (["--data", "enough", "--output", "enough"], "cannot write enough: it is a folder"),
        (["--labels", "labels.txt", "--output", "./labels.txt"], "are one file, labels.txt"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    arguments: list[str],
    message: str,
    small_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = {"one_class": (20, 0), "few": (20, 9), "enough": (10, 10)}
    for name, count in counts.items():
        for kind, images in zip(("real", "fake"), count, strict=True):
            Path(name, kind).mkdir(parents=True)
            for number in range(images):
                image = np.full((8, 8, 3), 20 * len(kind) + number + (kind == "fake") * 99)
                cv2.imwrite(f"{name}/{kind}/{number}.png", image)
    for path in ("unlabelled/1.png", "both/real/fake/1.png", "labels.txt"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    model = [] if "--model" in arguments else ["--model", str(small_clip)]
    assert main([*arguments, *model]) == 1
    said, errors = capsys.readouterr()
    assert not said
    assert errors.splitlines()[-1].startswith("train.py: ")
    assert message in errors.splitlines()[-1]
    assert not Path("head.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --data DIR, --labels FILE.csv, or both"),
        (["--data", ".", "--target-fpr", "1"], "'1' is not a rate from 0 to below 1"),
        (["--data", ".", "--target-fpr", "nan"], "'nan' is not a rate"),
        (["--data", ".", "--seed", "-1"], "'-1' is not a whole number"),
    ],
)
def test_a_command_line_that_is_off_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_without_scikit_learn_it_says_what_to_install(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["--data", str(data)]) == 1
    assert "scikit-learn is not installed: pip install -e '.[train]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dinov2", "siglip"])
def test_a_head_on_another_type_of_encoder_packs(
    name: str, data: Path, tmp_path: Path, builder: Builder
) -> None:
    write_model(tmp_path / "model", ENCODERS[name])
    assert run(data, tmp_path / "model", tmp_path) == 0
    head, tensors = read_head_file(tmp_path / "head.safetensors")
    assert head.head.feature == "pooler_output"
    assert head.preprocessing.name == "own"
    weights = ("--model", tmp_path / "model", "--weights", tmp_path / "head.safetensors")
    archive = unpack(builder(*weights), tmp_path / "archive")
    paths = readable(data)[:20]
    found = load_detector(archive).judge([path.read_bytes() for path in paths])
    values = np.stack([processor_values(tmp_path / "model", Image.open(path)) for path in paths])
    # The images are PNG without an alpha channel, so that the processor needs no conversion.
    model = ENCODERS[name].model.from_pretrained(tmp_path / "model").eval()
    with torch.inference_mode():
        feature = ENCODERS[name].features["pooler_output"](model, torch.from_numpy(values))
        logits = feature @ tensors["weight"].T + tensors["bias"]
    assert np.abs(np.array([verdict.logits for verdict in found]) - logits.numpy()).max() < 0.05


def test_without_data_no_folder_is_made_for_the_head(tmp_path: Path) -> None:
    output = tmp_path / "heads" / "head.safetensors"
    assert train.main(["--data", str(tmp_path / "gone"), "--output", str(output)]) == 1
    assert not list(tmp_path.iterdir())
