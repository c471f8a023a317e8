"""Where a server process listens: a port of its own, or one that several share."""

from __future__ import annotations

import socket

import trio


async def open_listeners(
    host: str, port: int, *, shared: bool = False
) -> list[trio.SocketListener]:
    """Listen on a port.

    :param port: 0 lets the system choose.
    :param shared: whether other processes may listen on it too: the system gives each new
        connection to one of them (SO_REUSEPORT).
    :raises OSError: it can not be listened on.
    """
    if not shared:
        return await trio.open_tcp_listeners(port, host=host)
    listener = await bind_shared(host, port)
    listener.listen(1024)
    return [trio.SocketListener(listener)]


async def bind_shared(host: str, port: int) -> trio.socket.SocketType:
    """A socket that has a port, and lets others have it too; it does not listen.

    :raises OSError: somebody has the port who does not share it.
    """
    family, _, _, _, address = (
        await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    )[0]
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        await sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
