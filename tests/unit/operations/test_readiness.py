from pathlib import Path

import pytest
from deepfake_tools.errors import ServerUnreachableError
from deepfake_tools.operations.boot import Served, served_path
from deepfake_tools.operations.readiness import DrainingMark, NotReadyError, check_ready
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.store import Store
from deepfake_tools.torchserve.api import ManagementAPI

from tests import ROOT
from tests.archives import write_archive
from tests.unit.torchserve_stub import (
    Reply,
    Request,
    StubServer,
    description,
    json_reply,
    torchserve_error,
)

CONFIG = ROOT / "config.properties"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "model_store").mkdir()
    return Store(tmp_path / "model_store")


class Models:
    """Describes models by name, with the statuses of their default versions' workers."""

    def __init__(self, **statuses: list[str]) -> None:
        self._statuses = statuses

    def __call__(self, request: Request) -> Reply:
        if request.path.startswith("/models?"):
            models = [{"modelName": name, "modelUrl": f"{name}@1.mar"} for name in self._statuses]
            return json_reply({"models": models})
        name = request.path.split("/")[2]
        if name == "leaving":
            return torchserve_error(404, "ModelNotFoundException", f"Model not found: {name}")
        return json_reply([description(name, "1", *self._statuses[name])])


def look(store: Store, models: Models) -> str:
    log = WorkerLog(store.folder.parent / "logs", from_now=False)
    with StubServer(models) as stub:
        return check_ready(ManagementAPI(stub.address, None), store, log)


def test_one_ready_worker_of_every_default_version_is_enough(store):
    found = look(store, Models(a=["READY", "UNLOADING"], b=["READY"], leaving=[]))

    assert found == "a version 1 (1 of 1 workers), b version 1 (1 of 1 workers)"


def test_a_chosen_archive_that_was_deleted_is_named_with_what_forgets_it(store):
    Served({"gone": "1"}).write(served_path(store), CONFIG, store)

    with pytest.raises(NotReadyError, match=r"gone@1\.mar is missing.*manage\.py unregister gone`"):
        look(store, Models(a=["READY"]))


@pytest.mark.parametrize("statuses", [[], ["UNLOADING"]])
def test_a_model_without_a_ready_worker_is_named(store, statuses):
    with pytest.raises(NotReadyError, match="b version 1 has no READY worker: they are starting"):
        look(store, Models(a=["READY"], b=statuses))


def test_why_a_worker_did_not_start_is_said(store):
    logs = store.folder.parent / "logs"
    logs.mkdir()
    (logs / "model_log.log").write_text("x clip_deepfake load failed: a 1: no memory left\n")

    with pytest.raises(NotReadyError, match="no memory left"):
        look(store, Models(a=[]))


def test_a_server_without_models_is_not_ready(store):
    with pytest.raises(NotReadyError, match="any model: it is starting, or its store was empty"):
        look(store, Models())


def test_a_model_that_should_be_served_is_missed(store):
    Served({"a": "1", "lost": "3"}).write(served_path(store), CONFIG, store)
    write_archive(store.folder, "lost", "3")

    with pytest.raises(NotReadyError, match="does not serve lost: it is starting, or could not"):
        look(store, Models(a=["READY"]))


def test_a_server_that_is_gone_is_unreachable(store, tmp_path):
    with pytest.raises(ServerUnreachableError):
        check_ready(ManagementAPI("http://127.0.0.1:9", None), store, WorkerLog(tmp_path))


def test_the_mark_says_who_is_stopping_the_server(store):
    mark = DrainingMark(store)
    mark.check()
    mark.set()

    with pytest.raises(NotReadyError, match=r"manage\.py stop, process \d+ on .*remove .*draining"):
        look(store, Models(a=["READY"]))
    mark.clear()
    mark.clear()
    assert look(store, Models(a=["READY"]))
