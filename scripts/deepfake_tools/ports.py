"""Whether an address and port can be listened on."""

import socket


def try_to_listen(host: str, port: int) -> None:
    """Makes sure that a server could listen there now, and leaves it free.

    Raises:
        OSError: It could not; `strerror` says why in words.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as one:
        # As servers do: connections of one that has just ended are no obstacle.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
