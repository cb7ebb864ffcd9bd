"""HTTP within a time limit: connecting, sending and every byte of the answer, all together.

The `timeout` of requests and urllib3 holds for each attempt to connect and each read by itself. A
server that sends a byte now and then, or interim answers (`100 Continue`) without end, keeps to it
for ever.
"""

import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# How long one address of a host may take, so that another one still gets its chance.
CONNECT_SECONDS = 5.0

_deadline: ContextVar[float] = ContextVar("deadline")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bounds what this thread does with a `DeadlineAdapter`'s connections within the block."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def is_over() -> bool:
    """Whether the time of the block that this thread is in has passed."""
    return time.monotonic() >= _deadline.get()


def seconds_left(deadline: float) -> float:
    """Returns the seconds until a time of time.monotonic().

    Raises:
        TimeoutError: There are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class DeadlineReader(io.RawIOBase):
    """What a socket receives, until a time.

    Args:
        connection: The socket.
        deadline: As of time.monotonic(). A read that has not ended by then raises TimeoutError.
    """

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        # A reader of the socket's own, since one that is open keeps a closed socket alive.
        self._raw = connection.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        """Returns that it can be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        """Receives what there is, at least a byte."""
        self._connection.settimeout(seconds_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Closes the reader; the socket is left to its connection."""
        self._raw.close()
        super().close()


class DeadlineAdapter(HTTPAdapter):
    """Requests' way to a server, directly or through an HTTP proxy, by connections with a deadline.

    Whoever sends through it does so within `time_limit`, reading the answer included.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Makes the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:
        """Returns the pools of connections through a proxy."""
        manager: PoolManager = super().proxy_manager_for(proxy, **kwargs)
        if proxy.lower().startswith("http"):
            _bound(manager)
        return manager


class _TimedResponse(HTTPResponse):
    """An answer, or a proxy's to CONNECT; its reader also reads status lines and headers."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(DeadlineReader(sock, _deadline.get()))


class _Connection(HTTPConnection):
    response_class = _TimedResponse

    def _new_conn(self) -> socket.socket:
        # As urllib3's own, which gives each of a host's addresses the whole time.
        try:
            addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = socket.gaierror(socket.EAI_NONAME, str(error))
            raise NameResolutionError(self.host, self, reason) from error
        failure: OSError = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(min(CONNECT_SECONDS, seconds_left(_deadline.get())))
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                # TLS begins within what is left; urllib3 sets the time limit of each read anew.
                connection.settimeout(seconds_left(_deadline.get()))
                return connection
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"{self.host} took no connection") from failure
        raise NewConnectionError(self, str(failure)) from failure

    def send(self, data: Any) -> None:
        """Sends a part of the request; urllib3 gives the body in parts of some kilobytes."""
        if self.sock is not None:
            self.sock.settimeout(seconds_left(_deadline.get()))
        super().send(data)


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
