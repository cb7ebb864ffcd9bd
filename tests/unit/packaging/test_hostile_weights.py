"""Checkpoints and settings that are made to hurt are refused, in one line and without the harm."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import build_mar
import pytest
import torch
from deepfake_tools.packaging.checkpoints.contents import read_contents
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.pickles import load_pickle
from deepfake_tools.untrusted_files import MAX_BYTES, read_json_object
from safetensors.torch import load_file, save_file

from tests.building import Builder
from tests.clips import SMALL, write_repository

DEEP = b"[" * 200_000


def head(path: Path, weight: torch.Tensor) -> Path:
    """A UniversalFakeDetect head with this weight."""
    torch.save({"weight": weight, "bias": torch.zeros(1)}, path)
    return path


def with_pickle(source: Path, target: Path, content: bytes, packing: int) -> Path:
    """The same file with another pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", packing) as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith("data.pkl") else old.read(entry))
    return target


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.ones(1, 40).to_sparse()),
        ("csr", lambda: torch.ones(1, 40).to_sparse_csr()),
        ("meta", lambda: torch.zeros(1, 40, device="meta")),
        ("of tensors", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        ("float8", lambda: torch.zeros(1, 40).to(torch.float8_e4m3fn)),
        ("int8", lambda: torch.zeros(1, 40, dtype=torch.int8)),
        ("repeat", lambda: torch.zeros(1).expand(1, 2**40)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers(
    builder: Builder, small_clip: Path, tmp_path: Path, kind: str, make: Callable[[], torch.Tensor]
) -> None:
    path = head(tmp_path / "fc.pth", make())
    with pytest.raises(BuildError, match=kind):
        builder("--model", small_clip, "--weights", path)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("layout torch.sparse", lambda tensor: tensor.to_sparse()),
        ("device meta", lambda tensor: tensor.to("meta")),
        ("float8", lambda tensor: tensor.to(torch.float8_e5m2)),
        ("int8", lambda tensor: tensor.to(torch.int8)),
    ],
)
def test_an_encoder_of_no_plain_numbers(
    builder: Builder, tmp_path: Path, kind: str, make: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    folder = write_repository(tmp_path / "model", SMALL)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = "visual_projection.weight"
    torch.save({**tensors, name: make(tensors[name])}, folder / "pytorch_model.bin")
    with pytest.raises(BuildError, match=kind):
        builder("--model", folder)


def test_float8_in_safetensors_is_not_taken_for_its_numbers(
    builder: Builder, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / "model", SMALL)
    tensors = load_file(folder / "model.safetensors")
    name = "visual_projection.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BuildError, match="float8"):
        builder("--model", folder)


def test_a_packed_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    plain = head(tmp_path / "plain.pth", torch.zeros(1, 40))
    bomb = b"\x80\x02B" + (50 << 20).to_bytes(4, "little") + bytes(50 << 20) + b"."
    path = with_pickle(plain, tmp_path / "bomb.pth", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BuildError, match="it is packed, and would unpack"):
        read_contents(path)


def test_a_pickle_much_larger_than_a_list_of_tensors_is_refused_unread(tmp_path: Path) -> None:
    plain = head(tmp_path / "plain.pth", torch.zeros(1, 40))
    path = with_pickle(plain, tmp_path / "large.pth", bytes(33 << 20), zipfile.ZIP_STORED)
    with pytest.raises(BuildError, match="list of tensors has"):
        read_contents(path)


def test_a_pickle_that_asks_for_memory_does_not_get_it(tmp_path: Path) -> None:
    """`bytearray(2_000_000_000)`, which torch's careful reader allows."""
    plain = head(tmp_path / "plain.pth", torch.zeros(1, 40))
    size = (2_000_000_000).to_bytes(4, "little")
    content = b"\x80\x02cbuiltins\nbytearray\n(J" + size + b"tR."
    path = with_pickle(plain, tmp_path / "greedy.pth", content, zipfile.ZIP_STORED)
    with pytest.raises(BuildError, match="far more memory"):
        load_pickle(path)


def test_a_million_layers_are_compared_with_the_file_and_not_built(
    builder: Builder, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / "model", SMALL)
    settings = json.loads((folder / "config.json").read_text())
    held = settings["vision_config"]["num_hidden_layers"]
    settings["vision_config"]["num_hidden_layers"] = 1_000_000
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BuildError, match=f"holds {held} layers .* config.json says 1000000"):
        builder("--model", folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEEP, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b" " * (MAX_BYTES + 1), "more than"),
        (b"[]", "no JSON object"),
        (b"\xff", "decode"),
        (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
    ],
)
def test_json_that_is_no_object_to_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json_object(path)


def test_deep_json_is_refused_wherever_it_is_read(
    builder: Builder, small_clip: Path, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / "model", SMALL)
    (tmp_path / "own.json").write_bytes(DEEP)
    with pytest.raises(BuildError, match="deeply"):
        builder("--model", small_clip, "--preprocess", tmp_path / "own.json")
    (folder / "preprocessor_config.json").write_bytes(DEEP)
    with pytest.raises(BuildError, match="deeply"):
        builder("--model", folder, "--preprocess", "clip")
    (folder / "config.json").write_bytes(DEEP)
    with pytest.raises(BuildError, match="deeply"):
        builder("--model", folder)


def test_deep_json_beside_a_checkpoint_tells_nothing(
    builder: Builder, small_clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(DEEP)
    width = builder("--model", small_clip).card.encoder.features["image_embeds"]
    path = head(tmp_path / "fc.pth", torch.zeros(1, width))
    assert builder("--model", small_clip, "--weights", path).card.head.source == "trained"


def test_logits_that_overflow_are_refused(
    builder: Builder, small_clip: Path, tmp_path: Path
) -> None:
    width = builder("--model", small_clip).card.encoder.features["image_embeds"]
    path = head(tmp_path / "fc.pth", torch.full((1, width), 3e38))
    with pytest.raises(BuildError, match=r"logits of the self-test are \[-?(inf|nan)\]"):
        builder("--model", small_clip, "--weights", path)


@pytest.mark.parametrize(
    ("option", "most"),
    [
        ("--max-pixels", build_mar.MOST_PIXELS),
        ("--response-timeout", build_mar.MOST_SECONDS),
        ("--startup-timeout", build_mar.MOST_SECONDS),
        ("--batch-size", build_mar.MOST_BATCH),
        ("--batch-delay", build_mar.MOST_DELAY_MS),
        ("--workers", build_mar.MOST_WORKERS),
    ],
)
def test_numbers_have_an_upper_bound(
    option: str, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    build_mar.parse_arguments([option, str(most)])
    for value in (str(most + 1), "0", "-1", "1.5", "9" * 5000, "many"):
        with pytest.raises(SystemExit) as end:
            build_mar.parse_arguments([option, value])
        assert end.value.code == 2
        assert f"is not a whole number from 1 to {most}" in capsys.readouterr().err


def test_options_of_int8_are_not_ignored_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--max-deviation", "0"], ["--calibration", "x"], ["--overflow-fix"]):
        with pytest.raises(SystemExit):
            build_mar.parse_arguments(options)
        assert f"{options[0]} is for --precision int8" in capsys.readouterr().err
