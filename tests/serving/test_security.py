import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from deepfake_tools.canary import canary_image
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.properties import read_settings
from deepfake_tools.torchserve.tokens import fresh_key

from tests import ROOT
from tests.archives import write_archive
from tests.serving.manage_runs import Manage
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate by openssl"),
]

NAME = "acme--safe"

Fields = Mapping[int, bytes]


def message(fields: Fields) -> bytes:
    """A protobuf message of texts, bytes and messages, by their fields' numbers."""
    written = b""
    for number, content in fields.items():
        length, digits = len(content), []
        while length >= 1 << 7:
            digits.append(length & 0x7F | 0x80)
            length >>= 7
        written += bytes([number << 3 | 2, *digits, length]) + content
    return written


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


GRPC = {
    "inference": (
        ("inference.InferenceAPIsService/Ping", {}),
        (
            "inference.InferenceAPIsService/Predictions",
            {1: NAME.encode(), 3: message({1: b"body", 2: canary_image()})},
        ),
    ),
    "management": (
        ("management.ManagementAPIsService/ListModels", {}),
        ("management.ManagementAPIsService/DescribeModel", {1: NAME.encode()}),
        ("management.ManagementAPIsService/SetDefault", {1: NAME.encode(), 2: b"1"}),
    ),
}
"""Calls of TorchServe's two gRPC ports, with the fields of their messages by number."""


def call(server: LocalServer, purpose: str, method: str, fields: Fields, token: str | None) -> str:
    """Calls gRPC and returns how that ended, with what was answered in the case of OK."""
    port = read_settings(server.properties.read_text())[f"grpc_{purpose}_port"]
    headers = [] if token is None else [("authorization", f"Bearer {token}")]
    # Plain text, although this server's HTTP ports speak TLS: gRPC's have a switch of their own.
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(f"/org.pytorch.serve.grpc.{method}")
        try:
            # Its ports open a moment after those of HTTP.
            answer = ask(message(fields), metadata=headers, timeout=30, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code().name
    return f"OK {answer.decode(errors='replace')}"


@pytest.mark.parametrize(
    ("purpose", "method", "fields"),
    [(purpose, *each) for purpose, methods in GRPC.items() for each in methods],
)
def test_grpc_answers_its_ports_own_token_alone(server, purpose, method, fields):
    known = tokens(server)
    others = [token for name, token in known.items() if name != purpose]

    def logged() -> int:
        return (server.logs / "access_log.log").read_text().count(f"{method} ")

    before = logged()
    for wrong in (None, "", "guessed", f"{known[purpose]}x", *others):
        assert call(server, purpose, method, fields, wrong) == "PERMISSION_DENIED"
    answer = call(server, purpose, method, fields, known[purpose])
    assert answer.startswith("OK ")
    # TorchServe logs what it answers, and nothing of those that it turns away.
    wait_until(lambda: logged() > before)
    assert logged() == before + 1
    if "Predictions" in method:
        assert '"label": "REAL"' in answer


def test_grpc_tells_nobody_what_it_offers_and_registers_as_little_as_http(server):
    token = tokens(server)["management"]
    reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    port = read_settings(server.properties.read_text())["grpc_management_port"]
    with (
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary(reflection)(b"", timeout=30)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    register = "management.ManagementAPIsService/RegisterModel"
    for url in (b"../x.mar", b"http://127.0.0.1:9/x.mar", b"file:///tmp/x.mar"):
        assert call(server, "management", register, {9: url}, token) == "NOT_FOUND"


def test_every_port_listens_on_loopback_alone(server):
    process = psutil.Process(int(server.pid_file.read_text("ascii")))
    addresses = {
        connection.laddr.port: connection.laddr.ip.removeprefix("::ffff:")
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    settings = read_settings(server.properties.read_text())
    assert {int(settings[f"grpc_{each}_port"]) for each in GRPC} <= addresses.keys()
    assert set(addresses.values()) == {"127.0.0.1"}


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
            method, fields = GRPC[purpose][0]
            assert call(it, purpose, method, fields, before[purpose]) == "PERMISSION_DENIED"

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
