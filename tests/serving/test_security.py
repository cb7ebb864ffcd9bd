import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests
from deepfake_tools.canary import canary_image
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.tokens import fresh_key

from tests import ROOT
from tests.archives import write_archive
from tests.serving.manage_runs import Manage

pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate by openssl"),
]

NAME = "acme--safe"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate by the runbook's own command; server.key is beside it."""
    folder = tmp_path_factory.mktemp("tls")
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    command = re.search(r"```sh\n(openssl req .*?)```", runbook, re.DOTALL)[1]
    subprocess.run(["bash", "-ec", command], cwd=folder, check=True, capture_output=True)
    return folder / "server.pem"


@pytest.fixture(scope="module")
def server(store: Path, start_server: Callable[..., LocalServer], certificate: Path) -> LocalServer:
    write_archive(store, NAME)
    settings = {
        "certificate_file": str(certificate),
        "private_key_file": str(certificate.with_name("server.key")),
    }
    server = start_server(settings=settings, ca=certificate)
    server.wait_ready(NAME)
    return server


@pytest.fixture
def manage(server: LocalServer, store: Path) -> Manage:
    return Manage(server, store)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(canary_image())
    return path


def client(server: LocalServer, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "client.py"), "--model", NAME]
    command += ["--server", server.inference_url, "--management", server.management_url]
    command += ["--key-file", str(server.key_file), *map(str, arguments)]
    environment = {**os.environ, "REQUESTS_CA_BUNDLE": ""}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_https_is_verified_by_the_certificate_that_is_given(
    server, manage, certificate, photo, tmp_path
):
    output = ("--image", photo, "--output", tmp_path / "results.txt")
    trusting = client(server, *output, "--ca", certificate)
    doubting = client(server, *output)

    assert (trusting.returncode, trusting.stderr.count("error")) == (0, 0), trusting.stderr
    assert trusting.stdout.splitlines()[0] == "Prediction: REAL (confidence: 0.7500)"
    assert doubting.returncode == 13
    assert "--ca names the file" in doubting.stderr
    assert NAME in manage("list", "--ca", certificate).stdout
    assert manage("ready", "--ca", certificate).returncode == 0
    assert manage("list").returncode == 13


def tokens(server: LocalServer) -> dict[str, str]:
    keys = json.loads(server.key_file.read_text())
    return {purpose: entry["key"] for purpose, entry in keys.items()}


def test_an_expired_token_is_refused_and_renewed_by_the_api_key(tmp_path):
    (tmp_path / "model_store").mkdir()
    settings = {"token_expiration_min": "0"}
    with LocalServer(tmp_path / "model_store", ROOT / "config.properties", settings=settings) as it:
        before = tokens(it)
        for address, path, purpose in (
            (it.inference_url, "/ping", "inference"),
            (it.management_url, "/models", "management"),
        ):
            headers = {"Authorization": f"Bearer {before[purpose]}"}
            answer = requests.get(address + path, headers=headers, timeout=30)
            assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")

        renewed = fresh_key(Purpose.MANAGEMENT, it.key_file, it.management_url)

        assert renewed is not None
        assert renewed.value == tokens(it)["management"] != before["management"]
        assert tokens(it)["API"] == before["API"]


def test_no_token_is_in_a_command_line_or_in_a_log(server, manage, certificate, photo, tmp_path):
    secrets = list(tokens(server).values())
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for process in psutil.process_iter():
                try:
                    seen.add(shlex.join(process.cmdline()))
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = ("--image", photo, "--output", tmp_path / "results.txt")
    runs = [
        client(server, *output, "--ca", certificate),
        client(server, "--image", tmp_path / "missing.png", "--output", tmp_path / "r.txt"),
        manage("swap", write_archive(tmp_path, NAME, "2", answers=False), "--ca", certificate),
        manage("list"),
    ]
    ended.set()
    watcher.join()
    texts = [run.stdout + run.stderr for run in runs]
    texts += [path.read_text() for path in tmp_path.glob("*.txt")]
    texts += [path.read_text(errors="replace") for path in server.logs.glob("*.log")]
    texts += [(server.directory / "torchserve.out").read_text(errors="replace")]

    assert any("client.py" in line for line in seen)
    assert any("manage.py" in line for line in seen)
    assert len(secrets) == 3
    for text in (*texts, *seen):
        assert not any(secret in text for secret in secrets), text
