"""Servers that never come to an end, on real sockets."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TICK_S = 0.05
AN_END_S = 5.0  # far beyond every time limit that a test sets


class Visit:
    """A client's connection, and the end of the test."""

    def __init__(self, connection: socket.socket, over: threading.Event) -> None:
        self.connection = connection
        self.over = over

    def read_request(self) -> bytes:
        """Reads up to the end of the headers."""
        head = b""
        while b"\r\n\r\n" not in head and (more := self.connection.recv(65536)):
            head += more
        return head

    def send_slowly(self, part: bytes) -> None:
        """Sends the same part again and again."""
        for _ in range(round(AN_END_S / TICK_S)):
            self.connection.sendall(part)
            if self.over.wait(TICK_S):
                return


@contextmanager
def slow_server(play: Callable[[Visit], None]) -> Iterator[int]:
    """Plays something to each client; yields the port."""
    over = threading.Event()

    def visit(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            play(Visit(connection, over))

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=visit, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, args=(listening,), daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def continue_for_ever(visit: Visit) -> None:
    visit.read_request()
    visit.send_slowly(b"HTTP/1.1 100 Continue\r\n\r\n")


def trickle_status(visit: Visit) -> None:
    visit.read_request()
    visit.connection.sendall(b"HTTP/1.1 200 ")
    visit.send_slowly(b"O")


def trickle_headers(visit: Visit) -> None:
    visit.read_request()
    visit.connection.sendall(b"HTTP/1.1 200 OK\r\n")
    visit.send_slowly(b"a: b\r\n")


def trickle_body(visit: Visit) -> None:
    visit.read_request()
    visit.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    visit.send_slowly(b" ")


def trickle_last_body(visit: Visit) -> None:
    """The body's end is the connection's."""
    visit.read_request()
    visit.connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    visit.send_slowly(b" ")


def trickle_chunks(visit: Visit) -> None:
    visit.read_request()
    visit.connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    visit.send_slowly(b"1\r\n \r\n")


def take_body_slowly(visit: Visit) -> None:
    visit.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(round(AN_END_S / TICK_S)):
        visit.connection.recv(4096)
        if visit.over.wait(TICK_S):
            return


def say_nothing(visit: Visit) -> None:
    visit.over.wait(AN_END_S)
