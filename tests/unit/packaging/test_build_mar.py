"""The command as a person types it: output, exit codes, what is left behind."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import build_mar
import pytest

from tests import ROOT
from tests.clips import SMALL, write_repository
from tests.forking import Fork
from tests.hub_server import HubServer

COMMAND = ROOT / "scripts" / "build_mar.py"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, which has imported torch already."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        try:
            code = build_mar.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return subprocess.CompletedProcess([], code, *capfd.readouterr())

    return call


def run_apart(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, for variables that are read at import."""
    return subprocess.run(
        [sys.executable, COMMAND, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_refused(result: subprocess.CompletedProcess[str], store: Path, *words: str) -> None:
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if not line.endswith("...")]
    assert line.startswith("build_mar.py: ")
    for word in words:
        assert word in line
    assert not list(store.glob("**/*"))


def test_it_prints_what_was_built_and_what_to_type_next(
    run: Run, small_clip: Path, tmp_path: Path
) -> None:
    result = run("--model", small_clip, "--export-path", tmp_path, "--served-name", "small")
    assert result.returncode == 0, result.stderr
    archive = tmp_path / "small@1.mar"
    assert archive.exists()
    for word in (str(archive), "UNTRAINED", "served name  small, version 1", "manage.py"):
        assert word in result.stdout
    assert re.search(r"sha256 +[0-9a-f]{64}", result.stdout)


def next_command(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The last words of what was printed, as a shell reads them."""
    return shlex.split(result.stdout.strip().rpartition("server: ")[2])


def test_a_first_version_is_registered_and_a_second_one_swapped_in(
    run: Run, small_clip: Path, tmp_path: Path
) -> None:
    store = tmp_path / "my store"
    words = ("--model", small_clip, "--export-path", store)
    for version, command in (("1", "register"), ("2", "swap")):
        archive = store / f"{small_clip.name}@{version}.mar"
        typed = ["python", "scripts/manage.py", command, str(archive)]
        assert next_command(run(*words)) == typed
    assert next_command(run(*words, "--served-name", "other"))[2] == "register"


def test_the_store_is_the_one_here_else_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_mar.parse_arguments([]).store == ROOT / "model_store"
    (tmp_path / "model_store").mkdir()
    assert build_mar.parse_arguments([]).store == Path("model_store")
    assert build_mar.parse_arguments(["--export-path", "other"]).store == Path("other")


def test_help_teaches(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    for word in ("--revision", "--precision", "HF_HOME", "examples:"):
        assert word in result.stdout


@pytest.mark.parametrize("options", [["--batch-size", "0"], ["--precision", "int3"]])
def test_wrong_arguments_are_exit_code_2(run: Run, options: list[str]) -> None:
    assert run(*options).returncode == 2


@pytest.mark.parametrize(
    "option",
    [
        *("--served-name=a b", "--served-name=../a", "--served-name=" + 201 * "a"),
        *("--version=1.", "--version=01", "--version=1.00", "--version=v1", "--version="),
    ],
)
def test_a_name_that_a_server_would_stumble_over(
    run: Run, option: str, small_clip: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    result = run("--model", small_clip, "--export-path", store, option)
    name, _, value = option.partition("=")
    assert_refused(result, store, value, name)
    assert "unnamed" not in result.stderr


def test_a_dotted_version_is_one(run: Run, small_clip: Path, tmp_path: Path) -> None:
    arguments = ("--model", small_clip, "--export-path", tmp_path, "--served-name", "small")
    assert run(*arguments, "--version", "1.0").returncode == 0
    assert (tmp_path / "small@1.0.mar").exists()
    assert "small, version 2" in run(*arguments).stdout


def test_a_model_that_does_not_exist(run: Run, hub_cache: Path, tmp_path: Path) -> None:
    result = run("--model", "acme/nothing", "--export-path", tmp_path / "store")
    assert_refused(result, tmp_path / "store", "acme/nothing does not exist", "HF_TOKEN")


def test_a_gated_model(
    run: Run, hub: HubServer, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = write_repository(tmp_path / "repo", SMALL)
    hub.add("acme/gated", repository, readers=frozenset({"hf_reader"}))
    store = tmp_path / "store"
    arguments = ("--model", "acme/gated", "--export-path", store)
    assert_refused(run(*arguments), store, "acme/gated is gated", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert run(*arguments).returncode == 0


def test_a_revision_that_does_not_exist(
    run: Run, hub: HubServer, hub_cache: Path, tmp_path: Path
) -> None:
    hub.add("acme/revised", write_repository(tmp_path / "repo", SMALL))
    store = tmp_path / "store"
    result = run("--model", "acme/revised", "--revision", "v9", "--export-path", store)
    assert_refused(result, store, "no revision 'v9'")


def test_a_revision_and_its_commit_give_the_same_weights(
    run: Run, hub: HubServer, hub_cache: Path, tmp_path: Path
) -> None:
    hub.add("acme/tagged", write_repository(tmp_path / "one", SMALL, seed=1), "v1")
    commit = hub.add("acme/tagged", write_repository(tmp_path / "two", SMALL, seed=2), "main")
    for revision in ("v1", commit):
        result = run("--model", "acme/tagged", "--revision", revision, "--export-path", tmp_path)
        assert result.returncode == 0, result.stderr
    assert f"commit {commit}" in result.stdout


@pytest.mark.parametrize("name", ["a/b/c", "no spaces", "./missing", "/missing"])
def test_what_is_no_name_at_all(run: Run, name: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert_refused(run("--model", name, "--export-path", store), store, name)


def test_an_unreachable_hub_is_said_within_5_seconds(
    run: Run, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
        begin = time.monotonic()
        result = run("--model", "acme/far", "--export-path", store)
        seconds = time.monotonic() - begin
    assert_refused(result, store, "acme/far cannot be fetched", "HF_ENDPOINT")
    assert seconds < 5


def test_the_cache_is_enough_without_the_hub(
    run: Run, hub: HubServer, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/cached", write_repository(tmp_path / "repo", SMALL))
    arguments = ("--model", "acme/cached", "--export-path", tmp_path / "store")
    for offline, code in ((True, 1), (False, 0), (True, 0)):
        # As HF_HUB_OFFLINE sets it, when the Hub's library is imported.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        result = run(*arguments)
        assert result.returncode == code
        if code:
            assert_refused(result, tmp_path / "store", "not in the cache")


def test_a_full_disk_leaves_nothing(small_clip: Path, tmp_path: Path, commands: Fork) -> None:
    """A file size limit of the process stands for the full disk."""
    store = tmp_path / "store"
    arguments = ("--model", small_clip, "--export-path", store)
    result = commands.run(COMMAND, *arguments, largest_file=100 * 1024)
    assert_refused(result, store, "no archive was written")


def test_ctrl_c_leaves_nothing(small_clip: Path, tmp_path: Path, commands: Fork) -> None:
    store = tmp_path / "store"
    running = commands.start(COMMAND, "--model", small_clip, "--export-path", store)
    running.wait_for("reading", running.err)
    os.kill(running.pid, signal.SIGINT)
    done = running.wait()
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(store.glob("**/*"))
