import os
import platform
from pathlib import Path

import pytest
from clip_deepfake import cores
from clip_deepfake.cores import available_cores, has_int8_dot_product, share_of_cores


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
