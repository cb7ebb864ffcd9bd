"""An archive shows every reader the same content, or is refused before a server sees it.

TorchServe unpacks with Java's ZipInputStream, front to back by the local headers; most other
readers go by the directory at the end. `unpacked_by_torchserve` is the former, written from the
format's description.
"""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from deepfake_tools import zip_form
from deepfake_tools.inspection import ArchiveError, ArchiveName, inspect_archive

from tests.archives import END, hide, write_archive


def unpacked_by_torchserve(data: bytes) -> dict[str, bytes]:
    """What lies in the folder afterwards: of two entries with one name, the last."""
    found: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == b"PK\x03\x04":
        size, _, name, extra = struct.unpack_from("<LLHH", data, at + 18)
        start = at + 30 + name + extra
        found[data[at + 30 : at + 30 + name].decode()] = data[start : start + size]
        at = start + size
    return found


def patch(offset: int, content: bytes) -> Callable[[bytes], bytes]:
    """Replaces bytes of the first local header."""
    return lambda data: data[:offset] + content + data[offset + len(content) :]


def in_directory(offset: int, content: bytes) -> Callable[[bytes], bytes]:
    """Replaces bytes of the first header in the directory."""

    def spoil(data: bytes) -> bytes:
        at = data.index(b"PK\x01\x02") + offset
        return data[:at] + content + data[at + len(content) :]

    return spoil


def test_a_second_handler_that_only_torchserve_sees_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    path.write_bytes(hide(path.read_bytes(), "deepfake_handler.py", b"evil"))
    assert unpacked_by_torchserve(path.read_bytes())["deepfake_handler.py"] == b"evil"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("deepfake_handler.py") != b"evil"
    with pytest.raises(ArchiveError, match=r"'deepfake_handler.py' twice"):
        inspect_archive(path)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: hide(data, "extra.py", b"import os"), id="not in the directory"),
        pytest.param(lambda data: b"#!/bin/sh\n" + data, id="bytes before"),
        pytest.param(lambda data: data + b"behind", id="bytes behind"),
        pytest.param(lambda data: data[:-2] + b"\x04\x00note", id="a comment"),
        pytest.param(lambda data: data[: -END.size], id="no end"),
        pytest.param(lambda data: data[:10], id="ten bytes"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data + data, id="two in one"),
        pytest.param(patch(6, b"\x08\x00"), id="sizes behind the content"),
        pytest.param(patch(6, b"\x01\x00"), id="encrypted"),
        pytest.param(patch(8, b"\x08\x00"), id="deflated"),
        pytest.param(patch(10, b"\x01\x00"), id="a time"),
        pytest.param(patch(14, b"\x00\x00\x00\x00"), id="another checksum"),
        pytest.param(patch(18, b"\x00\x00\x00\x00"), id="no size"),
        pytest.param(patch(22, b"\xff\xff\xff\xff"), id="a size elsewhere"),
        pytest.param(patch(18, b"\xf0\xff\xff\x7f" * 2), id="a size beyond the end"),
        pytest.param(patch(28, b"\x04\x00"), id="an extra field"),
        pytest.param(in_directory(24, b"\x01\x00\x00\x00"), id="two sizes"),
        pytest.param(in_directory(46, b"X"), id="two names"),
        pytest.param(in_directory(42, b"\x01\x00\x00\x00"), id="two places"),
        pytest.param(in_directory(38, b"\x00\x00\xff\xa1"), id="a link"),
    ],
)
def test_whatever_differs_from_what_the_builder_writes_is_refused(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = write_archive(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ArchiveError):
        inspect_archive(path)


@pytest.mark.parametrize(
    "names",
    [
        *(["./a.py"], ["a/./b.py"], ["a//b.py"], ["../a.py"], ["a/../b.py"], ["/a.py"], ["a/"]),
        *(["a\\b.py"], ["C:a.py"], [".hidden"], ["a/.b"], ["a\n.py"], ["ä.py"], ["a b.py"]),
        *(["a.py", "A.py"], ["clip/a.py", "CLIP/a.py"], ["a", "a/b.py"], ["A/b.py", "a"]),
        ["DETECTOR.json"],
    ],
    ids=repr,
)
def test_a_name_that_may_land_on_another_file_or_elsewhere_is_refused(
    tmp_path: Path, names: list[str]
) -> None:
    path = write_archive(tmp_path, replace=dict.fromkeys(names, b""))
    with pytest.raises(ArchiveError):
        inspect_archive(path)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(zip_form.MAX_ENTRIES)]
    with pytest.raises(ArchiveError, match="more than 1000 entries"):
        inspect_archive(write_archive(tmp_path, replace=dict.fromkeys(names, b"")))


def test_sizes_beyond_two_gigabytes_are_written_and_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of 300 bytes stands for zipfile's of 2 GiB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 300)
    monkeypatch.setattr(zip_form, "LIMIT64", 300)
    sizes = {"a": 0, "b": 280, "c": 290, "d": 300, "e": 301, "f": 1000}
    path = write_archive(tmp_path, replace={name: bytes(size) for name, size in sizes.items()})
    assert b"PK\x06\x06" in path.read_bytes()
    found = zip_form.read_form(path, contents=True)
    assert {name: found[name].size for name in sizes} == sizes
    assert inspect_archive(path) == ArchiveName("acme--stub", "1")


@pytest.mark.parametrize(
    "manifest",
    [{"requirementsFile": "model-config.yaml"}, {"serializedFile": "x.pt"}, {"envelope": "json"}],
)
def test_a_manifest_that_asks_for_more_than_a_handler_is_refused(
    tmp_path: Path, manifest: dict[str, str]
) -> None:
    with pytest.raises(ArchiveError, match=next(iter(manifest))):
        inspect_archive(write_archive(tmp_path, manifest=manifest))


def test_json_that_says_two_things_is_refused(tmp_path: Path) -> None:
    content = b'{"model": {}, "model": {}}'
    with pytest.raises(ArchiveError, match="twice"):
        inspect_archive(write_archive(tmp_path, replace={"MAR-INF/MANIFEST.json": content}))
