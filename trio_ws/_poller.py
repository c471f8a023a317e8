"""One task per Trio run that reads the sockets of all streams; or each receiver reads for itself.

Theory of operation
-------------------

To wait through Trio costs, each time a socket becomes readable, the wake-up of a task and a system
call that asks for the next time. Here a socket is registered once, with an epoll descriptor of our
own, for as long as its stream reads. One system task waits until that descriptor says that any of
them is readable, and has all that are read in one step. The streams' own readers sleep meanwhile;
one is woken when there is something to do that is not just one read after the other. With 100
connections an echo takes two thirds of the time.

Where streams are few, a task that has to wait for a message leads: it waits for the socket itself,
in Trio's way, and has the same step done. So a message takes one wake-up, not two, and an echo a
fifth less time. The poller looks away until the leader has what it came for, or is cancelled. Who
leads is always waiting: there is no time when nobody reads.

A socket that somebody else closes disappears from epoll without a word, unless there is a leader.
The next call that reads or writes finds out.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Final, Protocol

import trio

from ._waiting import Waiter

_HAS_EPOLL: Final = hasattr(select, "epoll")
"""Linux alone has it."""

_CROWD: Final[float] = 8 if _HAS_EPOLL else math.inf
"""Streams in a run from which on it costs less if none of them leads."""

_BATCH: Final = 64
"""Sockets that are asked for at a time."""

_STEP: Final = 0.0005
"""Seconds of a step, after which other tasks have their turn. Few bytes can be much work."""


class HasDescriptor(Protocol):
    """A socket."""

    def fileno(self) -> int: ...


def descriptor_of(source: HasDescriptor) -> int:
    """Its number now. Raises ``trio.ClosedResourceError`` if somebody has closed it."""
    descriptor = source.fileno()
    if descriptor < 0:
        raise closed_error()
    return descriptor


def closed_error() -> trio.ClosedResourceError:
    """What is raised where a socket is of no use, since this library has not closed it."""
    return trio.ClosedResourceError("another task closed this socket")


class Leader(Protocol):
    """A task that reads for itself.

    :ivar leads: what it reads; None once it has what it waits for, or can not get it any more.
    """

    leads: Watch | None


class Watch(Waiter):
    """A reader that sleeps while others read its socket.

    :ivar is_active: whether the reader sleeps.
    :ivar has_leader: whether a leader waits for the socket.
    """

    __slots__ = ("descriptor", "has_leader", "is_active", "source", "step")

    def __init__(self, source: HasDescriptor, step: Callable[[float], bool]) -> None:
        super().__init__()
        self.source = source
        self.descriptor = descriptor_of(source)
        self.step = step
        self.is_active = False
        self.has_leader = False

    def call_off(self) -> None:
        """Wake the leader, if it waits."""
        if not self.has_leader:
            return
        # To cancel a scope would be plainer, but each takes 5 us, for every message.
        try:
            trio.lowlevel.notify_closing(self.source)
        except trio.ClosedResourceError:
            # An instrument does it at the end of a step after which this task waits for the socket,
            # to read or to write: Trio takes it for running, and wakes the other one alone.
            trio.lowlevel.reschedule(trio.lowlevel.current_task())


class Poller:
    """See the head of this file. One per Trio run, made by :func:`current_poller`.

    :ivar can_watch: whether there is :meth:`watch`: not on all systems, nor when the run has ended.
    :ivar is_crowded: whether there are so many streams that :meth:`lead` does not pay.
    """

    def __init__(self) -> None:
        self._crowd = 0
        self.is_crowded = False
        self.can_watch = _HAS_EPOLL
        self._epoll: select.epoll | None = None
        self._watches: dict[int, Watch] = {}

    def join(self) -> None:
        """There is one more stream."""
        self._crowd += 1
        self.is_crowded = self._crowd >= _CROWD

    def leave(self) -> None:
        """There is one less."""
        self._crowd -= 1
        self.is_crowded = self._crowd >= _CROWD

    def start(self) -> select.epoll:
        """Start the task, unless it has been; what it waits for."""
        if self._epoll is None:
            self._epoll = select.epoll()
            trio.lowlevel.spawn_system_task(self._run, self._epoll, name="trio_ws poller")
        return self._epoll

    async def watch(self, source: HasDescriptor, step: Callable[[float], bool]) -> None:
        """Call *step* whenever *source* is readable, until it returns False or the run ends.

        It is given the time, which is asked for once for many sockets: 0.25 us for each of them.
        That is done in the poller's task, or in a leader's. What it raises is raised here.
        Cancellable at any time. Raises ``trio.ClosedResourceError`` if somebody else has closed the
        socket; if that is done meanwhile, as soon as its number is in use again.
        """
        watch = Watch(source, step)
        self._add(watch)
        descriptor = watch.descriptor
        # Not of the watch itself: that would be garbage that has to be found.
        await watch.wait(lambda *_: self._remove(self._watches[descriptor]))

    def find(self, source: HasDescriptor) -> Watch | None:
        """How *source* is watched, or None if it is not.

        Raises ``trio.ClosedResourceError`` if somebody else has closed it.
        """
        watch = self._watches.get(descriptor_of(source))
        return None if watch is None or watch.source is not source else watch

    async def lead(self, watch: Watch, leader: Leader) -> None:
        """Do in this task what the poller does with *watch*, until *leader* leads it no more.

        It returns before if the reader is needed. Cancelling it loses nothing.
        """
        self._set_events(watch, 0)
        try:
            while leader.leads is watch and watch.is_active and watch.source.fileno() >= 0:
                watch.has_leader = True
                await trio.lowlevel.wait_readable(watch.source)
                watch.has_leader = False
                if watch.is_active:
                    self._step(watch, trio.current_time())
        except trio.ClosedResourceError:
            # It was called off; or somebody else has closed the socket, which the step finds out.
            if watch.is_active:
                self._step(watch, trio.current_time())
        finally:
            watch.has_leader = False
            if watch.is_active:
                self._set_events(watch, select.EPOLLIN)

    def _set_events(self, watch: Watch, events: int) -> None:
        """What the poller is to hear of."""
        assert self._epoll is not None
        try:
            self._epoll.modify(watch.descriptor, events)
        except OSError:
            # Somebody else has closed it. (To suppress it would take 0.3 us, twice a message.)
            return

    def _add(self, watch: Watch) -> None:
        epoll = self.start()
        stale = self._watches.get(watch.descriptor)
        if stale is not None:
            self._remove(stale)
            stale.refuse(closed_error())
        epoll.register(watch.descriptor, select.EPOLLIN)
        self._watches[watch.descriptor] = watch
        watch.is_active = True

    def _remove(self, watch: Watch) -> None:
        assert self._epoll is not None
        del self._watches[watch.descriptor]
        watch.is_active = False
        watch.call_off()
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
                self.can_watch = False
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
            # A step may have cancelled the reader of another; and a leader is told of errors too.
            if watch is not None and not watch.has_leader:
                self._step(watch, now)

    def _step(self, watch: Watch, now: float) -> None:
        try:
            goes_on = watch.step(now)
        except BaseException as error:  # noqa: ASYNC103 (watch() raises it)
            # It belongs to the reader: this task works for all streams. But the step calls the
            # application, which may have cancelled the reader.
            if watch.is_active:
                self._remove(watch)
                watch.refuse(error)
        else:
            if watch.is_active and not goes_on:
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
