import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
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


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_every_command_of_a_unit_is_one_that_manage_knows(unit):
    commands = re.findall(
        r"^Exec\w+=-?(\S+/manage\.py|\S+ \S+/manage\.py) (.*)$", unit.read_text(), re.MULTILINE
    )

    assert commands
    for _, arguments in commands:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "manage.py"), *arguments.split(), "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


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
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
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


def test_serving_by_script_without_java_says_what_to_install(tmp_path):
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["sh", str(DEPLOY / "serve.sh")],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: TorchServe needs Java 17 or newer: install one, or run")


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
