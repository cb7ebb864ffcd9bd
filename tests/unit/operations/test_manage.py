import socket
import subprocess
import sys
from pathlib import Path

import cv2
import manage
import numpy as np
import pytest
from deepfake_tools.canary import canary_image
from deepfake_tools.inspection import ArchiveError
from deepfake_tools.operations.readiness import NotReadyError
from deepfake_tools.torchserve.properties import read_settings

from tests import ROOT
from tests.archives import write_archive

# Nothing listens here, so that whoever asks the server gets another exit code.
NOWHERE = ["--management", "http://127.0.0.1:9", "--server", "http://127.0.0.1:9"]
UNREACHABLE = 13


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model_store"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("change", ["register", "swap"])
def test_an_archive_in_order_goes_to_the_server(store, capsys, change):
    assert manage.main([change, str(write_archive(store)), *NOWHERE]) == UNREACHABLE
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["register", "swap"])
def test_what_is_no_archive_never_gets_to_the_server(store, tmp_path, capsys, change):
    directory = tmp_path / "acme--stub@1.mar"
    directory.mkdir()
    dots = tmp_path / "acme..stub@1.mar"
    dots.touch()
    damaged = tmp_path / "acme--stub@2.mar"
    damaged.write_bytes(write_archive(store, version="2").read_bytes()[:-1])

    for path in (directory, dots, damaged, tmp_path / "missing@1.mar"):
        assert manage.main([change, str(path), *NOWHERE]) == ArchiveError.exit_code
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_a_file_of_the_store_may_be_named_without_its_folder(store):
    write_archive(store)

    assert manage.main(["register", "acme--stub@1.mar", *NOWHERE]) == UNREACHABLE


def test_config_writes_what_a_server_starts_with(store, tmp_path, capsys):
    write_archive(store)

    assert manage.main(["config"]) == 0

    printed = capsys.readouterr().out
    assert printed == f"{tmp_path / 'served.properties'}\n"
    assert read_settings(Path(printed.strip()).read_text())["load_models"] == "acme--stub@1.mar"


def test_an_image_that_is_not_there_is_named(store, capsys):
    arguments = ["swap", str(write_archive(store)), "--image", "no.jpg", *NOWHERE]

    assert manage.main(arguments) == 16
    assert capsys.readouterr().err == "error: no.jpg: No such file or directory\n"


def test_a_start_ends_a_stop_that_was_broken_off(store, tmp_path, capsys):
    (tmp_path / "draining").write_text("manage.py stop")
    write_archive(store)

    assert manage.main(["ready", *NOWHERE]) == NotReadyError.exit_code
    assert "is being stopped" in capsys.readouterr().err
    assert manage.main(["config"]) == 0
    assert manage.main(["ready", *NOWHERE]) == UNREACHABLE


def test_a_stop_without_a_server_says_so(store, tmp_path, capsys):
    assert manage.main(["stop", "--pid-file", str(tmp_path / "pid"), *NOWHERE]) == UNREACHABLE
    assert "no TorchServe runs" in capsys.readouterr().err
    assert not (tmp_path / "draining").exists()


def test_a_folder_to_check_with_must_hold_images(store, tmp_path, capsys):
    arguments = ["swap", str(write_archive(store)), "--check", str(tmp_path), *NOWHERE]

    assert manage.main(arguments) == 2
    assert "there is no image" in capsys.readouterr().err


def test_a_folder_to_check_with_must_be_there(store, tmp_path, capsys):
    missing = tmp_path / "missing"
    arguments = ["swap", str(write_archive(store)), "--check", str(missing), *NOWHERE]

    assert manage.main(arguments) == 2
    assert capsys.readouterr().err == f"error: --check {missing}: there is no such folder\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "scale a",
        "scale a --workers 0",
        "scale a --workers ²",
        "list --management ftp://x",
        "list --timeout nan",
        "ready --wait -1",
        "probe --listen 8083",
        "probe --listen 127.0.0.1:x",
        "probe --listen 127.0.0.1:65536",
        "stop --grace nan",
        "swap a@1.mar --min-agreement 1.1",
        "swap a@1.mar --max-slowdown -1",
    ],
)
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        manage.main(arguments.split())

    assert exit_.value.code == 2


@pytest.mark.parametrize("command", manage.COMMANDS)
def test_every_command_explains_itself(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manage.py"])
    with pytest.raises(SystemExit) as exit_:
        manage.main([command, "--help"])

    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: manage.py {command}")


def test_the_script_explains_itself():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "manage.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("usage: manage.py")


def test_the_canary_image_is_a_picture():
    image = cv2.imdecode(np.frombuffer(canary_image(), np.uint8), cv2.IMREAD_COLOR)

    assert image.shape == (64, 64, 3)
    # OpenCV's order is blue, green, red.
    assert image[10, 20].tolist() == [60, 40, 80]


def test_an_address_that_the_probe_cannot_have_is_a_wrong_argument(store, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert manage.main(["probe", "--listen", listen, *NOWHERE]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --listen {listen}: Address already in use: give another address\n"
