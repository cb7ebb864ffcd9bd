"""A classifier's labels that mean FAKE, by their words; and the file of a trained head."""

from pathlib import Path

import msgspec
import pytest
import torch
from clip_deepfake.card import DataHistory, HeadCard, ModelSource, Scores, TrainingHistory
from clip_deepfake.preprocessing import squash
from deepfake_tools.packaging.heads import (
    METADATA_KEY,
    TrainedHead,
    fake_outputs,
    is_head_file,
    read_head_file,
    tower_digest,
    write_head_file,
)
from deepfake_tools.packaging.hub import BuildError
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.mark.parametrize(
    ("labels", "fake"),
    [
        (("Realism", "Deepfake"), 1),  # prithivMLmods/Deep-Fake-Detector-v2-Model
        (("Real", "Fake"), 1),  # dima806/deepfake_vs_real_image_detection
        (("Fake", "Real"), 0),  # prithivMLmods/deepfake-detector-model-v1
        (("artificial", "human"), 0),  # umm-maybe/AI-image-detector
        (("ai", "nature"), 0),
        (("REAL", "AI_GENERATED"), 1),
        (("real_image", "deep-fake image"), 1),
        (("0_real", "1_fake"), 1),
    ],
)
def test_two_plain_labels_say_which_is_fake(labels: tuple[str, ...], fake: int) -> None:
    assert fake_outputs(labels, (), "acme/m") == (fake,)


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1"),
        ("Real", "Realistic_fake"),
        ("Realistic_fake", "Fake"),
        ("Real", "Fake", "Synthetic"),
        ("Fake",),
        (),
        ("Fake", "Fake"),
        ("Fake", "Other"),
        ("not fake", "not real"),
        ("fake", "no-fake"),
        ("unreal", "unfaked"),
        ("", ""),
        ("cat", "dog"),
    ],
)
def test_labels_that_are_not_plain_want_fake_label(labels: tuple[str, ...]) -> None:
    with pytest.raises(BuildError, match=r"acme/m does not say plainly.*--fake-label") as caught:
        fake_outputs(labels, (), "acme/m")
    assert all(repr(label) in str(caught.value) for label in labels)


def test_chosen_labels_need_not_be_plain() -> None:
    assert fake_outputs(("LABEL_0", "LABEL_1"), ("LABEL_0",), "m") == (0,)
    assert fake_outputs(("gan", "photo", "diffusion"), ("diffusion", "gan"), "m") == (0, 2)
    assert fake_outputs(("Real", "Fake"), ("Real",), "m") == (0,)


@pytest.mark.parametrize("chosen", ["fake", "FAKE", "1"])
def test_a_label_that_is_not_there_is_refused_with_the_list(chosen: str) -> None:
    with pytest.raises(BuildError, match=f"m has no label '{chosen}'; .*'Real', 'Fake'"):
        fake_outputs(("Real", "Fake"), (chosen,), "m")


@pytest.mark.parametrize("labels", [("Fake",), ("Fake", "Fake"), ("Real", "Fake")])
def test_all_labels_cannot_be_fake(labels: tuple[str, ...]) -> None:
    with pytest.raises(BuildError, match="names all labels"):
        fake_outputs(labels, labels, "m")


WEIGHT = torch.arange(6.0)[None] / 7
BIAS = torch.tensor([0.5])


@pytest.fixture
def trained() -> TrainedHead:
    history = TrainingHistory(
        data=DataHistory(100, 90, 3, 2, 19, "a" * 64),
        kept_together="folder",
        seed=0,
        strength=0.1,
        folds=5,
        cross_validated_auc=0.9,
        cross_validated_auc_std=0.02,
        held_out=Scores(20, 18, 0.91, 0.92, 0.85),
        balanced_threshold=0.4,
        target_fpr=0.01,
        target_fpr_threshold=0.8,
        made_with={"torch": "2.13.0"},
    )
    return TrainedHead(
        schema=1,
        model=ModelSource("owner/model", "main", "0" * 40, "model.safetensors", "b" * 64),
        encoder_sha256="c" * 64,
        preprocessing=squash(32),
        head=HeadCard("trained", "for tests", "pooler_output", False, 1, (0,), 0.8),
        history=history,
    )


