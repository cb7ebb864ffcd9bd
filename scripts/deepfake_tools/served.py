"""Which version of each model a server starts with: choices in, served.properties out and back."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deepfake_tools.inspection import ArchiveError, ArchiveName
from deepfake_tools.properties import read_settings, with_settings
from deepfake_tools.store import Store

FILE_NAME = "served.properties"
HEADER = "# Written by scripts/manage.py from config.properties: change settings there, not here.\n"
# TorchServe ignores a setting it does not know, so that one file replaces both lists at once.
PREVIOUS_KEY = "previous_models"


@dataclass
class Served:
    """What is served after a restart, and what was before the last change.

    Attributes:
        versions: The default version by model name.
        previous: The version that was the default before, by model name, for `rollback`.
    """

    versions: dict[str, str] = field(default_factory=dict)
    previous: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the choices of a served.properties; there are none where the file is missing."""
        if not path.exists():
            return cls()
        settings = read_settings(path.read_text(encoding="utf-8"))
        return cls(_parse(settings.get("load_models", "")), _parse(settings.get(PREVIOUS_KEY, "")))

    def choose(self, archive: ArchiveName, instead_of: str | None = None) -> None:
        """Makes a version the default; the one until now is what `rollback` returns to."""
        self.versions[archive.name] = archive.version
        if instead_of is not None:
            self.previous[archive.name] = instead_of

    def drop(self, name: str) -> None:
        """Forgets a model."""
        self.versions.pop(name, None)
        self.previous.pop(name, None)

    def write(self, path: Path, config: Path, store: Store) -> None:
        """Replaces served.properties in one step.

        Args:
            path: The file.
            config: The config.properties that all other settings come from.
            store: Named by its absolute path, so that the server may be started anywhere.
        """
        settings = {
            "model_store": str(store.folder.resolve()),
            "load_models": _format(self.versions),
            PREVIOUS_KEY: _format(self.previous),
        }
        text = HEADER + with_settings(config.read_text(encoding="utf-8"), settings)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def served_path(store: Store) -> Path:
    """Returns where a store's served.properties lies: beside the store."""
    return store.folder.resolve().parent / FILE_NAME


def renew(store: Store, config: Path) -> list[str]:
    """Writes served.properties for a start: the choices made, or else the newest of each model.

    Returns:
        A line for each archive that a user may miss among the served ones.
    """
    with store.lock():
        served = Served.read(served_path(store))
        served.versions = served.versions or store.newest()
        served.write(served_path(store), config, store)
    chosen = [ArchiveName(*item) for item in served.versions.items()]
    notices = [
        f"{store.path(archive)} is to be served, but missing: build it again, or "
        f"`python scripts/manage.py unregister {archive.name}` once the server runs"
        for archive in chosen
        if not store.path(archive).exists()
    ]
    for archive in store.archives():
        version = served.versions.get(archive.name)
        if version is None or int(archive.version) > int(version):
            command = "register" if version is None else "swap"
            notices.append(
                f"{archive} is in the store and not served: "
                f"`python scripts/manage.py {command} {store.path(archive)}`"
            )
    return notices


def _parse(value: str) -> dict[str, str]:
    """Reads a list of archives; what is not NAME@VERSION.mar, such as `all`, is no choice."""
    versions = {}
    for entry in value.split(","):
        try:
            archive = ArchiveName.parse(entry.strip())
        except ArchiveError:
            continue
        versions[archive.name] = archive.version
    return versions


def _format(versions: dict[str, str]) -> str:
    return ",".join(ArchiveName(*item).file_name for item in sorted(versions.items()))
