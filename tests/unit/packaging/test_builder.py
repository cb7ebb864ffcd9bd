"""Building in this process, on small models, from folders and from the Hub stand-in."""

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from clip_deepfake.card import ENGINE_CONSTANTS, Limits
from clip_deepfake.detector import Detector
from clip_deepfake.errors import LoadError
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.packaging.builder import BuildOptions, Built, build
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.serving_options import ServingOptions
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModel

from tests.building import unpack
from tests.clips import PICKLE, SAFETENSORS, SMALL, write_repository, write_vision_repository
from tests.hub_server import HubServer

Build = Callable[..., Built]

TENSOR = "vision_model.post_layernorm.weight"


def build_clip(model: Path, store: Path, /, **changes: object) -> Built:
    """Builds with the defaults of build_mar.py."""
    options = BuildOptions(
        model=str(model),
        revision=None,
        served_name=None,
        version=None,
        precision="float32",
        preset="squash",
        limits=Limits(),
        serving=ServingOptions(),
        store=store,
        force=False,
    )
    return build(dataclasses.replace(options, **changes), report=lambda step: None)  # type: ignore[arg-type]


@pytest.fixture
def build_small(tmp_path: Path, small_clip: Path) -> Build:
    """Builds with the defaults of build_mar.py, from the small CLIP unless told otherwise."""
    return partial(build_clip, small_clip, tmp_path / "store")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> Built:
    """The small CLIP, built with the defaults of build_mar.py, to be read alone."""
    return build_clip(small_clip, tmp_path_factory.mktemp("small") / "store")


def reference_probability(model: Path, archive: Path, image: Path) -> float:
    """transformers, OpenCV and the archive's head, nothing of ours."""
    clip = CLIPModel.from_pretrained(model).eval()
    head = load_file(archive / "head.safetensors")
    side = clip.config.vision_config.image_size
    pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    values = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.inference_mode():
        feature = clip.vision_model(values).pooler_output
        logits = feature @ head["weight"].T + head["bias"]
    return float(logits.softmax(1)[0, 1])


def verdict(detector: Detector, image: Path) -> Verdict:
    (found,) = detector.judge([image.read_bytes()])
    assert isinstance(found, Verdict)
    return found


def test_scores_are_those_of_transformers(
    small: Built, small_clip: Path, examples: list[Path], tmp_path: Path
) -> None:
    folder = unpack(small, tmp_path / "unpacked")
    detector = load_detector(folder)
    for image in examples:
        expected = reference_probability(small_clip, folder, image)
        assert verdict(detector, image).fake_probability == pytest.approx(expected, abs=1e-5)


def test_the_untrained_head_is_torchs_default(small: Built, tmp_path: Path) -> None:
    head = load_file(unpack(small, tmp_path / "unpacked") / "head.safetensors")
    torch.manual_seed(0)
    expected = torch.nn.Linear(small.card.encoder.features["pooler_output"], 2)
    assert torch.equal(head["weight"], expected.weight)
    assert torch.equal(head["bias"], expected.bias)
    assert small.card.head.source == "untrained"


def test_equal_inputs_give_equal_bytes(build_small: Build, tmp_path: Path) -> None:
    first = build_small(store=tmp_path / "a")
    second = build_small(store=tmp_path / "b")
    assert first.sha256 == second.sha256
    assert first.path.read_bytes() == second.path.read_bytes()


def test_versions_count_up_and_equal_ones_must_be_equal(build_small: Build) -> None:
    assert [build_small().card.version for _ in range(2)] == ["1", "2"]
    again = build_small(version="1")
    assert again.card.version == "1"
    with pytest.raises(BuildError, match="exists with other content"):
        build_small(version="1", preset="clip")
    replaced = build_small(version="1", preset="clip", force=True)
    assert replaced.sha256 != again.sha256


