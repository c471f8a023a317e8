"""A transport for tests that misbehaves when told to."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio


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
        self.delay: float = 0.0
        self.operations: int = 0
        self._fail_at = math.inf
        self._error: Exception | None = None
        self._call_at = math.inf
        self._function: Callable[[], None] | None = None
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

    def call_after(self, operations: int, function: Callable[[], None]) -> None:
        """Let that many more operations pass, and call a function when the next one begins.

        :param operations: 0 calls it when the very next one begins.
        :param function: what to call, once. What it raises comes out of the operation.
        """
        self._call_at = self.operations + operations
        self._function = function

    async def _begin(self, gate: _Gate) -> bool:
        """Wait as told; whether this operation is to pretend EOF."""
        self.operations += 1
        failing = self.operations > self._fail_at
        if self.operations > self._call_at and self._function is not None:
            function, self._function = self._function, None
            function()
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
