"""Changes to a running server that last: what it serves, and what its next start serves."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from deepfake_tools.errors import ModelNotServedError, RequestRefusedError
from deepfake_tools.inspection import ArchiveError, ArchiveName
from deepfake_tools.operations import rollout
from deepfake_tools.operations.boot import Served, served_path
from deepfake_tools.operations.readiness import DrainingMark
from deepfake_tools.operations.rollout import (
    ConflictError,
    RunningServer,
    unregister_command,
)
from deepfake_tools.store import Store, StoreError
from deepfake_tools.torchserve.answers import ModelVersion

Check: TypeAlias = Callable[[ArchiveName, ArchiveName], None]


class Service:
    """What is served, now and after a restart. Every method raises ServiceError.

    Args:
        server: The running server.
        store: The store that it was started with.
        config: The settings that served.properties begins with.
    """

    def __init__(self, server: RunningServer, store: Store, config: Path) -> None:
        self._server = server
        self._store = store
        self._config = config
        self._found = Served()

    def register(self, source: Path) -> None:
        """Serves an archive, as the default where it is the first version of its model.

        Args:
            source: A file in the store, or one to be copied there.
        """
        with self._changing(), self._store.adding(source) as archive:
            served = self._served()
            default = self._default(archive.name)
            rollout.start(self._server, archive)
            # It is the default already where an earlier command was killed before it said so.
            is_default = default is None or default.version == archive.version
            if is_default:
                served.choose(archive)
                self._write(served)
        if default is not None and not is_default:
            self._server.say(
                f"{archive.name} version {default.version} stays the default; version "
                f"{archive.version} is asked by its number, until the server's next start"
            )

    def swap(self, source: Path, image: bytes, check: Check | None = None) -> None:
        """Replaces the default version by an archive, without losing a request.

        Args:
            source: A file in the store, or one to be copied there.
            image: An image file that the new version is asked about first.
            check: Called with the old and the new version before the switch; raises what is to
                keep the old one.
        """
        with self._changing():
            self._swap(source, image, check)

    def rollback(self, name: str, image: bytes) -> None:
        """Replaces the default version by the one before it; again, and it is back.

        Args:
            name: The served name.
            image: An image file that the other version is asked about first.
        """
        with self._changing():
            version = self._served().previous.get(name)
            names = [model.name for model in self._server.management.models()]
            if version is None and name not in names:
                raise ModelNotServedError(
                    f"{name} is not served, so there is nothing to go back from; served are: "
                    f"{', '.join(names) or 'none'}"
                )
            if version is None:
                raise StoreError(
                    f"{served_path(self._store)} knows of no version of {name} before the present "
                    "one: name an archive, as in `python scripts/manage.py swap ARCHIVE`"
                )
            self._swap(self._store.path(ArchiveName(name, version)), image)

    def scale(self, name: str, version: str | None, workers: int) -> None:
        """Sets how many workers a version has, the default one if None, until the next start."""
        with self._changing():
            found = self._server.management.version(name, version)
            rollout.scale(self._server, found, workers)

    def unregister(self, name: str, version: str | None = None) -> None:
        """Stops serving one version that is not the default, or the whole model if None."""
        with self._changing():
            served = self._served()
            is_chosen = name in served.versions and version in (None, served.versions[name])
            if is_chosen and self._default(name) is None:
                self._server.say(f"{name} is not served; a restart does not serve it either now")
                served.drop(name)
                self._write(served)
                return
            default = self._server.management.version(name).version
            found = [entry.version for entry in self._server.management.versions(name)]
            if version == default and len(found) > 1:
                raise RequestRefusedError(
                    f"{name} version {default} is the default: swap to another version, or leave "
                    "out --version to stop serving the model",
                    status=403,
                )
            # TorchServe removes the default only after all others.
            every = sorted(found, key=lambda entry: entry == default)
            for entry in every if version is None else [version]:
                self._server.management.unregister(name, entry)
                self._server.say(f"{name} version {entry} is gone")
            if version in (None, default):
                served.drop(name)
                self._write(served)
                if not served.versions:
                    self._server.say("nothing is left: a restart serves the newest archives again")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keeps out everybody else who would change this store, and changes while it stops."""
        with self._store.lock():
            DrainingMark(self._store).check()
            yield

    def _swap(self, source: Path, image: bytes, check: Check | None = None) -> None:
        with self._store.adding(source) as archive:
            served = self._served()
            old = self._old(archive, served)
            if old is None:
                self._server.say(f"{archive.name} is not served yet, so this registers it")
                rollout.start(self._server, archive)
            elif old.version == archive.version:
                self._server.say(f"{archive} is the default already")
            else:
                served.choose(archive, instead_of=old.version)
                write = partial(self._write, served)
                rollout.swap(self._server, archive, old, image, write, check)
            if served.versions.get(archive.name) != archive.version:
                served.choose(archive)
                self._write(served)
        if old is not None and old.version != archive.version:
            # Whoever has swapped to another version meanwhile has removed the old one as well.
            with suppress(ModelNotServedError):
                self._server.management.unregister(old.name, old.version)
            self._server.say(
                f"{old.name} version {old.version} has answered everything and is gone"
            )
        elif old is not None:
            self._say_others(archive)

    def _old(self, archive: ArchiveName, served: Served) -> ModelVersion | None:
        """Returns the version to replace: the default one.

        Where the archive is the default already, a swap to it may have been killed before it was
        written down: then it is the version that is written down.
        """
        default = self._default(archive.name)
        before = served.versions.get(archive.name)
        if default is None or default.version != archive.version or before is None:
            return default
        with suppress(ModelNotServedError):
            return self._server.management.version(archive.name, before)
        return default

    def _say_others(self, archive: ArchiveName) -> None:
        """Names what a swap may have left that was killed at its very end."""
        for version in self._server.management.versions(archive.name):
            if version.version != archive.version:
                self._server.say(
                    f"note: version {version.version} is registered beside it; to remove it: "
                    f"`{unregister_command(archive.name, version.version)}`"
                )

    def _default(self, name: str) -> ModelVersion | None:
        """Returns the version that answers when none is named, if the model is served at all."""
        try:
            return self._server.management.version(name)
        except ModelNotServedError:
            return None

    def _served(self) -> Served:
        """Returns what a restart serves; where nobody has chosen, that is what is served now.

        It is written down before anything changes: otherwise the next start would take the newest
        archives, and so one that is about to be refused.
        """
        served = Served.read(served_path(self._store))
        self._found = copy.deepcopy(served)
        if not served.versions:
            for model in self._server.management.models():
                try:
                    served.choose(ArchiveName.parse(model.archive))
                except ArchiveError:
                    self._server.say(f"note: a restart does not serve {model.archive}")
            self._write(served)
        return served

    def _write(self, served: Served) -> None:
        """Makes choices last.

        Raises:
            ConflictError: Somebody whom the lock does not keep out has changed them meanwhile.
        """
        path = served_path(self._store)
        if Served.read(path) != self._found:
            raise ConflictError(
                f"{path} has been changed meanwhile, from another machine perhaps: see "
                "`python scripts/manage.py list` and its load_models, and ask again"
            )
        served.write(path, self._config, self._store)
        self._found = copy.deepcopy(served)