def test_a_head_goes_where_a_link_leads_and_keeps_the_mode(
    tmp_path: Path, trained: TrainedHead
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_head_file(link, trained, WEIGHT, BIAS)
    assert link.is_symlink()
    assert read_head_file(target)[0] == trained
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_was_written_is_read(tmp_path: Path, trained: TrainedHead) -> None:
    path = tmp_path / "new" / "head.safetensors"
    write_head_file(path, trained, WEIGHT.double(), BIAS.double())
    read, tensors = read_head_file(path)
    assert read == trained
    assert tensors.keys() == {"weight", "bias"}
    assert torch.equal(tensors["weight"], WEIGHT)
    assert torch.equal(tensors["bias"], BIAS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert is_head_file(path)


def test_the_metadata_is_json_under_one_key(tmp_path: Path, trained: TrainedHead) -> None:
    path = tmp_path / "head.safetensors"
    write_head_file(path, trained, WEIGHT, BIAS)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    assert metadata.keys() == {"clip_deepfake_head"}
    content = msgspec.json.decode(metadata["clip_deepfake_head"])
    assert content["model"]["commit"] == "0" * 40
    assert content["head"]["threshold"] == 0.8
    assert content["history"]["data"]["fake"] == 90


def test_equal_heads_are_equal_files(tmp_path: Path, trained: TrainedHead) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        write_head_file(path, trained, WEIGHT, BIAS)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": WEIGHT}, "a head with 1 output"),
        ({"weight": WEIGHT[0], "bias": BIAS}, "a head with 1 output"),
        ({"weight": WEIGHT.repeat(2, 1), "bias": BIAS.repeat(2)}, "a head with 1 output"),
        ({"weight": WEIGHT, "bias": BIAS, "scale": BIAS + 1}, "a head with 1 output"),
        ({"weight": WEIGHT * torch.nan, "bias": BIAS}, "weight is damaged: it must be finite"),
        ({"weight": WEIGHT, "bias": BIAS.half()}, "bias is damaged: .* in float32"),
    ],
)
def test_other_tensors_than_a_heads_are_refused(
    tmp_path: Path, trained: TrainedHead, tensors: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "head.safetensors"
    save_file(tensors, path, {METADATA_KEY: msgspec.json.encode(trained).decode()})
    with pytest.raises(BuildError, match=rf"^head\.safetensors.*{message}"):
        read_head_file(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "train.py did not write it"),
        ({"format": "pt"}, "train.py did not write it"),
        ({METADATA_KEY: "{"}, "nothing that this version reads"),
        ({METADATA_KEY: '{"schema": 2}'}, r"Invalid enum value 2 - at `\$.schema`"),
        ({METADATA_KEY: '{"schema": 1}'}, "missing required field `model`"),
    ],
)
def test_other_metadata_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "head.safetensors"
    save_file({"weight": WEIGHT, "bias": BIAS}, path, metadata)
    with pytest.raises(BuildError, match=message):
        read_head_file(path)
    assert is_head_file(path) == (METADATA_KEY in (metadata or {}))


@pytest.mark.parametrize("content", [None, b"", b"weights\n", b"\x08\0\0\0\0\0\0\0{}      "[:12]])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "head.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=r"^head\.safetensors is no safetensors file"):
        read_head_file(path)
    assert not is_head_file(path)


def test_the_digest_of_a_tower_is_that_of_its_names_shapes_and_values() -> None:
    tower = {"a.weight": torch.randn(3, 4), "b": torch.randn(5)}
    digest = tower_digest(tower)
    assert digest == tower_digest(dict(reversed(tower.items())))
    assert digest == tower_digest({name: tensor.double() for name, tensor in tower.items()})
    # The same values in the same order in memory, laid out otherwise.
    turned = tower["a.weight"].T.contiguous().T
    assert digest == tower_digest(tower | {"a.weight": turned})
    others = [
        tower | {"a.weight": tower["a.weight"].reshape(4, 3)},
        tower | {"b": tower["b"] + 1e-6},
        {"a.weight": tower["a.weight"], "c": tower["b"]},
        {"a.weight": tower["a.weight"]},
    ]
    assert digest not in [tower_digest(other) for other in others]