def test_an_archive_holds_no_text_tower_no_pickle_and_little_else(
    small: Built, tmp_path: Path
) -> None:
    with zipfile.ZipFile(small.path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    suffixes = {".json", ".py", ".safetensors", ".xml", ".yaml"}
    assert {Path(name).suffix for name in names} == suffixes
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    assert all(not entry.flag_bits & 0x08 for entry in entries), "a size stands behind its content"
    tensors = load_file(unpack(small, tmp_path / "unpacked") / "encoder.safetensors")
    # What the graph alone uses lies beside them: a few numbers.
    assert tensors.pop(ENGINE_CONSTANTS).nbytes < 5000
    assert {name.split(".")[0] for name in tensors} == {"vision_model", "visual_projection"}


def test_the_card_tells_nothing_of_the_machine(small: Built, small_clip: Path) -> None:
    text = small.card.to_json().decode()
    for folder in (small.path.parent, small_clip):
        assert str(folder) not in text
    assert "+cpu" not in text


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_halves_the_archive_and_keeps_the_scores(
    small: Built, build_small: Build, examples: list[Path], tmp_path: Path, precision: str
) -> None:
    folders = [
        unpack(built, tmp_path / built.card.precision)
        for built in (small, build_small(precision=precision))
    ]
    sizes = [(folder / "encoder.safetensors").stat().st_size for folder in folders]
    assert sizes[1] < 0.51 * sizes[0]
    exact, rounded = map(load_detector, folders)
    for image in examples:
        difference = (
            verdict(exact, image).fake_probability - verdict(rounded, image).fake_probability
        )
        assert 0 < abs(difference) < 5e-3


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", ["clip", "clip_vision_model"])
def test_every_form_of_checkpoint_gives_the_same_tower(
    small: Built, build_small: Build, small_clip: Path, tmp_path: Path, weights: str, kind: str
) -> None:
    tensors = load_file(small_clip / "model.safetensors")
    folder = tmp_path / "other"
    folder.mkdir()
    config = json.loads((small_clip / "config.json").read_text())
    if kind == "clip_vision_model":
        config = config["vision_config"] | {
            "model_type": kind,
            "projection_dim": config["projection_dim"],
        }
        tensors = {
            key: value
            for key, value in tensors.items()
            if key.startswith(("vision_model.", "visual_projection."))
        }
    (folder / "config.json").write_text(json.dumps(config))
    if weights.endswith(".bin"):
        torch.save(tensors, folder / weights)
    else:
        save_file(tensors, folder / weights)
    found = build_small(model=str(folder)).card
    assert found.files == small.card.files
    assert found.encoder == small.card.encoder


def test_a_tower_saved_without_its_prefix_is_read(build_small: Build, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).save_pretrained(folder)
    card = build_small(model=str(folder)).card
    assert card.encoder.features == {"pooler_output": 32, "class_token": 32}


def sharded(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    tensors = load_file(source / "model.safetensors")
    keys = sorted(tensors)
    for part, chosen in enumerate((keys[::2], keys[1::2]), 1):
        save_file(
            {key: tensors[key] for key in chosen}, folder / f"model-{part:05}-of-00002.safetensors"
        )
    (folder / "model.safetensors.index.json").write_text("{}")
    return folder


def test_shards_are_put_together(
    small: Built, build_small: Build, small_clip: Path, tmp_path: Path
) -> None:
    found = build_small(model=str(sharded(tmp_path / "shards", small_clip))).card
    assert found.files == small.card.files


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: _retype(folder, "bert"), "model of type 'bert'.*takes CLIP"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "no safetensors file"),
        (lambda folder: _change(folder, "visual.b", torch.zeros(1)), r"visual\.b; .*detector's"),
        (lambda folder: _change(folder, TENSOR, torch.zeros(3)), "do not fit its settings"),
        (lambda folder: _change(folder, TENSOR, None), f"lacks 1 .*{TENSOR}"),
        (lambda folder: _poison(folder), "NaN or infinite"),
    ],
)
def test_a_folder_that_will_not_do_is_explained(
    build_small: Build,
    small_clip: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(small_clip, folder, ignore=shutil.ignore_patterns("*.bin"))
    damage(folder)
    with pytest.raises(BuildError, match=message) as caught:
        build_small(model=str(folder))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "store").glob("**/*")) == []


