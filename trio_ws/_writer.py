"""Hands what is committed to the transport: at once, in the next tick, or from a task that waits.

Theory of operation
-------------------

On a socket a commit is written at once, without blocking. Commits that come while messages wait for
the application, or that follow one another, are gathered and leave in one system call in the next
tick. When the kernel is full a task takes over, and ends when it has caught up. On any other stream
that task does all the writing, and stays, parked while there is nothing to write.

A failed write stops the writing and nothing else: how the connection ended is for the reader to
say, which may find the peer's Close still unread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from trio.lowlevel import Task, enable_ki_protection

from ._frames import Buffer, Opcode
from ._outbox import Mark, Outbox
from ._ticker import Ticker
from ._transport import MAX_BUFFERS, Transport
from ._waiting import NOBODY, Sleeper, Waiter, call_nobody

_STEP: Final = 256 * 1024
"""Bytes written in one step; a kernel that takes more gets them in the next tick."""

_DEFLATE_COST: Final = 8
"""What a byte counts in a step that is deflated, beside those that come of it."""

_DEFLATE_SECONDS: Final = 0.001
"""Time after which nothing more is deflated in a step. Most data take half of that for what a call
of ``Outbox.buffers`` deflates at most, the worst ones five times as long."""

_CATCH_UP_TICKS: Final = 20
"""Ticks that the task has to hand over what was committed before the connection fails."""

_GATHERING_ROUNDS: Final = 4
_ROUND_TICKS: Final = 3
"""What a frame of 16 KiB takes to come through TLS, in two records, and to be answered."""

_ENOUGH_GATHERED: Final = 96 * 1024
"""Bytes that are worth a ``send_all`` of their own."""


class _Flusher(Waiter):
    """A task that waits until everything before its mark has been handed to the transport."""

    __slots__ = ("mark",)

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


class Writer:
    """The writing side of one stream.

    :param on_written: called when something was written: there may be room for those who wait.
    :param on_blocked: called when the transport has to take something in time from now on.
    :param on_failed: called when a write has failed; there will be no other.
    :ivar error: why nothing is written any more, or None.
    :ivar is_busy: whether the task has something to write that the transport has not taken.
    :ivar is_gathering: whether the next tick writes all that has been committed until then.
    :ivar wrote_at_once: whether what is committed next waits for a tick, and what else comes till
        then. Whoever has received something sets it to False: the answer need not wait.
    :ivar bytes_sent: bytes handed to the transport.
    """

    __slots__ = (
        "_drained",
        "_ended",
        "_flushers",
        "_late_at",
        "_nursery",
        "_on_blocked",
        "_on_failed",
        "_on_written",
        "_outbox",
        "_progress_at",
        "_scope",
        "_shield",
        "_sleeper",
        "_stopped",
        "_ticker",
        "_transport",
        "bytes_sent",
        "error",
        "is_busy",
        "is_gathering",
        "wrote_at_once",
    )

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        ticker: Ticker,
        nursery: trio.Nursery,
        *,
        shield: bool,
        on_written: Callable[[], None],
        on_blocked: Callable[[], None],
        on_failed: Callable[[], None],
    ) -> None:
        self._on_written = on_written
        self._on_blocked = on_blocked
        self._on_failed = on_failed
        self._transport = transport
        self._outbox = outbox
        self._ticker = ticker
        self._nursery = nursery
        self._shield = shield
        self.is_gathering = False
        self.wrote_at_once = False
        self._late_at = math.inf
        self._flushers: OrderedDict[Task, _Flusher] = NOBODY
        self._drained: trio.Event | None = None
        # The task: its scope is None until it is started for the first time.
        self._scope: trio.CancelScope | None = None
        self._sleeper = Sleeper()
        self._progress_at = math.inf
        self._ended: trio.Event | None = None
        self._stopped = False
        self.is_busy = False
        self.error: Exception | None = None
        self.bytes_sent = 0

    @property
    def is_blocked(self) -> bool:
        """Whether the transport is known to take nothing now; of a socket alone that is known."""
        return self.is_busy and self._transport.can_write_nowait

    # Committed

    def committed(self, *, gather: bool) -> None:
        """Something was committed: write it now, or in the next tick with what else comes."""
        if self.is_gathering or self.is_busy:
            return
        if gather or self.wrote_at_once:
            self.is_gathering = True
            self._ticker.flush_soon(self)
        else:
            self.wrote_at_once = True
            self._write()

    def write_at_once(self, opcode: Opcode, payload: bytes) -> bool:
        """Commit a message and write it, if it is small and there is nothing that it waits for.

        False if that is not so, and nothing has happened. It takes half the time of the way through
        the outbox.
        """
        if self.wrote_at_once or self.is_gathering or self.is_busy or self._stopped:
            return False
        if self.error is not None or not self._transport.can_write_nowait:
            return False
        frame = self._outbox.commit_alone(opcode, payload)
        if frame is None:
            return False
        self.wrote_at_once = True
        try:
            count = self._transport.write_nowait((frame,))
        except Exception as error:
            self._outbox.put_back(frame, 0)
            self._fail(error)
            return True
        self.bytes_sent += count
        if count < len(frame):
            self._outbox.put_back(frame, count)
            self._start_task()
        elif self._transport.has_unsent:
            self._start_task()
        return True

    def flush_now(self) -> int:
        """Write what is committed, as far as that does not block; how much work that was."""
        self.is_gathering = False
        self.wrote_at_once = False
        return self._write()

    def flush_gathered(self) -> None:
        """Write now what waits for the next tick only to leave together with more."""
        if self.is_gathering:
            self.flush_now()

    async def flush(self) -> None:
        """Wait until everything that is committed has been handed to the transport.

        Raises what :meth:`refuse_flushers` gives. Cancelling it changes nothing.
        """
        mark = self._outbox.mark()
        self.flush_now()
        if not self._is_written(mark):
            flusher = _Flusher(mark)
            if self._flushers is NOBODY:
                self._flushers = OrderedDict()
            self._flushers[flusher.task] = flusher
            await flusher.wait(self._flushers.pop)

    def refuse_flushers(self, make_error: Callable[[], Exception]) -> None:
        """What they wait for will not happen: each gets an error of its own."""
        while self._flushers:
            _, flusher = self._flushers.popitem(last=False)
            flusher.refuse(make_error())

    async def catch_up(self) -> None:
        """On a stream that can only wait: let the task hand over what it can without being held up.

        That takes it some ticks: through TLS more than one.
        """
        ticks = 0 if self._transport.can_write_nowait else _CATCH_UP_TICKS
        while ticks and (self.is_gathering or self.is_busy):
            await trio.lowlevel.checkpoint()
            ticks -= 1

    @property
    def is_drained(self) -> bool:
        """Whether all is written, or nothing more can be."""
        return self.error is not None or self._is_all_written()

    def _is_all_written(self) -> bool:
        return self._outbox.is_empty() and not self._transport.has_unsent

    def _is_written(self, mark: Mark) -> bool:
        return self._outbox.is_written(mark) and not self._transport.has_unsent

    async def wait_drained(self) -> None:
        """Until all is written, or nothing more can be."""
        if not self.is_drained:
            self._drained = trio.Event()
            # What TLS had to say for itself nobody may be writing yet.
            self.committed(gather=False)
            await self._drained.wait()

    def write_last(self) -> None:
        """One last step that costs no wait: the transport is closed next."""
        if not self._transport.can_write_nowait or self.error is not None:
            return
        self._begin_step()
        step_ends_at = self._work() + _STEP
        with suppress(Exception):
            while self._work() < step_ends_at and not self._is_all_written():
                if not self._write_nowait(self._outbox.buffers(self._is_late)):
                    break

    @property
    def blocked_since(self) -> float:
        """When the transport last took something; infinity if it has nothing to take."""
        return self._progress_at if self.is_busy else math.inf

    # Writing

    def _write(self) -> int:
        """As far as that does not block, and is not too much; how much work it was."""
        if self.is_busy or self._stopped or self.error is not None:
            return 0
        if not self._transport.can_write_nowait:
            if not self._outbox.is_empty():
                self._start_task()
            return 0
        outbox = self._outbox
        if outbox.compresses:
            self._begin_step()
        sent, deflated = self.bytes_sent, outbox.deflated
        took_all = True
        try:
            while True:
                buffers = outbox.buffers(self._is_late)
                if buffers or self._transport.has_unsent:
                    took_all = self._write_nowait(buffers)
                work = self.bytes_sent - sent + _DEFLATE_COST * (outbox.deflated - deflated)
                is_more = not outbox.is_empty()
                if not is_more or not took_all or work >= _STEP or self._is_late():
                    break
        except Exception as error:
            # Whatever it is, it must not reach the ticker, which writes for all streams.
            self._fail(error)
            return 0
        if not took_all:
            self._start_task()
        elif is_more:
            self.committed(gather=True)
        return work

    def _begin_step(self) -> None:
        if self._outbox.compresses:
            self._late_at = trio.current_time() + _DEFLATE_SECONDS

    def _is_late(self) -> bool:
        """Whether this step has taken as long as one may that deflates."""
        return trio.current_time() >= self._late_at

    def _work(self) -> int:
        """What has been done since the beginning, as bytes written."""
        return self.bytes_sent + _DEFLATE_COST * self._outbox.deflated

    def _write_nowait(self, buffers: list[Buffer]) -> bool:
        """Write them in one system call; whether the kernel took all that one call can."""
        most = buffers if len(buffers) <= MAX_BUFFERS else buffers[:MAX_BUFFERS]
        count = self._transport.write_nowait(most)
        self.bytes_sent += count
        took_all = self._outbox.written(count)
        self._tell_who_waits()
        if self._transport.has_unsent:
            return False
        return took_all or (most is not buffers and count == sum(map(len, most)))

    def _tell_who_waits(self) -> None:
        """Something was written: who waited for that?"""
        while self._flushers:
            flusher = next(iter(self._flushers.values()))
            if not self._is_written(flusher.mark):
                break
            del self._flushers[flusher.task]
            flusher.wake()
        self._on_written()
        if self._drained is not None and self._is_all_written():
            self._drained.set()

    def _fail(self, error: Exception) -> None:
        self.error = error
        if self._drained is not None:
            self._drained.set()
        self._on_failed()

    # The task

    def _start_task(self) -> None:
        """Let the task go on: the kernel is full, or this transport can only wait."""
        self.is_busy = True
        self._progress_at = trio.current_time()
        self._on_blocked()
        if self._sleeper:
            self._sleeper.wake()
        else:
            self._scope = trio.CancelScope(shield=self._shield)
            self._nursery.start_soon(self._write_in_background, name="trio_ws writer")

    @enable_ki_protection
    async def _write_in_background(self) -> None:
        assert self._scope is not None
        with self._scope:
            try:
                await self._write_until_drained()
                while not self._transport.can_write_nowait:
                    await self._sleeper.sleep()
                    await self._write_until_drained()
            except trio.Cancelled:
                # How much of it the transport has taken is not known: nothing may follow it.
                self._stopped = True
                raise
            except Exception as error:
                self._fail(error)
            finally:
                self.is_busy = False
                if self._ended is not None:
                    self._ended.set()

    async def _write_until_drained(self) -> None:
        await self._gather_answers()
        while not self._is_all_written():
            count = await self._transport.write(self._next_buffers())
            self._progress_at = trio.current_time()
            self.bytes_sent += count
            self._outbox.written(count)
            self._tell_who_waits()
        self.is_busy = False

    def _next_buffers(self) -> list[Buffer]:
        self._begin_step()
        return self._outbox.buffers(self._is_late)

    async def _gather_answers(self) -> None:
        """Let the answers to what comes record after record leave together: 16 KiB over TLS take a
        sixth less.
        """
        gathered = 0
        for _ in range(_GATHERING_ROUNDS):
            is_growing = gathered < self._outbox.size < _ENOUGH_GATHERED
            if not self._transport.more_follows or not is_growing:
                break
            gathered = self._outbox.size
            for _ in range(_ROUND_TICKS):
                await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Write no more, and call nobody; a task that is writing is cancelled."""
        self._stopped = True
        self._on_written = self._on_blocked = self._on_failed = call_nobody
        if self._scope is not None:
            self._scope.cancel()

    async def wait_stopped(self) -> None:
        """Until the task has let go of the transport, after :meth:`stop`."""
        if self.is_busy:
            self._ended = trio.Event()
            await self._ended.wait()
