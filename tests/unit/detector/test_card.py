import json
from pathlib import Path

import pytest
from clip_deepfake.card import Card, parse_card, read_card
from clip_deepfake.errors import LoadError


def test_a_card_survives_its_file(small_card: Card, tmp_path: Path) -> None:
    (tmp_path / "detector.json").write_bytes(small_card.to_json())
    assert read_card(tmp_path) == small_card


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["schema"], 2, "schema"),
        (["encoder", "image_size"], -1, "image_size"),
        (["encoder", "features"], {"gut": 3}, "features"),
        (["head", "outputs"], 0, "outputs"),
        (["head", "fake_indices"], [2], "fake_indices"),
        (["head", "fake_indices"], [0, 1], "fake_indices"),
        (["head", "fake_indices"], [], "fake_indices"),
        (["head", "threshold"], 1.5, "threshold"),
        (["files", "encoder.safetensors"], "abc", "files"),
        (["preprocessing", "steps"], [{"step": "eval"}], "steps"),
        (["surplus"], 1, "surplus"),
        (["precision"], "bfloat16", "bfloat16 and deviation do not go together"),
        (["precision"], "int8", "int8 and quantization do not go together"),
    ],
)
def test_the_field_that_is_off_is_named(
    small_card: Card, path: list[str], value: object, named: str
) -> None:
    content = json.loads(small_card.to_json())
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(LoadError, match=named):
        parse_card(json.dumps(content).encode())


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1, 2", b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(LoadError, match=r"detector\.json"):
        parse_card(data)


def test_a_missing_card_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"detector\.json cannot be read"):
        read_card(tmp_path)
