"""The socket that a server of this package listens on."""

from __future__ import annotations

import socket


def listening_socket(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A TCP socket that listens; port 0 takes any that is free.

    Its protocol is named, which `socket.create_server` leaves open: asyncio switches Nagle's algorithm off for such sockets
    alone, and with it every answer waits 40 ms for an acknowledgement.

    Raises:
        OSError: the port is taken, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener
