"""Imports point one way: what each folder may import, and nothing else."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import ROOT

DETECTOR = {"clip_deepfake"}
SHARED = DETECTOR | {"shared"}
ASKING = SHARED | {"torchserve", "videos", "evaluation"}

MAY_IMPORT = {
    "clip_deepfake": set(),
    "shared": DETECTOR,
    "torchserve": SHARED,
    "videos": SHARED,
    "evaluation": SHARED | {"torchserve", "videos"},
    "client": ASKING,
    "deciding": ASKING | {"client"},
    "packaging": SHARED,
    "training": SHARED | {"torchserve", "videos", "evaluation", "packaging"},
    "operations": ASKING | {"client"},
    "page": ASKING | {"client"},
    "bulk": ASKING | {"client"},
    "demonstration": SHARED,
    "benchmarks": SHARED | {"torchserve", "packaging", "operations", "demonstration"},
    "drills": SHARED | {"torchserve", "packaging", "operations", "demonstration", "benchmarks"},
}
"""By folder, itself left out. `shared` is what lies in deepfake_tools itself."""

PLACES = {
    "clip_deepfake": ROOT / "handler" / "clip_deepfake",
    "benchmarks": ROOT / "benchmarks",
    "drills": ROOT / "tests" / "drills",
}
TOOLS = ROOT / "scripts" / "deepfake_tools"


def files_of(room: str) -> list[Path]:
    if room == "shared":
        return sorted(TOOLS.glob("*.py"))
    return sorted(PLACES.get(room, TOOLS / room).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere, within functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(name: str) -> str | None:
    """The folder that an imported name lies in; None of other people's packages."""
    top, *rest = name.split(".")
    if top == "deepfake_tools":
        return rest[0] if rest and (TOOLS / rest[0]).is_dir() else "shared"
    if top == "tests":
        return "drills" if rest[:1] == ["drills"] else None
    return top if top in PLACES else None


def test_every_folder_has_a_rule() -> None:
    folders = {path.name for path in TOOLS.iterdir() if (path / "__init__.py").exists()}
    assert folders | {"shared", *PLACES} == set(MAY_IMPORT)


def test_the_rules_go_round_in_no_circle() -> None:
    left = dict(MAY_IMPORT)
    while left:
        free = {room for room, below in left.items() if not below & left.keys()}
        assert free, f"each of {sorted(left)} waits for another"
        left = {room: below for room, below in left.items() if room not in free}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_folder_imports_upwards(room: str) -> None:
    files = files_of(room)
    assert files
    found = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if room_of(name) not in (None, room, *MAY_IMPORT[room])
    }
    assert not found


def test_a_worker_knows_nothing_of_torchserve() -> None:
    names = {name.split(".")[0] for file in files_of("clip_deepfake") for name in imported(file)}
    assert not names & {"ts", "deepfake_tools", "deepfake_handler"}


WITH_REQUESTS = ("requests", "urllib3", "certifi", "idna", "charset_normalizer")
"""`requests` and what pip installs with it."""


def file_of(module: str) -> Path | None:
    """The file of a module or package of this project; None of anything else."""
    for top in (ROOT / "scripts", ROOT / "handler"):
        path = top.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def imported_at_once(file: Path) -> Iterator[str]:
    """Full names of what a file imports when it is imported itself."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("command", ["client", "manage"])
def test_who_asks_a_server_imports_nothing_beyond_requests_and_python(command: str) -> None:
    allowed = {*sys.stdlib_module_names, *WITH_REQUESTS, "deepfake_tools", "clip_deepfake"}
    waiting, seen, found = [command], set(), set()
    while waiting:
        file = file_of(waiting.pop())
        if file is None or file in seen:
            continue
        seen.add(file)
        for name in imported_at_once(file):
            top, *rest = name.split(".")
            waiting += [".".join([top, *rest[:depth]]) for depth in range(len(rest) + 1)]
            if top not in allowed:
                found.add(f"{file.relative_to(ROOT)} imports {name}")
    assert len(seen) > 20
    assert not found


@pytest.fixture
def requests_alone(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python, started with -S, that finds `requests` and nothing else."""
    for name in WITH_REQUESTS:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        (tmp_path / name).symlink_to(package)
    for compiled in package.parent.glob("*__mypyc*.so"):  # charset_normalizer's
        (tmp_path / compiled.name).symlink_to(compiled)
    return {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}


def run_bare(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-S", *words]
    # Not in the clone, where an installation leaves metadata.
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)


@pytest.mark.parametrize("command", ["client", "manage"])
def test_who_asks_a_server_starts_where_only_requests_is_installed(
    command: str, requests_alone: dict[str, str]
) -> None:
    done = run_bare(requests_alone, str(ROOT / "scripts" / f"{command}.py"), "--help")
    assert done.returncode == 0, done.stderr


def test_where_only_requests_is_installed_there_is_nothing_else(
    requests_alone: dict[str, str],
) -> None:
    code = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    assert run_bare(requests_alone, "-c", code).stdout == "\n"
    refused = run_bare(requests_alone, "-c", "import msgspec")
    assert "No module named 'msgspec'" in refused.stderr
