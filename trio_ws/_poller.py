"""One task per Trio run that reads the sockets of all streams, where they are many.

Theory of operation
-------------------

To wait through Trio costs, each time a socket becomes readable, the wake-up of a task and a system
call that asks for the next time. Here a socket is registered once, with an epoll descriptor of our
own, for as long as its stream reads. One system task waits until that descriptor says that any of
them is readable, and has all that are read in one step. The streams' own readers sleep meanwhile;
one is woken when there is something to do that is not just one read after the other.

With 100 connections an echo takes two thirds of the time. With one it takes a tenth more, because
of the second epoll, so that few streams wait in Trio's way.

A socket that somebody else closes disappears from epoll without a word. The next write finds out.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Final

import trio

from ._waiting import Waiter

_CROWD: Final[float] = 8 if hasattr(select, "epoll") else math.inf
"""Streams in a run from which on this pays. Linux alone has epoll."""

_BATCH: Final = 64
"""Sockets that are asked for at a time."""

_STEP: Final = 0.0005
"""Seconds of a step, after which other tasks have their turn. Few bytes can be much work."""


class _Watch(Waiter):
    """A reader that sleeps while its socket is watched."""

    __slots__ = ("descriptor", "step")

    def __init__(self, descriptor: int, step: Callable[[float], bool]) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.step = step


class Poller:
    """See the head of this file. One per Trio run, made by :func:`current_poller`."""

    def __init__(self) -> None:
        self._crowd = 0
        self._has_ended = False
        self._epoll: select.epoll | None = None
        self._watches: dict[int, _Watch] = {}

    def join(self) -> None:
        """There is one more stream."""
        self._crowd += 1

    def leave(self) -> None:
        """There is one less."""
        self._crowd -= 1

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many streams that :meth:`watch` pays."""
        return self._crowd >= _CROWD and not self._has_ended

    def start(self) -> select.epoll:
        """Start the task, unless it has been; what it waits for."""
        if self._epoll is None:
            self._epoll = select.epoll()
            trio.lowlevel.spawn_system_task(self._run, self._epoll, name="trio_ws poller")
        return self._epoll

    async def watch(self, descriptor: int, step: Callable[[float], bool]) -> None:
        """Call *step* whenever *descriptor* is readable, until it returns False or the run ends.

        It is given the time, which is asked for once for many sockets: 0.25 us for each of them.
        That is done in the poller's task. What it raises is raised here. Cancellable at any time.
        Raises ``trio.ClosedResourceError`` if somebody else has closed the descriptor, as soon as
        its number is in use again.
        """
        watch = _Watch(descriptor, step)
        self._add(watch)
        await watch.wait(lambda *_: self._remove(watch))

    def _add(self, watch: _Watch) -> None:
        epoll = self.start()
        stale = self._watches.get(watch.descriptor)
        if stale is not None:
            self._remove(stale)
            stale.refuse(trio.ClosedResourceError("another task closed this socket"))
        epoll.register(watch.descriptor, select.EPOLLIN)
        self._watches[watch.descriptor] = watch

    def _remove(self, watch: _Watch) -> None:
        assert self._epoll is not None
        del self._watches[watch.descriptor]
        # The descriptor may have been closed by somebody else, and epoll at the end of the run.
        with suppress(OSError, ValueError):
            self._epoll.unregister(watch.descriptor)

    async def _run(self, epoll: select.epoll) -> None:
        """The system task."""
        with epoll:
            try:
                while True:
                    await trio.lowlevel.wait_readable(epoll)
                    await self._read_once(epoll)
            finally:
                # The run ends. Who still reads, in a shield, goes on in Trio's way.
                self._has_ended = True
                for watch in list(self._watches.values()):
                    self._remove(watch)
                    watch.wake()

    async def _read_once(self, epoll: select.epoll) -> None:
        # Trio's clock may be one that stands still.
        began_at, now = perf_counter(), trio.current_time()
        for descriptor, _ in epoll.poll(0, _BATCH):
            if perf_counter() - began_at > _STEP:
                await trio.lowlevel.checkpoint()
                began_at, now = perf_counter(), trio.current_time()
            watch = self._watches.get(descriptor)
            # A step may have cancelled the reader of another.
            if watch is None:
                continue
            try:
                goes_on = watch.step(now)
            except BaseException as error:  # noqa: ASYNC103 (watch() raises it)
                # It belongs to the reader: this task works for all streams.
                self._remove(watch)
                watch.refuse(error)
            else:
                if not goes_on:
                    self._remove(watch)
                    watch.wake()


_current: trio.lowlevel.RunVar[Poller] = trio.lowlevel.RunVar("trio_ws poller")


def current_poller() -> Poller:
    """This run's poller."""
    try:
        return _current.get()
    except LookupError:
        poller = Poller()
        _current.set(poller)
        return poller
