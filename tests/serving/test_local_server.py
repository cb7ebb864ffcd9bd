import os
from pathlib import Path

import pytest
from deepfake_tools.errors import TokenError
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.connection import Token
from deepfake_tools.torchserve.local_server import LocalServer, LocalServerError
from deepfake_tools.torchserve.properties import read_settings

from tests.archives import write_archive
from tests.serving.conftest import CONFIG

pytestmark = pytest.mark.serving


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_server_is_gone_without_a_trace(tmp_path, temporary):
    store = tmp_path / "store"
    store.mkdir()
    write_archive(store)

    with LocalServer(store, CONFIG) as server:
        server.wait_ready("acme--stub")
        group = server.pid
        with pytest.raises(TokenError):
            ManagementAPI(server.management_url, Token("guessed", "a test")).models()

    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert not list(temporary.iterdir())


def test_a_folder_that_was_named_is_kept(tmp_path):
    store = tmp_path / "store"
    store.mkdir()

    with LocalServer(store, CONFIG, tmp_path / "run") as server:
        settings = read_settings(server.properties.read_text())

    assert (tmp_path / "run" / "logs" / "ts_log.log").exists()
    differing = settings.items() ^ read_settings(CONFIG.read_text()).items()
    assert {key.rpartition("_")[2] for key, _ in differing} == {"address", "port", "store"}


def test_torchserve_logs_by_the_file_where_it_is_started_or_by_its_own(tmp_path):
    """As for `torchserve --start --ts-config config.properties`, which names no such file."""
    store = tmp_path / "store"
    store.mkdir()
    config = tmp_path / "config.properties"
    config.write_text(CONFIG.read_text())
    run = tmp_path / "run"

    with LocalServer(store, config, run) as server:
        assert "OURS" not in (run / "logs" / "ts_log.log").read_text()
        server.stop()
        logging = CONFIG.with_name("log4j2.xml").read_text()
        (run / "log4j2.xml").write_text(logging.replace("%d{ISO8601}", "OURS %d{ISO8601}"))
        server.start()

    assert "OURS" in (run / "logs" / "ts_log.log").read_text()


def test_why_a_server_did_not_start_is_said(tmp_path, temporary):
    with (
        pytest.raises(LocalServerError, match="--model-store directory not found"),
        LocalServer(tmp_path / "none", CONFIG),
    ):
        pass

    assert not list(temporary.iterdir())
