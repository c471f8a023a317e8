"""For tests of what is built on trio_ws, without sockets and without waiting.

:func:`websocket_pair` connects a client and a server in one process, :class:`FaultyStream` is a
transport that misbehaves when told to, and :func:`cancel_every_step` cancels a call at every point
where it can be cancelled.

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

import math
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, TypeVarTuple, Unpack

import trio
import trio.testing

from ._client import wrap_client_stream
from ._options import StreamKeywords, Timeouts
from ._server import wrap_server_stream
from ._stream import WebSocketStream
from ._ticker import current_ticker

__all__ = [
    "NO_TIMEOUTS",
    "CancelledCall",
    "FaultyStream",
    "cancel_every_step",
    "set_budget",
    "websocket_pair",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

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


def cancel_every_step() -> Iterator[CancelledCall]:
    """Rounds of a test in which one call is cancelled ever later, until it ends first.

    In the first round the call is cancelled before it begins, in the next one after one scheduler
    tick, then after two, and so on. So what has to hold wherever a call is cancelled is shown for
    every place, but for the order in which other tasks run in a tick, which is chance.

    :returns: an iterator of :class:`CancelledCall`, one for each round.
    :raises RuntimeError: a round has ended, and its :class:`CancelledCall` was not called.

    The call must end by itself, or there is no last round.

    .. example: tests

    .. code-block:: python

        async def test_a_cancelled_receive_loses_nothing():
            for cancelled_call in trio_ws.testing.cancel_every_step():
                async with trio.open_nursery() as nursery:
                    client, server = await trio_ws.testing.websocket_pair(nursery)
                    await client.send("hello")
                    message = await cancelled_call(server.receive)
                    if cancelled_call.was_cancelled:
                        message = await server.receive()
                    assert message == "hello"
                    nursery.cancel_scope.cancel()
    """
    ticks = 0
    was_cancelled: bool | None = True
    while was_cancelled:
        call = CancelledCall(ticks)
        yield call
        was_cancelled = call.was_cancelled
        if was_cancelled is None:
            raise RuntimeError("this round has not called what it was to cancel")
        ticks += 1


class CancelledCall:
    """One round of :func:`cancel_every_step`: calls a function, and cancels the call.

    :ivar ticks: scheduler ticks between the beginning of the call and its cancellation.
    :ivar was_cancelled: whether the call was cancelled; None before it has ended.
    """

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.was_cancelled: bool | None = None

    async def __call__(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T | None:
        """Call *function* in this task, and cancel it when its time has come.

        :param function: an async function; what follows are its arguments.
        :returns: what *function* returned, or None if it was cancelled.

        What *function* raises comes out.
        """
        self.was_cancelled = False
        with trio.CancelScope() as scope:
            canceller = _Canceller(scope, self.ticks)
            trio.lowlevel.add_instrument(canceller)
            try:
                return await function(*args)
            finally:
                trio.lowlevel.remove_instrument(canceller)
        self.was_cancelled = True
        return None


class _Canceller(trio.abc.Instrument):
    """Cancels a scope between two ticks, when no task runs."""

    def __init__(self, scope: trio.CancelScope, ticks: int) -> None:
        self._scope = scope
        self._ticks_left = ticks
        if ticks == 0:
            scope.cancel()

    def after_io_wait(self, timeout: float) -> None:
        """A tick has ended."""
        self._ticks_left -= 1
        if self._ticks_left == 0:
            self._scope.cancel()


class FaultyStream(trio.abc.HalfCloseableStream):
    """A stream that passes everything on to another one, and misbehaves when told to.

    :param stream: the stream below. If it can not half-close, ``send_eof`` closes it.
    :ivar max_bytes: bytes that one ``receive_some`` returns and one piece of ``send_all`` has, so
        that 1 splits everything into single bytes. Default: no limit.
    :ivar delay: seconds before each operation. Default 0.
    :ivar operations: how many operations have begun: each receive, each piece sent.

    .. example: fragment

    .. code-block:: python

        left, right = trio.testing.memory_stream_pair()
        faulty = trio_ws.testing.FaultyStream(right)
        client, server = await trio_ws.testing.websocket_pair(nursery, (left, faulty))
        faulty.fail_after(3, trio.BrokenResourceError())
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
        self._received: bytes | bytearray = b""

    def stall(self, *, receive: bool = True, send: bool = True) -> None:
        """Until :meth:`resume` nothing is received and nothing that begins is sent.

        :param receive: whether to stall receiving: also a ``receive_some`` that waits already.
        :param send: whether to stall sending; a piece that is being sent is not held up.
        """
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
        limit = min(limits, default=None)
        if not self._received:
            self._received = await self.stream.receive_some(limit)
            if self._receive_gate.is_closed:
                # Cancelled here, the bytes are for the next call.
                await self._receive_gate.wait()
        data = self._received[:limit]
        self._received = self._received[len(data) :]
        return data

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

    @property
    def is_closed(self) -> bool:
        return self._opened is not None

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
