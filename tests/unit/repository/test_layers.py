"""Imports point one way: what each folder may import, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

DETECTOR = {"clip_deepfake"}
SHARED = DETECTOR | {"shared"}
ASKING = SHARED | {"torchserve", "evaluation"}

MAY_IMPORT = {
    "clip_deepfake": set(),
    "shared": DETECTOR,
    "torchserve": SHARED,
    "evaluation": SHARED | {"torchserve"},
    "client": ASKING,
    "packaging": SHARED,
    "training": SHARED | {"torchserve", "evaluation", "packaging"},
    "operations": ASKING | {"client"},
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
