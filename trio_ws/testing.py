"""For tests of applications and protocols on trio_ws: connected pairs, and a faulty transport.

.. code-block:: python

    async def test_my_handler(nursery, autojump_clock):
        client, server = await trio_ws.testing.websocket_pair(nursery)
        nursery.start_soon(my_handler, server)
        await client.send("hello")
        assert await client.receive() == "hello to you"
"""

from __future__ import annotations

import math
from typing import Unpack

import trio
import trio.testing

from ._client import wrap_client_stream
from ._options import StreamKeywords, Timeouts
from ._server import wrap_server_stream
from ._stream import WebSocketStream
from ._ticker import current_ticker

__all__ = ["NO_TIMEOUTS", "FaultyStream", "set_budget", "websocket_pair"]

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


class FaultyStream(trio.abc.HalfCloseableStream):
    """A stream that passes everything on to another one, and misbehaves when told to.

    :param stream: the stream below. If it can not half-close, ``send_eof`` closes it.
    :ivar max_bytes: bytes that one ``receive_some`` returns and one piece of ``send_all`` has, so
        that 1 splits everything into single bytes. Default: no limit.
    :ivar delay: seconds before each operation. Default 0.
    :ivar operations: how many operations have begun: each receive, each piece sent.

    .. code-block:: python

        stream = FaultyStream(tcp_stream)
        stream.fail_after(3, trio.BrokenResourceError())
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.max_bytes: int | None = None
        self.delay = 0.0
        self.operations = 0
        self._fail_at = math.inf
        self._error: Exception | None = None
        self._receive_gate = _Gate()
        self._send_gate = _Gate()

    def stall(self, *, receive: bool = True, send: bool = True) -> None:
        """From now on operations of the named kinds wait until :meth:`resume`."""
        if receive:
            self._receive_gate.close()
        if send:
            self._send_gate.close()

    def resume(self) -> None:
        """End what :meth:`stall` began."""
        self._receive_gate.open()
        self._send_gate.open()

    def fail_after(self, operations: int, error: Exception | None) -> None:
        """Let that many more operations pass, then let every one fail.

        :param operations: 0 lets the very next one fail.
        :param error: what they raise; None: they behave as at EOF, and what is sent is lost.
        """
        self._fail_at = self.operations + operations
        self._error = error

    async def _begin(self, gate: _Gate) -> bool:
        """Wait as told; whether this operation is to pretend EOF."""
        self.operations += 1
        failing = self.operations > self._fail_at
        await gate.wait()
        if self.delay:
            await trio.sleep(self.delay)
        if failing and self._error is not None:
            raise self._error
        return failing

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See :meth:`trio.abc.ReceiveStream.receive_some`."""
        if await self._begin(self._receive_gate):
            return b""
        limits = [limit for limit in (max_bytes, self.max_bytes) if limit is not None]
        return await self.stream.receive_some(min(limits, default=None))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :meth:`trio.abc.SendStream.send_all`."""
        size = self.max_bytes or max(len(data), 1)
        for start in range(0, max(len(data), 1), size):
            if not await self._begin(self._send_gate):
                await self.stream.send_all(data[start : start + size])

    async def wait_send_all_might_not_block(self) -> None:
        """See :meth:`trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self._send_gate.wait()
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """See :meth:`trio.abc.HalfCloseableStream.send_eof`."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            await self.stream.send_eof()
        else:
            await self.stream.aclose()

    async def aclose(self) -> None:
        """Close the stream below; operations that are stalled go on and see it closed."""
        self.resume()
        await self.stream.aclose()


class _Gate:
    """Open, or closed until somebody opens it."""

    def __init__(self) -> None:
        self._opened: trio.Event | None = None

    def close(self) -> None:
        if self._opened is None:
            self._opened = trio.Event()

    def open(self) -> None:
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def wait(self) -> None:
        if self._opened is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._opened.wait()
