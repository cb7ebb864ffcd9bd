"""What cannot be packaged: each kind has a message of its own, and leaves nothing behind."""

import argparse
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import build_mar
import pytest
import torch
from deepfake_tools.demonstration.random_clip import random_weights
from deepfake_tools.packaging.checkpoints.recognition import recognise
from deepfake_tools.packaging.checkpoints.shapes import read_shapes
from deepfake_tools.packaging.hub import BuildError
from safetensors.torch import load_file, save_file
from torch import nn

from tests.building import Builder
from tests.hub_server import HubServer
from tests.published import (
    c2p,
    deepfakebench,
    effort,
    effort_generated,
    gend,
    gend_on_dinov3,
    narrow,
    save,
)


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    """An Effort checkpoint with something changed in its state."""

    def make(folder: Path) -> Path:
        path = effort(folder).weights
        state = torch.load(path)
        change(state)
        return save(folder, path.name, state)

    return make


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


class Code:
    """Makes a folder when a careless reader unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def with_code(folder: Path) -> Path:
    state = torch.load(effort(folder).weights)
    return save(folder, "effort.pth", {**state, "surplus": Code(folder / "executed")})


def resnet(folder: Path) -> Path:
    layers = nn.Sequential(nn.Conv2d(3, 8, 7), nn.BatchNorm2d(8), nn.Linear(8, 2))
    return save(folder, "resnet.pth", {f"backbone.{k}": v for k, v in layers.state_dict().items()})


def lora(folder: Path) -> Path:
    layer = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj"
    state = {f"{layer}.lora_A.weight": torch.ones(8, 128), f"{layer}.lora_B.weight": torch.ones(8)}
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


def whole_clip(folder: Path) -> Path:
    return save(folder, "pytorch_model.bin", random_weights(narrow()))


NORM = "module.backbone.encoder.layers.1.layer_norm1.weight"
MAIN = "module.backbone.encoder.layers.1.self_attn.k_proj.weight_main"

BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a key missing": (
        damaged(lambda state: state.pop(NORM)),
        r"nearest to Effort .* does not fit.*missing: backbone.*layer_norm1\.weight \(128\)$",
    ),
    "one extra": (
        damaged(lambda state: state.update({"module.gate.weight": torch.ones(3, 4)})),
        r"nearest to Effort .*extra: gate\.weight \(3, 4\)$",
    ),
    "a wrong shape": (
        damaged(lambda state: state.update({MAIN: torch.ones(128, 64)})),
        r"misshapen: backbone.*weight_main \(128, 64\) instead of \(128, 128\)$",
    ),
    "a pickle with code in it": (with_code, r"would run code, since it holds \w+\.mkdir"),
    "another architecture": (resnet, r"no detector that this project knows: it holds 9 tensors"),
    "NaN weights": (
        damaged(lambda state: state[MAIN].fill_(float("nan"))),
        r": backbone\.encoder\.layers\.1\.self_attn\.k_proj\.weight_main holds NaN",
    ),
    "an empty file": (written("effort.pth", b""), r"effort\.pth is empty"),
    "a text file": (written("effort.pth", b"These are my weights.\n"), r"b'These are my wei'"),
    "a LoRA": (lora, r"is LoRA or another peft adapter.*merge_and_unload"),
    "a full CLIP with no head": (whole_clip, r"is CLIP: it has no detector's head.*--model"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints_have_a_message_each(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, _ = BROKEN[kind]
    weights, store = make(tmp_path), tmp_path / "store"
    code = build_mar.main(["--weights", str(weights), "--export-path", str(store)])
    output = capsys.readouterr()
    assert (code, output.out) == (1, "")
    *_, line = output.err.splitlines()
    matching = [other for other, (_, pattern) in BROKEN.items() if re.search(pattern, line)]
    assert matching == [kind], line
    assert not store.exists()
    assert not (tmp_path / "executed").exists()


UNSUPPORTED = {
    "RINE": ["alpha", "proj1.1.weight", "proj2.1.weight", "head.0.weight"],
    "D3": ["query.weight", "key.weight", "value.weight", "fc.weight", "fc.bias"],
    "FatFormer": ["image_encoder.transformer.resblocks.7.forgery_aware_adapter.fc.weight"],
    "Forensics Adapter": ["clip_model.visual.class_embedding", "adapter.query_embed"],
    "AIDE": ["hpf.hpf.weight", "model_min.conv1.weight"],
    "GenD (WACV 2026) on Perception Encoder": [
        "feature_extractor.backbone.blocks.0.norm1.weight",
        "model.linear.weight",
    ],
    "GenD (WACV 2026) on DINOv2": [
        "feature_extractor.backbone.encoder.layer.0.norm1.weight",
        "model.linear.weight",
    ],
    "CLIP with a ResNet": ["visual.attnpool.positional_embedding", "visual.layer1.0.conv1.weight"],
    "CLIP under OpenAI": ["visual.class_embedding", "transformer.resblocks.0.ln_1.weight"],
    "CLIP's vision tower": ["embeddings.class_embedding", "post_layernorm.weight"],
}


@pytest.mark.parametrize("title", UNSUPPORTED)
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_known_detectors_of_another_kind_are_named(
    title: str, wrapper: str, tmp_path: Path, builder: Builder
) -> None:
    state = {f"module.{name}": torch.ones(2) for name in UNSUPPORTED[title]}
    path = save(tmp_path, "checkpoint.pth", {wrapper: state, "epoch": 3} if wrapper else state)
    with pytest.raises(BuildError, match=rf"checkpoint\.pth is {re.escape(title)}.*: \w+"):
        builder("--weights", path)


def zipped(folder: Path) -> Path:
    path = folder / "C2P_CLIP_release.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("C2P_CLIP_release.pth", b"weights")
    return path


def scripted(folder: Path) -> Path:
    path = folder / "ViT-L-14.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ViT-L-14/data.pkl", b"")
        archive.writestr("ViT-L-14/code/__torch__/multimodal.py", b"")
    return path


def cut_short(folder: Path) -> Path:
    path = c2p(folder).weights
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def cut_safetensors(folder: Path) -> Path:
    weights = gend(folder, "linear").weights / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return weights


def endless(folder: Path) -> Path:
    state: dict[str, Any] = {}
    state["model"] = state
    return save(folder, "endless.pth", state)


def on_other_sizes(hidden: int, rows: int, patch: int = 8) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        config = narrow()
        config["vision_config"] |= {"hidden_size": hidden, "patch_size": patch}
        tower = {
            f"backbone.{name.removeprefix('vision_model.')}": tensor
            for name, tensor in random_weights(config).items()
            if name.startswith("vision_model.")
        }
        tower["backbone.embeddings.position_embedding.weight"] = torch.zeros(rows, hidden)
        head = {"head.weight": torch.zeros(2, hidden), "head.bias": torch.zeros(2)}
        return save(folder, "ckpt_best.pth", tower | head)

    return make


def without_numbers(folder: Path) -> Path:
    """A checkpoint of hidden size 0: all of it fits, and none of it is there."""
    path = deepfakebench(folder).weights
    state = {
        name: torch.zeros([0 if side == 128 else side for side in tensor.shape])
        for name, tensor in torch.load(path).items()
    }
    return save(folder, path.name, state)


UNREADABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a zip with a checkpoint in it": (zipped, r"zip with C2P_CLIP_release\.pth in it: unpack it"),
    "a TorchScript program": (scripted, "TorchScript program"),
    "a Git LFS pointer": (
        written("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "a web page": (written("w.pth", b"<!DOCTYPE html><title>Sign in</title>"), "a web page"),
    "a zip cut short": (cut_short, "cut short or damaged"),
    "safetensors cut short": (cut_safetensors, "no safetensors file, or is damaged"),
    "a damaged pickle": (written("w.pth", b"\x80\x02\x8a\x0a" + bytes(90)), "or is damaged"),
    "a tensor alone": (lambda folder: save(folder, "w.pth", torch.ones(2)), "holds a Tensor"),
    "an empty dictionary": (lambda folder: save(folder, "w.pth", {}), "an empty dictionary"),
    "numbers by name": (
        lambda folder: save(folder, "w.pth", {"accuracy": 0.9}),
        "holds 'accuracy', a float, where tensors by name are expected",
    ),
    "settings as an object": (
        lambda folder: save(folder, "w.pth", {"model": {}, "args": argparse.Namespace()}),
        r"since it holds argparse\.Namespace",
    ),
    "other tensors beside the model": (
        lambda folder: save(folder, "w.pth", {"model": {}, "ema": {"weight": torch.ones(1)}}),
        "holds 'ema' beside its weights",
    ),
    "a dictionary that holds itself": (endless, "endless.pth holds 'model'"),
    "integers": (
        damaged(lambda state: state.update({MAIN: torch.ones(128, 128, dtype=torch.int8)})),
        r"weight_main of torch\.int8 instead of floating-point numbers",
    ),
    "two outputs without a name": (
        lambda folder: save(folder, "w.pth", nn.Linear(768, 2).state_dict()),
        r"nearest to UniversalFakeDetect.*weight \(2, 768\) instead of \(1, 768\)",
    ),
    "no square of patches": (on_other_sizes(128, 18), "18 positions are no square"),
    "no multiple of a head's width": (on_other_sizes(96, 17), "hidden size 96 is no multiple"),
    "tensors without numbers": (without_numbers, "hidden size 0 is no multiple"),
    "a huge image": (on_other_sizes(64, 33**2 + 1, 128), "an image of 4224, and 1 to 4096"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_checkpoint_is_told_apart(kind: str, tmp_path: Path, builder: Builder) -> None:
    make, message = UNREADABLE[kind]
    with pytest.raises(BuildError, match=message):
        builder("--weights", make(tmp_path))
    assert not builder.store.exists()


def test_layers_that_a_name_claims_are_compared_and_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(effort(tmp_path).weights)
    names = [NORM.replace(".1.", number) for number in (".998.", ".1000000000.")]
    state |= {name: torch.ones(128) for name in names}
    made: list[nn.Linear] = []
    initialise = nn.Linear.__init__

    def counting(layer: nn.Linear, *arguments: Any, **more: Any) -> None:
        made.append(layer)
        initialise(layer, *arguments, **more)

    monkeypatch.setattr(nn.Linear, "__init__", counting)
    read_shapes.cache_clear()
    with pytest.raises(BuildError, match=r"w\.pth is no detector that this project knows"):
        recognise("w.pth", {k.removeprefix("module."): v for k, v in state.items()}, {})
    assert 0 < len(made) < 20, "of a model with one layer: the projections and two others"


def test_a_missing_file_is_not_looked_for_on_the_hub(hub: HubServer, builder: Builder) -> None:
    before = len(hub.requests)
    with pytest.raises(BuildError, match=r"weights/effort\.pth: there is no such file"):
        builder("--weights", "weights/effort.pth")
    assert len(hub.requests) == before


def test_gends_two_heads_are_told_apart_by_the_config_alone(
    tmp_path: Path, builder: Builder
) -> None:
    folder = gend(tmp_path / "gend", "LinearNorm").weights
    config = folder / "config.json"
    assert builder("--weights", folder / "model.safetensors").card.head.l2_normalize
    config.write_text(json.dumps({"head": "linear"}))
    assert not builder("--weights", folder / "model.safetensors").card.head.l2_normalize
    config.write_text(json.dumps({"head": "cosine"}))
    with pytest.raises(BuildError, match=r"head linear or .*LinearNorm.*'head'.*says 'cosine'"):
        builder("--weights", folder / "model.safetensors")
    config.unlink()
    with pytest.raises(BuildError, match=r"'head' in the config\.json.*is not there"):
        builder("--weights", folder / "model.safetensors")


def test_a_gend_as_lightning_saves_it_names_its_head(tmp_path: Path, builder: Builder) -> None:
    state = load_file(gend(tmp_path / "gend", "linear").weights / "model.safetensors")
    settings = {"head": "LinearNorm", "backbone": "openai/clip-vit-large-patch14"}
    file = {"state_dict": state, "hyper_parameters": settings, "epoch": 1, "global_step": 9}
    path = save(tmp_path, "best.ckpt", file)
    assert builder("--weights", path).card.head.l2_normalize


@pytest.mark.parametrize("backbone", ["acme/clip-on-dino", "vit_pe_core_base", "acme/swin"])
def test_a_gend_on_another_encoder_than_its_config_says_is_refused(
    backbone: str, tmp_path: Path, builder: Builder
) -> None:
    folder = gend_on_dinov3(tmp_path / "gend", "linear").weights
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"backbone": backbone}))
    with pytest.raises(BuildError, match=rf"on DINOv3.*backbone is '{backbone}': they are not"):
        builder("--weights", folder / "model.safetensors")
    del settings["backbone"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert builder("--weights", folder / "model.safetensors").card.head.family == "GenD"


def test_a_dinov3_of_another_form_is_named_by_what_differs(
    tmp_path: Path, builder: Builder
) -> None:
    """The largest two have a gated layer in the place of two linear ones."""
    folder = gend_on_dinov3(tmp_path / "gend", "linear").weights
    state = load_file(folder / "model.safetensors")
    state["feature_extractor.backbone.layer.0.mlp.gate_proj.weight"] = torch.ones(96, 128)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BuildError, match=r"nearest to GenD .* on DINOv3.*extra: .*gate_proj"):
        builder("--weights", folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "clip"}, "is of type 'clip', not GenD; .*--model"),
        (
            {"model_type": "GenD", "backbone": "timm/vit_pe_core_large_patch14_336"},
            "GenD on 'timm/vit_pe.*torchvision.*GenD_DINOv3_L",
        ),
        (
            {"model_type": "GenD", "backbone": "timm/VIT_PE_dino"},
            "GenD on 'timm/VIT_PE_dino': timm's models",
        ),
        ({"model_type": "GenD", "backbone": "acme/swin"}, "'acme/swin'.*those on CLIP and DINOv3"),
        ({"model_type": "GenD"}, "GenD on ''.*those on CLIP and DINOv3"),
    ],
)
def test_another_repository_is_refused_before_its_weights_are_fetched(
    settings: dict[str, str], message: str, tmp_path: Path, hub: HubServer, builder: Builder
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    name = f"someone/{settings.get('backbone', 'clip').replace('/', '-')}"
    hub.add(name, tmp_path)
    with pytest.raises(BuildError, match=message):
        builder("--weights", name)
    assert "model.safetensors" not in hub.downloads(name)


@pytest.mark.parametrize("option", ["--model", "--revision"])
@pytest.mark.parametrize("make", [deepfakebench, effort_generated])
def test_an_encoder_beside_a_file_that_holds_one_is_refused(
    option: str, make: Callable[[Path], Any], tmp_path: Path, builder: Builder
) -> None:
    weights = make(tmp_path).weights
    with pytest.raises(BuildError, match=rf"holds the encoder .* leave out {option}"):
        builder("--weights", weights, option, "openai/clip-vit-large-patch14")
