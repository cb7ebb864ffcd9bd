import os
import socket
import tempfile
from pathlib import Path

import pytest
from deepfake_tools.files import read_regular


def test_a_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0content")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(str(tmp_path / "link")) == b"\0content"


def test_what_is_no_regular_file_is_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, words in (("fifo", "a FIFO"), (".", "a directory")):
        with pytest.raises(OSError, match=f"it is {words} and no regular file"):
            read_regular(tmp_path / name)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        with pytest.raises(OSError, match="it is a socket"):
            read_regular(f"{folder}/s")


def test_a_fifo_that_takes_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / "fifo")
    before = (tmp_path / "a").stat()
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path: before)
        with pytest.raises(OSError, match="it is a FIFO"):
            read_regular(tmp_path / "fifo")
