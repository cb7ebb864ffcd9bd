"""A refused token in, a fresh one out: read again, and renewed only when its time is over."""

import threading
import time
from pathlib import Path

from deepfake_tools.failures import ServiceError, TokenError
from deepfake_tools.locks import locked
from deepfake_tools.tokens import Purpose, Token, find_key, find_token
from deepfake_tools.torchserve import ManagementAPI

RENEWAL_SECONDS = 10.0
WRITING_SECONDS = (0.1, 0.4)


class Credentials:
    """The inference token of a run, which may outlive several of them. Threads share it.

    Args:
        token_file: A file that holds the token alone (--token-file).
        key_file: TorchServe's key file (--key-file).
        management: The management API's address, which renews tokens.

    Raises:
        TokenError: A place that was named holds no usable token.
    """

    def __init__(self, token_file: Path | None, key_file: Path | None, management: str) -> None:
        self._token_file = token_file
        self._key_file = key_file
        self._management = management
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
                self.token = self._find_again()
            if self.token == refused and refused is not None and refused.has_expired:
                self.token = self._renewed(refused)
            return self.token != refused

    def _find(self) -> Token | None:
        return find_token(Purpose.INFERENCE, self._token_file, self._key_file)

    def _find_again(self) -> Token | None:
        """Reads the key file, which the server may be writing at this moment."""
        for pause in WRITING_SECONDS:
            try:
                return self._find()
            except TokenError:
                time.sleep(pause)
        return self._find()

    def _renewed(self, expired: Token) -> Token | None:
        """Renews the key file's token, unless another process has just done so.

        Renewing ends the old token for everybody, hence only one that has expired is renewed.
        """
        try:
            with Path(expired.source).open("rb") as file, locked(file):
                token = self._find_again()
                if token != expired:
                    return token
                api = find_key(Purpose.API, self._key_file)
                management = ManagementAPI(self._management, api, RENEWAL_SECONDS)
                management.renew_token(Purpose.INFERENCE)
                return self._find_again()
        except OSError:
            return expired
        except ServiceError as error:
            raise TokenError(
                f"the token from {expired.source} has expired, and {self._management} did not "
                f"renew it: {error}"
            ) from error
