"""Reads what arrives on one stream, while there is room for it in the inbox.

Theory of operation
-------------------

All that is read and decoded goes to whoever made the reader, event by event and in order. It is
done in steps: one read at most, and not more decoding than others can wait for. Between two steps
there is an await of the reader's; or, while nothing but steps is needed, the reader sleeps and the
poller takes them for it, or a task that waits for a message (see :mod:`trio_ws._poller`).

When the inbox is full nothing is read: that is how a slow application slows its peer down. What was
read already, and can not be decoded for lack of room, stays undecoded. Who takes messages out calls
:meth:`Reader.resume_if_room`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ._deadlines import Deadlines
from ._frames import Buffer
from ._inbox import Inbox
from ._poller import Next, Poller, Watch
from ._protocol import RECEIVING, Event, Protocol
from ._receivers import Receivers
from ._transport import RECEIVE_SIZE, Transport
from ._waiting import Sleeper, call_nobody
from ._writer import Writer

# An attribute of an enum costs as much as a whole check.
_READ: Final = Next.READ

_DECODE_STEP: Final = 256 * 1024
"""What the reader decodes before others have their turn, in the units of ``Protocol.decode``."""

_READ_AHEAD: Final = 16 * 1024
"""Bytes that may be read beyond the room in the inbox, and wait undecoded."""


class Reader:
    """The reading side of one stream.

    :param inbox: what is received, and nobody has waited for, goes there.
    :param receivers: the tasks that wait for it.
    :param writer: a failed write changes what is to be read.
    :param deadlines: they are told of what arrives, and of pauses.
    :param max_inbox_size: bytes in the inbox above which nothing is read. It may be changed.
    :param handle: called with the events of each step.
    :param on_lost: called when the transport has ended, with the reason if it is an error.
    :param on_resumed: called when silence counts again, after a pause.
    """

    __slots__ = (
        "_deadlines",
        "_handle",
        "_inbox",
        "_on_lost",
        "_on_resumed",
        "_paused_watch",
        "_poller",
        "_protocol",
        "_receivers",
        "_sleeper",
        "_transport",
        "_writer",
        "max_inbox_size",
    )

    def __init__(
        self,
        protocol: Protocol,
        transport: Transport,
        inbox: Inbox,
        receivers: Receivers,
        writer: Writer,
        deadlines: Deadlines,
        poller: Poller,
        max_inbox_size: int,
        *,
        handle: Callable[[list[Event]], None],
        on_lost: Callable[[Exception | None], None],
        on_resumed: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._inbox = inbox
        self._receivers = receivers
        self._writer = writer
        self._deadlines = deadlines
        self._poller = poller
        self.max_inbox_size = max_inbox_size
        self._handle = handle
        self._on_lost = on_lost
        self._on_resumed = on_resumed
        # While there is no room the reader sleeps; or who reads for it leaves this watch alone.
        self._sleeper = Sleeper()
        self._paused_watch: Watch | None = None

    async def read(self) -> None:
        """Until a Close or a violation has been received, or the transport has ended.

        Cancelling it loses nothing.
        """
        # In one coroutine, for an idle connection holds what it stands in.
        protocol, transport = self._protocol, self._transport
        while protocol.state in RECEIVING:
            if protocol.stalled:
                await self._let_others_run()
            room = self._room()
            if room <= 0:
                if self._writer.error is None:
                    await self._pause()
                else:
                    # Whoever could make room may be waiting to send, which nobody will.
                    self._on_lost(self._writer.error)
                continue
            if protocol.stalled:
                self._handle(protocol.decode(b"", room))
                continue
            if self._poller.can_watch and transport.can_watch:
                try:
                    await transport.watch(self._poller, self._read_available)
                except trio.ClosedResourceError as closed:
                    if not protocol.stalled:
                        # Else it comes here again, when what has been read is decoded.
                        # Its traceback would hold the stream, which holds it.
                        self._on_lost(closed.with_traceback(None))
                continue
            data: Buffer | None = None
            error: Exception | None = None
            try:
                limit = self._receive_limit(room)
                await transport.wait_received(limit)
                data = transport.receive_nowait(limit)
            except Exception as caught:
                error = caught
            if error is not None:
                # A writer that is cancelled together with this task may have broken TLS already.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._on_lost(error)
                continue
            if transport.has_unsent:
                self._writer.committed(gather=self._inbox.size > 0)
            if data is not None:
                self._take(data, self._room(), trio.current_time())

    def _read_available(self, watch: Watch, now: float) -> Next:
        """One read, or what the decoder has kept of the one before, in a task of the poller's or a
        leader's; and what is to follow.
        """
        protocol, transport, room = self._protocol, self._transport, self._room()
        following = _READ
        # A cancelled receive may have left a part of a message that is above that of the inbox.
        if room > 0:
            if protocol.stalled:
                self._handle(protocol.decode(b"", room))
                # So much has come that there may be more; not to be told of it saves three calls.
                following = Next.AGAIN
            else:
                try:
                    data = transport.receive_nowait(self._receive_limit(room))
                except Exception as error:
                    self._on_lost(error)
                    return Next.READER
                if data is not None:
                    self._take(data, room, now)
        if protocol.is_ending or protocol.state not in RECEIVING or not transport.can_watch:
            return Next.READER
        may_be_full = self._inbox.size or protocol.in_message
        if may_be_full and self._room() <= 0:
            return self._pause_watch(watch)
        return Next.AGAIN if protocol.stalled else following

    def _pause_watch(self, watch: Watch) -> Next:
        """There is no room; unless nobody will make any, which is for the reader to see."""
        if self._writer.error is not None:
            return Next.READER
        self._begin_pause()
        self._paused_watch = watch
        return Next.PAUSE

    def _take(self, data: Buffer, room: int, now: float) -> None:
        """Bytes that the transport has brought; none if it has ended."""
        if not data:
            self._on_lost(self._writer.error)
            return
        self._deadlines.received(now)
        self._writer.wrote_at_once = False
        self._handle(self._protocol.decode(data, room))

    def _receive_limit(self, room: int) -> int:
        """As much as one system call can bring; but not much more than there is room for, if nobody
        waits for it.
        """
        if self._receivers.waiting or self._protocol.discarding:
            return RECEIVE_SIZE
        return min(room + _READ_AHEAD, RECEIVE_SIZE)

    async def _let_others_run(self) -> None:
        """After a full step; and before a Close or a violation, so that what came before it can be
        answered: a task that was handed a message runs in the next tick, and the writer task, where
        it does the writing, in the one after that.
        """
        await trio.lowlevel.checkpoint()
        if self._protocol.is_ending:
            await trio.lowlevel.checkpoint()
            await self._writer.catch_up()

    def _room(self) -> int:
        """How much may be decoded now, in the units of ``Protocol.decode``."""
        if self._protocol.discarding:
            return _DECODE_STEP
        room = self.max_inbox_size
        if self._writer.error is not None:
            # The end of the connection may be near, behind what an idle application lets wait.
            room += RECEIVE_SIZE
        if not self._receivers.waiting:
            # While somebody waits, a message in progress may be larger than the inbox.
            room -= self._inbox.size
            if self._protocol.in_message:
                room -= self._protocol.partial_size
        return min(_DECODE_STEP, room)

    async def _pause(self) -> None:
        """Wait for room in the inbox."""
        self._begin_pause()
        await self._sleeper.sleep()

    def _begin_pause(self) -> None:
        """Silence does not count from now on."""
        self._deadlines.pause()
        self._set_resume_size()

    def resume_if_room(self) -> None:
        """Whoever makes room in the inbox calls this. Half of it must be free, to wake seldom."""
        if self._inbox.resume_size < 0:
            return
        room = self._room()
        # An empty inbox is room enough: what is held then is a message that waits for its rest.
        is_enough = room >= self._enough_room() or (room >= 1 and not self._inbox)
        if is_enough or self._writer.error is not None:
            self._inbox.resume_size = -1
            self._resume()
            self._deadlines.resume(trio.current_time())
            self._on_resumed()
        else:
            self._set_resume_size()

    def _resume(self) -> None:
        watch, self._paused_watch = self._paused_watch, None
        if watch is not None:
            self._poller.resume(watch)
        if self._sleeper:
            self._sleeper.wake()

    def _enough_room(self) -> int:
        return max(min(self.max_inbox_size // 2, _DECODE_STEP), 1)

    def _set_resume_size(self) -> None:
        # So that a receive need not find out how much room there is: that took 0.3 us.
        free = self.max_inbox_size - self._protocol.partial_size
        self._inbox.resume_size = max(free - self._enough_room(), 0)

    def stop(self) -> None:
        """Call nobody any more."""
        self._handle = self._on_lost = self._on_resumed = call_nobody
        self._paused_watch = None
