"""Who may open the page: everybody on this machine, or whoever the file of --auth-file names."""

import hmac
import ipaddress
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

LARGEST_FILE_BYTES = 64 * 1024
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LEAST_PASSWORD = 8
"""Characters; anybody who reaches the page may guess as often as they like."""


class AccessError(Exception):
    """The page would be open to those it is not for; the message says what to change."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_listening(host: str, accounts: Mapping[str, str] | None) -> None:
    """Refuses to show the page to other machines without asking who is there.

    Raises:
        AccessError: The address is reached from other machines, and there are no accounts.
    """
    if accounts is None and not is_loopback(host):
        raise AccessError(
            f"{host} is reached from other machines: name who may open the page with --auth-file "
            "FILE, a user:password a line, or listen on 127.0.0.1"
        )


def read_accounts(path: Path) -> dict[str, str]:
    """Reads who may open the page: `user:password` a line; blank lines and `#` lines are none.

    Returns:
        The passwords by user.

    Raises:
        AccessError: The file cannot be read, others can read it, or a line is no account.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & OTHERS:
                raise AccessError(
                    f"{path} can be read by other users of this machine, or is no regular file: "
                    f"{shlex.join(['chmod', '600', str(path)])}"
                )
            lines = file.read(LARGEST_FILE_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"{path} cannot be read as text: {error}") from error
    accounts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, separator, password = line.partition(":")
        if not separator or not user or len(password) < LEAST_PASSWORD:
            raise AccessError(
                f"{path}, line {number} is not user:password with a password of {LEAST_PASSWORD} "
                "characters or more"
            )
        accounts[user] = password
    if not accounts:
        raise AccessError(f"{path} names nobody: write user:password, one a line")
    return accounts


def opens(accounts: Mapping[str, str], user: str, password: str) -> bool:
    """Whether this is one of the accounts; how long it takes says nothing of how much is right."""
    known = accounts.get(user, "")
    same = hmac.compare_digest(known.encode(), password.encode())
    return same and user in accounts
