"""The archive on every node: unpacked once on each, in Ray's own temporary folder."""

import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from clip_deepfake.archive_files import file_digest
from clip_deepfake.errors import LoadError

from deepfake_tools.files import locked

CHUNK_BYTES = 64 << 20
"""Of the archive in one object: so large a piece is in a node's memory at a time."""


@dataclass(frozen=True)
class ArchiveCopy:
    """An archive that other machines are to have.

    Attributes:
        path: Where this machine has it.
        sha256: Of the file.
        pieces: Its content in Ray's object store; none where every node is this machine.
    """

    path: str
    sha256: str
    pieces: Sequence[Any] = ()

    @classmethod
    def of(cls, path: Path, sha256: str, *, travels: bool) -> "ArchiveCopy":
        """Puts an archive where every node finds it.

        Args:
            path: Of the file.
            sha256: Of its content.
            travels: Whether there are other machines.
        """
        pieces = [ray.put(piece) for piece in _pieces(path)] if travels else []
        return cls(str(path.resolve()), sha256, pieces)

    def unpacked(self) -> Path:
        """Returns the folder of the unpacked archive on this node; the first who asks unpacks.

        Raises:
            LoadError: What is here is not the archive.
            OSError: It cannot be written.
        """
        home = Path(ray.get_runtime_context().get_temp_dir(), "clip_deepfake")
        home.mkdir(parents=True, exist_ok=True)
        folder = home / self.sha256
        with (home / f"{self.sha256}.lock").open("w") as lock, locked(lock):
            if not folder.is_dir():
                partial = home / f"{self.sha256}.{os.getpid()}.partial"
                try:
                    self._unpack(partial)
                    partial.rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
        return folder

    def _unpack(self, folder: Path) -> None:
        folder.mkdir()
        local, received = Path(self.path), folder / "received.mar"
        if not (local.is_file() and file_digest(local) == self.sha256):
            if not self.pieces:
                raise LoadError(f"{self.path} is not the archive any more that the run began with")
            with received.open("wb") as file:
                for piece in self.pieces:
                    file.write(ray.get(piece))
            if file_digest(received) != self.sha256:
                raise LoadError("the archive was damaged on its way here")
            local = received
        with zipfile.ZipFile(local) as archive:
            archive.extractall(folder)
        received.unlink(missing_ok=True)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
