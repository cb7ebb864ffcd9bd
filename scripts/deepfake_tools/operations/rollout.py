"""Starts, swaps and scales versions on a running server: each is done whole, or undone."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar, ParamSpec

from deepfake_tools.cli import script_command
from deepfake_tools.errors import (
    ImageRefusedError,
    ModelNotServedError,
    NoWorkerError,
    RequestRefusedError,
    ServiceError,
    TimeLimitError,
    UnexpectedAnswerError,
)
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.interrupts import uninterrupted
from deepfake_tools.operations.draining import POLL_S, drain, workers_in_words
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.store import StoreError
from deepfake_tools.torchserve.answers import ModelVersion
from deepfake_tools.torchserve.api import InferenceAPI, ManagementAPI

P = ParamSpec("P")

# How long an interrupted registration may take to unpack the archive before the version shows.
UNPACK_LIMIT_S = 15.0


class ConflictError(ServiceError):
    """Somebody else, on another machine perhaps, changes the same model at the same time."""

    exit_code: ClassVar[int] = 22
    meaning: ClassVar[str] = "somebody else has changed the same model meanwhile"
    kind = "conflict"


@dataclass(frozen=True)
class RunningServer:
    """A running server and how to talk to it.

    Attributes:
        management: Its management API.
        inference: Its inference API.
        logs: Its log folder.
        limit_s: Seconds for each step: a start, a drain.
        say: Takes each step's one-line report.
    """

    management: ManagementAPI
    inference: InferenceAPI
    logs: Path
    limit_s: float
    say: Callable[[str], None]


def start(server: RunningServer, archive: ArchiveName) -> ModelVersion:
    """Registers an archive of the store and waits until all its workers are READY.

    A version that is registered already, by an operator or by a command that was killed, is taken
    as it is found.

    Raises:
        ServiceError: It did not come up, with the worker's own reason; it is gone again, unless it
            was there before.
    """
    undo = ExitStack()
    try:
        return _start(server, archive, undo)
    except BaseException:
        with uninterrupted():
            undo.close()
        raise


def _start(server: RunningServer, archive: ArchiveName, undo: ExitStack) -> ModelVersion:
    """Does the same, and leaves to the caller how it is undone."""
    log = WorkerLog(server.logs)
    # An interrupted registration may be unpacking still.
    appears_within_s = UNPACK_LIMIT_S
    undo.callback(lambda: _remove(server, archive, appears_within_s))
    try:
        server.management.register(archive.file_name, workers=1, timeout=server.limit_s)
        appears_within_s = 0
    except TimeLimitError:
        raise
    except RequestRefusedError as error:
        # Nothing was registered, so that there is nothing of ours to remove.
        undo.pop_all()
        if error.status == HTTPStatus.NOT_FOUND:
            raise StoreError(
                f"the server finds no {archive.file_name} in its store: is --model-store the "
                "folder that it was started with?"
            ) from error
        if error.status != HTTPStatus.CONFLICT:
            raise
        _check_found(server, archive)
    except ServiceError:
        appears_within_s = 0
        raise
    version = _await_ready(server, archive, log)
    server.say(f"{archive} is up: {workers_in_words(version.ready_workers)} READY")
    return version


def _check_found(server: RunningServer, archive: ArchiveName) -> None:
    """Makes sure that what is registered under an archive's version is that archive.

    Raises:
        ConflictError: It is another one.
    """
    found = server.management.version(archive.name, archive.version).archive
    remedy = f"`{unregister_command(archive.name, archive.version)}`"
    if found != archive.file_name:
        raise ConflictError(f"{archive} is registered already, from {found}: first {remedy}")
    server.say(f"{archive} is registered already: if this fails it stays, and {remedy} removes it")


def unregister_command(name: str, version: str) -> str:
    """Returns what removes one version, as it can be typed."""
    return script_command("manage.py", "unregister", name, "--version", version)


def swap(
    server: RunningServer,
    archive: ArchiveName,
    old: ModelVersion,
    image: bytes,
    commit: Callable[[], None],
    check: Callable[[ArchiveName, ArchiveName], None] | None = None,
) -> None:
    """Replaces the default version of a model by another; the old one may then be removed.

    No request is lost in between: the old version has answered all of its own before the end.
    What a swap that was killed has done already is not done again.

    Args:
        server: The server.
        archive: The new version, in the server's store; it may be registered, and the default.
        old: The default version until now, or before the swap that was killed.
        image: An image file that the new version is asked about before anyone else asks it.
        commit: Called when the old version has nothing left to do: makes the change last.
        check: Called with the old and the new version while both can be asked, and before the
            switch: raises what is to keep the old one.

    Raises:
        ServiceError: A step failed; the old version is the default again and the new one gone,
            unless it was registered before.
        ConflictError: Another one has become the default meanwhile; that one stays.
    """
    previous = ArchiveName(archive.name, old.version)
    undo = ExitStack()
    try:
        version = _start(server, archive, undo)
        if version.min_workers < old.min_workers:
            # Whoever scaled the old version meant the model, not the version.
            scale(server, version, old.min_workers)
        _try_out(server, archive, image)
        if check is not None:
            check(previous, archive)
        is_switched = server.management.version(archive.name).version == archive.version
        if not is_switched:
            _check_default(server, previous)
        undo.callback(_restore, server, archive, previous)
        if not is_switched:
            server.management.set_default(archive.name, archive.version)
        server.say(f"{archive} is the default")
        if old.ready_workers:
            _drain_old(server, previous)
        # TorchServe cannot compare and set at once, so what came in between shows only now.
        _check_default(server, archive)
        with uninterrupted():
            commit()
    except BaseException:
        with uninterrupted():
            undo.close()
            _say_default(server, previous)
        raise


def scale(server: RunningServer, version: ModelVersion, workers: int) -> None:
    """Sets how many workers a version has and waits until they are READY.

    Raises:
        ServiceError: They are not; the version has as many as before again.
    """
    archive = ArchiveName(version.name, version.version)
    log = WorkerLog(server.logs)
    try:
        server.management.scale(archive.name, archive.version, workers)
        _await_ready(server, archive, log)
    except BaseException:
        with uninterrupted():
            _attempt(
                server, server.management.scale, archive.name, archive.version, version.min_workers
            )
        raise
    server.say(f"{archive} has {workers_in_words(workers)} READY")


def _await_ready(server: RunningServer, archive: ArchiveName, log: WorkerLog) -> ModelVersion:
    """Waits until a version has all the workers that it should have.

    TorchServe starts a failed worker again and again, and shows all but READY ones alike. What
    tells a failure is the worker's line in the log, or another process id than at first.
    """
    deadline = time.monotonic() + server.limit_s
    pids: dict[str, int] = {}
    while True:
        version = server.management.version(archive.name, archive.version)
        if version.ready_workers >= max(version.min_workers, 1):
            return version
        started = [worker for worker in version.workers if worker.pid > 0]
        again = any(pids.setdefault(worker.id, worker.pid) != worker.pid for worker in started)
        if again or log.said_why(archive):
            reason = log.await_failure(archive) or f"see the server's {log.path}"
            raise NoWorkerError(f"{archive} did not start: {reason}")
        if time.monotonic() > deadline:
            raise TimeLimitError(
                f"{archive} has {version.ready_workers} of "
                f"{workers_in_words(version.min_workers)} READY after {server.limit_s:g} s: allow "
                "more with --timeout"
            )
        time.sleep(POLL_S)


def _try_out(server: RunningServer, archive: ArchiveName, image: bytes) -> None:
    """Asks a version by its number about an image; an answer of its own is all it takes."""
    try:
        verdict = server.inference.predict(
            archive.name, image, version=archive.version, timeout=server.limit_s
        )
    except ImageRefusedError as error:
        if error.kind != "no_face":
            raise
        # It was built to say so of an image without a face, as the one of our own is.
        server.say(f"{archive} answers: no face in the image")
        return
    if verdict.detector.version != archive.version:
        raise UnexpectedAnswerError(
            f"{archive} answers as version {verdict.detector.version}: its card was changed"
        )
    server.say(f"{archive} answers: {verdict.label} ({verdict.confidence:.4f})")


def _check_default(server: RunningServer, expected: ArchiveName) -> None:
    """Makes sure that a version is the default.

    Raises:
        ConflictError: Another one is.
    """
    found = server.management.version(expected.name).version
    if found != expected.version:
        raise ConflictError(
            f"{expected.name} version {found} has become the default meanwhile, in the place of "
            f"version {expected.version}: somebody else is changing this model; see "
            "`python scripts/manage.py list`, agree with them, and swap again"
        )


def _drain_old(server: RunningServer, archive: ArchiveName) -> None:
    try:
        drain(server.management, archive, server.limit_s)
    except ModelNotServedError:
        server.say(f"note: somebody else has removed {archive} meanwhile")


def _restore(server: RunningServer, archive: ArchiveName, previous: ArchiveName) -> None:
    """Makes the previous version the default again; the new one answers what it has taken."""

    def restore() -> None:
        # Unless somebody else has made another one the default: then that is what they want.
        if server.management.version(archive.name).version == archive.version:
            server.management.set_default(previous.name, previous.version)

    _attempt(server, restore)
    _attempt(server, drain, server.management, archive, server.limit_s)


def _say_default(server: RunningServer, previous: ArchiveName) -> None:
    """Says what is the default after an undone change; a server that is gone has none."""
    try:
        found = server.management.version(previous.name).version
    except ServiceError as error:
        server.say(f"undone as far as the server allowed: {error}")
        return
    as_before = " as before" if found == previous.version else ""
    server.say(f"undone: {previous.name} version {found} is the default{as_before}")


def _remove(server: RunningServer, archive: ArchiveName, appears_within_s: float = 0) -> None:
    """Unregisters a version that failed; there may be none, or none yet."""
    deadline = time.monotonic() + appears_within_s
    while True:
        try:
            server.management.unregister(archive.name, archive.version)
        except ModelNotServedError:
            if time.monotonic() < deadline:
                time.sleep(POLL_S)
                continue
        except ServiceError as error:
            server.say(f"could not remove {archive}, unregister it by hand: {error}")
        return


def _attempt(
    server: RunningServer, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Takes one step back; a failure must keep neither the other steps nor the cause away."""
    try:
        step(*args, **kwargs)
    except ServiceError as error:
        server.say(f"while undoing: {error}")
