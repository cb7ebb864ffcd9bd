"""What an output may be: a new file, an old one, a link, several names of one file, a FIFO."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from deepfake_tools.errors import OutputError
from deepfake_tools.files import (
    SameFileError,
    check_outputs,
    is_kept,
    read_regular,
    replacing,
    replacing_bytes,
)

from tests import ROOT

SCRIPTS = ROOT / "scripts"


def write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def read_fifo(path: Path, write_it: Callable[[], None]) -> bytes:
    """Reads what is written into a FIFO meanwhile."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    write_it()
    reader.join(10)
    return found[0]


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o640


@pytest.mark.parametrize("kept", [0o600, 0o644, 0o664, 0o640])
def test_a_file_keeps_its_mode(tmp_path: Path, kept: int):
    path = tmp_path / "old"
    path.write_text("old")
    path.chmod(kept)
    write(path, "new")
    assert (path.read_text(), mode(path)) == ("new", kept)
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_never_readable_by_more_than_the_file_was(tmp_path: Path):
    path = tmp_path / "old"
    path.touch(0o600)
    with replacing(path):
        (partial,) = set(tmp_path.iterdir()) - {path}
        assert mode(partial) == 0o600


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, there: bool):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    if there:
        target.write_text("old")
        target.chmod(0o600)
    (tmp_path / "middle").symlink_to("far/target")
    link.symlink_to("middle")
    write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert mode(target) == (0o600 if there else 0o666 & ~_umask())
    assert list((tmp_path / "far").iterdir()) == [target]


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_file_with_two_names_keeps_both(tmp_path: Path):
    (tmp_path / "a").write_text("a longer old text")
    os.link(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "a", "new")
    assert (tmp_path / "b").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_fifo_is_written_into_and_stays_one(tmp_path: Path):
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    assert read_fifo(path, lambda: write(path, "text")) == b"text"
    (tmp_path / "link").symlink_to(path)
    assert read_fifo(path, lambda: write(tmp_path / "link", "again")) == b"again"
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "link"]
    assert not is_kept(path)
    assert not is_kept(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")
def test_a_device_is_written_into_and_stays_one(tmp_path: Path):
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"")
    except OSError:
        pytest.skip("devices cannot be used here")
    write(path, "text")
    assert stat.S_ISCHR(path.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1"])
def test_its_own_output_is_a_stream_even_where_it_is_a_file(tmp_path: Path, name: str):
    code = (
        "from pathlib import Path\n"
        "from deepfake_tools.files import replacing\n"
        "print('before')\n"
        f"with replacing(Path({name!r})) as file: file.write('text\\n')\n"
        "print('after')\n"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\ntext\nafter\n"


def test_a_failed_write_leaves_the_older_file(tmp_path: Path):
    path = tmp_path / "old"
    path.write_text("old")

    def stop_half_way() -> None:
        with replacing_bytes(path) as file:
            file.write(b"new" * 100_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_that_there_can_be_is_written(tmp_path: Path):
    path = tmp_path / ("\u00e9" * 127)
    write(path, "text")
    assert path.read_text() == "text"


@pytest.mark.parametrize("second", ["a", "sub/../a", "link", "hard", "sub/up/a"])
def test_one_file_by_two_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("sub/up").symlink_to(tmp_path)
    Path("link").symlink_to("a")
    if second == "hard":
        Path("a").touch()
        os.link("a", "hard")
    both = [("--output", Path("a")), ("--json", Path(second))]
    with pytest.raises(SameFileError, match="--output and --json are one file"):
        check_outputs(both)
    with pytest.raises(SameFileError, match="--output and --json are one file"):
        check_outputs(both[1:], inputs=both[:1])


def test_a_node_that_is_named_twice_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    with pytest.raises(SameFileError):
        check_outputs([("--csv", tmp_path / "fifo"), ("--json", tmp_path / "link")])


def test_other_files_of_one_folder_pass(tmp_path: Path):
    (tmp_path / "old").touch()
    check_outputs(
        [("--output", tmp_path / "old"), ("--json", tmp_path / "new")],
        [("--labels", tmp_path / "l.csv"), ("--image", tmp_path), ("--image", tmp_path)],
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/file", "there is no folder .*missing; see --output"),
        ("file/file", "there is no folder .*file; see --output"),
        ("folder", "it is a folder; see --output"),
        ("dangling", "there is no folder .*nowhere; see --output"),
        ("circle", "Too many levels of symbolic links; see --output"),
    ],
)
def test_what_cannot_be_written_is_named_beforehand(tmp_path: Path, name: str, words: str):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere/file")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputError, match=words):
        check_outputs([("--output", tmp_path / name)])


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
