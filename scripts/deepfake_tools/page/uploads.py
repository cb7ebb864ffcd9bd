"""What people upload: bounded, each person's in a folder of their own, deleted when they leave."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake_tools.files import read_regular

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MIB = 1 << 20
MOST_FILES = 16
"""Asked about at a time; folders are the client's."""

LARGEST_FILE = 256 * MIB
LARGEST_UPLOAD = 512 * MIB
LARGEST_DESK = 4096 * MIB
"""Of all people together."""

IDLE_SECONDS = 3600.0
"""After which files go whose owner's browser has never said goodbye."""

GRACE_SECONDS = 20.0
"""Gradio names an upload by its content, so that the same file of two people is one as it arrives:
it stays for as long as another may still need to take it."""

UPLOAD = "/gradio_api/upload"
CLOSED = ("/file=", "/file/", "/proxy=", "/gradio_api/file", "/gradio_api/proxy=")
"""Gradio's ways to files and to other machines, which this page has no use for."""


class UploadError(Exception):
    """These files are not taken; the message says what to change."""


class Desk:
    """Everybody's files, in one temporary folder; entering it makes that, leaving removes it.

    Attributes:
        incoming: Where uploads arrive, before they are their owner's.
    """

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="deepfake-page-"))
        self.incoming = self._root / "incoming"
        self.incoming.mkdir()
        self._folders: dict[str, Path] = {}
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def take(self, owner: str, uploaded: Sequence[str]) -> list[Path]:
        """Gives what was uploaded to its owner alone, in the place of what was there.

        Args:
            owner: Whose it is.
            uploaded: Files below `incoming`.

        Raises:
            UploadError: They are too many, no uploads, or not there any more.
        """
        for path in map(Path, uploaded):
            self._require_arrived(path)
        if len(uploaded) > MOST_FILES:
            self._forget(uploaded)
            raise UploadError(
                f"{len(uploaded)} files are too many for the page, which takes {MOST_FILES} at a "
                "time: ask about a folder with scripts/client.py --image FOLDER"
            )
        folder = self._new_folder(owner)
        taken = []
        for number, path in enumerate(map(Path, uploaded)):
            target = folder / str(number) / path.name
            target.parent.mkdir()
            try:
                target.hardlink_to(path)
            except OSError as error:
                raise UploadError(f"{path.name} did not arrive whole: upload it again") from error
            taken.append(target)
        self._forget(uploaded)
        return taken

    def copy(self, owner: str, file: Path) -> list[Path]:
        """Puts a copy of a file of the project's there, in the place of what was there."""
        target = self._new_folder(owner) / "0" / file.name
        target.parent.mkdir()
        target.write_bytes(read_regular(file))
        return [target]

    def clear(self, owner: str) -> None:
        """Deletes what belongs to somebody."""
        with self._lock:
            folder = self._folders.pop(owner, None)
            self._used.pop(owner, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be uploaded."""
        used = 0
        # Files go while this looks: `os.walk` passes over folders that are not there any more.
        for folder, _, names in os.walk(self._root):
            for name in names:
                with suppress(FileNotFoundError):
                    used += Path(folder, name).stat().st_size
        return used + size <= LARGEST_DESK

    def _new_folder(self, owner: str) -> Path:
        now = time.monotonic()
        idle = [one for one, used in self._used.copy().items() if now - used > IDLE_SECONDS]
        for one in (owner, *idle):
            self.clear(one)
        folder = Path(tempfile.mkdtemp(dir=self._root))
        with self._lock:
            self._folders[owner], self._used[owner] = folder, now
        return folder

    def _require_arrived(self, path: Path) -> None:
        """Refuses what is no upload, whatever Gradio's own checks have let through.

        Raises:
            UploadError: It lies elsewhere.
        """
        if not path.resolve().is_relative_to(self.incoming.resolve()):
            raise UploadError(f"{path.name} is no file that was uploaded here: upload it")

    def _forget(self, uploaded: Sequence[str]) -> None:
        """Removes what has arrived, when nobody else can be about to take it."""
        timer = threading.Timer(GRACE_SECONDS, self._remove, [list(map(Path, uploaded))])
        timer.daemon = True
        timer.start()

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            # Somebody else may have uploaded the same file meanwhile; it goes in its own time.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= GRACE_SECONDS:
                    path.unlink()
                    shutil.rmtree(path.parent, ignore_errors=True)


class Gate:
    """Stands before Gradio: bounds uploads, and closes its ways to files and other machines.

    Args:
        app: What is behind.
        desk: Where uploads go.
    """

    def __init__(self, app: "ASGIApp", desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers a request, or hands it on."""
        status = self._refusal(scope) if scope["type"] == "http" else None
        if status is None:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _refusal(self, scope: "Scope") -> int | None:
        path = str(scope["path"])
        if path.startswith(CLOSED):
            return 404
        if path.rstrip("/") != UPLOAD or scope["method"] != "POST":
            return None
        size = _length(dict(scope["headers"]))
        if size is None:
            return 411
        if size > LARGEST_UPLOAD:
            return 413
        return None if self._desk.has_room(size) else 507


def _length(headers: Mapping[bytes, bytes]) -> int | None:
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < 16 else None
