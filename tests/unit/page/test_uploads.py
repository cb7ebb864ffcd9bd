"""Uploads: bounded, apart from one another, gone in the end."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepfake_tools.page import uploads
from deepfake_tools.page.uploads import LARGEST_UPLOAD, MOST_FILES, Desk, Gate, UploadError

from tests.waiting import wait_until


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(uploads, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    with Desk() as one:
        yield one
    assert list(tmp_path.iterdir()) == []


def arrive(desk: Desk, name: str, content: bytes = b"image") -> str:
    """As Gradio puts it there: in a folder named by the content."""
    path = desk.incoming / content.hex() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return str(path)


def files(desk: Desk) -> list[str]:
    return sorted(name for _, _, names in os.walk(desk.incoming.parent) for name in names)


def test_what_arrived_is_its_owners_alone(desk: Desk):
    arrived = arrive(desk, "a.jpg")
    (taken,) = desk.take("ann", [arrived])
    assert (taken.name, taken.read_bytes()) == ("a.jpg", b"image")
    wait_until(lambda: not list(desk.incoming.iterdir()))
    assert taken.read_bytes() == b"image"
    assert not taken.is_relative_to(desk.incoming)


def test_files_of_one_name_keep_apart(desk: Desk):
    taken = desk.take("ann", [arrive(desk, "a.jpg", b"1"), arrive(desk, "a.jpg", b"2")])
    assert [path.read_bytes() for path in taken] == [b"1", b"2"]


def test_the_same_file_of_two_people_who_upload_it_at_once_is_two(desk: Desk):
    arrived = arrive(desk, "a.jpg")
    (hers,) = desk.take("ann", [arrived])
    (his,) = desk.take("bob", [arrived])
    desk.clear("ann")
    assert not hers.exists()
    assert his.read_bytes() == b"image"


def test_new_files_take_the_place_of_the_old(desk: Desk):
    desk.take("ann", [arrive(desk, "a.jpg")])
    desk.take("ann", [arrive(desk, "b.jpg")])
    wait_until(lambda: files(desk) == ["b.jpg"])


def test_an_example_is_a_copy(desk: Desk, tmp_path: Path):
    original = desk.incoming / "original.jpg"
    original.write_bytes(b"example")
    (copied,) = desk.copy("ann", original)
    desk.clear("ann")
    assert not copied.exists()
    assert original.exists()


def test_too_many_files_are_none(desk: Desk):
    arrived = [arrive(desk, f"{n}.jpg", bytes([n])) for n in range(MOST_FILES + 1)]
    with pytest.raises(UploadError, match=f"{MOST_FILES + 1} files.*client.py"):
        desk.take("ann", arrived)
    wait_until(lambda: files(desk) == [])


def test_what_lies_elsewhere_is_no_upload(desk: Desk, tmp_path_factory: pytest.TempPathFactory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    secret.write_bytes(b"mine")
    link = desk.incoming / "link.png"
    link.symlink_to(secret)
    for path in (secret, link):
        with pytest.raises(UploadError, match="no file that was uploaded here"):
            desk.take("ann", [str(path)])
    assert secret.read_bytes() == b"mine"


def test_a_file_that_is_gone_is_to_be_uploaded_again(desk: Desk):
    arrived = arrive(desk, "a.jpg")
    desk.take("ann", [arrived])
    wait_until(lambda: not Path(arrived).exists())
    with pytest.raises(UploadError, match=r"a\.jpg.*again"):
        desk.take("bob", [arrived])


def test_who_never_said_goodbye_is_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    desk.take("ann", [arrive(desk, "a.jpg")])
    monkeypatch.setattr(uploads, "IDLE_SECONDS", -1.0)
    desk.take("bob", [arrive(desk, "b.jpg")])
    wait_until(lambda: files(desk) == ["b.jpg"])


def status_of(desk: Desk, path: str, method: str = "GET", length: str | None = None) -> int:
    """What is answered; 200 where the request came through."""

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    said: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    headers = [] if length is None else [(b"content-length", length.encode())]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(Gate(behind, desk)(scope, None, send))  # type: ignore[arg-type]
    (status,) = said
    return status


UPLOAD = "/gradio_api/upload"


@pytest.mark.parametrize(
    ("path", "method", "length", "status"),
    [
        ("/", "GET", None, 200),
        ("/gradio_api/queue/join", "POST", "99", 200),
        (UPLOAD, "POST", str(LARGEST_UPLOAD), 200),
        (UPLOAD, "POST", str(LARGEST_UPLOAD + 1), 413),
        (f"{UPLOAD}/", "POST", str(LARGEST_UPLOAD + 1), 413),
        (UPLOAD, "POST", None, 411),
        (UPLOAD, "POST", "-1", 411),
        (UPLOAD, "POST", "1" * 5000, 411),
        ("/gradio_api/file=/etc/passwd", "GET", None, 404),
        ("/gradio_api/file=http://192.0.2.7/", "GET", None, 404),
        ("/file=/etc/passwd", "GET", None, 404),
        ("/gradio_api/proxy=http://192.0.2.7/", "GET", None, 404),
    ],
)
def test_what_passes_the_gate(path: str, method: str, length: str | None, status: int, desk: Desk):
    assert status_of(desk, path, method, length) == status


def test_a_full_desk_takes_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(uploads, "LARGEST_DESK", 10)
    desk.take("ann", [arrive(desk, "a.jpg", b"12345678")])
    wait_until(lambda: not list(desk.incoming.iterdir()))
    assert status_of(desk, UPLOAD, "POST", "2") == 200
    assert status_of(desk, UPLOAD, "POST", "3") == 507
