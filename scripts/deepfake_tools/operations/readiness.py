"""Whether requests should be sent to a server: READY workers, and nobody stopping it."""

import socket
from contextlib import suppress
from datetime import UTC, datetime
from os import getpid
from typing import ClassVar

from deepfake_tools.cli import script_command
from deepfake_tools.errors import ModelNotServedError, ServiceError
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.boot import Served, served_path
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.store import Store
from deepfake_tools.torchserve.api import ManagementAPI

MARK_NAME = "draining"


class NotReadyError(ServiceError):
    """The server answers, and no requests should be sent there now."""

    exit_code: ClassVar[int] = 20
    meaning: ClassVar[str] = "the server is not ready for requests"
    kind = "not_ready"


class DrainingMark:
    """A file beside a store that says that its server is being stopped.

    Whoever asks for readiness sees it at once, in whatever process, without a question to the
    server.

    Args:
        store: The server's store.

    Attributes:
        path: The file.
    """

    def __init__(self, store: Store) -> None:
        self.path = store.folder.resolve().parent / MARK_NAME

    def set(self) -> None:
        """Says that the server is being stopped, by this process."""
        now = datetime.now(UTC).isoformat(" ", "seconds")
        text = f"manage.py stop, process {getpid()} on {socket.gethostname()}, since {now}\n"
        self.path.write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Takes it back."""
        self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Makes sure that the server is not being stopped.

        Raises:
            NotReadyError: It is; by whom.
        """
        with suppress(FileNotFoundError):
            text = self.path.read_text(encoding="utf-8", errors="replace").strip()
            raise NotReadyError(
                f"the server is being stopped ({text}); if that was broken off, start the server "
                f"again or remove {self.path}"
            )


def check_ready(management: ManagementAPI, store: Store, log: WorkerLog) -> str:
    """Makes sure that every model answers.

    `/ping` says Healthy of a server none of whose workers could start, hence this.

    Args:
        management: The server's management API.
        store: The server's store; its served.properties says what must be served.
        log: Where a worker that did not start says why.

    Returns:
        What is ready, in one line.

    Raises:
        NotReadyError: The server is being stopped, serves nothing, or lacks a model, or a
            default version has no READY worker.
        ServiceError: The server does not answer, or takes no such token.
    """
    DrainingMark(store).check()
    served = [model.name for model in management.models()]
    chosen = Served.read(served_path(store)).versions
    missing = sorted(set(chosen) - set(served))
    for name in missing:
        path = store.path(ArchiveName(name, chosen[name]))
        if not path.exists():
            forget = script_command("manage.py", "unregister", name)
            raise NotReadyError(
                f"the server does not serve {name}: {path} is missing. Put it back and start the "
                f"server again, or forget it: `{forget}`"
            )
    if missing:
        what = ", ".join(missing)
        raise NotReadyError(f"the server does not serve {what}: it is starting, or could not load")
    if not served:
        raise NotReadyError(
            "the server does not serve any model: it is starting, or its store was empty. "
            "scripts/build_mar.py makes an archive, and `python scripts/manage.py register "
            "ARCHIVE` serves it"
        )
    ready = []
    for name in served:
        try:
            version = management.version(name)
        except ModelNotServedError:
            continue  # unregistered at this moment
        archive = ArchiveName(name, version.version)
        if not version.ready_workers:
            reason = log.failure(archive) or "they are starting, or were scaled to none"
            raise NotReadyError(f"{archive} has no READY worker: {reason}")
        ready.append(f"{archive} ({version.ready_workers} of {version.min_workers} workers)")
    return ", ".join(ready)
