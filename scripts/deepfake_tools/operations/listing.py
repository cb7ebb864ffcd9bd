"""The table of served versions that `manage.py list` prints."""

from collections.abc import Iterable

from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.text_table import table
from deepfake_tools.torchserve.answers import ModelVersion

HEADER = ("", "MODEL", "VERSION", "DEFAULT", "WORKERS", "WAITING", "")


def model_table(versions: Iterable[tuple[ModelVersion, bool]], log: WorkerLog) -> list[str]:
    """Returns a line for each version; `!` and NOT READY mark those that lack workers.

    Args:
        versions: Each with whether it is its model's default.
        log: Where a version that did not come up says why.
    """
    rows = [HEADER, *(_row(version, is_default, log) for version, is_default in versions)]
    return table(rows, numbers_right=False).split("\n")


def _row(version: ModelVersion, is_default: bool, log: WorkerLog) -> tuple[str, ...]:
    wanted = max(version.min_workers, 1)
    trouble = ""
    if version.ready_workers < wanted:
        states = ", ".join(f"{worker.status} (pid {worker.pid})" for worker in version.workers)
        reason = log.failure(ArchiveName(version.name, version.version))
        trouble = f"NOT READY: {reason or states or 'no workers'}"
    return (
        "!" if trouble else "",
        version.name,
        version.version,
        "yes" if is_default else "",
        f"{version.ready_workers}/{wanted}",
        str(version.pending_requests),
        trouble,
    )
