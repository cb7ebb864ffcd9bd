"""Folders -> a local HTTP server that answers downloads as the Hugging Face Hub does."""

import hashlib
import json
import re
import shutil
import threading
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

LARGE = 10_000_000  # bytes; from here the Hub keeps a file in LFS, and its ETag is a SHA-256


@dataclass(frozen=True)
class HubFile:
    """One file of a snapshot."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def is_large(self) -> bool:
        return self.size >= LARGE

    @cached_property
    def oid(self) -> str:
        """SHA-256 for a large file; else the git blob id, like the Hub's."""
        with self.path.open("rb") as file:
            if self.is_large:
                return hashlib.file_digest(file, "sha256").hexdigest()
            return hashlib.sha1(b"blob %d\0" % self.size + file.read()).hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """A folder as one commit of a repository."""

    files: dict[str, HubFile]

    @cached_property
    def commit(self) -> str:
        """40 hex digits that follow from the files' names and content."""
        listing = "".join(f"{name} {file.oid}\n" for name, file in self.files.items())
        return hashlib.sha1(listing.encode()).hexdigest()

    def tree(self) -> list[dict[str, object]]:
        """The answer of the Hub's tree endpoint."""
        return [self._entry(name, file) for name, file in self.files.items()]

    @staticmethod
    def _entry(name: str, file: HubFile) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": file.size}
        if file.is_large:
            lfs = {"oid": file.oid, "size": file.size, "pointerSize": 134}
            return {**entry, "oid": hashlib.sha1(file.oid.encode()).hexdigest(), "lfs": lfs}
        return {**entry, "oid": file.oid}


class Repository:
    """What the Hub knows about one name: its revisions, and who may read it."""

    def __init__(self) -> None:
        self.revisions: dict[str, Snapshot] = {}
        self.history: list[Snapshot] = []
        self.readers: frozenset[str] | None = None

    def snapshot(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a branch, a tag or a full commit id."""
        by_commit = (snapshot for snapshot in self.history if snapshot.commit == revision)
        return self.revisions.get(revision) or next(by_commit, None)

    def publish(self, revision: str, snapshot: Snapshot) -> None:
        """Let a branch or tag point to a snapshot; older ones stay under their commits."""
        self.revisions[revision] = snapshot
        self.history.append(snapshot)


class HubServer:
    """A Hub on a free port of 127.0.0.1, serving what was added; a context manager.

    Attributes:
        url: What HF_ENDPOINT has to be.
        requests: Each request so far as (method, path), in order of arrival.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.repositories: dict[str, Repository] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Answer,), {"hub": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add(
        self,
        name: str,
        folder: Path,
        revision: str = "main",
        *,
        readers: frozenset[str] | None = None,
    ) -> str:
        """Publish a folder's files as a revision of a repository.

        Args:
            name: As in `openai/clip-vit-base-patch32`.
            folder: Read when asked for; must not change while it is published.
            revision: Branch or tag. One that exists moves to the new files; the old ones stay
                under their commit.
            readers: The tokens that may download; the repository is then gated. None: everybody.

        Returns:
            The commit.
        """
        repository = self.repositories.setdefault(name, Repository())
        repository.readers = readers
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): HubFile(path) for path in paths}
        snapshot = Snapshot(files)
        repository.publish(revision, snapshot)
        return snapshot.commit

    def downloads(self, name: str) -> Counter[str]:
        """Return how often each file of a repository was sent."""
        sent = re.compile(rf"/{re.escape(name)}/resolve/[^/]+/(.+)")
        found = (sent.fullmatch(path) for method, path in self.requests if method == "GET")
        return Counter(unquote(match[1]) for match in found if match)


class _RefusalError(Exception):
    """An HTTP error as the Hub sends it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Answer(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
    FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        try:
            if match := self.API.fullmatch(path):
                self._describe(match[1], match[2], unquote(match[3] or "main"))
            elif match := self.FILE.fullmatch(path):
                self._send_file(match[1], unquote(match[2]), unquote(match[3]))
            else:
                raise _RefusalError(404, "NotFound", f"No such page: {path}")
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._send_json({"error": str(refusal)}, refusal.status, headers)

    def _describe(self, name: str, what: str | None, revision: str) -> None:
        repository, snapshot = self._find(name, revision)
        if what == "tree":
            self._send_json(snapshot.tree())
            return
        siblings = [{"rfilename": file} for file in snapshot.files]
        gated = "manual" if repository.readers is not None else False
        self._send_json({"id": name, "sha": snapshot.commit, "gated": gated, "siblings": siblings})

    def _send_file(self, name: str, revision: str, filename: str) -> None:
        repository, snapshot = self._find(name, revision)
        if repository.readers is not None and self._token() not in repository.readers:
            status = 403 if self._token() else 401
            raise _RefusalError(status, "GatedRepo", f"Access to model {name} is restricted.")
        file = snapshot.files.get(filename)
        if file is None:
            raise _RefusalError(404, "EntryNotFound", "Entry not found")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1, file.size) if asked and asked[2] else file.size
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{file.size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{file.oid}"')
        self.send_header("X-Repo-Commit", snapshot.commit)
        self.end_headers()
        if self.command == "GET":
            self._copy(file.path, start, stop)

    def _copy(self, path: Path, start: int, stop: int) -> None:
        with path.open("rb") as file:
            file.seek(start)
            if stop == path.stat().st_size:
                shutil.copyfileobj(file, self.wfile, 1 << 20)
            else:
                self.wfile.write(file.read(stop - start))

    def _find(self, name: str, revision: str) -> tuple[Repository, Snapshot]:
        repository = self.hub.repositories.get(name)
        if repository is None:
            # The Hub does not tell strangers whether a name is private or free.
            raise _RefusalError(
                404 if self._token() else 401, "RepoNotFound", "Repository not found"
            )
        snapshot = repository.snapshot(revision)
        if snapshot is None:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, snapshot

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _send_json(
        self, content: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: `HubServer.requests` is the log."""
