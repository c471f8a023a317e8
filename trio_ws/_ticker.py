"""One task per Trio run that does for all streams what none should need a task for.

It writes what was gathered in one scheduler tick at the next one, has done what else is to be done
in the next tick, and keeps the deadlines. It also holds the budget: how much the streams of a run
may do, all together, before somebody yields.

Theory of operation
-------------------

The first stream of a run starts the task, a system task found through a ``RunVar``. It is parked
while there is nothing to do. :meth:`Ticker.flush_soon` wakes it; Trio runs it in the next tick,
when every task that was runnable has had its turn, and one ``writev`` per stream takes all that
they have committed. A cancel scope around the parking carries the earliest deadline.

Deadlines are lazy. A stream asks for the earliest time at which it may have something to do; when
that time comes it looks at what has happened since and asks again. So traffic costs no timer.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, Protocol

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._waiting import Sleeper

DEFAULT_BUDGET: Final = 256 * 1024
"""What the streams of a run may spend before one yields: about 0.2 ms of small messages."""

_FLUSH_STEP: Final = 1024 * 1024
"""Work of all the streams that are flushed in one tick; those for whom none is left wait for the
next one."""

_FLUSH_PRICE: Final = 4 * 1024
"""What a stream counts in that beside its bytes: a step for those of a broadcast takes 2 ms."""

_CALLS_STEP: Final = 0.0005
"""Seconds of the calls of one tick; those for whom none are left wait for the next one."""

FRAME_PRICE: Final = 2 * 1024
"""What a message costs of the budget beside its bytes."""


class Flushable(Protocol):
    """What the ticker knows of what it flushes."""

    def flush_now(self) -> int:
        """Write what is committed, as far as that does not block. Must not raise.

        Returns how much work that was, as bytes written.
        """
        ...


class Timer:
    """One stream's place among the deadlines.

    :ivar at: the time asked for; infinity if there is none, and minus infinity once it is closed.
    :ivar entry: the number of the one entry among the deadlines that counts, or 0.
    """

    __slots__ = ("_passed", "_ticker", "at", "entry")

    def __init__(self, ticker: Ticker, passed: Callable[[], None]) -> None:
        self._ticker = ticker
        self._passed: Callable[[], None] | None = passed
        self.at = math.inf
        self.entry = 0

    def set(self, at: float) -> None:
        """Have it called at *at*, or before if an earlier time was asked for.

        Cheap if nothing changes; infinity asks for nothing.
        """
        if at < self.at:
            self._forget()
            self.at = at
            self.entry = self._ticker.add_deadline(at, self)

    def fire(self) -> None:
        """For the ticker: the time has come."""
        assert self._passed is not None
        self.at = math.inf
        self.entry = 0
        self._passed()

    def close(self) -> None:
        """Never again."""
        self._forget()
        self._passed = None
        self.at = -math.inf

    def _forget(self) -> None:
        if self.entry:
            self.entry = 0
            self._ticker.forget_deadline()


class Ticker:
    """See the head of this file. One per Trio run, made by :func:`current_ticker`."""

    def __init__(self) -> None:
        self._budget = DEFAULT_BUDGET
        self._left = DEFAULT_BUDGET
        self._dirty: dict[Flushable, None] = {}
        # Those for whom the step before had nothing left, the next one last.
        self._flushing: list[Flushable] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._sleeper = Sleeper()
        self._deadlines: list[tuple[float, int, Timer]] = []
        self._timers_set = 0
        self._entry_numbers = itertools.count(1)
        self._scope = trio.CancelScope()

    # The budget

    def turn(self, size: int) -> Awaitable[None]:
        """A cancellation point that takes a message of *size* bytes out of the budget.

        If that is spent it is a schedule point too, and the budget starts anew with it.
        """
        # Not a coroutine around another one: there are two of these for each message.
        self._left -= FRAME_PRICE + size
        if self._left > 0:
            return checkpoint_if_cancelled()  # noqa: ASYNC105 (the caller does)
        self._left = self._budget
        return checkpoint()  # noqa: ASYNC105 (the caller does)

    def charge(self, size: int) -> None:
        """Take *size* bytes more out of the budget: the next caller of :meth:`turn` may yield."""
        self._left -= size

    def set_budget(self, budget: int) -> None:
        """What may be spent between two yields: 1 makes every call yield."""
        self._budget = self._left = budget

    # Writing

    def flush_soon(self, stream: Flushable) -> None:
        """Have *stream* flushed in the next tick, once however often it is asked for."""
        self._dirty[stream] = None
        self._wake()

    def _wake(self) -> None:
        if self._sleeper.task is not None:
            self._sleeper.wake()

    def _flush_step(self) -> None:
        """All that is dirty, unless that is too much for one step."""
        work_left = _FLUSH_STEP
        streams = self._flushing = [*reversed(self._dirty), *self._flushing]
        self._dirty = {}
        while streams and work_left > 0:
            work_left -= _FLUSH_PRICE + streams.pop().flush_now()

    # Going on

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have *function* called in the next tick. It must not raise."""
        self._calls.append(function)
        self._wake()

    def _call_step(self) -> None:
        """What is to be called, unless that is too much for one step."""
        # What is asked for meanwhile is for the next tick.
        calls, self._calls = self._calls, deque()
        # Trio's clock may be one that stands still.
        ends_at = perf_counter() + _CALLS_STEP
        while calls:
            calls.popleft()()
            if perf_counter() > ends_at:
                break
        self._calls.extendleft(reversed(calls))

    # Deadlines

    def add_deadline(self, at: float, timer: Timer) -> int:
        """For :class:`Timer`: the number of the new entry."""
        number = next(self._entry_numbers)
        heapq.heappush(self._deadlines, (at, number, timer))
        self._timers_set += 1
        if at < self._scope.deadline:
            self._scope.deadline = at
        return number

    def forget_deadline(self) -> None:
        """For :class:`Timer`: an entry counts no more. They are swept out by halves."""
        self._timers_set -= 1
        if len(self._deadlines) > 2 * self._timers_set:
            self._deadlines = [entry for entry in self._deadlines if entry[1] == entry[2].entry]
            heapq.heapify(self._deadlines)

    @property
    def pending_deadlines(self) -> int:
        """Entries in the heap, those that count no more included: for tests of leaks."""
        return len(self._deadlines)

    def _fire_deadlines(self) -> None:
        """Those that are due. One that is set meanwhile waits for a later tick, due or not."""
        now = trio.current_time()
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due.append(heapq.heappop(self._deadlines))
        for _, number, timer in due:
            if number == timer.entry:
                self._timers_set -= 1
                timer.fire()

    # The task

    async def run(self) -> None:
        """The system task."""
        while True:
            self._flush_step()
            self._fire_deadlines()
            next_deadline = self._deadlines[0][0] if self._deadlines else math.inf
            with trio.CancelScope(deadline=next_deadline) as self._scope:
                while True:
                    if self._dirty or self._flushing or self._calls:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._sleeper.sleep()
                    self._flush_step()
                    if self._calls:
                        self._call_step()
            # A task that was woken by bytes together with this one has its turn first, so that a
            # process that stood still does not take its peers for silent.
            await trio.lowlevel.checkpoint()


_current: trio.lowlevel.RunVar[Ticker] = trio.lowlevel.RunVar("trio_ws ticker")


def current_ticker() -> Ticker:
    """This run's ticker; the first call starts its task."""
    try:
        return _current.get()
    except LookupError:
        ticker = Ticker()
        trio.lowlevel.spawn_system_task(ticker.run, name="trio_ws ticker")
        _current.set(ticker)
        return ticker
