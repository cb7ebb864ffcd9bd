"""Where a command finds its TorchServe token: options and environment in, a Token out."""

import json
import os
import re
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from deepfake_tools.errors import TokenError

KEY_FILE_NAME = "key_file.json"
TOKEN_VARIABLE = "TORCHSERVE_TOKEN"
KEY_FILE_VARIABLE = "TORCHSERVE_KEY_FILE"
LARGEST_FILE_BYTES = 64 * 1024
READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH


class Purpose(StrEnum):
    """What a token opens, by its name in TorchServe's key file; API renews the other two."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    API = "API"


@dataclass(frozen=True)
class Token:
    """A bearer token.

    Attributes:
        value: The secret; kept out of `repr`, and so out of logs.
        source: Where it was found, for messages.
        expires: When TorchServe stops taking it, where the key file says so.
    """

    value: str = field(repr=False)
    source: str
    expires: datetime | None = None

    @property
    def has_expired(self) -> bool:
        """Whether the key file's own expiry time lies in the past."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


def find_token(
    purpose: Purpose, token_file: Path | None = None, key_file: Path | None = None
) -> Token | None:
    """Finds the token: the options, then TORCHSERVE_TOKEN, then the key file's usual places.

    Args:
        purpose: Which API it is for.
        token_file: A file that holds the token alone (--token-file).
        key_file: TorchServe's key file (--key-file).

    Returns:
        The token, or None when there is none in any place: a server may run without tokens.

    Raises:
        TokenError: A place that was named holds no usable token.
    """
    if token_file is not None:
        return _checked(_read(token_file).strip(), str(token_file))
    if key_file is None and TOKEN_VARIABLE in os.environ:
        return _checked(os.environ[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE)
    return find_key(purpose, key_file)


def find_key(purpose: Purpose, key_file: Path | None = None) -> Token | None:
    """Finds the token in TorchServe's key file: the option, TORCHSERVE_KEY_FILE, this folder.

    Args:
        purpose: Which of the file's tokens to take.
        key_file: The key file (--key-file).

    Raises:
        TokenError: The file that was named, or the one that was found, holds no such token.
    """
    if key_file is None and os.environ.get(KEY_FILE_VARIABLE):
        key_file = Path(os.environ[KEY_FILE_VARIABLE])
    if key_file is None:
        key_file = Path(KEY_FILE_NAME)
        if not key_file.exists():
            return None
    return _from_key_file(purpose, key_file)


def _from_key_file(purpose: Purpose, path: Path) -> Token:
    try:
        keys = json.loads(_read(path))
        value = keys[purpose]["key"]
        expires = keys[purpose].get("expiration time")
        expiry = None if expires is None else datetime.fromisoformat(expires).astimezone(UTC)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TokenError(
            f"{path} is not a key file of TorchServe with a key for {purpose}: give the "
            f"{KEY_FILE_NAME} that the server wrote into the folder it was started in"
        ) from error
    return _checked(value, str(path), expiry)


def _checked(value: object, source: str, expires: datetime | None = None) -> Token:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise TokenError(
            f"{source} does not hold a token: it is one line of letters, digits and signs, as "
            f'under "key" in the server\'s {KEY_FILE_NAME}'
        )
    return Token(value, source, expires)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & READABLE_BY_OTHERS:
                raise TokenError(
                    f"{path} can be read by other users of this machine, so its token is no "
                    f"secret: chmod 600 {path}, and restart the server for new tokens if others "
                    "work here"
                )
            return file.read(LARGEST_FILE_BYTES)
    except OSError as error:
        raise TokenError(
            f"cannot read {path}: {error.strerror}. The server writes {KEY_FILE_NAME} into the "
            "folder it is started in, readable for its own user alone"
        ) from error
    except UnicodeDecodeError as error:
        raise TokenError(f"{path} is not text, so it holds no token") from error
