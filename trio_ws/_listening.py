"""What a server listens on: ports and addresses, and what they are called in the log."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import trio

Listeners: TypeAlias = Sequence[trio.abc.Listener[trio.abc.Stream]]

_PORT_ATTEMPTS: Final = 20
"""Ports that are tried to find one that is free for all addresses of a host."""


async def listen(
    port: int | None,
    host: str | None,
    listeners: Listeners | None,
) -> Listeners:
    """What :func:`serve_websocket` listens on, by its parameters of the same names.

    :raises ValueError: they do not go together.
    :raises TypeError: the port is not an int.
    :raises OSError: the port can not be listened on.
    """
    if (port is None) == (listeners is None):
        raise ValueError("give either a port or listeners")
    if listeners is None:
        assert port is not None
        if not isinstance(port, int):
            raise TypeError(f"port={port!r}: give an int, such as 8000")
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port={port}: give 1 to 65535, or 0 to let the system choose")
        listeners = await _listen_by_tcp(port, host)
    elif host is not None:
        raise ValueError("give host together with a port, not with listeners")
    return tuple(listeners)


def check_server_context(ssl_context: ssl.SSLContext | None) -> None:
    """Find out now whether TLS can be spoken with it, and not when the first client comes.

    :raises TypeError: it is something else.
    :raises ValueError: it is for clients alone.
    """
    if ssl_context is None:
        return
    fix = "make it by ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
    if not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}: {fix}")
    try:
        ssl_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"ssl_context can not be used by a server: {fix}") from error


async def _listen_by_tcp(port: int, host: str | None) -> list[trio.SocketListener]:
    """As Trio does, but port 0 is the same one for all addresses of a host."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    attempts = _PORT_ATTEMPTS
    while len({port_of(each) for each in listeners}) > 1:
        chosen = port_of(listeners[0])
        assert chosen is not None
        for each in listeners:
            each.socket.close()
        try:
            listeners = await trio.open_tcp_listeners(chosen, host=host)
        except OSError:
            # One of the addresses has this port in use: let the system choose another.
            attempts -= 1
            if not attempts:
                raise
            listeners = await trio.open_tcp_listeners(port, host=host)
    return listeners


def port_of(listener: trio.abc.Listener[trio.abc.Stream]) -> int | None:
    """The TCP port of a listener, with or without TLS; None if it has none."""
    if isinstance(listener, trio.SSLListener):
        return port_of(listener.transport_listener)
    if not isinstance(listener, trio.SocketListener):
        return None
    if listener.socket.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    port: int = listener.socket.getsockname()[1]
    return port


def name_listener(listener: trio.abc.Listener[trio.abc.Stream]) -> str:
    """The address that it listens on, or at least its kind."""
    if isinstance(listener, trio.SSLListener):
        return name_listener(listener.transport_listener)
    if isinstance(listener, trio.SocketListener):
        address = listener.socket.getsockname()
        return _name_address(address) or str(address)
    return type(listener).__name__


def name_peer(stream: trio.abc.Stream) -> str:
    """How to call the client in the log."""
    if isinstance(stream, trio.SSLStream):
        return name_peer(stream.transport_stream)
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):
            return _name_address(stream.socket.getpeername()) or "a client"
    return "a client"


def _name_address(address: object) -> str | None:
    """An address of TCP; None for any other."""
    match address:
        case (str(host), int(port), *_):
            return f"{host} port {port}"
    return None
