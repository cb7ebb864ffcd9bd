import importlib
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from deepfake_tools.memory import is_out_of_memory, memory_limit


def failure_of(allocate) -> BaseException:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    return caught.value


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(1 << 55), lambda: np.empty(1 << 55), lambda: bytes(1 << 55)]
)
def test_what_libraries_raise_for_want_of_memory_is_known(allocate):
    assert is_out_of_memory(failure_of(allocate))


def test_other_failures_are_not_taken_for_it():
    assert not is_out_of_memory(failure_of(lambda: torch.ones(2) @ torch.ones(3)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_memory_limit_ends_with_its_block() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), memory_limit(64 << 20):
        bytearray(1 << 30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(128 << 20)) == 128 << 20


@pytest.mark.parametrize(
    ("command", "step", "words"),
    [
        ("train", "train.train", ["--data", "."]),
        ("build_mar", "deepfake_tools.packaging.builder.build", ["--model", "a/b"]),
    ],
)
def test_a_command_without_enough_memory_says_so_in_one_line(
    command: str,
    step: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    module = importlib.import_module(command)
    monkeypatch.chdir(tmp_path)
    for allocate, is_known in ((lambda *_, **__: torch.empty(1 << 55), True), (fail, False)):
        monkeypatch.setattr(step, allocate)
        if is_known:
            assert module.main(words) == 1
            assert capsys.readouterr().err.startswith(f"{command}.py: the memory was not enough")
        else:
            with pytest.raises(RuntimeError, match="a defect"):
                module.main(words)


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("a defect")
