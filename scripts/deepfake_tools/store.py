"""The store: a folder of archives, by name and version, changed by one command at a time."""

import filecmp
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from deepfake_tools.errors import ServiceError
from deepfake_tools.files import partial_file, try_lock
from deepfake_tools.inspection import ArchiveError, ArchiveName, inspect_archive, version_order

LOCK_FILE = ".manage.lock"
POLL_S = 0.05


class StoreError(ServiceError):
    """The store cannot be used, or not now."""

    exit_code: ClassVar[int] = 16
    meaning: ClassVar[str] = "the store cannot be used, or another command is at work in it"
    kind = "store"


def next_version(folder: Path, name: str) -> str:
    """Returns the first whole number above what a store, which may not exist yet, holds."""
    return str(int(Store(folder).newest().get(name, "0").partition(".")[0]) + 1)


class Store:
    """A folder with files named NAME@VERSION.mar; other files in it are left alone.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def archives(self) -> list[ArchiveName]:
        """Returns what the store holds, by name, and by version from the oldest."""
        found = []
        for path in self.folder.glob("*.mar"):
            if not path.is_file():
                continue
            try:
                found.append(ArchiveName.parse(path.name))
            except ArchiveError:
                continue
        return sorted(found, key=lambda archive: (archive.name, version_order(archive.version)))

    def newest(self) -> dict[str, str]:
        """Returns the highest version of each model, by name."""
        return {archive.name: archive.version for archive in self.archives()}

    def path(self, archive: ArchiveName) -> Path:
        """Returns where an archive lies, or would lie."""
        return self.folder / archive.file_name

    def find(self, archive: Path) -> Path:
        """Returns the file that a user means: a path, or the name of a file in the store."""
        in_store = self.folder / archive.name
        return in_store if not archive.exists() and archive.name == str(archive) else archive

    @contextmanager
    def adding(self, source: Path) -> Iterator[ArchiveName]:
        """Inspects an archive and copies it here, unless it is here already.

        A copy is removed again when the block fails: what did not start must not be served later.

        Args:
            source: A file here or anywhere else.

        Yields:
            What it is.

        Raises:
            ArchiveError: It is damaged, or not what its name says.
            StoreError: The store holds another file of this name.
        """
        archive = inspect_archive(source)
        target = self.path(archive)
        if target.exists():
            # What was compared before counts by its size and time alone.
            filecmp.clear_cache()
            if not target.samefile(source) and not filecmp.cmp(target, source, shallow=False):
                raise StoreError(
                    f"{target} exists and differs from {source}: build it with --version "
                    f"{next_version(self.folder, archive.name)}"
                )
            yield archive
            return
        with partial_file(target) as partial:
            shutil.copyfile(source, partial)
            partial.replace(target)
        try:
            yield archive
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    @contextmanager
    def lock(self, wait_s: float = 0) -> Iterator[None]:
        """Keeps every other command out of the store until the block ends, or the process.

        The lock lies beside the store, as what it guards besides does (served.properties): archives
        that are only read may lie where nothing can be written.

        Args:
            wait_s: Seconds to wait for another command's end.

        Raises:
            StoreError: Another command is in it, or the folder is not there.
        """
        if not self.folder.is_dir():
            raise StoreError(f"there is no model store at {self.folder}: give it by --model-store")
        deadline = time.monotonic() + wait_s
        with (self.folder.resolve().parent / LOCK_FILE).open("a+", encoding="utf-8") as file:
            while not try_lock(file):
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise StoreError(
                        f"process {file.read().strip()} is changing {self.folder}: ask again when "
                        "it has ended"
                    )
                time.sleep(POLL_S)
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
