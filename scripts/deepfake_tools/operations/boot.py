"""Which version of each model a server starts with: served.properties, written and read."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deepfake_tools.cli import script_command
from deepfake_tools.files import partial_file
from deepfake_tools.inspection import (
    ArchiveError,
    ArchiveName,
    inspect_archive,
    version_order,
)
from deepfake_tools.store import Store
from deepfake_tools.torchserve.properties import read_settings, with_settings

FILE_NAME = "served.properties"
HEADER = "# Written by scripts/manage.py from config.properties: change settings there, not here.\n"
# TorchServe ignores a setting it does not know, so that one file replaces both lists at once.
PREVIOUS_KEY = "previous_models"
LEFT_OUT_KEY = "left_out_models"


@dataclass
class Served:
    """What is served after a restart, and what was before the last change.

    Attributes:
        versions: The default version by model name.
        previous: The version that was the default before, by model name, for `rollback`.
        left_out: Names of models whose archive no server should see; they stay chosen.
    """

    versions: dict[str, str] = field(default_factory=dict)
    previous: dict[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the choices of a served.properties; there are none where the file is missing."""
        if not path.exists():
            return cls()
        settings = read_settings(path.read_text(encoding="utf-8"))
        started, previous, left_out = (
            _parse(settings.get(key, "")) for key in ("load_models", PREVIOUS_KEY, LEFT_OUT_KEY)
        )
        return cls(left_out | started, previous, frozenset(left_out.keys() - started))

    def choose(self, archive: ArchiveName, instead_of: str | None = None) -> None:
        """Makes a version the default; the one until now is what `rollback` returns to."""
        self.versions[archive.name] = archive.version
        self.left_out -= {archive.name}
        if instead_of is not None:
            self.previous[archive.name] = instead_of

    def drop(self, name: str) -> None:
        """Forgets a model."""
        self.versions.pop(name, None)
        self.previous.pop(name, None)
        self.left_out -= {name}

    def write(self, path: Path, config: Path, store: Store) -> None:
        """Replaces served.properties in one step.

        Args:
            path: The file.
            config: The config.properties that all other settings come from.
            store: Named by its absolute path, so that the server may be started anywhere.
        """
        kept_back = {name: self.versions[name] for name in self.left_out}
        started = {name: v for name, v in self.versions.items() if name not in kept_back}
        settings = {
            "model_store": str(store.folder.resolve()),
            "load_models": _format(started),
            PREVIOUS_KEY: _format(self.previous),
            LEFT_OUT_KEY: _format(kept_back),
        }
        text = HEADER + with_settings(config.read_text(encoding="utf-8"), settings)
        with partial_file(path) as partial:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)


def served_path(store: Store) -> Path:
    """Returns where a store's served.properties lies: beside the store."""
    return store.folder.resolve().parent / FILE_NAME


def renew(store: Store, config: Path) -> list[str]:
    """Writes served.properties for a start: the choices made, or else the newest of each model.

    TorchServe loads what the file lists without a look at it, so each archive is inspected here.

    Returns:
        A line for each archive that a user may miss among the served ones.
    """
    with store.lock():
        served = Served.read(served_path(store))
        served.versions = served.versions or store.newest()
        chosen = [ArchiveName(*item) for item in served.versions.items()]
        refused = {archive.name: _refusal(store.path(archive)) for archive in chosen}
        served.left_out = frozenset(name for name, reason in refused.items() if reason)
        served.write(served_path(store), config, store)
    notices = [
        f"{archive} is not started: {reason}. Put the archive right and start again, or "
        f"`{script_command('manage.py', 'unregister', archive.name)}` once the server runs"
        for archive in chosen
        if (reason := refused[archive.name])
    ]
    for archive in store.archives():
        version = served.versions.get(archive.name)
        if version is None or version_order(archive.version) > version_order(version):
            command = "register" if version is None else "swap"
            notices.append(
                f"{archive} is in the store and not served: "
                f"`{script_command('manage.py', command, store.path(archive))}`"
            )
    return notices


def _refusal(path: Path) -> str | None:
    """Why no server should see an archive; its weights are hashed by the worker, at each start."""
    try:
        inspect_archive(path, contents=False)
    except ArchiveError as error:
        return str(error)
    return None


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
