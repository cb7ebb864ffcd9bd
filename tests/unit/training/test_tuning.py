"""train.py with the methods that train an encoder, as a person runs it."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_deepfake.loading import load_detector
from deepfake_tools.packaging.heads import read_head_file
from deepfake_tools.training.loop import TrainedModule
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from train import main
from transformers import CLIPVisionModelWithProjection

from tests import ROOT
from tests.building import Builder, unpack
from tests.forking import Fork
from tests.tinted import write_images
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 images in 24 folders, one of them broken."""
    root = tmp_path_factory.mktemp("data")
    write_images(root)
    (root / "real" / "clip_00" / "x.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def arguments(data: Path, small_clip: Path, cache: Path) -> list[str]:
    """The command without method and output."""
    words = ["--data", data, "--model", small_clip, "--cache", cache]
    more = ["--workers", "0", "--learning-rate", "0.01", "--epochs", "2", "--no-augmentation"]
    return [*map(str, words), *more]


@pytest.fixture(scope="module")
def tuned(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the LayerNorm method."""
    folder = tmp_path_factory.mktemp("tuned") / "layernorm"
    assert main([*arguments, "--method", "layernorm", "--output", str(folder)]) == 0
    return folder


def images_of(data: Path) -> list[Path]:
    return sorted(data.rglob("*.png"))


def transformers_logits(folder: Path, paths: list[Path]) -> np.ndarray:
    """Logits by transformers, OpenCV and the head's tensors alone."""
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    side = model.config.image_size
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = []
    for path in paths:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
        pixels.append((image / 255 - mean) / std)
    values = torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)
    head = load_file(folder / "head.safetensors")
    with torch.inference_mode():
        feature = model.vision_model(pixel_values=values).pooler_output
        if json.loads((folder / "training.json").read_text())["history"]["recipe"]["l2_normalize"]:
            feature = feature / feature.norm(dim=1, keepdim=True)
        return (feature @ head["weight"].T + head["bias"]).numpy()


def test_the_folder_is_an_ordinary_encoder_with_a_head(
    tuned: Path, data: Path, tmp_path: Path
) -> None:
    """transformers, the archive's detector and the history agree on the held-out images."""
    trained, _ = read_head_file(tuned / "head.safetensors")
    history = trained.tuning
    assert history is not None
    with (tuned / "held_out.csv").open() as file:
        rows = list(csv.DictReader(file))
    paths, labels = [Path(row["path"]) for row in rows], [int(row["label"]) for row in rows]
    logits = transformers_logits(tuned, paths)
    margins = logits[:, 1] - logits[:, 0]
    assert history.held_out.auc == pytest.approx(roc_auc_score(labels, margins), abs=1e-9)
    assert (history.held_out.real, history.held_out.fake) == (labels.count(0), labels.count(1))

    built = Builder(tmp_path / "store")("--weights", tuned)
    card = built.card
    assert card.head.tuning == history
    assert card.head.history is None
    assert card.model.name == tuned.name
    assert card.head.l2_normalize
    detector = load_detector(unpack(built, tmp_path / "unpacked"))
    verdicts = detector.judge([path.read_bytes() for path in paths])
    expected = 1 / (1 + np.exp(-margins.astype(np.float64)))
    found = [verdict.fake_probability for verdict in verdicts]
    assert np.abs(np.array(found) - expected).max() < 1e-5


def test_the_history_says_how_it_came_to_be(tuned: Path, small_clip: Path) -> None:
    trained, _ = read_head_file(tuned / "head.safetensors")
    history = trained.tuning
    assert history is not None
    assert (history.method, history.epochs) == ("layernorm", 2)
    assert history.base.name == small_clip.name
    assert history.recipe["learning_rate"] == 0.01
    assert (history.data.real, history.data.fake, history.data.broken) == (120, 120, 1)
    assert history.chosen_by == "validation part"
    assert history.kept_together == "folder"
    assert trained.head.threshold == history.balanced_threshold
    written = json.loads((tuned / "training.json").read_text())
    assert written["history"]["held_out"]["auc"] == history.held_out.auc
    assert [round(e["auc"], 6) for e in written["epochs"]][history.best_epoch - 1] == round(
        history.validation_auc, 6
    )
    assert Image.open(tuned / "curves.png").size == (960, 360)
    assert not (tuned / "checkpoints").exists()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def test_a_killed_run_goes_on_and_ends_alike(
    commands: Fork, arguments: list[str], tmp_path: Path, tuned: Path
) -> None:
    """SIGKILL between two steps of an epoch; equal to the bit, whatever it had written."""
    folder = tmp_path / "layernorm"
    words = [ROOT / "scripts" / "train.py", *arguments]
    words += ["--method", "layernorm", "--output", folder, "--save-every", "2"]
    running = commands.start(*words)
    wait_until(lambda: len(list(folder.glob("checkpoints/checkpoint-*/complete"))) >= 2)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    assert not (folder / "head.safetensors").exists()
    refused = commands.run(*words)
    assert refused.returncode == 1
    assert "--resume goes on with it" in refused.stderr
    resumed = commands.run(*words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stderr
    assert digests(folder) == digests(tuned)


def test_other_settings_do_not_go_on_from_a_run(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*arguments, "--method", "svd", "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainedModule, "forward", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert main(command) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err
    assert main([*command, "--resume", "--seed", "1"]) == 1
    assert "other settings (seed)" in capsys.readouterr().err.replace("learn, ", "")


def test_with_nothing_to_resume_it_says_so(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments, "--method", "svd", "--output", str(tmp_path / "out"), "--resume"]
    assert main(command) == 1
    assert f"there is nothing to resume in {tmp_path / 'out'}" in capsys.readouterr().err


def test_a_validation_folder_chooses_and_judges(
    arguments: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is also among the images to learn from does not count."""
    apart = tmp_path / "apart"
    for label in ("real", "fake"):
        shutil.copytree(data / label / "clip_01", apart / label / "same")
        (apart / label / "other").mkdir()
        for path in (data / label / "clip_02").glob("*.png"):
            image = np.asarray(Image.open(path).convert("RGB"))[:, ::-1]
            Image.fromarray(image).save(apart / label / "other" / path.name)
    out = tmp_path / "out"
    more = ["--method", "lora", "--output", str(out), "--validation", str(apart)]
    assert main([*arguments, *more]) == 0
    said = capsys.readouterr().err
    history = read_head_file(out / "head.safetensors")[0].tuning
    assert history is not None
    assert history.chosen_by == "held out"
    assert history.held_out.real == history.held_out.fake == 10
    assert f"20 images of {apart} are among those to learn from, or repeated" in said
    assert "240 images to learn from, 20 to choose the epoch" in said


def test_a_loss_that_is_no_number_names_the_images(
    arguments: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"uniformity_t": 1e6}')
    more = ["--method", "layernorm", "--recipe", str(recipe), "--output", str(tmp_path / "out")]
    assert main([*arguments, *more]) == 1
    said = capsys.readouterr().err
    assert re.search(r"the loss is (-?inf|nan) at step \d+", said)
    assert str(data / "real") in said
    assert "--learning-rate" in said


def test_a_full_disk_leaves_the_last_checkpoint(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second checkpoint cannot be written: torch says so in its own words."""
    saves = []
    save = torch.save

    def full(*args: object, **more: object) -> None:
        saves.append(args)
        if any(Path(str(a)).name == "optimizer.pt" and "checkpoint-4" in str(a) for a in args):
            raise RuntimeError("PytorchStreamWriter failed: No space left on device")
        save(*args, **more)

    out = tmp_path / "out"
    command = [*arguments, "--method", "layernorm", "--output", str(out), "--save-every", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        assert main(command) == 1
    assert saves
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "checkpoint-2 is the last whole checkpoint" in said
    assert [p.name for p in out.glob("checkpoints/checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "3"], "batch_size 3 is odd"),
        (["--batch-size", "1000"], "do not fill a batch of 1000"),
        (["--accumulate", "5"], "does not divide into 5 even parts"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    arguments: list[str],
    tmp_path: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*arguments, *more, "--method", "svd", "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"learning_rat": 1}', "learning_rat"),
        ('{"epochs": 0}', "epochs"),
        ('{"method": "full"}', "is a recipe for --method full, not svd"),
        ('{"augmentation": {"jpeg": [90, 40]}}', "jpeg goes from 90 to 40"),
        ("[]", "recipe.json"),
    ],
)
def test_a_recipe_that_is_off_is_refused(
    arguments: list[str],
    tmp_path: Path,
    content: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(content)
    # Without the options that take the place of the recipe's own fields.
    start = arguments.index("--learning-rate")
    command = arguments[:start]
    more = ["--method", "svd", "--output", str(tmp_path / "out"), "--recipe", str(recipe)]
    assert main([*command, *more]) == 1
    assert message in capsys.readouterr().err


def test_options_of_encoders_need_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--data", ".", "--epochs", "3"])
    assert error.value.code == 2
    assert "--epochs is for the methods that train an encoder" in capsys.readouterr().err


def test_a_folder_with_a_detector_is_not_written_into(
    arguments: list[str], tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--method", "svd", "--output", str(tuned)]) == 1
    assert "holds a detector" in capsys.readouterr().err


def test_the_builder_wants_no_model_beside_the_folder(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="leave out --model"):
        Builder(tmp_path)("--weights", tuned, "--model", "acme/other")


def test_two_processes_learn_as_one(arguments: list[str], tuned: Path, tmp_path: Path) -> None:
    """Each computes half of every batch, and the losses over pairs on all of it."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    folder = tmp_path / "layernorm"
    command = [*arguments, "--method", "layernorm", "--output", str(folder)]
    done = subprocess.run(
        [*launch, "--main_process_port", "0", str(ROOT / "scripts" / "train.py"), *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((path / "training.json").read_text()) for path in (tuned, folder))
    assert len(two["epochs"]) == 2
    for first, second in zip(one["epochs"], two["epochs"], strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
    weights, others = (load_file(path / "model.safetensors") for path in (tuned, folder))
    assert max((weights[name] - others[name]).abs().max().item() for name in weights) < 1e-4


def test_too_little_memory_says_what_takes_less(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forward(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(TrainedModule, "forward", forward)
    command = [*arguments, "--method", "full", "--output", str(tmp_path), "--batch-size", "16"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "the memory was not enough for a batch of 16: give --checkpoint-activations" in said


def test_what_takes_less_memory_learns_the_same(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Activations computed twice, a batch in two parts, images decoded elsewhere, and logs."""
    logs = tmp_path / "logs"
    less = ["--checkpoint-activations", "--accumulate", "2", "--tensorboard", str(logs)]
    found = []
    for name, more in (("plain", []), ("less", [*less, "--workers", "1"])):
        command = [*arguments, "--method", "svd", "--output", str(tmp_path / name), *more]
        assert main(command) == 0
        found.append(load_file(tmp_path / name / "model.safetensors"))
    plain, thrifty = found
    assert max((plain[name] - thrifty[name]).abs().max().item() for name in plain) < 1e-4
    assert list(logs.glob("events.out.tfevents.*"))


def test_products_in_bfloat16_learn_nearly_the_same(
    arguments: list[str], tuned: Path, tmp_path: Path
) -> None:
    command = [*arguments, "--method", "layernorm", "--output", str(tmp_path), "--bfloat16"]
    assert main(command) == 0
    exact, rounded = (
        json.loads((path / "training.json").read_text())["epochs"] for path in (tuned, tmp_path)
    )
    for one, other in zip(exact, rounded, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=0.02)
        assert other["loss"] != one["loss"]
