"""Parked tasks: how one task gives another something in the very step that wakes it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Final, TypeVar

import trio
from outcome import Outcome
from trio.lowlevel import Abort, RaiseCancelT, Task

ResultT = TypeVar("ResultT")

NOBODY: Final[OrderedDict[Any, Any]] = OrderedDict()
"""Stands for every queue in which no task has waited yet, and is never changed: a queue takes 128
bytes, and most connections are idle."""


def call_nobody(*_: object) -> None:
    """Takes the place of a callback that is not wanted any more.

    A stream and the parts of it that call it back would otherwise hold each other, and be garbage
    that has to be found: that took 20 us for each connection.
    """


class Waiter(Outcome[None]):
    """The current task, waiting in a queue for another one to do its work.

    Whoever does the work takes the waiter out of the queue, leaves the result in it and wakes it,
    all in one step. Nothing is awaited after that, so the result can not be lost.

    It is itself what Trio hands to the task that it wakes: to make a ``Value`` for that, use it up
    and look for an error afterwards took 0.5 us.
    """

    __slots__ = ("_error", "_forget", "task")

    _forget: Callable[[Task, None], object]

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self._error: BaseException | None = None

    def wait(self, forget: Callable[[Task, None], object]) -> Awaitable[None]:
        """Wait to be woken; raise what :meth:`refuse` was given.

        Cancellation calls *forget* with the task, to take it out of its queue, and nothing has
        happened. A task that has been woken is not cancelled any more.
        """
        self._forget = forget
        # Not a coroutine around another one: each level costs at every wake-up, and every idle
        # connection would hold both.
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105 (the caller does)

    def _abort(self, _: RaiseCancelT) -> Abort:
        self._forget(self.task, None)
        return Abort.SUCCEEDED

    def wake(self) -> None:
        """The work is done."""
        trio.lowlevel.reschedule(self.task, self)

    def refuse(self, error: BaseException) -> None:
        """The work can not be done any more: let :meth:`wait` raise *error*."""
        self._error = error
        self.wake()

    def unwrap(self) -> None:
        """What :meth:`wait` returns or raises; Trio calls it."""
        error = self._error
        if error is not None:
            # Or error, frame and waiter hold each other, and are garbage that has to be found.
            self._error = None
            try:
                raise error
            finally:
                del error

    def send(self, gen: Generator[ResultT, None, object]) -> ResultT:
        self.unwrap()
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[ResultT, None]) -> ResultT:
        self.unwrap()
        return await agen.asend(None)


class Sleeper:
    """A background task that parks itself while there is nothing to do."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: Task | None = None
        """The one that sleeps, if it does."""

    def __bool__(self) -> bool:
        """Whether the task sleeps."""
        return self.task is not None

    async def sleep(self) -> None:
        """Park the current task until :meth:`wake`."""

        def abort(_: RaiseCancelT) -> Abort:
            self.task = None
            return Abort.SUCCEEDED

        self.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Let it go on; only if it sleeps."""
        task, self.task = self.task, None
        assert task is not None
        trio.lowlevel.reschedule(task)


class LateEvent:
    """A ``trio.Event`` that takes its 260 bytes when somebody waits for it."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._event: trio.Event | None = None
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        if self._is_set:
            await trio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()
