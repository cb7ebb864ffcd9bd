"""A refused token in, a fresh one out: read again, and renewed only when its time is over."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from deepfake_tools.errors import ServiceError, TokenError
from deepfake_tools.locks import locked
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.tokens import Purpose, Token, find_key, find_token

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
