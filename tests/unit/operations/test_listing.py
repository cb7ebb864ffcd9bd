"""The lines of `manage.py list`."""

from pathlib import Path

from deepfake_tools.operations.listing import model_table
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.torchserve.answers import ModelVersion, WorkerStatus


def version(number: str, *states: str, waiting: int = 0) -> ModelVersion:
    workers = tuple(WorkerStatus("9000", state, 7) for state in states)
    return ModelVersion("acme--m", number, "a.mar", 2, 2, 8, waiting, workers)


def test_columns_begin_below_one_another_and_what_lacks_workers_is_marked(tmp_path: Path) -> None:
    versions = [(version("9", "READY", "READY", waiting=12), True), (version("10"), False)]
    assert model_table(versions, WorkerLog(tmp_path)) == [
        "   MODEL    VERSION  DEFAULT  WORKERS  WAITING",
        "   acme--m  9        yes      2/2      12",
        "!  acme--m  10                0/2      0        NOT READY: no workers",
    ]