def _retype(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))


def _change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def _poison(folder: Path) -> None:
    tensor = load_file(folder / "model.safetensors")[TENSOR].clone()
    tensor[0] = float("nan")
    _change(folder, TENSOR, tensor)


def test_a_pickle_with_code_is_refused_unrun(
    build_small: Build, small_clip: Path, tmp_path: Path
) -> None:
    folder, trace = tmp_path / "evil", tmp_path / "trace"
    shutil.copytree(small_clip, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trace),)

    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(BuildError, match="would run code"):
        build_small(model=str(folder))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["encoder.safetensors", "head.safetensors"])
def test_a_flipped_weight_byte_is_found_at_load(small: Built, tmp_path: Path, name: str) -> None:
    folder = unpack(small, tmp_path / "unpacked")
    data = bytearray((folder / name).read_bytes())
    data[-5] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(LoadError, match=f"{name} is damaged"):
        load_detector(folder)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_other_logits_than_the_cards_are_found_at_load(
    build_small: Build, tmp_path: Path, engine: str
) -> None:
    built = build_small(engine=engine)
    folder = unpack(built, tmp_path / "unpacked")
    logits = [value + 0.002 for value in built.card.self_test.logits]
    test = msgspec.structs.replace(built.card.self_test, logits=logits)
    card = msgspec.structs.replace(built.card, self_test=test)
    (folder / "detector.json").write_bytes(card.to_json())
    with pytest.raises(LoadError, match=f"self-test failed on {engine} cpu float32"):
        load_detector(folder)


def test_one_broken_image_does_not_touch_the_others(
    small: Built, examples: list[Path], tmp_path: Path
) -> None:
    detector = load_detector(unpack(small, tmp_path / "unpacked"))
    alone = [verdict(detector, image) for image in examples]
    mixed = detector.judge([b"no image", *(path.read_bytes() for path in examples), b""])
    assert [getattr(mixed[i], "code", None) for i in (0, -1)] == ["not_an_image", "empty_image"]
    for found, expected in zip(mixed[1:-1], alone, strict=True):
        assert isinstance(found, Verdict)
        assert np.allclose(found.logits, expected.logits, atol=1e-5)


def test_the_hub_gives_the_needed_files_once(
    build_small: Build, hub: HubServer, hub_cache: Path, tmp_path: Path
) -> None:
    repository = write_repository(tmp_path / "repo", SMALL, formats=(SAFETENSORS, PICKLE))
    commit = hub.add("acme/clip-small", repository)
    built = build_small(model="acme/clip-small")
    assert built.card.model.name == "acme/clip-small"
    assert built.card.model.commit == commit
    assert built.path.name == "acme--clip-small@1.mar"
    fetched = {path for path, count in hub.downloads("acme/clip-small").items() if count}
    assert fetched == {"config.json", "preprocessor_config.json", "model.safetensors"}
    build_small(model="acme/clip-small")
    assert all(count == 1 for count in hub.downloads("acme/clip-small").values())


def test_a_repository_of_pickles_only_is_read_too(
    build_small: Build, hub: HubServer, hub_cache: Path, tmp_path: Path
) -> None:
    hub.add("acme/pickled", write_repository(tmp_path / "repo", SMALL, formats=(PICKLE,)))
    assert build_small(model="acme/pickled").card.model.weights_file == "pytorch_model.bin"


def test_the_vision_tower_alone_is_enough(
    build_small: Build, hub: HubServer, hub_cache: Path, tmp_path: Path
) -> None:
    hub.add("acme/vision", write_vision_repository(tmp_path / "repo"))
    assert "pooler_output" in build_small(model="acme/vision").card.encoder.features
