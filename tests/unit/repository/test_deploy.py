import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import certifi
import pytest
from deepfake_tools.operations.options import parse_arguments
from deepfake_tools.operations.shutdown import MAIN_CLASS, PID_FILE_NAME
from deepfake_tools.torchserve.properties import read_settings

from tests import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
SERVICES = ("clip-deepfake", "clip-deepfake-probe")
INSTALLED = "/opt/clip-deepfake"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that looks as if the project were installed in it."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for name in ("python", "torchserve"):
        (tmp_path / ".venv" / "bin" / name).symlink_to(sys.executable)
    return tmp_path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong_with_a_unit(unit, installed):
    copy = installed / unit.name
    copy.write_text(unit.read_text().replace(INSTALLED, str(installed)))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_by_systemds_own_measure_a_unit_may_do_little(unit):
    # From 0 to 100; a unit without restrictions has 96.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def manage_commands(unit: Path, server_options: str) -> dict[str, argparse.Namespace]:
    """What a unit asks of manage.py, by command, with these SERVER_OPTIONS."""
    found = re.findall(r"^Exec\w+=-?.*/manage\.py (.*)$", unit.read_text(), re.MULTILINE)
    texts = [text.replace("$SERVER_OPTIONS", server_options) for text in found]
    return {args.command: args for args in (parse_arguments(text.split()) for text in texts)}


def test_every_command_of_a_unit_is_one_that_manage_knows():
    server, probe = (manage_commands(DEPLOY / f"{name}.service", "") for name in SERVICES)

    assert set(server) == {"config", "ready", "stop"}
    assert server["config"].check_addresses
    assert set(probe) == {"probe"}


def test_the_runbook_says_what_the_units_need_where_torchserve_speaks_tls():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    options = re.search(r'^Environment="SERVER_OPTIONS=(.*)"$', runbook, re.MULTILINE)[1]
    settings = read_settings(runbook)
    certificate, address = settings["certificate_file"], urlsplit(settings["inference_address"])
    assert certificate in options
    commands = manage_commands(
        DEPLOY / "clip-deepfake-probe.service", options.replace(certificate, certifi.where())
    )

    assert commands["probe"].server == f"https://localhost:{address.port}"
    assert commands["probe"].ca == Path(certifi.where())
    # What the unit denies is allowed to clients, by the same setting.
    assert "IPAddressDeny=any" in (DEPLOY / "clip-deepfake.service").read_text()
    assert re.search(r"^IPAddressAllow=\d", runbook, re.MULTILINE)


def test_archives_are_installed_where_the_unit_serves_them_and_its_python_where_it_sees_it():
    unit = (DEPLOY / "clip-deepfake.service").read_text()
    installs = re.findall(r"^#   install (.*)$", unit, re.MULTILINE)
    (work,) = re.findall(r"^WorkingDirectory=(.*)$", unit, re.MULTILINE)
    (user,) = re.findall(r"^User=(.*)$", unit, re.MULTILINE)
    (python,) = re.findall(r" PYTHON=(\S+) ", unit)

    assert [line.split()[-1] for line in installs] == [f"{work}/model_store"] * 2
    assert all(f"-o {user} " in line for line in installs)
    assert "ProtectHome=yes" in unit
    assert not python.startswith(("/home/", "/root/", "/run/user/"))


def test_the_container_serves_a_store_that_its_user_only_reads():
    text = (DEPLOY / "Containerfile").read_text()
    mounts = dict(re.findall(r"-v (\S+?):(/\S+)", text))
    (work,) = re.findall(r"^WORKDIR (/srv/\S+)$", text, re.MULTILINE)

    # test_pod.py runs the same.
    assert mounts == {"./model_store": f"{work}/model_store:ro", "detector": work}


def test_every_log_is_bounded():
    files = ElementTree.parse(ROOT / "log4j2.xml").findall("Appenders/RollingFile")

    assert len(files) == 5
    for file in files:
        assert file.get("filePattern") == file.get("fileName").replace(".log", ".%i.log.gz")
        assert file.find("SizeBasedTriggeringPolicy").get("size") == "${size}"
        assert file.find("DefaultRolloverStrategy").get("max") == "${older_files}"


@pytest.mark.parametrize("name", ["clip-deepfake.service", "serve.sh"])
def test_whatever_starts_the_server_names_how_it_logs(name):
    started = re.findall(r"^.*torchserve --start .*$", (DEPLOY / name).read_text(), re.MULTILINE)

    assert started
    assert all(re.search(r"--log-config \S+/log4j2\.xml", line) for line in started)


def test_what_was_not_run_says_so():
    for path in (*UNITS, DEPLOY / "Containerfile"):
        assert re.match(r"# Linted with .*; not (built or )?run by", path.read_text()), path


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing_wrong_with_the_container():
    done = subprocess.run(
        ["hadolint", str(DEPLOY / "Containerfile")], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_container_copies_is_there():
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)

    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name


def serve_by_script(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
    }
    return subprocess.run(
        ["sh", str(DEPLOY / "serve.sh"), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The settings, with addresses that are free."""
    text = (ROOT / "config.properties").read_text()
    path = tmp_path / "config.properties"
    path.write_text(re.sub(r"(127\.0\.0\.1:|_port=)\d+", r"\1PORT", text))
    while "PORT" in (text := path.read_text()):
        path.write_text(text.replace("PORT", str(free_port()), 1))
    return path


def test_serving_by_script_ends_where_the_configuration_cannot_be_written(tmp_path, config):
    done = serve_by_script(tmp_path, "--config", config)

    assert done.returncode == 16
    assert "there is no model store" in done.stderr


@pytest.mark.parametrize(
    ("environment", "missing"),
    [({}, "java"), ({"JAVA_HOME": "/no java"}, "/no java/bin/java")],
)
def test_serving_by_script_without_java_says_what_to_install(tmp_path, environment, missing):
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["sh", str(DEPLOY / "serve.sh")],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert f"needs Java 17 or newer, and there is no {missing}: install one" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("key", ["inference_address", "metrics_address", "grpc_management_port"])
def test_serving_by_script_where_a_port_is_taken_is_one_line(tmp_path, config, key):
    (tmp_path / "model_store").mkdir()
    (tmp_path / "draining").write_text("manage.py stop")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = config.read_text()
        config.write_text(re.sub(rf"^({key}=.*?)\d+$", rf"\g<1>{port}", text, flags=re.MULTILINE))
        done = serve_by_script(tmp_path, "--config", config)

    assert (done.returncode, done.stdout) == (23, "")
    assert done.stderr.startswith(f"error: 127.0.0.1:{port} ({key}): Address already in use. If a")
    assert done.stderr.count("\n") == 1
    assert "torchserve --stop" not in done.stderr
    # The server there may be the one that is being stopped.
    assert (tmp_path / "draining").exists()


def test_serving_by_script_beside_a_server_of_the_same_folder_for_temporary_files(tmp_path, config):
    (tmp_path / "model_store").mkdir()
    waiting = [sys.executable, "-c", "input()", MAIN_CLASS]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as other:
        pid_file = tmp_path / PID_FILE_NAME
        pid_file.write_text(str(other.pid))
        done = serve_by_script(tmp_path, "--config", config)
        other.communicate(b"\n")

    assert (done.returncode, done.stdout) == (23, "")
    assert done.stderr.startswith(f"error: {pid_file}: process {other.pid} is a TorchServe that")
    assert "python scripts/manage.py stop" in done.stderr
    assert done.stderr.count("\n") == 1
