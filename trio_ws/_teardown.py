"""How the transport of a stream ends: who ends TCP first, how, and how long that may take.

Theory of operation
-------------------

After the Close frames the server half-closes and waits for EOF; the client waits for the server's
(RFC 6455 section 7.1.1). A side that has failed the connection half-closes, whichever it is.
Closing a socket with unread input would send a reset, which can destroy the Close that is under
way; so what still arrives is read and dropped.

The deadline of the whole close is kept by the stream; here it is only brought forward, when all is
said: a peer that keeps TCP open without a reason must not hold a handler for long.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from ._deadlines import Deadlines
from ._protocol import Protocol, Role, State
from ._transport import Transport
from ._writer import Writer

_LINGER: Final = 1.0
"""Seconds for the peer to end TCP when all is said: both Closes, or, where there is no half-close,
why the connection has failed."""

_FAILED_LINGER: Final = 5.0
"""Seconds for the peer to read why the connection has failed and to end TCP, after a half-close."""


class Teardown:
    """The end of one stream's transport.

    :param stream: the stream below.
    :param transport: that of *stream*.
    :param deadlines: may be brought forward.
    :ivar bytes_discarded: bytes that have been read and dropped.
    """

    __slots__ = (
        "_deadlines",
        "_protocol",
        "_stream",
        "_transport",
        "_writer",
        "bytes_discarded",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        transport: Transport,
        protocol: Protocol,
        writer: Writer,
        deadlines: Deadlines,
    ) -> None:
        self._stream = stream
        self._transport = transport
        self._protocol = protocol
        self._writer = writer
        self._deadlines = deadlines
        self.bytes_discarded = 0

    async def linger(self, on_hastened: Callable[[], None]) -> None:
        """Let the last bytes leave, end TCP if that is for this side to do, and wait for the peer.

        :param on_hastened: called when the deadlines have been brought forward.

        It is the caller's to cancel it when the deadline has passed.
        """
        if self._protocol.state is State.LOST:
            return
        if self._writer.is_drained and self._transport.can_write_nowait:
            # So almost all end: without a task for it, a tenth of the time of a connection.
            await self._end_sending(on_hastened)
            await self._discard_until_eof()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_sending, on_hastened)
            if self._transport.can_send_eof or not self._is_closed_server():
                await self._discard_until_eof()

    async def close(self) -> None:
        """Close the transport in order, before the deadline if it has one."""
        if not self._writer.is_busy and self._transport.abort():
            return
        with trio.CancelScope(deadline=self._deadlines.close_at):
            await self._writer.wait_stopped()
            await self._transport.aclose()

    async def abort(self) -> None:
        """Close the transport now; in this very step, if it can."""
        if not self._transport.abort():
            with trio.CancelScope(shield=True), suppress(Exception):
                await trio.aclose_forcefully(self._stream)

    @enable_ki_protection
    async def _end_sending(self, on_hastened: Callable[[], None]) -> None:
        """The last bytes, and then EOF if it is for this side to end TCP."""
        await self._writer.wait_drained()
        failed = self._protocol.state is State.FAILED
        if self._transport.can_send_eof and (failed or self._is_closed_server()):
            await self._transport.send_eof()
        linger = _FAILED_LINGER if failed and self._transport.can_send_eof else _LINGER
        self._deadlines.hasten(trio.current_time() + linger)
        on_hastened()

    def _is_closed_server(self) -> bool:
        return self._protocol.state is State.CLOSED and self._protocol.role is Role.SERVER

    async def _discard_until_eof(self) -> None:
        with suppress(Exception):
            while data := await self._transport.receive():
                self.bytes_discarded += len(data)
