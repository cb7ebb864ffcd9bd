"""Where a token is found (options, environment, key file), and how one that expired is renewed."""

import json
import os
import re
import shlex
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from deepfake_tools.errors import ServiceError, TokenError
from deepfake_tools.files import locked
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.connection import KEY_FILE_NAME, Purpose, Token

TOKEN_VARIABLE = "TORCHSERVE_TOKEN"
KEY_FILE_VARIABLE = "TORCHSERVE_KEY_FILE"
LARGEST_FILE_BYTES = 64 * 1024
READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
RENEWAL_SECONDS = 10.0
WRITING_SECONDS = (0.1, 0.4)


def fresh_key(
    purpose: Purpose, key_file: Path | None, management: str, ca: Path | None = None
) -> Token | None:
    """Returns the key file's token as it is now, renewed when its time is over.

    Args:
        purpose: Which of the file's tokens.
        key_file: TorchServe's key file (--key-file).
        management: The management API's address, which renews tokens.
        ca: A file with the certificates to trust over https.

    Raises:
        TokenError: A place that was named holds no usable token, or it was not renewed.
    """

    def find() -> Token | None:
        return _find_again(lambda: find_key(purpose, key_file))

    token = find()
    if token is None or not token.has_expired:
        return token
    return _renewed(token, purpose, find, key_file, management, ca)


class Credentials:
    """The inference token of a run, which may outlive several of them. Threads share it.

    Args:
        token_file: A file that holds the token alone (--token-file).
        key_file: TorchServe's key file (--key-file).
        management: The management API's address, which renews tokens.
        ca: A file with the certificates to trust over https.

    Raises:
        TokenError: A place that was named holds no usable token.
    """

    def __init__(
        self,
        token_file: Path | None,
        key_file: Path | None,
        management: str,
        ca: Path | None = None,
    ) -> None:
        self._token_file = token_file
        self._key_file = key_file
        self._management = management
        self._ca = ca
        self._lock = threading.Lock()
        self.token = self._find()

    def replace(self, refused: Token | None) -> bool:
        """Looks for another token than one that the server has refused.

        Args:
            refused: That token; of several threads the first one looks, the others wait for it.

        Returns:
            Whether `token` is another one now.

        Raises:
            TokenError: A place that was named holds no usable token any more.
        """
        with self._lock:
            if self.token == refused:
                self.token = _find_again(self._find)
            if self.token == refused and refused is not None and refused.has_expired:
                self.token = _renewed(
                    refused,
                    Purpose.INFERENCE,
                    lambda: _find_again(self._find),
                    self._key_file,
                    self._management,
                    self._ca,
                )
            return self.token != refused

    def _find(self) -> Token | None:
        return find_token(Purpose.INFERENCE, self._token_file, self._key_file)


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


def _find_again(find: Callable[[], Token | None]) -> Token | None:
    """Reads the key file, which the server may be writing at this moment."""
    for pause in WRITING_SECONDS:
        try:
            return find()
        except TokenError:
            time.sleep(pause)
    return find()


def _renewed(
    expired: Token,
    purpose: Purpose,
    find: Callable[[], Token | None],
    key_file: Path | None,
    management: str,
    ca: Path | None,
) -> Token | None:
    """Renews the key file's token, unless another process has just done so.

    Renewing ends the old token for everybody, hence only one that has expired is renewed.
    """
    try:
        with Path(expired.source).open("rb") as file, locked(file):
            token = find()
            if token != expired:
                return token
            api = find_key(Purpose.API, key_file)
            ManagementAPI(management, api, RENEWAL_SECONDS, ca).renew_token(purpose)
            return find()
    except OSError:
        return expired
    except ServiceError as error:
        raise TokenError(
            f"the token from {expired.source} has expired, and {management} did not renew it: "
            f"{error}"
        ) from error


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
                    f"secret: {shlex.join(['chmod', '600', str(path)])}, and restart the server "
                    "for new tokens if others work here"
                )
            return file.read(LARGEST_FILE_BYTES)
    except OSError as error:
        raise TokenError(
            f"cannot read {path}: {error.strerror}. The server writes {KEY_FILE_NAME} into the "
            "folder it is started in, readable for its own user alone"
        ) from error
    except UnicodeDecodeError as error:
        raise TokenError(f"{path} is not text, so it holds no token") from error
