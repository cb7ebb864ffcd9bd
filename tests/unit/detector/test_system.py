"""What of this machine a process may use, and memory that goes back to it."""

import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_deepfake import system as cores
from clip_deepfake import system as memory
from clip_deepfake.archive_files import load_arrays
from clip_deepfake.system import (
    available_cores,
    has_int8_dot_product,
    release_pages,
    share_of_cores,
)
from safetensors.numpy import save_file


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /sys and /proc, empty at first; eight cores of sixteen are ours."""
    monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "CPU_FLAGS", tmp_path / "cpuinfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("10000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("50000 25000\n", 2),
        ("0 100000\n", 1),
        ("", 8),
        ("many 100000\n", 8),
    ],
)
def test_a_process_has_no_more_than_its_containers_share(
    machine: Path, quota: str | None, expected: int
) -> None:
    if quota is not None:
        (machine / "cpu.max").write_text(quota)
    assert available_cores() == expected


@pytest.mark.parametrize(
    ("workers", "expected"), [(0, None), (1, None), (2, 4), (3, 2), (8, 1), (99, 1)]
)
def test_workers_share_the_cores_evenly(machine: Path, workers: int, expected: int | None) -> None:
    assert share_of_cores(workers) == expected


def test_without_an_affinity_all_cores_count(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx2 avx512f avx512_vnni\n", True),
        ("processor\t: 0\nflags\t\t: fpu sse avx2 avx_vnni\n", True),
        ("processor\t: 0\nflags\t\t: fpu sse avx2 avx512f\nbugs\t\t: avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp sve\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", False),
    ],
)
def test_the_processors_own_words_on_int8(machine: Path, text: str, expected: bool) -> None:
    (machine / "cpuinfo").write_text(text)
    assert has_int8_dot_product() == expected


@pytest.mark.parametrize(("kind", "expected"), [("x86_64", False), ("arm64", True)])
def test_where_the_processor_says_nothing_its_kind_decides(
    machine: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: kind)
    assert has_int8_dot_product() == expected


MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is released")


def of_files() -> int:
    """Bytes of mapped files that are in this process's memory."""
    (kib,) = re.findall(r"^RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(kib) << 10


@pytest.mark.parametrize("name", ["weights.safetensors", "a name with spaces.safetensors"])
def test_released_pages_are_gone_and_come_back(tmp_path: Path, name: str) -> None:
    numbers = np.arange(16 * MIB, dtype=np.float32)
    save_file({"numbers": numbers}, tmp_path / name)
    found = load_arrays(tmp_path / name)["numbers"]
    assert np.array_equal(found, numbers)
    before = of_files()
    release_pages(tmp_path / name)
    assert before - of_files() > 60 * MIB
    assert np.array_equal(found, numbers)


def test_a_link_to_the_file_will_do(tmp_path: Path) -> None:
    save_file({"numbers": np.ones(16 * MIB, np.float32)}, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    found = load_arrays(tmp_path / "link")["numbers"]
    assert found.sum(dtype=np.float64) == 16 * MIB
    before = of_files()
    release_pages(tmp_path / "link")
    assert before - of_files() > 60 * MIB


def test_other_files_keep_theirs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"numbers": np.ones(16 * MIB, np.float32)}, tmp_path / name)
    kept, released = (load_arrays(tmp_path / name)["numbers"] for name in ("one", "two"))
    assert kept.all()
    assert released.all()
    before = of_files()
    release_pages(tmp_path / "two")
    assert 60 * MIB < before - of_files() < 100 * MIB


def test_what_is_not_mapped_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "read").write_bytes(b"0123")
    release_pages(tmp_path / "read")
    release_pages(tmp_path / "missing")
    assert not caplog.records


def test_a_refusal_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    maps = tmp_path / "maps"
    # Not at a page's beginning: the kernel refuses.
    maps.write_text(f"00001001-00002001 r--p 00000000 08:01 17      {tmp_path / 'file'}\n")
    monkeypatch.setattr(memory, "MAPS", maps)
    release_pages(tmp_path / "file")
    assert "the pages of" in caplog.text
