import re
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_deepfake import memory
from clip_deepfake.memory import release_pages
from clip_deepfake.tensors import load_arrays
from safetensors.numpy import save_file

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
