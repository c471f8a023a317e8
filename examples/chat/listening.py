"""Where a server process listens: on a port of its own, or on one that several share."""

from __future__ import annotations

import socket

import trio


async def open_listeners(
    host: str, port: int, *, shared: bool = False
) -> list[trio.SocketListener]:
    """Listen on a port.

    :param port: 0 lets the system choose.
    :param shared: whether other processes may listen on it too (SO_REUSEPORT): each new connection
        is given to one of them.
    :raises OSError: it can not be listened on.
    """
    if not shared:
        return await trio.open_tcp_listeners(port, host=host)
    sock = await _bind(host, port, shared=True)
    sock.listen(1024)
    return [trio.SocketListener(sock)]


async def reserve_port(host: str, port: int) -> trio.socket.SocketType:
    """A socket that has a port without listening on it, for those alone who share it.

    Linux looks at a socket's options when another is bound, and not only when it is bound itself:
    so this one is bound as if nobody else could have the port, and shared then. Who reserves the
    same port between these lines would have it too.

    :raises OSError: somebody has the port, shared or not.
    """
    sock = await _bind(host, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


async def _bind(host: str, port: int, *, shared: bool = False) -> trio.socket.SocketType:
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        await sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def url_of(sock: trio.socket.SocketType, *, secure: bool) -> str:
    """The address of the page."""
    host, port, *_ = sock.getsockname()
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"
