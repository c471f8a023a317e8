"""For tests of what is built on trio_ws, without sockets and without waiting.

:func:`websocket_pair` connects a client and a server in one process, :class:`FaultyStream` is a
transport that misbehaves when told to. :func:`cancel_every_step` runs a scenario again and again,
each time in a Trio run of its own, and cancels it ever later, between any two steps;
:func:`fail_every_operation` does the same with a transport that fails.

.. example: tests

.. code-block:: python

    async def greet(ws):
        async for name in ws:
            await ws.send(f"hello {name}")

    async def test_greet(nursery, autojump_clock):
        client, server = await trio_ws.testing.websocket_pair(nursery)
        nursery.start_soon(greet, server)
        await client.send("Ada")
        assert await client.receive() == "hello Ada"
"""

from __future__ import annotations

from typing import Unpack

import trio
import trio.testing

from ._client import wrap_client_stream
from ._faulty import FaultyStream
from ._options import StreamKeywords, Timeouts
from ._server import wrap_server_stream
from ._stream import WebSocketStream
from ._sweep import (
    CancelProbe,
    Fault,
    FaultProbe,
    SweepResult,
    cancel_every_step,
    fail_every_operation,
)
from ._ticker import current_ticker

__all__ = [
    "NO_TIMEOUTS",
    "CancelProbe",
    "Fault",
    "FaultProbe",
    "FaultyStream",
    "SweepResult",
    "cancel_every_step",
    "fail_every_operation",
    "set_budget",
    "websocket_pair",
]

NO_TIMEOUTS = Timeouts(handshake=None, idle=None, keep_alive_pings=False)
"""No limit and no ping, so that nothing but the test itself makes an autojump clock jump."""


async def websocket_pair(
    nursery: trio.Nursery,
    streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
    *,
    client: StreamKeywords | None = None,
    server: StreamKeywords | None = None,
    **both: Unpack[StreamKeywords],
) -> tuple[WebSocketStream, WebSocketStream]:
    """A client and a server that have shaken hands, in one process.

    :param nursery: where the background tasks of both run.
    :param streams: the transports of client and server, connected to each other. Default: a
        ``trio.testing.memory_stream_pair()``.
    :param client: options of the client alone, as a dictionary.
    :param server: options of the server alone, as a dictionary.
    :param both: options of both, see :class:`trio_ws.StreamOptions`. ``timeouts`` is
        :data:`NO_TIMEOUTS` unless given.
    :returns: ``(client, server)``.
    :raises ValueError: an option is out of range.
    :raises trio_ws.HandshakeError: *streams* do not work.

    Cancellation closes both transports.
    """
    client_stream, server_stream = streams or trio.testing.memory_stream_pair()
    for_both: StreamKeywords = {"timeouts": NO_TIMEOUTS, **both}
    opened: dict[str, WebSocketStream] = {}
    errors: list[Exception] = []

    async def connect() -> None:
        options: StreamKeywords = {**for_both, **(client or {})}
        try:
            opened["client"] = await wrap_client_stream(
                nursery, client_stream, host="test", **options
            )
        except Exception as error:
            errors.append(error)

    async def accept() -> None:
        options: StreamKeywords = {**for_both, **(server or {})}
        try:
            opened["server"] = await wrap_server_stream(nursery, server_stream, **options)
        except Exception as error:
            errors.append(error)

    async with trio.open_nursery() as handshakes:
        handshakes.start_soon(connect)
        handshakes.start_soon(accept)
    if errors:
        raise errors[0]
    return opened["client"], opened["server"]


def set_budget(budget: int) -> None:
    """What all streams of this Trio run may spend before a call of one yields to other tasks.

    :param budget: bytes; each message counts 2 KiB more than its length. 1 makes every call of a
        stream's method a schedule point, which is what ``trio.testing.assert_checkpoints`` wants.
    :raises ValueError: *budget* is less than 1.
    """
    if budget < 1:
        raise ValueError(f"budget={budget}: give 1 or more")
    current_ticker().set_budget(budget)
