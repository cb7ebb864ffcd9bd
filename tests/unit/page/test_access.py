"""Who may open the page."""

import re
from pathlib import Path

import pytest
from deepfake_tools.page.access import AccessError, check_listening, opens, read_accounts


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_accounts(host: str):
    check_listening(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "page.example"])
def test_other_machines_are_not_let_in_without_accounts(host: str):
    with pytest.raises(AccessError, match="--auth-file"):
        check_listening(host, None)
    check_listening(host, {"ann": "correct horse"})


def test_accounts_are_read_and_a_password_may_hold_a_colon(tmp_path: Path):
    file = write(tmp_path / "auth", "# who\n\nann:correct horse\nbob:with:colons:\n")
    assert read_accounts(file) == {"ann": "correct horse", "bob": "with:colons:"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_reach_is_refused(mode: int, tmp_path: Path):
    file = write(tmp_path / "the accounts", "ann:correct horse\n", mode)
    with pytest.raises(AccessError, match=re.escape(f": chmod 600 '{file}'")):
        read_accounts(file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names nobody"),
        ("# ann:correct horse\n", "names nobody"),
        ("ann\n", "line 1"),
        (":correct horse\n", "line 1"),
        ("ann:correct horse\nbob:short\n", "line 2"),
    ],
)
def test_what_is_no_account_is_refused(text: str, reason: str, tmp_path: Path):
    with pytest.raises(AccessError, match=reason) as raised:
        read_accounts(write(tmp_path / "auth", text))
    assert "horse" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(AccessError, match="none"):
        read_accounts(tmp_path / "none")


def test_only_the_own_password_opens():
    accounts = {"ann": "correct horse", "bob": "battery staple"}
    assert opens(accounts, "ann", "correct horse")
    assert not opens(accounts, "ann", "battery staple")
    assert not opens(accounts, "eve", "correct horse")
    assert not opens(accounts, "eve", "")
    assert not opens(accounts, "ann", "pässword")
