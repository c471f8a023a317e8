"""Transports of every kind that trio_ws promises to work over, as connected pairs.

``memory`` and ``lockstep`` are Trio's; ``split`` is memory that brings 61 bytes at a time;
``socket`` is a Unix socket pair, ``tcp`` the loopback interface, both taken by the fast path;
``watched`` is a socket pair in a run with so many streams that one task reads for all, ``alone``
one in a run where no task does, as on systems without epoll;
``tls`` is TLS over TCP, ``tls_memory`` over memory; ``direct_tls`` is TLS over a socket pair that
trio_ws itself has opened, for which it has a fast path, too, ``watched_tls`` that among many, and
``alone_tls`` that alone;
``pipes`` are those of two real processes.
"""

from __future__ import annotations

import ssl
import subprocess
from functools import partial

import trio
import trio.testing
from raw_peer import Streams, make_streams

from trio_ws import WebSocketStream
from trio_ws._tls import start_tls
from trio_ws._transport import RECEIVE_SIZE, Transport
from trio_ws.testing import FaultyStream

DETERMINISTIC_KINDS = (
    "memory",
    "lockstep",
    "split",
    "socket",
    "watched",
    "alone",
    "tls_memory",
    "direct_tls",
    "watched_tls",
    "alone_tls",
)
"""Those with which everything that can happen has happened once all tasks are blocked."""

KINDS = (*DETERMINISTIC_KINDS, "tcp", "tls", "pipes")


async def connect(
    kind: str, nursery: trio.Nursery, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> Streams:
    """The transports of a client and of a server; see :func:`open_streams`."""
    if kind == "tls":
        return _secure(await open_streams("tcp", nursery), client_tls, server_tls)
    if kind == "tls_memory":
        return _secure(await open_streams("memory", nursery), client_tls, server_tls)
    if kind in ("direct_tls", "watched_tls", "alone_tls"):
        below = kind.removesuffix("_tls").replace("direct", "socket")
        client, server = await open_streams(below, nursery)
        return start_tls(client, client_tls, "localhost"), start_tls(server, server_tls)
    return await open_streams(kind, nursery)


async def open_streams(kind: str, nursery: trio.Nursery) -> Streams:
    """Any pair without TLS. What it needs to live is in *nursery*, the end of which closes it."""
    if kind == "lockstep":
        return trio.testing.lockstep_stream_pair()
    if kind == "split":
        return _split(await make_streams("memory"))
    if kind == "pipes":
        return await _pipes(nursery)
    streams = await make_streams(kind)
    for stream in streams:
        nursery.start_soon(close_in_the_end, stream)
    return streams


async def close_in_the_end(stream: trio.abc.Stream) -> None:
    """Let *stream* live as long as the nursery."""
    async with stream:
        await trio.sleep_forever()


async def read_all(transport: Transport, size: int) -> bytes:
    """Receive *size* bytes; no more may come."""
    data = bytearray()
    while len(data) < size:
        received = await transport.receive()
        assert 0 < len(received) <= RECEIVE_SIZE
        data += received
    assert len(data) == size
    return bytes(data)


def _split(streams: Streams) -> Streams:
    client, server = map(FaultyStream, streams)
    client.max_bytes = server.max_bytes = 61
    return client, server


def _secure(streams: Streams, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> Streams:
    client, server = streams
    return (
        trio.SSLStream(client, client_tls, server_hostname="localhost", https_compatible=True),
        trio.SSLStream(server, server_tls, server_side=True, https_compatible=True),
    )


async def _pipes(nursery: trio.Nursery) -> Streams:
    """Each direction through a ``cat`` of its own."""
    relay = partial(
        trio.run_process, ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False
    )
    there: trio.Process = await nursery.start(relay)
    back: trio.Process = await nursery.start(relay)
    return _staple(there.stdin, back.stdout), _staple(back.stdin, there.stdout)


def _staple(
    send_stream: trio.abc.SendStream | None, receive_stream: trio.abc.ReceiveStream | None
) -> trio.abc.Stream:
    assert send_stream is not None
    assert receive_stream is not None
    return trio.StapledStream(send_stream, receive_stream)


async def fill(ws: WebSocketStream) -> None:
    """Send binary messages, to a peer that does not read, until there is no room for more."""
    while True:
        try:
            ws.send_nowait(bytes(60_000))
        except trio.WouldBlock:
            return
        await trio.testing.wait_all_tasks_blocked()
