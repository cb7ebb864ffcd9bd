import json
import subprocess
import sys
from typing import Any

import audit
import pytest
from audit import bundled_versions, torchserve_jar

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}


def dependency(**changes: Any) -> dict[str, Any]:
    return {"name": "library", "version": "1.0", "vulns": [], **changes}


def answer(monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "") -> None:
    done = subprocess.CompletedProcess([], 1, stdout, stderr)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(sys, "argv", ["audit.py"])


def run(monkeypatch: pytest.MonkeyPatch, *dependencies: dict[str, Any]) -> int:
    answer(monkeypatch, json.dumps({"dependencies": dependencies}))
    return audit.main()


def test_nothing_known_is_good(monkeypatch, capsys):
    assert run(monkeypatch, dependency()) == 0
    assert "1 Python libraries" in capsys.readouterr().out


def test_what_is_known_is_named_with_the_remedy(monkeypatch, capsys):
    assert run(monkeypatch, dependency(vulns=[FLAW])) == audit.FOUND
    assert "! library 1.0: PYSEC-1, CVE-1, fixed in 2.1" in capsys.readouterr().out


def test_what_the_table_lists_is_known_already(monkeypatch):
    assert run(monkeypatch, dependency(vulns=[FLAW | {"aliases": ["CVE-2024-29025"]}])) == 0


def test_a_library_that_nobody_knows_is_not_taken_for_a_good_one(monkeypatch, capsys):
    skipped = {"name": "library", "skip_reason": "Dependency not found on PyPI"}

    assert run(monkeypatch, dependency(), skipped) == audit.UNKNOWN
    assert "knows nothing of 1 of 2 libraries, such as library" in capsys.readouterr().err


def test_a_service_that_is_not_reached_is_said(monkeypatch, capsys):
    answer(monkeypatch, "", "Traceback\nConnectionError: no route")

    assert audit.main() == audit.UNKNOWN
    assert "nothing is known of Python's libraries: ConnectionError: no route" in (
        capsys.readouterr().err
    )


def test_the_table_is_about_the_jar_that_is_installed():
    expected = dict(audit.BUNDLED_ROW.findall(audit.TABLE.read_text()))

    assert bundled_versions(torchserve_jar()) == expected
    assert "?" not in expected.values()


def test_another_jar_is_noticed():
    listed = audit.TABLE.read_text().replace("4.1.53.Final |", "4.1.54.Final |")

    (finding,) = audit.java_findings(listed)
    assert "TorchServe brings netty 4.1.53.Final, and dependencies.md lists 4.1.54.Final" in finding
